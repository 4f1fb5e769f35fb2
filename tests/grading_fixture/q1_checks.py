"""Two public and two hidden tests of the clipped ratio."""

import numpy as np
import torch

FUNCTION = "clip_ratio"
TOLERANCE = 1e-9
SECONDS = 2.0


def tests(generator):
    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).numpy()

    zero, apart = np.zeros(4), np.array([0.0, 0.5, -0.9, 0.05])
    return [
        ("identical", 1, {"logp": zero, "old_logp": zero.copy(), "eps": 0.2}, "public"),
        ("clip", 1, {"logp": apart, "old_logp": zero.copy(), "eps": 0.2}, "public"),
        ("random", 1, {"logp": draw(7), "old_logp": draw(7), "eps": 0.3}),
        ("2d", 1, {"logp": draw(3, 5), "old_logp": draw(3, 5), "eps": 0.1}),
    ]


WRONG = {
    "the ratio inverted": lambda new, old, e: np.clip(np.exp(old - new), 1 - e, 1 + e),
    "the ratio without the clip": lambda new, old, e: np.exp(new - old),
}
