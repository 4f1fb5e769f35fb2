r"""PPO's clip: take several steps on one batch, but let no token profit from moving far.

    ρ_t = π(a_t|s_t) / π_old(a_t|s_t)
    U   = mean over tokens of  min( ρ_t·A_t, clip(ρ_t, 1−ε, 1+ε)·A_t )

from Schulman et al. 2017 (arXiv 1707.06347); compare NLPBook (10.49)-(10.53). The min makes it a
pessimist: when A > 0 the gain stops at 1+ε, when A < 0 it stops at 1−ε, and a token that moved the
*wrong* way is never clipped. A clip removes a gradient; it does not pull back. π_old made the
samples and changes with every batch; it is not the frozen reference π_ref of the KL penalty. After
K batches a probability may have moved by (1+ε)^K: the clip is a local limit, the penalty the global
one (item 50).

Shapes: B responses, T response tokens. `mask` (B, T) is 1 on response tokens up to and including
EOS; finite garbage outside it changes neither result nor gradient. Inputs must be finite
everywhere, padding included. Advantages, returns, old_logprobs and old_values are constants.
ValueError names the argument if a shape is wrong, a dtype is not floating, a number is NaN or
infinite, the mask is empty or not 0/1, or a range or coefficient is negative. Numbers inside
tensors are checked on the CPU only: on a GPU each look would make the host wait for the device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def probability_ratio(logprobs: Tensor, old_logprobs: Tensor) -> Tensor:
    """ρ = exp(logprobs − old_logprobs). Two tensors of one shape → that shape. Item 47.

    1 everywhere on the first step of a batch. It stops, with gradient 0, at a thousandth of the
    largest number of its dtype (e^81.8 in float32): beyond it would be infinity, whose product with
    a clipped token's zero gradient is NaN. A run with such ratios is lost; its weights need not be.
    """
    _check_same(logprobs=logprobs, old_logprobs=old_logprobs)
    log_ratio = logprobs - old_logprobs.detach()
    return log_ratio.clamp(max=math.log(torch.finfo(log_ratio.dtype).max / 1000)).exp()


def clipped_surrogate_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    cliprange: float = 0.2,
    cliprange_high: float | None = None,
) -> Tensor:
    """−U of the formula above. Four (B, T) → scalar, items 47 and 49.

    At ρ = 1 its gradient is the policy gradient. `cliprange_high` (DAPO, Yu et al. 2025, arXiv
    2503.14476) sets another ε for the upper side only: with ε = 0.2 a token of probability 0.01
    earns nothing beyond a gain of 0.002 and one of 0.9 is never stopped: the rare are starved.
    """
    on = _check(mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    low, high = _clip_bounds(cliprange, cliprange_high)
    ratio = probability_ratio(logprobs, old_logprobs)
    advantages = advantages.detach()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
    return -_masked_mean(surrogate, on)


def upper_bound_clip_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, cliprange: float = 0.2
) -> Tensor:
    """−mean min(ρ, 1+ε)·A: NLPBook (10.49)-(10.50) to the letter, for comparison, not for training.

    min(ρ, clip(ρ)) is min(ρ, 1+ε). Right for A > 0. For A < 0 nothing stops ρ on its way down, and
    a ρ above 1+ε loses its gradient just when it should come back (T2; item 49).
    """
    on = _check(mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    _, high = _clip_bounds(cliprange, None)
    ratio = probability_ratio(logprobs, old_logprobs)
    return -_masked_mean(ratio.clamp(max=high) * advantages.detach(), on)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, cliprange_value: float = 0.2
) -> Tensor:
    """Mean of ½·max((V−R)², (clip(V, V_old−ε, V_old+ε)−R)²). Four (B, T) → scalar.

    From OpenAI Baselines, not from the PPO paper; one of the code-level tricks of Engstrom et al.
    2020 (arXiv 2005.12729). The max is the pessimist again: a step beyond ε earns nothing more.
    """
    on = _check(mask, values=values, old_values=old_values, returns=returns)
    _check_coefficient("cliprange_value", cliprange_value)
    old_values, returns = old_values.detach(), returns.detach()
    near = old_values + (values - old_values).clamp(-cliprange_value, cliprange_value)
    worst = torch.maximum((values - returns).square(), (near - returns).square())
    return _masked_mean(0.5 * worst, on)


def composite_loss(surrogate_loss: Tensor, penalty: Tensor, kl_coef: float) -> Tensor:
    """surrogate_loss + kl_coef · penalty: minus the objective U_clip − β·Penalty. Scalars → scalar.

    NLPBook (10.53), items 42 and 52. The penalty (nats, KL of policy ‖ reference) is counted once;
    (10.54) subtracts it again from the same symbol. If it is in the rewards, kl_coef here is 0.
    """
    _check_same(surrogate_loss=surrogate_loss, penalty=penalty)
    _check_coefficient("kl_coef", kl_coef)
    return surrogate_loss + kl_coef * penalty


def clip_fraction(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    cliprange: float = 0.2,
    cliprange_high: float | None = None,
) -> Tensor:
    """Share of tokens whose gradient the clip removes: ρ > 1+ε with A > 0, or ρ < 1−ε with A < 0.

    Four (B, T) → scalar without gradient. A = 0 has no gradient to remove and does not count.
    `cliprange_high` is another ε for the upper side, as in the loss.
    """
    on = _check(mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    low, high = _clip_bounds(cliprange, cliprange_high)
    ratio = probability_ratio(logprobs, old_logprobs)
    cut = ((ratio > high) & (advantages > 0)) | ((ratio < low) & (advantages < 0))
    return _masked_mean(cut.to(ratio.dtype), on)


def outside_fraction(
    logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, cliprange: float = 0.2
) -> Tensor:
    """Share of tokens with ρ outside [1−ε, 1+ε], whatever their advantage. Three (B, T) → scalar.

    Never below clip_fraction: a token that moved the wrong way is outside and keeps its gradient.
    """
    on = _check(mask, logprobs=logprobs, old_logprobs=old_logprobs)
    low, high = _clip_bounds(cliprange, None)
    ratio = probability_ratio(logprobs, old_logprobs)
    return _masked_mean(((ratio > high) | (ratio < low)).to(ratio.dtype), on)


def _masked_mean(x: Tensor, on: Tensor) -> Tensor:
    return torch.where(on, x, 0.0).sum() / on.sum()


def _clip_bounds(cliprange: float, cliprange_high: float | None) -> tuple[float, float]:
    """1 − ε and 1 + ε."""
    _check_coefficient("cliprange", cliprange)
    if cliprange_high is None:
        cliprange_high = cliprange
    _check_coefficient("cliprange_high", cliprange_high)
    return 1 - cliprange, 1 + cliprange_high


def _check_coefficient(name: str, value: float) -> None:
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name}: expected a finite number >= 0, got {value}")


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


def _check(mask: Tensor, **tensors: Tensor) -> Tensor:
    """The mask as booleans, once it and every tensor are (B, T) and as they should be."""
    _check_same(mask=mask, **tensors)
    if mask.dim() != 2:
        raise ValueError(f"mask: expected shape (B, T), got {tuple(mask.shape)}")
    if mask.device.type == "cpu" and not (((mask == 0) | (mask == 1)).all() and mask.any()):
        got = mask.unique()[:4].tolist()
        raise ValueError(f"mask: expected 0s and at least one 1, got the values {got}")
    return mask.bool()
