"""Two public and two hidden tests of a loss and its gradient."""

import torch

FUNCTION = "pg_loss"
GRADIENT_OF = ["logprobs", "advantages"]
TOLERANCE = 1e-5
SECONDS = 2.0


def tests(generator):
    def case(lengths, n):
        mask = (torch.arange(n) < torch.tensor(lengths)[:, None]).float()
        shape = (len(lengths), n)
        return {"logprobs": -torch.rand(shape, generator=generator),
                "advantages": torch.randn(shape, generator=generator), "mask": mask}

    plain = {"logprobs": torch.tensor([[-0.5, -1.0]]), "advantages": torch.tensor([[1.0, -2.0]]),
             "mask": torch.ones(1, 2)}
    half = plain | {"mask": torch.tensor([[1.0, 0.0]])}
    return [("by hand", 1, plain, "public"), ("with padding", 1, half, "public"),
            ("two answers", 1, case([3, 5], 5)), ("three answers", 1, case([1, 4, 2], 6))]


WRONG = {
    "the mean over padding too": lambda lp, a, m: -(lp * a.detach() * m).mean(),
    "the loss with the opposite sign": lambda lp, a, m: (lp * a.detach() * m).sum() / m.sum(),
    "the loss with advantages not detached": lambda lp, a, m: -(lp * a * m).sum() / m.sum(),
}
