r"""Policy gradient: make the tokens that turned out well more likely, the others less.

    ∇J = E[ Σ_t A_t · ∇log π(a_t|s_t) ]                         NLPBook (10.28), items 56, 57
    loss = −mean over tokens of  log π(a_t|s_t) · A_t           NLPBook (10.39)-(10.40)

The state s_t is the prompt with the tokens so far, the action a_t is the next token, and the
policy is the language model itself (item 18). A is a weight, not a function to be differentiated:
only log π carries a gradient. Any baseline that does not depend on the action may be subtracted
from the reward without changing the mean of the gradient; a good one makes the gradient far less
noisy (item 57).

The mean is over all response tokens of the batch, so it is the textbook sum over t, averaged over
responses, times (number of responses / number of tokens): the same direction in another unit. What
is exact for the sum, such as "a baseline changes nothing", holds for the mean up to a bias of order
1/B, because the number of tokens was sampled too.

Shapes: B responses, T response tokens. `mask` (B, T) is 1 on response tokens up to and including
EOS; finite garbage outside it changes neither loss nor gradient. Inputs must be finite everywhere,
padding included. ValueError names the argument if a shape is wrong, a dtype is not floating, a
number is NaN or infinite, the mask is empty or not 0/1, or a coefficient is negative. Numbers
inside tensors are checked on the CPU only: on a GPU each look would make the host wait for the
device.
"""

from __future__ import annotations

import torch
from torch import Tensor


def policy_gradient_loss(logprobs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """−mean over the mask of logprobs · advantages. Three (B, T) → scalar, items 53-56.

    Its value says nothing (it has no bound and need not fall); its gradient is the policy gradient,
    if the current policy made the samples. A_t = 0 adds no gradient, yet that token's probability
    moves when others push the softmax that it shares (item 55). Advantages are constants.
    """
    on = _check(mask, logprobs=logprobs, advantages=advantages)
    return -_masked_mean(logprobs * advantages.detach(), on)


def reinforce_loss(
    logprobs: Tensor, scores: Tensor, mask: Tensor, baseline: Tensor | float = 0.0
) -> Tensor:
    """The loss above with A_t = score − baseline at every token. (B, T), (B,), (B, T) → scalar.

    Williams 1992; NLPBook (10.24)-(10.26), items 8 and 57: one score for the whole response, γ = 1,
    so every token gets the same weight. `baseline` is a number or (B,), for instance the score
    expected for that prompt; the mean gradient stays the same if the response had no say in it.
    """
    _check(mask, logprobs=logprobs)
    _check_same(scores=scores)
    if scores.shape != mask.shape[:1]:
        got = tuple(scores.shape)
        raise ValueError(f"scores: expected shape (B,) = ({len(mask)},), got {got}")
    if not isinstance(baseline, Tensor):
        baseline = torch.full_like(scores, baseline)
    _check_same(scores=scores, baseline=baseline)
    return policy_gradient_loss(logprobs, (scores - baseline)[:, None].expand_as(mask), mask)


def critic_loss(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Mean over the mask of ½·(values − returns)². Three (B, T) → scalar, item 53.

    NLPBook (10.32), times ½ so that the gradient is the plain error. Returns are constants even
    where they hold V_{t+1}: the critic moves to its target, never the target to the critic.
    """
    on = _check(mask, values=values, returns=returns)
    return _masked_mean(0.5 * (values - returns.detach()).square(), on)


def a2c_loss(
    logprobs: Tensor,
    values: Tensor,
    advantages: Tensor,
    returns: Tensor,
    mask: Tensor,
    vf_coef: float = 0.1,
) -> Tensor:
    """policy_gradient_loss + vf_coef · critic_loss. Five (B, T) → scalar, item 53.

    Advantage actor-critic (Mnih et al. 2016, arXiv 1602.01783). logprobs get gradient from the
    first term alone and values from the second, so vf_coef matters where both share weights.
    """
    if not 0 <= vf_coef < float("inf"):
        raise ValueError(f"vf_coef: expected a finite number >= 0, got {vf_coef}")
    actor = policy_gradient_loss(logprobs, advantages, mask)
    return actor + vf_coef * critic_loss(values, returns, mask)


def _masked_mean(x: Tensor, on: Tensor) -> Tensor:
    return torch.where(on, x, 0.0).sum() / on.sum()


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
