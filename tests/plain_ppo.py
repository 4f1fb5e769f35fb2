"""The whole PPO iteration the plain way: what train_rlhf is compared with. Slow, and short.

Padded rows, one forward pass for all of them, every formula written out here, torch's own autograd,
and Adam over a list of ordinary parameters. The log-probabilities of the policy that made the
samples are read off a second forward pass. From the package come the padded forward passes of the
model alone, which test_model.py compares with one token at a time.
Shapes: B responses, T response tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlhf_edu.lab.helpdesk import EOS, PAD
from rlhf_edu.lab.model import Transformer, response_logits, reward_of, values_of
from rlhf_edu.lab.reward_model import RewardModel
from rlhf_edu.lab.rlhf import RLHFConfig

# Prompts, responses, and for every pass the order in which the rows are taken.
Batch = tuple[Tensor, Tensor, list[Tensor]]


@dataclass
class Plain:
    """What happened: gradients of policy and critic at every step, and each update in numbers."""

    gradients: list[list[Tensor]] = field(default_factory=list)  # before they are clipped
    metrics: list[dict[str, float]] = field(default_factory=list)


def plain_ppo(config: RLHFConfig, policy: Transformer, critic: Transformer, reference: Transformer,
              reward: RewardModel, batches: Iterable[Batch]) -> Plain:  # fmt: skip
    """Train `policy` and `critic` on the batches, one update each."""
    parameters = [*policy.parameters(), *critic.parameters()]
    adam = torch.optim.Adam(parameters, lr=config.lr, foreach=False)
    beta, found = config.kl_coef, Plain()

    def of_every_word(model: Transformer, x: Tensor, y: Tensor) -> Tensor:
        return response_logits(model, x, y, config.temperature).log_softmax(-1)  # (B, T, V)

    def said(logp: Tensor, y: Tensor) -> Tensor:
        return logp.gather(-1, y[..., None])[..., 0]  # (B, T)

    for update, (x, y, orders) in enumerate(batches):
        mask = (y != PAD).to(parameters[0].dtype)
        last = mask.sum(1).long() - 1
        row = torch.arange(len(y))

        # What the three frozen models and the critic say before the first step.
        with torch.no_grad():
            old_words, ref_words = of_every_word(policy, x, y), of_every_word(reference, x, y)
            old, ref, old_values = said(old_words, y), said(ref_words, y), values_of(critic, x, y)
            score = (reward_of(reward.model, x, y, mask) - reward.mean) / reward.sd
            score = score - config.missing_eos_penalty * (y != EOS).all(1) + config.reward_offset

        # Rewards: the penalty at every token, the score at the last.
        rewards = torch.zeros_like(mask)
        if config.kl_placement == "reward":
            rewards = -beta * estimate(old, ref, config.kl_estimator) * mask
        rewards[row, last] += score
        paid = rewards.sum(1).mean()
        if config.whiten_rewards:
            mean = mean_of(rewards, mask)
            rewards = (whiten(rewards, mask) + mean) * mask

        # Advantages and returns, backwards through the reply.
        advantages, ahead, next_value = torch.zeros_like(mask), 0.0, 0.0
        for t in reversed(range(y.shape[1])):
            delta = rewards[:, t] + config.gamma * next_value - old_values[:, t]
            ahead = (delta + config.gamma * config.lam * ahead) * mask[:, t]
            advantages[:, t], next_value = ahead, old_values[:, t] * mask[:, t]
        returns = advantages + old_values
        if config.advantage != "gae":
            advantages = among_others(rewards, mask, config.advantage, config.group_size)
            for t in range(y.shape[1]):
                left = (rewards * mask)[:, t:]
                weight = config.gamma ** torch.arange(left.shape[1])
                returns[:, t] = (left * weight).sum(1) * mask[:, t]
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)

        # Passes over the batch.
        if config.lr_schedule == "linear":
            adam.param_groups[0]["lr"] = config.lr * (
                1 - (1 - config.lr_end) * update / config.updates)
        moved, entropies, policy_losses, value_losses = [], [], [], []
        for order in orders:
            squares, surprise = [], []
            for part in order.tensor_split(config.num_mini_batches):
                on, words = mask[part], of_every_word(policy, x[part], y[part])
                new, values = said(words, y[part]), values_of(critic, x[part], y[part])
                ratio, gain = (new - old[part]).exp(), advantages[part]
                high = 1 + (config.cliprange_high or config.cliprange)
                surrogate = torch.min(ratio * gain, ratio.clamp(1 - config.cliprange, high) * gain)
                if config.clip == "upper":
                    surrogate = ratio.clamp(max=1 + config.cliprange) * gain
                policy_loss = -mean_of(surrogate, on)
                step = (values - old_values[part]).clamp(-config.cliprange_value,
                                                         config.cliprange_value)
                error = (values - returns[part]) ** 2
                error_near = (old_values[part] + step - returns[part]) ** 2
                value_loss = mean_of(torch.max(error, error_near), on) / 2
                loss = policy_loss + config.vf_coef * value_loss
                if config.kl_placement == "loss":
                    loss = loss + beta * mean_of(estimate(new, ref[part], config.kl_estimator), on)

                adam.zero_grad()
                loss.backward()
                found.gradients.append([p.grad.clone() for p in parameters])
                torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
                adam.step()

                squares.append((((new - old[part]) ** 2 / 2) * on).sum().item())
                surprise.append((-(words.exp() * words).sum(-1) * on).sum().item())
                policy_losses.append(policy_loss.item())
                value_losses.append(value_loss.item())
            moved.append(sum(squares) / mask.sum().item())
            entropies.append(sum(surprise) / mask.sum().item())
            if config.target_kl and moved[-1] > config.target_kl:
                break

        exact = (old_words.exp() * (old_words - ref_words)).sum(-1)
        kl = ((old - ref) * mask).sum(1).mean().item()
        found.metrics.append({
            "objective/kl": kl,
            "objective/kl_exact": (exact * mask).sum(1).mean().item(),
            "objective/kl_coef": beta,
            "objective/scores": score.mean().item(),
            "objective/rlhf_reward": paid.item(),
            "policy/approxkl_avg": sum(moved) / len(moved),
            "policy/entropy_avg": sum(entropies) / len(entropies),
            "loss/policy_avg": sum(policy_losses) / len(policy_losses),
            "loss/value_avg": sum(value_losses) / len(value_losses),
        })  # fmt: skip
        if config.kl_target:
            error = min(max(kl / config.kl_target - 1, -0.2), 0.2)
            beta *= 1 + error * config.batch_size / config.kl_horizon
    return found


def mean_of(numbers: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens."""
    return (numbers * mask).sum() / mask.sum()


def whiten(numbers: Tensor, mask: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over real tokens, 0 elsewhere."""
    away = numbers - mean_of(numbers, mask)
    return away / mean_of(away**2, mask).sqrt() * mask


def among_others(rewards: Tensor, mask: Tensor, kind: str, size: int) -> Tensor:
    """Each response's reward against those of the others to its prompt, at each of its tokens."""
    totals = [sum(r for r, on in zip(row, its, strict=True) if on)
              for row, its in zip(rewards.tolist(), mask.tolist(), strict=True)]  # fmt: skip
    lengths, found = mask.sum(1).tolist(), torch.zeros_like(mask)
    usual = torch.tensor(lengths, dtype=torch.float32).mean().item()  # tokens count in 32 bits
    for i, (mine, length) in enumerate(zip(totals, lengths, strict=True)):
        group = totals[i // size * size : (i // size + 1) * size]
        mean = sum(group) / size
        if kind == "rloo":
            lead = mine - (sum(group) - mine) / (size - 1)
        elif kind == "dr-grpo":
            lead = mine - mean
        else:
            sd = (sum((x - mean) ** 2 for x in group) / size) ** 0.5
            lead = (mine - mean) / sd * usual / length
        found[i] = lead * mask[i]
    return found


def estimate(logprobs: Tensor, ref_logprobs: Tensor, kind: str) -> Tensor:
    """k1, k2 or k3 of KL(policy ‖ reference) at each token."""
    log_r = ref_logprobs - logprobs
    return {"k1": -log_r, "k2": log_r**2 / 2, "k3": log_r.exp() - 1 - log_r}[kind]
