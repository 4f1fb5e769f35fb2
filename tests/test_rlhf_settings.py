"""The settings of PPO that ask for another clip, another advantage, another critic, other scores.

That the whole loop computes what they say is in test_plain_ppo.py; here is what they leave alone.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from lively import SMALL, generator, lively
from torch import Tensor

from rlhf_edu import InputError, ppo_clip
from rlhf_edu.lab import helpdesk, rlhf
from rlhf_edu.lab.model import Transformer, language_model, scalar_model
from rlhf_edu.lab.reward_model import Ensemble, RewardModel
from rlhf_edu.lab.rlhf import RLHFConfig, choose_policy_loss, train_rlhf

DESK = helpdesk.desk()
BASE = RLHFConfig(seed=6, updates=2, batch_size=12, num_ppo_epochs=2, num_mini_batches=2, lr=0.01,
                  response_length=8)  # fmt: skip


@pytest.fixture(scope="module")
def frozen() -> tuple[Transformer, RewardModel]:
    reference = lively(language_model(SMALL), 0, ends=3.5)
    return reference, RewardModel(lively(scalar_model(SMALL), 50), mean=0.3, sd=1.7)


class Ran:
    """A run, its policies and critics after each update, and what was read."""

    def __init__(self, frozen, reward=None, given=None, **settings):
        reference, reward_model = frozen
        self.config = replace(BASE, **settings)
        self.policies, self.critics = [reference], []
        self.metrics: list[dict[str, float]] = []
        self.read: list[tuple[Tensor, Tensor]] = []
        self.rollouts: list[tuple[Tensor, ...]] = []
        state = rlhf.start(self.config, reference, reward_model)
        self.critics.append(copy.deepcopy(state.value))

        def scored(prompts: Tensor, responses: Tensor) -> Tensor:
            self.read.append((prompts, responses))
            return (reward or reward_model)(prompts, responses)

        def after_update(state, metrics):
            self.policies.append(copy.deepcopy(state.policy))
            self.critics.append(copy.deepcopy(state.value))
            self.metrics.append(metrics)

        train_rlhf(self.config, state, reference, scored, after_update, **(given or {}))


def same(a: Transformer, b: Transformer) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


# The clip


def tokens(seed: int) -> tuple[Tensor, ...]:
    """Log-probabilities whose ratios leave every bound, advantages of both signs, a mask."""
    new, old, gain = torch.randn(3, 40, 6, generator=generator(seed)).mul(0.5)
    mask = (torch.rand(40, 6, generator=generator(9)) < 0.8).float()
    return new.requires_grad_(), old, gain, mask


def gradient(loss, batch: tuple[Tensor, ...], *settings) -> Tensor:
    return torch.autograd.grad(loss(*batch, *settings), batch[0])[0]


@pytest.mark.parametrize(
    "settings, plain",
    [
        ({}, lambda *x: ppo_clip.clipped_surrogate_loss(*x)),
        ({"cliprange_high": 0.5},
         lambda *x: ppo_clip.clipped_surrogate_loss(*x, cliprange_high=0.5)),
        ({"cliprange_high": 0.05},
         lambda *x: ppo_clip.clipped_surrogate_loss(*x, cliprange_high=0.05)),
        ({"clip": "upper"}, lambda *x: ppo_clip.upper_bound_clip_loss(*x)),
    ],
)
def test_the_loss_that_a_configuration_asks_for_is_that_of_the_concept(settings, plain):
    chosen, batch = choose_policy_loss(replace(BASE, **settings)), tokens(1)
    assert torch.equal(gradient(chosen, batch, 0.2), gradient(plain, batch, 0.2))
    assert torch.equal(chosen(*batch, 0.1), plain(*batch, 0.1)), "the lower bound is given later"


def test_every_clip_has_a_gradient_of_its_own():
    batch = tokens(1)
    settings = ({}, {"cliprange_high": 0.5}, {"cliprange_high": 0.05}, {"clip": "upper"})
    found = [gradient(choose_policy_loss(replace(BASE, **s)), batch, 0.2) for s in settings]
    assert all((found[i] - found[j]).abs().max() > 1e-3 for i in range(4) for j in range(i))


def test_a_loss_of_ones_own_comes_before_the_configurations(frozen):
    calls = []

    def own(*args: Tensor) -> Tensor:
        calls.append(args[-1])
        return 0.0 * args[0].sum()

    def advantages(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float):
        return mask * torch.arange(8.0), values

    ran = Ran(frozen, clip="upper", advantage="grpo", group_size=2,
              given={"policy_loss": own, "advantage_fn": advantages})  # fmt: skip
    assert calls == [0.2] * 8 and same(ran.policies[-1], ran.policies[0])
    assert ran.metrics[0]["advantage/mean"] > 0, "no group has a mean above 0"


# Several answers to a prompt


def test_a_group_is_several_answers_to_one_prompt(frozen):
    ran = Ran(frozen, group_size=3, updates=1)
    prompts, responses = (torch.cat(x) for x in zip(*ran.read, strict=True))
    luck = generator(BASE.seed)
    rows = helpdesk.draw_prompts(DESK, 4, luck)
    assert torch.equal(prompts, DESK.prompts[rows].repeat_interleave(3, 0))
    assert len({tuple(row) for row in responses.tolist()}) > 6
    assert ran.metrics[0]["episode"] == 12


def test_without_groups_every_answer_has_a_prompt_of_its_own(frozen):
    ran = Ran(frozen, updates=1)
    rows = helpdesk.draw_prompts(DESK, 12, generator(BASE.seed))
    assert torch.equal(torch.cat([x for x, _ in ran.read]), DESK.prompts[rows])


@pytest.mark.parametrize("size, parts", [(600, [256, 256, 88]), (13, [7, 6]), (512, [256, 256])])
def test_a_batch_is_read_in_parts_of_at_most_256_and_put_together_in_order(frozen, size, parts):
    """A reward that is the number of the row: it comes back with the advantages of that row."""
    seen: list[Tensor] = []

    def numbered(prompts: Tensor, responses: Tensor) -> Tensor:
        first = sum(len(x) for x, _ in ran_read)
        ran_read.append((prompts, responses))
        return torch.arange(first, first + len(prompts)).float()

    def advantages(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float):
        seen.append(rewards.sum(1))
        return mask * torch.arange(mask.shape[1]), values

    ran_read: list[tuple[Tensor, Tensor]] = []
    settings = {"updates": 1, "batch_size": size, "kl_coef": 0.0, "num_mini_batches": 1,
                "num_ppo_epochs": 1, "response_length": 3, "missing_eos_penalty": 0.0}  # fmt: skip
    Ran(frozen, numbered, {"advantage_fn": advantages}, **settings)
    assert [len(x) for x, _ in ran_read] == parts
    assert torch.equal(seen[0], torch.arange(size).float())
    prompts = torch.cat([x for x, _ in ran_read])
    rows = helpdesk.draw_prompts(DESK, size, generator(BASE.seed))
    assert torch.equal(prompts, DESK.prompts[rows])


# The critic


def test_in_the_critics_warm_up_the_policy_does_not_move_by_a_bit(frozen):
    for placement in ("reward", "loss"):
        ran = Ran(frozen, updates=4, critic_warmup=2, kl_placement=placement, kl_estimator="k2")
        assert same(ran.policies[1], ran.policies[0]) and same(ran.policies[2], ran.policies[0])
        assert not same(ran.policies[3], ran.policies[2])
        assert not same(ran.policies[4], ran.policies[3])
        assert not any(same(a, b) for a, b in zip(ran.critics, ran.critics[1:], strict=False))
        assert all(m["objective/kl_exact"] < 1e-5 for m in ran.metrics[:3])
        assert ran.metrics[0]["loss/policy_avg"] != 0, "its loss is measured all the same"


def test_a_warm_up_as_long_as_the_run_leaves_the_reference(frozen):
    ran = Ran(frozen, critic_warmup=9, updates=2)
    assert same(ran.policies[-1], ran.policies[0])


def test_in_the_warm_up_the_critic_learns_as_beside_a_policy_that_is_told_nothing(frozen):
    def nothing(logprobs: Tensor, *rest: object) -> Tensor:
        return 0.0 * logprobs.sum()

    warm = Ran(frozen, updates=2, critic_warmup=2)
    told_nothing = Ran(frozen, updates=2, given={"policy_loss": nothing})
    assert same(warm.critics[-1], told_nothing.critics[-1])


def test_after_the_warm_up_the_policy_takes_steps_of_the_usual_size(frozen):
    """Its first update is no longer than the first of a run without a warm-up."""
    settings = {"batch_size": 8, "response_length": 4, "num_mini_batches": 4, "num_ppo_epochs": 6,
                "lr": 3e-4, "max_grad_norm": 1e6}  # fmt: skip
    moved = []
    for warm_up in (0, 5):
        ran = Ran(frozen, updates=warm_up + 1, critic_warmup=warm_up, **settings)
        before, after = ran.policies[-2:]
        moved.append(max(float((a - b).detach().abs().max()) for a, b in zip(
            before.parameters(), after.parameters(), strict=True)))  # fmt: skip
    assert moved[1] < 1.15 * moved[0]


def test_a_critic_that_starts_from_nothing_is_new_for_each_seed_and_says_zero(frozen):
    def critic(**settings: object) -> Transformer:
        return rlhf.start(replace(BASE, **settings), *frozen).value

    torch.manual_seed(1)
    first = critic(critic_init="random")
    torch.manual_seed(2)
    assert same(first, critic(critic_init="random"))
    assert not same(first, critic(critic_init="random", seed=7))
    taken = critic()
    assert not torch.equal(first.embed.weight, taken.embed.weight)
    assert torch.equal(taken.embed.weight, frozen[1].model.embed.weight)
    for value in (first, taken):
        assert not value.head.weight.any() and not value.head.bias.any()
    x, y = DESK.prompts[:3], torch.full((3, 4), 30)
    assert first.before_each_token(x, y).std() > 0.01


def test_a_critic_beside_an_ensemble_starts_as_its_first_member(frozen):
    other = RewardModel(lively(scalar_model(SMALL), 70), mean=0.0, sd=1.0)
    state = rlhf.start(BASE, frozen[0], Ensemble((other, frozen[1])))
    assert torch.equal(state.value.embed.weight, other.model.embed.weight)


# The scores


def test_an_offset_moves_the_scores_and_nothing_else_that_is_rewarded(frozen):
    plain, moved = Ran(frozen, updates=1), Ran(frozen, updates=1, reward_offset=-3.0)
    a, b = plain.metrics[0], moved.metrics[0]
    for name in ("objective/scores", "objective/rlhf_reward"):
        assert b[name] - a[name] == pytest.approx(-3.0, abs=1e-5)
    for name in ("objective/kl", "objective/non_score_reward", "objective/kl_variance_share",
                 "style/length"):  # fmt: skip
        assert b[name] == pytest.approx(a[name], abs=1e-5)
    assert a["advantage/sd"] > 0.1 and b["advantage/mean"] < a["advantage/mean"] - 2
    for x, y in zip(plain.read, moved.read, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(x, y, strict=True))


def test_an_offset_is_nothing_to_answers_that_are_compared_with_each_other(frozen):
    settings = {"advantage": "rloo", "group_size": 3, "updates": 1}
    plain, moved = Ran(frozen, **settings), Ran(frozen, reward_offset=2.0, **settings)
    for name in ("advantage/sd", "advantage/mean", "advantage/p95"):
        assert moved.metrics[0][name] == pytest.approx(plain.metrics[0][name], abs=1e-5)


# Messages


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"clip": "none"}, "RLHFConfig.clip = 'none': allowed are two-sided, upper"),
        ({"advantage": "GRPO"},
         "RLHFConfig.advantage = 'GRPO': allowed are gae, rloo, grpo, dr-grpo"),
        ({"critic_init": "zero"},
         "RLHFConfig.critic_init = 'zero': allowed are reward model, random"),
        ({"critic_warmup": -1},
         "RLHFConfig.critic_warmup = -1: allowed is a whole number from 0 to 1000000"),
        ({"cliprange_high": -0.1},
         "RLHFConfig.cliprange_high = -0.1: allowed is a number from 0 to 1000000.0"),
        ({"reward_offset": float("nan")},
         "RLHFConfig.reward_offset = nan: allowed is a number from -1000000.0 to 1000000.0"),
        ({"group_size": 0}, "RLHFConfig.group_size = 0: allowed is a whole number from 1 to 12"),
        ({"group_size": 24}, "RLHFConfig.group_size = 24: allowed is a whole number from 1 to 12"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_with_what_can(settings, said):
    with pytest.raises(InputError) as error:
        replace(BASE, **settings)
    assert str(error.value) == said


@pytest.mark.parametrize("high", [0.05, 0.5])
def test_tokens_that_a_higher_bound_does_not_clip_are_not_counted_as_clipped(frozen, high):
    shares: list[float] = []
    config = replace(BASE, cliprange=0.1, cliprange_high=high, num_mini_batches=1)
    chosen = choose_policy_loss(config)

    def watched(logprobs: Tensor, old: Tensor, gain: Tensor, mask: Tensor, *rest: float) -> Tensor:
        ratio = (logprobs - old).exp()
        cut = ((ratio > 1 + high) & (gain > 0)) | ((ratio < 0.9) & (gain < 0))
        shares.append(float((cut * mask).sum() / mask.sum()))
        return chosen(logprobs, old, gain, mask, *rest)

    ran = Ran(frozen, given={"policy_loss": watched}, updates=1, num_ppo_epochs=4,
              cliprange=0.1, cliprange_high=high, num_mini_batches=1)  # fmt: skip
    assert max(shares) > 0.1
    assert ran.metrics[0]["policy/clipfrac_avg"] == pytest.approx(sum(shares) / 4, abs=1e-6)
