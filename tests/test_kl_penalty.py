"""The KL penalty against loops, numerical integrals, exact sums over a softmax, and two papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_edu import kl_penalty as klp

fast = settings(max_examples=20, deadline=None, derandomize=True, database=None)
dtypes = st.sampled_from([torch.float32, torch.float64])
mask_dtypes = st.sampled_from([torch.bool, torch.int64, torch.float32])
RAGGED = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
ESTIMATORS = ["k1", "k2", "k3"]


def close(got: Tensor, want: object, tol: float | None = None) -> None:
    want = torch.as_tensor(want, dtype=got.dtype)
    tol = tol or (1e-11 if got.dtype == torch.float64 else 5e-6)
    assert got.shape == want.shape, f"{tuple(got.shape)} is not {tuple(want.shape)}"
    assert torch.allclose(got, want, rtol=tol, atol=tol), f"{got} is not {want}"


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def slow_estimate(lp: float, ref: float, estimator: str) -> float:
    if estimator == "k1":
        return lp - ref
    if estimator == "k2":
        return (lp - ref) ** 2 / 2
    return math.exp(ref) / math.exp(lp) - 1 - (ref - lp)


@st.composite
def batches(draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, length = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(1, length), min_size=rows, max_size=rows))
    mask = torch.tensor([[t < n for t in range(length)] for n in lengths])
    seed, dtype = draw(st.integers(0, 999)), draw(dtypes)
    lp, ref = normal(seed, rows, length, dtype=dtype), normal(seed + 1, rows, length, dtype=dtype)
    return normal(seed + 2, rows, dtype=dtype), lp, ref, mask.to(draw(mask_dtypes))


# Values


@fast
@given(batches(), st.sampled_from(ESTIMATORS), st.sampled_from([0.0, 0.05, 1.5]))
def test_kl_estimate_and_kl_loss_and_penalized_rewards_match_loops(batch, estimator, kl_coef):
    scores, lp, ref, mask = batch
    got = klp.kl_estimate(lp, ref, estimator)
    rewards = klp.penalized_rewards(scores, lp, ref, mask, kl_coef, estimator)
    total, tokens = 0.0, 0
    for b in range(len(mask)):
        length = int(mask[b].sum())
        for t in range(mask.shape[1]):
            want = slow_estimate(lp[b, t].item(), ref[b, t].item(), estimator)
            close(got[b, t], want)
            total, tokens = total + want * (t < length), tokens + (t < length)
            paid = scores[b].item() if t == length - 1 else 0.0
            close(rewards[b, t], paid - kl_coef * want if t < length else 0.0)
    close(klp.kl_loss(lp, ref, mask, estimator), total / tokens)
    assert got.dtype == rewards.dtype == lp.dtype


def test_k1_is_the_default_of_kl_estimate_and_penalized_rewards():
    lp, ref, scores = normal(0, 3, 4), normal(1, 3, 4), normal(2, 3)
    assert torch.equal(klp.kl_estimate(lp, ref), lp - ref)
    close(
        klp.penalized_rewards(scores, lp, ref, RAGGED, 0.5),
        klp.penalized_rewards(scores, lp, ref, RAGGED, 0.5, "k1"),
    )


def test_penalized_rewards_add_up_to_score_minus_the_log_ratio_of_the_response():
    lp, ref, scores = normal(0, 3, 4), normal(1, 3, 4), normal(2, 3)
    rows = klp.penalized_rewards(scores, lp, ref, RAGGED, 0.3).sum(1)
    close(rows, scores - 0.3 * ((lp - ref) * RAGGED).sum(1))


@fast
@given(st.integers(0, 999), st.integers(1, 3), st.integers(2, 6), dtypes)
def test_exact_kl_is_the_sum_over_the_vocabulary(seed, states, vocab, dtype):
    z, q = (
        normal(seed, 2, states, vocab, dtype=dtype),
        normal(seed + 1, 2, states, vocab, dtype=dtype),
    )
    got = klp.exact_kl(z, q)
    for i in range(2):
        for s in range(states):
            p = [math.exp(x) / sum(map(math.exp, z[i, s].tolist())) for x in z[i, s].tolist()]
            r = [math.exp(x) / sum(map(math.exp, q[i, s].tolist())) for x in q[i, s].tolist()]
            close(got[i, s], sum(a * math.log(a / b) for a, b in zip(p, r, strict=True)))
    close(klp.exact_kl(z, z), torch.zeros(2, states))
    close(klp.exact_kl(z + 7, q - 3), got, 1e-5)  # a softmax does not see a shift


def test_exact_kl_and_kl_estimate_mean_policy_against_reference():
    z, q = normal(0, 4), normal(1, 4)
    p, r = z.softmax(0), q.softmax(0)
    truth = (p * (p / r).log()).sum()
    close(klp.exact_kl(z, q), truth)
    assert abs(truth - (r * (r / p).log()).sum()) > 0.05  # the other direction is another number
    for estimator in ("k1", "k3"):  # unbiased under samples of the policy
        close((p * klp.kl_estimate(p.log(), r.log(), estimator)).sum(), truth)


# Schulman 2020: estimating KL(q ‖ p) with samples of q, "Approximating KL divergence"


@pytest.mark.parametrize(
    ("mean", "true", "bias", "spread"),
    [
        (0.1, 0.005, (0.0, 0.002, 0.0), (20.0, 1.42, 1.42)),
        (1.0, 0.5, (0.0, 0.25, 0.0), (2.0, 1.73, 1.70)),
    ],
)
def test_kl_estimate_gives_schulman_s_table(mean, true, bias, spread):
    """Gaussians N(0, 1) and N(mean, 1); the sums over a fine grid stand for the integrals."""
    x = np.linspace(-14, 14, 280_001)
    log_policy = torch.from_numpy(-(x**2) / 2 - math.log(math.sqrt(2 * math.pi)))
    log_ref = torch.from_numpy(-((x - mean) ** 2) / 2 - math.log(math.sqrt(2 * math.pi)))
    weight = log_policy.exp() * (x[1] - x[0])
    for estimator, off, sd in zip(ESTIMATORS, bias, spread, strict=True):
        k = klp.kl_estimate(log_policy, log_ref, estimator)
        average = (weight * k).sum().item()
        deviation = math.sqrt((weight * (k - average) ** 2).sum().item())
        assert true == pytest.approx(mean**2 / 2)
        assert average / true - 1 == pytest.approx(off, abs=0.001)
        assert deviation / true == pytest.approx(sd, rel=0.005)
        if estimator == "k2":
            assert average / true - 1 == pytest.approx(mean**2 / 4, abs=1e-9)
        assert (k.min() < 0) == (estimator == "k1")


def test_k3_is_never_negative_and_keeps_its_digits_near_zero():
    log_ratio = torch.cat([torch.linspace(-1e-3, 1e-3, 20_001), torch.logspace(-12, 1, 5_000)])
    for x in (log_ratio, -log_ratio):
        k3 = klp.kl_estimate(x, torch.zeros_like(x), "k3")
        assert k3.min() >= -1e-13  # exp(x) − 1 − x, written so, would reach −6e-8
        exact = torch.expm1(-x.double()) + x.double()
        close(k3, exact, 1e-6)
    tiny = torch.tensor([1e-3])
    assert klp.kl_estimate(tiny, 0 * tiny, "k3").item() == pytest.approx(5e-7, rel=1e-3)


# At the start the policy is the reference (items 43 and 45)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_penalty_of_the_first_batch_is_zero_item_45(estimator):
    lp, scores = normal(0, 3, 4) - 3, normal(1, 3)
    assert klp.kl_estimate(lp, lp, estimator).abs().max() == 0
    assert klp.kl_loss(lp, lp, RAGGED, estimator) == 0
    last = torch.tensor([[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    assert torch.equal(
        klp.penalized_rewards(scores, lp, lp, RAGGED, 0.7, estimator), scores[:, None] * last
    )


def test_yes_and_affirmative_cost_the_same_until_the_policy_drifts_item_43():
    """The penalty is a log *ratio*: how unlikely the reference finds an answer is not in it."""
    ref = torch.tensor([[math.log(0.2)], [math.log(1e-6)]])  # "Yes." and "Affirmative, …"
    one = torch.ones(2, 1)
    start = klp.penalized_rewards(torch.zeros(2), ref, ref, one, 0.1)
    assert start.tolist() == [[0.0], [0.0]]
    drifted = torch.tensor([[math.log(0.1)], [math.log(1e-3)]])
    after = klp.penalized_rewards(torch.zeros(2), drifted, ref, one, 0.1)
    close(after, [[0.1 * math.log(2)], [-0.1 * math.log(1000)]])


# Gradients, exact over a softmax: what each estimator does as a loss (items 42 and 50)


@fast
@given(st.integers(0, 999), st.integers(2, 6))
def test_kl_loss_on_samples_of_the_policy_has_the_gradient_of(seed, vocab):
    z, q = normal(seed, vocab).requires_grad_(), normal(seed + 1, vocab)
    log_p, log_r = z.log_softmax(0), q.log_softmax(0)
    p, r = log_p.exp().detach(), log_r.exp()
    kl = (p * (p / r).log()).sum()
    want = {
        "k1": torch.zeros(vocab),
        "k2": p * ((p / r).log() - kl),  # ∇KL(policy ‖ reference)
        "k3": p - r,  # ∇KL(reference ‖ policy)
    }
    for estimator in ESTIMATORS:
        expected = (p * klp.kl_estimate(log_p, log_r, estimator)).sum()
        (grad,) = torch.autograd.grad(expected, [z], retain_graph=True)
        close(grad, want[estimator], 1e-12)
    (grad,) = torch.autograd.grad(klp.exact_kl(z, q), [z])
    close(grad, want["k2"], 1e-12)


def test_gradients_of_kl_loss_and_what_is_a_constant():
    lp, ref = normal(0, 3, 4).requires_grad_(), normal(1, 3, 4).requires_grad_()
    slope = {"k1": torch.ones(3, 4), "k2": lp - ref, "k3": 1 - (ref - lp).exp()}
    for estimator in ESTIMATORS:
        loss = klp.kl_loss(lp, ref, RAGGED, estimator)
        grad, none = torch.autograd.grad(loss, [lp, ref], allow_unused=True)
        close(grad, slope[estimator].detach() * RAGGED / RAGGED.sum())
        assert none is None
        assert not klp.kl_estimate(lp.detach(), ref, estimator).requires_grad
        scores = normal(2, 3).requires_grad_()
        rewards = klp.penalized_rewards(scores, lp, ref, RAGGED, 0.1, estimator)
        assert not rewards.requires_grad
    assert not klp.exact_kl(lp.detach(), ref).requires_grad


# Extremes and padding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ratios_of_e_to_the_80_are_finite_and_right(dtype):
    lp = torch.tensor([[-81.0, -1.0]], dtype=dtype, requires_grad=True)
    ref = torch.tensor([[-1.0, -81.0]], dtype=dtype)
    one = torch.ones(1, 2)
    big = math.exp(80)
    wanted = {"k1": (-80.0, 80.0), "k2": (3200.0, 3200.0), "k3": (big, 79.0)}
    slopes = {"k1": (1.0, 1.0), "k2": (-80.0, 80.0), "k3": (-big, 1.0)}
    for estimator in ESTIMATORS:
        close(klp.kl_estimate(lp, ref, estimator), [wanted[estimator]])
        loss = klp.kl_loss(lp, ref, one, estimator)
        close(loss, sum(wanted[estimator]) / 2)
        (grad,) = torch.autograd.grad(loss, [lp])
        close(grad, [[x / 2 for x in slopes[estimator]]])
        rewards = klp.penalized_rewards(torch.zeros(1, dtype=dtype), lp, ref, one, 0.1, estimator)
        close(rewards, [[-0.1 * x for x in wanted[estimator]]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_logits_of_ten_thousand_are_finite_and_right(dtype):
    z = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], dtype=dtype, requires_grad=True)
    q = torch.tensor([[-1e4, 1e4, 0.0], [-1e4, 1e4, 0.0]], dtype=dtype)
    kl = klp.exact_kl(z, q)
    close(kl, [2e4, 0.0])
    assert torch.isfinite(torch.autograd.grad(kl.sum(), [z])[0]).all()
    lp, ref = z.log_softmax(-1)[:, :2], q.log_softmax(-1)[:, :2]
    for estimator in ESTIMATORS:
        loss = klp.kl_loss(lp, ref, torch.ones(2, 2), estimator)
        (grad,) = torch.autograd.grad(loss, [z], retain_graph=True)
        assert torch.isfinite(loss) and torch.isfinite(grad).all()
    top = klp.kl_estimate(lp, ref, "k3").max().item()  # r = e^20000 stops here
    assert top == pytest.approx(torch.finfo(dtype).max / 1000, rel=1e-4)


@pytest.mark.parametrize("garbage", [1e4, -1e4, 1e15])
def test_padding_changes_neither_results_nor_gradients(garbage):
    on = RAGGED.bool()

    def results(fill: float | None) -> list[Tensor]:
        lp, ref = normal(0, 3, 4), normal(1, 3, 4)
        if fill is not None:
            lp, ref = torch.where(on, lp, fill), torch.where(on, ref, -0.5 * fill)
        lp.requires_grad_()
        out = []
        for estimator in ESTIMATORS:
            loss = klp.kl_loss(lp, ref, RAGGED, estimator)
            out += [loss.detach(), torch.autograd.grad(loss, [lp])[0]]
            out.append(klp.penalized_rewards(normal(2, 3), lp, ref, RAGGED, 0.1, estimator))
        return out

    for clean, dirty in zip(results(None), results(garbage), strict=True):
        close(dirty, clean)


# Controllers


def test_fixed_controller_stays():
    controller = klp.FixedKLController(0.05)
    controller.update(100.0, 64)
    assert controller.value == 0.05


def test_adaptive_controller_is_ziegler_s():
    """e = clip(KL/target − 1, ±0.2), β ← β·(1 + K·e): at K = 0.1 at most ×1.02 a step."""
    for current, error in [
        (6.0, 0.0),
        (6.6, 0.1),
        (60.0, 0.2),
        (5.4, -0.1),
        (0.0, -0.2),
        (-3, -0.2),
    ]:
        controller = klp.AdaptiveKLController(0.2, target=6.0, horizon=10_000)
        controller.update(current, n_steps=1000)
        assert controller.value == pytest.approx(0.2 * (1 + 0.1 * error), rel=1e-12)
        assert 0.98 - 1e-12 <= controller.value / 0.2 <= 1.02 + 1e-12
    up = klp.AdaptiveKLController(1.0, 6.0, 10)
    for _ in range(116):
        up.update(1e9, 1)
    assert up.value < 10
    up.update(1e9, 1)
    assert up.value > 10  # "117 updates for a tenfold change"
    gentle = klp.AdaptiveKLController(0.2, 6.0, 10_000)
    gentle.update(torch.tensor(60.0), 100)  # K follows n_steps / horizon; a 0-d tensor will do
    assert gentle.value == pytest.approx(0.2 * 1.002) and isinstance(gentle.value, float)


def test_adaptive_controller_finds_a_beta_that_holds_the_target():
    """A policy whose KL answers to β as 1/β: the controller settles where the KL is the target."""
    controller = klp.AdaptiveKLController(1.0, target=4.0, horizon=2)
    for _ in range(300):
        controller.update(1 / controller.value, 1)
    assert 1 / controller.value == pytest.approx(4.0, rel=1e-3)


# Bad input


def test_bad_controllers_are_named():
    for value in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="^kl_coef: expected a finite number >= 0.0, got"):
            klp.FixedKLController(value)
        with pytest.raises(ValueError, match="^init_kl_coef: expected"):
            klp.AdaptiveKLController(value, 6.0, 100)
    with pytest.raises(ValueError, match="^init_kl_coef: expected a finite number > 0.0, got 0.0"):
        klp.AdaptiveKLController(0.0, 6.0, 100)  # a factor would never leave 0
    for value in (-1.0, 0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="^target: expected a finite number > 0.0, got"):
            klp.AdaptiveKLController(0.1, value, 100)
        with pytest.raises(ValueError, match="^horizon: expected"):
            klp.AdaptiveKLController(0.1, 6.0, value)
    controller = klp.AdaptiveKLController(0.1, 6.0, 100)
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="^current_kl: expected"):
            controller.update(value, 1)
    for value in (-1, 500, math.nan):
        with pytest.raises(ValueError, match="^n_steps: expected"):
            controller.update(1.0, value)
    controller.update(6.0, 0)
    controller.update(0.0, 499)
    assert 0 < controller.value < 0.1
    assert klp.FixedKLController(0.0).value == 0
    assert klp.AdaptiveKLController(0.1, 1.0, 1).value == 0.1


def call_rewards(logprobs, ref_logprobs, mask, scores=None):
    scores = torch.ones(3) if scores is None else scores
    return klp.penalized_rewards(scores, logprobs, ref_logprobs, mask, 0.1)


def call_loss(logprobs, ref_logprobs, mask):
    return klp.kl_loss(logprobs, ref_logprobs, mask, "k2")


@pytest.mark.parametrize("function", [call_rewards, call_loss])
def test_bad_batches_are_named(function):
    good = {"logprobs": normal(0, 3, 4), "ref_logprobs": normal(1, 3, 4)}
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


def test_penalized_rewards_pay_every_score_to_somebody():
    x = torch.zeros(3, 4)
    for bad in ([0, 0, 0, 0], [0, 1, 1, 1], [1, 0, 1, 0]):
        mask = RAGGED.clone()
        mask[1] = torch.tensor(bad)
        with pytest.raises(ValueError, match="^mask: expected rows 1…1 0…0"):
            call_rewards(x, x, mask)
        klp.kl_loss(x, x, mask, "k2")  # a mean asks for no order
    s = torch.ones(3)
    for bad in (s * math.nan, s / 0, s.long(), s.tolist(), s[:2], s[:, None]):
        with pytest.raises(ValueError, match="^scores: expected"):
            call_rewards(x, x, RAGGED, bad)
    for value in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="^kl_coef: expected"):
            klp.penalized_rewards(s, x, x, RAGGED, value)


def test_bad_pairs_and_unknown_estimators_are_named():
    x = normal(0, 5)
    for function, names in (
        (klp.kl_estimate, ["logprobs", "ref_logprobs"]),
        (klp.exact_kl, ["logits", "ref_logits"]),
    ):
        for bad in (x.long(), x * math.nan, x / 0, x.tolist()):
            with pytest.raises(ValueError, match=f"^{names[0]}: expected"):
                function(bad, x)
        for bad in (x.long(), x * math.nan, x / 0, x.tolist(), x[:3]):
            with pytest.raises(ValueError, match=f"^{names[1]}: expected"):
                function(x, bad)
    for bad in ("k4", "K1", "", None):
        with pytest.raises(ValueError, match="^estimator: expected 'k1', 'k2' or 'k3', got"):
            klp.kl_estimate(x, x, bad)
    with pytest.raises(TypeError):
        klp.kl_loss(x[None], x[None], torch.ones(1, 5))  # the estimator has to be chosen


def test_no_number_is_read_off_the_cpu():
    """A meta tensor has a shape and no numbers: reading one raises, as a GPU would have to wait."""
    x, mask = torch.ones(3, 4, device="meta"), RAGGED.to("meta")
    for estimator in ESTIMATORS:
        assert klp.kl_estimate(x, x, estimator).device.type == "meta"
        assert klp.kl_loss(x, x, mask, estimator).device.type == "meta"
        assert klp.penalized_rewards(x[:, 0], x, x, mask, 0.1, estimator).device.type == "meta"
    assert klp.exact_kl(x, x).device.type == "meta"


def test_inputs_are_left_alone():
    lp, ref, s, mask = normal(0, 3, 4), normal(1, 3, 4), normal(2, 3), RAGGED.clone()
    for estimator in ESTIMATORS:
        klp.penalized_rewards(s, lp, ref, mask, 0.1, estimator)
        klp.kl_loss(lp, ref, mask, estimator)
    klp.exact_kl(lp, ref)
    for x, seed in ((lp, 0), (ref, 1)):
        assert torch.equal(x, normal(seed, 3, 4))
    assert torch.equal(s, normal(2, 3)) and torch.equal(mask, RAGGED)
