"""What is asked of an answer to clipped_surrogate.py, and the slips that are known by name.

`rlhf-edu check` reads this file by its path; pairwise_ranking_loss_checks.py says how.
"""

from typing import Any

import torch
from torch import Tensor

FUNCTION = "clipped_surrogate_loss"
GRADIENT_OF = ["logprobs", "old_logprobs", "advantages"]
TOLERANCE = 1e-5  # absolute and relative; the inputs are float32


def tests(generator: torch.Generator) -> list[tuple[str, int, dict[str, Any]]]:
    """Title, points and arguments of each test; what is left out stays at its default."""

    def tokens(ratios: list[float], lengths: tuple[int, int]) -> dict[str, Any]:
        # Two answers, advantages above 0 in the first and below in the second, and each ratio
        # once in each at a random place: whatever the seed, all sides of the clip are met.
        n = len(ratios)
        rows = [torch.tensor(ratios)[torch.randperm(n, generator=generator)] for _ in lengths]
        ratio = torch.stack(rows) * (1 + 0.04 * torch.rand(2, n, generator=generator))
        old_logprobs = -0.5 - 2 * torch.rand(2, n, generator=generator)
        size = 0.5 + torch.rand(2, n, generator=generator)
        return {
            "logprobs": old_logprobs + ratio.log(),
            "old_logprobs": old_logprobs,
            "advantages": size * torch.tensor([[1.0], [-1.0]]),
            "mask": (torch.arange(n) < torch.tensor(lengths)[:, None]).float(),
        }

    near, far = [0.85, 0.9, 0.95, 1.0, 1.05, 1.1], [0.5, 0.7, 0.9, 1.1, 1.3, 2.0]
    high = {"cliprange": 0.2, "cliprange_high": 0.4}
    return [
        ("every ratio inside the range", 1, tokens(near, (6, 6))),
        ("ratios outside the range, advantages of both signs", 1, tokens(far, (6, 6))),
        ("another range", 1, tokens(far, (6, 6)) | {"cliprange": 0.05}),
        ("answers of different lengths", 1, tokens(far, (6, 3))),
        ("an upper range of its own", 1, tokens(far, (5, 6)) | high),
    ]


def ratio(new: Tensor, old: Tensor) -> Tensor:
    """The probability ratio, the old policy held constant."""
    return torch.exp(new - old.detach())


def clip(rho: Tensor, low: float, high: float | None) -> Tensor:
    """The ratio inside its range."""
    return rho.clamp(1 - low, 1 + (low if high is None else high))


def surrogate(rho: Tensor, a: Tensor, low: float, high: float | None) -> Tensor:
    """What each token contributes, before the mean and the minus sign."""
    return torch.minimum(rho * a.detach(), clip(rho, low, high) * a.detach())


def mean(x: Tensor, mask: Tensor) -> Tensor:
    """The mean over the real tokens."""
    return (x * mask).sum() / mask.sum()


# "Your values equal ...": each slip takes all arguments of the function, in order (n new and
# o old log-probabilities, a advantages, m mask, e cliprange, h cliprange_high). Where two slips
# give the same numbers, the first is named.
WRONG = {
    "the loss with min and max swapped": lambda n, o, a, m, e, h: (
        -mean(torch.maximum(ratio(n, o) * a.detach(), clip(ratio(n, o), e, h) * a.detach()), m)
    ),
    "the loss with the clip on one side only, min(rho, 1 + cliprange) * A: for A < 0 nothing holds "
    "the ratio from below": lambda n, o, a, m, e, h: (
        -mean(ratio(n, o).clamp(max=1 + (e if h is None else h)) * a.detach(), m)
    ),
    "the loss with the clip on one side only: the lower limit is missing": (
        lambda n, o, a, m, e, h: -mean(surrogate(ratio(n, o), a, 1.0, e if h is None else h), m)
    ),
    "the loss with the clip on one side only: the upper limit is missing": (
        lambda n, o, a, m, e, h: -mean(surrogate(ratio(n, o), a, e, float("inf")), m)
    ),
    "the loss without the clip": lambda n, o, a, m, e, h: -mean(ratio(n, o) * a.detach(), m),
    "the loss with the clipped product alone; the minimum with the unclipped one is missing": (
        lambda n, o, a, m, e, h: -mean(clip(ratio(n, o), e, h) * a.detach(), m)
    ),
    "the loss with the ratio inverted, old over new": lambda n, o, a, m, e, h: (
        -mean(surrogate(torch.exp(o.detach() - n), a, e, h), m)
    ),
    "the loss with the log-ratio in place of the ratio; exp is missing": (
        lambda n, o, a, m, e, h: -mean(surrogate(n - o.detach(), a, e, h), m)
    ),
    "the loss with the ratio of log-probabilities; it is the ratio of probabilities, exp of their "
    "difference": lambda n, o, a, m, e, h: -mean(surrogate(n / o.detach(), a, e, h), m),
    "the loss with the log-ratio clipped to plus or minus cliprange, before exp": (
        lambda n, o, a, m, e, h: (
            -mean(
                torch.minimum(
                    ratio(n, o) * a.detach(),
                    (n - o.detach()).clamp(-e, e if h is None else h).exp() * a.detach(),
                ),
                m,
            )
        )
    ),
    "the mean over padding too": lambda n, o, a, m, e, h: -surrogate(ratio(n, o), a, e, h).mean(),
    "the masked sum divided by all B * T places, padding included": (
        lambda n, o, a, m, e, h: -(surrogate(ratio(n, o), a, e, h) * m).mean()
    ),
    "the mean of each answer's own mean; here every token of the batch weighs the same": (
        lambda n, o, a, m, e, h: -((surrogate(ratio(n, o), a, e, h) * m).sum(1) / m.sum(1)).mean()
    ),
    "the sum instead of the mean": lambda n, o, a, m, e, h: (
        -(surrogate(ratio(n, o), a, e, h) * m).sum()
    ),
    "the loss with the opposite sign: it would be maximised": lambda n, o, a, m, e, h: mean(
        surrogate(ratio(n, o), a, e, h), m
    ),
    "the loss without cliprange_high": lambda n, o, a, m, e, h: (
        -mean(surrogate(ratio(n, o), a, e, None), m)
    ),
    "the loss with cliprange and cliprange_high exchanged": lambda n, o, a, m, e, h: (
        -mean(surrogate(ratio(n, o), a, e if h is None else h, e), m)
    ),
    "the loss with the default range; cliprange is not used": lambda n, o, a, m, e, h: (
        -mean(surrogate(ratio(n, o), a, 0.2, h), m)
    ),
    "the loss with advantages not detached": lambda n, o, a, m, e, h: (
        -mean(torch.minimum(ratio(n, o) * a, clip(ratio(n, o), e, h) * a), m)
    ),
    "the loss with old_logprobs not detached": lambda n, o, a, m, e, h: (
        -mean(surrogate(torch.exp(n - o), a, e, h), m)
    ),
    "the loss with neither advantages nor old_logprobs detached": lambda n, o, a, m, e, h: (
        -mean(torch.minimum(torch.exp(n - o) * a, clip(torch.exp(n - o), e, h) * a), m)
    ),
}
