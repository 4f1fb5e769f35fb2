"""Stage three: reinforcement learning from the reward model, with PPO and a KL penalty.

    sample    y ~ π_old(· | x)
    score     r(x, y), in the reward model's gauge
    penalise  how far log π_old(y_t) − log π_ref(y_t) has gone     → rewards     (B, T)
    compare   with what the critic expected                        → advantages  (B, T)
    step      a few clipped steps on the same batch                → the new policy

Three policies, kept apart: the one being trained (`logprobs`), the one that made the samples
(`old_logprobs`, denominator of the ratio), the frozen reference (`ref_logprobs`, anchor of the KL).

The loss functions are arguments with the package's own as defaults: train the desk with the
functions that you wrote, and an ablation is one argument.
Shapes: B responses, L prompt tokens, T response tokens.
Left out: gradient accumulation, mixed precision, more than one device, rewards from elsewhere.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_edu.advantage import gae, masked_whiten
from rlhf_edu.kl_penalty import (
    AdaptiveKLController,
    FixedKLController,
    exact_kl,
    kl_loss,
    penalized_rewards,
)
from rlhf_edu.lab import helpdesk, measure
from rlhf_edu.lab.batching import by_length, lengths_of, take, trim
from rlhf_edu.lab.gold import reply_mask
from rlhf_edu.lab.measure import Rollout
from rlhf_edu.lab.model import (
    Transformer,
    gather_logprobs,
    language_model,
    response_logits,
    scalar_model,
    values_of,
)
from rlhf_edu.lab.record import check_range
from rlhf_edu.lab.reward_model import RewardModel
from rlhf_edu.lab.sampling import sample
from rlhf_edu.lab.state import TrainingState
from rlhf_edu.ppo_clip import clipped_surrogate_loss, clipped_value_loss, composite_loss


@dataclass(frozen=True)
class RLHFConfig:
    """PPO with a KL penalty."""

    seed: int = 0  # of prompts, samples and minibatches
    updates: int = 40  # batches sampled, each used for num_ppo_epochs passes
    batch_size: int = 256  # responses a batch
    num_ppo_epochs: int = 4  # passes over each batch
    num_mini_batches: int = 4  # optimiser steps a pass
    lr: float = 3e-4  # Adam's step size, of policy and critic
    lr_schedule: str = "constant"  # or "linear": falls to 0 at the last update
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm
    kl_coef: float = 0.05  # β, weight of KL(policy ‖ reference)
    kl_placement: str = "reward"  # the penalty is in the "reward" or in the "loss"
    kl_estimator: str = "k1"  # k1, k2 or k3; in the reward only k1 has the gradient of the KL
    kl_target: float = 0.0  # nats a response that an adaptive β steers to; 0: β stays fixed
    kl_horizon: float = 2560.0  # episodes over which the adaptive β reacts
    target_kl: float = 0.0  # nats a token of KL to π_old that end the passes over a batch; 0: off
    cliprange: float = 0.2  # ε of the ratio
    cliprange_value: float = 0.2  # ε of the critic's prediction
    vf_coef: float = 0.1  # weight of the critic's loss
    gamma: float = 1.0  # discount
    lam: float = 0.95  # λ of GAE
    whiten_advantages: bool = True  # centre and scale advantages over the batch
    whiten_rewards: bool = False  # scale rewards (score and penalty) over the batch, mean kept
    missing_eos_penalty: float = 1.0  # taken from the score of a response that was cut off
    response_length: int = 32  # longest response, in tokens
    temperature: float = 1.0  # of sampling and of every log-probability

    def __post_init__(self) -> None:
        check_range(
            self, seed=(0, 2**31 - 1), updates=(1, 10**6), batch_size=(2, 10**6),
            num_ppo_epochs=(1, 1000), num_mini_batches=(1, self.batch_size), lr=(0, 1),
            lr_schedule=("constant", "linear"), max_grad_norm=(0, 1e6), kl_coef=(0, 1e6),
            kl_placement=("reward", "loss"), kl_estimator=("k1", "k2", "k3"), kl_target=(0, 1e6),
            kl_horizon=(1, 1e9), whiten_advantages=(False, True), whiten_rewards=(False, True),
            target_kl=(0, 1e6), cliprange=(0, 1e6), cliprange_value=(0, 1e6),
            vf_coef=(0, 1e6), gamma=(0, 1), lam=(0, 1), missing_eos_penalty=(0, 1e6),
            response_length=(1, 48), temperature=(1e-3, 1e3))
        if self.kl_target:  # an update may move β by 4/5 of itself at most, and 0 by nothing
            check_range(self, kl_coef=(1e-9, 1e6))
            check_range(self, kl_horizon=(self.batch_size / 4, 1e9))


def start(config: RLHFConfig, reference: Transformer, reward_model: RewardModel) -> TrainingState:
    """The policy starts as the reference, the critic as the reward model with a head of 0."""
    device = reference.embed.weight.device
    policy = language_model(reference.config).to(device)
    policy.load_state_dict(reference.state_dict())
    value = scalar_model(reference.config, trunk_from=reward_model.model)
    adapts = config.kl_target > 0
    return TrainingState(
        policy, value,
        torch.optim.Adam([*policy.parameters(), *value.parameters()], lr=config.lr),
        AdaptiveKLController(config.kl_coef, config.kl_target, config.kl_horizon)
        if adapts else FixedKLController(config.kl_coef),
        torch.Generator().manual_seed(config.seed))


def train_rlhf(
    config: RLHFConfig,
    state: TrainingState,
    reference: Transformer,
    reward_model: Callable[[Tensor, Tensor], Tensor],
    after_update: Callable[[TrainingState, dict[str, float]], None] = lambda state, metrics: None,
    policy_loss: Callable[..., Tensor] = clipped_surrogate_loss,
    value_loss: Callable[..., Tensor] = clipped_value_loss,
    advantage_fn: Callable[..., tuple[Tensor, Tensor]] = gae,
    penalty_loss: Callable[..., Tensor] = kl_loss,
) -> TrainingState:
    """Train `state` until `config.updates` batches are done; `after_update` gets the metrics."""
    policy, value, optimizer = state.policy, state.value, state.optimizer
    parameters = [*policy.parameters(), *value.parameters()]
    every_prompt = helpdesk.desk().prompts.to(reference.embed.weight.device)
    in_reward = config.kl_placement == "reward"

    def read(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        logits = response_logits(policy, x, y, config.temperature)
        ref_logits = response_logits(reference, x, y, config.temperature)
        return (gather_logprobs(logits, y), gather_logprobs(ref_logits, y),
                exact_kl(logits, ref_logits), values_of(value, x, y), reward_model(x, y))

    def reread(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        logits = response_logits(policy, x, y, config.temperature)
        entropy = measure.token_entropy(logits.detach())
        return gather_logprobs(logits, y), values_of(value, x, y), entropy

    while state.update < config.updates:
        # 1. Sample a batch of responses from the policy as it is: from here on it is π_old.
        rows = helpdesk.draw_prompts(helpdesk.desk(), config.batch_size, state.generator)
        prompts = take(every_prompt, rows)
        responses, _ = sample(policy, prompts, config.response_length, state.generator,
                              config.temperature)
        lengths = lengths_of(prompts, responses)  # waits for a GPU, once a batch
        prompts, responses = trim(prompts, responses, lengths)
        mask = reply_mask(responses)

        with torch.inference_mode():
            # 2. Log-probabilities under π_old and π_ref, their KL, the critic's values, the scores.
            old_logprobs, ref_logprobs, kl_ref, old_values, scores = by_length(
                read, prompts, responses, lengths, parts=6)
            cut_off = (responses != helpdesk.EOS).all(1).float()
            scores = scores - config.missing_eos_penalty * cut_off

            # 3. Rewards, with the KL penalty if it is there.
            kl_coef = state.kl_controller.value
            rewards = penalized_rewards(scores, old_logprobs, ref_logprobs, mask,
                                        kl_coef if in_reward else 0.0, config.kl_estimator)
            learned = masked_whiten(rewards, mask, shift_mean=False) if config.whiten_rewards \
                else rewards

            # 4. Advantages, and the returns that the critic learns.
            raw, returns = advantage_fn(learned, old_values, mask, config.gamma, config.lam)
            advantages = masked_whiten(raw, mask) if config.whiten_advantages else raw
            rollout = Rollout(prompts, responses, lengths, mask, scores, old_logprobs, ref_logprobs,
                              kl_ref, old_values, rewards, raw, advantages, returns)

        # 5. A few passes over the batch, one optimiser step a minibatch.
        left = 1 - state.update / config.updates if config.lr_schedule == "linear" else 1
        optimizer.param_groups[0]["lr"] = config.lr * left
        steps: list[dict[str, Tensor]] = []
        for _ in range(config.num_ppo_epochs):
            shuffled = torch.randperm(config.batch_size, generator=state.generator)
            for part in shuffled.tensor_split(config.num_mini_batches):
                b = rollout[part]
                logprobs, values, entropy = by_length(
                    reread, b.prompts, b.responses, b.lengths, parts=3)
                pg_loss = policy_loss(logprobs, b.old_logprobs, b.advantages, b.mask,
                                      config.cliprange)
                vf_loss = value_loss(values, b.old_values, b.returns, b.mask,
                                     config.cliprange_value)
                loss = pg_loss + config.vf_coef * vf_loss
                if not in_reward and kl_coef > 0:
                    penalty = penalty_loss(logprobs, b.ref_logprobs, b.mask, config.kl_estimator)
                    loss = composite_loss(loss, penalty, kl_coef)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
                optimizer.step()
                steps.append(measure.step_metrics(b, logprobs.detach(), values.detach(), entropy,
                                                  config.cliprange, config.cliprange_value)
                             | {"loss/policy_avg": pg_loss.detach(),
                                "loss/value_avg": vf_loss.detach()})
            if config.target_kl and float(steps[-1]["policy/approxkl_avg"]) > config.target_kl:
                break

        # 6. What happened, in numbers; the adaptive β reacts to it.
        state.update += 1
        metrics = {"update": state.update, "episode": state.update * config.batch_size,
                   "lr": config.lr * left, "objective/kl_coef": kl_coef,
                   **measure.update_metrics(rollout, steps, len(steps) - config.num_mini_batches)}
        state.kl_controller.update(metrics["objective/kl"], config.batch_size)
        after_update(state, metrics)
    return state
