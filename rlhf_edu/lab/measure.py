"""The measuring kit: every quantity that the case studies speak of, as functions over a batch.

    RM      proxy reward in a stated gauge; win-probability against the reference
    GOLD    the human score, with its parts                               (gold.py)
    LEN SALES CONF DIRECT   style                                         (gold.py)
    REF     refusal consistency over clusters of paraphrases
    KLREF   KL(policy ‖ reference), exact along the sampled prefix; k1, k2, k3 beside it
    KLOLD RATIO   how far one update moved away from π_old
    ADV     advantages before and after whitening
    EV      explained variance of the critic
    ENT REP collapse: token entropy, repeated 4-grams
    NRG     share of the reward gain that length does not explain
    RM-ACC  accuracy of the reward model on pairs, against gold

Metric names follow TRL's PPO trainer (up to 1.12) where it has one. KL is in nats *per response*
(summed over its tokens, averaged over the batch) unless the name says per token.
Shapes: B responses, T response tokens, V vocabulary.
"""

import torch
from torch import Tensor

from rlhf_edu.advantage import explained_variance, masked_mean
from rlhf_edu.kl_penalty import kl_estimate
from rlhf_edu.lab.helpdesk import PAD
from rlhf_edu.ppo_clip import clip_fraction, outside_fraction, probability_ratio
from rlhf_edu.ranking_loss import ranking_accuracy


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of two (B,) tensors → scalar; 0 if one of them does not vary."""
    a, b = a - a.mean(), b - b.mean()
    norm = (a.square().sum() * b.square().sum()).sqrt()
    return torch.where(norm > 0, (a * b).sum() / norm.clamp(min=1e-30), torch.zeros_like(norm))


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy (…,) in nats of the next-token distribution, from logits (…, V)."""
    logp = logits.log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


def repeated_4grams(responses: Tensor) -> Tensor:
    """REP (B,): share of the 4-grams of a reply that occurred earlier in it; 0 under 5 words."""
    T = responses.shape[1]
    if T < 5:
        return responses.new_zeros(len(responses), dtype=torch.float)
    grams = responses.unfold(1, 4, 1)  # (B, T−3, 4)
    real = (grams > PAD).all(-1)
    same = (grams[:, :, None] == grams[:, None]).all(-1)  # (B, T−3, T−3)
    earlier = torch.ones(T - 3, T - 3, dtype=torch.bool, device=responses.device).tril(-1)
    repeated = (same & earlier & real[:, None]).any(-1) & real
    return repeated.sum(1) / real.sum(1).clamp(min=1)


def refusal_consistency(refused: Tensor, cluster: Tensor) -> Tensor:
    """REF: mean over clusters of paraphrases of max(p, 1 − p), p = share refused. (B,), (B,) → scalar.

    1: every paraphrase of a request gets the same treatment; 0.5: the treatment is a coin toss.
    """
    same = (cluster[:, None] == cluster.unique()[None]).float()  # (B, clusters)
    p = (same * refused[:, None]).sum(0) / same.sum(0)
    return torch.maximum(p, 1 - p).mean()


def reward_gain_beyond_length(reward: Tensor, length: Tensor, ref_reward: Tensor,
                              ref_length: Tensor, bucket: int = 2) -> Tensor:
    """NRG: (gain in reward at equal length) / (gain in reward), Singhal et al. 2023. Four (B,) → scalar.

    Lengths are put in buckets of `bucket` tokens; the gain at equal length is the difference of the
    bucket means, weighted by how many of the policy's replies are in each bucket that both reach.
    """
    key, ref_key = (length // bucket).long(), (ref_length // bucket).long()
    size = int(torch.maximum(key.max(), ref_key.max())) + 1

    def bucket_sums(k: Tensor, x: Tensor) -> Tensor:
        return torch.zeros(size, device=x.device, dtype=x.dtype).index_add(0, k, x)

    n, ref_n = bucket_sums(key, torch.ones_like(reward)), bucket_sums(ref_key, torch.ones_like(ref_reward))
    gain = bucket_sums(key, reward) / n.clamp(min=1) - bucket_sums(ref_key, ref_reward) / ref_n.clamp(min=1)
    weight = n * (ref_n > 0)
    within = (gain * weight).sum() / weight.sum().clamp(min=1)
    return within / (reward.mean() - ref_reward.mean())


def reward_model_accuracy(rewards: Tensor, gold: Tensor) -> Tensor:
    """RM-ACC on pairs: does the reward order two replies as gold does? (B, 2), (B, 2) → scalar.

    Pairs that gold holds for equal are left out; a tie of the rewards counts one half.
    """
    lead = gold[:, 0] - gold[:, 1]
    differ = lead.abs() > 1e-6
    better = (lead < 0).long()[differ, None]
    chosen, rejected = rewards[differ].gather(1, better), rewards[differ].gather(1, 1 - better)
    return ranking_accuracy(chosen[:, 0], rejected[:, 0])


def within_prompt_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Correlation of x and y over two replies to the same prompt, the prompt's mean taken out. (B, 2) twice."""
    return correlation((x - x.mean(1, keepdim=True)).flatten(), (y - y.mean(1, keepdim=True)).flatten())


def advantage_summary(advantages: Tensor, mask: Tensor, name: str) -> dict[str, Tensor]:
    """ADV: share above 0, mean, SD, 95th percentile over tokens; correlation with LEN over responses."""
    on = mask.bool()
    n = on.sum()
    mean = masked_mean(advantages, mask)
    ordered = advantages.masked_fill(~on, float("inf")).flatten().sort().values
    length = mask.sum(1)
    return {
        f"{name}/share_positive": masked_mean((advantages > 0).float(), mask),
        f"{name}/mean": mean,
        f"{name}/sd": masked_mean((advantages - mean).square(), mask).sqrt(),
        f"{name}/p95": ordered.gather(0, (0.95 * (n - 1)).long()[None])[0],
        f"{name}/length_correlation": correlation((advantages * mask).sum(1) / length, length),
    }


def step_metrics(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor,
                 cliprange: float, values: Tensor, old_values: Tensor, cliprange_value: float,
                 entropy: Tensor) -> dict[str, Tensor]:
    """KLOLD and RATIO of one optimiser step, before it is taken. Token quantities (B, T) → scalars."""
    ratio = probability_ratio(logprobs, old_logprobs)
    on = mask.bool()
    outside = ((ratio > 1 + cliprange) | (ratio < 1 - cliprange)) & on
    return {
        "policy/approxkl_avg": 0.5 * masked_mean((logprobs - old_logprobs).square(), mask),
        "policy/kl_old": -((logprobs - old_logprobs) * mask).sum(1).mean(),
        "policy/clipfrac_avg": clip_fraction(logprobs, old_logprobs, advantages, mask, cliprange),
        "policy/outside_avg": outside_fraction(logprobs, old_logprobs, mask, cliprange),
        "policy/outside_positive": (outside & (advantages > 0)).sum() / (on & (advantages > 0)).sum().clamp(min=1),
        "policy/outside_negative": (outside & (advantages < 0)).sum() / (on & (advantages < 0)).sum().clamp(min=1),
        "policy/ratio_max": ratio.masked_fill(~on, 0).max(),
        "val/ratio": masked_mean(ratio, mask),
        "val/clipfrac_avg": masked_mean(((values - old_values).abs() > cliprange_value).float(), mask),
        "policy/entropy_avg": masked_mean(entropy, mask),
    }


def update_metrics(scores: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor, exact: Tensor,
                   rewards: Tensor, raw_advantages: Tensor, advantages: Tensor, old_values: Tensor,
                   returns: Tensor, mask: Tensor, steps: list[dict[str, Tensor]]) -> dict[str, float]:
    """One update in numbers: averages of its steps, and what its batch looked like. One wait for a GPU."""
    all_steps = {name: torch.stack([step[name] for step in steps]) for name in steps[0]}
    found = {name: x.max() if name.endswith("_max") else x.mean() for name, x in all_steps.items()}
    found["policy/outside_last_epoch"] = all_steps["policy/outside_avg"][-(len(steps) // 4 or 1):].mean()
    found["policy/kl_old"] = all_steps["policy/kl_old"][-1]
    k = {name: (kl_estimate(old_logprobs, ref_logprobs, name) * mask).sum(1).mean() for name in ("k1", "k2", "k3")}
    score = scores.mean()
    non_score = (rewards * mask).sum(1).mean() - score
    found |= {
        "objective/kl": k["k1"], "objective/kl_k2": k["k2"], "objective/kl_k3": k["k3"],
        "objective/kl_exact": (exact * mask).sum(1).mean(),
        "objective/scores": score,
        "objective/non_score_reward": non_score,
        "objective/rlhf_reward": score + non_score,
        "objective/entropy": -(old_logprobs * mask).sum(1).mean(),
        "style/length": mask.sum(1).mean(),
        "critic/explained_variance": explained_variance(old_values, returns, mask),
    }
    found |= advantage_summary(raw_advantages, mask, "advantage")
    found |= advantage_summary(advantages, mask, "advantage_whitened")
    return dict(zip(found, torch.stack(list(found.values())).tolist()))
