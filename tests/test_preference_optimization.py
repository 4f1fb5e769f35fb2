"""DPO against loops, against the policy it should end at, and with length taken into account."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_edu import preference_optimization as po

fast = settings(max_examples=20, deadline=None, derandomize=True, database=None)
NAMES = [
    "policy_chosen_logps",
    "policy_rejected_logps",
    "ref_chosen_logps",
    "ref_rejected_logps",
]


def close(got: Tensor, want: object, tol: float | None = None) -> None:
    want = torch.as_tensor(want, dtype=got.dtype)
    tol = tol or (1e-12 if got.dtype == torch.float64 else 5e-6)
    assert got.shape == want.shape, f"{tuple(got.shape)} is not {tuple(want.shape)}"
    assert torch.allclose(got, want, rtol=tol, atol=tol), f"{got} is not {want}"


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


@fast
@given(
    st.integers(0, 999),
    st.integers(1, 6),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([0.1, 0.5, 2.0]),
    st.sampled_from([0.0, 0.02, 0.5]),
)
def test_dpo_loss_and_implicit_rewards_match_loops(seed, size, dtype, beta, alpha):
    x = [3 * normal(seed + i, size, dtype=dtype) for i in range(4)]
    coin = torch.Generator().manual_seed(seed)
    lengths = [torch.randint(1, 30, (size,), generator=coin) for _ in range(2)]
    total = 0.0
    for i in range(size):
        pc, pr, rc, rr = (v[i].item() for v in x)
        longer = lengths[0][i].item() - lengths[1][i].item()
        total -= log_sigmoid(beta * (pc - rc) - beta * (pr - rr) + alpha * longer)
    close(po.dpo_loss(*x, beta, alpha, *lengths), total / size)
    want = [beta * (a.item() - b.item()) for a, b in zip(x[0], x[2], strict=True)]
    close(po.implicit_rewards(x[0], x[2], beta), want)
    if alpha == 0:
        close(po.dpo_loss(*x, beta), total / size)


def test_defaults_of_dpo_loss_and_implicit_rewards():
    x = [normal(i, 4) for i in range(4)]
    close(po.dpo_loss(*x), po.dpo_loss(*x, beta=0.1, length_penalty=0.0))
    close(po.implicit_rewards(x[0], x[1]), 0.1 * (x[0] - x[1]))


def test_dpo_loss_starts_at_log_two_and_pushes_by_the_chance_of_being_wrong():
    x = [normal(i, 5) for i in range(4)]
    close(po.dpo_loss(x[0], x[1], x[0], x[1], 0.3), math.log(2))
    policy = [v.clone().requires_grad_() for v in x[:2]]
    grads = torch.autograd.grad(po.dpo_loss(*policy, *x[2:], 0.3), policy)
    lead = 0.3 * (x[0] - x[2]) - 0.3 * (x[1] - x[3])
    close(grads[0], -0.3 * (1 - lead.sigmoid()) / 5)
    close(grads[1], 0.3 * (1 - lead.sigmoid()) / 5)


def test_the_reference_is_a_constant():
    x = [normal(i, 5) for i in range(4)]
    ref = [v.clone().requires_grad_() for v in x[2:]]
    assert not po.dpo_loss(*x[:2], *ref).requires_grad
    assert not po.implicit_rewards(x[0], ref[0]).requires_grad


def every_pair(logits: Tensor, ref: Tensor, rewards: Tensor, beta: float, **options) -> Tensor:
    """DPO's loss on infinitely many pairs, labelled by Bradley-Terry with the true rewards."""
    log_p, log_r = logits.log_softmax(0), ref.log_softmax(0)
    i, j = torch.meshgrid(torch.arange(len(ref)), torch.arange(len(ref)), indexing="ij")
    i, j = i[i != j], j[i != j]
    wins = torch.sigmoid(rewards[i] - rewards[j])
    lengths = options.pop("lengths", None)
    total = torch.tensor(0.0, dtype=torch.float64)
    for k in range(len(i)):
        a, b = i[k : k + 1], j[k : k + 1]
        if lengths is not None:
            options.update(chosen_lengths=lengths[a], rejected_lengths=lengths[b])
        loss = po.dpo_loss(log_p[a], log_p[b], log_r[a], log_r[b], beta, **options)
        total = total + wins[k] * loss
    return total / len(i)


@pytest.mark.parametrize("alpha", [0.0, 0.2])
def test_dpo_loss_is_least_at_the_best_policy_of_the_penalised_reward_item_7(alpha):
    """π* ∝ π_ref·exp((r − α·length)/β): there the gradient is 0 and descent from π_ref ends."""
    beta, ref, rewards = 0.5, normal(0, 4), -2 * normal(1, 4)
    lengths = torch.tensor([3.0, 9.0, 5.0, 1.0], dtype=torch.float64)
    best = (ref.log_softmax(0) + (rewards - alpha * lengths) / beta).softmax(0)
    options = {"length_penalty": alpha, "lengths": lengths} if alpha else {}
    at_best = best.log().requires_grad_()
    loss = every_pair(at_best, ref, rewards, beta, **options)
    close(torch.autograd.grad(loss, [at_best])[0], torch.zeros(4), 1e-12)
    z = ref.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([z], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = every_pair(z, ref, rewards, beta, **options)
        value.backward()
        return value

    optimizer.step(closure)
    total_variation = (z.detach().softmax(0) - best).abs().sum() / 2
    assert total_variation < 1e-3
    assert (ref.softmax(0) - best).abs().sum() / 2 > 0.1  # it had a way to go


def test_dpo_loss_does_not_see_what_all_answers_of_a_prompt_share():
    x = [normal(i, 5) for i in range(4)]
    shift = normal(9, 5)
    close(po.dpo_loss(x[0] + shift, x[1] + shift, *x[2:]), po.dpo_loss(*x))


def test_length_penalty_in_dpo_loss_expects_less_of_a_longer_chosen_answer():
    x = [normal(i, 3) for i in range(4)]
    long, short = torch.full((3,), 20), torch.full((3,), 5)
    plain = po.dpo_loss(*x)
    assert po.dpo_loss(*x, 0.1, 0.05, long, short) < plain < po.dpo_loss(*x, 0.1, 0.05, short, long)
    close(po.dpo_loss(*x, 0.1, 0.05, long, long), plain)
    close(po.dpo_loss(*x, 0.1, 0.0, long, short), plain)  # α = 0: lengths are not looked at


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_log_probabilities_are_finite_and_right(dtype):
    low, high = torch.tensor([-2e4, 0.0], dtype=dtype), torch.tensor([0.0, -2e4], dtype=dtype)
    policy = [low.clone().requires_grad_(), high.clone().requires_grad_()]
    loss = po.dpo_loss(*policy, high, low, beta=1.0)
    close(loss, 2e4)
    grads = torch.autograd.grad(loss, policy)
    close(grads[0], [-0.5, 0.0])
    close(grads[1], [0.5, 0.0])


# Bad input


def test_bad_log_probabilities_are_named():
    good = {name: normal(i, 4) for i, name in enumerate(NAMES)}
    po.dpo_loss(**good)
    for name, x in good.items():
        nan, inf = x.clone(), x.clone()
        nan[0], inf[3] = math.nan, -math.inf
        for bad in (nan, inf, x.long(), x.tolist(), x[None], x[:0]):
            with pytest.raises(ValueError, match=f"^{name}: expected"):
                po.dpo_loss(**{**good, name: bad})
        with pytest.raises(ValueError, match="expected the shape of policy_chosen_logps, got"):
            po.dpo_loss(**{**good, name: x[:3]})
    for bad in (x * math.nan, x.long(), x[None], x.tolist()):
        with pytest.raises(ValueError, match="^policy_logps: expected"):
            po.implicit_rewards(bad, x)
    for bad in (x * math.nan, x.long(), x[:2], x.tolist()):
        with pytest.raises(ValueError, match="^ref_logps: expected"):
            po.implicit_rewards(x, bad)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_bad_coefficients_are_named(value):
    x = [normal(i, 4) for i in range(4)]
    with pytest.raises(ValueError, match="^beta: expected a finite number > 0, got"):
        po.dpo_loss(*x, beta=value)
    with pytest.raises(ValueError, match="^length_penalty: expected a finite number >= 0, got"):
        po.dpo_loss(*x, length_penalty=value)
    with pytest.raises(ValueError, match="^beta: expected"):
        po.implicit_rewards(x[0], x[1], 0.0)


def test_bad_lengths_are_named():
    x, n = [normal(i, 4) for i in range(4)], torch.tensor([1, 2, 3, 4])
    for bad in (None, [1, 2, 3, 4], n[:3], n - 2, n[None], n.double() * math.nan):
        with pytest.raises(ValueError, match="^chosen_lengths: expected"):
            po.dpo_loss(*x, 0.1, 0.1, bad, n)
        with pytest.raises(ValueError, match="^rejected_lengths: expected"):
            po.dpo_loss(*x, 0.1, 0.1, n, bad)
    po.dpo_loss(*x, 0.1, 0.1, n, n * 0)  # an empty answer is short, not wrong


def test_no_number_is_read_off_the_cpu():
    """A meta tensor has a shape and no numbers: reading one raises, as a GPU would have to wait."""
    x = torch.ones(4, device="meta")
    n = x.long()
    assert po.dpo_loss(x, x, x, x, 0.1, 0.1, n, n).device.type == "meta"


def test_inputs_are_left_alone():
    x, n = [normal(i, 4) for i in range(4)], torch.tensor([1, 2, 3, 4])
    po.dpo_loss(*x, 0.1, 0.1, n, n)
    assert all(torch.equal(v, normal(i, 4)) for i, v in enumerate(x))
    assert n.tolist() == [1, 2, 3, 4]
