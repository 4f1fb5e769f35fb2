"""C3's readings of a run: where it jumps, what follows, and how much later it is than another."""

import math
from typing import Any

import pytest

from rlhf_edu.cases import hacking_spike as case
from rlhf_edu.cases.evidence import Run, Seed, grade


def run(rewards: list[float], accuracy: list[float] | None = None) -> Run:
    """A run examined every 50 updates, its KLREF the same numbers as its reward."""
    accuracy = accuracy or [0.0] * len(rewards)
    exams: list[dict[str, Any]] = [
        {"update": 50 * i, "rm/mean": r, "kl/exact": r, "rm/accuracy_on": a}
        for i, (r, a) in enumerate(zip(rewards, accuracy, strict=True))]
    return Run([], exams, {}, {}, {}, [])


def seed(**runs: Run) -> Seed:
    return Seed(0, {name.replace("_", "-"): each for name, each in runs.items()}, {})


QUIET, JUMP = [0.0, 1.0, 2.0], [9.0, 10.0, 11.0, 12.0, 13.0, 14.0]  # half-way up at 7


def test_a_jump_is_7_times_the_median_slope_and_half_way_up_between_two_examinations():
    story = seed(story=run(QUIET + JUMP))
    assert case.jump(story, "rm/mean") == pytest.approx(7.0)
    assert case.change_point(story, "rm/mean") == pytest.approx(100 + 50 * (7 - 2) / (9 - 2))


def test_half_way_is_of_the_rise_in_the_first_600_updates():
    ramp = [float(i) for i in range(13)]  # 12 after 600 updates, from 0: half-way is 6, at 300
    assert case.change_point(seed(story=run(ramp)), "rm/mean") == pytest.approx(300)
    assert case.change_point(seed(story=run([*ramp, 90.0])), "rm/mean") == pytest.approx(300)
    shifted = [5.0 + 3.0 * x for x in ramp]  # where it begins and its unit do not matter
    assert case.change_point(seed(story=run(shifted)), "rm/mean") == pytest.approx(300)


def test_what_does_not_rise_has_no_change_point_and_its_claims_are_nan_not_errors():
    story = seed(story=run([3.0, 2.0, 2.5, 1.0]), no_penalty=run(QUIET + JUMP))
    assert math.isnan(case.change_point(story, "rm/mean"))
    claims = {o.id: o for o in case.OBSERVATIONS}
    for name in ("together", "quiet-first", "accuracy-on-policy", "penalty-idle"):
        found = grade(claims[name], [story] * 5)
        assert math.isnan(found.value) and not found.holds, name


def test_before_is_the_first_half_of_the_way_and_after_all_that_follows_or_so_many_updates():
    story = seed(story=run(QUIET + JUMP, [0.2, 0.4, 0.9, 0.1, 0.2, 0.3, 0.4, 0.8, 0.6]))
    assert case.before(story, "rm/accuracy_on") == pytest.approx(0.3)  # at updates 0 and 50
    assert case.after(story, "rm/accuracy_on") == pytest.approx(0.4)
    assert case.after(story, "rm/accuracy_on", 200) == pytest.approx(0.25)
    assert case.after(story, "rm/accuracy_on", 100) == pytest.approx(0.15)


def test_a_delay_is_that_of_the_story_and_negative_where_it_is_first():
    late, early = run([0.0, 1, 2, 3, 4, 5, 12, 13, 14]), run(QUIET + JUMP)
    expected = (250 + 50 * 2 / 7) - (100 + 50 * 5 / 7)
    assert case.delay(seed(story=late, no_penalty=early), "no-penalty") == pytest.approx(expected)
    assert case.delay(seed(story=early, no_penalty=late), "no-penalty") == pytest.approx(-expected)
