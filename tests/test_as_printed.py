"""The four formulas to the letter: that they are what is printed, and what they do (T1 to T4)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf_edu import as_printed as ap
from rlhf_edu import kl_penalty, ppo_clip, ranking_loss


def close(got: Tensor, want: object, tol: float = 1e-12) -> None:
    want = torch.as_tensor(want, dtype=got.dtype)
    assert got.shape == want.shape, f"{tuple(got.shape)} is not {tuple(want.shape)}"
    assert torch.allclose(got, want, rtol=tol, atol=tol), f"{got} is not {want}"


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


RAGGED = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])


# That they are what is printed


def test_as_printed_penalty_loss_is_the_log_ratio_of_the_response():
    lp, ref = normal(0, 3, 4), normal(1, 3, 4)
    rows = [sum((lp[b, t] - ref[b, t]).item() for t in range(n)) for b, n in enumerate((3, 1, 4))]
    close(ap.as_printed_penalty_loss(lp, ref, RAGGED, 0.3), 0.3 * sum(rows) / 3)


def test_as_printed_one_reference_loss_uses_the_sampler_twice():
    lp, old, a = normal(0, 3, 4), normal(1, 3, 4), normal(2, 3, 4)
    total = 0.0
    for b, n in enumerate((3, 1, 4)):
        for t in range(n):
            log_ratio = (lp[b, t] - old[b, t]).item()
            clipped = min(math.exp(log_ratio), max(0.8, min(1.2, math.exp(log_ratio))))
            total += clipped * a[b, t].item() - 0.3 * log_ratio
    close(ap.as_printed_one_reference_loss(lp, old, a, RAGGED, 0.2, 0.3), -total / 3)


def test_as_printed_listwise_loss_sums_over_both_orders():
    r = normal(0, 2, 4)
    pairs = [(b, i, j) for b in range(2) for i in range(4) for j in range(4) if i != j]
    want = sum(math.log1p(math.exp((r[b, j] - r[b, i]).item())) for b, i, j in pairs) / len(pairs)
    close(ap.as_printed_listwise_loss(r), want)
    close(ap.as_printed_listwise_loss(r.flip(1)), want)  # any ranking will do: none is in it


def test_as_printed_regularized_loss_subtracts_the_square():
    a, b = normal(0, 5), normal(1, 5)
    pair = ranking_loss.pairwise_ranking_loss(a, b)
    squares = [(a[i] + b[i]).item() ** 2 for i in range(5)]
    close(ap.as_printed_regularized_loss(a, b), pair - sum(squares) / 5)
    close(
        ap.as_printed_regularized_loss(a, b), pair - ranking_loss.centring_penalty(a, b)
    )  # one sign away from what is meant


def test_gradients_of_as_printed_losses():
    """Of as_printed_penalty_loss, as_printed_one_reference_loss, as_printed_regularized_loss and
    as_printed_listwise_loss, by hand."""

    def slopes(f, *inputs: Tensor) -> tuple[Tensor, ...]:
        inputs = tuple(x.clone().requires_grad_() for x in inputs)
        return torch.autograd.grad(f(*inputs), inputs)

    lp, old, a = normal(0, 3, 4), normal(1, 3, 4), normal(2, 3, 4)
    (grad,) = slopes(lambda x: ap.as_printed_penalty_loss(x, old, RAGGED, 0.3), lp)
    close(grad, 0.3 * RAGGED.double() / 3)
    (grad,) = slopes(lambda x: ap.as_printed_one_reference_loss(x, old, a, RAGGED, 0.2, 0.3), lp)
    ratio = (lp - old).exp()
    close(grad, -((ratio < 1.2) * ratio * a - 0.3) * RAGGED / 3)
    chosen, rejected = normal(3, 5), normal(4, 5)
    grads = slopes(ap.as_printed_regularized_loss, chosen, rejected)
    push, total = (rejected - chosen).sigmoid() / 5, 2 * (chosen + rejected) / 5
    close(grads[0], -push - total)
    close(grads[1], push - total)
    rewards = normal(5, 1, 3)
    (grad,) = slopes(ap.as_printed_listwise_loss, rewards)
    delta = rewards[0][:, None] - rewards[0]
    close(grad[0], (delta.sigmoid() - (-delta).sigmoid()).sum(1) / 6)


# T1, the penalty in the loss


def test_t1_the_printed_penalty_has_a_true_value_and_no_gradient_on_samples_of_the_policy():
    z, q = normal(0, 6).requires_grad_(), normal(1, 6)
    log_p, log_r = z.log_softmax(0), q.log_softmax(0)
    p = log_p.exp().detach()
    # the mask carries the weight of each action, so the mean over 6 rows is the mean under p
    loss = ap.as_printed_penalty_loss(log_p[:, None], log_r[:, None], 6 * p[:, None], 1.0)
    kl = (p * (p / log_r.exp()).log()).sum()
    close(loss, kl)
    (grad,) = torch.autograd.grad(loss, [z], retain_graph=True)
    (true,) = torch.autograd.grad(kl_penalty.exact_kl(z, q), [z])
    assert grad.abs().max() < 1e-12 and true.norm() > 0.1
    assert grad.norm() < 1e-2 * true.norm()
    elsewhere = normal(2, 6).log_softmax(0)  # another reference, the very same gradient
    loss = ap.as_printed_penalty_loss(log_p[:, None], elsewhere[:, None], 6 * p[:, None], 1.0)
    assert torch.equal(torch.autograd.grad(loss, [z])[0], grad)


class Bandit:
    """50 arms, the reference and the rewards of the table; every arm is summed, none is sampled.

    A row is one run, a column one arm, so `mask` and advantages carry π_old, the weight of an arm.
    """

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.ref = torch.from_numpy(1.5 * draw.normal(size=50)).log_softmax(0)
        self.rewards = torch.from_numpy(draw.normal(size=50))

    def train(self, runs: int, loss, rewards, iterations: int) -> Tensor:
        """4 epochs of plain gradient descent, rate 0.5, on each exact batch. → KL of each run."""
        z = self.ref.expand(runs, 50).clone()
        for _ in range(iterations):
            old = z.log_softmax(1)
            shaped = rewards(old)
            gain = shaped - (old.exp() * shaped).sum(1, keepdim=True)
            for _ in range(4):
                z.requires_grad_()
                z = (
                    z - 0.5 * torch.autograd.grad(loss(z.log_softmax(1), old, gain), [z])[0]
                ).detach()
        return kl_penalty.exact_kl(z, self.ref.expand(runs, 50))

    def surrogate(self, lp: Tensor, old: Tensor, gain: Tensor) -> Tensor:
        weight = old.exp() * old.numel()  # so that the mean over cells is a sum over runs
        return ppo_clip.clipped_surrogate_loss(lp, old, gain * weight, torch.ones_like(lp))

    def optimum(self, beta: float) -> float:
        best = (self.ref + self.rewards / beta).log_softmax(0)
        return (best.exp() * (best - self.ref)).sum().item()


def test_t1_table_of_the_bandit():
    """KL to the reference for β = 0 / 0.1 / 0.3 / 1, the penalty in the loss and in the reward."""
    bandit, betas = Bandit(), torch.tensor([0.0, 0.1, 0.3, 1.0]).double()

    def in_loss(lp: Tensor, old: Tensor, gain: Tensor) -> Tensor:
        weight = old.exp() * len(lp)
        penalty = sum(
            ap.as_printed_penalty_loss(
                lp[i : i + 1], bandit.ref[None], weight[i : i + 1] / len(lp), b
            )
            for i, b in enumerate(betas.tolist())
        )
        return bandit.surrogate(lp, old, gain) + penalty

    def in_reward(old: Tensor) -> Tensor:
        one = torch.ones(50, 1)
        return torch.stack(
            [
                kl_penalty.penalized_rewards(
                    bandit.rewards, row[:, None], bandit.ref[:, None], one, beta
                )[:, 0]
                for row, beta in zip(old, betas.tolist(), strict=True)
            ]
        )

    def plain(old: Tensor) -> Tensor:
        return bandit.rewards.expand_as(old)

    early = bandit.train(4, in_loss, plain, 10)
    assert early.tolist() == pytest.approx([1.17, 1.18, 1.20, 1.35], abs=0.006)
    late = bandit.train(4, in_loss, plain, 400)
    assert late.tolist() == pytest.approx([2.7] * 4, abs=0.05)  # β holds nothing
    held = bandit.train(4, bandit.surrogate, in_reward, 400)
    assert held.tolist() == pytest.approx([2.69, 2.12, 1.64, 0.505], abs=0.006)
    closed = [bandit.optimum(b) for b in (0.1, 0.3, 1.0)]
    assert closed == pytest.approx([2.82, 1.64, 0.509], abs=0.005)


# T2, the clip: the table is in test_ppo_clip; here is what it does to a policy


def test_t2_without_a_lower_bound_disliked_tokens_go_on_sinking():
    """One batch, 40 epochs, an advantage of −1 for a likely action: how far may it fall?"""

    def lowest_ratio(function) -> float:
        z = torch.tensor([2.0, 0.0, 0.0], dtype=torch.float64)
        old = z.log_softmax(0)
        gain = torch.tensor([-1.0, 0.5, 0.5], dtype=torch.float64) * old.exp()
        for _ in range(40):
            z.requires_grad_()
            loss = function(z.log_softmax(0)[None], old[None], gain[None], torch.ones(1, 3))
            z = (z - 2 * torch.autograd.grad(loss, [z])[0]).detach()
        return (z.log_softmax(0) - old).exp()[0].item()

    assert 0.7 < lowest_ratio(ppo_clip.clipped_surrogate_loss) < 0.8  # a step past 1−ε, then still
    assert lowest_ratio(ppo_clip.upper_bound_clip_loss) < 0.4


# T3, one reference for three roles


def test_t3_an_anchor_that_moves_along_holds_nothing():
    """β = 1 from π_old (as printed), k2 from π_old, k2 from a frozen π_ref; 200 iterations."""
    bandit = Bandit()

    def plain(old: Tensor) -> Tensor:
        return bandit.rewards.expand_as(old)

    def printed(lp: Tensor, old: Tensor, gain: Tensor) -> Tensor:
        # rows of one run: weight 50·π_old in the mask makes the mean over arms the mean under π_old
        weight = old.exp().T
        return 1.0 * ap.as_printed_one_reference_loss(lp.T, old.T, gain.T, weight * 50, 0.2, 1.0)

    def anchored(reference) -> object:
        def loss(lp: Tensor, old: Tensor, gain: Tensor) -> Tensor:
            k2 = kl_penalty.kl_estimate(lp, reference(old), "k2")
            return bandit.surrogate(lp, old, gain) + (old.exp() * k2).sum()

        return loss

    moving = bandit.train(1, anchored(lambda old: old), plain, 200).item()
    frozen = bandit.train(1, anchored(lambda old: bandit.ref.expand_as(old)), plain, 200).item()
    as_printed = bandit.train(1, printed, plain, 200).item()
    free = bandit.train(1, bandit.surrogate, plain, 200).item()
    assert frozen == pytest.approx(bandit.optimum(1.0), abs=0.05)  # 0.51: where π* is
    assert free > 2.5 and moving > 2.5 and as_printed > 2.5  # all the way to the best arm


# T4, the reward model


def test_t4_the_printed_listwise_loss_unlearns_the_ranking():
    r = torch.tensor([[2.0, 1.0, 0.0, -1.0]], dtype=torch.float64)
    assert ap.as_printed_listwise_loss(r) > math.log(2)
    close(ap.as_printed_listwise_loss(torch.zeros(1, 4)), math.log(2), 1e-6)
    z, meant = r.clone(), r.clone()
    for _ in range(200):
        z.requires_grad_(), meant.requires_grad_()
        z = (z - 2 * torch.autograd.grad(ap.as_printed_listwise_loss(z), [z])[0]).detach()
        loss = ranking_loss.all_pairs_ranking_loss(meant)
        meant = (meant - 2 * torch.autograd.grad(loss, [meant])[0]).detach()
    assert z.std() < 1e-3  # all answers equal
    assert meant.std() > r.std() and (meant.diff() < 0).all()  # the ranking, clearer than before
    close(z.mean(), r.mean(), 1e-9)


def test_t4_a_regulariser_with_a_minus_has_no_floor():
    a, b = torch.tensor([0.1]), torch.tensor([-0.05])
    assert ap.as_printed_regularized_loss(a + 1000, b + 1000) < -1e6
    for sign, ends_small in ((-1, False), (1, True)):
        x = torch.tensor([0.1, -0.05], dtype=torch.float64)
        for _ in range(60):
            x.requires_grad_()
            if sign < 0:
                loss = ap.as_printed_regularized_loss(x[:1], x[1:])
            else:
                pair = ranking_loss.pairwise_ranking_loss(x[:1], x[1:])
                loss = pair + 0.5 * ranking_loss.centring_penalty(x[:1], x[1:])
            x = (x - 0.1 * torch.autograd.grad(loss, [x])[0]).detach()
        assert (x.sum().abs() < 1e-3) == ends_small
        assert (x.sum().abs() > 1e3) != ends_small
