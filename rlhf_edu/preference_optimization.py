r"""Direct preference optimisation: the reward model is hidden in the policy.

The policy that maximises E[r] − β·KL(policy ‖ reference) is π* ∝ π_ref·exp(r/β). Read backwards:

    r(x, y) = β·log( π*(y|x) / π_ref(y|x) ) + β·log Z(x)              NLPBook (10.80)
    loss    = −mean log σ( r(x, chosen) − r(x, rejected) )            NLPBook (10.81)-(10.82)

In the difference Z(x) is gone, and with it the need for a reward model and for sampling (Rafailov
et al. 2023, arXiv 2305.18290; items 7 and 29). What is not gone: like every ranking loss it sees
only differences, and it may push both answers down as long as the rejected one falls faster.

Shapes: B responses (here B pairs). A log-probability of a response is the sum over its tokens up to
and including EOS, in nats. The reference is a constant. ValueError names the argument if a shape is
wrong, a dtype is not floating, a number is NaN, infinite or out of range, or a length is missing.
Numbers inside tensors are checked on the CPU only: on a GPU each look would make the host wait for
the device.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def implicit_rewards(policy_logps: Tensor, ref_logps: Tensor, beta: float = 0.1) -> Tensor:
    """β·(log π − log π_ref): the reward for which this policy would be the best one, up to the
    β·log Z(x) that all answers of a prompt share. (B,), (B,) → (B,)."""
    _check(policy_logps=policy_logps, ref_logps=ref_logps)
    if not 0 < beta < float("inf"):
        raise ValueError(f"beta: expected a finite number > 0, got {beta}")
    return beta * (policy_logps - ref_logps.detach())


def dpo_loss(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    ref_chosen_logps: Tensor,
    ref_rejected_logps: Tensor,
    beta: float = 0.1,
    length_penalty: float = 0.0,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
) -> Tensor:
    """−mean log σ(r_chosen − r_rejected + α·(|chosen| − |rejected|)). Four (B,) → scalar, item 7.

    r are the implicit rewards; α = length_penalty > 0 is R-DPO (Park et al. 2024, arXiv 2403.19159)
    and needs the two lengths (B,), in tokens. The best policy for r − α·length has implicit reward
    r − α·length, so r itself is that plus α·length: where the chosen answer is the longer one, its
    length explains part of the lead and less is left to push. With α = 0 it starts at log 2.
    """
    _check(
        policy_chosen_logps=policy_chosen_logps,
        policy_rejected_logps=policy_rejected_logps,
        ref_chosen_logps=ref_chosen_logps,
        ref_rejected_logps=ref_rejected_logps,
    )
    if not 0 <= length_penalty < float("inf"):
        raise ValueError(f"length_penalty: expected a finite number >= 0, got {length_penalty}")
    chosen = implicit_rewards(policy_chosen_logps, ref_chosen_logps, beta)
    rejected = implicit_rewards(policy_rejected_logps, ref_rejected_logps, beta)
    lead = chosen - rejected
    if length_penalty > 0:
        n_chosen = _length("chosen_lengths", chosen_lengths, chosen)
        n_rejected = _length("rejected_lengths", rejected_lengths, chosen)
        lead = lead + length_penalty * (n_chosen - n_rejected)
    return -logsigmoid(lead).mean()


def _length(name: str, lengths: Tensor | None, like: Tensor) -> Tensor:
    if not isinstance(lengths, Tensor):
        raise ValueError(f"{name}: expected a tensor (B,) as length_penalty > 0, got {lengths}")
    lengths = lengths.to(like.dtype)
    _check(policy_chosen_logps=like, **{name: lengths})
    if lengths.device.type == "cpu" and (lengths < 0).any():
        raise ValueError(f"{name}: expected numbers of tokens >= 0, got {lengths.min().item()}")
    return lengths


def _check(**tensors: Tensor) -> None:
    """All (B,), of the length of the first, floating, finite, not empty."""
    first, like = next(iter(tensors.items()))
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise ValueError(f"{name}: expected a tensor, got {type(x).__name__}")
        if x.dim() != 1 or x.shape != like.shape or len(x) == 0:
            want = "shape (B,), not empty" if x is like else f"the shape of {first}"
            raise ValueError(f"{name}: expected {want}, got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"{name}: expected a floating dtype, got {x.dtype}")
        if x.device.type == "cpu" and not torch.isfinite(x).all():
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
