"""Ranking losses against plain loops, closed-form gradients and the numbers of the book's items."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_edu import ranking_loss as rl

fast = settings(max_examples=15, deadline=None, derandomize=True, database=None)
dtypes = st.sampled_from([torch.float32, torch.float64])


def close(got: Tensor, want: object, tol: float | None = None) -> None:
    want = torch.as_tensor(want, dtype=got.dtype)
    tol = tol or (1e-12 if got.dtype == torch.float64 else 2e-6)
    assert torch.allclose(got, want, rtol=tol, atol=tol), f"{got} is not {want}"


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


def gradient(f, *inputs: Tensor) -> tuple[Tensor, ...]:
    inputs = tuple(x.detach().clone().requires_grad_() for x in inputs)
    return torch.autograd.grad(f(*inputs), inputs)


# Values


def test_win_probability_and_pairwise_ranking_loss_give_the_numbers_of_item_39():
    a, b = torch.tensor([3.2, -0.5]), torch.tensor([1.5, -2.0])
    close(rl.win_probability(a, b), [0.846, 0.818], 5e-4)
    for i, loss in enumerate([0.168, 0.201]):
        close(rl.pairwise_ranking_loss(a[i : i + 1], b[i : i + 1]), loss, 3e-3)
    close(rl.ranking_accuracy(a, b), 1.0)


def test_pairwise_ranking_loss_is_positive_also_for_the_right_order_items_34_and_40():
    def loss(lead: float) -> float:
        return rl.pairwise_ranking_loss(torch.tensor([lead]), torch.tensor([0.0])).item()

    assert loss(0.0) == pytest.approx(0.693, abs=5e-4)
    assert loss(1.5) == pytest.approx(0.201, abs=5e-4)
    assert all(loss(-x) > 0.693 for x in (0.01, 0.5, 3.0))
    assert all(loss(x) > 0 for x in (0.5, 3.0, 15.0))


@fast
@given(st.integers(0, 999), st.integers(1, 7), dtypes, st.floats(0, 2), st.floats(0, 0.5))
def test_pairwise_ranking_loss_and_hinge_ranking_loss_and_soft_ranking_loss_match_loops(
    seed, size, dtype, margin, smoothing
):
    a, b = normal(seed, size, dtype=dtype), normal(seed + 1, size, dtype=dtype)
    z = [x - y - margin for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    s = smoothing
    want = -sum((1 - s) * log_sigmoid(x) + s * log_sigmoid(-x) for x in z) / size
    close(rl.pairwise_ranking_loss(a, b, margin, smoothing), want)
    close(rl.hinge_ranking_loss(a, b, margin), sum(max(0.0, -x) for x in z) / size)
    share = torch.rand(size, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    want = -sum(
        p * log_sigmoid(x - y) + (1 - p) * log_sigmoid(y - x)
        for p, x, y in zip(share.tolist(), a.tolist(), b.tolist(), strict=True)
    )
    close(rl.soft_ranking_loss(a, b, share), want / size)
    close(rl.win_probability(a, b), [1 / (1 + math.exp(y - x)) for x, y in zip(a, b, strict=True)])


def test_defaults_of_pairwise_ranking_loss_and_hinge_ranking_loss():
    a, b = normal(0, 5), normal(1, 5)
    close(rl.pairwise_ranking_loss(a, b), rl.pairwise_ranking_loss(a, b, 0.0, 0.0))
    close(rl.hinge_ranking_loss(a, b), rl.hinge_ranking_loss(a, b, 1.0))
    assert rl.pairwise_ranking_loss(a, b) != rl.pairwise_ranking_loss(a, b, 0.1)


@fast
@given(st.integers(0, 999), st.integers(1, 4), st.integers(2, 5), dtypes)
def test_all_pairs_ranking_loss_and_plackett_luce_loss_and_listnet_loss_match_loops(
    seed, size, ranks, dtype
):
    r, relevance = (
        normal(seed, size, ranks, dtype=dtype),
        normal(seed + 1, size, ranks, dtype=dtype),
    )
    pairs, listwise, cross = [], [], []
    for row, rel in zip(r.tolist(), relevance.tolist(), strict=True):
        pairs += [log_sigmoid(row[i] - row[j]) for i in range(ranks) for j in range(i + 1, ranks)]
        chance = 1.0
        for k in range(ranks):
            chance *= math.exp(row[k]) / sum(math.exp(x) for x in row[k:])
        listwise.append(-math.log(chance))
        total, total_rel = sum(map(math.exp, row)), sum(map(math.exp, rel))
        share = [math.exp(q) / total_rel for q in rel]
        cross.append(-sum(share[i] * math.log(math.exp(row[i]) / total) for i in range(ranks)))
    assert len(pairs) == size * ranks * (ranks - 1) // 2
    close(rl.all_pairs_ranking_loss(r), -sum(pairs) / len(pairs))
    close(rl.plackett_luce_loss(r), sum(listwise) / size)
    close(rl.listnet_loss(r, relevance), sum(cross) / size)


def test_plackett_luce_loss_and_all_pairs_ranking_loss_of_two_are_bradley_terry():
    r = normal(3, 6, 2)
    close(rl.plackett_luce_loss(r), rl.pairwise_ranking_loss(r[:, 0], r[:, 1]))
    close(rl.all_pairs_ranking_loss(r), rl.pairwise_ranking_loss(r[:, 0], r[:, 1]))


@pytest.mark.parametrize("ranks", [2, 3, 4, 5])
def test_plackett_luce_loss_gives_all_rankings_a_total_probability_of_one(ranks):
    r = 2 * normal(ranks, ranks)
    total = sum(
        math.exp(-rl.plackett_luce_loss(r[list(order)][None]).item())
        for order in itertools.permutations(range(ranks))
    )
    assert total == pytest.approx(1.0, abs=1e-12)


def test_ranking_accuracy_counts_a_tie_as_one_half():
    got = rl.ranking_accuracy(
        torch.tensor([1.0, 0.0, 2.0, 5.0]), torch.tensor([1.0, 3.0, 1.0, 4.0])
    )
    assert got.item() == 0.625 and got.dtype == torch.float32
    assert rl.ranking_accuracy(normal(0, 2), normal(1, 2)).dtype == torch.float64


# Gradients


def test_pairwise_ranking_loss_pushes_hardest_where_the_model_is_wrong_item_35():
    a, b = normal(5, 6), normal(6, 6)
    grad_a, grad_b = gradient(rl.pairwise_ranking_loss, a, b)
    want = [-(1 - 1 / (1 + math.exp(y - x))) / 6 for x, y in zip(a, b, strict=True)]
    close(grad_a, want)
    close(grad_b, [-g for g in want])
    win = torch.sigmoid(a - b - 0.5)
    (grad_a,) = gradient(lambda x: rl.pairwise_ranking_loss(x, b, 0.5, 0.2), a)
    close(grad_a, (win - 0.8) / 6)  # less push, and back once the lead is larger than believed
    share = normal(7, 6).sigmoid()
    grad_a, grad_b = gradient(lambda x, y: rl.soft_ranking_loss(x, y, share), a, b)
    close(grad_a, ((a - b).sigmoid() - share) / 6)
    close(grad_b, -grad_a)
    grad_a, grad_b = gradient(lambda x, y: rl.win_probability(x, y).sum(), a, b)
    close(grad_a, rl.win_probability(a, b) * rl.win_probability(b, a))
    close(grad_b, -grad_a)


def test_hinge_ranking_loss_stops_at_the_margin():
    lead = torch.tensor([1.5, 1.0, 0.5, -2.0], dtype=torch.float64)
    (grad,) = gradient(lambda x: rl.hinge_ranking_loss(x, torch.zeros_like(x)), lead)
    close(grad, [0.0, 0.0, -0.25, -0.25])


@fast
@given(st.integers(0, 999), st.integers(2, 5))
def test_gradients_of_listwise_losses_match_closed_forms(seed, ranks):
    r, relevance = normal(seed, 1, ranks), normal(seed + 1, 1, ranks)
    row = r[0].tolist()
    plackett, pairs = [0.0] * ranks, [0.0] * ranks
    for k in range(ranks):  # the gradient of −log softmax is softmax − one-hot, at every pick
        total = sum(math.exp(x) for x in row[k:])
        for i in range(k, ranks):
            plackett[i] += math.exp(row[i]) / total - (i == k)
        for j in range(k + 1, ranks):
            push = 1 / (1 + math.exp(row[k] - row[j])) / (ranks * (ranks - 1) / 2)
            pairs[k] -= push
            pairs[j] += push
    close(gradient(rl.plackett_luce_loss, r)[0], [plackett])
    close(gradient(rl.all_pairs_ranking_loss, r)[0], [pairs])
    top = [[x.exp() / y.exp().sum() for x in y[0]] for y in (r, relevance)]
    close(
        gradient(lambda x: rl.listnet_loss(x, relevance), r)[0],
        [[p - q for p, q in zip(*top, strict=True)]],
    )


def test_soft_ranking_loss_reads_a_tie_as_equal_rewards_and_treats_preference_as_a_constant():
    a, b, half = normal(1, 4), normal(2, 4), torch.full((4,), 0.5, dtype=torch.float64)
    close(rl.soft_ranking_loss(a, b, half), rl.pairwise_ranking_loss(a, b, label_smoothing=0.5))
    (grad,) = gradient(lambda x: rl.soft_ranking_loss(x, b, half), b)
    close(grad, torch.zeros(4))
    assert rl.soft_ranking_loss(a, b, half) > rl.soft_ranking_loss(b, b, half)
    close(rl.soft_ranking_loss(a, b, torch.ones_like(a)), rl.pairwise_ranking_loss(a, b))
    p = half.clone().requires_grad_()
    assert not rl.soft_ranking_loss(a, b, p).requires_grad
    relevance = normal(3, 2, 3).requires_grad_()
    assert not rl.listnet_loss(normal(4, 2, 3), relevance).requires_grad


# The gauge (items 36, 41)


def pair_losses(chosen: Tensor, rejected: Tensor) -> list[Tensor]:
    ranked = torch.stack([chosen, rejected, rejected - 0.75, chosen - 2], dim=1)
    return [
        rl.pairwise_ranking_loss(chosen, rejected),
        rl.pairwise_ranking_loss(chosen, rejected, 0.5, 0.25),
        rl.hinge_ranking_loss(chosen, rejected),
        rl.plackett_luce_loss(ranked),
        rl.all_pairs_ranking_loss(ranked),
        rl.listnet_loss(ranked, ranked.detach().flip(1)),
        rl.ranking_accuracy(chosen, rejected),
    ]


def test_a_shift_per_prompt_changes_no_loss_no_gradient_and_no_accuracy_item_36():
    # Multiples of 1/256 add without rounding, so "unchanged" can mean every bit.
    chosen = (normal(7, 8) * 256).round() / 256
    rejected = (normal(8, 8) * 256).round() / 256
    shift = (normal(9, 8) * 2560).round() / 256
    before = [chosen.clone().requires_grad_(), rejected.clone().requires_grad_()]
    after = [(x + shift).requires_grad_() for x in (chosen, rejected)]
    for one, two in zip(pair_losses(*before), pair_losses(*after), strict=True):
        assert torch.equal(one, two)
        if one.requires_grad:
            for g, h in zip(
                torch.autograd.grad(one, before), torch.autograd.grad(two, after), strict=True
            ):
                assert torch.equal(g, h)
    # and any shift, to round-off
    for one, two in zip(
        pair_losses(chosen, rejected),
        pair_losses(chosen + math.pi, rejected + math.pi),
        strict=True,
    ):
        close(two, one)


def test_standardize_rewards_holds_where_a_percentage_does_not():
    policy, reference = normal(1, 200) + 1.18, normal(2, 200) + 1.0

    def percent(shift: float) -> float:
        return (((policy + shift).mean() / (reference + shift).mean() - 1) * 100).item()

    assert percent(0.0) > 15 and abs(percent(9.0)) < 4 and percent(-2.0) < -15
    want = [(x - reference.mean().item()) / reference.std(correction=0).item() for x in policy]
    close(rl.standardize_rewards(policy, reference), want)
    close(rl.standardize_rewards(policy * 3 - 5, reference * 3 - 5), want, 1e-10)
    itself = rl.standardize_rewards(reference, reference)
    close(itself.mean(), 0.0)
    close(itself.square().mean(), 1.0)


def test_centring_penalty_pulls_the_sum_of_each_pair_to_zero():
    a, b = torch.tensor([1.0, -0.5]), torch.tensor([0.25, -1.0])
    close(rl.centring_penalty(a, b), (1.25**2 + 1.5**2) / 2)
    grads = gradient(rl.centring_penalty, a, b)
    for grad in grads:
        close(grad, [1.25, -1.5])


# Extremes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rewards_of_ten_thousand_are_finite_and_right(dtype):
    a = torch.tensor([1e4, -1e4], dtype=dtype, requires_grad=True)
    b = torch.tensor([-1e4, 1e4], dtype=dtype, requires_grad=True)
    ranked = torch.tensor([[1e4, 0.0, -1e4], [-1e4, 0.0, 1e4]], dtype=dtype, requires_grad=True)
    relevance = torch.tensor([[-1e4, 0.0, 1e4], [-1e4, 0.0, 1e4]], dtype=dtype)
    wanted = [
        (rl.pairwise_ranking_loss(a, b), 1e4),
        (rl.pairwise_ranking_loss(a, b, label_smoothing=0.5), 1e4),
        (rl.soft_ranking_loss(a, b, torch.ones_like(a)), 1e4),
        (rl.hinge_ranking_loss(a, b), (0 + 20001) / 2),
        (rl.plackett_luce_loss(ranked), (0 + 2e4 + 1e4) / 2),
        (rl.all_pairs_ranking_loss(ranked), (0 + 4e4) / 6),
        (rl.listnet_loss(ranked, relevance), (2e4 + 0) / 2),
    ]
    for loss, want in wanted:
        close(loss, want)
        leaves = [x for x in (a, b, ranked) if x.grad_fn is None]
        for grad in torch.autograd.grad(loss, leaves, allow_unused=True):
            assert grad is None or torch.isfinite(grad).all()
    close(rl.win_probability(a, b), [1.0, 0.0])


# Bad input, and none read where reading is slow

PAIR = {"chosen": torch.tensor([1.0, 2.0]), "rejected": torch.tensor([0.5, 3.0])}
LIST = torch.tensor([[1.0, 2.0, 3.0]])
CALLS = [
    (rl.pairwise_ranking_loss, PAIR),
    (rl.hinge_ranking_loss, PAIR),
    (rl.ranking_accuracy, PAIR),
    (rl.centring_penalty, PAIR),
    (rl.win_probability, {"rewards_a": PAIR["chosen"], "rewards_b": PAIR["rejected"]}),
    (
        rl.soft_ranking_loss,
        {
            "rewards_a": PAIR["chosen"],
            "rewards_b": PAIR["rejected"],
            "preference": torch.tensor([1.0, 0.5]),
        },
    ),
    (rl.all_pairs_ranking_loss, {"rewards": LIST}),
    (rl.plackett_luce_loss, {"rewards": LIST}),
    (rl.listnet_loss, {"rewards": LIST, "relevance": LIST.flip(1)}),
    (rl.standardize_rewards, {"rewards": PAIR["chosen"], "ref_rewards": PAIR["rejected"]}),
]


def broken(x: Tensor) -> list[object]:
    nan, inf = x.clone(), x.clone()
    nan.view(-1)[0], inf.view(-1)[-1] = math.nan, -math.inf
    return [nan, inf, x.long(), x.tolist(), x[:0]]


@pytest.mark.parametrize(("function", "good"), CALLS, ids=lambda x: getattr(x, "__name__", ""))
def test_bad_tensors_are_named(function, good):
    assert torch.isfinite(function(**good)).all()
    for name, x in good.items():
        wrong_shape = [] if function is rl.standardize_rewards else [x[None, None], x[..., :1]]
        if function in (rl.win_probability,):
            wrong_shape = [x[:1]]
        elif x.dim() == 1 and len(good) > 1 and wrong_shape:
            wrong_shape = [x[None], x[:1]]
        for bad in broken(x) + wrong_shape:
            with pytest.raises(ValueError, match=rf"^{name}: expected|of {name}, not empty, got"):
                function(**{**good, name: bad})


def test_lists_of_one_are_no_ranking():
    for function in (rl.all_pairs_ranking_loss, rl.plackett_luce_loss):
        with pytest.raises(ValueError, match=r"rewards: expected shape \(B, N\) with N >= 2"):
            function(torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"chosen: expected shape \(B,\), got \(1, 2\)"):
        rl.pairwise_ranking_loss(torch.ones(1, 2), torch.ones(1, 2))


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, -math.inf])
def test_bad_margins_and_shares_are_named(value):
    for function in (rl.pairwise_ranking_loss, rl.hinge_ranking_loss):
        with pytest.raises(ValueError, match="^margin: expected"):
            function(**PAIR, margin=value)
    with pytest.raises(ValueError, match="^label_smoothing: expected"):
        rl.pairwise_ranking_loss(**PAIR, label_smoothing=value)


def test_the_edges_of_the_ranges_are_allowed_and_no_more():
    for bad in (0.51, 1.0):
        with pytest.raises(ValueError, match="label_smoothing"):
            rl.pairwise_ranking_loss(**PAIR, label_smoothing=bad)
    rl.pairwise_ranking_loss(**PAIR, label_smoothing=0.5)
    rl.hinge_ranking_loss(**PAIR, margin=0.0)
    a, b = PAIR.values()
    rl.soft_ranking_loss(a, b, torch.tensor([0.0, 1.0]))
    for bad in ([-0.1, 0.5], [0.5, 1.1]):
        with pytest.raises(ValueError, match="preference: expected"):
            rl.soft_ranking_loss(a, b, torch.tensor(bad))
    for equal in (torch.full((3,), 0.1), torch.ones(1)):
        with pytest.raises(ValueError, match="ref_rewards: expected at least two different"):
            rl.standardize_rewards(a, equal)
    rl.standardize_rewards(a, torch.tensor([1.0, 1.0, 2.0]))


@pytest.mark.parametrize(("function", "good"), CALLS, ids=lambda x: getattr(x, "__name__", ""))
def test_no_number_is_read_off_the_cpu(function, good):
    """A meta tensor has a shape and no numbers: reading one raises, as a GPU would have to wait."""
    assert function(**{name: x.to("meta") for name, x in good.items()}).device.type == "meta"


def test_inputs_are_left_alone():
    for function, good in CALLS:
        copies = {name: x.clone() for name, x in good.items()}
        function(**good)
        assert all(torch.equal(good[name], x) for name, x in copies.items())
