"""Sampling replies, with a key-value cache.

    y_t ~ softmax(logits(x, y_<t) / temperature)   until <eos>, for every row by itself

The prompt is read once; each further step feeds one token and looks earlier ones up in the cache.
The uniform numbers that decide the tokens are drawn before the loop, so a reply depends on the
seed alone, not on how long its neighbours run.
Shapes: B responses, L prompt tokens, T response tokens, V vocabulary.
"""

import torch
from torch import Tensor

from rlhf_edu.lab.helpdesk import EOS, PAD
from rlhf_edu.lab.model import Transformer, next_token_logits


@torch.inference_mode()
def sample(model: Transformer, prompts: Tensor, response_length: int,
           generator: torch.Generator, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Replies (B, T) padded after <eos>, and the log-probability (B, T) of each token, 0 on padding.

    T is `response_length`; a reply that reaches it without <eos> is cut off. Prompts (B, L) are
    left-padded. Nothing in here waits for a GPU.
    """
    B, L = prompts.shape
    uniform = torch.rand(B, response_length, generator=generator, device=prompts.device)
    responses = prompts.new_full((B, response_length), PAD)
    logprobs = uniform.new_zeros(B, response_length)
    left_padding = (prompts == PAD).sum(1)
    cache = model.empty_cache(B, L + response_length)

    ended = torch.zeros(B, dtype=torch.bool, device=prompts.device)
    hidden = model.trunk(prompts, L, cache)[:, -1]
    for t in range(response_length):
        scores = next_token_logits(model, hidden, temperature).log_softmax(-1)
        # inverse transform: the first token whose cumulative probability exceeds the uniform number
        cumulative = scores.exp().cumsum(-1)
        threshold = uniform[:, t, None] * cumulative[:, -1:]
        token = (cumulative <= threshold).sum(-1).clamp(max=scores.shape[-1] - 1)
        token = token.masked_fill(ended, PAD)
        responses[:, t] = token
        logprobs[:, t] = scores.gather(-1, token[:, None])[:, 0].masked_fill(ended, 0.0)
        ended = ended | (token == EOS)
        if t + 1 == response_length or (prompts.device.type == "cpu" and bool(ended.all())):
            break  # only on the CPU: asking a GPU would make it wait at every token
        hidden = model.trunk(token[:, None], L, cache, start=L + t, left_padding=left_padding)[:, -1]
    return responses, logprobs
