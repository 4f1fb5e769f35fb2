"""Advantages against the definitions, written as plain loops over single numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_edu import advantage as adv

fast = settings(max_examples=20, deadline=None, derandomize=True, database=None)
dtypes = st.sampled_from([torch.float32, torch.float64])
mask_dtypes = st.sampled_from([torch.bool, torch.int64, torch.float32])
RAGGED = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])


def close(got: Tensor, want: object, tol: float | None = None) -> None:
    want = torch.as_tensor(want, dtype=got.dtype)
    tol = tol or (1e-11 if got.dtype == torch.float64 else 5e-6)
    assert got.shape == want.shape, f"{tuple(got.shape)} is not {tuple(want.shape)}"
    assert torch.allclose(got, want, rtol=tol, atol=tol), f"{got} is not {want}"


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@st.composite
def batches(draw, ragged: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Two tensors (B, T) and a mask: rows of length 1, full rows and rows between."""
    rows, length = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    seed, dtype = draw(st.integers(0, 999)), draw(dtypes)
    lengths = draw(st.lists(st.integers(1, length), min_size=rows, max_size=rows))
    mask = torch.tensor([[t < n for t in range(length)] for n in lengths])
    if not ragged:  # holes are allowed where the order of tokens plays no part
        mask &= torch.rand(rows, length, generator=torch.Generator().manual_seed(seed)) < 0.8
        mask[0, 0] = True
    x, y = normal(seed, rows, length, dtype=dtype), normal(seed + 1, rows, length, dtype=dtype)
    return x, y, mask.to(draw(mask_dtypes))


def kept(x: Tensor, mask: Tensor) -> list[float]:
    return [v for v, m in zip(x.flatten().tolist(), mask.flatten().tolist(), strict=True) if m]


def with_garbage(x: Tensor, mask: Tensor, garbage: float = 1e4) -> Tensor:
    return torch.where(mask.bool(), x, torch.full_like(x, garbage))


# Masked means and whitening


@fast
@given(batches(ragged=False))
def test_masked_mean_and_masked_whiten_and_explained_variance_match_loops(batch):
    x, y, mask = batch
    values = kept(x, mask)
    mean = sum(values) / len(values)
    close(adv.masked_mean(x, mask), mean)
    sd = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    if len(values) > 1:
        for shift, back in ((True, 0.0), (False, mean)):
            white = adv.masked_whiten(x, mask, shift_mean=shift)
            assert torch.equal(white[~mask.bool()], torch.zeros_like(white[~mask.bool()]))
            close(torch.tensor(kept(white, mask)), [(v - mean) / sd + back for v in values], 2e-5)

        def variance(numbers: list[float]) -> float:
            middle = sum(numbers) / len(numbers)
            return sum((n - middle) ** 2 for n in numbers) / len(numbers)

        rest = [b - a for a, b in zip(values, kept(y, mask), strict=True)]
        want = 1 - variance(rest) / variance(kept(y, mask))
        close(adv.explained_variance(x, y, mask), want, 1e-4 if x.dtype == torch.float32 else 1e-9)


def test_masked_whiten_has_population_mean_zero_and_sd_one_and_recentres_by_default():
    x = normal(0, 3, 4).abs() + 1  # all positive, as with a lagging critic
    white = adv.masked_whiten(x, RAGGED)
    close(adv.masked_mean(white, RAGGED), 0.0)
    close(adv.masked_mean(white.square(), RAGGED), 1.0)
    assert (white < 0).any()
    assert (adv.masked_whiten(x, RAGGED, shift_mean=False) > 0)[RAGGED.bool()].any()


def test_masked_whiten_of_equal_numbers_is_zero_not_round_off_over_round_off():
    for value in (0.1, -7.3, 1e-30, 123456.7):
        x = torch.full((3, 4), value)
        close(adv.masked_whiten(x, RAGGED), torch.zeros(3, 4))
        close(adv.masked_whiten(x, RAGGED, shift_mean=False), torch.where(RAGGED.bool(), x, 0.0))
    one = torch.zeros(3, 4, dtype=torch.bool)
    one[1, 2] = True
    close(adv.masked_whiten(normal(0, 3, 4), one), torch.zeros(3, 4))


def test_masked_whiten_does_not_depend_on_the_unit():
    x = normal(0, 3, 4)
    close(adv.masked_whiten(x * 1e-9, RAGGED), adv.masked_whiten(x, RAGGED), 1e-9)


def test_explained_variance_reads_a_critic_item_53():
    returns = normal(0, 3, 4)
    close(adv.explained_variance(returns, returns, RAGGED), 1.0)
    close(adv.explained_variance(returns + 5, returns, RAGGED), 1.0)  # an offset explains as much
    close(adv.explained_variance(torch.full((3, 4), 2.0).double(), returns, RAGGED), 0.0)
    close(adv.explained_variance(-returns, returns, RAGGED), -3.0)
    flat = torch.full((3, 4), 0.1)
    assert adv.explained_variance(returns.float(), flat, RAGGED).isnan()


# Returns, TD errors, GAE


def slow_gae(rewards, values, length: int, gamma: float, lam: float) -> list[float]:
    """The definition: A_t = Σ_l (γλ)^l δ_{t+l}, every term anew, O(T²)."""
    values = [*values[:length], 0.0]
    delta = [rewards[t] + gamma * values[t + 1] - values[t] for t in range(length)]
    return [
        sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, length)) for t in range(length)
    ]


@fast
@given(batches(), st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.sampled_from([0.0, 0.7, 0.95, 1.0]))
def test_gae_and_td_error_and_reward_to_go_match_the_definition(batch, gamma, lam):
    rewards, values, mask = batch
    advantages, returns = adv.gae(rewards, values, mask, gamma, lam)
    to_go = adv.reward_to_go(rewards, mask, gamma)
    delta = adv.td_error(rewards, values, mask, gamma)
    for b in range(len(mask)):
        n, total = int(mask[b].sum()), mask.shape[1]
        r, v = rewards[b].tolist(), values[b].tolist()
        pad = [0.0] * (total - n)
        want = slow_gae(r, v, n, gamma, lam)
        close(advantages[b], want + pad)
        close(returns[b], [a + w for a, w in zip(want, v[:n], strict=True)] + pad)
        close(delta[b], slow_gae(r, v, n, gamma, 0.0) + pad)
        close(to_go[b], [sum(gamma ** (k - t) * r[k] for k in range(t, n)) for t in range(n)] + pad)
    assert advantages.dtype == rewards.dtype


def test_gae_and_its_friends_have_the_defaults_of_the_book():
    r, v = normal(0, 3, 4), normal(1, 3, 4)
    for got, want in zip(adv.gae(r, v, RAGGED), adv.gae(r, v, RAGGED, 1.0, 0.95), strict=True):
        close(got, want)
    close(adv.td_error(r, v, RAGGED), adv.td_error(r, v, RAGGED, 1.0))
    close(adv.reward_to_go(r, RAGGED), adv.reward_to_go(r, RAGGED, 1.0))


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_gae_between_its_two_ends(gamma):
    """λ = 0 is the TD error, λ = 1 the reward-to-go minus the value."""
    r, v = normal(0, 3, 4), normal(1, 3, 4)
    on = RAGGED.bool()
    close(adv.gae(r, v, RAGGED, gamma, 0.0)[0], adv.td_error(r, v, RAGGED, gamma))
    advantages, returns = adv.gae(r, v, RAGGED, gamma, 1.0)
    to_go = adv.reward_to_go(r, RAGGED, gamma)
    close(advantages, torch.where(on, to_go - v, 0.0))
    close(returns, to_go)


def test_gae_leaves_nothing_to_gain_when_the_critic_is_right():
    r = normal(0, 3, 4)
    right = adv.reward_to_go(r, RAGGED)
    for lam in (0.0, 0.5, 1.0):
        advantages, returns = adv.gae(r, right, RAGGED, 1.0, lam)
        close(advantages, torch.zeros(3, 4))
        close(returns, right)


def test_reward_to_go_of_a_reward_at_eos_is_the_same_at_every_token_item_8():
    r = torch.zeros(3, 4)
    r[0, 2], r[1, 0], r[2, 3] = 2.0, -1.0, 0.5
    close(
        adv.reward_to_go(r, RAGGED),
        [[2.0, 2.0, 2.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]],
    )
    close(adv.reward_to_go(r, RAGGED, 0.5)[0], [0.5, 1.0, 2.0, 0.0])


def test_td_error_bootstraps_nothing_beyond_the_end():
    ones = torch.ones(1, 3)
    close(adv.td_error(ones, 2 * ones, torch.tensor([[1, 1, 0]])), [[1.0, -1.0, 0.0]])


@pytest.mark.parametrize("garbage", [1e4, -1e30])
def test_padding_changes_neither_results_nor_gradients(garbage):
    calls = [
        lambda x, y: adv.masked_mean(x, RAGGED),
        lambda x, y: adv.masked_whiten(x, RAGGED).square().sum() + adv.masked_mean(x, RAGGED),
        lambda x, y: adv.masked_whiten(x, RAGGED, shift_mean=False)[0, 1],
        lambda x, y: adv.reward_to_go(x, RAGGED, 0.9).sum(),
        lambda x, y: adv.td_error(x, y, RAGGED, 0.9).square().sum(),
        lambda x, y: adv.gae(x, y, RAGGED, 0.9)[0].square().sum(),
        lambda x, y: adv.gae(x, y, RAGGED, 0.9)[1].square().sum(),
        lambda x, y: adv.explained_variance(x, y, RAGGED),
    ]
    x, y = normal(0, 3, 4), normal(1, 3, 4)
    for call in calls:
        clean = [x.clone().requires_grad_(), y.clone().requires_grad_()]
        dirty = [with_garbage(v, RAGGED, garbage).requires_grad_() for v in (x, y)]
        one, two = call(*clean), call(*dirty)
        close(two, one.detach(), 1e-12)
        grads = torch.autograd.grad(two, dirty, allow_unused=True)
        for g, h in zip(grads, torch.autograd.grad(one, clean, allow_unused=True), strict=True):
            if g is not None:
                close(g, h, 1e-12)
                assert (g[~RAGGED.bool()] == 0).all()


def test_rows_without_a_token_stay_zero():
    mask = torch.tensor([[0, 0], [1, 1]])
    ones = torch.ones(2, 2)
    close(adv.reward_to_go(ones, mask), [[0.0, 0.0], [2.0, 1.0]])
    close(adv.gae(ones, ones, mask, 1.0, 1.0)[1], [[0.0, 0.0], [2.0, 1.0]])


# Groups of responses to one prompt


@fast
@given(st.integers(0, 999), st.integers(1, 4), st.integers(2, 6), dtypes)
def test_rloo_advantage_and_grpo_advantage_match_loops(seed, prompts, group, dtype):
    scores = normal(seed, prompts, group, dtype=dtype)
    rloo, grpo = adv.rloo_advantage(scores), adv.grpo_advantage(scores)
    plain = adv.grpo_advantage(scores, divide_by_sd=False)
    for b, row in enumerate(scores.tolist()):
        mean = sum(row) / group
        sd = math.sqrt(sum((x - mean) ** 2 for x in row) / group)
        others = [sum(row[:i] + row[i + 1 :]) / (group - 1) for i in range(group)]
        close(rloo[b], [x - o for x, o in zip(row, others, strict=True)])
        close(rloo[b], [group / (group - 1) * (x - mean) for x in row], 5e-6)  # the identity
        close(grpo[b], [(x - mean) / sd for x in row], 2e-5)
        close(plain[b], [x - mean for x in row])  # Dr. GRPO
    assert grpo.abs().max() <= math.sqrt(group - 1) + 1e-5


def test_grpo_advantage_and_rloo_advantage_of_the_paper_s_examples():
    close(adv.grpo_advantage(torch.tensor([[1.0, 0.0, 1.0, 0.0]])), [[1.0, -1.0, 1.0, -1.0]], 1e-6)
    third = 1 / math.sqrt(3)
    want = [[third, third, third, -math.sqrt(3)]]
    close(adv.grpo_advantage(torch.tensor([[1.0, 1.0, 1.0, 0.0]])), want, 1e-6)
    assert [round(x, 3) for x in want[0]] == [0.577, 0.577, 0.577, -1.732]
    close(adv.rloo_advantage(torch.tensor([[1.0, 0.0, 1.0, 0.0]])), [[2 / 3, -2 / 3] * 2])


@pytest.mark.parametrize("value", [0.0, 0.1, -3.3, 1e6 + 0.1])
def test_grpo_advantage_of_an_equal_group_is_zero(value):
    mixed = torch.tensor([[value] * 3, [1.0, 2.0, 3.0]])
    got = adv.grpo_advantage(mixed)
    assert torch.equal(got[0], torch.zeros(3))
    close(got[1], [-math.sqrt(1.5), 0.0, math.sqrt(1.5)])


def test_grpo_advantage_makes_equal_what_dr_grpo_keeps_apart():
    """A prompt solved once in 8 and one solved 4 times: the SD lets the rare one speak up."""
    rare, even = [1.0] + [0.0] * 7, [1.0, 0.0] * 4
    scores = torch.tensor([rare, even])
    sizes = adv.grpo_advantage(scores).square().sum(1)
    close(sizes, [8.0, 8.0])
    sizes = adv.grpo_advantage(scores, divide_by_sd=False).square().sum(1)
    close(sizes, [7 / 8, 2.0])


# Bad input

MASKED = [
    (lambda rewards, mask: adv.masked_mean(rewards, mask), ["x"]),
    (lambda rewards, mask: adv.masked_whiten(rewards, mask), ["x"]),
    (adv.reward_to_go, ["rewards"]),
    (adv.td_error, ["rewards", "values"]),
    (adv.gae, ["rewards", "values"]),
    (adv.explained_variance, ["values", "returns"]),
]


def broken(x: Tensor) -> list[object]:
    nan, inf = x.clone(), x.clone()
    nan[1, 3], inf[0, 3] = math.nan, math.inf  # in the padding: the rule is "finite everywhere"
    return [nan, inf, x.long(), x.tolist(), x[:, :2], x[None], x[0]]


@pytest.mark.parametrize(("function", "names"), MASKED)
def test_bad_tensors_are_named(function, names):
    good = [normal(i, 3, 4) for i in range(len(names))]
    function(*good, RAGGED)
    for i, name in enumerate(names):
        for bad in broken(good[i]):
            with pytest.raises(ValueError, match=f"^{name}: expected"):
                function(*good[:i], bad, *good[i + 1 :], RAGGED)


@pytest.mark.parametrize(("function", "names"), MASKED)
def test_bad_masks_are_named(function, names):
    good = [normal(i, 3, 4) for i in range(len(names))]
    two, half, nan = RAGGED.clone(), RAGGED.double(), RAGGED.double()
    two[0, 0], half[0, 0], nan[0, 0] = 2, 0.5, math.nan
    for bad in (torch.zeros(3, 4), two, half, nan, -RAGGED, RAGGED.tolist(), RAGGED[:, :3]):
        with pytest.raises(ValueError, match="mask"):
            function(*good, bad)
    flat = [x[0] for x in good]
    with pytest.raises(ValueError, match=r"mask: expected shape \(B, T\), got \(4,\)"):
        function(*flat, RAGGED[0])
    for empty in (torch.zeros(0, 4), torch.zeros(3, 0)):
        with pytest.raises(ValueError, match="mask: expected"):
            function(*[torch.zeros_like(empty) for _ in good], empty)


def test_a_mask_with_a_gap_is_refused_where_order_matters():
    gaps = [torch.tensor([[1, 0, 1]]), torch.tensor([[0, 1, 1]])]
    x = torch.ones(1, 3)
    for mask in gaps:
        for call in (
            lambda m: adv.reward_to_go(x, m),
            lambda m: adv.td_error(x, x, m),
            lambda m: adv.gae(x, x, m),
        ):
            with pytest.raises(ValueError, match="^mask: expected rows"):
                call(mask)
        close(adv.masked_mean(x, mask), 1.0)
        adv.masked_whiten(x, mask)
        adv.explained_variance(x, x, mask)


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_discounts_outside_zero_and_one_are_named(value):
    x = torch.ones(3, 4)
    with pytest.raises(ValueError, match="^gamma: expected a number from 0 to 1, got"):
        adv.reward_to_go(x, RAGGED, value)
    with pytest.raises(ValueError, match="^gamma"):
        adv.td_error(x, x, RAGGED, value)
    with pytest.raises(ValueError, match="^gamma"):
        adv.gae(x, x, RAGGED, gamma=value)
    with pytest.raises(ValueError, match="^lam"):
        adv.gae(x, x, RAGGED, lam=value)


@pytest.mark.parametrize("function", [adv.rloo_advantage, adv.grpo_advantage])
def test_bad_groups_are_named(function):
    scores = torch.ones(2, 3)
    nan, inf = scores.clone(), scores.clone()
    nan[0, 0], inf[1, 2] = math.nan, -math.inf
    shapes = [scores[:, :1], scores[0], scores[None], scores[:0], torch.ones(2, 0)]
    for bad in [nan, inf, scores.long(), scores.tolist(), *shapes]:
        with pytest.raises(ValueError, match="^scores: expected"):
            function(bad)


def test_no_number_is_read_off_the_cpu():
    """A meta tensor has a shape and no numbers: reading one raises, as a GPU would have to wait."""
    x, mask = torch.ones(3, 4, device="meta"), RAGGED.to("meta")
    for function, names in MASKED:
        got = function(*[x] * len(names), mask)
        assert (got[0] if isinstance(got, tuple) else got).device.type == "meta"
    assert adv.rloo_advantage(x).shape == adv.grpo_advantage(x).shape == (3, 4)


def test_inputs_are_left_alone():
    x, y, mask = normal(0, 3, 4), normal(1, 3, 4), RAGGED.clone()
    for function, names in MASKED:
        function(*[x, y][: len(names)], mask)
    adv.rloo_advantage(x), adv.grpo_advantage(x)
    assert torch.equal(x, normal(0, 3, 4)) and torch.equal(y, normal(1, 3, 4))
    assert torch.equal(mask, RAGGED)
