"""Policy-gradient and critic losses against loops, closed-form gradients and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_edu import policy_gradient as pg

fast = settings(max_examples=20, deadline=None, derandomize=True, database=None)
dtypes = st.sampled_from([torch.float32, torch.float64])
mask_dtypes = st.sampled_from([torch.bool, torch.int64, torch.float32])
RAGGED = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])


def close(got: Tensor, want: object, tol: float | None = None) -> None:
    want = torch.as_tensor(want, dtype=got.dtype)
    tol = tol or (1e-12 if got.dtype == torch.float64 else 5e-6)
    assert got.shape == want.shape, f"{tuple(got.shape)} is not {tuple(want.shape)}"
    assert torch.allclose(got, want, rtol=tol, atol=tol), f"{got} is not {want}"


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@st.composite
def masks(draw) -> tuple[int, Tensor, torch.dtype]:
    rows, length = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(1, length), min_size=rows, max_size=rows))
    mask = torch.tensor([[t < n for t in range(length)] for n in lengths])
    return draw(st.integers(0, 999)), mask.to(draw(mask_dtypes)), draw(dtypes)


def loop_mean(mask: Tensor, term) -> float:
    cells = [(b, t) for b in range(len(mask)) for t in range(mask.shape[1]) if mask[b, t]]
    return sum(term(b, t) for b, t in cells) / len(cells)


# Values and gradients


@fast
@given(masks())
def test_policy_gradient_loss_and_critic_loss_and_a2c_loss_match_loops(drawn):
    seed, mask, dtype = drawn
    lp, a, v, r = (normal(seed + i, *mask.shape, dtype=dtype) for i in range(4))
    actor = -loop_mean(mask, lambda b, t: lp[b, t].item() * a[b, t].item())
    critic = loop_mean(mask, lambda b, t: 0.5 * (v[b, t].item() - r[b, t].item()) ** 2)
    close(pg.policy_gradient_loss(lp, a, mask), actor)
    close(pg.critic_loss(v, r, mask), critic)
    close(pg.a2c_loss(lp, v, a, r, mask), actor + 0.1 * critic)
    close(pg.a2c_loss(lp, v, a, r, mask, 0.7), actor + 0.7 * critic)
    close(pg.a2c_loss(lp, v, a, r, mask, 0.0), actor)
    assert pg.a2c_loss(lp, v, a, r, mask).dtype == dtype


@fast
@given(masks())
def test_reinforce_loss_matches_a_loop(drawn):
    seed, mask, dtype = drawn
    lp, s = normal(seed, *mask.shape, dtype=dtype), normal(seed + 1, len(mask), dtype=dtype)
    base = normal(seed + 2, len(mask), dtype=dtype)
    for baseline in (None, 0.3, base):

        def term(b: int, t: int, baseline=baseline) -> float:
            shift = baseline[b].item() if isinstance(baseline, Tensor) else baseline or 0.0
            return lp[b, t].item() * (s[b].item() - shift)

        given_baseline = {} if baseline is None else {"baseline": baseline}
        close(pg.reinforce_loss(lp, s, mask, **given_baseline), -loop_mean(mask, term))


def test_gradients_are_the_weights_and_nothing_else_item_56():
    lp, a, v, r = (normal(i, 3, 4).requires_grad_() for i in range(4))
    tokens = RAGGED.sum()
    (grad,) = torch.autograd.grad(pg.policy_gradient_loss(lp, a, RAGGED), [lp])
    close(grad, -a.detach() * RAGGED / tokens)
    grads = torch.autograd.grad(pg.a2c_loss(lp, v, a, r, RAGGED, 0.25), [lp, v])
    close(grads[0], -a.detach() * RAGGED / tokens)
    close(grads[1], 0.25 * (v - r).detach() * RAGGED / tokens)
    s = normal(5, 3).requires_grad_()
    base = normal(6, 3).requires_grad_()
    (grad,) = torch.autograd.grad(pg.reinforce_loss(lp, s, RAGGED, base), [lp])
    close(grad, -(s - base).detach()[:, None] * RAGGED / tokens)


def test_advantages_scores_baselines_and_returns_are_constants():
    lp, a, v, r = (normal(i, 3, 4) for i in range(4))
    learn = [x.clone().requires_grad_() for x in (a, r)]
    assert not pg.policy_gradient_loss(lp, learn[0], RAGGED).requires_grad
    assert not pg.critic_loss(v, learn[1], RAGGED).requires_grad
    assert not pg.a2c_loss(lp, v, learn[0], learn[1], RAGGED).requires_grad
    scores = normal(4, 3).requires_grad_()
    assert not pg.reinforce_loss(lp, scores, RAGGED).requires_grad
    assert not pg.reinforce_loss(lp, scores.detach(), RAGGED, scores).requires_grad


def test_policy_gradient_loss_agrees_with_finite_differences_item_56():
    """Through a softmax over 5 words, so that what is checked is the gradient a model gets."""
    logits, tokens = normal(0, 3, 4, 5), torch.tensor([[0, 1, 2, 3], [4, 0, 1, 2], [3, 4, 0, 1]])
    a = normal(1, 3, 4)

    def loss(z: Tensor) -> Tensor:
        lp = z.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        return pg.policy_gradient_loss(lp, a, RAGGED)

    (grad,) = torch.autograd.grad(loss(logits.requires_grad_()), [logits])
    step, flat = 1e-5, logits.detach()
    for place in [(0, 0, 0), (0, 2, 4), (2, 3, 1), (1, 0, 4), (1, 1, 1)]:
        bump = torch.zeros_like(flat)
        bump[place] = step
        slope = (loss(flat + bump) - loss(flat - bump)) / (2 * step)
        assert grad[place].item() == pytest.approx(slope.item(), abs=1e-9)


# What the items say


def softmax_step(logits: list[float], advantages: list[float]) -> Tensor:
    """−gradient of the exact expectation of policy_gradient_loss in a bandit, per logit."""
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    probs = torch.softmax(z, 0).detach()
    weights = torch.tensor(advantages, dtype=torch.float64) * probs * len(logits)
    one = torch.ones(1, len(logits))
    loss = pg.policy_gradient_loss(z.log_softmax(0)[None], weights[None], one)
    return -torch.autograd.grad(loss, [z])[0]


def test_a_small_positive_advantage_may_push_an_action_down_item_54():
    logits, a = [0.5, 0.0, -0.5], [2.0, 0.3, -1.0]
    probs = torch.softmax(torch.tensor(logits, dtype=torch.float64), 0).tolist()
    mean = sum(p * x for p, x in zip(probs, a, strict=True))
    step = softmax_step(logits, a)
    close(step, [p * (x - mean) for p, x in zip(probs, a, strict=True)])
    assert a[1] > 0 and a[1] < mean and step[1] < 0
    centred = softmax_step(logits, [x - mean for x in a])
    close(centred, step)  # the same push; and now the signs of A tell it
    assert all((s > 0) == (x - mean > 0) for s, x in zip(centred.tolist(), a, strict=True))


def test_an_advantage_of_zero_adds_nothing_and_the_probability_moves_all_the_same_item_55():
    lp = normal(0, 1, 3).requires_grad_()
    (grad,) = torch.autograd.grad(
        pg.policy_gradient_loss(lp, torch.tensor([[1.0, 0.0, -0.5]]).double(), torch.ones(1, 3)),
        [lp],
    )
    assert grad[0, 1] == 0 and grad[0, 0] != 0
    logits = torch.tensor([0.3, 0.1, -0.2], dtype=torch.float64)
    moved = logits + 0.5 * softmax_step(logits.tolist(), [1.0, 0.0, 0.0])
    assert torch.softmax(moved, 0)[1] < torch.softmax(logits, 0)[1] - 0.01


@pytest.mark.parametrize("garbage", [1e4, -1e15])
def test_padding_changes_neither_losses_nor_gradients(garbage):
    on = RAGGED.bool()

    def results(fill: float | None) -> list[Tensor]:
        x = [normal(i, 3, 4) for i in range(4)]
        if fill is not None:
            x = [torch.where(on, v, torch.full_like(v, fill * (i + 1))) for i, v in enumerate(x)]
        lp, v, a, r = x
        lp, v, s = lp.requires_grad_(), v.requires_grad_(), normal(7, 3)
        losses = [
            pg.policy_gradient_loss(lp, a, RAGGED),
            pg.critic_loss(v, r, RAGGED),
            pg.a2c_loss(lp, v, a, r, RAGGED),
            pg.reinforce_loss(lp, s, RAGGED, 0.5),
        ]
        grads = [torch.autograd.grad(x, [lp, v], allow_unused=True) for x in losses]
        return [x.detach() for x in losses] + [g for pair in grads for g in pair if g is not None]

    for clean, dirty in zip(results(None), results(garbage), strict=True):
        close(dirty, clean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_log_probabilities_are_finite_and_right(dtype):
    """Logits of ±1e4 give log-probabilities down to −2e4."""
    z = torch.tensor([[[1e4, -1e4], [-1e4, 1e4]]], dtype=dtype, requires_grad=True)
    lp = z.log_softmax(-1)[..., 0]  # 0 and −20000
    mask, a = torch.ones(1, 2), torch.tensor([[1.0, -0.5]], dtype=dtype)
    loss = pg.policy_gradient_loss(lp, a, mask)
    close(loss, -5000.0)
    (grad,) = torch.autograd.grad(loss, [z])
    close(grad, [[[0.0, 0.0], [0.25, -0.25]]])
    values = torch.tensor([[1e4, -1e4]], dtype=dtype)
    close(pg.critic_loss(values, -values, mask), 2e8)


# Bad input

CALLS = [
    (pg.policy_gradient_loss, ["logprobs", "advantages"]),
    (pg.critic_loss, ["values", "returns"]),
    (pg.a2c_loss, ["logprobs", "values", "advantages", "returns"]),
]


@pytest.mark.parametrize(("function", "names"), CALLS)
def test_bad_input_is_named(function, names):
    good = {name: normal(i, 3, 4) for i, name in enumerate(names)}
    function(**good, mask=RAGGED)
    for name, x in good.items():
        nan, inf = x.clone(), x.clone()
        nan[1, 3], inf[0, 3] = math.nan, math.inf  # padding too: the rule is "finite everywhere"
        for bad in (nan, inf, x.long(), x.tolist(), x[:, :2], x[None], x[0]):
            with pytest.raises(ValueError, match=f"^{name}: expected"):
                function(**{**good, name: bad}, mask=RAGGED)
    two, half = RAGGED.clone(), RAGGED.double()
    two[0, 0], half[0, 0] = 2, 0.5
    for bad in (torch.zeros(3, 4), two, half, half * math.nan, -RAGGED, RAGGED.tolist()):
        with pytest.raises(ValueError, match="^mask: expected"):
            function(**good, mask=bad)
    with pytest.raises(ValueError, match=r"mask: expected shape \(B, T\), got \(4,\)"):
        function(**{name: x[0] for name, x in good.items()}, mask=RAGGED[0])
    with pytest.raises(ValueError, match=r"mask: expected 0s and at least one 1, got the .*\[0\]"):
        function(**good, mask=RAGGED * 0)
    with pytest.raises(ValueError, match="mask: expected 0s"):
        function(**{name: x[:, :0] for name, x in good.items()}, mask=RAGGED[:, :0])


def test_bad_scores_and_baselines_are_named():
    lp, s = normal(0, 3, 4), normal(1, 3)
    nan = s.clone()
    nan[0] = math.nan
    for bad in (nan, s / 0, s.long(), s.tolist(), s[:2], s[:, None]):
        with pytest.raises(ValueError, match="^scores: expected"):
            pg.reinforce_loss(lp, bad, RAGGED)
    for bad in (nan, s / 0, s.long(), s[:2], s[:, None], math.nan, math.inf):
        with pytest.raises(ValueError, match="^baseline: expected"):
            pg.reinforce_loss(lp, s, RAGGED, bad)
    with pytest.raises(ValueError, match="^logprobs: expected"):
        pg.reinforce_loss(lp * math.nan, s, RAGGED)
    for bad in (RAGGED * 2, RAGGED.tolist()):
        with pytest.raises(ValueError, match="^mask: expected"):
            pg.reinforce_loss(lp, s, bad)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_bad_vf_coef_is_named(value):
    x = [normal(i, 3, 4) for i in range(4)]
    with pytest.raises(ValueError, match="^vf_coef: expected a finite number >= 0, got"):
        pg.a2c_loss(*x, RAGGED, vf_coef=value)


def test_no_number_is_read_off_the_cpu():
    """A meta tensor has a shape and no numbers: reading one raises, as a GPU would have to wait."""
    x, mask = torch.ones(3, 4, device="meta"), RAGGED.to("meta")
    for function, names in CALLS:
        assert function(*[x] * len(names), mask).device.type == "meta"
    assert pg.reinforce_loss(x, x[:, 0], mask, 0.5).device.type == "meta"


def test_inputs_are_left_alone():
    x, mask = [normal(i, 3, 4) for i in range(4)], RAGGED.clone()
    for function, names in CALLS:
        function(*x[: len(names)], mask)
    assert all(torch.equal(v, normal(i, 3, 4)) for i, v in enumerate(x))
    assert torch.equal(mask, RAGGED)
