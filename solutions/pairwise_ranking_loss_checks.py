"""What is asked of an answer to pairwise_ranking_loss.py, and the slips that are known by name.

`rlhf-edu check` reads this file by its path. It gives the arguments of each test to the student's
function and to the solution beside this file, compares the values and the gradients, and where
they differ looks for the slip that gives the student's numbers. An exercise is two such files.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

FUNCTION = "pairwise_ranking_loss"
GRADIENT_OF = ["chosen", "rejected"]
TOLERANCE = 1e-5  # absolute and relative; the inputs are float32


def tests(generator: torch.Generator) -> list[tuple[str, int, dict[str, Any]]]:
    """Title, points and arguments of each test; what is left out stays at its default."""

    def scores() -> dict[str, Any]:
        chosen, rejected = torch.randn(2, 6, generator=generator)
        return {"chosen": chosen, "rejected": rejected}

    far = torch.tensor([[150.0, -120.0, 0.3, 40.0], [-150.0, 130.0, -0.2, 90.0]])
    far_chosen, far_rejected = far + torch.rand(2, 4, generator=generator)
    return [
        ("six pairs", 1, scores()),
        ("with a margin", 1, scores() | {"margin": 0.7}),
        ("with label smoothing", 1, scores() | {"label_smoothing": 0.1}),
        ("with margin and label smoothing", 1, scores() | {"margin": 0.5, "label_smoothing": 0.2}),
        ("scores far apart", 1, {"chosen": far_chosen, "rejected": far_rejected}),
    ]


def smoothed(z: Tensor, s: float) -> Tensor:
    """The loss of each pair, before the mean."""
    return -((1 - s) * logsigmoid(z) + s * logsigmoid(-z))


def two_steps(z: Tensor, s: float) -> Tensor:
    """The same in exact arithmetic; in float32 the sigmoid reaches 0 and its logarithm -inf."""
    return -((1 - s) * torch.sigmoid(z).log() + (s * torch.sigmoid(-z).log() if s else 0))


# "Your values equal ...": each slip takes all arguments of the function, in order (c chosen,
# r rejected, m margin, s label_smoothing). Where two slips give the same numbers, the first is
# named.
WRONG = {
    "the loss with chosen and rejected swapped": lambda c, r, m, s: smoothed(r - c - m, s).mean(),
    "the loss without the margin": lambda c, r, m, s: smoothed(c - r, s).mean(),
    "the loss with the margin added; it is a lead that is asked for, so it is subtracted": (
        lambda c, r, m, s: smoothed(c - r + m, s).mean()
    ),
    "the loss without label smoothing": lambda c, r, m, s: smoothed(c - r - m, 0.0).mean(),
    "the loss with the two smoothing weights exchanged": (
        lambda c, r, m, s: smoothed(c - r - m, 1 - s).mean()
    ),
    "the loss with label smoothing spread over both choices, s/2 each; here all of s goes to the "
    "opposite choice": lambda c, r, m, s: smoothed(c - r - m, s / 2).mean(),
    "the loss with the margin left out of the opposite choice, which is log sigmoid(-z)": (
        lambda c, r, m, s: -((1 - s) * logsigmoid(c - r - m) + s * logsigmoid(r - c)).mean()
    ),
    "the loss with the margin subtracted from the opposite choice too, which is log sigmoid(-z), "
    "so there it is added": lambda c, r, m, s: (
        -((1 - s) * logsigmoid(c - r - m) + s * logsigmoid(r - c - m)).mean()
    ),
    "the sum instead of the mean": lambda c, r, m, s: smoothed(c - r - m, s).sum(),
    "the loss with the opposite sign: it would be maximised": (
        lambda c, r, m, s: -smoothed(c - r - m, s).mean()
    ),
    "the loss of the mean difference; the mean is taken last": (
        lambda c, r, m, s: smoothed((c - r - m).mean(), s)
    ),
    "the mean of minus the probability, with no logarithm": (
        lambda c, r, m, s: (
            -((1 - s) * torch.sigmoid(c - r - m) + s * torch.sigmoid(r - c + m)).mean()
        )
    ),
    "the hinge loss, max(0, -z), in place of -log sigmoid(z)": (
        lambda c, r, m, s: (
            (1 - s) * (m - c + r).clamp(min=0) + s * (c - r - m).clamp(min=0)
        ).mean()
    ),
    "the loss of the distance |chosen - rejected|, which does not know who won": (
        lambda c, r, m, s: smoothed((c - r).abs() - m, s).mean()
    ),
    "the loss with sigmoid and logarithm taken one after the other: for a difference of -200 the "
    "first gives 0, the second minus infinity (see hint 2)": (
        lambda c, r, m, s: two_steps(c - r - m, s).mean()
    ),
    "the loss with the gradient of `rejected` cut off; both scores are learned": (
        lambda c, r, m, s: smoothed(c - r.detach() - m, s).mean()
    ),
}
