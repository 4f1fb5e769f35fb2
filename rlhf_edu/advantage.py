r"""Advantages: how much better a token turned out than was expected of it.

    reward-to-go   R_t = Σ_{k≥t} γ^{k−t} r_k                             NLPBook (10.27)
    TD error       δ_t = r_t + γ·V_{t+1} − V_t                           NLPBook (10.31)
    GAE            A_t = Σ_{k≥t} (γλ)^{k−t} δ_k                          Schulman et al. 2016
                   λ = 0: A_t = δ_t         λ = 1: A_t = R_t − V_t

λ trades bias for variance: λ = 0 believes the critic V after one token, λ = 1 never does. A group
of responses to one prompt can stand in for the critic (RLOO, GRPO).

Shapes: B responses, T response tokens, G responses of one prompt. `mask` (B, T) is 1 on response
tokens up to and including EOS and 0 after. Results are 0 outside the mask, and finite garbage there
changes nothing. Inputs must be finite everywhere, padding included. ValueError names the argument
if a shape is wrong, a dtype is not floating, a number is NaN or infinite, the mask is empty, not
0/1 or has a gap, or gamma or lam is outside [0, 1]. Numbers inside tensors are checked on the CPU
only: on a GPU each look would make the host wait for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Σ mask·x / Σ mask: every token counts the same. (B, T), (B, T) → scalar."""
    on = _check(mask, x=x)
    return torch.where(on, x, 0.0).sum() / on.sum()


def masked_whiten(x: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """(x − mean) / SD over the mask, population SD, 0 outside. (B, T), (B, T) → (B, T).

    shift_mean=False puts the mean back afterwards. Whitening re-centres: advantages that are all
    positive come out partly negative, so what they say about the critic can only be read before it.
    Equal numbers have no spread to divide by and become 0. There is no small constant in the
    divisor: the result is the same for x and a·x (a > 0).
    """
    on = _check(mask, x=x)
    deviation = _deviation(x, on)
    sd = (deviation.square().sum() / on.sum()).sqrt()
    white = deviation / torch.where(sd > 0, sd, 1.0)
    return white if shift_mean else torch.where(on, white + masked_mean(x, mask), 0.0)


def reward_to_go(rewards: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """R_t = r_t + γ·R_{t+1}. (B, T), (B, T) → (B, T). NLPBook (10.27), items 8 and 57.

    A reward paid at EOS alone gives the same R_t at every token if γ = 1: late pay, dense credit.
    """
    on = _check(mask, no_gap=True, rewards=rewards)
    _check_unit(gamma=gamma)
    return _discounted_sum(torch.where(on, rewards, 0.0), gamma)


def td_error(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0) -> Tensor:
    """δ_t = r_t + γ·V_{t+1} − V_t, and V = 0 after the last response token. Three (B, T) → (B, T).

    NLPBook (10.31), item 57. Nothing is bootstrapped beyond the end: a reply that was
    cut off at the limit is treated as one that ended.
    """
    on = _check(mask, no_gap=True, rewards=rewards, values=values)
    _check_unit(gamma=gamma)
    rewards, values = torch.where(on, rewards, 0.0), torch.where(on, values, 0.0)
    next_values = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    return rewards + gamma * next_values - values


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """A_t = δ_t + γλ·A_{t+1} and the critic's targets A_t + V_t. Three (B, T) → (advantages,
    returns).

    Schulman et al. 2016 (arXiv 1506.02438), item 57. Nothing is detached here: the losses treat
    advantages and returns as constants.
    """
    _check_unit(gamma=gamma, lam=lam)
    advantages = _discounted_sum(td_error(rewards, values, mask, gamma), gamma * lam)
    return advantages, torch.where(mask.bool(), advantages + values, 0.0)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """1 − Var(returns − values) / Var(returns) over the mask. Three (B, T) → scalar, item 53.

    1: right up to a constant (a critic that is off by the same amount everywhere also scores 1);
    0: no better than a constant; below 0: worse than one
    (advantages then carry the critic's mistakes). NaN if the returns do not vary: there is nothing
    to explain.
    """
    on = _check(mask, values=values, returns=returns)
    total = _deviation(returns, on).square().sum()
    unexplained = _deviation(returns - values, on).square().sum()
    return torch.where(total > 0, 1 - unexplained / total, torch.nan)


def rloo_advantage(scores: Tensor) -> Tensor:
    """A_i = R_i − mean of the *other* scores of its prompt = G/(G−1)·(R_i − mean). (B, G) → (B, G).

    Leave-one-out baseline: it never saw R_i, so the gradient stays unbiased. Ahmadian et al. 2024,
    item 57.
    """
    _check_groups(scores)
    group = scores.shape[1]
    return scores - (scores.sum(1, keepdim=True) - scores) / (group - 1)


def grpo_advantage(scores: Tensor, divide_by_sd: bool = True) -> Tensor:
    """A_i = (R_i − mean) / SD within the group, population SD; 0 if all are equal. (B, G) → (B, G).

    Shao et al. 2024 (GRPO): [1, 0, 1, 0] → ±1 and |A| ≤ √(G−1). Two divisors bend it: this SD pulls
    prompts that are almost solved or almost hopeless up to the size of the others, and the 1/length
    of each response makes a long wrong answer cheap per token. Dr. GRPO (Liu et al. 2025) drops
    both: take divide_by_sd=False (which is (G−1)/G of RLOO) and a loss that divides by a constant,
    not the length.
    """
    _check_groups(scores)
    # Measured from the first score, equal scores are exact zeros, not round-off over round-off.
    scores = scores - scores[:, :1]
    deviation = scores - scores.mean(1, keepdim=True)
    sd = deviation.square().mean(1, keepdim=True).sqrt()
    return deviation / torch.where(sd > 0, sd, 1.0) if divide_by_sd else deviation


def _discounted_sum(x: Tensor, discount: float) -> Tensor:
    """S_t = x_t + discount·S_{t+1}: the one loop over T, backwards, all B rows at once."""
    total, sums = torch.zeros_like(x[:, 0]), []
    for t in reversed(range(x.shape[1])):
        total = x[:, t] + discount * total
        sums.append(total)
    return torch.stack(sums[::-1], dim=1)


def _deviation(x: Tensor, on: Tensor) -> Tensor:
    """x − its masked mean, 0 outside. From the smallest x up, so that equal x are exact zeros."""
    x = torch.where(on, x - torch.where(on, x, torch.inf).min(), 0.0)
    return torch.where(on, x - x.sum() / on.sum(), 0.0)


def _check_unit(**numbers: float) -> None:
    for name, value in numbers.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: expected a number from 0 to 1, got {value}")


def _check_groups(scores: Tensor) -> None:
    _check_same(scores=scores)
    if scores.dim() != 2 or len(scores) == 0 or scores.shape[1] < 2:
        raise ValueError(f"scores: expected (B, G) with G >= 2, got {tuple(scores.shape)}")


def _check_same(**tensors: Tensor) -> None:
    """One shape, that of the first; floating (a mask may be of any dtype); finite."""
    first, like = next(iter(tensors.items()))
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise ValueError(f"{name}: expected a tensor, got {type(x).__name__}")
        if x.shape != like.shape:
            got = tuple(x.shape)
            raise ValueError(f"{name}: expected shape {tuple(like.shape)} of {first}, got {got}")
        if name != "mask" and not x.is_floating_point():
            raise ValueError(f"{name}: expected a floating dtype, got {x.dtype}")
        if x.device.type == "cpu" and not torch.isfinite(x).all():
            raise ValueError(f"{name}: expected finite numbers, padding too, got NaN or infinity")


def _check(mask: Tensor, no_gap: bool = False, **tensors: Tensor) -> Tensor:
    """The mask as booleans, once it and every tensor are (B, T) and as they should be."""
    _check_same(mask=mask, **tensors)
    if mask.dim() != 2:
        raise ValueError(f"mask: expected shape (B, T), got {tuple(mask.shape)}")
    if mask.device.type == "cpu" and not (((mask == 0) | (mask == 1)).all() and mask.any()):
        got = mask.unique()[:4].tolist()
        raise ValueError(f"mask: expected 0s and at least one 1, got the values {got}")
    on = mask.bool()
    if no_gap and on.device.type == "cpu" and (on[:, 1:] > on[:, :-1]).any():
        raise ValueError("mask: expected rows 1…1 0…0, got a row with a 1 after a 0")
    return on
