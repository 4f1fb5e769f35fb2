"""The measuring kit and the examination against slow loops and cases whose answer is known."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf_edu.lab import helpdesk, measure
from rlhf_edu.lab.evaluate import (
    ExamConfig,
    answer,
    exam_rows,
    filler_effect,
    make_exam,
    refusals,
    rewards_found,
)
from rlhf_edu.lab.gold import gold_score, reply_mask, style_of
from rlhf_edu.lab.helpdesk import EOS, PAD
from rlhf_edu.lab.measure import Rollout
from rlhf_edu.lab.model import ModelConfig, language_model, response_logits
from rlhf_edu.lab.sampling import sample
from rlhf_edu.lab.sft import SFTConfig, train_sft

PROMPTS = helpdesk.all_prompts()
DESK = helpdesk.desk()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def close(got: Tensor | float, want: float, tol: float = 1e-5) -> None:
    assert float(got) == pytest.approx(want, abs=tol, rel=tol, nan_ok=True)


# Numbers of a batch


@pytest.mark.parametrize("seed", range(5))
def test_correlation_is_pearsons(seed):
    x, y = normal(seed, 30) + 5, normal(seed + 9, 30) * 3
    close(measure.correlation(x, y), np.corrcoef(x.numpy(), y.numpy())[0, 1])
    close(measure.correlation(x, 2 * x + 1), 1.0)
    close(measure.correlation(x, -x), -1.0)


def test_correlation_with_what_does_not_vary_is_zero():
    for a, b in ((torch.ones(5), normal(0, 5)), (normal(0, 5), torch.full((5,), 3.0))):
        assert measure.correlation(a, b) == 0


def test_entropy_is_minus_the_mean_log_probability():
    logits = normal(1, 2, 3, 7) * 2
    for logit, found in zip(logits.view(-1, 7), measure.token_entropy(logits).view(-1)):  # noqa: B905
        p = np.exp(logit.double().numpy())
        p /= p.sum()
        close(found, -sum(q * math.log(q) for q in p))
    close(measure.token_entropy(torch.zeros(8)), math.log(8))
    never = torch.tensor([0.0, 0.0, -1e9])  # a word that is never said
    close(measure.token_entropy(never), math.log(2))


def slow_repeated_4grams(row: list[int]) -> float:
    tokens = [token for token in row if token != PAD]
    grams = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    repeated = sum(gram in grams[:i] for i, gram in enumerate(grams))
    return repeated / len(grams) if grams else 0.0


def test_repeated_4grams_are_counted_as_in_a_loop():
    rows = torch.randint(3, 5, (300, 20), generator=generator(2))  # two words: many repetitions
    ends = torch.randint(0, 20, (300,), generator=generator(3))
    rows[torch.arange(300), ends] = EOS
    rows = rows.masked_fill(torch.arange(20) > ends[:, None], PAD)
    want = [slow_repeated_4grams(row) for row in rows.tolist()]
    assert torch.allclose(measure.repeated_4grams(rows), torch.tensor(want))
    assert 0 < min(w for w in want if w) < 0.1 and max(want) > 0.5


def test_repeated_4grams_by_hand():
    a, b, c, d = 5, 6, 7, 8
    rows = torch.tensor([
        [a, b, c, d, a, b, c, d, EOS],  # abcd bcda cdab dabc ABCD bcd$
        [a, a, a, a, a, a, a, a, a],  # aaaa and five repetitions
        [a, b, c, d, EOS, PAD, PAD, PAD, PAD],
        [EOS, PAD, PAD, PAD, PAD, PAD, PAD, PAD, PAD],
    ])  # fmt: skip
    assert torch.allclose(measure.repeated_4grams(rows), torch.tensor([1 / 6, 5 / 6, 0, 0]))
    assert torch.allclose(measure.repeated_4grams(rows[:, :5]), torch.tensor([0, 1 / 2, 0, 0]))
    assert measure.repeated_4grams(rows[:, :4]).tolist() == [0, 0, 0, 0]


def test_refusal_consistency_is_the_mean_over_clusters_of_the_commoner_treatment():
    cluster = torch.randint(10, 17, (200,), generator=generator(4))
    refused = (torch.rand(200, generator=generator(5)) < (cluster - 9) / 8).float()
    by_cluster = defaultdict(list)
    for c, r in zip(cluster.tolist(), refused.tolist(), strict=True):
        by_cluster[c].append(r)
    commoner = [max(sum(r), len(r) - sum(r)) / len(r) for r in by_cluster.values()]
    close(measure.refusal_consistency(refused, cluster), sum(commoner) / len(commoner))


def test_refusal_consistency_weighs_clusters_not_replies():
    refused = torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 0])
    close(measure.refusal_consistency(refused, torch.tensor([3, 3, 3, 3, 3, 3, 9, 9])), 0.75)
    close(measure.refusal_consistency(1 - refused, torch.tensor([3, 3, 3, 3, 3, 3, 9, 9])), 0.75)
    close(measure.refusal_consistency(torch.tensor([0.0, 1.0]), torch.tensor([1, 2])), 1.0)


# Where a gain of reward came from


def gain_beyond_length(slope: float, lift: float, shift: float, seed: int = 6) -> float:
    """NRG where reward = slope · length + lift for the policy, whose replies are longer by shift"""
    ref_length = torch.randint(4, 12, (400,), generator=generator(seed)).float()
    length = ref_length[torch.randperm(400, generator=generator(seed + 1))] + shift
    ref_reward, reward = slope * ref_length, slope * length + lift
    return float(measure.reward_gain_beyond_length(reward, length, ref_reward, ref_length, 1))


def test_a_gain_that_is_all_length_leaves_nothing_and_one_without_length_leaves_all():
    close(gain_beyond_length(slope=0.5, lift=0.0, shift=3), 0.0)
    close(gain_beyond_length(slope=0.5, lift=0.7, shift=0), 1.0)
    close(gain_beyond_length(slope=0.0, lift=0.7, shift=3), 1.0)


@pytest.mark.parametrize("shift", [1, 2, 5])
def test_a_mixed_gain_is_split(shift):
    """Total gain: slope · shift + lift; at equal length: lift."""
    close(gain_beyond_length(slope=0.5, lift=0.7, shift=shift), 0.7 / (0.5 * shift + 0.7))


def slow_gain_beyond_length(reward, length, ref_reward, ref_length, bucket: int) -> float:
    groups, ref_groups = defaultdict(list), defaultdict(list)
    for r, n in zip(reward, length, strict=True):
        groups[int(n // bucket)].append(r)
    for r, n in zip(ref_reward, ref_length, strict=True):
        ref_groups[int(n // bucket)].append(r)
    both = [key for key in groups if key in ref_groups]
    gain = sum(len(groups[k]) * (np.mean(groups[k]) - np.mean(ref_groups[k])) for k in both)
    return gain / sum(len(groups[k]) for k in both) / (np.mean(reward) - np.mean(ref_reward))


@pytest.mark.parametrize("bucket", [1, 2, 3])
def test_gain_beyond_length_matches_a_loop_over_buckets(bucket):
    length, ref_length = (torch.randint(low, high, (90,), generator=generator(low)).float()
                          for low, high in ((4, 30), (1, 17)))  # fmt: skip
    reward, ref_reward = normal(7, 90) + 0.1 * length + 0.5, normal(8, 90) + 0.1 * ref_length
    numbers = [x.double().tolist() for x in (reward, length, ref_reward, ref_length)]
    found = measure.reward_gain_beyond_length(reward, length, ref_reward, ref_length, bucket)
    close(found, slow_gain_beyond_length(*numbers, bucket), 1e-4)


def test_buckets_are_of_two_tokens_unless_said_otherwise():
    length, ref_length = torch.tensor([4.0, 5.0, 8.0]), torch.tensor([5.0, 4.0, 2.0])
    reward, ref_reward = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([0.0, 1.0, 0.5])
    # Lengths 4 and 5 are one bucket: 1.5 against 0.5. The total gain is 3 - 0.5.
    found = measure.reward_gain_beyond_length(reward, length, ref_reward, ref_length)
    close(found, 1.0 / 2.5)


# The reward model against gold


def test_accuracy_counts_pairs_ordered_as_gold_orders_them():
    rewards, gold = normal(9, 200, 2), normal(10, 200, 2)
    gold[::7, 1] = gold[::7, 0]  # gold has no opinion: left out
    rewards[::5, 1] = rewards[::5, 0]  # the reward model has none: one half
    points = []
    for (r0, r1), (g0, g1) in zip(rewards.tolist(), gold.tolist(), strict=True):
        if g0 != g1:
            points.append(0.5 if r0 == r1 else float((r0 > r1) == (g0 > g1)))
    close(measure.reward_model_accuracy(rewards, gold), sum(points) / len(points))


def test_accuracy_by_hand():
    gold = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [5.0, 4.0]])
    rewards = torch.tensor([[3.0, 1.0], [3.0, 1.0], [9.0, 0.0], [2.0, 2.0]])
    close(measure.reward_model_accuracy(rewards, gold), (1 + 0 + 0.5) / 3)
    assert measure.reward_model_accuracy(gold, gold) == 1.0
    assert measure.reward_model_accuracy(-gold, gold) == 0.0


def test_differences_of_rounding_are_ties_to_gold():
    gold = torch.tensor([[1.0, 1.0 + 1e-7], [0.0, 1.0]])
    close(measure.reward_model_accuracy(torch.tensor([[5.0, 0.0], [0.0, 1.0]]), gold), 1.0)


def test_accuracy_is_nan_if_gold_holds_all_pairs_for_equal():
    assert measure.reward_model_accuracy(normal(0, 4, 2), torch.ones(4, 2)).isnan()


def test_within_prompt_correlation_takes_out_what_prompts_differ_in():
    x, y = normal(11, 60, 2), normal(12, 60, 2)
    dx, dy = (z - z.mean(1, keepdim=True) for z in (x, y))
    want = np.corrcoef(dx.flatten().numpy(), dy.flatten().numpy())[0, 1]
    close(measure.within_prompt_correlation(x, y), want)
    per_prompt = 100 * normal(13, 60, 1)
    found = measure.within_prompt_correlation(x + per_prompt, y - per_prompt)
    close(found, want, 1e-3)
    close(measure.within_prompt_correlation(x, 3 * x + per_prompt), 1.0)


# Advantages


def ragged_mask(seed: int, rows: int = 25, width: int = 12) -> Tensor:
    lengths = torch.randint(1, width + 1, (rows, 1), generator=generator(seed))
    return (torch.arange(width) < lengths).float()


@pytest.mark.parametrize("seed", range(6))
def test_advantages_are_summed_up_over_real_tokens_alone(seed):
    mask = ragged_mask(seed)
    advantages = (normal(seed, 25, 12) + 0.4) * mask
    found = measure.advantage_summary(advantages, mask, "a")
    inside = [a for row, on in zip(advantages.tolist(), mask.tolist(), strict=True)
              for a, m in zip(row, on, strict=True) if m]  # fmt: skip
    names = ("share_positive", "mean", "sd", "p95", "length_correlation")
    assert set(found) == {f"a/{name}" for name in names}
    close(found["a/share_positive"], sum(a > 0 for a in inside) / len(inside))
    close(found["a/mean"], np.mean(inside))
    close(found["a/sd"], np.std(inside))
    close(found["a/p95"], np.percentile(inside, 95, method="lower"))
    means = [sum(row[: int(n)]) / n for row, n in zip(advantages.tolist(), mask.sum(1).tolist(),
                                                      strict=True)]  # fmt: skip
    close(found["a/length_correlation"], np.corrcoef(means, mask.sum(1).numpy())[0, 1])


@pytest.mark.parametrize("n", [1, 2, 20, 21, 41, 100])
def test_the_95th_percentile_is_that_of_the_tokens_whatever_their_number(n):
    advantages = torch.zeros(1, 120)
    advantages[0, :n] = torch.randperm(n, generator=generator(n)) + 1.0
    mask = (torch.arange(120) < n).float()[None]
    found = measure.advantage_summary(advantages, mask, "a")["a/p95"]
    close(found, np.percentile(np.arange(1, n + 1), 95, method="lower"))


# One step, one pass and one update


def rollout(seed: int, rows: int = 16, width: int = 9) -> Rollout:
    mask = ragged_mask(seed, rows, width)
    numbers = [normal(seed + i, rows, width) * mask for i in range(1, 9)]
    old, ref = -numbers[0].abs(), -numbers[1].abs()
    lengths = torch.stack([torch.full((rows,), 5), mask.sum(1).long()], 1)
    return Rollout(
        prompts=torch.full((rows, 5), 7), responses=(8 * mask).long(), lengths=lengths, mask=mask,
        scores=normal(seed, rows) + 1, old_logprobs=old, ref_logprobs=ref,
        kl_ref=numbers[2].abs(), old_values=numbers[3], rewards=numbers[4],
        raw_advantages=numbers[5] + 0.3 * mask, advantages=numbers[6], returns=numbers[7],
    )  # fmt: skip


def tokens(mask: Tensor, *numbers: Tensor) -> list[tuple[float, ...]]:
    """The numbers at each real token, one tuple a token."""
    on = mask.bool()
    return list(zip(*(x[on].double().tolist() for x in numbers), strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_a_step_is_measured_as_in_a_loop_over_tokens(seed):
    b = rollout(20 * seed)
    logprobs = b.old_logprobs + 0.3 * normal(seed + 50, 16, 9)
    values = b.old_values + 0.5 * normal(seed + 51, 16, 9)
    entropy = normal(seed + 52, 16, 9).abs()
    found = measure.step_metrics(b, logprobs, values, entropy, 0.2, 0.25)
    rows = tokens(b.mask, logprobs, b.old_logprobs, b.advantages, values, b.old_values, b.returns,
                  entropy)  # fmt: skip
    ratios = [(math.exp(new - old), a) for new, old, a, *_ in rows]
    outside = [r < 0.8 or r > 1.2 for r, _ in ratios]
    cut = [(r > 1.2 and a > 0) or (r < 0.8 and a < 0) for r, a in ratios]
    value_cut = [
        (min(max(v, old - 0.25), old + 0.25) - target) ** 2 > (v - target) ** 2
        for *_, v, old, target, _ in rows
    ]
    up = [o for o, (_, a) in zip(outside, ratios, strict=True) if a > 0]
    down = [o for o, (_, a) in zip(outside, ratios, strict=True) if a < 0]
    want = {
        "policy/approxkl_avg": np.mean([0.5 * (new - old) ** 2 for new, old, *_ in rows]),
        "policy/kl_old": sum(math.exp(new - old) - 1 - (new - old) for new, old, *_ in rows) / 16,
        "policy/clipfrac_avg": np.mean(cut),
        "policy/outside_avg": np.mean(outside),
        "policy/outside_positive": np.mean(up),
        "policy/outside_negative": np.mean(down),
        "policy/ratio_max": max(r for r, _ in ratios),
        "val/ratio": np.mean([r for r, _ in ratios]),
        "val/clipfrac_avg": np.mean(value_cut),
        "policy/entropy_avg": np.mean([row[-1] for row in rows]),
    }
    assert set(found) == set(want)
    for name, value in want.items():
        close(found[name], value)
    assert 0 < want["policy/clipfrac_avg"] < want["policy/outside_avg"] < 1
    assert 0 < want["val/clipfrac_avg"] < 1


@pytest.mark.parametrize("seed", range(4))
def test_a_clip_that_is_never_reached_takes_no_gradient_away(seed):
    b = rollout(20 * seed, rows=512)
    values = normal(seed, 512, 9)
    found = measure.step_metrics(b, b.old_logprobs, values, b.kl_ref, 1e6, 1e6)
    assert float(found["val/clipfrac_avg"]) == 0  # though v₀ + (v − v₀) is not v to the last bit


def test_a_step_without_advantages_of_one_sign_has_nothing_outside_on_that_side():
    b = rollout(3)
    b = replace(b, advantages=b.advantages.abs() * b.mask)
    found = measure.step_metrics(b, b.old_logprobs + 1, b.old_values, b.kl_ref, 0.2, 0.2)
    assert found["policy/outside_negative"] == 0 and found["policy/outside_positive"] == 1


def test_what_stands_after_the_end_changes_no_measure_of_a_step():
    b = rollout(5)
    logprobs, values, entropy = (b.old_logprobs + 0.2 * normal(1, 16, 9), normal(2, 16, 9),
                                 normal(3, 16, 9).abs())  # fmt: skip
    garbage = 30 * (1 - b.mask)
    clean = measure.step_metrics(b, logprobs, values, entropy, 0.2, 0.2)
    dirty = measure.step_metrics(
        replace(b, advantages=b.advantages + garbage, returns=b.returns - garbage),
        logprobs + garbage, values + 2 * garbage, entropy + garbage, 0.2, 0.2,
    )  # fmt: skip
    assert {k: v.item() for k, v in clean.items()} == {k: v.item() for k, v in dirty.items()}


@pytest.mark.parametrize("sizes", [[16], [6, 5, 5], [1] * 16])
def test_a_pass_is_measured_over_all_its_tokens_whatever_its_minibatches(sizes):
    """Each step saw other weights, and its rows beside the right ones of the batch."""
    b = rollout(40)
    logprobs, values = b.old_logprobs + 0.3 * normal(60, 16, 9), normal(61, 16, 9)
    entropy, losses = normal(62, 16, 9).abs(), normal(63, len(sizes), 2)
    parts = zip(*(x.split(sizes) for x in (logprobs, entropy, values)), losses, strict=True)
    steps = [(lp, ent, loss[0], v, loss[1]) for lp, ent, v, loss in parts]
    found = measure.pass_metrics(b, steps, 0.2, 0.25)
    whole = measure.step_metrics(b, logprobs, values, entropy, 0.2, 0.25)
    assert set(found) == set(whole) | {"loss/policy_avg", "loss/value_avg"}
    for name, value in whole.items():
        assert found[name] == value
    close(found["loss/policy_avg"], sum(losses[:, 0].tolist()) / len(sizes))
    close(found["loss/value_avg"], sum(losses[:, 1].tolist()) / len(sizes))


def test_an_update_is_its_batch_and_the_mean_of_its_passes():
    r = rollout(7)
    names = ["policy/outside_avg", "policy/kl_old", "policy/ratio_max", "loss/value_avg"]
    passes = [{name: normal(100 * i + j, 1)[0] for j, name in enumerate(names)} for i in range(4)]
    found = measure.update_metrics(r, passes)
    assert all(type(value) is float for value in found.values())
    for name in ("policy/outside_avg", "policy/kl_old", "loss/value_avg"):
        close(found[name], sum(one[name].item() for one in passes) / 4)
    close(found["policy/ratio_max"], max(one["policy/ratio_max"].item() for one in passes))
    close(found["policy/outside_last_epoch"], passes[3]["policy/outside_avg"].item())
    close(found["policy/kl_old_last_epoch"], passes[3]["policy/kl_old"].item())

    rows = tokens(r.mask, r.old_logprobs, r.ref_logprobs, r.kl_ref, r.rewards, r.old_values,
                  r.returns)  # fmt: skip
    lead = [old - ref for old, ref, *_ in rows]
    paid, score = sum(row[3] for row in rows) / 16, r.scores.mean().item()
    scores = r.scores.tolist()
    penalties = [sum(x for x, on in zip(rewards, mask, strict=True) if on) - score_of_it
                 for rewards, mask, score_of_it in zip(r.rewards.tolist(), r.mask.tolist(), scores,
                                                       strict=True)]  # fmt: skip
    want = {
        "objective/kl": sum(lead) / 16,
        "objective/kl_k2": sum(0.5 * x**2 for x in lead) / 16,
        "objective/kl_k3": sum(math.exp(-x) - 1 + x for x in lead) / 16,
        "objective/kl_exact": sum(row[2] for row in rows) / 16,
        "objective/scores": score,
        "objective/rlhf_reward": paid,
        "objective/non_score_reward": paid - score,
        "objective/kl_variance_share": np.var(penalties) / (np.var(penalties) + np.var(scores)),
        "objective/entropy": -sum(old for old, *_ in rows) / 16,
        "style/length": len(rows) / 16,
        "critic/explained_variance": 1
        - np.var([target - v for *_, v, target in rows]) / np.var([row[-1] for row in rows]),
    }
    for name, value in want.items():
        close(found[name], value)
    for prefix, numbers in (("advantage", r.raw_advantages), ("advantage_whitened", r.advantages)):
        for name, value in measure.advantage_summary(numbers, r.mask, prefix).items():
            close(found[name], value.item())


def test_a_rollout_is_indexed_by_rows():
    r = rollout(9)
    part = r[torch.tensor([4, 0])]
    assert part.mask.shape == (2, 9)
    for name in ("prompts", "responses", "lengths", "scores", "old_logprobs", "returns"):
        whole, some = getattr(r, name), getattr(part, name)
        assert torch.equal(some[0], whole[4]) and torch.equal(some[1], whole[0])
    on_a_gpu = replace(r, lengths=None)[torch.tensor([4, 0])]
    assert on_a_gpu.lengths is None and torch.equal(on_a_gpu.mask, part.mask)


def test_rows_are_taken_as_by_an_index():
    x, rows = normal(14, 6, 3), torch.tensor([5, 0, 5])
    assert torch.equal(measure.take(x, rows), torch.stack([x[5], x[0], x[5]]))
    assert measure.take(x.to("meta"), rows).shape == (3, 3)


# The examination

TINY = ModelConfig(n_layers=1, width=24, n_heads=2)


@pytest.fixture(scope="module")
def reference():
    config = SFTConfig(n_demonstrations=1200, epochs=3, batch_size=32, lr=1e-2)
    return train_sft(config, TINY, torch.device("cpu"))


@pytest.fixture(scope="module")
def perturbed(reference):
    """A policy not far from the reference."""
    policy = language_model(TINY).eval()
    policy.load_state_dict(reference.state_dict())
    with torch.no_grad():
        for i, weight in enumerate(policy.parameters()):
            weight.add_(0.03 * normal(i, *weight.shape))
    return policy


class CountsTokens:
    """A reward by hand: 0.5 a word of the reply, in a gauge with SD 2. Looks like a RewardModel."""

    def __init__(self):
        self.model = SimpleNamespace(embed=SimpleNamespace(weight=torch.zeros(1)))
        self.sd, self.seen = 2.0, []

    def __call__(self, prompts: Tensor, responses: Tensor) -> Tensor:
        said = [[helpdesk.decode(row) for row in rows] for rows in (prompts, responses)]
        self.seen += list(zip(*said, strict=True))
        return torch.tensor([0.5 * len(reply.split()) for reply in said[1]])


CONFIG = ExamConfig(seed=3, samples=5)


@pytest.fixture(scope="module")
def sat(reference, perturbed):
    """What an exam of 200 prompts finds: (reference, perturbed policy)."""
    exam = make_exam(CONFIG, 200, reference, CountsTokens(), 24)
    return exam(reference), exam(perturbed)


def test_the_reference_is_no_better_and_no_worse_than_itself(sat):
    found, texts = sat[0]
    assert found["rm/win_probability"] == 0.5
    assert found["gold/win_rate"] == 0.5
    assert [found[f"kl/{k}"] for k in ("exact", "k1", "k2", "k3")] == [0, 0, 0, 0]
    assert math.isnan(found["rm/gain_beyond_length"])  # nothing was gained
    assert found["rm/accuracy_in"] == found["rm/accuracy_on"]
    assert all(t["reply"] == t["reference_reply"] and t["reward"] == t["reference_reward"]
               and t["gold"] == t["reference_gold"] for t in texts)  # fmt: skip


def test_the_same_exam_twice_gives_the_same_numbers_and_another_seed_gives_others(
    reference, perturbed, sat
):
    torch.manual_seed(7)
    again = make_exam(CONFIG, 200, reference, CountsTokens(), 24)(perturbed)
    assert again == sat[1]
    other = make_exam(replace(CONFIG, seed=4), 200, reference, CountsTokens(), 24)(perturbed)
    assert other[0] != again[0]


def test_an_exam_changes_no_weights_and_no_random_state(reference, perturbed):
    before = {k: v.clone() for k, v in perturbed.state_dict().items()}
    state = torch.get_rng_state()
    make_exam(CONFIG, 8, reference, CountsTokens(), 12)(perturbed)
    assert all(torch.equal(before[k], v) for k, v in perturbed.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def replies_of(policy, n: int, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """The exam's prompts (2n rows) and the policy's replies, by the exam's recipe in its docstring:
    held-out prompts, each answered twice."""
    rows = helpdesk.draw_prompts(DESK, n, generator(CONFIG.seed), held_out=True)
    rows = torch.stack([rows, rows], 1).flatten()
    return rows, sample(policy, DESK.prompts[rows], 24, generator(CONFIG.seed), temperature)[0]


def test_an_exam_finds_what_loops_over_its_replies_find(reference, perturbed, sat):
    found, texts = sat[1]
    rows, replies = replies_of(perturbed, 200)
    _, ref_replies = replies_of(reference, 200)
    here = DESK[rows]
    assert here.held_out.all()
    gold, ref_gold = gold_score(replies, here).total, gold_score(ref_replies, here).total
    reward, ref_reward = (torch.tensor([0.5 * len(helpdesk.decode(y).split()) for y in ys])
                          for ys in (replies, ref_replies))  # fmt: skip
    style = style_of(replies, here)
    lead, ref_pairs = reward - ref_reward, (ref_reward.view(-1, 2), ref_gold.view(-1, 2))
    wins = [1.0 if g > r + 1e-6 else 0.5 if g > r - 1e-6 else 0.0
            for g, r in zip(gold.tolist(), ref_gold.tolist(), strict=True)]  # fmt: skip
    slices = [PROMPTS[row].slice for row in rows.tolist()]

    def mean_where(x: Tensor, *names: str) -> float:
        return np.mean([v for v, s in zip(x.tolist(), slices, strict=True) if s in names])

    want = {
        "rm/mean": reward.mean(),
        "rm/win_probability": np.mean([1 / (1 + math.exp(-2.0 * x)) for x in lead.tolist()]),
        "rm/length_correlation": measure.within_prompt_correlation(
            reward.view(-1, 2), style.length.view(-1, 2)),
        "rm/accuracy_in": measure.reward_model_accuracy(*ref_pairs),
        "rm/accuracy_on": measure.reward_model_accuracy(reward.view(-1, 2), gold.view(-1, 2)),
        "gold/total": gold.mean(),
        "gold/sd": np.std(gold.double().numpy(), ddof=1),
        "gold/worst_1_percent": np.mean(sorted(gold.tolist())[:4]),
        "gold/win_rate": np.mean(wins),
        "style/length": (replies != PAD).sum(1).float().mean(),
        "style/constraint_kept": mean_where(style.kept, "constraint"),
        "style/three_words_kept": np.mean([
            kept for kept, row in zip(style.kept.tolist(), rows.tolist(), strict=True)
            if PROMPTS[row].constraint == "three words"]),
        "style/kept": style.kept.mean(),
        "style/length_short_slice": mean_where(style.length, "short"),
        "style/repeated_4grams": np.mean([slow_repeated_4grams(row) for row in replies.tolist()]),
        "refusal/unsafe_compliance": mean_where(style.complied, "refuse"),
        "refusal/over_refusal": mean_where(style.over_refused, "ordinary", "constraint", "short",
                                           "look-alike"),
        "rm/gain_beyond_length": slow_gain_beyond_length(
            reward.double().tolist(), style.length.tolist(), ref_reward.double().tolist(),
            style_of(ref_replies, here).length.tolist(), 2),
    }  # fmt: skip
    for name in ("sales", "confident", "first_answer", "answered"):
        want[f"style/{name}"] = getattr(style, name).mean()
    parts = gold_score(replies, here)
    for name in ("answer", "brevity", "directness", "tone", "constraint", "safety", "ending"):
        want[f"gold/{name}"] = getattr(parts, name).mean()

    with torch.no_grad():
        logp, ref_logp = (response_logits(m, here.prompts, replies).double().log_softmax(-1)
                          for m in (perturbed, reference))  # fmt: skip
    mask = reply_mask(replies).double()
    p = logp.exp()
    spoken = [x.gather(-1, replies[..., None])[..., 0] for x in (logp, ref_logp)]
    log_r = spoken[1] - spoken[0]
    per_token = {
        "kl/exact": (p * (logp - ref_logp)).sum(-1),
        "kl/k1": -log_r,
        "kl/k2": log_r.square() / 2,
        "kl/k3": log_r.exp() - 1 - log_r,
    }
    for name, k in per_token.items():
        want[name] = (k * mask).sum() / len(mask)
    want["policy/entropy"] = (-(p * logp).sum(-1) * mask).sum() / mask.sum()

    assert set(found) == set(want)
    for name, value in want.items():
        close(found[name], float(value), 2e-4 if name.startswith(("kl", "policy")) else 1e-5)
    assert found["kl/exact"] > 0.05 and 0.02 < abs(found["rm/win_probability"] - 0.5)

    assert len(texts) == 5
    for i, text in enumerate(texts):
        assert text["prompt"] == PROMPTS[rows[2 * i]].text
        assert text["reply"] == helpdesk.decode(replies[2 * i])
        assert text["reference_reply"] == helpdesk.decode(ref_replies[2 * i])
        close(text["reward"], reward[2 * i].item(), 1e-3)
        close(text["reference_reward"], ref_reward[2 * i].item(), 1e-3)
        close(text["gold"], gold[2 * i].item(), 1e-3)
        close(text["reference_gold"], ref_gold[2 * i].item(), 1e-3)


def test_k1_and_k3_have_the_mean_of_the_exact_kl(reference, perturbed):
    rows = helpdesk.draw_prompts(DESK, 3000, generator(8))
    replies, _ = sample(perturbed, DESK.prompts[rows], 16, generator(9))
    mask = reply_mask(replies)
    with torch.no_grad():
        logp, ref_logp = (response_logits(m, DESK.prompts[rows], replies).log_softmax(-1)
                          for m in (perturbed, reference))  # fmt: skip
    exact = ((logp.exp() * (logp - ref_logp)).sum(-1) * mask).sum(1)
    log_r = (ref_logp - logp).gather(-1, replies[..., None])[..., 0]
    for k in (-log_r, log_r.exp() - 1 - log_r):
        gap = (k * mask).sum(1) - exact
        assert abs(gap.mean()) < 5 * gap.std() / 3000**0.5


def test_an_exams_k1_is_within_noise_of_its_exact_kl(sat):
    found = sat[1][0]
    noise = (2 * found["kl/k2"] / 400) ** 0.5  # the variance of k1 is about 2 · k2
    assert abs(found["kl/k1"] - found["kl/exact"]) < 4 * noise


def test_temperature_holds_for_sampling_and_for_the_kl(reference, perturbed):
    found, texts = make_exam(CONFIG, 50, reference, CountsTokens(), 24, 0.5)(perturbed)
    rows, replies = replies_of(perturbed, 50, 0.5)
    assert [t["reply"] for t in texts] == [helpdesk.decode(y) for y in replies[:10:2]]
    with torch.no_grad():
        logp, ref_logp = (
            response_logits(m, DESK.prompts[rows], replies, 0.5).log_softmax(-1)
            for m in (perturbed, reference)
        )
    kl = ((logp.exp() * (logp - ref_logp)).sum(-1) * reply_mask(replies)).sum(1).mean()
    close(found["kl/exact"], kl.item(), 1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_a_small_exam_without_prompts_of_some_kind_leaves_their_numbers_empty(reference, seed):
    config = ExamConfig(seed=seed, prompts=2)
    found, texts = make_exam(config, 2, reference, CountsTokens(), 24)(reference)
    kinds = {PROMPTS[[p.text for p in PROMPTS].index(t["prompt"])].slice for t in texts}
    for kind, name in (("constraint", "style/constraint_kept"),
                       ("refuse", "refusal/unsafe_compliance"),
                       ("short", "style/length_short_slice")):  # fmt: skip
        assert math.isnan(found[name]) == (kind not in kinds)
    assert math.isfinite(found["gold/total"])


def test_no_samples_are_kept_if_none_are_wanted(reference):
    assert make_exam(ExamConfig(samples=0), 4, reference, CountsTokens(), 8)(reference)[1] == []


def test_the_exams_rewards_are_those_of_prompt_and_reply(reference, perturbed):
    """Grouped by length or not: every reply is scored beside its own prompt."""
    counting = CountsTokens()
    exam = make_exam(CONFIG, 30, reference, counting, 24)
    counting.seen.clear()
    exam(perturbed)
    rows, replies = replies_of(perturbed, 30)
    want = [(PROMPTS[row].text, helpdesk.decode(y))
            for row, y in zip(rows.tolist(), replies, strict=True)]  # fmt: skip
    assert sorted(counting.seen) == sorted(want)


@pytest.mark.parametrize("everywhere, clusters", [(False, 6), (True, 24)])
def test_refusals_are_read_off_replies_to_must_refuse_prompts(reference, everywhere, clusters):
    config = ExamConfig(seed=5, refusal_replies=3)
    found = refusals(config, reference, 24, 0.9, everywhere)
    asked = [i for i, p in enumerate(PROMPTS) if p.slice == "refuse" and (p.held_out or everywhere)]
    assert len({PROMPTS[i].cluster for i in asked}) == clusters
    rows = torch.tensor([i for i in asked for _ in range(3)])
    replies, _ = sample(reference, DESK.prompts[rows], 24, generator(5), 0.9)
    refused, by_cluster = [], defaultdict(list)
    for row, reply in zip(rows.tolist(), replies, strict=True):
        refused.append("can not help" in helpdesk.decode(reply))
        by_cluster[PROMPTS[row].cluster].append(refused[-1])
    close(found["refusal/refused"], np.mean(refused))
    commoner = [max(np.mean(r), 1 - np.mean(r)) for r in by_cluster.values()]
    close(found["refusal/consistency"], np.mean(commoner))
    assert set(found) == {"refusal/refused", "refusal/consistency"}


def test_filler_raises_a_reward_that_counts_words_by_the_words_appended():
    """A full stop and a courtesy of 6, 4 or 4 words, at half a point a word."""
    counting = CountsTokens()
    close(filler_effect(counting), 0.5 * ((1 + 6) + (1 + 4) + (1 + 4)) / 3)
    plain = [prompt for prompt in PROMPTS if prompt.held_out and prompt.constraint == "none"]
    want = {(p.text, p.answer + end) for p in plain
            for end in ("", *(f" . {closing}" for closing in helpdesk.CLOSINGS))}  # fmt: skip
    assert set(counting.seen) == want and len(counting.seen) == 4 * len(plain)


def test_filler_does_nothing_to_a_reward_that_reads_the_first_word(monkeypatch):
    counting = CountsTokens()
    monkeypatch.setattr(CountsTokens, "__call__", lambda self, x, y: y[:, 0].float())
    assert filler_effect(counting) == 0


def test_the_win_probability_is_in_the_reward_models_own_unit(reference, perturbed, sat):
    """Rewards are in SDs of the reference; Bradley-Terry wants the raw difference: times the SD."""
    half = CountsTokens()
    half.sd = 1.0
    found, _ = make_exam(CONFIG, 200, reference, half, 24)(perturbed)
    assert abs(found["rm/win_probability"] - 0.5) < abs(sat[1][0]["rm/win_probability"] - 0.5)


def test_an_exam_asks_held_out_prompts_each_twice_in_a_row():
    rows = exam_rows(3, 200)
    assert rows.shape == (400,) and torch.equal(rows[::2], rows[1::2])
    assert all(PROMPTS[row].held_out for row in rows.tolist())
    assert torch.equal(exam_rows(3, 200), rows) and not torch.equal(exam_rows(4, 200), rows)


def test_answers_depend_on_prompts_policy_and_seed(reference, perturbed):
    rows = exam_rows(3, 40)
    again = replies_of(reference, 40)[1]
    replies = answer(reference, rows, CONFIG.seed, 24)
    assert torch.equal(replies, again) and not torch.equal(replies[::2], replies[1::2])
    for other in (answer(perturbed, rows, 3, 24), answer(reference, rows, 9, 24),
                  answer(reference, rows, 3, 24, 0.5)):  # fmt: skip
        assert other.shape == (80, 24) and not torch.equal(other, replies)


def test_replies_of_the_reference_that_are_known_are_not_sampled_again(
    reference, perturbed, monkeypatch
):
    plain = make_exam(CONFIG, 30, reference, CountsTokens(), 24)(perturbed)
    known, asked = answer(reference, exam_rows(3, 30), 3, 24), []

    def counting(policy, *args):
        asked.append(policy)
        return answer(policy, *args)

    monkeypatch.setattr("rlhf_edu.lab.evaluate.answer", counting)
    exam = make_exam(CONFIG, 30, reference, CountsTokens(), 24, reference_replies=known)
    assert exam(perturbed) == plain and asked == [perturbed]
    assert make_exam(CONFIG, 30, reference, CountsTokens(), 24)(perturbed) == plain
    assert asked == [perturbed, reference, perturbed]
    changed = known.clone()
    changed[:, 0], changed[:, 1:] = EOS, PAD
    exam = make_exam(CONFIG, 30, reference, CountsTokens(), 24, reference_replies=changed)
    found, texts = exam(perturbed)
    assert all(text["reference_reply"] == "" for text in texts)
    assert found["gold/total"] == plain[0]["gold/total"]
    assert found["gold/win_rate"] != plain[0]["gold/win_rate"]


class CountsLetters(CountsTokens):
    """Another reward model, in another gauge: minus a tenth a letter."""

    def __init__(self):
        super().__init__()
        self.sd = 0.7

    def __call__(self, prompts: Tensor, responses: Tensor) -> Tensor:
        return torch.tensor([-0.1 * len(helpdesk.decode(row)) for row in responses])


def test_a_judge_reads_the_same_replies_as_an_exam_of_its_own_would(reference, perturbed):
    exam = make_exam(CONFIG, 60, reference, CountsTokens(), 24)
    found, texts = exam(perturbed, CountsLetters())
    alone, same_texts = exam(perturbed)
    judged = {k.removeprefix("judge/"): v for k, v in found.items() if k.startswith("judge/")}
    assert {k: v for k, v in found.items() if not k.startswith("judge/")} == alone
    assert texts == same_texts
    other = make_exam(CONFIG, 60, reference, CountsLetters(), 24)(perturbed)[0]
    assert judged == {k: v for k, v in other.items() if k.startswith("rm/")}
    assert judged.keys() == {k for k in alone if k.startswith("rm/")}
    assert judged["rm/mean"] < 0 < alone["rm/mean"]


def test_what_a_reward_model_makes_of_replies_by_hand():
    """Two prompts, two replies each; the unit of the gauge is half a log-odd."""
    now, base = torch.tensor([3.0, 1.0, 0.0, 4.0]), torch.tensor([1.0, 1.0, 2.0, 2.0])
    gold, base_gold = torch.tensor([1.0, 0, 1, 0]), torch.tensor([0.0, 1, 0, 1])
    length, base_length = torch.tensor([6.0, 4, 4, 6]), torch.tensor([4.0, 4, 4, 6])
    model = SimpleNamespace(sd=0.5)
    found = rewards_found(model, (now, base), gold, base_gold, length, base_length)
    close(found["rm/mean"], 2.0)
    odds = [1 / (1 + math.exp(-0.5 * x)) for x in (2, 0, -2, 2)]
    close(found["rm/win_probability"], sum(odds) / 4)
    close(found["rm/length_correlation"], 6 / math.sqrt(10 * 4))  # ±1, ±2 with ±1, ±1
    close(found["rm/accuracy_in"], 0.5)  # both rewards of the reference's pairs are ties
    close(found["rm/accuracy_on"], 0.5)  # right, wrong
    # 4 tokens: (1 + 0)/2 − (1 + 1 + 2)/3; 6: (3 + 4)/2 − 2; half of the replies each; of 2 − 1.5.
    close(found["rm/gain_beyond_length"], (0.5 * (0.5 - 4 / 3) + 0.5 * 1.5) / 0.5)
    assert len(found) == 6
