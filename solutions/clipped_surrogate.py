"""Task 2: the clipped surrogate of PPO.

5 points, about 25 minutes, difficulty 2 of 5. Teaches items 9, 47, 49 and 50.

Why. Sampling answers is slow, so PPO takes several gradient steps on one batch. After the first
of them the batch no longer comes from the policy that is being trained: `old_logprobs` are those
of the policy that wrote the answers, `logprobs` those of the policy now. The ratio of the two
corrects for that, and the clip takes away the reason to push a token further once its ratio has
left the range. It holds one update near the policy that sampled. It knows nothing of the
reference policy: in the case of the conflicting signals every update is small and the drift
grows all the same.

What to write. With rho = exp(logprobs - old_logprobs) and high = cliprange_high, or cliprange
where that is None,

    loss = - mean over the tokens with mask 1 of
             min( rho * A,  clip(rho, 1 - cliprange, 1 + high) * A )

The mean is over the real tokens of the whole batch: the sum over them divided by how many there
are, so that a long answer weighs more than a short one. `old_logprobs` and `advantages` are
constants: no gradient goes into them.

Hints, to be read one at a time:

1. Write rho for every token first, then the two products, then the smaller of the two token by
   token. All of them have shape (B, T). torch.clamp takes a lower and an upper limit.
2. For A < 0 the minimum chooses the other way round: at A = -1, rho = 2 counts as -2, not as
   -1.2, and rho = 0.5 counts as -0.8. A token that has become likelier although it was bad is
   still pulled back; one already below 1 - cliprange is left alone.
3. Padding holds numbers too, and they mean nothing. Multiply by the mask before you sum, and
   divide by the sum of the mask. `.detach()` makes a constant of a tensor.
"""

import torch


def clipped_surrogate_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    cliprange: float = 0.2,
    cliprange_high: float | None = None,
) -> torch.Tensor:
    """The clipped surrogate loss of B answers of up to T tokens, to be minimised.

    Args:
        logprobs: (B, T) log-probability of each token under the policy now
        old_logprobs: (B, T) the same under the policy that wrote the answers; a constant
        advantages: (B, T) how much better than expected each token was; a constant
        mask: (B, T) 1 on the tokens of the answer, 0 on padding
        cliprange: the ratio is clipped below at 1 - cliprange
        cliprange_high: and above at 1 + cliprange_high; None means cliprange

    Returns:
        the mean loss over the tokens with mask 1, a tensor of shape () that carries the gradient
        to logprobs
    """
    ### BEGIN SOLUTION
    high = cliprange if cliprange_high is None else cliprange_high
    advantages = advantages.detach()
    ratio = torch.exp(logprobs - old_logprobs.detach())
    clipped = torch.clamp(ratio, 1 - cliprange, 1 + high)
    surrogate = torch.minimum(ratio * advantages, clipped * advantages)
    return -(surrogate * mask).sum() / mask.sum()
    ### END SOLUTION
