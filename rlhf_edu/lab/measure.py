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
(summed over its tokens, averaged over the batch), but policy/approxkl_avg is per *token*. TRL
averages approxkl, ratio and policy entropy over padding too, so its numbers are smaller (the ratio
nearer 1). The returns in the explained variance are λ-returns, which contain the critic's own
values.
Shapes: B responses, T response tokens, V vocabulary.
"""

from dataclasses import dataclass, fields
from typing import Any

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
    square = a.square().sum() * b.square().sum()
    # The root of 0 has no gradient: what does not vary must not come near it.
    norm = torch.where(square > 0, square, torch.ones_like(square)).sqrt()
    return torch.where(square > 0, (a * b).sum() / norm, torch.zeros_like(norm))


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
    """REF: mean over clusters of max(p, 1 − p), p = share refused. (B,), (B,) → scalar.

    1: every paraphrase of a request gets the same treatment; 0.5: the treatment is a coin toss.
    """
    same = (cluster[:, None] == cluster.unique()[None]).float()  # (B, clusters)
    p = (same * refused[:, None]).sum(0) / same.sum(0)
    return torch.maximum(p, 1 - p).mean()


def reward_gain_beyond_length(
    reward: Tensor, length: Tensor, ref_reward: Tensor, ref_length: Tensor, bucket: int = 2
) -> Tensor:
    """NRG (Singhal et al. 2023): reward gain at equal length / reward gain. Four (B,) → scalar.

    Lengths are put in buckets of `bucket` tokens; the gain at equal length is the difference of the
    bucket means, weighted by how many of the policy's replies are in each bucket that both reach.
    """
    key, ref_key = (length // bucket).long(), (ref_length // bucket).long()
    size = int(torch.maximum(key.max(), ref_key.max())) + 1

    def bucket_sums(k: Tensor, x: Tensor) -> Tensor:
        return torch.zeros(size, device=x.device, dtype=x.dtype).index_add(0, k, x)

    n, ref_n = (
        bucket_sums(key, torch.ones_like(reward)),
        bucket_sums(ref_key, torch.ones_like(ref_reward)),
    )
    gain = bucket_sums(key, reward) / n.clamp(min=1) - bucket_sums(
        ref_key, ref_reward
    ) / ref_n.clamp(min=1)
    weight = n * (ref_n > 0)
    within = (gain * weight).sum() / weight.sum().clamp(min=1)
    return within / (reward.mean() - ref_reward.mean())


def reward_model_accuracy(rewards: Tensor, gold: Tensor) -> Tensor:
    """RM-ACC on pairs: does the reward order two replies as gold does? (B, 2), (B, 2) → scalar.

    Pairs that gold holds for equal are left out; a tie of the rewards counts one half. NaN if gold
    holds all pairs for equal.
    """
    lead = gold[:, 0] - gold[:, 1]
    differ = lead.abs() > 1e-6
    if not differ.any():
        return lead.new_tensor(torch.nan)
    better = (lead < 0).long()[differ, None]
    chosen, rejected = rewards[differ].gather(1, better), rewards[differ].gather(1, 1 - better)
    return ranking_accuracy(chosen[:, 0], rejected[:, 0])


def within_prompt_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Correlation of x and y over two replies to each prompt, its mean taken out. (B, 2) twice."""
    return correlation(
        (x - x.mean(1, keepdim=True)).flatten(), (y - y.mean(1, keepdim=True)).flatten()
    )


def advantage_summary(advantages: Tensor, mask: Tensor, name: str) -> dict[str, Tensor]:
    """ADV over tokens: share above 0, mean, SD, 95th percentile; over responses: corr. with LEN."""
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


def take(x: Tensor, rows: Tensor) -> Tensor:
    """x[rows], where `rows` may be on the host and x on a GPU, without waiting for it."""
    return x[rows.to(x.device, non_blocking=True)]


@dataclass(frozen=True)
class Rollout:
    """A batch of responses and all that was read off it before the first step; rows by indexing."""

    prompts: Tensor  # (B, L) token ids, left-padded
    responses: Tensor  # (B, T) token ids
    lengths: Tensor | None  # (B, 2) tokens of prompt and response, on the host; None on a GPU
    mask: Tensor  # (B, T)
    scores: Tensor  # (B,) in the reward model's gauge, less the penalty for being cut off
    old_logprobs: Tensor  # (B, T)
    ref_logprobs: Tensor  # (B, T)
    kl_ref: Tensor  # (B, T) exact KL(policy ‖ reference) of each state
    old_values: Tensor  # (B, T)
    rewards: Tensor  # (B, T)
    raw_advantages: Tensor  # (B, T) before whitening
    advantages: Tensor  # (B, T)
    returns: Tensor  # (B, T)

    def __getitem__(self, rows: Tensor) -> "Rollout":
        columns: list[Any] = [getattr(self, f.name) for f in fields(self)]
        part: list[Any] = [None if x is None else take(x, rows) for x in columns]
        return Rollout(*part)


def pass_metrics(b: Rollout, steps: list[tuple[Tensor, ...]], cliprange: float,
                 cliprange_value: float, cliprange_high: float | None = None) -> dict[str, Tensor]:
    """KLOLD and RATIO over one pass: what each optimiser step saw before it was taken → scalars.

    A step is (logprobs, entropy, policy's loss, values, critic's loss) of its rows of the batch
    `b`, which are in the order of the steps.
    """
    logprobs, entropy, pg_loss, values, vf_loss = zip(*steps, strict=True)
    return step_metrics(b, torch.cat(logprobs), torch.cat(values), torch.cat(entropy), cliprange,
                        cliprange_value, cliprange_high) | {
                            "loss/policy_avg": torch.stack(pg_loss).mean(),
                            "loss/value_avg": torch.stack(vf_loss).mean()}


def step_metrics(b: Rollout, logprobs: Tensor, values: Tensor, entropy: Tensor, cliprange: float,
                 cliprange_value: float, cliprange_high: float | None = None) -> dict[str, Tensor]:
    """KLOLD and RATIO of responses `b` under weights that changed since: (B, T) → scalars."""
    ratio = probability_ratio(logprobs, b.old_logprobs)
    on, up, down = b.mask.bool(), b.advantages > 0, b.advantages < 0
    outside = ((ratio > 1 + cliprange) | (ratio < 1 - cliprange)) & on
    near = values.clamp(b.old_values - cliprange_value, b.old_values + cliprange_value)
    cut = (near - b.returns).square() > (values - b.returns).square()  # the clip takes its gradient
    return {
        "policy/approxkl_avg": 0.5 * masked_mean((logprobs - b.old_logprobs).square(), b.mask),
        # KL(old ‖ policy) by k3, samples from old: r = policy / old
        "policy/kl_old": ((ratio - 1 - (logprobs - b.old_logprobs)) * b.mask).sum(1).mean(),
        "policy/clipfrac_avg":
            clip_fraction(logprobs, b.old_logprobs, b.advantages, b.mask, cliprange,
                          cliprange_high),
        "policy/outside_avg": outside_fraction(logprobs, b.old_logprobs, b.mask, cliprange),
        "policy/outside_positive": (outside & up).sum() / (on & up).sum().clamp(min=1),
        "policy/outside_negative": (outside & down).sum() / (on & down).sum().clamp(min=1),
        "policy/ratio_max": ratio.masked_fill(~on, 0).max(),
        "val/ratio": masked_mean(ratio, b.mask),
        "val/clipfrac_avg": masked_mean(cut.float(), b.mask),
        "policy/entropy_avg": masked_mean(entropy, b.mask),
    }


def update_metrics(rollout: Rollout, passes: list[dict[str, Tensor]]) -> dict[str, float]:
    """One update in numbers: what its batch was like, and its passes on average; the last of them
    also by itself. Waits for a GPU once.
    """
    r, found = rollout, {}
    for name in passes[0]:
        values = torch.stack([one[name] for one in passes])
        found[name] = values.max() if name.endswith("_max") else values.mean()
    for name in ("policy/outside_avg", "policy/kl_old"):
        found[name.removesuffix("_avg") + "_last_epoch"] = passes[-1][name]
    for name in ("k1", "k2", "k3"):
        k = kl_estimate(r.old_logprobs, r.ref_logprobs, name)
        key = "objective/kl" if name == "k1" else f"objective/kl_{name}"
        found[key] = (k * r.mask).sum(1).mean()
    whole = (r.rewards * r.mask).sum(1)
    shaped, score, kl_part = whole.mean(), r.scores.mean(), whole - r.scores
    found |= {
        "objective/kl_exact": (r.kl_ref * r.mask).sum(1).mean(),
        "objective/scores": score,
        "objective/non_score_reward": shaped - score,
        "objective/rlhf_reward": shaped,
        # of what varies between responses, the share that is the penalty's
        "objective/kl_variance_share": kl_part.var() / (kl_part.var() + r.scores.var()),
        "objective/entropy": -(r.old_logprobs * r.mask).sum(1).mean(),
        "style/length": r.mask.sum(1).mean(),
        "critic/explained_variance": explained_variance(r.old_values, r.returns, r.mask),
        **advantage_summary(r.raw_advantages, r.mask, "advantage"),
        **advantage_summary(r.advantages, r.mask, "advantage_whitened"),
    }
    return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))
