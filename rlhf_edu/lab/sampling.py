"""Sampling replies, with a key-value cache.

    y_t ~ softmax(logits(x, y_<t) / temperature)   until <eos>, for every row by itself

The prompt is read once; each further step feeds one token and looks earlier ones up in the cache.
On the CPU rows that have ended are dropped as soon as they are the majority (buys a factor of two
on the desk's replies: most are short, one in a thousand is as long as allowed).
The uniform numbers that decide the tokens are drawn before the loop, on the host: so a reply
depends on the seed alone, not on how long its neighbours run, nor (up to rounding) on the device.
Shapes: B responses, L prompt tokens, T response tokens, V vocabulary.
"""

import torch
from torch import Tensor

from rlhf_edu.lab.helpdesk import EOS, PAD
from rlhf_edu.lab.model import Transformer, next_token_logits


@torch.inference_mode()
def sample(
    model: Transformer,
    prompts: Tensor,
    response_length: int,
    generator: torch.Generator,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Replies (B, T) padded after <eos>, and the log-probabilities (B, T) of their tokens.

    T is `response_length`; a reply that reaches it without <eos> is cut off. Prompts (B, L) are
    left-padded. Nothing in here waits for a GPU.
    """
    B, L = prompts.shape
    on_cpu = prompts.device.type == "cpu"  # a GPU is not asked anything: the answer is a wait
    uniform = torch.rand(B, response_length, generator=generator).to(prompts.device)
    responses = prompts.new_full((B, response_length), PAD)
    logprobs = uniform.new_zeros(B, response_length)
    left_padding = (prompts == PAD).sum(1)
    cache = model.empty_cache(B, L + response_length)

    rows = torch.arange(B, device=prompts.device)  # the rows that are still computed
    ended = torch.zeros_like(rows, dtype=torch.bool)
    hidden = model.trunk(prompts, L, cache)[:, -1]
    for t in range(response_length):
        scores = next_token_logits(model, hidden, temperature).log_softmax(-1)
        # inverse transform: the first token whose cumulative probability exceeds the uniform number
        cumulative = scores.exp().cumsum(-1)
        threshold = uniform[rows, t, None] * cumulative[:, -1:]
        token = (cumulative <= threshold).sum(-1).clamp(max=scores.shape[-1] - 1)
        token = token.masked_fill(ended, PAD)
        responses[rows, t] = token
        logprobs[rows, t] = scores.gather(-1, token[:, None])[:, 0].masked_fill(ended, 0.0)
        ended = ended | (token == EOS)
        if t + 1 == response_length or (on_cpu and bool(ended.all())):
            break
        if on_cpu and 2 * int(ended.sum()) > len(rows):  # half have ended: go on without them
            left = (~ended).nonzero()[:, 0]
            rows, ended, token, left_padding = (
                rows[left],
                ended[left],
                token[left],
                left_padding[left],
            )
            cache = [(k[left], v[left]) for k, v in cache]
        hidden = model.trunk(token[:, None], L, cache, start=L + t, left_padding=left_padding)[
            :, -1
        ]
    return responses, logprobs
