"""P15 · ODIN: a length head takes the length out of the reward, and nothing else.

Chen et al. (2024, arXiv 2402.07319) train a reward model with two heads, r_Q and r_L. The ranking
loss sees their sum; further losses push r_L to follow length, r_Q not to, and the weights of the
two heads apart. For reinforcement learning r_L is dropped. In the paper the correlation of reward
and length fell from .451 to about −.03, the accuracy on held-out labels from 70.1 to 69.2 %.

Here raters like long replies a little and sales words a lot. One reward model has a single head,
one has two; both learn from the same labels, and PPO (β·k1 of KL(policy ‖ reference) in the reward)
trains a policy against each. The head does most of what it promises: on new pairs the difference of
rewards no longer follows that of lengths at all, replies keep their length, and at equal length
people like them better. And it does no more: raters who like sales words have taught r_Q to like
them, and on most seeds the policy finds them. A length head is a cure for one named hack.

What is NOT REPRODUCED: accuracy on the raters' labels falls by more than 2 points, the single head
follows length just about enough (ρ = 0.4), and SALES doubles on average, but not on every seed.

Why does accuracy go? Where raters like length, length predicts their labels. How much is lost with
it depends on what else differs within a pair. On our usual desk agents add courtesies at will,
which people dislike: length and GOLD correlate by −0.4 within pairs, a strong taste is needed to
make rewards follow length all the same, and a perfect reader of such raters loses 3 to 4 points of
accuracy when the straight line in length is taken off a reward with ρ = 0.45. Agents here add few
courtesies, and it is 2 to 3 points. (Both computed from agents' own replies, at a noise of 2.) In
the paper longer replies are not worse, and a head can take length out at no such price.

Refuted would be: a reward that still follows length, an accuracy that goes with it, a policy that
grows longer all the same, or sales words that vanish together with the length.

What is different here: losses correlate the differences within pairs, not the replies of a batch
(ranking is blind to what differs between prompts); accuracy and ρ are on new pairs of the same
raters; λ is ours and smaller than the paper's 1, because on batches of 64 pairs a correlation is
noise of ± 0.12, which with λ = 1 drowns the ranking. A counter-result is PAR (arXiv 2502.18770),
where ODIN collapses in another set-up. Left out: their sweeps of λ and of PPO's settings.
"""

from dataclasses import replace
from typing import Any

import torch

from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed
from rlhf_edu.cases.pictures import dots
from rlhf_edu.cases.stages import Arm, Learner, Recipe, Room
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.evaluate import ExamConfig, answer, exam_rows
from rlhf_edu.lab.gold import gold_score, reply_mask
from rlhf_edu.lab.measure import correlation
from rlhf_edu.lab.raters import LabelBudget, RaterConfig, collect_preferences
from rlhf_edu.lab.reward_model import RewardModelConfig
from rlhf_edu.lab.rlhf import RLHFConfig
from rlhf_edu.lab.sft import SFTConfig
from rlhf_edu.ranking_loss import ranking_accuracy

TITLE = "A length head takes out the length, and nothing else"
QUESTION = "Two heads while the reward is learned, one kept: what is gone, and what is not?"

AGENTS = helpdesk.AgentConfig(opener=0.08, closing=0.08, confident=0.08, sales=0.05)
LABELS = 24_000
RATERS = RaterConfig(length_bias=0.21, sales_bias=1.2, noise=1.5, n_pairs=LABELS)
LEARNING = RewardModelConfig(epochs=2)
UPDATES = 4
PPO = RLHFConfig(updates=UPDATES, batch_size=128, num_mini_batches=2, lr=1.5e-4, kl_coef=0.3)

RECIPE = Recipe(
    sft=SFTConfig(agents=AGENTS),
    raters={"tinted": RATERS},
    reward_models={"headed": Learner("tinted", replace(LEARNING, length_head=0.12))},
    reward_model=LEARNING,
    arms={
        "plain": Arm("one head", "tinted", PPO),
        "length-head": Arm("length head, dropped", "headed", PPO),
    },
    exam=ExamConfig(every=UPDATES, prompts=64, final_prompts=512),
    label_budget=LABELS,
)
HELD_OUT = 20_000  # new pairs of the same raters
BUCKET = 2  # tokens


def at_matched_length(room: Room) -> dict[str, float]:
    """GOLD at equal length, the length head's policy minus the plain one's; accuracies and ρ."""
    # 1. Both policies answer; buckets of length that both reach, weighted by the smaller count.
    rows = exam_rows(room.seed, 512)
    here = helpdesk.desk()[rows]
    sums = []
    for arm in ("plain", "length-head"):
        replies = answer(room.policy(arm), rows, room.seed, 32)
        bucket = (reply_mask(replies).sum(1) // BUCKET).long()
        gold = gold_score(replies, here).total
        sums.append((torch.zeros(32).index_add(0, bucket, gold),
                     torch.bincount(bucket, minlength=32)))
    (plain, n), (headed, m) = sums
    both = torch.minimum(n, m)
    lead = (both * (headed / m.clamp(min=1) - plain / n.clamp(min=1))).sum() / both.sum()

    # 2. Held-out labels of the same raters.
    fresh = replace(RATERS, seed=room.seed + 777_777, n_pairs=HELD_OUT)
    pairs = collect_preferences(fresh, room.reference(), LabelBudget(HELD_OUT))
    prompts = helpdesk.desk().prompts[pairs.rows]
    longer = (reply_mask(pairs.chosen).sum(1) - reply_mask(pairs.rejected).sum(1)).float()
    found = {"gold_lead": float(lead), "shared": float(both.sum() / n.sum())}
    for name in ("tinted", "headed"):
        judge = room.reward_model(name)
        chosen, rejected = judge(prompts, pairs.chosen), judge(prompts, pairs.rejected)
        found[f"{name}/accuracy"] = float(ranking_accuracy(chosen, rejected))
        found[f"{name}/rho"] = float(correlation(chosen - rejected, longer))
    return found


PROBES = {"matched": at_matched_length}
PROBE_SECONDS = 15.0


def rho(seed: Seed, name: str) -> float:
    """Correlation of the differences of reward and of length within new pairs."""
    return float(seed.probes["matched"][f"{name}/rho"])


def times_reference(seed: Seed, arm: str, name: str) -> float:
    """A style of an arm's replies over the reference's."""
    run = seed.runs[arm]
    return float(run.final[name] / run.reference[name])


OBSERVATIONS = [
    Observation(
        "plain-follows-length", "one head: reward and length correlate within new pairs, ρ ≥ 0.4",
        lambda s: rho(s, "tinted"), 0.4, "above", paper="ρ = .451"),
    Observation(
        "head-does-not", "length head: |ρ| ≤ 0.1",
        lambda s: abs(rho(s, "headed")), 0.1, "below", paper="ρ = −.05, −.03"),
    Observation(
        "accuracy-kept", "held-out labels: at most 2 points of accuracy are lost",
        lambda s: s.probes["matched"]["headed/accuracy"]
        - s.probes["matched"]["tinted/accuracy"],
        -0.02, "above", paper="70.1 → 70.1, 69.2 %"),
    Observation(
        "plain-grows", "PPO against one head makes replies longer: LEN > 1.15 × the reference's",
        lambda s: times_reference(s, "plain", "style/length"), 1.15, "above"),
    Observation(
        "length-stays", "PPO against the length head: LEN within ± 15 % of the reference's",
        lambda s: abs(times_reference(s, "length-head", "style/length") - 1), 0.15, "below"),
    Observation(
        "better-at-equal-length", "at matched length people like its replies better: GOLD > 0",
        lambda s: s.probes["matched"]["gold_lead"], 0.0, "above"),
    Observation(
        "sales-stay", "the hack that is not length is not removed: SALES ≥ 2 × the reference's",
        lambda s: times_reference(s, "length-head", "style/sales"), 2.0, "above"),
]


def draw(axes: Any, seeds: list[Seed]) -> None:
    """The correlations, the lengths and the sales words."""
    labels = {"plain": "one head", "length-head": "length head"}
    dots(axes[0, 0], {"one head": [rho(s, "tinted") for s in seeds],
                      "length head": [rho(s, "headed") for s in seeds]},
         "correlation of reward and length")
    for ax, name, unit, title in (
            (axes[0, 1], "style/length", 1, "LEN: tokens a reply"),
            (axes[0, 2], "style/sales", 100, "SALES: % of words")):
        dots(ax, {"reference": [unit * s.runs["plain"].reference[name] for s in seeds]} | {
            label: [unit * s.runs[arm].final[name] for s in seeds]
            for arm, label in labels.items()}, title)


TRIED = [
    ("length bias 0.14, sales bias 0.6, noise 0.8, 6,000 labels in three passes, the usual agents; "
     "ρ over 64 held-out prompts, accuracy on 4,000 labels (seeds 21 to 25)",
     "2 of 7: ρ 0.41 [0.32, 0.49] and 0.12 [0.08, 0.15], accuracy −1.2 [−2.7, 0.3] points, SALES × "
     "2.2 [1.8, 2.6]. A part of that was noise of the measure: ρ and accuracy are now read off "
     "20,000 new pairs, styles off 512 prompts"),
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
