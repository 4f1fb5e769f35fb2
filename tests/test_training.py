"""Fine-tuning, the reward model and PPO: that they learn, and that each setting does what it says.

Everything is tiny: a model of width 24, batches of 16, two to four updates.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace

import pytest
import torch
from torch import Tensor, nn

from rlhf_edu import InputError
from rlhf_edu.advantage import gae
from rlhf_edu.kl_penalty import kl_loss
from rlhf_edu.lab import helpdesk, record, rlhf
from rlhf_edu.lab.dpo import DPOConfig
from rlhf_edu.lab.evaluate import ExamConfig
from rlhf_edu.lab.gold import reply_mask
from rlhf_edu.lab.helpdesk import AgentConfig
from rlhf_edu.lab.model import (
    ModelConfig,
    Transformer,
    gather_logprobs,
    language_model,
    response_logits,
    reward_of,
    scalar_model,
    values_of,
)
from rlhf_edu.lab.raters import LabelBudget, Preferences, RaterConfig, collect_preferences
from rlhf_edu.lab.reward_model import RewardModel, RewardModelConfig, train_reward_model
from rlhf_edu.lab.rlhf import RLHFConfig, train_rlhf
from rlhf_edu.lab.sampling import sample
from rlhf_edu.lab.sft import SFTConfig, sft_loss, train_sft
from rlhf_edu.lab.state import TrainingState, restore_state, state_tensors
from rlhf_edu.ppo_clip import clipped_surrogate_loss, clipped_value_loss
from rlhf_edu.ranking_loss import pairwise_ranking_loss

TINY = ModelConfig(n_layers=1, width=24, n_heads=2)
SMALLER = ModelConfig(n_layers=1, width=8, n_heads=1)
DESK = helpdesk.desk()
CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights_of(*models: nn.Module) -> str:
    """A digest of every weight, bit for bit."""
    digest = hashlib.sha256()
    for model in models:
        for name, weight in model.state_dict().items():
            digest.update(name.encode() + weight.numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def reference() -> Transformer:
    config = SFTConfig(n_demonstrations=800, epochs=3, batch_size=32, lr=1e-2)
    return train_sft(config, TINY, CPU)


HONEST = RaterConfig(seed=1, n_pairs=1500, noise=0.3, response_length=24)


@pytest.fixture(scope="module")
def preferences(reference) -> Preferences:
    return collect_preferences(HONEST, reference, LabelBudget(2000))


GAUGED = RewardModelConfig(epochs=2, batch_size=32, lr=5e-3, gauge_replies=400, response_length=24)


@pytest.fixture(scope="module")
def reward_model(reference, preferences) -> RewardModel:
    return train_reward_model(GAUGED, preferences, reference)


@pytest.fixture
def adam(monkeypatch) -> list[tuple[float, float]]:
    """(norm of the gradient, step size) at every step that Adam takes."""
    taken: list[tuple[float, float]] = []
    step = torch.optim.Adam.step

    def counting(self, *args, **kwargs):
        (group,) = self.param_groups
        norms = [p.grad.norm() for p in group["params"] if p.grad is not None]
        taken.append((torch.stack(norms).norm().item(), float(group["lr"])))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", counting)
    return taken


# Supervised fine-tuning

FEW = SFTConfig(n_demonstrations=200, epochs=2, batch_size=32, response_length=20)


def demonstrations_loss(policy: Transformer) -> float:
    """Nats a token on demonstrations for held-out prompts, each token counted in a loop."""
    rows = helpdesk.draw_prompts(DESK, 100, generator(77), held_out=True)
    replies = helpdesk.demonstrate(DESK, rows, generator(78), 32)
    with torch.no_grad():
        logits = response_logits(policy, DESK.prompts[rows], replies)
    logprobs = gather_logprobs(logits, replies).tolist()
    said = [p for row, lp in zip(replies.tolist(), logprobs, strict=True)
            for token, p in zip(row, lp, strict=True) if token != helpdesk.PAD]  # fmt: skip
    return -sum(said) / len(said)


def test_fine_tuning_lowers_the_loss_on_prompts_that_it_never_saw(reference):
    untrained = train_sft(replace(FEW, lr=0.0), TINY, CPU)
    assert demonstrations_loss(untrained) == pytest.approx(math.log(157), abs=0.2)
    assert demonstrations_loss(reference) < 1.6


def test_fine_tuning_logs_its_loss_and_a_step_size_that_falls_to_zero(adam):
    logged = []
    train_sft(FEW, TINY, CPU, log=lambda step, metrics: logged.append((step, metrics)))
    steps = 2 * math.ceil(200 / 32)
    assert [lr for _, lr in adam] == pytest.approx([3e-3 * (1 - k / steps) for k in range(steps)])
    assert [step for step, _ in logged] == list(range(1, steps + 1))
    for step, metrics in logged:
        assert metrics["lr"] == pytest.approx(3e-3 * (1 - step / steps), abs=1e-12)
    losses = [metrics["loss/sft"] for _, metrics in logged]
    assert losses[0] == pytest.approx(math.log(157), abs=0.2) and losses[-1] < losses[0] - 0.5


def test_fine_tuning_logs_about_ten_times_an_epoch():
    steps = []
    config = SFTConfig(n_demonstrations=400, epochs=2, batch_size=4, response_length=8)
    train_sft(config, SMALLER, CPU, log=lambda step, metrics: steps.append(step))
    assert steps == list(range(10, 201, 10))


def test_the_fine_tuning_loss_is_the_mean_over_tokens_not_over_replies():
    logprobs = torch.tensor([[-1.0, -2.0, -9.0], [-6.0, -9.0, -9.0]])
    mask = torch.tensor([[1.0, 1, 0], [1, 0, 0]])
    assert sft_loss(logprobs, mask) == pytest.approx(3.0)


def test_fine_tuning_uses_the_loss_it_is_given():
    seen = []

    def own_loss(logprobs: Tensor, mask: Tensor) -> Tensor:
        assert logprobs.shape == mask.shape and (mask.sum(1) >= 1).all()
        seen.append(int(mask.sum()))
        return logprobs.sum() * 0.0

    trained = train_sft(FEW, TINY, CPU, loss_fn=own_loss)
    untrained = train_sft(replace(FEW, lr=0.0), TINY, CPU)
    assert weights_of(trained) == weights_of(untrained)
    rows = helpdesk.draw_prompts(DESK, 200, order := generator(FEW.seed))
    tokens = (helpdesk.demonstrate(DESK, rows, order, 20) != helpdesk.PAD).sum().item()
    assert sum(seen) == 2 * tokens  # every token of every demonstration, twice
    assert len(seen) == 14


def test_fine_tuning_reads_random_minibatches_as_padded_rows_would_be_read(monkeypatch):
    """At every step, with the weights of that step; the order is drawn anew in every epoch."""
    kept, seen = [], []

    def language_model_kept(config: ModelConfig) -> Transformer:
        kept.append(language_model(config))
        return kept[-1]

    def loss_fn(logprobs: Tensor, mask: Tensor) -> Tensor:
        x, y = batches[len(seen)]
        with torch.no_grad():
            want = gather_logprobs(response_logits(kept[0], x, y), y)
        assert torch.equal(mask, reply_mask(y))
        assert ((logprobs - want) * mask).abs().max() < 1e-5
        seen.append(want)
        return sft_loss(logprobs, mask)

    rows = helpdesk.draw_prompts(DESK, FEW.n_demonstrations, luck := generator(FEW.seed))
    replies = helpdesk.demonstrate(DESK, rows, luck, FEW.response_length)
    batches = [(DESK.prompts[rows[part]], replies[part])
               for _ in range(2) for part in torch.randperm(200, generator=luck).split(32)]
    monkeypatch.setattr("rlhf_edu.lab.sft.language_model", language_model_kept)
    train_sft(FEW, TINY, CPU, loss_fn)
    assert len(seen) == len(batches) == 14
    assert not torch.equal(batches[0][1], batches[7][1])


def test_fine_tuning_imitates_the_agents_that_it_is_given(monkeypatch):
    """Agents without any habit, and agents who sell at every turn."""
    demonstrate, kept = helpdesk.demonstrate, []

    def demonstrated(*args):
        kept.append(demonstrate(*args))
        return kept[-1]

    monkeypatch.setattr(helpdesk, "demonstrate", demonstrated)
    agents = [AgentConfig(**{f.name: share for f in fields(AgentConfig)}) for share in (0.0, 1.0)]
    trained = [train_sft(replace(FEW, agents=agent), TINY, CPU) for agent in (*agents, agents[0])]
    for replies, agent in zip(kept, agents, strict=False):
        rows = helpdesk.draw_prompts(DESK, FEW.n_demonstrations, luck := generator(FEW.seed))
        assert torch.equal(replies, demonstrate(DESK, rows, luck, FEW.response_length, agent))
    assert not torch.equal(kept[0], kept[1]) and torch.equal(kept[0], kept[2])
    assert weights_of(trained[0]) == weights_of(trained[2]) != weights_of(trained[1])


@pytest.mark.parametrize("limit", [0.05, 0.5])
def test_fine_tuning_clips_gradients(adam, limit):
    train_sft(replace(FEW, max_grad_norm=limit), TINY, CPU)
    norms = [norm for norm, _ in adam]
    assert max(norms) == pytest.approx(limit, rel=1e-3)


def test_fine_tuning_depends_on_its_seed_alone():
    torch.manual_seed(1)
    first = weights_of(train_sft(FEW, TINY, CPU))
    torch.manual_seed(2)
    assert first == weights_of(train_sft(FEW, TINY, CPU))
    assert first != weights_of(train_sft(replace(FEW, seed=1), TINY, CPU))


# The reward model


def accuracy(model: Callable[[Tensor, Tensor], Tensor], pairs: Preferences) -> float:
    """Share of pairs in which the chosen reply has the higher reward."""
    prompts = DESK.prompts[pairs.rows]
    return (model(prompts, pairs.chosen) > model(prompts, pairs.rejected)).float().mean().item()


@pytest.fixture(scope="module")
def other_preferences(reference) -> Preferences:
    config = replace(HONEST, seed=2, n_pairs=600, noise=0.001)
    return collect_preferences(config, reference, LabelBudget(600))


def test_a_reward_model_of_honest_labels_beats_chance_on_pairs_that_it_never_saw(
    reward_model, other_preferences
):
    assert accuracy(reward_model, other_preferences) > 0.68


def test_the_reward_model_uses_the_loss_it_is_given_chosen_before_rejected(
    reference, preferences, other_preferences, reward_model
):
    calls = []

    def turned(chosen: Tensor, rejected: Tensor) -> Tensor:
        calls.append((len(chosen), len(rejected)))
        return pairwise_ranking_loss(rejected, chosen)

    wrong = train_reward_model(GAUGED, preferences, reference, loss_fn=turned)
    assert accuracy(wrong, other_preferences) < 0.36
    assert sum(n for n, _ in calls) == sum(n for _, n in calls) == 2 * 1500
    assert len(calls) == 2 * math.ceil(1500 / 32)


def test_the_reward_model_reads_random_minibatches_as_padded_rows_would_be_read(
    reference, preferences, monkeypatch
):
    """At every step, with the weights of that step; the order is drawn anew in every epoch."""
    kept, seen = [], []

    def scalar_model_kept(*args, **settings) -> Transformer:
        kept.append(scalar_model(*args, **settings))
        return kept[-1]

    def loss_fn(*rewards: Tensor) -> Tensor:
        part = batches[len(seen)]
        prompts = DESK.prompts[preferences.rows[part]]
        for got, replies in zip(rewards, (preferences.chosen, preferences.rejected), strict=True):
            with torch.no_grad():
                want = reward_of(kept[0], prompts, replies[part], reply_mask(replies[part]))
            assert got.shape == want.shape and (got - want).abs().max() < 1e-5
        seen.append(want)
        return pairwise_ranking_loss(*rewards)

    config, luck = replace(GAUGED, batch_size=100, seed=8), generator(8)
    batches = [part for _ in range(2) for part in torch.randperm(1500, generator=luck).split(100)]
    monkeypatch.setattr("rlhf_edu.lab.reward_model.scalar_model", scalar_model_kept)
    train_reward_model(config, preferences, reference, loss_fn)
    assert len(seen) == len(batches) == 30 and seen[-1].std() > 0.3
    assert not torch.equal(batches[0], batches[15])


def test_the_gauge_is_zero_mean_and_unit_sd_on_the_references_own_replies(
    reference, reward_model
):
    rows = helpdesk.draw_prompts(DESK, 1500, generator(5))
    replies, _ = sample(reference, DESK.prompts[rows], 24, generator(6))
    rewards = reward_model(DESK.prompts[rows], replies)
    assert abs(rewards.mean()) < 0.25 and rewards.std() == pytest.approx(1.0, abs=0.15)
    raw = reward_of(reward_model.model, DESK.prompts[rows], replies, reply_mask(replies))
    assert torch.allclose(rewards, (raw.detach() - reward_model.mean) / reward_model.sd, atol=1e-5)
    assert reward_model.sd > 0.3 and abs(reward_model.mean) > 0.01


def test_a_reward_model_that_learned_nothing_has_no_gauge(reference, preferences):
    with pytest.raises(InputError, match="the same reward, so it has no unit"):
        train_reward_model(replace(GAUGED, lr=0.0), preferences, reference)


def test_the_gauge_is_taken_from_as_many_replies_as_it_says(reference, preferences, monkeypatch):
    seen = []

    def counting(policy, prompts, response_length, *rest):
        seen.append((policy is reference, len(prompts), response_length))
        return sample(policy, prompts, response_length, *rest)

    monkeypatch.setattr("rlhf_edu.lab.reward_model.sample", counting)
    config = RewardModelConfig(gauge_replies=37, response_length=9, batch_size=1000)
    train_reward_model(config, preferences, reference)
    assert seen == [(True, 37, 9)]


def test_the_reward_models_step_size_falls_to_zero_and_gradients_are_clipped(
    reference, preferences, adam
):
    logged = []
    config = replace(GAUGED, batch_size=100, epochs=1, max_grad_norm=0.5)
    train_reward_model(config, preferences, reference, log=lambda *entry: logged.append(entry))
    assert [lr for _, lr in adam] == pytest.approx([5e-3 * (1 - k / 15) for k in range(15)])
    assert max(norm for norm, _ in adam) == pytest.approx(0.5, rel=1e-3)
    assert [step for step, _ in logged] == list(range(1, 16))
    assert logged[0][1]["loss/reward_model"] == pytest.approx(math.log(2), abs=1e-6)


def test_training_a_reward_model_depends_on_its_seed_alone_and_leaves_the_reference_alone(
    reference, preferences, reward_model
):
    before = weights_of(reference)
    torch.manual_seed(9)
    again = train_reward_model(GAUGED, preferences, reference)
    assert weights_of(again.model) == weights_of(reward_model.model)
    assert (again.mean, again.sd) == (reward_model.mean, reward_model.sd)
    other = train_reward_model(replace(GAUGED, seed=3), preferences, reference)
    assert weights_of(other.model) != weights_of(reward_model.model)
    assert weights_of(reference) == before
    assert not reward_model.model.training


# PPO

BASE = RLHFConfig(updates=3, batch_size=16, num_mini_batches=2, num_ppo_epochs=2, lr=1e-3,
                  response_length=16)  # fmt: skip


@dataclass
class Run:
    """A run, and every call of the functions that it was given."""

    state: TrainingState
    metrics: list[dict[str, float]] = field(default_factory=list)
    advantage: list[tuple] = field(default_factory=list)  # (rewards, values, mask, gamma, lam)
    policy: list[tuple] = field(default_factory=list)  # arguments, result last
    value: list[tuple] = field(default_factory=list)
    penalty: list[tuple] = field(default_factory=list)
    losses: list[tuple[float, ...]] = field(default_factory=list)  # differentiated before a step
    replies: list[Tensor] = field(default_factory=list)  # what was scored, group by group


@pytest.fixture
def run(reference, reward_model, monkeypatch) -> Callable[..., Run]:
    """Train with these settings, by default with the reward model, and keep all that happens."""

    def start(reward=reward_model, **settings) -> Run:
        config = replace(BASE, **settings)
        found = Run(rlhf.start(config, reference, reward_model))

        def keep(calls: list, fn: Callable) -> Callable:
            def wrapped(*args):
                result = fn(*args)
                kept = [x.detach().clone() if isinstance(x, Tensor) else x for x in args]
                calls.append((*kept, result))
                return result

            return wrapped

        def scored(prompts: Tensor, responses: Tensor) -> Tensor:
            found.replies.append(responses)
            return reward(prompts, responses)

        def backward(loss: Tensor) -> None:
            since.append(loss.item())
            real_backward(loss)

        def step(*args, **kwargs) -> None:
            found.losses.append(tuple(since))
            since.clear()
            real_step(*args, **kwargs)

        since: list[float] = []
        real_step = found.state.optimizer.step

        real_backward = torch.Tensor.backward
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "backward", backward)
            patch.setattr(found.state.optimizer, "step", step)
            train_rlhf(
                config, found.state, reference, scored,
                lambda state, metrics: found.metrics.append(metrics),
                keep(found.policy, clipped_surrogate_loss), keep(found.value, clipped_value_loss),
                keep(found.advantage, gae), keep(found.penalty, kl_loss),
            )  # fmt: skip
        return found

    return start


TRL_NAMES = {
    "objective/kl", "objective/scores", "objective/rlhf_reward", "objective/non_score_reward",
    "objective/entropy", "policy/approxkl_avg", "policy/clipfrac_avg", "policy/entropy_avg",
    "loss/policy_avg", "loss/value_avg", "val/clipfrac_avg", "val/ratio", "lr", "episode",
}  # fmt: skip


def test_metrics_carry_the_names_of_trl_and_count_updates_and_episodes(run):
    found = run()
    assert len(found.metrics) == found.state.update == 3
    for i, metrics in enumerate(found.metrics, 1):
        assert TRL_NAMES <= set(metrics)
        assert metrics["update"] == i and metrics["episode"] == 16 * i
        assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_at_the_first_batch_the_penalty_is_zero_and_the_ratio_one(run, temperature):
    """Up to rounding: what sampling says of the policy, a forward pass says of the reference."""
    found = run(kl_coef=10.0, temperature=temperature)
    first = found.metrics[0]
    for name in ("kl", "kl_k2", "kl_k3", "kl_exact"):
        assert abs(first[f"objective/{name}"]) < 1e-5
    assert abs(first["objective/non_score_reward"]) < 1e-4
    assert abs(found.metrics[1]["objective/non_score_reward"]) > 1e-3
    logprobs, old_logprobs, _, mask, *_ = found.policy[0]
    assert ((logprobs - old_logprobs) * mask).abs().max() < 1e-5
    assert ((found.policy[1][0] - found.policy[1][1]) * found.policy[1][3]).abs().max() > 1e-4


def test_the_first_batch_of_each_update_starts_at_ratio_one_the_reference_does_not(run):
    found = run()
    for update in range(3):
        logprobs, old_logprobs, _, mask, *_ = found.policy[4 * update]
        assert ((logprobs - old_logprobs) * mask).abs().max() < 1e-5
    assert all(metrics["objective/kl_exact"] > 0 for metrics in found.metrics[1:])


def test_log_probabilities_are_at_the_temperature_of_sampling(run, reference):
    found = run(updates=1, temperature=0.6, num_mini_batches=1, num_ppo_epochs=1)
    _, old_logprobs, _, mask, *_ = found.policy[0]
    rows = helpdesk.draw_prompts(DESK, 16, luck := generator(0))
    replies, logprobs = sample(reference, DESK.prompts[rows], 16, luck, 0.6)
    want = sorted(round(x, 3) for x in logprobs.sum(1).tolist())
    assert sorted((old_logprobs * mask).sum(1).tolist()) == pytest.approx(want, abs=2e-3)
    assert sorted(mask.sum(1).tolist()) == sorted((replies != 0).sum(1).tolist())


def test_runs_with_one_seed_are_the_same_bit_for_bit_and_those_with_another_are_not(run):
    torch.manual_seed(1)
    first = run()
    torch.manual_seed(2)
    again, other = run(), run(seed=5)
    assert weights_of(first.state.policy, first.state.value) == weights_of(
        again.state.policy, again.state.value
    )
    assert first.metrics == again.metrics
    assert weights_of(first.state.policy) != weights_of(other.state.policy)
    assert first.metrics[0] != other.metrics[0]


def test_the_reference_and_the_reward_model_do_not_move(run, reference, reward_model):
    before, raw = weights_of(reference, reward_model.model), weights_of(reference)
    found = run(kl_placement="loss", kl_estimator="k2")
    assert weights_of(reference, reward_model.model) == before
    assert weights_of(found.state.policy) != raw


def test_the_policy_starts_as_the_reference_and_the_critic_as_the_reward_model_saying_zero(
    reference, reward_model
):
    state = rlhf.start(BASE, reference, reward_model)
    assert weights_of(state.policy) == weights_of(reference)
    critic, source = state.value.state_dict(), reward_model.model.state_dict()
    assert all(torch.equal(critic[k], source[k]) for k in source if not k.startswith("head."))
    assert not critic["head.weight"].any() and not critic["head.bias"].any()
    (group,) = state.optimizer.param_groups
    assert len(group["params"]) == 1 and group["params"][0] is state.weights
    assert_one_vector(state)


# What each setting does


def test_every_response_is_used_once_in_every_pass(run):
    found = run(updates=1, num_mini_batches=3, num_ppo_epochs=4)
    sizes = [len(call[0]) for call in found.policy]
    assert sizes == [6, 5, 5] * 4
    totals = []
    for epoch in range(4):
        calls = found.policy[3 * epoch : 3 * epoch + 3]
        totals.append(sorted(x for call in calls for x in (call[1] * call[3]).sum(1).tolist()))
    assert all(total == totals[0] for total in totals)
    firsts = [tuple(found.policy[3 * epoch][1].sum(1).tolist()) for epoch in range(4)]
    assert len(set(firsts)) == 4, "shuffled anew in every pass"


def test_what_is_differentiated_is_policy_plus_weighted_value_loss(run):
    found = run(vf_coef=0.7)
    for loss, policy, value in zip(found.losses, found.policy, found.value, strict=True):
        assert loss == pytest.approx((policy[-1].item(), 0.7 * value[-1].item()), abs=1e-6)
    assert not found.penalty
    last = found.metrics[-1]
    assert last["loss/policy_avg"] == pytest.approx(
        sum(call[-1].item() for call in found.policy[-4:]) / 4, abs=1e-6
    )
    assert last["loss/value_avg"] == pytest.approx(
        sum(call[-1].item() for call in found.value[-4:]) / 4, abs=1e-5
    )


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_a_penalty_in_the_reward_is_paid_by_the_reward_and_not_by_the_loss(run, estimator):
    found = run(kl_coef=0.5, kl_estimator=estimator, lr=5e-3)
    name = "objective/kl" if estimator == "k1" else f"objective/kl_{estimator}"
    for metrics, (rewards, _, mask, *_) in zip(found.metrics, found.advantage, strict=True):
        paid = (rewards * mask).sum(1).mean().item()
        want = metrics["objective/scores"] - 0.5 * metrics[name]
        assert paid == pytest.approx(want, abs=1e-5)
        assert metrics["objective/rlhf_reward"] == pytest.approx(paid, abs=1e-6)
        assert metrics["objective/non_score_reward"] == pytest.approx(
            -0.5 * metrics[name], abs=1e-5
        )
        assert metrics["objective/kl_coef"] == 0.5
    assert abs(found.metrics[-1][name]) > 0.05
    assert not found.penalty


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_a_penalty_in_the_loss_is_paid_by_the_loss_and_not_by_the_reward(run, estimator):
    found = run(kl_placement="loss", kl_coef=0.5, kl_estimator=estimator, lr=5e-3)
    for metrics, (rewards, _, mask, *_) in zip(found.metrics, found.advantage, strict=True):
        paid = (rewards * mask).sum(1).mean().item()
        assert paid == pytest.approx(metrics["objective/scores"], abs=1e-5)
        assert metrics["objective/non_score_reward"] == pytest.approx(0, abs=1e-5)
    calls = zip(found.losses, found.policy, found.value, found.penalty, strict=True)
    for loss, policy, value, (logprobs, _, mask, kind, penalty) in calls:
        want = (policy[-1].item() + 0.5 * penalty.item(), 0.1 * value[-1].item())
        assert loss == pytest.approx(want, abs=1e-6) and kind == estimator
        assert torch.equal(logprobs, policy[0]) and torch.equal(mask, policy[3])
        assert penalty.requires_grad
    assert ((found.penalty[-1][0] - found.penalty[-1][1]) * mask).abs().max() > 0.05


def test_without_a_coefficient_there_is_no_penalty_anywhere(run):
    found = run(kl_placement="loss", kl_coef=0.0)
    assert not found.penalty
    assert found.metrics[-1]["objective/non_score_reward"] == pytest.approx(0, abs=1e-6)


def test_an_adaptive_coefficient_follows_the_rule_of_ziegler_et_al(run):
    found = run(updates=5, kl_coef=0.3, kl_target=0.02, kl_horizon=64.0, lr=5e-3)
    beta = 0.3
    for metrics in found.metrics:
        assert metrics["objective/kl_coef"] == pytest.approx(beta, rel=1e-6)
        error = metrics["objective/kl"] / 0.02 - 1
        beta *= 1 + min(0.2, max(-0.2, error)) * 16 / 64
    assert found.state.kl_controller.value == pytest.approx(beta, rel=1e-6)
    assert found.metrics[1]["objective/kl_coef"] < 0.3 < beta + 0.05
    assert len({metrics["objective/kl_coef"] for metrics in found.metrics}) == 5


def test_a_fixed_coefficient_stays(run):
    assert {metrics["objective/kl_coef"] for metrics in run(kl_coef=0.3).metrics} == {0.3}


def test_a_batch_is_put_down_after_the_pass_in_which_its_kl_passes_the_target(run):
    whole = run(updates=1, num_ppo_epochs=4)

    def approx_kl(calls: list[tuple]) -> float:
        """Over all tokens of a pass, each as its own step saw it."""
        moved = tokens = 0.0
        for logprobs, old_logprobs, _, mask, *_ in calls:
            moved += (0.5 * (logprobs - old_logprobs).square() * mask).sum().item()
            tokens += mask.sum().item()
        return moved / tokens

    of_passes = [approx_kl(whole.policy[i : i + 2]) for i in range(0, 8, 2)]
    passes = []
    for kl in of_passes:
        target = 0.99 * kl
        passes.append(1 + next(i for i, kl in enumerate(of_passes) if kl > target))
        assert len(run(updates=1, num_ppo_epochs=4, target_kl=target).policy) == 2 * passes[-1]
    assert 1 in passes and max(passes) >= 3
    for target, n in ((1e-9, 1), (1e5, 4)):
        assert len(run(updates=2, num_ppo_epochs=4, target_kl=target).policy) == 2 * 2 * n


def test_whitened_rewards_have_unit_sd_their_old_mean_and_are_logged_unwhitened(run):
    plain, white = run(updates=1), run(updates=1, whiten_rewards=True)
    (before, _, mask, *_), (after, *_) = plain.advantage[0], white.advantage[0]
    on = mask.bool()
    assert after[on].std(correction=0) == pytest.approx(1.0, abs=1e-5)
    assert before[on].std(correction=0) < 0.9
    assert after[on].mean() == pytest.approx(before[on].mean().item(), abs=1e-5)
    assert (after[~on] == 0).all()
    for name in ("objective/scores", "objective/rlhf_reward", "objective/non_score_reward"):
        assert white.metrics[0][name] == plain.metrics[0][name]


def test_advantages_are_whitened_over_the_batch_or_left_as_they_are(run):
    white, plain = run(updates=1), run(updates=1, whiten_advantages=False)
    first, second = white.metrics[0], plain.metrics[0]
    assert first["advantage_whitened/mean"] == pytest.approx(0, abs=1e-6)
    assert first["advantage_whitened/sd"] == pytest.approx(1, abs=1e-5)
    assert first["advantage/sd"] == second["advantage/sd"] != pytest.approx(1, abs=1e-2)
    for name in ("mean", "sd", "p95", "share_positive"):
        assert second[f"advantage_whitened/{name}"] == second[f"advantage/{name}"]
    raw = plain.advantage[0][-1][0]
    used = {round(x, 4) for call in plain.policy[:2] for x in call[2].flatten().tolist()}
    assert used <= {round(x, 4) for x in raw.flatten().tolist()}


def test_advantages_come_from_rewards_values_mask_discount_and_lambda(run):
    found = run(updates=1, gamma=0.9, lam=0.5)
    rewards, values, mask, gamma, lam, (advantages, returns) = found.advantage[0]
    assert (gamma, lam) == (0.9, 0.5)
    assert ((mask == 0) | (mask == 1)).all() and values.shape == rewards.shape
    for row in range(16):
        n, ahead = int(mask[row].sum()), 0.0
        for t in reversed(range(n)):
            after = values[row, t + 1].item() if t + 1 < n else 0.0
            delta = rewards[row, t].item() + 0.9 * after - values[row, t].item()
            ahead = delta + 0.9 * 0.5 * ahead
            assert advantages[row, t].item() == pytest.approx(ahead, abs=1e-4)
            want = ahead + values[row, t].item()
            assert returns[row, t].item() == pytest.approx(want, abs=1e-4)


def test_clip_ranges_reach_the_losses(run):
    found = run(updates=1, cliprange=0.37, cliprange_value=0.41)
    assert {call[4] for call in found.policy} == {0.37}
    assert {call[4] for call in found.value} == {0.41}


def test_the_step_size_is_constant_or_falls_by_the_same_amount_every_update(run, adam):
    constant = run(updates=4)
    assert [m["lr"] for m in constant.metrics] == [1e-3] * 4
    assert {lr for _, lr in adam} == {1e-3}
    adam.clear()
    linear = run(updates=4, lr_schedule="linear")
    want = [1e-3, 0.75e-3, 0.5e-3, 0.25e-3]
    assert [m["lr"] for m in linear.metrics] == pytest.approx(want)
    assert [lr for _, lr in adam] == pytest.approx([lr for lr in want for _ in range(4)])
    half = run(updates=2, lr_schedule="linear", lr_end=0.5)
    assert [m["lr"] for m in half.metrics] == want[:2], "the first half of the longer run"
    assert [m["lr"] for m in run(updates=2, lr_end=0.5).metrics] == [1e-3] * 2


def test_gradients_are_clipped_to_their_norm(run, adam):
    run(max_grad_norm=1e6)
    free = [norm for norm, _ in adam]
    adam.clear()
    limit = min(free) / 2
    run(max_grad_norm=limit)
    assert [norm for norm, _ in adam] == pytest.approx([limit] * len(free), rel=1e-2)


def test_no_step_size_or_no_gradient_norm_leaves_every_weight_as_it_was(run, reference):
    for settings in ({"lr": 0.0}, {"max_grad_norm": 0.0}):
        assert weights_of(run(**settings).state.policy) == weights_of(reference)


def test_a_reply_that_was_cut_off_costs_the_missing_eos_penalty(run):
    free, costly = (run(updates=1, response_length=6, missing_eos_penalty=p) for p in (0.0, 1.5))
    cut_off = [helpdesk.EOS not in row for group in free.replies for row in group.tolist()]
    assert len(cut_off) == 16 and 2 < sum(cut_off) < 14
    lost = free.metrics[0]["objective/scores"] - costly.metrics[0]["objective/scores"]
    assert lost == pytest.approx(1.5 * sum(cut_off) / 16, abs=1e-5)
    assert max(group.shape[1] for group in free.replies) == 6


def test_rewards_are_paid_to_the_reply_that_earned_them(run):
    """A reward that is the number of words: in every row it comes with the last token."""
    found = run(lambda x, y: (y != 0).sum(1).float(), updates=1, missing_eos_penalty=0.0)
    rewards, _, mask, *_ = found.advantage[0]
    for row, on in zip(rewards, mask, strict=True):
        n = int(on.sum())
        assert row[n - 1] == n and row[: n - 1].abs().max(dim=0, keepdim=True)[0] < 1e-6 \
            if n > 1 else row[0] == 1  # fmt: skip


def test_own_functions_are_really_used(reference, reward_model):
    """Four functions whose gradient is known to be nothing: then no weight moves."""
    calls = Counter()

    def nothing(name: str, x: Tensor) -> Tensor:
        calls[name] += 1
        return 0.0 * x.sum()

    def no_advantage(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float):
        calls["advantage"] += 1
        return torch.arange(rewards.numel()).view_as(rewards) * mask, 0.0 * values

    config = replace(BASE, kl_placement="loss")
    state = rlhf.start(config, reference, reward_model)
    before = weights_of(state.policy, state.value)
    train_rlhf(
        config, state, reference, reward_model,
        policy_loss=lambda lp, *rest: nothing("policy", lp),
        value_loss=lambda values, *rest: nothing("value", values),
        advantage_fn=no_advantage,
        penalty_loss=lambda lp, *rest: nothing("penalty", lp),
    )  # fmt: skip
    assert calls == {"policy": 12, "value": 12, "penalty": 12, "advantage": 3}
    assert weights_of(state.policy, state.value) == before


def test_training_raises_the_reward_it_is_given_and_a_penalty_holds_it_back(run):
    """Reward: minus the length. The policy learns to be short; β = 3 keeps it close."""
    config = {"updates": 10, "batch_size": 48, "lr": 4e-3, "num_ppo_epochs": 3}

    def short(prompts: Tensor, responses: Tensor) -> Tensor:
        return -(responses != 0).sum(1) / 4

    free = run(short, kl_coef=0.0, **config).metrics
    held = run(short, kl_coef=3.0, **config).metrics
    in_loss = run(short, kl_coef=3.0, kl_placement="loss", kl_estimator="k2", **config).metrics
    assert free[-1]["style/length"] < free[0]["style/length"] - 3
    assert free[-1]["objective/scores"] > free[0]["objective/scores"] + 0.75
    assert held[-1]["objective/kl_exact"] < 0.6 * free[-1]["objective/kl_exact"]
    assert in_loss[-1]["objective/kl_exact"] < 0.6 * free[-1]["objective/kl_exact"]


def test_the_critic_starts_without_an_opinion_and_learns_what_to_expect(reference, reward_model):
    """Reward: minus the length, of a policy that stands still. A long reply shows as it grows."""
    config = replace(BASE, updates=4, batch_size=64, num_mini_batches=4, num_ppo_epochs=4, lr=1e-2,
                     vf_coef=1.0, cliprange_value=100.0, response_length=24)  # fmt: skip
    explained = []
    train_rlhf(
        config, rlhf.start(config, reference, reward_model), reference,
        lambda x, y: -(y != 0).sum(1) / 4.0,
        lambda state, metrics: explained.append(metrics["critic/explained_variance"]),
        policy_loss=lambda logprobs, *rest: 0.0 * logprobs.sum(),
    )  # fmt: skip
    assert explained[0] == 0 and explained[-1] > 0.25


# Interrupted and continued


@pytest.mark.parametrize(
    "settings", [{}, {"kl_target": 0.02, "kl_horizon": 64.0, "lr_schedule": "linear"}]
)
def test_a_resumed_run_ends_with_the_numbers_of_an_uninterrupted_one(
    reference, reward_model, settings
):
    config = replace(BASE, updates=4, **settings)
    whole_metrics, kept = [], {}

    def after_update(state: TrainingState, metrics: dict[str, float]) -> None:
        whole_metrics.append(metrics)
        if state.update == 2:
            tensors, numbers = state_tensors(state)
            kept["tensors"] = {k: v.clone() for k, v in tensors.items()}
            kept["numbers"] = json.loads(json.dumps(numbers))

    whole = rlhf.start(config, reference, reward_model)
    train_rlhf(config, whole, reference, reward_model, after_update)

    torch.manual_seed(123)
    metrics = []
    resumed = rlhf.start(replace(config, seed=99), reference, reward_model)
    restore_state(resumed, kept["tensors"], kept["numbers"])
    assert resumed.update == 2
    train_rlhf(config, resumed, reference, reward_model, lambda s, m: metrics.append(m))

    assert metrics == whole_metrics[2:]
    assert weights_of(resumed.policy, resumed.value) == weights_of(whole.policy, whole.value)
    ends = [state_tensors(state) for state in (whole, resumed)]
    assert ends[0][1] == ends[1][1] and set(ends[0][0]) == set(ends[1][0])
    assert all(torch.equal(ends[0][0][k], ends[1][0][k]) for k in ends[0][0])


def test_a_state_is_restored_before_the_first_update_too(reference, reward_model):
    fresh = rlhf.start(BASE, reference, reward_model)
    tensors, numbers = state_tensors(fresh)
    assert numbers == {"update": 0, "kl_coef": 0.05}
    other = rlhf.start(replace(BASE, seed=4, kl_coef=1.0), reference, reward_model)
    restore_state(other, {k: v.clone() for k, v in tensors.items()}, numbers)
    a, b = (train_rlhf(BASE, state, reference, reward_model) for state in (fresh, other))
    assert weights_of(a.policy, a.value) == weights_of(b.policy, b.value)


def assert_one_vector(state: TrainingState) -> None:
    """Every parameter of policy and critic, and its gradient, is a part of one vector; in order."""
    parameters = [p for model in (state.policy, state.value) for p in model.parameters()]
    assert sum(p.numel() for p in parameters) == state.weights.numel()
    assert all(p.requires_grad and p.is_contiguous() for p in parameters)
    for whole, parts in ((state.weights, parameters),
                         (state.weights.grad, [p.grad for p in parameters])):  # fmt: skip
        start = whole.data_ptr()
        for part in parts:
            assert part.data_ptr() == start
            start += part.numel() * part.element_size()
    with torch.no_grad():
        kept = state.weights.clone()
        state.weights.add_(1.0)
        assert torch.equal(torch.cat([p.flatten() for p in parameters]), kept + 1.0)
        state.weights.copy_(kept)


def test_all_weights_stay_parts_of_one_vector(reference, reward_model):
    """At the start, after training, after a state was put back, and after training on from there:
    a parameter that left the vector would be trained no longer."""
    config = replace(BASE, updates=2)
    state = rlhf.start(config, reference, reward_model)
    fresh = {k: v.clone() for k, v in state_tensors(state)[0].items()}
    numbers = state_tensors(state)[1]
    assert_one_vector(state)
    train_rlhf(config, state, reference, reward_model)
    assert_one_vector(state)
    after_two = state.weights.detach().clone()
    assert (after_two != torch.cat([fresh[k].flatten() for k in fresh
                                    if k != "generator"])).float().mean() > 0.2  # fmt: skip
    restore_state(state, fresh, numbers)
    assert_one_vector(state)
    assert weights_of(state.policy) == weights_of(reference)
    state.optimizer.state.clear()
    train_rlhf(config, state, reference, reward_model)
    assert_one_vector(state)
    assert torch.equal(state.weights, after_two)


def test_gradients_of_all_parts_are_those_of_the_vector(reference, reward_model):
    """What autograd adds to a parameter's gradient, Adam finds in the vector's."""
    state = rlhf.start(BASE, reference, reward_model)
    prompts = DESK.prompts[:4]
    replies, _ = sample(reference, prompts, 8, generator(3))
    for _ in range(2):  # a second time after zeros were written
        state.optimizer.zero_grad(set_to_none=False)
        assert not state.weights.grad.any()
        response_logits(state.policy, prompts, replies)[..., 3:].square().mean().backward()
        values_of(state.value, prompts, replies).sub(1.0).square().mean().backward()
        other = language_model(TINY)
        other.load_state_dict(state.policy.state_dict())
        response_logits(other, prompts, replies)[..., 3:].square().mean().backward()
        want = torch.cat([p.grad.flatten() for p in other.parameters()])
        assert want.abs().max() > 1e-3
        assert torch.allclose(state.weights.grad[: len(want)], want, atol=1e-6)
        assert state.weights.grad[len(want) :].abs().max() > 1e-3
        assert_one_vector(state)


def test_a_state_that_was_written_to_a_file_and_read_continues_with_equal_numbers(
    reference, reward_model, tmp_path
):
    config = replace(BASE, updates=4)
    state = rlhf.start(config, reference, reward_model)
    train_rlhf(replace(config, updates=2), state, reference, reward_model)
    record.write_tensors(tmp_path / "state.safetensors", *state_tensors(state))
    record.write_tensors(tmp_path / "policy.safetensors", state.policy.state_dict())
    at_two = weights_of(state.policy)
    train_rlhf(config, state, reference, reward_model)

    resumed = rlhf.start(replace(config, seed=99), reference, reward_model)
    restore_state(resumed, *record.read_tensors(tmp_path / "state.safetensors"))
    assert weights_of(resumed.policy) == at_two
    assert_one_vector(resumed)
    train_rlhf(config, resumed, reference, reward_model)
    assert torch.equal(resumed.weights, state.weights)
    assert weights_of(resumed.policy, resumed.value) == weights_of(state.policy, state.value)

    alone = language_model(TINY)
    alone.load_state_dict(record.read_tensors(tmp_path / "policy.safetensors")[0])
    assert weights_of(alone) == at_two
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("policy", "state")]
    numbers = sum(p.numel() for p in alone.parameters())
    assert 4 * numbers < sizes[0] < 4 * numbers + 5000, "the critic beside it is not written"
    assert sizes[1] < 3 * 4 * state.weights.numel() + 20_000  # weights and two moments


@pytest.mark.parametrize("how", ["deepcopy", "torch.save"])
def test_a_copy_of_the_policy_stays_as_it_is_when_the_policy_is_trained_on(
    reference, reward_model, how, tmp_path
):
    config = replace(BASE, updates=2)
    state = rlhf.start(config, reference, reward_model)
    train_rlhf(replace(config, updates=1), state, reference, reward_model)
    before = weights_of(state.policy)
    if how == "deepcopy":
        kept = copy.deepcopy(state.policy)
    else:
        torch.save(state.policy.state_dict(), tmp_path / "policy.pt")
        kept = language_model(TINY)
        kept.load_state_dict(torch.load(tmp_path / "policy.pt"))
    assert weights_of(kept) == before
    train_rlhf(config, state, reference, reward_model)
    assert weights_of(kept) == before != weights_of(state.policy)
    with torch.no_grad():
        for weight in kept.parameters():
            weight.fill_(7.0)
    assert not (state.weights == 7.0).any()


@pytest.mark.parametrize("settings", [{}, {"kl_target": 0.02, "kl_horizon": 16.0}])
def test_a_copy_of_a_state_is_trained_as_the_state_itself(reference, reward_model, settings):
    """Nothing is shared: weights, moments, random numbers, an adaptive β."""
    config = replace(BASE, updates=3, **settings)
    state = rlhf.start(config, reference, reward_model)
    train_rlhf(replace(config, updates=1), state, reference, reward_model)
    twin = copy.deepcopy(state)
    before = weights_of(twin.policy, twin.value)
    train_rlhf(config, state, reference, reward_model)
    assert weights_of(twin.policy, twin.value) == before
    train_rlhf(config, twin, reference, reward_model)
    assert weights_of(twin.policy, twin.value) == weights_of(state.policy, state.value)
    assert twin.kl_controller.value == state.kl_controller.value
    assert (twin.kl_controller.value == 0.05) == (not settings)
    assert_one_vector(twin)


def test_a_run_that_is_done_is_not_trained_further(reference, reward_model):
    state = rlhf.start(BASE, reference, reward_model)
    state.update = 3
    train_rlhf(BASE, state, reference, reward_model, lambda s, m: pytest.fail("one update more"))
    assert weights_of(state.policy) == weights_of(reference)


# Settings out of range

SEED, LENGTH, NORM = (0, 2**31), (1, 48), (0.0, 1e6)
BIAS, SHARE = (-10.0, 10.0), (0.0, 1.0)
RANGES: dict[type, dict[str, tuple]] = {
    SFTConfig: {
        "seed": SEED, "n_demonstrations": (1, 10**7), "epochs": (1, 1000), "batch_size": (1, 10**6),
        "lr": SHARE, "max_grad_norm": NORM, "response_length": LENGTH,
    },
    DPOConfig: {
        "seed": SEED, "epochs": (1, 1000), "batch_size": (1, 10**6), "lr": SHARE,
        "max_grad_norm": NORM, "beta": (1e-6, 1e6), "length_penalty": NORM,
        "response_length": (1, 10**4), "temperature": (1e-3, 1e3),
    },
    RewardModelConfig: {
        "seed": SEED, "epochs": (1, 1000), "batch_size": (1, 10**6), "lr": SHARE,
        "max_grad_norm": NORM, "gauge_replies": (2, 10**6), "response_length": LENGTH,
        "length_head": NORM, "centring": NORM,
    },
    RaterConfig: {
        "seed": SEED, "n_pairs": (1, 10**7), "length_bias": BIAS, "sales_bias": BIAS,
        "confidence_bias": BIAS, "noise": (1e-3, 1e3), "flip": (0.0, 0.5),
        "pairing": ("random", "thin", "matched"), "candidates": (2, 64), "response_length": LENGTH,
    },
    RLHFConfig: {
        "seed": (0, 2**31 - 1), "updates": (1, 10**6), "batch_size": (2, 10**6),
        "num_ppo_epochs": (1, 1000), "num_mini_batches": (1, 256), "lr": SHARE,
        "lr_schedule": ("constant", "linear"), "lr_end": SHARE, "max_grad_norm": NORM,
        "kl_coef": NORM,
        "kl_placement": ("reward", "loss"), "kl_estimator": ("k1", "k2", "k3"), "kl_target": NORM,
        "kl_horizon": (1.0, 1e9), "target_kl": NORM, "cliprange": NORM, "cliprange_value": NORM,
        "vf_coef": NORM, "gamma": SHARE, "lam": SHARE, "whiten_advantages": (False, True),
        "whiten_rewards": (False, True), "missing_eos_penalty": NORM, "response_length": (1, 10**4),
        "temperature": (1e-3, 1e3), "cliprange_high": NORM, "clip": ("two-sided", "upper"),
        "advantage": ("gae", "rloo", "grpo", "dr-grpo"), "group_size": (1, 256),
        "critic_init": ("reward model", "random"), "critic_warmup": (0, 10**6),
        "reward_offset": (-1e6, 1e6),
    },
    ExamConfig: {
        "seed": SEED, "every": (1, 10**6), "prompts": (2, 10**6), "final_prompts": (2, 10**6),
        "refusal_replies": (1, 1000), "samples": (0, 10**4),
    },
    ModelConfig: {
        "n_layers": (1, 1000), "width": (1, 10**5), "n_heads": (1, 10**5),
        "max_prompt": (1, 10**5), "max_response": (1, 10**5),
    },
    AgentConfig: {f.name: SHARE for f in fields(AgentConfig)},
}  # fmt: skip
EVERY_FIELD = [(kind, name) for kind, ranges in RANGES.items() for name in ranges]


INNER = {SFTConfig: {"agents"}}  # fields that are a config of their own


# With which other settings both ends of a range are allowed.
BESIDE: dict[tuple[type, str], dict[str, int]] = {
    (RLHFConfig, "batch_size"): {"num_mini_batches": 1},
    (RLHFConfig, "advantage"): {"group_size": 2},
    (ModelConfig, "width"): {"n_heads": 1},
    (ModelConfig, "n_heads"): {"width": 10**5},
}


def wrong_values(allowed: tuple) -> list[object]:
    """What is out of range, or of a wrong type."""
    wrong = ["other", None, math.nan, [1]]
    low, high = allowed[0], allowed[-1]
    if isinstance(low, str):
        return [*wrong, 3, True, low.upper()]
    if isinstance(low, bool):
        return [*wrong, 0, 1, 0.0, "True"]
    wrong += [True, "3", 1j, math.inf, -math.inf, 10**400, -(10**400)]
    if isinstance(low, int):
        return [*wrong, low - 1, high + 1, low + 0.5, float(high)]
    return [*wrong, math.nextafter(low, -math.inf), math.nextafter(high, math.inf)]


@pytest.mark.parametrize("kind, name", EVERY_FIELD)
def test_a_setting_out_of_range_is_named_with_what_was_given_and_what_is_allowed(kind, name):
    allowed = RANGES[kind][name]
    for given in wrong_values(allowed):
        with pytest.raises(InputError) as error:
            kind(**{name: given}, **BESIDE.get((kind, name), {}))
        message = str(error.value)
        if isinstance(allowed[0], str | bool):
            words = ", ".join(map(str, allowed))
            assert message == f"{kind.__name__}.{name} = {given!r}: allowed are {words}"
            continue
        number = "a whole number" if isinstance(allowed[0], int) else "a number"
        start = f"{kind.__name__}.{name} = {given!r}: allowed is {number} from "
        assert message.startswith(start)
        ends = re.fullmatch(r"(\S+) to (\S+)", message.removeprefix(start))
        assert ends and (float(ends[1]), float(ends[2])) == allowed


@pytest.mark.parametrize("kind, name", EVERY_FIELD)
def test_the_ends_of_a_range_are_allowed(kind, name):
    allowed = RANGES[kind][name]
    for given in allowed if isinstance(allowed[0], str) else (allowed[0], allowed[-1]):
        config = kind(**{name: given}, **BESIDE.get((kind, name), {}))
        assert getattr(config, name) == given


@pytest.mark.parametrize("kind", RANGES)
def test_every_field_of_a_config_is_checked_and_explained(kind):
    assert {f.name for f in fields(kind)} == set(RANGES[kind]) | INNER.get(kind, set())
    kind()


def test_a_batch_has_at_least_one_response_for_every_minibatch():
    assert RLHFConfig(batch_size=8, num_mini_batches=8).num_mini_batches == 8
    with pytest.raises(InputError, match="RLHFConfig.num_mini_batches = 9: .* from 1 to 8"):
        RLHFConfig(batch_size=8, num_mini_batches=9)
    with pytest.raises(InputError, match="RLHFConfig.batch_size = 1: .* from 2 "):
        RLHFConfig(batch_size=1, num_mini_batches=1)


def test_a_horizon_so_short_that_beta_could_vanish_is_refused_before_training():
    assert RLHFConfig(batch_size=64, kl_horizon=15.0).kl_target == 0  # not used
    assert RLHFConfig(batch_size=64, kl_horizon=16.0, kl_target=1.0).kl_horizon == 16.0
    with pytest.raises(InputError, match="RLHFConfig.kl_horizon = 15.0: .* from 16.0 "):
        RLHFConfig(batch_size=64, kl_horizon=15.0, kl_target=1.0)


def test_attention_heads_divide_the_width():
    for width, heads in ((64, 3), (10, 4), (2, 4)):
        with pytest.raises(InputError, match=f"ModelConfig.n_heads = {heads}: .*, {width}$"):
            ModelConfig(width=width, n_heads=heads)


def test_configs_cannot_be_changed_once_they_are_checked():
    with pytest.raises(AttributeError):
        RLHFConfig().lr = 5.0
