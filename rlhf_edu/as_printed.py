r"""Four formulas to the letter, and what they do. For demonstration only: nothing here trains well.

A formula on paper is read by people who know what is meant; a computer takes it at its word. Each
function below is one formula exactly as printed in NLPBook; the line "meant" names the function to
use. The fourth (T2) lives beside its neighbour as `ppo_clip.upper_bound_clip_loss`.

    T1  the penalty as a loss on fixed samples cannot hold the policy       items 42, 43
    T2  min(ρ, clip(ρ))·A has no lower bound for A < 0                      item 49
    T3  one "reference" as sampler and as anchor lets the anchor drift      item 47
    T4  a listwise sum over both orders; a regulariser with a minus         item 38

Shapes: B responses, T response tokens, N ranked responses. `mask` (B, T) is 1 on response tokens up
to and including EOS. All losses are scalars in nats, to be minimised. Nothing is checked here and
nothing clamped: these are specimens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def as_printed_penalty_loss(
    logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor, kl_coef: float
) -> Tensor:
    """T1, (10.53) with (10.56): β·mean over B of Σ_t log π − Σ_t log π_ref. Three (B, T) → scalar.

    On samples of the policy its *value* is right, an unbiased k1 estimate of the KL (policy ‖
    reference). Its gradient is β·mean ∇log π, and π_ref is not in it: on samples of the policy it
    is 0 on average; it makes older samples less likely, whatever the reference thinks of them.
    Meant: kl_penalty.penalized_rewards (in the reward), or kl_penalty.kl_loss with k2.
    """
    return kl_coef * ((logprobs - ref_logprobs) * mask).sum(1).mean()


def as_printed_one_reference_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    cliprange: float,
    kl_coef: float,
) -> Tensor:
    """T3, Fig. 10.9: −mean over B of Σ_t [min(ρ, clip(ρ))·A − β·(log π − log π_old)]. Four (B, T).

    The policy that made the samples is also the anchor of the penalty. It moves along after every
    batch, so the penalty is measured from a place that keeps up with the policy, and the distance
    to where training began is limited by nothing. Meant: π_old in the ratio, a frozen π_ref in the
    penalty (ppo_clip.clipped_surrogate_loss, kl_penalty.penalized_rewards).
    """
    ratio = (logprobs - old_logprobs).exp()
    clip = torch.minimum(ratio, ratio.clamp(1 - cliprange, 1 + cliprange))
    utility = clip * advantages - kl_coef * (logprobs - old_logprobs)
    return -(utility * mask).sum(1).mean()


def as_printed_listwise_loss(rewards: Tensor) -> Tensor:
    """T4, (10.57): −mean over B and over all N(N−1) *ordered* pairs a ≠ b of log σ(r_a − r_b).

    (B, N) → scalar. Each pair comes in both orders, so the ranking is not in it at all, and the sum
    is least, log 2, when all rewards are equal. Meant: ranking_loss.all_pairs_ranking_loss.
    """
    delta = rewards.unsqueeze(2) - rewards.unsqueeze(1)
    other = ~torch.eye(rewards.shape[1], dtype=torch.bool, device=rewards.device)
    return -logsigmoid(delta[:, other]).mean()


def as_printed_regularized_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """T4, (10.63): −mean log σ(r_a − r_b) − mean (r_a + r_b)². (B,), (B,) → scalar.

    With the minus the second term rewards large sums and has no minimum: add 1,000 to both rewards
    and the first term does not change while the loss falls by millions. Meant: a plus, a small
    coefficient, and ranking_loss.centring_penalty.
    """
    return -logsigmoid(chosen - rejected).mean() - (chosen + rejected).square().mean()
