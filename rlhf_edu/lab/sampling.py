"""Sampling replies, with a key-value cache.

    y_t ~ softmax(logits(x, y_<t) / temperature)   until <eos>, for every row by itself

The prompt is read once; each further step feeds one token and looks earlier ones up in the cache.
On the CPU rows that have ended are dropped as soon as they are a third (buys a factor of two
on the desk's replies: most are short, one in a thousand is as long as allowed).
The uniform numbers that decide the tokens are drawn before the loop, on the host: so a reply
depends on the seed alone, not on how long its neighbours run, nor (up to rounding) on the device.
Shapes: B responses, L prompt tokens, T response tokens, V vocabulary.
"""

import torch
from torch import Tensor

from rlhf_edu.lab.helpdesk import EOS, PAD
from rlhf_edu.lab.machine import all_cores, small_products
from rlhf_edu.lab.model import Transformer, next_token_logits


@torch.inference_mode()
@all_cores()
def sample(
    model: Transformer,
    prompts: Tensor,
    response_length: int,
    generator: torch.Generator,
    temperature: float = 1.0,
    every_logprob: Tensor | None = None,
    copies: int = 1,
) -> tuple[Tensor, Tensor]:
    """Replies (B, T) padded after <eos>, and the log-probabilities (B, T) of their tokens.

    Prompts (B / copies, L) are left-padded, and each is answered `copies` times, one row after
    another. T is `response_length`; a reply that reaches it without <eos> is cut off.
    `every_logprob` (B, T, V), if given, is filled with the log-probabilities of all words at the
    steps of each reply. Nothing in here waits for a GPU. Raises InputError if a prompt or a reply
    would be longer than the model can read.
    """
    B, L = len(prompts) * copies, prompts.shape[1]
    on_cpu = prompts.device.type == "cpu"  # a GPU is not asked anything: the answer is a wait
    uniform = torch.rand(B, response_length, generator=generator).to(prompts.device)
    responses = prompts.new_full((B, response_length), PAD)
    logprobs = uniform.new_zeros(B, response_length)

    # The prompt is read once, however often it is answered.
    whole = torch.cat([prompts, responses[::copies]], 1)
    positions, visible = model.as_rows(whole, L)
    cache = model.empty_cache(len(prompts), L + response_length)
    hidden = model.trunk(prompts, positions[:L], visible[:, :L, :L], cache,
                         read=lambda x: x[:, -1:])
    if copies > 1:
        hidden, visible = (x.repeat_interleave(copies, 0) for x in (hidden, visible))
        cache = [(k.repeat_interleave(copies, 0), v.repeat_interleave(copies, 0)) for k, v in cache]

    rows = torch.arange(B, device=prompts.device)  # the rows that are still computed
    ended = torch.zeros_like(rows, dtype=torch.bool)
    with small_products():
        for t in range(response_length):
            scores = next_token_logits(model, hidden[:, -1], temperature).log_softmax(-1)
            # inverse transform: the first token whose cumulative probability exceeds the number
            cumulative = scores.exp().cumsum(-1)
            threshold = uniform[rows, t, None] * cumulative[:, -1:]
            token = (cumulative <= threshold).sum(-1).clamp(max=scores.shape[-1] - 1)
            token = token.masked_fill(ended, PAD)
            responses[rows, t] = token
            logprobs[rows, t] = scores.gather(-1, token[:, None])[:, 0].masked_fill(ended, 0.0)
            if every_logprob is not None:
                every_logprob[rows, t] = scores
            ended = ended | (token == EOS)
            if t + 1 == response_length or (on_cpu and bool(ended.all())):
                break
            if on_cpu and 3 * int(ended.sum()) > len(rows):  # a third has ended: go on without them
                left = (~ended).nonzero()[:, 0]
                rows, ended, token, visible = rows[left], ended[left], token[left], visible[left]
                cache = [(k[left], v[left]) for k, v in cache]
            now = slice(L + t, L + t + 1)
            hidden = model.trunk(token[:, None], positions[now], visible[:, now, : L + t + 1],
                                 cache)
    return responses, logprobs
