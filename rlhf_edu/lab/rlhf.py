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
from functools import partial

import torch
from torch import Tensor

from rlhf_edu import InputError
from rlhf_edu.advantage import gae, masked_whiten
from rlhf_edu.kl_penalty import (
    AdaptiveKLController,
    FixedKLController,
    exact_kl,
    kl_loss,
    penalized_rewards,
)
from rlhf_edu.lab import helpdesk, measure
from rlhf_edu.lab.gold import reply_mask
from rlhf_edu.lab.group import KINDS, group_advantages
from rlhf_edu.lab.machine import side_by_side
from rlhf_edu.lab.measure import Rollout, take
from rlhf_edu.lab.model import Transformer, gather_logprobs, language_model, scalar_model
from rlhf_edu.lab.record import check_range
from rlhf_edu.lab.reward_model import Ensemble, RewardModel
from rlhf_edu.lab.sampling import sample
from rlhf_edu.lab.state import TrainingState, one_vector
from rlhf_edu.lab.tiles import Tiles, lay, lengths_of, logits_in, values_in
from rlhf_edu.ppo_clip import (
    clipped_surrogate_loss,
    clipped_value_loss,
    composite_loss,
    upper_bound_clip_loss,
)


@dataclass(frozen=True)
class RLHFConfig:
    """PPO with a KL penalty."""

    seed: int = 0  # of prompts, samples and minibatches
    updates: int = 40  # batches sampled, each used for num_ppo_epochs passes
    batch_size: int = 256  # responses a batch
    num_ppo_epochs: int = 4  # passes over each batch
    num_mini_batches: int = 4  # optimiser steps a pass
    lr: float = 3e-4  # Adam's step size, of policy and critic
    lr_schedule: str = "constant"  # or "linear": falls by the same amount every update, to
    lr_end: float = 0.0  # this share of lr after the last one
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm
    kl_coef: float = 0.05  # β, weight of KL(policy ‖ reference)
    kl_placement: str = "reward"  # the penalty is in the "reward" or in the "loss"
    kl_estimator: str = "k1"  # k1, k2 or k3; in the reward only k1 has the gradient of the KL
    kl_target: float = 0.0  # nats a response that an adaptive β steers to; 0: β stays fixed
    kl_horizon: float = 2560.0  # episodes over which the adaptive β reacts
    target_kl: float = 0.0  # nats a token of KL to π_old that end the passes over a batch; 0: off
    cliprange: float = 0.2  # ε of the ratio
    cliprange_high: float = 0.0  # ε above 1, where it is another (clip-higher); 0: cliprange
    clip: str = "two-sided"  # or "upper": min(ρ, 1+ε)·A as printed, with no lower bound
    cliprange_value: float = 0.2  # ε of the critic's prediction
    vf_coef: float = 0.1  # weight of the critic's loss
    gamma: float = 1.0  # discount
    lam: float = 0.95  # λ of GAE
    advantage: str = "gae"  # or, without a critic, from the other answers: rloo, grpo or dr-grpo
    group_size: int = 1  # answers to each prompt of a batch, G
    critic_init: str = "reward model"  # or "random": what the critic's trunk starts as
    critic_warmup: int = 0  # first updates, in which the critic learns and the policy does not
    reward_offset: float = 0.0  # added to every score: a reward model that nobody centred
    whiten_advantages: bool = True  # centre and scale advantages over the batch
    whiten_rewards: bool = False  # scale rewards (score and penalty) over the batch, mean kept
    missing_eos_penalty: float = 1.0  # taken from the score of a response that was cut off
    response_length: int = 32  # longest response, in tokens
    temperature: float = 1.0  # of sampling and of every log-probability

    def __post_init__(self) -> None:
        check_range(
            self, seed=(0, 2**31 - 1), updates=(1, 10**6), batch_size=(2, 10**6),
            num_ppo_epochs=(1, 1000), num_mini_batches=(1, self.batch_size), lr=(0, 1),
            lr_schedule=("constant", "linear"), lr_end=(0, 1),
            max_grad_norm=(0, 1e6), kl_coef=(0, 1e6),
            kl_placement=("reward", "loss"), kl_estimator=("k1", "k2", "k3"), kl_target=(0, 1e6),
            kl_horizon=(1, 1e9), whiten_advantages=(False, True), whiten_rewards=(False, True),
            target_kl=(0, 1e6), cliprange=(0, 1e6), cliprange_value=(0, 1e6),
            cliprange_high=(0, 1e6), clip=("two-sided", "upper"), advantage=("gae", *KINDS),
            group_size=(1, self.batch_size), critic_init=("reward model", "random"),
            critic_warmup=(0, 10**6), reward_offset=(-1e6, 1e6),
            vf_coef=(0, 1e6), gamma=(0, 1), lam=(0, 1), missing_eos_penalty=(0, 1e6),
            response_length=(1, 10**4), temperature=(1e-3, 1e3))
        if self.batch_size % self.group_size:
            raise InputError(f"RLHFConfig.group_size = {self.group_size}: allowed are divisors of "
                             f"batch_size = {self.batch_size}")
        if self.advantage != "gae":  # an answer is compared with the others to its prompt
            check_range(self, group_size=(2, self.batch_size))
        if self.kl_target:  # an update may move β by 4/5 of itself at most, and 0 by nothing
            check_range(self, kl_coef=(1e-9, 1e6))
            check_range(self, kl_horizon=(self.batch_size / 4, 1e9))


def start(config: RLHFConfig, reference: Transformer,
          reward_model: RewardModel | Ensemble) -> TrainingState:
    """The policy starts as the reference, the critic as the reward model with a head of 0."""
    device = reference.embed.weight.device
    policy = language_model(reference.config).to(device)
    policy.load_state_dict(reference.state_dict())
    torch.manual_seed(config.seed)  # of a critic that starts from nothing
    copied = reward_model.model if config.critic_init == "reward model" else None
    value = scalar_model(reference.config, trunk_from=copied).to(device)
    adapts = config.kl_target > 0
    weights = one_vector(policy, value)
    return TrainingState(
        policy, value, weights, torch.optim.Adam([weights], lr=config.lr, fused=True),
        AdaptiveKLController(config.kl_coef, config.kl_target, config.kl_horizon)
        if adapts else FixedKLController(config.kl_coef),
        torch.Generator().manual_seed(config.seed))


def choose_policy_loss(config: RLHFConfig) -> Callable[..., Tensor]:
    """The clipped loss that a configuration asks for."""
    if config.clip == "upper":
        return upper_bound_clip_loss
    return partial(clipped_surrogate_loss, cliprange_high=config.cliprange_high or None)


def choose_advantages(config: RLHFConfig) -> Callable[..., tuple[Tensor, Tensor]]:
    """The advantages that a configuration asks for."""
    if config.advantage == "gae":
        return gae
    return partial(group_advantages, kind=config.advantage, group_size=config.group_size)


def train_rlhf(
    config: RLHFConfig,
    state: TrainingState,
    reference: Transformer,
    reward_model: Callable[[Tensor, Tensor], Tensor],
    after_update: Callable[[TrainingState, dict[str, float]], None] = lambda state, metrics: None,
    policy_loss: Callable[..., Tensor] | None = None,
    value_loss: Callable[..., Tensor] = clipped_value_loss,
    advantage_fn: Callable[..., tuple[Tensor, Tensor]] | None = None,
    penalty_loss: Callable[..., Tensor] = kl_loss,
) -> TrainingState:
    """Train `state` until `config.updates` batches are done; `after_update` gets the metrics.

    Without a `policy_loss` or an `advantage_fn` of yours the configuration chooses.
    """
    policy_loss = policy_loss or choose_policy_loss(config)
    advantage_fn = advantage_fn or choose_advantages(config)
    policy, value, optimizer = state.policy, state.value, state.optimizer
    device = reference.embed.weight.device
    every_prompt = helpdesk.desk().prompts.to(device)
    in_reward = config.kl_placement == "reward"

    def read(x: Tensor, y: Tensor, old_logp: Tensor) -> tuple[Tensor, ...]:
        tiles = lay(policy, x, y, lengths_of(x, y))
        ref_logits = logits_in(tiles, reference, config.temperature)
        return (tiles.rows(gather_logprobs(ref_logits, tiles.flat(y))),
                tiles.rows(exact_kl(tiles.flat(old_logp), ref_logits)),
                tiles.rows(values_in(tiles, value)), reward_model(x, y))

    def policy_gradients(b: Rollout, tiles: Tiles, kl_coef: float) -> tuple[Tensor, ...]:
        logits = logits_in(tiles, policy, config.temperature)
        logprobs = tiles.rows(gather_logprobs(logits, tiles.flat(b.responses)))
        pg_loss = policy_loss(logprobs, b.old_logprobs, b.advantages, b.mask, config.cliprange)
        loss = pg_loss
        if not in_reward and kl_coef > 0:
            penalty = penalty_loss(logprobs, b.ref_logprobs, b.mask, config.kl_estimator)
            loss = composite_loss(pg_loss, penalty, kl_coef)
        if state.update >= config.critic_warmup:
            loss.backward()
        entropy = tiles.rows(measure.token_entropy(logits.detach()))
        return logprobs.detach(), entropy, pg_loss.detach()

    def value_gradients(b: Rollout, tiles: Tiles) -> tuple[Tensor, ...]:
        values = tiles.rows(values_in(tiles, value))
        vf_loss = value_loss(values, b.old_values, b.returns, b.mask, config.cliprange_value)
        (config.vf_coef * vf_loss).backward()
        return values.detach(), vf_loss.detach()

    while state.update < config.updates:
        if state.update == config.critic_warmup > 0:
            # Adam has counted steps in which the policy did not move, and would make up for them.
            optimizer.state.clear()
        # 1. Sample a batch of responses from the policy as it is: from here on it is π_old.
        rows = helpdesk.draw_prompts(helpdesk.desk(), config.batch_size // config.group_size,
                                     state.generator)
        prompts = take(every_prompt, rows)
        old_logp = torch.zeros(config.batch_size, config.response_length, helpdesk.VOCAB_SIZE,
                               device=device)  # of every word
        responses, old_logprobs = sample(policy, prompts, config.response_length, state.generator,
                                         config.temperature, old_logp, config.group_size)
        prompts = prompts.repeat_interleave(config.group_size, 0)
        lengths = lengths_of(prompts, responses)  # on the CPU: only real tokens are computed
        mask = reply_mask(responses)

        with torch.inference_mode():
            # 2. Log-probabilities under π_ref, the KL from it, the critic's values, the scores.
            size = min(-(-config.batch_size // 2), 256)  # parts that stay in the CPU's cache
            pieces = zip(*(x.split(size) for x in (prompts, responses, old_logp)), strict=True)
            ref_logprobs, kl_ref, old_values, scores = map(torch.cat, zip(
                *side_by_side(*(partial(read, *piece) for piece in pieces)), strict=True))
            cut_off = (responses != helpdesk.EOS).all(1).float()
            scores = scores + config.reward_offset - config.missing_eos_penalty * cut_off

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
        gone = (1 - config.lr_end) * state.update / config.updates
        left = 1 - gone if config.lr_schedule == "linear" else 1
        optimizer.param_groups[0]["lr"] = config.lr * left
        passes: list[dict[str, Tensor]] = []
        for _ in range(config.num_ppo_epochs):
            shuffled, steps = torch.randperm(config.batch_size, generator=state.generator), []
            for part in shuffled.tensor_split(config.num_mini_batches):
                b = rollout[part]
                tiles = lay(policy, b.prompts, b.responses, b.lengths)
                optimizer.zero_grad(set_to_none=False)
                of_policy, of_value = side_by_side(partial(policy_gradients, b, tiles, kl_coef),
                                                   partial(value_gradients, b, tiles))
                torch.nn.utils.clip_grad_norm_(state.weights, config.max_grad_norm)
                optimizer.step()
                steps.append(of_policy + of_value)
            passes.append(measure.pass_metrics(rollout[shuffled], steps, config.cliprange,
                                               config.cliprange_value,
                                               config.cliprange_high or None))
            if config.target_kl and float(passes[-1]["policy/approxkl_avg"]) > config.target_kl:
                break

        # 6. What happened, in numbers; the adaptive β reacts to it.
        state.update += 1
        metrics = {"update": state.update, "episode": state.update * config.batch_size,
                   "lr": config.lr * left, "objective/kl_coef": kl_coef,
                   **measure.update_metrics(rollout, passes)}
        state.kl_controller.update(metrics["objective/kl"], config.batch_size)
        after_update(state, metrics)
    return state
