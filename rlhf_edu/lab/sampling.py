"""Sampling replies, with a key-value cache.

    y_t ~ softmax(logits(x, y_<t) / temperature)   until <eos>, for every row by itself

A prompt is read once; each further step feeds one token and looks earlier ones up in the cache.
On the CPU rows that have ended are dropped as soon as they are a third (buys a factor of two
on the desk's replies: most are short, one in a thousand is as long as allowed).
The uniform numbers that decide the tokens are drawn before the loop, on the host: so a reply
depends on the seed alone, not on how long its neighbours run, nor (up to rounding) on the device.
Shapes: B responses, L prompt tokens, T response tokens, V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from rlhf_edu.lab.helpdesk import EOS, PAD
from rlhf_edu.lab.machine import all_cores, compilable, rounded, small_products
from rlhf_edu.lab.model import Cache, Transformer, next_token_logits


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
    uniform = torch.rand(B, response_length, generator=generator)
    uniform = uniform.to(prompts.device, non_blocking=True)
    responses = prompts.new_full((B, response_length), PAD)
    logprobs = uniform.new_zeros(B, response_length)

    # A prompt is read once, however often it is answered; then its keys and values are handed out.
    model.check_fits(L, response_length)
    asked, nth = distinct(prompts)
    nth = nth.repeat_interleave(copies)
    once = model.empty_cache(len(asked), L)
    hidden = model.trunk(asked, *model.as_rows(asked, L), once, read=lambda x: x[:, -1:])
    hidden = hidden.index_select(0, nth)
    cache = model.empty_cache(B, L + response_length)
    for of_prompts, room in zip(once, cache, strict=True):
        for x, y in zip(of_prompts, room, strict=True):
            y[:, :, :L] = x.index_select(0, nth)

    # What a reply's token sees: its prompt without the padding, and the reply before it.
    padding = F.pad(prompts == PAD, (0, response_length)).repeat_interleave(copies, 0)
    visible = logprobs.new_zeros(padding.shape).masked_fill(padding, -torch.inf)[:, None]
    positions = torch.arange(response_length, device=prompts.device) + model.config.max_prompt
    rows = torch.arange(B, device=prompts.device)  # the rows that are still computed
    ended = torch.zeros_like(rows, dtype=torch.bool)
    with small_products():
        for t in range(response_length):
            scores = next_token_logits(model, hidden[:, -1], temperature).log_softmax(-1)
            # inverse transform: the first token whose cumulative probability exceeds the number
            cumulative = scores.exp().cumsum(-1)
            threshold = uniform[:, t, None] * cumulative[:, -1:]
            token = torch.searchsorted(cumulative, threshold, right=True)[:, 0]
            token = token.clamp(max=scores.shape[-1] - 1).masked_fill(ended, PAD)
            responses[rows, t] = token
            logprobs[rows, t] = scores.gather(-1, token[:, None])[:, 0].masked_fill(ended, 0.0)
            if every_logprob is not None:
                every_logprob[rows, t] = scores
            ended = ended | (token == EOS)
            if t + 1 == response_length:
                break
            if on_cpu and 3 * (gone := int(ended.sum())) > len(rows):
                if gone == len(rows):
                    break
                left = (~ended).nonzero()[:, 0]  # a third has ended: go on without them
                rows, ended, token, visible, uniform = (
                    x.index_select(0, left) for x in (rows, ended, token, visible, uniform))
                cache = [(k.index_select(0, left), v.index_select(0, left)) for k, v in cache]
            hidden = one_more(model, token[:, None], positions[t : t + 1],
                              visible[..., : L + t + 1], cache)
    return responses, logprobs


def distinct(prompts: Tensor) -> tuple[Tensor, Tensor]:
    """The prompts (A, L) that differ, and which of them each row is (B,); on a GPU all of them.

    A batch of 256 of the desk's questions asks some 200. Buys a tenth to a quarter of the sampling.
    Some may be there twice, to make up a rounder number.
    """
    if prompts.device.type != "cpu":
        return prompts, torch.arange(len(prompts), device=prompts.device)
    number: dict[tuple[int, ...], int] = {}
    nth = [number.setdefault(tuple(row), len(number)) for row in prompts.tolist()]
    asked = list(number)
    asked += asked[:1] * (rounded(len(asked), 32) - len(asked))
    return prompts.new_tensor(asked), torch.tensor(nth)


@compilable
def one_more(model: Transformer, token: Tensor, position: Tensor, visible: Tensor,
             cache: Cache) -> Tensor:
    """Hidden states (B, 1, D) after one more token (B, 1), which then is in the cache."""
    return model.trunk(token, position, visible, cache)
