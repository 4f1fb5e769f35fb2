"""Task 1: the pairwise ranking loss.

5 points, about 15 minutes, difficulty 1 of 5. Teaches items 34, 35, 36, 39 and 40.

Why. Nobody at the help desk can say that an answer is worth 7.3. What raters can do is look at
two answers to the same customer and choose one. The reward model learns from such choices alone:
it is trained to give the chosen answer the higher score. Whatever the policy is paid for later,
for good or ill, came in through this loss.

What to write. With z = chosen - rejected - margin and s = label_smoothing,

    loss = - mean over the batch of [ (1 - s) log sigmoid(z) + s log sigmoid(-z) ]

`margin` asks the chosen answer to lead by that much. `label_smoothing` is the share of choices
that you believe were made by mistake. With both at 0 this is the loss of InstructGPT (Ouyang et
al. 2022): the negative log-likelihood of the choices under the Bradley-Terry model.

Look at the size of it when you are done: 0.693 for two equal scores, and still 0.201 when the
chosen answer leads by 1.5. The loss of a pair in the right order is small, but never zero.

Hints, to be read one at a time:

1. First without smoothing: compute z, shape (B,), then log sigmoid of it, then the mean. Which
   sign makes a larger lead a smaller loss?
2. For z = -200 the sigmoid is 0 in float32 and its logarithm minus infinity, although
   log sigmoid(-200) is just -200. torch.nn.functional has a function that takes both steps at
   once and stays finite.
3. sigmoid(-z) = 1 - sigmoid(z) is the probability of the opposite choice. Smoothing mixes the
   losses of the two choices with weights 1 - s and s, with the same z, margin included, in both.
"""

import torch


def pairwise_ranking_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    margin: float = 0.0,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """The ranking loss of B pairs of answers, to be minimised.

    Args:
        chosen: (B,) scores of the answers that were chosen
        rejected: (B,) scores of the answers they were chosen over
        margin: the lead that is asked for, 0 or more
        label_smoothing: the share of choices taken to be mistakes, from 0 to 0.5

    Returns:
        the mean loss, a tensor of shape () that carries the gradient to both scores
    """
    ### BEGIN SOLUTION
    z = chosen - rejected - margin
    kept = torch.nn.functional.logsigmoid(z)
    flipped = torch.nn.functional.logsigmoid(-z)
    return -((1 - label_smoothing) * kept + label_smoothing * flipped).mean()
    ### END SOLUTION
