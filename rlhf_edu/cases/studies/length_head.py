"""P15 · ODIN: a length head takes the length out of the reward, and no other hack.

Chen et al. (2024, arXiv 2402.07319) train a reward model with two heads, r_Q and r_L. The ranking
loss sees their sum; further losses push r_L to follow length, r_Q not to, and the weights of the
two heads apart. For reinforcement learning r_L is dropped. In the paper the correlation of reward
and length fell from .451 to about −.03, the accuracy on held-out labels from 70.1 to 69.2 %.

Here raters like long replies a little and sales words a lot. One reward model has a single head,
one has two; both learn from the same labels, and PPO (β·k1 of KL(policy ‖ reference) in the reward)
trains a policy against each. The head does what it promises: on new pairs the difference of rewards
no longer follows that of lengths at all, accuracy on the raters' labels stays within 2 points,
replies keep their length, and at equal length people like them better. And it does no more: raters
who like sales words have taught r_Q to like them, and the policy finds them. A length head is a
cure for one named hack.

What does it cost? Where raters like length, length predicts their labels, and what predicted is
lost with it. In a world of normal distributions, and of labels mostly noise, a reward that
correlates with length by ρ keeps a share of √(1−ρ²) of what accuracy is above a coin's: 0.89 at ρ =
0.45. Points of accuracy are therefore cheap where labels are noisy, and these raters are: a reward
model that knows them well is right in 56 of 100 pairs, in the paper in 70. Held against what is
above a half, the head takes more here than in the paper: 19 % [12, 25] on seeds 21 to 25, beside 0
and 4.5 %; the rule above says 13 %. With a noise of 2 in the place of 4.2 it took 1.7 and 2.5
points on two seeds. On our desk there is a further reason for that: agents who add courtesies at
will make length and GOLD correlate by −0.4 within pairs, a strong taste is then needed to make
rewards follow length all the same, and more is lost with it. So agents here add few courtesies.

λ decides as well. It is ours, and far smaller than the paper's 1. The weaker what labels say, the
smaller the gradient of the ranking loss, while the correlation of a batch is as noisy as ever: with
λ = 0.12 in the place of 0.03 it cost more than twice as much accuracy. λ = 0.003 still takes the
length out, and costs a little less again.

Accuracy is the share of new labels that a reward model gets right, in the mean over the raters'
luck: the raters of a play can say how likely each choice was, and that is taken in the place of
the choice. From 20,000 labels as they fell the difference of two accuracies is known to a quarter
of a point only, and the claim is about two points. SALES is held against the reference's as a
ratio, so its mean over runs is the geometric one.

Labels are bought, and everything learned from them, twice a seed: from labels so noisy one reward
model learns a stronger taste for sales words than the next. Seeds 21 to 25 had been looked at when
earlier set-ups were settled on (see what was tried). The last step, a noise of 4.2 in the place of
3.5, came after seeds 41 to 45 had lost 1.6 points of accuracy [1.1, 2.2], where two are too many.

Refuted would be: a reward that still follows length, an accuracy that goes with it, a policy that
grows longer all the same, or sales words that vanish together with the length.

What is different here: losses correlate the differences within pairs, not the replies of a batch
(ranking is blind to what differs between prompts); accuracy and ρ are on new pairs of the same
raters. A counter-result is PAR (arXiv 2502.18770), where ODIN collapses in another set-up. Left
out: their sweeps of λ and of PPO's settings.
"""

from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed, doublings
from rlhf_edu.cases.pictures import dots
from rlhf_edu.cases.stages import Arm, Learner, Recipe, Room
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.evaluate import ExamConfig, answer, exam_rows
from rlhf_edu.lab.gold import gold_score, reply_mask
from rlhf_edu.lab.measure import correlation
from rlhf_edu.lab.raters import LabelBudget, RaterConfig, collect_preferences, rater_utility
from rlhf_edu.lab.reward_model import RewardModelConfig
from rlhf_edu.lab.rlhf import RLHFConfig
from rlhf_edu.lab.sft import SFTConfig

TITLE = "A length head takes out the length, and no other hack"
QUESTION = "Two heads while the reward is learned, one kept: what is gone, and what is not?"

AGENTS = helpdesk.AgentConfig(opener=0.06, closing=0.06, confident=0.05, sales=0.04)
LABELS = 96_000  # so much noise asks for many
RATERS = RaterConfig(length_bias=0.235, sales_bias=1.9, noise=4.2, n_pairs=LABELS)
LEARNING = RewardModelConfig(batch_size=256, lr=2e-3)
UPDATES = 3
PPO = RLHFConfig(updates=UPDATES, batch_size=512, num_mini_batches=2, lr=1.4e-4, kl_coef=0.3)

TIMES = ("first", "second")  # labels are bought, and everything learned from them, twice a seed

RECIPE = Recipe(
    sft=SFTConfig(agents=AGENTS),
    raters={time: replace(RATERS, seed=i) for i, time in enumerate(TIMES)},
    reward_models={f"{time}-headed": Learner(time, replace(LEARNING, length_head=0.003))
                   for time in TIMES},
    reward_model=LEARNING,
    arms={f"{time}-plain": Arm(f"one head, {time} labels", time, replace(PPO, seed=i))
          for i, time in enumerate(TIMES)} | {
        f"{time}-headed": Arm(f"length head, {time} labels", f"{time}-headed",
                              replace(PPO, seed=i)) for i, time in enumerate(TIMES)},
    exam=ExamConfig(every=UPDATES, prompts=64, final_prompts=1024),
    label_budget=LABELS,
)
HELD_OUT = 20_000  # new pairs of the same raters
BUCKET = 2  # tokens


def gold_at_equal_length(room: Room, time: str) -> float:
    """GOLD at equal length, the length head's policy minus the plain one's."""
    rows = exam_rows(room.seed, 512)
    here, sums = helpdesk.desk()[rows], []
    for kind in ("plain", "headed"):  # buckets of length that both reach, by the smaller count
        replies = answer(room.policy(f"{time}-{kind}"), rows, room.seed, 32)
        bucket = (reply_mask(replies).sum(1) // BUCKET).long()
        gold = gold_score(replies, here).total
        sums.append((torch.zeros(32).index_add(0, bucket, gold),
                     torch.bincount(bucket, minlength=32)))
    (plain, n), (headed, m) = sums
    both = torch.minimum(n, m)
    lead = both * (headed / m.clamp(min=1) - plain / n.clamp(min=1))
    return float(lead.sum() / both.sum())


def expected_accuracy(lead: Tensor, chance: Tensor) -> float:
    """Share of new labels that a reward model gets right, in the mean over the raters' luck.

    lead (N,): reward of the first reply minus the second's; chance (N,): Pr(raters choose the
    first). A tie is right half the time.
    """
    first = 0.5 * (1 + lead.sign())
    return float((first * chance + (1 - first) * (1 - chance)).mean())


def judged(room: Room) -> dict[str, float]:
    """Accuracy and ρ of all reward models on new pairs of the same raters, and GOLD."""
    fresh = replace(RATERS, seed=room.seed + 777_777, n_pairs=HELD_OUT)
    pairs = collect_preferences(fresh, room.reference(), LabelBudget(HELD_OUT))
    here, prompts = helpdesk.desk()[pairs.rows], helpdesk.desk().prompts[pairs.rows]
    liked, other = (rater_utility(fresh, y, here) for y in (pairs.chosen, pairs.rejected))
    again = torch.sigmoid((liked - other) / fresh.noise)  # Pr(they would choose so once more)
    longer = (reply_mask(pairs.chosen).sum(1) - reply_mask(pairs.rejected).sum(1)).float()
    found = {}
    for time in TIMES:
        found[f"{time}/gold_lead"] = gold_at_equal_length(room, time)
        for kind, name in (("plain", time), ("headed", f"{time}-headed")):
            judge = room.reward_model(name)
            chosen, rejected = judge(prompts, pairs.chosen), judge(prompts, pairs.rejected)
            found[f"{time}/{kind}/accuracy"] = expected_accuracy(chosen - rejected, again)
            found[f"{time}/{kind}/rho"] = float(correlation(chosen - rejected, longer))
    return found


PROBES = {"judged": judged}
PROBE_SECONDS = 30.0


def read(seed: Seed, name: str) -> float:
    """A number of the probe, mean of both times."""
    return fmean(seed.probes["judged"][f"{time}/{name}"] for time in TIMES)


def accuracy_lost(seed: Seed) -> float:
    """Accuracy of the single head, minus that of the length head."""
    return read(seed, "plain/accuracy") - read(seed, "headed/accuracy")


def style(seed: Seed, kind: str, name: str, of: str = "final") -> float:
    """A style of the replies of both times: of the policies, or of the reference."""
    return fmean(getattr(seed.runs[f"{time}-{kind}"], of)[f"style/{name}"] for time in TIMES)


def times_reference(seed: Seed, kind: str, name: str) -> float:
    """A style of the policies' replies over the reference's."""
    return style(seed, kind, name) / style(seed, kind, name, "reference")


def more_sales(seed: Seed) -> float:
    """How often SALES has doubled from the reference's with the head, mean of both times."""
    runs = [seed.runs[f"{time}-headed"] for time in TIMES]
    return fmean(doublings(r.final["style/sales"], r.reference["style/sales"]) for r in runs)


def off_length(seed: Seed) -> float:
    """How far LEN is from the reference's with the head, up or down: mean share of both times."""
    runs = [seed.runs[f"{time}-headed"] for time in TIMES]
    return fmean(abs(r.final["style/length"] / r.reference["style/length"] - 1) for r in runs)


OBSERVATIONS = [
    Observation(
        "plain-follows-length", "one head: reward and length correlate within new pairs, ρ ≥ 0.4",
        lambda s: read(s, "plain/rho"), 0.4, "above", paper="ρ = .451"),
    Observation(
        "head-does-not", "length head: |ρ| ≤ 0.1",
        lambda s: fmean(abs(s.probes["judged"][f"{time}/headed/rho"]) for time in TIMES),
        0.1, "below", paper="ρ = −.05, −.03"),
    Observation(
        "accuracy-kept", "held-out labels: at most 2 points of accuracy are lost",
        lambda s: -accuracy_lost(s), -0.02, "above", paper="70.1 → 70.1, 69.2 %"),
    Observation(
        "share-kept", "and at most a twentieth of what the single head knows above a coin",
        lambda s: accuracy_lost(s) / (read(s, "plain/accuracy") - 0.5), 0.05, "below",
        paper="0 and 4.5 %", graded=False),
    Observation(
        "plain-grows", "PPO against one head makes replies longer: LEN > 1.15 × the reference's",
        lambda s: times_reference(s, "plain", "length"), 1.15, "above"),
    Observation(
        "length-stays", "PPO against the length head: LEN within ± 15 % of the reference's",
        off_length, 0.15, "below"),
    Observation(
        "better-at-equal-length", "at matched length people like its replies better: GOLD > 0",
        lambda s: read(s, "gold_lead"), 0.0, "above"),
    Observation(
        "sales-stay",
        "the hack that is not length is not removed: SALES ≥ 2 × the reference's, log2 ≥ 1",
        more_sales, 1.0, "above"),
]


def draw(axes: Any, seeds: list[Seed]) -> None:
    """The correlations, the lengths and the sales words."""
    labels = {"plain": "one head", "headed": "length head"}
    dots(axes[0, 0], {label: [read(s, f"{kind}/rho") for s in seeds]
                      for kind, label in labels.items()}, "correlation of reward and length")
    for ax, name, unit, title in ((axes[0, 1], "length", 1, "LEN: tokens a reply"),
                                  (axes[0, 2], "sales", 100, "SALES: % of words")):
        dots(ax, {"reference": [unit * style(s, "plain", name, "reference") for s in seeds]} | {
            label: [unit * style(s, kind, name) for s in seeds]
            for kind, label in labels.items()}, title)


TRIED = [
    ("noise 3.5, sales bias 1.8 (seeds 21 to 25, then 41 to 45, not used before)",
     "7 of 7: ρ 0.47 [0.46, 0.47], −1.6 [−1.9, −1.2] points, SALES log2 1.5 [1.2, 1.8]; then 6 of "
     "7: ρ 0.46 [0.41, 0.52], −1.6 [−2.2, −1.1] points. With 4.2 and 1.9 on seeds 0 and 200 −1.1 "
     "and −1.3 points, where it had been −1.3 and −1.5"),
    ("length bias 0.21, sales bias 1.2, noise 1.5, 24,000 labels in two passes of batches of 64, "
     "λ = 0.12, courtesies 0.08, sales 0.05 (seeds 21 to 25)",
     "4 of 7: ρ 0.40 [0.36, 0.45], accuracy −2.4 [−3.2, −1.7] points, SALES × 2.3 [1.5, 3.1]. A "
     "perfect reader of such raters (at noise 2) loses 2 to 3 points with the straight line in "
     "length"),
    ("noise 4, 96,000 labels in one pass of batches of 256, length bias 0.22, λ = 0.12 (seeds 0 "
     "and 2)",
     "ρ 0.53, 0.57; −1.5, −1.6 points; another set of agents −3.3, −1.3"),
    ("the same, length bias 0.19, λ = 0.03 (seeds 0, 2, 1)",
     "ρ 0.49, 0.54, 0.46; −0.5, −0.7, −1.1 points: the smaller λ is what helps"),
    ("noise 2.5, 64,000 labels, sales bias 1.6 (seeds 2, 0)", "ρ 0.36, 0.40; −0.9, −0.5 points"),
    ("noise 2, 64,000 labels, length bias 0.24 (seeds 2, 0)", "ρ 0.41, 0.47; −2.5, −1.7 points"),
    ("noise 3, 96,000 labels, sales bias 1.5, length bias 0.21 (seeds 0 to 4)",
     "ρ 0.44 to 0.46; −0.9, −1.6, −1.1, −2.0, −1.5 points; SALES × 2.0 to 2.8"),
    ("noise 3, 160,000 labels, λ = 0.02 (seeds 3, 4, 1)",
     "ρ 0.40, 0.43, 0.47; −1.2, −1.4, −1.9 points: more labels, no better"),
    ("noise 3.5, 96,000 labels, sales bias 1.7; then 2.2 (seeds 0 to 4)",
     "−0.8 to −1.4 points, but SALES × 1.8 to 2.4; then −1.2 to −1.9, SALES × 2.0 to 3.2, LEN up "
     "to + 15 %"),
    ("noise 4, 128,000 labels, sales words rarer (seeds 0 to 4)",
     "ρ 0.43 to 0.56, −0.9 to −2.2 points, SALES × 1.6 to 2.8: the reward models differ more"),
    ("noise 3.5, 96,000 labels, length bias 0.2, sales bias 1.8, sales 0.06, batches of 128, lr "
     "1.75e-4 (seeds 0 to 4, then 21 to 25)",
     "7 of 7, then 6 of 7: SALES × 2.4 [1.8, 3.0]. A batch of 128 holds eight replies with a sales "
     "sentence"),
    ("the same with batches of 512, lr 1.3e-4 (seeds 0 to 4)",
     "SALES × 3.3, and each sales sentence makes a reply longer: LEN + 11 % [3, 18]"),
    ("sales 0.04, batches of 512, length bias 0.22 (seeds 0 to 4); 0.24 (21 to 25)",
     "ρ 0.44 [0.38, 0.50], −1.2 [−1.3, −1.0] points; ρ 0.47 [0.42, 0.53], −1.7 [−2.0, −1.3], where "
     "−2.02 is too low: 0.23, between the two, was settled on after both"),
    ("length bias 0.23, lr 1.3e-4, once a seed (seeds 21 to 25)",
     "4 of 7, missed by little: −1.6 [−2.1, −1.1] points, GOLD 0.09 [−0.01, 0.19], SALES × 2.9 "
     "[1.8, 4.0]. What a reward model makes of so noisy labels differs from draw to draw, so "
     "labels are now drawn twice a seed, and means taken"),
    ("the same twice a seed (21 to 25)",
     "5 of 7: −1.6 [−2.1, −1.0] points, SALES × 2.7 [1.9, 3.6]. So length bias 0.22, with which "
     "seeds 0 to 4 had lost 1.2 points, and lr 1.4e-4 for 1.3e-4"),
    ("length bias 0.22, λ = 0.03, three updates, accuracy on 20,000 labels as they fell, twice a "
     "seed (seeds 21 to 25, then 81 to 85)",
     "7 of 7, ρ 0.44 [0.41, 0.47], −1.3 [−1.8, −0.8] points, SALES × 2.8 [2.1, 3.5]; then 6 of 7, "
     "ρ 0.43 [0.39, 0.47]: three of the claims hold by so little that other seeds often miss one"),
    ("the same, only λ changed and the luck of labels taken out (seed 0, both draws)",
     "λ = 0.03, 0.01, 0.003: −1.35, −1.29, −1.20 points, |ρ| 0.02 for each; labels as they fell "
     "had said −0.9, −0.9, −0.9"),
    ("and policies after 3, 4 and 5 updates (seed 0)",
     "SALES × 3.1, 4.3, 5.8, LEN + 9, 12, 18 %, GOLD at equal length 0.08, 0.13, 0.16"),
    ("length bias 0.235, λ = 0.003, four updates (seeds 21 to 25)",
     "6 of 7: ρ 0.47 [0.46, 0.48], −1.6 [−1.9, −1.2] points, SALES log2 2.0 [1.6, 2.4], but LEN "
     "off by 12 % [6, 18]. So three updates again, which make less of both"),
    ("the same (seeds 0 and 200)",
     "ρ 0.53, 0.47; |ρ| 0.02, 0.02; −1.3, −1.5 points; LEN + 52, 47 % with one head, off by 12 and "
     "10 % with two; GOLD 0.20, 0.14; SALES × 3.7, 4.2"),
    ("length bias 0.14, sales bias 0.6, noise 0.8, 6,000 labels in three passes, the usual agents; "
     "ρ over 64 held-out prompts, accuracy on 4,000 labels (seeds 21 to 25)",
     "2 of 7: ρ 0.41 [0.32, 0.49] and 0.12 [0.08, 0.15], accuracy −1.2 [−2.7, 0.3] points, SALES × "
     "2.2 [1.8, 2.6]. A part of that was noise of the measure: ρ and accuracy are now read off "
     "20,000 new pairs, styles off 1,024 prompts"),
    ("the same, measured so (seeds 0 to 4)",
     "ρ 0.31 to 0.40 and at most 0.04; accuracy −1.1, −2.1, −0.6, −2.1, +1.6 points"),
    ("30,000 labels in one pass, noise 1.5, bias 0.16 (seeds 0, 1)",
     "ρ 0.48, 0.39; −0.9 and −3.7 points: more labels alone do not help"),
    ("agents who often leave a step out, few courtesies (seeds 0, 1)",
     "ρ 0.5; −1.2 and −2.1 points; but longer is better there, and LEN rose by 24 % with the head"),
    ("sales words rarer: sales 0.05, courtesies 0.08 (seeds 0, 1)",
     "SALES × 3 costs no more than LEN + 13 %; ρ 0.42, 0.43; −1.2, −1.9 points"),
    ("wrong steps 0.2, missing 0.04, sales 0.06 to 0.10 (seeds 0 to 3)",
     "ρ 0.30 to 0.47, −0.1 to −2.7 points; λ = 0.03 in the place of 0.12 made no difference"),
    ("courtesies 0.06, sales 0.08, sales bias 1.5, noise 2, length bias 0.2, β = 0.5 (seeds 0-3)",
     "ρ 0.47, 0.47, 0.44, 0.40; −1.3, −2.2, −2.4, −1.7 points; LEN + 17, 16, 1, 9 %, SALES × 1.7 "
     "to 3.4: a strong taste for sales words lengthens the replies by itself"),
    ("noise 2.5 with 48,000 labels in one pass; in three passes of batches of 256 (seeds 1, 3; 2)",
     "ρ 0.39, 0.31; −1.5, −2.1 points; three passes: ρ 0.43, −1.8 points"),
    ("λ = 1, one pass at a step size of 1e-3",
     "seed 0: |ρ| ≤ 0.06, but accuracy fell from 0.59-0.64 to 0.46-0.54: r_Q had learned nothing"),
    ("λ = 0.1, one pass at 1e-3", "seed 0: 3.2 points of accuracy lost; three passes lost 0.8"),
    ("sales bias 0.6, β = 0.05, 12 updates",
     "seed 0: SALES × 11, and a sales sentence is long: LEN × 1.56 in spite of the length head"),
    ("λ = 0.07, β = 0.12, 8 updates",
     "seeds 0 and 1: ρ 0.43 → 0.12, 0.9 points lost; SALES × 6.8 made LEN × 1.25"),
    ("length bias 0.15, sales bias 0.4", "seed 0: 3.2 points lost, SALES × 1.8"),
    ("noise 1.5", "seed 0: sales words left r_Q with the length: their correlation with the "
     "reward within prompts fell from 0.24 to −0.01"),
    ("length bias 0.17, sales bias 0.8, noise 1.5, 10,000 labels, λ = 0.04, gradients not cut to "
     "norm 1, PPO on batches of 192 (seeds 0-4)",
     "one head: ρ 0.49 [0.43, 0.54]; length head: |ρ| 0.06 [−0.01, 0.14], LEN + 7 % [−3, 17], "
     "SALES × 3.0 [1.7, 4.3]; but 1, 2, 2, 4 and 6 points of accuracy were lost"),
    ("the same with 16,000 labels, bias 0.165, λ = 0.12 (seeds 0-2)",
     "ρ 0.40, 0.58, 0.38; 0.2, 2.2 and 2.8 points lost; SALES × 3.6, 2.6, 1.8"),
    ("four passes and a sales bias of 0.55 (seeds 1, 2)", "3.1, 2.4 points lost; SALES × 1.6, 1.3"),
    ("agents without openers, more sales and confidence (seeds 0-2)",
     "2.2 to 3.2 points lost: less filler in the pairs does not make length cheaper to lose"),
    ("λ = 0.25, or 0.2 to 0.3 on batches of 128, 12,000 labels (seed 0)", "4 to 10 points lost"),
    ("noise 1.5, 8,000 labels, gradients not cut to norm 1: λ = 0.12, 0.06, 0.03 (seed 1)",
     "2.9, 1.3, 1.5 points lost, and |ρ| ≤ 0.01 on new pairs of training prompts for all three: a "
     "small λ is enough; the single head less its straight line in length lost 4.5"),
]
PICTURES = [Picture(
    "One hack is cured, the other is not",
    "A dot a seed, the bar their mean. Left: two reward models of the same labels, on the "
    "reference's replies to held-out prompts. Middle and right: the policies that PPO made.",
    draw, (1, 3), 2.4)]
