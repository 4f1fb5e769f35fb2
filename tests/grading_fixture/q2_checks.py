"""Two public and two hidden tests of the KL penalty."""

import numpy as np
import torch

FUNCTION = "kl_penalty"
TOLERANCE = 1e-9
SECONDS = 2.0


def tests(generator):
    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).numpy()

    zero, apart = np.zeros(4), np.array([0.0, 0.5, -0.9, 0.05])
    return [
        ("identical", 1, {"logp": zero, "ref_logp": zero.copy(), "beta": 1.0}, "public"),
        ("value", 1, {"logp": apart, "ref_logp": zero.copy(), "beta": 1.0}, "public"),
        ("random", 1, {"logp": draw(7), "ref_logp": draw(7), "beta": 0.3}),
        ("2d", 1, {"logp": draw(3, 5), "ref_logp": draw(3, 5), "beta": 0.1}),
    ]


WRONG = {
    "k1 for k3": lambda new, ref, beta: beta * (new - ref),
    "the penalty without beta": lambda new, ref, beta: np.exp(ref - new) - (ref - new) - 1,
}
