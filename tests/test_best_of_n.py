"""Best of n against every subset of the pool, one by one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlhf_edu import best_of_n as bon

fast = settings(max_examples=15, deadline=None, derandomize=True, database=None)


def close(got: Tensor, want: object, tol: float | None = None) -> None:
    want = torch.as_tensor(want, dtype=got.dtype)
    tol = tol or (1e-12 if got.dtype == torch.float64 else 5e-6)
    assert got.shape == want.shape, f"{tuple(got.shape)} is not {tuple(want.shape)}"
    assert torch.allclose(got, want, rtol=tol, atol=tol), f"{got} is not {want}"


def normal(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_subsets(proxy: list[float], gold: list[float], n: int) -> tuple[float, float]:
    """Mean gold and proxy of the best of n, over all C(N, n) subsets; ties by lot."""
    golds, proxies = [], []
    for subset in itertools.combinations(range(len(proxy)), n):
        best = max(proxy[i] for i in subset)
        tied = [gold[i] for i in subset if proxy[i] == best]
        golds.append(sum(tied) / len(tied))
        proxies.append(best)
    return sum(golds) / len(golds), sum(proxies) / len(proxies)


@fast
@given(st.integers(0, 999), st.integers(1, 7), st.booleans(), st.booleans())
def test_best_of_n_curve_is_the_mean_over_all_subsets(seed, size, ties, single):
    proxy = normal(seed, size, dtype=torch.float64 if single else torch.float32)
    if ties:
        proxy = proxy.round()
    gold = normal(seed + 1, size, dtype=proxy.dtype)
    ns = list(range(1, size + 1))
    curve = bon.best_of_n_curve(proxy, gold, ns)
    want = [by_subsets(proxy.tolist(), gold.tolist(), n) for n in ns]
    close(curve.gold, [g for g, _ in want])
    close(curve.proxy, [p for _, p in want])
    assert curve.gold.dtype == proxy.dtype


def test_best_of_n_curve_of_several_prompts_is_their_mean():
    proxy, gold = normal(0, 3, 6).round(decimals=0), normal(1, 3, 6)
    together = bon.best_of_n_curve(proxy, gold, [1, 3, 6])
    apart = [bon.best_of_n_curve(p, g, [1, 3, 6]) for p, g in zip(proxy, gold, strict=True)]
    close(together.gold, sum(x.gold for x in apart) / 3)
    close(together.proxy, sum(x.proxy for x in apart) / 3)


def test_best_of_n_curve_begins_with_the_mean_and_ends_with_the_best():
    proxy, gold = normal(0, 50), normal(1, 50)
    curve = bon.best_of_n_curve(proxy, gold, range(1, 51))
    close(curve.gold[0], gold.mean())
    close(curve.proxy[0], proxy.mean())
    close(curve.gold[-1], gold[bon.best_of_n(proxy[None])[0]])
    close(curve.proxy[-1], proxy.max())
    assert (curve.proxy.diff() > 0).all()  # the proxy can only rise with n


def test_best_of_n_curve_is_the_law_of_the_best_for_an_independent_pool():
    """Maximum of n uniform numbers: mean n/(n+1). A large pool comes close, at every n at once."""
    pool = torch.rand(20, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    curve = bon.best_of_n_curve(pool, 1 - pool, [1, 2, 8, 64, 512])
    close(curve.proxy, [n / (n + 1) for n in (1, 2, 8, 64, 512)], 5e-3)
    close(curve.gold, 1 - curve.proxy)


def test_best_of_n_curve_stays_exact_for_large_pools():
    size = 60_000
    proxy = torch.arange(size, dtype=torch.float64)
    for n in (2, 1000, 59_999):
        want = n * (size + 1) / (n + 1) - 1  # mean maximum of n out of 1 … N, drawn without return
        got = bon.best_of_n_curve(proxy, proxy, [n]).proxy
        assert got.item() == pytest.approx(want, rel=1e-9)


def test_a_proxy_that_is_wrong_at_the_top_makes_gold_rise_and_fall_item_19():
    proxy = torch.arange(1000, dtype=torch.float64)
    gold = torch.where(
        proxy < 980, proxy, -proxy
    )  # the 20 answers that the proxy likes best are bad
    curve = bon.best_of_n_curve(proxy, gold, [1, 2, 4, 8, 16, 64, 256])
    best = curve.gold.argmax().item()
    assert 0 < best < 6 and curve.gold[-1] < curve.gold[0] and (curve.proxy.diff() > 0).all()


def test_best_of_n_takes_the_first_of_the_best():
    proxy = torch.tensor([[0.0, 2.0, 2.0], [1.0, 0.0, -1.0]])
    assert bon.best_of_n(proxy).tolist() == [1, 0]
    assert bon.best_of_n(proxy[0]).item() == 1


def test_best_of_n_kl_bound_is_log_n_minus_n_minus_one_over_n():
    assert bon.best_of_n_kl_bound(1) == 0
    assert bon.best_of_n_kl_bound(2) == pytest.approx(math.log(2) - 0.5)
    assert bon.best_of_n_kl_bound(256) == pytest.approx(4.55, abs=5e-3)
    assert bon.best_of_n_kl_bound(1000) == pytest.approx(5.91, abs=5e-3)  # "about 6 nats"
    assert bon.best_of_n_kl_bound(60_000) == pytest.approx(10.0, abs=5e-3)
    # of a continuous proxy: the KL of the law n·u^(n−1) from the uniform one, as an integral
    for n in (2, 5, 30):
        u = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
        density = n * u ** (n - 1)
        kl = (density * density.clamp(min=1e-300).log()).mean().item()
        assert bon.best_of_n_kl_bound(n) == pytest.approx(kl, abs=1e-5)


def test_bad_pools_are_named():
    proxy, gold = normal(0, 2, 5), normal(1, 2, 5)
    for name in ("proxy", "gold"):
        good = {"proxy": proxy, "gold": gold}
        x = good[name]
        nan, inf = x.clone(), x.clone()
        nan[0, 0], inf[1, 4] = math.nan, math.inf
        for bad in (nan, inf, x.long(), x.tolist(), x[None], x[0], x[:, :0]):
            with pytest.raises(ValueError, match=r"^(gold|proxy): expected"):
                bon.best_of_n_curve(**{**good, name: bad}, ns=[1])
        if name == "gold":
            for bad in (nan, x.long(), x.tolist(), x[0]):
                with pytest.raises(ValueError, match=r"^gold: expected"):
                    bon.best_of_n_curve(proxy, bad, [1])
    for bad in (proxy * math.nan, proxy.long(), proxy[None], proxy[:, :0], proxy.tolist()):
        with pytest.raises(ValueError, match=r"^proxy: expected"):
            bon.best_of_n(bad)


@pytest.mark.parametrize("n", [0, -1, 6, 1.5])
def test_bad_ns_are_named(n):
    with pytest.raises(ValueError, match="^ns: expected whole numbers from 1 to the pool's 5, got"):
        bon.best_of_n_curve(normal(0, 5), normal(1, 5), [1, n])
    if n < 1:
        with pytest.raises(ValueError, match="^n: expected a number from 1 up, got"):
            bon.best_of_n_kl_bound(n)


def test_no_ns_at_all_is_named():
    with pytest.raises(ValueError, match="^ns: expected"):
        bon.best_of_n_curve(normal(0, 5), normal(1, 5), [])
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="^n: expected"):
            bon.best_of_n_kl_bound(bad)


def test_no_number_is_read_off_the_cpu():
    """A meta tensor has a shape and no numbers: reading one raises, as a GPU would have to wait."""
    x = torch.ones(3, 4, device="meta")
    assert bon.best_of_n_curve(x, x, [1, 2]).gold.device.type == "meta"
    assert bon.best_of_n(x).device.type == "meta"


def test_inputs_are_left_alone():
    proxy, gold = normal(0, 3, 6), normal(1, 3, 6)
    bon.best_of_n_curve(proxy, gold, [1, 6])
    assert torch.equal(proxy, normal(0, 3, 6)) and torch.equal(gold, normal(1, 3, 6))
