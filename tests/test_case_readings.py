"""What C1, C4, C5 and C7 make of numbers: steps, pairs, a critic, trends, ratios, and prices."""

import math

import pytest
import torch

from rlhf_edu.advantage import masked_mean
from rlhf_edu.cases import blueprint, instability, post_deployment_drift, tuning
from rlhf_edu.cases.evidence import Seed, doublings
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.gold import gold_score, reply_mask, style_of
from rlhf_edu.lab.model import ModelConfig, language_model, scalar_model, values_of
from rlhf_edu.lab.rlhf import RLHFConfig


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


def test_an_arm_with_a_warm_up_takes_the_storys_steps_when_its_policy_begins() -> None:
    """Step sizes by the rule of the loop: lr · (1 − update / updates)."""
    story, centred = tuning.HACKED, tuning.RECIPE.arms["centred"].rlhf
    assert isinstance(centred, RLHFConfig) and centred.lr_end == story.lr_end == 0
    steps = [[c.lr * (1 - u / c.updates) for u in range(c.updates)] for c in (story, centred)]
    assert steps[1][centred.critic_warmup:] == pytest.approx(steps[0], rel=1e-12)


def test_pairs_that_no_training_saw_are_of_held_out_prompts_and_the_matched_are_alike() -> None:
    torch.manual_seed(1)
    table, policy = helpdesk.desk(), language_model(ModelConfig(n_layers=1)).eval()
    rows, a, b = blueprint.matched_pairs(policy, torch.Generator().manual_seed(2), 400, True)
    assert len(rows) > 20 and bool(table.held_out[rows].all())
    assert bool((style_of(a, table[rows]).words == style_of(b, table[rows]).words).all())
    assert bool((a != b).any(1).all())
    seen, _, _ = blueprint.matched_pairs(policy, torch.Generator().manual_seed(2), 400)
    assert not bool(table.held_out[seen].any())


def test_accuracy_is_the_share_of_pairs_in_golds_order() -> None:
    """A reward that is the gold score of three replies in four, and the reverse of the fourth."""
    table, luck = helpdesk.desk(), torch.Generator().manual_seed(5)
    rows = torch.arange(200)
    good = helpdesk.demonstrate(table, rows, luck, 16, helpdesk.AgentConfig(
        wrong_step=0.0, missing_step=0.0))
    bad = torch.full_like(good, helpdesk.PAD)
    bad[:, 0] = helpdesk.EOS
    here = table[rows]
    sign = torch.where(torch.arange(200) % 4 == 0, -1.0, 1.0)
    differ = gold_score(good, here).total != gold_score(bad, here).total
    found = blueprint.accuracy(
        lambda prompts, y: sign * gold_score(y, here).total, rows, good, bad)  # type: ignore[arg-type]
    assert found == pytest.approx(float((sign[differ] > 0).float().mean()), abs=1e-6)


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
