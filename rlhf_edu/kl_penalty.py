r"""The KL penalty: how far has the policy gone from the reference, and what does that cost it?

    KL(policy ‖ reference) = E_{a~policy}[ log π(a|s) − log π_ref(a|s) ]     NLPBook (10.51)-(10.56)

Everything here is about this direction, with tokens *sampled from the policy*, in nats. Two choices
stay visible in every call. Which estimator, with log r = log π_ref − log π (Schulman 2020,
"Approximating KL divergence"):

    k1 = −log r              unbiased, noisy, negative on some samples
    k2 = ½·(log r)²          biased (little, where the two are close), never negative
    k3 = r − 1 − log r       unbiased, never negative

And where it goes. In the *reward* (penalized_rewards) it is a number that the advantage carries on;
with k1 the policy gradient then climbs E[score] − β·KL. In the *loss* (kl_loss) it is itself
differentiated, and a good estimate of the value may have the gradient of something else (arXiv
2510.01555). On samples of the policy, at the states they visit, the expected gradient is 0 for k1
(so it holds nothing), that of KL(policy ‖ reference) for k2, of KL(reference ‖ policy) for k3.

Shapes: B responses, T response tokens, V vocabulary. `mask` (B, T) is 1 on response tokens up to
and including EOS; finite garbage outside it changes neither result nor gradient. Inputs must be
finite everywhere, padding included. The reference is a constant. ValueError names the argument if a
shape is wrong, a dtype is not floating, a number is NaN or infinite, the mask is empty, not 0/1 or
has a gap, a coefficient is negative or an estimator is unknown. Numbers inside tensors are checked
on the CPU only: on a GPU each look would make the host wait for the device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, pad


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: str = "k1") -> Tensor:
    """k1, k2 or k3 of KL(policy ‖ reference) for each sampled token. (B, T), (B, T) → (B, T), nats.

    All three are exactly 0 where both models give the token the same probability (items 43, 45): at
    the start of training neither "Yes." nor "Affirmative, esteemed customer." costs anything. k3
    stops growing, with gradient 0, where r reaches a thousandth of its dtype's largest number.
    """
    _check_same(logprobs=logprobs, ref_logprobs=ref_logprobs)
    log_r = ref_logprobs.detach() - logprobs
    if estimator == "k1":
        return -log_r
    if estimator == "k2":
        return 0.5 * log_r.square()
    if estimator == "k3":
        log_r = log_r.clamp(max=math.log(torch.finfo(log_r.dtype).max / 1000))
        return torch.expm1(log_r) - log_r  # expm1(x) is exp(x) − 1 that keeps its digits near x = 0
    raise ValueError(f"estimator: expected 'k1', 'k2' or 'k3', got {estimator!r}")


def exact_kl(logits: Tensor, ref_logits: Tensor) -> Tensor:
    """Σ_v π(v)·(log π(v) − log π_ref(v)), KL(policy ‖ reference) of each state. (…, V) → (…), nats.

    Exact over the next token: summed along responses sampled from the policy it has the mean of the
    summed k1 and usually less noise. Differentiable in `logits`; `ref_logits` are constants.
    """
    _check_same(logits=logits, ref_logits=ref_logits)
    log_p, log_q = log_softmax(logits, dim=-1), log_softmax(ref_logits.detach(), dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def penalized_rewards(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    mask: Tensor,
    kl_coef: float,
    estimator: str = "k1",
) -> Tensor:
    """The penalty in the *reward*: r_t = −kl_coef·k_t, plus the score on the last response token.

    (B,), three (B, T) → (B, T), a constant, 0 outside the mask. Ziegler et al. 2019, Stiennon et
    al. 2020; items 42-45. With k1 the row adds up to score − β·log(π/π_ref) of the whole response.
    Every row needs a response token, or its score would be paid to nobody. In the reward take k1: a
    policy gradient leaves E[∇k] out, which is 0 for k1 alone; k2 and k3 there point elsewhere.
    """
    on = _check(mask, logprobs=logprobs, ref_logprobs=ref_logprobs)
    _check_same(scores=scores)
    _check_number("kl_coef", kl_coef, minimum=0.0)
    if scores.shape != mask.shape[:1]:
        got = tuple(scores.shape)
        raise ValueError(f"scores: expected shape (B,) = ({len(mask)},), got {got}")
    if on.device.type == "cpu" and not (on[:, 0].all() and (on[:, 1:] <= on[:, :-1]).all()):
        raise ValueError("mask: expected rows 1…1 0…0, got an empty row or a 1 after a 0")
    penalty = kl_coef * kl_estimate(logprobs, ref_logprobs, estimator)
    last = on & ~pad(on[:, 1:], (0, 1))  # 1 here, no 1 after
    return (torch.where(on, -penalty, 0.0) + torch.where(last, scores[:, None], 0.0)).detach()


def kl_loss(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, estimator: str) -> Tensor:
    """The penalty in the *loss*: masked mean of k_t, differentiated. Three (B, T) → scalar.

    Add it times β to a policy loss. There is no default estimator, because the choice is the
    lesson: as a loss k1 does not pull back, k2 and k3 do. They do so state by state: a token does
    not see the KL of the words that follow it. Items 42 and 50.
    """
    on = _check(mask, logprobs=logprobs, ref_logprobs=ref_logprobs)
    return torch.where(on, kl_estimate(logprobs, ref_logprobs, estimator), 0.0).sum() / on.sum()


class FixedKLController:
    """β stays what it was. `.value` is the kl_coef to use now."""

    def __init__(self, kl_coef: float) -> None:
        _check_number("kl_coef", kl_coef, minimum=0.0)
        self.value = kl_coef

    def update(self, current_kl: float, n_steps: int) -> None:
        """Does nothing; here so that the two controllers can change places."""


class AdaptiveKLController:
    """β follows a target: e = clip(KL/target − 1, −0.2, 0.2), β ← β·(1 + e·n_steps/horizon).

    Ziegler et al. 2019 (arXiv 1909.08593), whose K is n_steps/horizon = 0.1: β moves by at most 2 %
    an update, so a tenfold change needs 117 updates; in a short run take a smaller horizon.
    `target` and `current_kl` are in nats per response: KL(policy ‖ reference) summed over tokens,
    averaged over the batch.
    """

    def __init__(self, init_kl_coef: float, target: float, horizon: float) -> None:
        _check_number("init_kl_coef", init_kl_coef, above=0.0)  # a factor never leaves 0
        _check_number("target", target, above=0.0)
        _check_number("horizon", horizon, above=0.0)
        self.value, self.target, self.horizon = init_kl_coef, target, horizon

    def update(self, current_kl: float, n_steps: int) -> None:
        """One step of β after `n_steps` episodes with mean KL `current_kl` (k1 may be below 0)."""
        _check_number("current_kl", current_kl)
        _check_number("n_steps", n_steps, minimum=0.0)
        if n_steps >= 5 * self.horizon:  # 1 + K·e could reach 0, and β would never come back
            raise ValueError(f"n_steps: expected < 5 * horizon = {5 * self.horizon}, got {n_steps}")
        error = min(max(float(current_kl) / self.target - 1, -0.2), 0.2)
        self.value *= 1 + error * n_steps / self.horizon


def _check_number(
    name: str, x: float, minimum: float = -math.inf, above: float = -math.inf
) -> None:
    if not (minimum <= x < math.inf and x > above):
        want = f">= {minimum}" if minimum > -math.inf else f"> {above}"
        raise ValueError(f"{name}: expected a finite number {want}, got {x}")


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
