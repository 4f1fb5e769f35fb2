"""PPO's clip against loops over tokens, its gradients by cases, and the book's tables."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_edu import ppo_clip as ppo

fast = settings(max_examples=25, deadline=None, derandomize=True, database=None)
dtypes = st.sampled_from([torch.float32, torch.float64])
mask_dtypes = st.sampled_from([torch.bool, torch.int64, torch.float32])
RAGGED = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
RATIOS = [0.5, 0.7, 0.9, 1.0, 1.1, 1.3, 2.0]


def close(got: Tensor, want: object, tol: float | None = None) -> None:
    want = torch.as_tensor(want, dtype=got.dtype)
    tol = tol or (1e-12 if got.dtype == torch.float64 else 5e-6)
    assert got.shape == want.shape, f"{tuple(got.shape)} is not {tuple(want.shape)}"
    assert torch.allclose(got, want, rtol=tol, atol=tol), f"{got} is not {want}"


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@st.composite
def batches(draw) -> tuple[list[Tensor], Tensor, float, float]:
    rows, length = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(1, length), min_size=rows, max_size=rows))
    mask = torch.tensor([[t < n for t in range(length)] for n in lengths])
    seed, dtype = draw(st.integers(0, 999)), draw(dtypes)
    x = [normal(seed + i, rows, length, dtype=dtype) for i in range(3)]
    x[1] = x[0] + 0.3 * x[1]  # ratios around 1, in and out of the range
    low, high = draw(st.sampled_from([0.0, 0.1, 0.2, 0.5])), draw(st.sampled_from([0.1, 0.28]))
    return x, mask.to(draw(mask_dtypes)), low, high


def loop_mean(mask: Tensor, term) -> float:
    cells = [(b, t) for b in range(len(mask)) for t in range(mask.shape[1]) if mask[b, t]]
    return sum(term(b, t) for b, t in cells) / len(cells)


def one_token(function, ratio: float, advantage: float, **options: float) -> tuple[float, float]:
    """Objective (minus the loss) of a single token, and its derivative by the log-probability."""
    lp = torch.tensor([[math.log(ratio) - 1.5]], dtype=torch.float64, requires_grad=True)
    old, a = torch.full_like(lp, -1.5).detach(), torch.full_like(lp, advantage).detach()
    objective = -function(lp, old, a, torch.ones(1, 1), **options)
    (slope,) = torch.autograd.grad(objective, [lp])
    return objective.item(), slope.item()


# Values


@fast
@given(batches())
def test_clipped_surrogate_loss_and_its_fractions_match_loops(batch):
    (lp, old, a), mask, low, high = batch

    def ratio(b: int, t: int) -> float:
        return math.exp(lp[b, t].item() - old[b, t].item())

    def term(b: int, t: int, up: float = low) -> float:
        r, gain = ratio(b, t), a[b, t].item()
        return min(r * gain, min(max(r, 1 - low), 1 + up) * gain)

    close(ppo.clipped_surrogate_loss(lp, old, a, mask, low), -loop_mean(mask, term))
    close(
        ppo.clipped_surrogate_loss(lp, old, a, mask, low, high),
        -loop_mean(mask, lambda b, t: term(b, t, high)),
    )
    printed = loop_mean(mask, lambda b, t: min(ratio(b, t), 1 + low) * a[b, t].item())
    close(ppo.upper_bound_clip_loss(lp, old, a, mask, low), -printed)
    close(ppo.probability_ratio(lp, old), (lp - old).exp())
    if low > 0:  # away from ties at ρ = 1 exactly, where round-off would decide
        outside = loop_mean(mask, lambda b, t: float(abs(ratio(b, t) - 1) > low))
        close(ppo.outside_fraction(lp, old, mask, low), outside)
        cut = loop_mean(
            mask,
            lambda b, t: float(
                (ratio(b, t) > 1 + low and a[b, t] > 0) or (ratio(b, t) < 1 - low and a[b, t] < 0)
            ),
        )
        close(ppo.clip_fraction(lp, old, a, mask, low), cut)
        assert cut <= outside


@fast
@given(batches())
def test_clipped_value_loss_matches_a_loop(batch):
    (v, old, r), mask, low, _ = batch

    def term(b: int, t: int) -> float:
        value, before, target = v[b, t].item(), old[b, t].item(), r[b, t].item()
        near = before + min(max(value - before, -low), low)
        return 0.5 * max((value - target) ** 2, (near - target) ** 2)

    close(ppo.clipped_value_loss(v, old, r, mask, low), loop_mean(mask, term))


def test_the_default_range_is_one_fifth_on_both_sides():
    lp, old, a = normal(0, 3, 4), normal(1, 3, 4), normal(2, 3, 4)
    for function in (ppo.clipped_surrogate_loss, ppo.upper_bound_clip_loss, ppo.clip_fraction):
        close(function(lp, old, a, RAGGED), function(lp, old, a, RAGGED, 0.2))
    close(ppo.outside_fraction(lp, old, RAGGED), ppo.outside_fraction(lp, old, RAGGED, 0.2))
    close(
        ppo.clipped_value_loss(lp, old, a, RAGGED), ppo.clipped_value_loss(lp, old, a, RAGGED, 0.2)
    )
    near = 0.24 * torch.ones(1, 1)  # ratio 1.27: outside ±0.2, inside ±0.28
    one = torch.ones(1, 1)
    assert ppo.outside_fraction(near, 0 * near, one) == ppo.clip_fraction(near, 0 * near, one, one)
    assert ppo.outside_fraction(near, 0 * near, one, 0.28) == 0


@pytest.mark.parametrize(
    ("function", "advantage", "want"),
    [
        (ppo.upper_bound_clip_loss, -1.0, [-0.5, -0.7, -0.9, -1.0, -1.1, -1.2, -1.2]),
        (ppo.clipped_surrogate_loss, -1.0, [-0.8, -0.8, -0.9, -1.0, -1.1, -1.3, -2.0]),
        (ppo.upper_bound_clip_loss, 1.0, [0.5, 0.7, 0.9, 1.0, 1.1, 1.2, 1.2]),
        (ppo.clipped_surrogate_loss, 1.0, [0.5, 0.7, 0.9, 1.0, 1.1, 1.2, 1.2]),
    ],
)
def test_clipped_surrogate_loss_and_upper_bound_clip_loss_give_table_t2_item_49(
    function, advantage, want
):
    got = [one_token(function, ratio, advantage)[0] for ratio in RATIOS]
    assert got == pytest.approx(want, abs=1e-12)


def test_clipped_surrogate_loss_has_a_gradient_exactly_where_the_clip_does_not_cut():
    for ratio in RATIOS:
        for advantage in (1.0, -1.0, 0.5):
            slope = one_token(ppo.clipped_surrogate_loss, ratio, advantage)[1]
            cut = ratio > 1.2 if advantage > 0 else ratio < 0.8
            assert slope == pytest.approx(0.0 if cut else ratio * advantage, abs=1e-12)
            lp = torch.tensor([[math.log(ratio)]])
            fraction = ppo.clip_fraction(lp, 0 * lp, torch.full((1, 1), advantage), lp * 0 + 1)
            assert fraction.item() == float(cut)


def test_upper_bound_clip_loss_cuts_the_wrong_side_for_a_disliked_token_item_49():
    deeper = one_token(ppo.upper_bound_clip_loss, 0.5, -1.0)[1]
    back = one_token(ppo.upper_bound_clip_loss, 1.3, -1.0)[1]
    assert deeper == pytest.approx(-0.5)  # still pushed down, far below 1−ε
    assert back == 0.0  # and no push back where it is far too likely
    assert one_token(ppo.clipped_surrogate_loss, 0.5, -1.0)[1] == 0.0
    assert one_token(ppo.clipped_surrogate_loss, 1.3, -1.0)[1] == pytest.approx(-1.3)


def test_clipped_surrogate_loss_lets_rare_tokens_rise_with_a_higher_upper_range():
    """DAPO: from 0.01 a token may reach 0.012 with ε = 0.2 and 0.0128 with 0.28; 0.9 any height."""
    for high, top in ((None, 0.012), (0.28, 0.0128)):
        options = {"cliprange": 0.2, "cliprange_high": high}
        for prob, moves in ((top - 1e-6, True), (top + 1e-6, False)):
            slope = one_token(ppo.clipped_surrogate_loss, prob / 0.01, 1.0, **options)[1]
            assert (slope > 0) == moves
        assert one_token(ppo.clipped_surrogate_loss, 1.0 / 0.9, 1.0, **options)[1] > 0
        assert one_token(ppo.clipped_surrogate_loss, 0.79, -1.0, **options)[1] == 0


def test_at_ratio_one_the_gradient_is_the_policy_gradient_item_47():
    lp, a = normal(0, 3, 4).requires_grad_(), normal(1, 3, 4)
    for function in (ppo.clipped_surrogate_loss, ppo.upper_bound_clip_loss):
        (grad,) = torch.autograd.grad(function(lp, lp.detach(), a, RAGGED), [lp])
        close(grad, -a * RAGGED / RAGGED.sum())
    assert torch.equal(ppo.probability_ratio(lp, lp.detach()), torch.ones_like(lp))


def test_clip_fraction_does_not_count_what_has_no_gradient_anyway():
    lp = torch.tensor([[1.0, 1.0, 1.0, -1.0, -1.0, -1.0, 0.0]])
    a = torch.tensor([[2.0, 0.0, -2.0, 2.0, 0.0, -2.0, 2.0]])
    close(ppo.clip_fraction(lp, 0 * lp, a, torch.ones(1, 7)), 2 / 7)
    close(ppo.outside_fraction(lp, 0 * lp, torch.ones(1, 7)), 6 / 7)
    edge = torch.tensor([[0.5, 1.5]]).double().log()
    assert ppo.outside_fraction(edge + 1e-12, 0 * edge - 1e-12, torch.tensor([[1, 0]]), 0.5) == 0
    lp.requires_grad_()
    assert not ppo.clip_fraction(lp, 0 * lp.detach(), a, torch.ones(1, 7)).requires_grad
    assert not ppo.outside_fraction(lp, 0 * lp.detach(), torch.ones(1, 7)).requires_grad
    lp, a = lp.detach().double(), a.double()
    assert ppo.clip_fraction(lp, 0 * lp, a, torch.ones(1, 7)).dtype == torch.float64
    assert ppo.outside_fraction(lp, 0 * lp, torch.ones(1, 7)).dtype == torch.float64


def test_the_edge_of_the_range_is_inside():
    """0.5 and 1.5 are exact in binary; their ratios come out of exp exactly or one digit off."""
    ratio = torch.tensor([[1.0]])
    for function, extra in ((ppo.outside_fraction, []), (ppo.clip_fraction, [-ratio])):
        assert function(0 * ratio, 0 * ratio, *extra, torch.ones(1, 1), 0.0) == 0
    assert ppo.clip_fraction(0 * ratio, 0 * ratio, ratio, torch.ones(1, 1), 0.0) == 0


def test_clipped_value_loss_earns_nothing_beyond_the_range():
    """V_old = 0, target 1: V may come to 0.2; from there on the loss stands still."""

    def loss_and_slope(value: float) -> tuple[float, float]:
        v = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
        zero, one = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
        loss = ppo.clipped_value_loss(v, zero, one, torch.ones(1, 1))
        return loss.item(), torch.autograd.grad(loss, [v])[0].item()

    assert loss_and_slope(0.1) == pytest.approx((0.5 * 0.81, -0.9))
    assert loss_and_slope(0.9) == pytest.approx((0.5 * 0.64, 0.0))
    assert loss_and_slope(-0.5) == pytest.approx((0.5 * 2.25, -1.5))  # the wrong way: full error


def test_composite_loss_counts_the_penalty_once_item_52():
    surrogate, penalty = torch.tensor(-0.7), torch.tensor(2.0)
    close(ppo.composite_loss(surrogate, penalty, 0.1), -0.5)
    close(ppo.composite_loss(surrogate, penalty, 0.0), -0.7)
    twice = ppo.composite_loss(ppo.composite_loss(surrogate, penalty, 0.1), penalty, 0.1)
    close(twice, -0.3)  # (10.54) on top of (10.53)
    a, b = surrogate.requires_grad_(), penalty.requires_grad_()
    grads = torch.autograd.grad(ppo.composite_loss(a, b, 0.1), [a, b])
    assert [g.item() for g in grads] == pytest.approx([1.0, 0.1])


def test_what_made_the_samples_is_a_constant():
    lp, old, a, r = (normal(i, 3, 4) for i in range(4))
    g = [x.clone().requires_grad_() for x in (old, a, r)]
    assert not ppo.probability_ratio(lp, g[0]).requires_grad
    assert not ppo.clipped_surrogate_loss(lp, g[0], g[1], RAGGED).requires_grad
    assert not ppo.upper_bound_clip_loss(lp, g[0], g[1], RAGGED).requires_grad
    assert not ppo.clipped_value_loss(lp, g[0], g[2], RAGGED).requires_grad


# Extremes and padding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_ratios_of_e_to_the_80_are_finite_and_right(dtype, sign):
    lp = torch.tensor([[-1.0, -81.0]], dtype=dtype, requires_grad=True)
    old = torch.tensor([[-81.0, -1.0]], dtype=dtype)
    big = math.exp(80)
    close(ppo.probability_ratio(lp, old), [[big, 1 / big]])
    a, mask = sign * torch.ones(1, 2, dtype=dtype), torch.ones(1, 2)
    loss = ppo.clipped_surrogate_loss(lp, old, a, mask)
    (grad,) = torch.autograd.grad(loss, [lp])
    close(loss, -(1.2 + 1 / big) / 2 if sign > 0 else (big + 0.8) / 2)
    close(grad, [[0.0, -1 / big / 2]] if sign > 0 else [[big / 2, 0.0]])
    loss = ppo.upper_bound_clip_loss(lp, old, a, mask)
    close(loss, -sign * (1.2 + 1 / big) / 2)
    assert torch.isfinite(torch.autograd.grad(loss, [lp])[0]).all()
    close(ppo.outside_fraction(lp, old, mask), 1.0)
    close(ppo.clip_fraction(lp, old, a, mask), 0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_of_ten_thousand_leave_the_weights_finite(dtype):
    """Ratios of e^±20000 cannot be held: the ratio stops, its gradient is 0, and nothing is NaN."""
    z = torch.tensor([[[1e4, -1e4], [-1e4, 1e4]]], dtype=dtype, requires_grad=True)
    lp, old = z.log_softmax(-1)[..., 0], (-z.detach()).log_softmax(-1)[..., 0]
    for a in (torch.ones(1, 2, dtype=dtype), -torch.ones(1, 2, dtype=dtype)):
        for function in (ppo.clipped_surrogate_loss, ppo.upper_bound_clip_loss):
            loss = function(lp, old, a, torch.ones(1, 2))
            (grad,) = torch.autograd.grad(loss, [z], retain_graph=True)
            assert torch.isfinite(loss) and torch.isfinite(grad).all()
    close(
        ppo.clipped_surrogate_loss(lp, old, torch.ones(1, 2, dtype=dtype), torch.ones(1, 2)), -0.6
    )
    top = ppo.probability_ratio(lp, old).max().item()
    assert top == pytest.approx(torch.finfo(dtype).max / 1000, rel=1e-4)


@pytest.mark.parametrize("garbage", [1e4, -1e4, 1e15])
def test_padding_changes_neither_results_nor_gradients(garbage):
    on = RAGGED.bool()

    def results(fill: float | None) -> list[Tensor]:
        x = [normal(i, 3, 4) for i in range(3)]
        if fill is not None:
            x = [torch.where(on, v, fill * (-0.5) ** i) for i, v in enumerate(x)]
        lp, old, a = x
        lp.requires_grad_()
        losses = [
            ppo.clipped_surrogate_loss(lp, old, a, RAGGED),
            ppo.upper_bound_clip_loss(lp, old, a, RAGGED),
            ppo.clipped_value_loss(lp, old, a, RAGGED),
        ]
        grads = [torch.autograd.grad(x, [lp])[0] for x in losses]
        measures = [ppo.clip_fraction(lp, old, a, RAGGED), ppo.outside_fraction(lp, old, RAGGED)]
        return [x.detach() for x in losses] + grads + measures

    for clean, dirty in zip(results(None), results(garbage), strict=True):
        close(dirty, clean)


# Bad input

CALLS = [
    (ppo.clipped_surrogate_loss, ["logprobs", "old_logprobs", "advantages"]),
    (ppo.upper_bound_clip_loss, ["logprobs", "old_logprobs", "advantages"]),
    (ppo.clipped_value_loss, ["values", "old_values", "returns"]),
    (ppo.clip_fraction, ["logprobs", "old_logprobs", "advantages"]),
    (ppo.outside_fraction, ["logprobs", "old_logprobs"]),
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
    ranges = ["cliprange_value"] if function is ppo.clipped_value_loss else ["cliprange"]
    if function is ppo.clipped_surrogate_loss:
        ranges.append("cliprange_high")
    for name in ranges:
        for value in (-0.1, math.nan, math.inf):
            with pytest.raises(ValueError, match=f"^{name}: expected a finite number >= 0, got"):
                function(**good, mask=RAGGED, **{name: value})
        function(**good, mask=RAGGED, **{name: 0.0})


def test_bad_pairs_are_named():
    x = normal(0, 5)
    assert ppo.probability_ratio(x, x).shape == (5,)  # any one shape will do
    for bad in (x[:3], x.long(), x * math.nan, x.tolist()):
        with pytest.raises(ValueError, match="^old_logprobs: expected"):
            ppo.probability_ratio(x, bad)
    for bad in (x.long(), x * math.inf, None):
        with pytest.raises(ValueError, match="^logprobs: expected"):
            ppo.probability_ratio(bad, x)
    one = torch.tensor(1.0)
    with pytest.raises(ValueError, match="^penalty: expected shape"):
        ppo.composite_loss(one, one[None], 0.1)
    with pytest.raises(ValueError, match="^surrogate_loss: expected a tensor, got float"):
        ppo.composite_loss(1.0, one, 0.1)
    for value in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="^kl_coef: expected"):
            ppo.composite_loss(one, one, value)


def test_no_number_is_read_off_the_cpu():
    """A meta tensor has a shape and no numbers: reading one raises, as a GPU would have to wait."""
    x, mask = torch.ones(3, 4, device="meta"), RAGGED.to("meta")
    for function, names in CALLS:
        assert function(*[x] * len(names), mask).device.type == "meta"
    assert ppo.composite_loss(x.sum(), x.sum(), 0.1).device.type == "meta"


def test_inputs_are_left_alone():
    x, mask = [normal(i, 3, 4) for i in range(3)], RAGGED.clone()
    for function, names in CALLS:
        function(*x[: len(names)], mask)
    assert all(torch.equal(v, normal(i, 3, 4)) for i, v in enumerate(x))
    assert torch.equal(mask, RAGGED)
