"""P5 · A long way to go: how much of the reward gain of RLHF is length.

Singhal, Goyal, Xu and Durrett (2023, arXiv 2310.03716) trained reward models on three sets of human
preferences and policies against them. Inside a batch of replies reward and length went together
(correlations .55 to .72), although "the longer one wins" explains only 56 to 63 % of the labels.
PPO made replies 1.3 to 2.3 times as long, and at equal length only 2, 27 and 53 % of the reward
gain were left. PPO on length alone, without any reward model, won nearly as often before the judge.

Here the raters read a reply as people do, plus a little for every word, so that the heuristic is
right for as many labels as in the paper. Reward and length correlate all the same: the labels are
mostly noise, which a reward model averages out. (Whether it also makes more of length than the
raters' own taste does is not measured.) PPO against it (penalty β·k1 of KL(policy ‖ reference) in
the reward) buys length; the share of its gain that is left in buckets of equal length is small.
Then PPO is given 1 − |length/L − 1| in place of the reward model, with L the mean length that the
first run ended with. A judge who shares the raters' taste likes the result about as well. People,
who do not, like it less than the reference.

The judge reads right answers, too, and runs of PPO on length alone differ in how many of them they
lose. One run a seed recovered 0.85 [0.66, 1.04] of the judge's gain on seeds 0 to 4, so four runs
are averaged. With a length bias of 0.3 a word and a noise of 2.7 that was still not sure: 0.76
[0.68, 0.83] on seeds 111 to 115. The bias is 0.4 now, and the noise 4.2, so that length still
decides as few labels as in the paper, but weighs more against right answers in the judge's taste.

Refuted would be: a reward that does not follow length, a gain that stays at equal length, or a
judge who is not won by length alone.

What is different here: the correlation is within prompts (two replies to each), the judge is the
raters' utility with their noise instead of a simulated human, the buckets are two tokens wide, and
one set of labels stands for the paper's three. Left out: their interventions on the data (balanced
pairs, truncation, augmentation) and on the loss of PPO; P15 and case C2 have their like.
"""

from statistics import fmean
from typing import Any

import torch

from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed
from rlhf_edu.cases.pictures import dots
from rlhf_edu.cases.stages import Arm, Recipe, Room
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.evaluate import ExamConfig, answer, exam_rows
from rlhf_edu.lab.gold import gold_score, reply_mask
from rlhf_edu.lab.raters import RaterConfig, rater_utility
from rlhf_edu.lab.rlhf import RLHFConfig, start, train_rlhf
from rlhf_edu.lab.sft import SFTConfig

TITLE = "How much of the reward gain is length"
QUESTION = "The reward model is pleased: with better answers, or with longer ones?"

RATERS = RaterConfig(length_bias=0.4, noise=4.2, n_pairs=4000)
UPDATES = 12
RUNS = 4  # of PPO on length alone, averaged: runs differ in how many right answers they lose


def ppo(kl_coef: float = 0.05, **other: Any) -> RLHFConfig:
    """A short run; the arms differ in β alone."""
    return RLHFConfig(updates=UPDATES, batch_size=128, num_mini_batches=2, lr=2e-4,
                      kl_coef=kl_coef, **other)


RECIPE = Recipe(
    sft=SFTConfig(),
    raters={"length": RATERS},
    arms={
        "standard": Arm("PPO", "length", ppo()),
        "high-lambda": Arm("PPO, β × 12", "length", ppo(0.6)),
    },
    exam=ExamConfig(every=UPDATES, prompts=64),
)


def length_only(room: Room) -> dict[str, float]:
    """PPO on 1 − |length/L − 1|; what a judge with the raters' taste, and people, think of it."""
    table, reference = helpdesk.desk(), room.reference()
    rows = exam_rows(room.seed, 512)
    here = table[rows]
    base = answer(reference, rows, room.seed, 32)
    taste = rater_utility(RATERS, base, here)

    def judged(replies: torch.Tensor, name: str) -> dict[str, float]:
        lead = rater_utility(RATERS, replies, here) - taste
        gold = gold_score(replies, here).total - gold_score(base, here).total
        return {
            f"{name}/judge": float(torch.sigmoid(lead / RATERS.noise).mean()),
            f"{name}/gold": float(gold.mean()),
            f"{name}/length": float(reply_mask(replies).sum(1).mean()),
        }

    # 1. Where PPO against the reward model ended; its mean length is the target L.
    found = judged(base, "reference") | judged(
        answer(room.policy("standard"), rows, room.seed, 32), "standard")
    target = found["standard/length"]

    # 2. The same training on length alone, in the gauge of a reward model (the reference's SD is
    # the unit), so that β weighs the same. The critic starts from nothing.
    def alone(replies: torch.Tensor) -> torch.Tensor:
        return 1 - (reply_mask(replies).sum(1) / target - 1).abs()

    mean, sd = float(alone(base).mean()), float(alone(base).std())
    ends = []
    for run in range(RUNS):
        config = ppo(critic_init="random", seed=room.seed + 1000 * run)
        state = start(config, reference, room.reward_model("length"))
        train_rlhf(config, state, reference, lambda x, y: (alone(y) - mean) / sd)
        ends.append(judged(answer(state.policy, rows, room.seed, 32), "alone"))
    found |= {name: fmean(end[name] for end in ends) for name in ends[0]}

    # 3. How often the longer reply was chosen, among pairs that differ in length.
    pairs = room.preferences("length")
    longer = reply_mask(pairs.chosen).sum(1) - reply_mask(pairs.rejected).sum(1)
    return found | {"heuristic": float((longer[longer != 0] > 0).float().mean())}


PROBES = {"length-only": length_only}
PROBE_SECONDS = 25.0


def probed(seed: Seed, name: str) -> float:
    """A number of the probe."""
    return float(seed.probes["length-only"][name])


def longer(seed: Seed, arm: str) -> float:
    """LEN of an arm over that of the reference."""
    run = seed.runs[arm]
    return float(run.final["style/length"] / run.reference["style/length"])


def recovered(seed: Seed) -> float:
    """Share of the judge's win-rate gain over one half that length alone recovers."""
    return (probed(seed, "alone/judge") - 0.5) / (probed(seed, "standard/judge") - 0.5)


OBSERVATIONS = [
    Observation(
        "heuristic-low", "the longer reply is chosen in at least 55 % of the labels",
        lambda s: probed(s, "heuristic"), 0.55, "above", paper="55.7, 59.6 and 63.1 %"),
    Observation(
        "heuristic-high", "and in at most 63 %",
        lambda s: probed(s, "heuristic"), 0.63, "below", paper="55.7, 59.6 and 63.1 %"),
    Observation(
        "reward-follows-length",
        "within prompts reward and length correlate: ≥ 0.4",
        lambda s: s.reward_models["length"]["reference/rm/length_correlation"], 0.4, "above",
        paper=".72, .55, .67 (within a batch)"),
    Observation(
        "longer", "PPO makes replies longer: LEN × ≥ 1.3",
        lambda s: longer(s, "standard"), 1.3, "above", paper="× 2.3, 1.27, 1.6"),
    Observation(
        "gain-is-length",
        "of the reward gain at most half is left at equal length: NRG/ΔR ≤ 0.5",
        lambda s: s.runs["standard"].final["rm/gain_beyond_length"], 0.5, "below",
        paper="2.0, 53.4, 27.2 %"),
    Observation(
        "length-alone-wins",
        "PPO on length alone recovers ≥ 70 % of the win-rate gain before a judge with that taste",
        recovered, 0.7, "above", paper="win rates 56, 59, 64 % against PPO's 58, 58, 63 %"),
    Observation(
        "length-alone-gold", "and nothing of GOLD: people like it no better than the reference",
        lambda s: probed(s, "alone/gold"), 0.0, "below"),
    Observation(
        "more-penalty-less-length",
        "a larger β ends shorter: LEN (high-λ) − LEN (standard) < 0",
        lambda s: s.runs["high-lambda"].final["style/length"]
        - s.runs["standard"].final["style/length"], 0.0, "below",
        paper="high-λ runs are shorter"),
]


def draw(axes: Any, seeds: list[Seed]) -> None:
    """LEN, the judge's win rate and GOLD of the policies."""
    names = {"reference": "reference", "standard": "PPO", "alone": "length alone"}
    for ax, what, title in zip(
            axes[0], ("length", "judge", "gold"),
            ("LEN: tokens a reply", "judge who likes length: win rate",
             "people: GOLD − the reference's"), strict=True):
        dots(ax, {label: [probed(s, f"{name}/{what}") for s in seeds]
                  for name, label in names.items()}, title)


TRIED = [
    ("length bias 0.17 with noise 0.7",
     "seed 0: PPO's replies won 48 % before the judge. He reads right answers, too, and PPO lost "
     "more of them than it won by length: there was no gain to recover"),
    ("1 − |length/L − 1| without a gauge",
     "seed 0: β weighed more, lengths ended at 17.9 of 20.7, and 0.73 was recovered"),
    ("length bias 0.3, noise 2.7: one run on length alone a seed (seeds 0 to 4, then 91 to 95); "
     "the mean of four (0 to 4, 91 to 95, then 111 to 115)",
     "0.85 [0.66, 1.04], 0.84 [0.698, 0.99] recovered; 0.91 [0.75, 1.07], 0.84 [0.74, 0.94], then "
     "0.76 [0.68, 0.83]"),
    ("β × 6, not × 12, for the larger penalty (seeds 21 to 25)",
     "shorter by 1.6, 4.2, 1.5, 1.2 and 1.6 tokens than the standard run: five other seeds as "
     "uneven would show it in four cases of five"),
    ("length bias 0.4, noise 4.2 (seed 0 alone)",
     "0.84 recovered, the longer reply chosen in 60 % of the labels, GOLD −1.3"),
]
PICTURES = [Picture(
    "Length alone wins the judge, not the people",
    "A dot a seed, the bar their mean. PPO on length alone is told to be as long as the replies of "
    "PPO against the reward model, and never sees the reward model.", draw, (1, 3), 2.4)]
