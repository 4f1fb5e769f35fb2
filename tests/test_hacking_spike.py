"""C3's readings of a run: where it jumps, what follows, and how much later it is than another."""

from typing import Any

import pytest

from rlhf_edu.cases import hacking_spike as case
from rlhf_edu.cases.evidence import Run, Seed


def run(rewards: list[float], accuracy: list[float] | None = None) -> Run:
    """A run examined every 50 updates, its KLREF the same numbers as its reward."""
    accuracy = accuracy or [0.0] * len(rewards)
    exams: list[dict[str, Any]] = [
        {"update": 50 * i, "rm/mean": r, "kl/exact": r, "rm/accuracy_on": a}
        for i, (r, a) in enumerate(zip(rewards, accuracy, strict=True))]
    return Run([], exams, {}, {}, {}, [])


def seed(**runs: Run) -> Seed:
    return Seed(0, {name.replace("_", "-"): each for name, each in runs.items()}, {})


QUIET, JUMP = [0.0, 1.0, 2.0], [9.0, 10.0, 11.0, 12.0, 13.0, 14.0]  # it jumps at update 150


def test_the_jump_is_where_the_steepest_50_updates_end_and_7_times_the_median():
    story = seed(story=run(QUIET + JUMP))
    assert case.change_point(story, "rm/mean") == 150
    assert case.jump(story, "rm/mean") == pytest.approx(7.0)


def test_after_is_what_follows_the_jump_all_of_it_or_so_many_updates():
    story = seed(story=run(QUIET + JUMP, [0.9] * 4 + [0.1, 0.2, 0.3, 0.4, 0.8]))
    assert case.after(story, "rm/accuracy_on") == pytest.approx(0.36)
    assert case.after(story, "rm/accuracy_on", 200) == pytest.approx(0.25)
    assert case.after(story, "rm/accuracy_on", 100) == pytest.approx(0.15)


def test_a_jump_that_comes_earlier_with_the_penalty_is_no_delay():
    late, early = run([0.0, 1, 2, 3, 4, 5, 12, 13, 14]), run(QUIET + JUMP)
    assert case.delay(seed(story=late, no_penalty=early), "no-penalty") == 150
    assert case.delay(seed(story=early, no_penalty=late), "no-penalty") == 0


def test_delay_sees_no_more_of_the_story_than_the_other_arm_lasts():
    story = run([*QUIET, 9.0, 10.0, 30.0])  # its steepest 50 updates end after those of the arm
    arm = run([0.0, 7.0, 8.0, 9.0, 10.0])  # ends at 200; jumps at 50
    assert case.delay(seed(story=story, no_penalty=arm), "no-penalty") == 100
