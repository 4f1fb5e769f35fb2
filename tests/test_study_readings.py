"""What C8 and the studies P3, P6, P9, P17, P18 and P19 read off their runs, on numbers made up."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf_edu.cases import high_stakes
from rlhf_edu.cases.evidence import Run, Seed
from rlhf_edu.cases.studies import (
    clip_or_tricks,
    group_advantages,
    kl_estimators,
    leave_one_out,
    predicted_preference,
    reward_model_scaling,
)
from rlhf_edu.lab import helpdesk


def run(exams: list[dict[str, Any]] | None = None, updates: list[dict[str, Any]] | None = None,
        gold: float = 0.0, reference: float = 0.0) -> Run:
    return Run(updates or [], exams or [], {"gold/total": gold}, {"gold/total": reference}, {}, [])


@pytest.mark.parametrize("luck_alone, gap", [(True, 0.0), (False, 1.0)])
def test_the_gap_between_requests_is_measured_on_other_replies_than_it_is_picked_on(
        luck_alone: bool, gap: float) -> None:
    table = helpdesk.desk()
    refused = int(table.cluster[table.must_refuse & table.held_out].min())
    refusal, other = (helpdesk.encode(text) + [helpdesk.EOS]
                      for text in (helpdesk.REFUSAL, helpdesk.CONFIDENT[0]))
    width = max(len(refusal), len(other))

    def serve(rows: Tensor, luck: torch.Generator) -> Tensor:
        """Refuses one kind of request, always or in every other reply, and no other."""
        says = table.cluster[rows] == refused
        if luck_alone:
            says &= torch.arange(len(rows)) % 2 == 0
        pad = [[*text, *[helpdesk.PAD] * (width - len(text))] for text in (other, refusal)]
        return torch.tensor(pad)[says.long()]

    assert high_stakes.examine(serve, 0)["refused_gap"] == pytest.approx(gap)


def test_the_peak_is_read_for_twice_the_width_wherever_it_lies_on_the_curve() -> None:
    peaks = {4: 0.5, 6: 0.5, 8: 0.6, 12: 0.6, 16: 0.7}
    x = torch.tensor([[math.log2(width), 1.0] for width in peaks], dtype=torch.float64)
    y = torch.tensor(list(peaks.values()), dtype=torch.float64)
    slope = float(torch.linalg.lstsq(x, y[:, None]).solution[0, 0])
    curves = {f"gold/{width}": [0.0, peak, 0.2] if width < 8 else [0.0, 0.2, peak]
              for width, peak in peaks.items()}
    seed = Seed(0, {}, {}, {"sizes": curves})
    assert reward_model_scaling.by_size(seed, max) == pytest.approx(slope)


def test_wrong_replies_grow_by_so_many_words_an_update() -> None:
    seed = Seed(0, {}, {}, {"all": {"lengths/whole/grpo/wrong": [9.0, 30.0, 10.6]}})
    assert group_advantages.slope(seed, "whole", "grpo") == pytest.approx(0.1)


def test_dead_groups_are_those_of_the_middle_batch() -> None:
    seed = Seed(0, {}, {}, {"all": {"dead_groups/z": [0.3, -8.0, 1.7, -2.2, 0.1]}})
    assert group_advantages.inside(seed, "dead_groups/z") == pytest.approx(0.3)


def test_inside_two_standard_errors_is_said_of_the_middle_batch() -> None:
    seed = Seed(0, {}, {}, {"all": {"desk/k1/z": [-0.5, 9.0, 1.5, -2.5, 0.1]}})
    assert kl_estimators.within(seed, "k1") == pytest.approx(0.5)


def test_far_out_is_where_both_runs_together_are_farthest_from_the_reference() -> None:
    first, second = ([{"kl/exact": kl, "gold/win_rate": kl / 10 + more} for kl in drift]
                     for drift, more in (([0.0, 3.0, 1.0, 5.0, 2.0, 4.0], 0.0),
                                         ([0.0, 3.0, 1.0, 4.0, 9.0, 4.0], 0.2)))
    seed = Seed(0, {"first": run(first), "second": run(second)}, {})  # KLREF 0 3 1 4.5 5.5 4
    assert predicted_preference.far_out(seed, "gold/win_rate") == pytest.approx([0.55, 0.65])


def test_what_an_arm_lost_is_counted_from_the_reference_each_was_read_beside() -> None:
    runs = {"clip+tricks": run(gold=1.5, reference=1.0), "tricks": run(gold=1.4, reference=1.2)}
    assert clip_or_tricks.lost(Seed(0, runs, {}), "tricks") == pytest.approx(0.3)


def test_along_the_way_leaves_out_the_batch_of_the_reference() -> None:
    updates = [{"objective/scores": x} for x in (-9.0, 1.0, 2.0, 6.0)]
    assert leave_one_out.along_the_way(Seed(0, {"rloo": run(updates=updates)}, {}),
                                       "rloo") == pytest.approx(3.0)
