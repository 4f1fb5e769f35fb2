"""Advantages from the other answers to a prompt, against a loop over responses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlhf_edu import InputError
from rlhf_edu.cases.studies.clip_higher import RARE, clipped_by_rarity
from rlhf_edu.cases.studies.group_advantages import FirstAnswer
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.group import KINDS, RightAnswer, group_advantages
from rlhf_edu.lab.model import ModelConfig, language_model
from rlhf_edu.lab.rlhf import RLHFConfig, choose_advantages
from rlhf_edu.ppo_clip import clipped_surrogate_loss


def batch(prompts: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards at every token, values, and replies of 1 to 6 tokens; garbage after their end."""
    luck = torch.Generator().manual_seed(seed)
    rewards = torch.randn(prompts * size, 6, generator=luck, dtype=torch.float64) * 2
    values = torch.randn(prompts * size, 6, generator=luck, dtype=torch.float64)
    lengths = torch.randint(1, 7, (prompts * size, 1), generator=luck)
    return rewards, values, (torch.arange(6) < lengths).double()


def slow(rewards: Tensor, mask: Tensor, kind: str, size: int) -> list[list[float]]:
    rows = [[r for r, on in zip(row, its, strict=True) if on]
            for row, its in zip(rewards.tolist(), mask.tolist(), strict=True)]  # fmt: skip
    usual, found = sum(map(len, rows)) / len(rows), []
    for i, row in enumerate(rows):
        first = i - i % size
        group = [sum(rows[j]) for j in range(first, first + size)]
        others = [sum(rows[j]) for j in range(first, first + size) if j != i]
        mean = sum(group) / size
        if kind == "rloo":
            advantage = sum(row) - sum(others) / (size - 1)
        elif kind == "dr-grpo":
            advantage = sum(row) - mean
        else:
            sd = (sum((x - mean) ** 2 for x in group) / size) ** 0.5
            advantage = (sum(row) - mean) / sd * usual / len(row)
        found.append([advantage if t < len(row) else 0.0 for t in range(6)])
    return found


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_advantages_are_those_of_a_loop_over_responses(kind, size):
    rewards, values, mask = batch(4, size, seed=size)
    found, _ = group_advantages(rewards, values, mask, 0.9, 0.5, kind, size)
    assert found.tolist() == [pytest.approx(row, abs=1e-10) for row in slow(rewards, mask, kind,
                                                                            size)]  # fmt: skip
    assert found.abs().max() > 1


@pytest.mark.parametrize("kind", KINDS)
def test_returns_are_the_discounted_rewards_still_to_come(kind):
    rewards, values, mask = batch(3, 2, seed=7)
    _, returns = group_advantages(rewards, values, mask, 0.8, 0.5, kind, 2)
    for row, its, got in zip(rewards.tolist(), mask.tolist(), returns.tolist(), strict=True):
        n = int(sum(its))
        want = [sum(0.8 ** (k - t) * row[k] for k in range(t, n)) for t in range(6)]
        assert got == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_neither_the_critic_nor_lambda_nor_garbage_after_the_end_is_used(kind):
    rewards, values, mask = batch(3, 4, seed=1)
    found = group_advantages(rewards, values, mask, 1.0, 0.3, kind, 4)
    other = group_advantages(torch.where(mask > 0, rewards, 99.0), -5 * values, mask, 1.0, 0.9,
                             kind, 4)  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(found, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_equal_answers_teaches_nothing(kind):
    rewards, values, mask = batch(3, 2, seed=2)
    rewards[2:4], mask[2:4] = torch.tensor([0.1, 0.2, 0.3, 0, 0, 0]).double(), 1.0
    found, _ = group_advantages(rewards, values, mask, 1.0, 1.0, kind, 2)
    assert not found[2:4].any() and found[:2].any() and found[4:].any()


def test_grpo_gives_every_response_the_same_weight_and_dr_grpo_every_token():
    """Two answers, of 1 and of 4 tokens: what each adds to a mean over tokens."""
    rewards = torch.zeros(2, 4)
    rewards[0, 0] = 1.0
    mask = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1]])
    grpo, _ = group_advantages(rewards, rewards, mask, 1.0, 1.0, "grpo", 2)
    assert grpo.sum(1).tolist() == pytest.approx([2.5, -2.5])
    dr, _ = group_advantages(rewards, rewards, mask, 1.0, 1.0, "dr-grpo", 2)
    assert dr.sum(1).tolist() == pytest.approx([0.5, -2.0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_chooses_its_kind_and_size(kind):
    rewards, values, mask = batch(2, 4, seed=3)
    chosen = choose_advantages(RLHFConfig(batch_size=8, advantage=kind, group_size=4))
    got, _ = chosen(rewards, values, mask, 1.0, 0.95)
    assert got.tolist() == [pytest.approx(row) for row in slow(rewards, mask, kind, 4)]


def test_a_group_is_of_two_or_more_and_divides_the_batch():
    assert RLHFConfig(batch_size=12, group_size=3).advantage == "gae"
    for kind in KINDS:
        with pytest.raises(InputError, match=r"RLHFConfig.group_size = 1: .* from 2 to 12$"):
            RLHFConfig(batch_size=12, advantage=kind)
    with pytest.raises(InputError) as error:
        RLHFConfig(batch_size=12, group_size=5)
    assert str(error.value) == (
        "RLHFConfig.group_size = 5: allowed are divisors of batch_size = 12")


def test_the_checker_pays_for_every_right_unit_and_for_no_other():
    table, prompts = helpdesk.desk(), helpdesk.all_prompts()
    row = next(i for i, p in enumerate(prompts) if p.slice == "short" and p.answer == "two")
    said = ["two", "two . have a nice day", "four", "two . four", "have a nice day"]
    ids = [helpdesk.encode(text) + [helpdesk.EOS] for text in said]
    replies = torch.tensor([i + [helpdesk.PAD] * (12 - len(i)) for i in ids])
    check = RightAnswer(language_model(ModelConfig(n_layers=1)))
    asked = table.prompts[torch.full((len(said),), row)]
    assert check(asked, replies).tolist() == [1, 1, 0, 0, 0]


@pytest.mark.parametrize("said, pay", [
    ("replace the battery then press the switch", 1),
    ("press the switch then replace the battery", 1),
    ("that is a good question . replace the battery then press the switch . have a nice day", 1),
    ("replace the battery then press the switch then open the store", 1),  # what follows is free
    ("replace the battery then open the store then press the switch", 0),
    ("replace the battery then replace the battery then press the switch", 0),
    ("replace the battery", 0),
    ("have a nice day", 0),
])  # fmt: skip
def test_the_checker_of_first_answers_reads_no_further(said, pay):
    table, prompts = helpdesk.desk(), helpdesk.all_prompts()
    row = next(i for i, p in enumerate(prompts) if p.right == (
        "replace the battery", "press the switch"))
    ids = [*helpdesk.encode(said), helpdesk.EOS]
    check = FirstAnswer(language_model(ModelConfig(n_layers=1)))
    assert check(table.prompts[[row]], torch.tensor([ids])).tolist() == [pay]


@pytest.mark.parametrize("high", [0.2, 0.28])
def test_clip_higher_trains_on_the_package_s_loss_where_the_widths_are_equal(high):
    luck = torch.Generator().manual_seed(3)
    old = -3 * torch.rand(60, 5, generator=luck, dtype=torch.float64)
    new = (old + 0.6 * torch.randn(60, 5, generator=luck, dtype=torch.float64)).requires_grad_()
    gain = torch.randn(60, 5, generator=luck, dtype=torch.float64)
    mask = (torch.arange(5) < torch.randint(1, 6, (60, 1), generator=luck)).double()
    (ours, stopped), theirs = clipped_by_rarity(new, old, gain, mask, 0.2, (high, high)), \
        clipped_surrogate_loss(new, old, gain, mask, 0.2, high)
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-12) and stopped.any()
    slopes = [torch.autograd.grad(loss, new, retain_graph=True)[0] for loss in (ours, theirs)]
    assert torch.allclose(*slopes, atol=1e-12) and slopes[0].abs().max() > 1e-3
    apart, _ = clipped_by_rarity(new, old, gain, mask, 0.2, (0.6, high))
    moved = torch.autograd.grad(apart, new)[0] != slopes[0]
    assert moved.any() and not moved[old.exp() >= RARE].any()
