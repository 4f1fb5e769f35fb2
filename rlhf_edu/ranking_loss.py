r"""Ranking losses: how a reward model learns from "this answer is better than that one".

A person who compares two answers is modelled as a noisy judge of a hidden reward r (Bradley &
Terry 1952):

    Pr(a beats b) = σ(r_a − r_b)                       NLPBook (10.35), item 36

A ranking loss is the negative log-likelihood of the observed choices under such a model, in nats.
Only *differences* of rewards appear: adding any c(x) to all answers of one prompt changes no loss,
no gradient and no accuracy (item 41). So a reward has no zero until you choose a gauge
(last section).

Shapes: B responses (or comparisons), N ranked responses of one prompt, best first. Larger reward =
better. Every function raises ValueError that names the argument if a shape is wrong, a dtype is not
floating, or a number is NaN, infinite or out of range. Numbers inside tensors are checked on the
CPU only: on a GPU each look would make the host wait for the device.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid, softmax


def win_probability(rewards_a: Tensor, rewards_b: Tensor) -> Tensor:
    """Pr(a beats b) = σ(r_a − r_b). Two tensors of one shape → that shape. Items 36, 39."""
    _check(rewards_a=rewards_a, rewards_b=rewards_b)
    return torch.sigmoid(rewards_a - rewards_b)


def pairwise_ranking_loss(
    chosen: Tensor, rejected: Tensor, margin: float = 0.0, label_smoothing: float = 0.0
) -> Tensor:
    """−mean[(1−s)·log σ(z) + s·log σ(−z)] with z = chosen − rejected − margin. (B,), (B,) → scalar.

    With margin = s = 0 this is the loss of InstructGPT (Ouyang et al. 2022), NLPBook (8.19) and
    (10.36), items 34-36. It is 0.693 at a tie and still 0.201 when the right answer leads by 1.5:
    no order earns a bonus, the loss only fades. Its gradient on `chosen` is −(1 − σ(z))/B: large
    where the model is wrong. margin ≥ 0 asks for a lead (Touvron et al. 2023). label_smoothing s,
    0 to 0.5, is the share of labels believed to be flipped (Mitchell 2023); s = 0.5 is a tie.
    """
    _check(1, chosen=chosen, rejected=rejected)
    _check_range("margin", margin, 0.0, float("inf"))
    _check_range("label_smoothing", label_smoothing, 0.0, 0.5)
    z = chosen - rejected - margin
    return -((1 - label_smoothing) * logsigmoid(z) + label_smoothing * logsigmoid(-z)).mean()


def soft_ranking_loss(rewards_a: Tensor, rewards_b: Tensor, preference: Tensor) -> Tensor:
    """−mean[p·log σ(Δ) + (1−p)·log σ(−Δ)], Δ = r_a − r_b. Three (B,) → scalar. NLPBook (8.20).

    `preference` p, a constant, is the share of raters who chose a: 1 and 0 are plain labels, 0.5 is
    a tie. At a tie the loss is least for equal rewards, which is all that a tie says.
    """
    _check(1, rewards_a=rewards_a, rewards_b=rewards_b, preference=preference)
    if preference.device.type == "cpu" and ((preference < 0) | (preference > 1)).any():
        raise ValueError("preference: expected shares between 0 and 1, got a number outside")
    delta, p = rewards_a - rewards_b, preference.detach()
    return -(p * logsigmoid(delta) + (1 - p) * logsigmoid(-delta)).mean()


def hinge_ranking_loss(chosen: Tensor, rejected: Tensor, margin: float = 1.0) -> Tensor:
    """mean max(0, margin − (chosen − rejected)). (B,), (B,) → scalar. Item 37; Joachims 2002.

    Unlike −log σ it stops: a pair that leads by the margin adds no loss and no gradient.
    """
    _check(1, chosen=chosen, rejected=rejected)
    _check_range("margin", margin, 0.0, float("inf"))
    return torch.relu(margin - (chosen - rejected)).mean()


def all_pairs_ranking_loss(rewards: Tensor) -> Tensor:
    """−mean of log σ(r_i − r_j) over the N(N−1)/2 pairs with i ranked above j. (B, N) → scalar.

    Ouyang et al. 2022; RankNet, Burges et al. 2005; NLPBook (10.57) with each pair taken once, in
    the order of the ranking, item 38. (Summed over both orders it would be least at equal rewards.)
    """
    _check(2, rewards=rewards)
    better, worse = torch.triu_indices(rewards.shape[1], rewards.shape[1], 1, device=rewards.device)
    return -logsigmoid(rewards[:, better] - rewards[:, worse]).mean()


def plackett_luce_loss(rewards: Tensor) -> Tensor:
    """mean over B of −Σ_k log softmax(r_k … r_N)_k. (B, N), best first → scalar, item 38.

    Plackett 1975, Luce 1959; NLPBook (10.60)-(10.61): pick the best, then the best of the rest, and
    so on. exp(−loss) is the probability of the ranking; over all N! rankings it adds up to 1. N = 2
    is the Bradley-Terry loss. The last pick has no rival and costs nothing: log 1.
    """
    _check(2, rewards=rewards)
    picks = [log_softmax(rewards[:, k:], dim=1)[:, 0] for k in range(rewards.shape[1])]
    return -torch.stack(picks).sum(0).mean()


def listnet_loss(rewards: Tensor, relevance: Tensor) -> Tensor:
    """mean over B of −Σ_i softmax(relevance)_i · log softmax(rewards)_i. (B, N), (B, N) → scalar.

    Cross-entropy of the two distributions of "who comes first" (ListNet, Cao et al. 2007); NLPBook
    (10.58)-(10.59), item 38. `relevance` is a constant; only its differences within a row matter.
    """
    _check(2, rewards=rewards, relevance=relevance)
    return -(softmax(relevance.detach(), 1) * log_softmax(rewards, 1)).sum(1).mean()


def ranking_accuracy(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Share of pairs with chosen > rejected, a tie one half. (B,), (B,) → scalar, items 35, 40."""
    _check(1, chosen=chosen, rejected=rejected)
    return ((chosen > rejected) + 0.5 * (chosen == rejected)).to(chosen.dtype).mean()


# The gauge (items 36, 41). Training fixes the unit, a log-odds: a lead of 1 is odds of e. It fixes
# no zero: every prompt may have its own c(x). PPO's unit, an SD of the reference's rewards, is our
# choice.


def centring_penalty(chosen: Tensor, rejected: Tensor) -> Tensor:
    """mean (chosen + rejected)². (B,), (B,) → scalar. Eisenstein et al. 2023 (arXiv 2312.09244).

    A small multiple, *added* to a ranking loss, pulls the mean reward of each pair to 0 and so
    chooses c(x). NLPBook (10.63) prints it with a minus, which is unbounded below.
    """
    _check(1, chosen=chosen, rejected=rejected)
    return (chosen + rejected).square().mean()


def standardize_rewards(rewards: Tensor, ref_rewards: Tensor) -> Tensor:
    """(rewards − mean) / SD, both of the *reference policy's* rewards. Two shapes → the first.

    Population SD. The result reads "standard deviations above the reference" and is the same for r
    and a·r + c (a > 0). A percentage is not: with another c "+18 %" becomes any number you like.
    A c(x) that differs from prompt to prompt changes the SD too: the unit is a convention.
    """
    _check(rewards=rewards)
    _check(ref_rewards=ref_rewards)
    sd, mean = torch.std_mean(ref_rewards, correction=0)
    if ref_rewards.device.type == "cpu" and bool((ref_rewards == ref_rewards.flatten()[0]).all()):
        raise ValueError("ref_rewards: expected at least two different numbers, got all equal")
    return (rewards - mean) / sd


def _check(dims: int | None = None, **tensors: Tensor) -> None:
    """All of one shape, with `dims` dimensions ((B,) or (B, N≥2)), floating, not empty, finite."""
    first, like = next(iter(tensors.items()))
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise ValueError(f"{name}: expected a tensor, got {type(x).__name__}")
        if dims is not None and (x.dim() != dims or (dims == 2 and x.shape[1] < 2)):
            want = "(B,)" if dims == 1 else "(B, N) with N >= 2"
            raise ValueError(f"{name}: expected shape {want}, got {tuple(x.shape)}")
        if x.shape != like.shape or x.numel() == 0:
            want = f"the shape {tuple(like.shape)} of {first}, not empty"
            raise ValueError(f"{name}: expected {want}, got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"{name}: expected a floating dtype, got {x.dtype}")
        if x.device.type == "cpu" and not torch.isfinite(x).all():
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not (low <= value <= high and value < float("inf")):
        raise ValueError(f"{name}: expected a finite number from {low} to {high}, got {value}")
