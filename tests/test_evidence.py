"""Verdicts on all seeds together, on most seeds, and on remedies: against sums by hand."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_edu.cases import evidence
from rlhf_edu.cases.evidence import (
    Observation,
    Remedy,
    Run,
    Seed,
    beyond_stopping,
    grade,
    interval,
    jackknife,
    ratio,
    reproduced,
    weigh,
    winner_line,
    worth,
)


def seeds_with(*columns: list[float]) -> list[Seed]:
    """Seeds of which number i shows element i of each column."""
    return [Seed(i, {}, {}, {"shown": dict(enumerate(row))})
            for i, row in enumerate(zip(*columns, strict=True))]  # fmt: skip


def shown(seeds: list[Seed], column: int = 0) -> list[float]:
    return [seed.probes["shown"][column] for seed in seeds]


def normal(seed: int, n: int) -> list[float]:
    return [float(x) for x in np.random.default_rng(seed).normal(2, 0.5, n)]


# ── Numbers that only all seeds have together ───────────────────────────────────────────────────
def test_a_pooled_mean_is_graded_as_the_mean_is() -> None:
    """The pseudo-values of a mean are the values themselves, so its interval is Student's."""
    values = normal(1, 7)
    seeds = seeds_with(values)
    whole, pseudo = jackknife(lambda some: statistics.fmean(shown(some)), seeds)
    assert whole == pytest.approx(statistics.fmean(values)) and pseudo == pytest.approx(values)
    one = Observation("id", "c", lambda s: s.probes["shown"][0], 1.0, "above")
    both = Observation("id", "c", lambda some: statistics.fmean(shown(some)), 1.0, "above",
                       pooled=True)  # fmt: skip
    a, b = grade(one, seeds), grade(both, seeds)
    assert (b.value, b.low, b.high) == pytest.approx((a.value, a.low, a.high))
    assert a.holds and b.holds


def test_the_jackknife_of_a_biased_variance_is_the_unbiased_one() -> None:
    """Known for a century: leaving one out in turn takes the 1/n of a variance away exactly."""
    values = normal(2, 9)
    whole, pseudo = jackknife(lambda some: statistics.pvariance(shown(some)), seeds_with(values))
    assert whole == pytest.approx(statistics.pvariance(values))
    assert statistics.fmean(pseudo) == pytest.approx(statistics.variance(values))


def test_the_jackknifes_interval_of_a_ratio_is_that_of_its_linear_form() -> None:
    numbers = np.random.default_rng(3)
    whole = numbers.normal(2, 0.4, 60)
    part = 0.5 * whole + numbers.normal(0, 0.3, 60)
    columns = [[float(x) for x in part], [float(x) for x in whole]]
    value, low, high = ratio(*columns)
    found, pseudo = jackknife(lambda s: sum(shown(s, 0)) / sum(shown(s, 1)), seeds_with(*columns))
    assert found == pytest.approx(value)
    assert interval(pseudo) == pytest.approx((low, high), abs=0.05 * (high - low))


def test_each_seed_is_left_out_once() -> None:
    seen: list[list[int]] = []
    jackknife(lambda some: float(seen.append([s.seed for s in some]) or 0), seeds_with([0.0] * 4))
    assert seen == [[0, 1, 2, 3], [1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


def test_a_pooled_number_of_one_seed_has_no_interval() -> None:
    claim = Observation("id", "c", lambda some: sum(shown(some)), 0.0, "above", pooled=True)
    found = grade(claim, seeds_with([3.0]))
    assert found.value == 3 and found.values == [3] and math.isnan(found.low) and not found.holds


def test_a_pooled_share_of_nothing_does_not_hold() -> None:
    """Here it is there for all seeds, but without the only seed that gives it is not."""
    def share(some: list[Seed]) -> float:
        return 1 / sum(shown(some))

    claim = Observation("id", "c", share, 0.0, "above", pooled=True)
    found = grade(claim, seeds_with([1.0, 0, 0, 0, 0, 0]))
    assert found.value == 1 and math.isnan(found.values[0]) and math.isnan(found.low)
    assert not found.holds


# ── Claims about most seeds ─────────────────────────────────────────────────────────────────────
def mostly(values: list[float], threshold: float = 1.0) -> evidence.Finding:
    claim = Observation("id", "c", lambda s: s.probes["shown"][0], threshold, "mostly above")
    return grade(claim, seeds_with(values))


@pytest.mark.parametrize(
    "values, holds",
    [
        ([2, 2, 2, 2, -99], True),  # four of five, however bad the fifth
        ([2, 2, 2, -99, -99], False),
        ([2, 2, 2, 2, 1], True),  # on the threshold is not above it
        ([2, 2, 2, 1, 1], False),
        ([2, 2, 2, 2, math.nan], True),
        ([2, 2, 2, math.nan, math.nan], False),
        ([2, 2, 2, 2], False),  # fewer than five seeds never hold
        ([2, 2, 2, 2, 2, 0], True),
        ([2, 2, 2, 2, 0, 0], False),
        ([2] * 8 + [0] * 2, True),
        ([2] * 7 + [0] * 3, False),
    ],
)
def test_most_seeds_are_four_of_five(values: list[float], holds: bool) -> None:
    found = mostly([float(v) for v in values])
    assert found.holds is holds
    if all(map(math.isfinite, found.values)):
        assert found.worst == min(values)


def test_most_seeds_are_counted_without_rounding() -> None:
    for n in range(5, 80):
        least = next(k for k in range(n + 1) if 5 * k >= 4 * n)
        assert mostly([2.0] * least + [0.0] * (n - least)).holds
        assert not mostly([2.0] * (least - 1) + [0.0] * (n - least + 1)).holds


# ── What is reported only ───────────────────────────────────────────────────────────────────────
def test_what_is_reported_only_is_measured_alike_and_does_not_decide() -> None:
    seeds = seeds_with(normal(2, 6))
    claims = [Observation(f"{threshold}", "c", lambda s: s.probes["shown"][0], threshold, "above",
                          graded=graded) for threshold in (0.0, 9.0) for graded in (True, False)]
    holds, said, fails, denied = found = [grade(claim, seeds) for claim in claims]
    assert [f.holds for f in found] == [True, True, False, False]
    assert (said.low, said.high) == (denied.low, denied.high) == (holds.low, fails.high)
    assert [f.verdict for f in found] == ["HOLDS", "reported: yes", "NOT REPRODUCED",
                                          "reported: no"]
    assert reproduced([holds, said, denied]) and not reproduced([holds, fails])


# ── The story, stopped early ────────────────────────────────────────────────────────────────────
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=8, unique=True),
       st.integers(-25, 25), st.integers(0, 99))  # fmt: skip
def test_the_broken_line_is_numpys(places: list[int], at: int, seed: int) -> None:
    xs = [x / 4 for x in sorted(places)]
    ys = [float(y) for y in np.random.default_rng(seed).normal(size=len(xs))]
    want = float(np.interp(at / 4, xs, ys))
    assert evidence._interpolate(at / 4, xs, ys) == pytest.approx(want, abs=1e-12)


def run_of(exams: list[tuple[float, float]], **numbers: dict[str, float]) -> Run:
    """A run of these examinations, (KLREF, GOLD) each."""
    lines = [{"update": 2 * i, "kl/exact": kl, "gold/total": gold}
             for i, (kl, gold) in enumerate(exams)]  # fmt: skip
    return Run([], lines, numbers.get("final", {}), numbers.get("reference", {}),
               numbers.get("judge", {}), [])  # fmt: skip


@pytest.mark.parametrize(
    "kl, story_there",
    [
        (0.0, 10.0), (1.0, 9.0), (2.0, 8.0),  # where it first came, not where it came back to
        (3.0, 7.5), (4.0, 6.0),  # from 9, the last before it passed 2, down to 6
        (9.0, 6.0), (-1.0, 10.0),  # beyond its ends
    ],
)  # fmt: skip
def test_an_arm_is_held_against_the_story_where_that_passed_the_same_distance(
    kl: float, story_there: float
) -> None:
    """The story goes to KL 2, back to 1 and on to 4; its GOLD is 10, 8, 9, 6."""
    story = run_of([(0, 10), (2, 8), (1, 9), (4, 6)])
    arm = run_of([(0, 10), (7, -50), (kl, 8.5)])  # its last examination counts
    found = beyond_stopping("arm", "story", Seed(0, {"story": story, "arm": arm}, {}))
    assert found == pytest.approx(8.5 - story_there)


# ── What a remedy is worth ──────────────────────────────────────────────────────────────────────
REGRESSIONS = {"gold/total": "GOLD", "style/length": "LEN"}


def tried(number: int, **arms: tuple[float, float, float]) -> Seed:
    """A seed whose story gains 4 in reward, loses 2 in GOLD and grows by 10 in LEN.

    An arm is (share of the gain kept, share of GOLD given back, share of LEN given back).
    """
    base = {"rm/mean": 1.0, "gold/total": 5.0, "style/length": 10.0, "kl/exact": 0.0}

    def run(kept: float, gold: float, length: float, kl: float) -> Run:
        final = {"rm/mean": -77.0, "gold/total": 3.0 + 2 * gold, "kl/exact": kl,
                 "style/length": 20 - 10 * length}  # fmt: skip
        return run_of([(0.0, 5.0), (kl, final["gold/total"])], final=final, reference=base,
                      judge={"rm/mean": 1.0 + 4 * kept})  # fmt: skip

    models = {"biased": {"labels": 10 + number, "replies": 30.0}}
    runs = {name: run(*shares, 2.0) for name, shares in arms.items()}
    return Seed(number, runs | {"story": run(1.0, 0.0, 0.0, 4.0)}, models)


def weighed(seeds: list[Seed], *arms: str) -> list[Remedy]:
    return [weigh(arm, f"what {arm} is", "story", "biased", REGRESSIONS, seeds) for arm in arms]


@pytest.mark.parametrize(
    "shares, expected",
    [
        ((0.9, 0.8, 0.6), 0.7),  # the regressions decide, by their mean
        ((0.5, 0.8, 0.9), 0.5),  # the reward decides
        ((0.9, 3.0, 0.2), 0.6),  # more than all of one does not pay for another
        ((1.5, 0.9, 0.9), 0.9),
        ((0.9, -1.0, 1.0), 0.0),
    ],
)
def test_worth_by_hand(shares: tuple[float, float, float], expected: float) -> None:
    seeds = [tried(i, arm=shares) for i in range(5)]
    assert worth("arm", "story", REGRESSIONS, seeds) == pytest.approx(expected)
    (remedy,) = weighed(seeds, "arm")
    assert remedy.worth == pytest.approx(expected) and remedy.labels == 12
    assert remedy.reward_kept == pytest.approx((shares[0],) * 3)
    assert remedy.removed["LEN"] == pytest.approx((shares[2],) * 3)
    # The story is at KL 2 half-way down from 5 to 3.
    assert remedy.beyond_stopping == pytest.approx((3 + 2 * shares[1] - 4,) * 3)


def test_worth_is_of_sums_over_seeds_not_a_mean_of_shares() -> None:
    seeds = [tried(0, arm=(0.2, 1.0, 1.0)), tried(1, arm=(0.6, 1.0, 1.0))]
    for line in (seeds[0].runs["story"], seeds[1].runs["story"]):
        assert line.judge["rm/mean"] == 5
    assert worth("arm", "story", REGRESSIONS, seeds) == pytest.approx(0.4)


def test_a_remedy_of_a_regression_that_never_was_is_worth_nothing_known() -> None:
    seeds = [tried(i, arm=(0.9, 0.9, 0.9)) for i in range(5)]
    for seed in seeds:
        seed.runs["story"].reference["style/length"] = 20.0  # the story grew by nothing
    assert math.isnan(worth("arm", "story", REGRESSIONS, seeds))


def test_the_winner_is_named_with_those_within_noise_of_it() -> None:
    noise = [-0.04, -0.02, 0.0, 0.02, 0.04]
    seeds = [tried(i, best=(0.9, 0.8 - e, 0.8), near=(0.9, 0.79 + e, 0.79), far=(0.3, 0.8, 0.8))
             for i, e in enumerate(noise)]  # fmt: skip
    line = winner_line(weighed(seeds, "far", "near", "best"), "story", REGRESSIONS, seeds)
    assert line == (
        "best wins (worth 0.80: the smaller of the share of the reward gain kept and the mean "
        "share of regressions removed; 0.7 wins); within noise of it: near"
    )


def test_the_nearest_need_not_win() -> None:
    seeds = [tried(i, a=(0.69, 0.9, 0.9), b=(0.2, 0.9, 0.9)) for i in range(5)]
    line = winner_line(weighed(seeds, "b", "a"), "story", REGRESSIONS, seeds)
    assert line.startswith("a is the nearest; no change wins (worth 0.69")
    assert "within noise" not in line
    seeds = [tried(i, a=(0.701, 0.9, 0.9)) for i in range(5)]
    assert winner_line(weighed(seeds, "a"), "story", REGRESSIONS, seeds).startswith("a wins (worth")


def test_one_seed_says_that_nothing_is_beyond_noise() -> None:
    seeds = [tried(0, a=(0.9, 0.9, 0.9), b=(0.2, 0.9, 0.9))]
    line = winner_line(weighed(seeds, "a", "b"), "story", REGRESSIONS, seeds)
    assert line.endswith("within noise of it: b")


def test_sides_are_those_that_a_verdict_knows() -> None:
    for side in evidence.SIDES:
        claim: Any = Observation("id", "c", lambda s: 1.0, 0.5, side)
        assert grade(claim, seeds_with([0.0] * 5)).side == side
