"""P15's readings of two runs a seed, against numbers worked out by hand."""

import math

import pytest
import torch

from rlhf_edu.cases.evidence import Run, Seed
from rlhf_edu.cases.studies import length_head as study


def seed(lengths: tuple[float, float]) -> Seed:
    """The head's policies end with these LENs, the reference has 10; two probes of accuracy."""
    runs = {f"{time}-headed": Run([], [], {"style/length": end, "style/sales": 0.03},
                                  {"style/length": 10.0, "style/sales": 0.01}, {}, [])
            for time, end in zip(study.TIMES, lengths, strict=True)}
    found = {f"{time}/{kind}/accuracy": value for time, values in (
        ("first", (0.60, 0.58)), ("second", (0.64, 0.62)))
        for kind, value in zip(("plain", "headed"), values, strict=True)}
    return Seed(0, runs, {}, {"judged": found})


def value(name: str, of: Seed) -> float:
    return next(o for o in study.OBSERVATIONS if o.id == name).measure(of)


def test_two_policies_that_leave_the_length_in_opposite_ways_do_not_make_up_for_each_other():
    assert value("length-stays", seed((8.0, 12.0))) == pytest.approx(0.2)


def test_what_is_lost_is_held_against_what_is_above_a_coin():
    assert value("accuracy-kept", seed((10.0, 10.0))) == pytest.approx(-0.02)
    assert value("share-kept", seed((10.0, 10.0))) == pytest.approx(0.02 / 0.12)
    assert value("sales-stay", seed((10.0, 10.0))) == pytest.approx(math.log2(3))


def test_accuracy_is_what_the_raters_luck_leaves_in_the_mean():
    lead, chance = torch.tensor([1.0, -1.0, 0.0]), torch.tensor([0.9, 0.6, 0.7])
    assert study.expected_accuracy(lead, chance) == pytest.approx((0.9 + 0.4 + 0.5) / 3)
