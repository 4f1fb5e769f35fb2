"""What C4, C5 and C7 make of numbers: pairs, a fitted critic, trends, ratios, and prices."""

import math

import pytest
import torch

from rlhf_edu.advantage import masked_mean
from rlhf_edu.cases import blueprint, instability, post_deployment_drift
from rlhf_edu.cases.evidence import Seed, doublings
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.gold import reply_mask, style_of
from rlhf_edu.lab.model import ModelConfig, scalar_model, values_of


def test_a_trend_is_the_slope_of_the_line_of_least_squares() -> None:
    values = [0.8, 0.7, 0.9, 1.3, 1.1]
    x = torch.stack([torch.arange(5.0), torch.ones(5)], 1)
    want = torch.linalg.lstsq(x, torch.tensor(values)[:, None]).solution[0, 0]
    assert instability.trend(values) == pytest.approx(float(want), rel=1e-5)


@pytest.mark.parametrize("policy, want", [(0.008, 2.0), (0.001, -1.0), (0.0, -math.inf)])
def test_repetition_is_a_ratio_in_powers_of_two(policy: float, want: float) -> None:
    seed = Seed(0, {}, {}, {"closer": {"policy": policy, "reference": 0.002}})
    assert instability.times_as_repetitive(seed) == pytest.approx(want)


def test_a_ratio_to_nothing_is_no_number() -> None:
    assert doublings(1.0, 4.0) == -2.0 and math.isnan(doublings(1.0, 0.0))


def test_a_price_answers_to_where_its_meter_stands_and_a_little_to_all_looks() -> None:
    zero = torch.zeros(2)
    reward = blueprint.NeutralReward(None, zero, zero, zero, zero)  # type: ignore[arg-type]
    for seen in ((0.1, -0.2), (0.05, 0.1), (0.0, 0.0)):
        reward.steer(*seen)
    # 0.7 and 10 for the last look, in which both stood where they were; 0.1 and 2 for the sums.
    assert reward.prices.tolist() == pytest.approx([0.1 * 0.15, 2 * -0.1])
    reward.steer(-0.05, 0.3)
    assert reward.prices.tolist() == pytest.approx([-0.7 * 0.05 + 0.1 * 0.1, 3.0 + 2 * 0.2])


def test_a_gate_is_passed_inside_its_limits_and_stops_beyond_twice_them() -> None:
    gate = blueprint.Gate("length", -0.05, 0.05, "within 5 %")
    assert gate.keeps(0.05) and gate.keeps(-0.05)
    assert not gate.keeps(0.06) and gate.keeps(0.06, 2) and not gate.keeps(-0.11, 2)


def test_the_courteous_reply_wins_its_share_of_the_pairs_and_both_answer_rightly() -> None:
    rows = post_deployment_drift.rows_of_slice(False).repeat(10)[:200]
    pairs = post_deployment_drift.courtesy_pairs(rows, 0.58, torch.Generator().manual_seed(3))
    chosen, rejected = (style_of(y, helpdesk.desk()[rows]) for y in (pairs.chosen, pairs.rejected))
    assert int((chosen.length > rejected.length).sum()) == 116
    assert bool((chosen.answered * rejected.answered == 1).all())
    assert bool((chosen.length != rejected.length).all())


def test_a_fitted_critic_is_right_on_the_whole() -> None:
    luck, table = torch.Generator().manual_seed(0), helpdesk.desk()
    rows = helpdesk.draw_prompts(table, 64, luck)
    replies = helpdesk.demonstrate(table, rows, luck, 32)
    mask = reply_mask(replies)
    returns = (mask.sum(1, keepdim=True) > 8).float() * mask + 2.0  # long replies are paid better
    torch.manual_seed(0)
    fitted = post_deployment_drift.fitted_critic(
        scalar_model(ModelConfig()), table.prompts[rows], replies, returns, luck, steps=5)
    with torch.no_grad():
        error = returns - values_of(fitted, table.prompts[rows], replies)
    assert abs(float(masked_mean(error, mask))) < 1e-5
