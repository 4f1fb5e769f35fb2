"""P9 · The preference that a reward model predicts, and the one that people have.

Stiennon et al. 2020 (arXiv 2009.01325, Figure 5) train summarisers against one reward model with
ever weaker KL penalties and put two curves over one axis, the KL from the supervised model. How
often would the new summary be preferred to the reference's? The reward model's own answer keeps
rising. The people's answer rises at first, turns, and ends far below one half: past the turn, what
the reward model takes for an improvement is one that people like less.

Ours: one run of PPO per seed without any penalty (β = 0), against a reward model that learned from
1,000 honest comparisons. Nobody is biased here; the labels are merely few. Along the run the
policy moves away from the reference, and each examination gives a point: KLREF, that is
KL(policy ‖ reference), exact along the sampled replies, in nats a response; predicted preference,
the mean of σ(r(policy's reply) − r(reference's reply)) in the reward model's raw units (rewards
whose zero and scale are changed for PPO give another number); actual preference, the share of
prompts where the gold score of the policy's reply is higher (ties count one half).

What is different: the paper's points are finished policies of different penalties, ours are moments
of one run with none (the study kl-and-early-stopping asks whether that matters). The paper's people
are ours only in play: the gold score is a documented function. The predicted preference rises
little, from 0.50 to about 0.60, because a reward model that saw 1,000 pairs is rarely sure; its
direction is the claim, not its height. It is claimed of the means over seeds, the curve that is
drawn: a single run's KLREF goes back and forth for a while on some seeds, and over its own
examinations Spearman was 0.71 to 0.98 on five seeds that the settings were chosen on (0.94 to 0.99
over the updates). Left out: the paper's rates of accuracy per doubling of
labels and of model size (study reward-model-scaling).

Refuted, if the predicted curve turned as well (then the reward model would have known), or if the
actual one never turned.
"""

import math
from statistics import fmean
from typing import Any

from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed, spearman
from rlhf_edu.cases.pictures import lines
from rlhf_edu.cases.stages import Arm, Recipe
from rlhf_edu.lab.evaluate import ExamConfig
from rlhf_edu.lab.raters import RaterConfig
from rlhf_edu.lab.rlhf import RLHFConfig
from rlhf_edu.lab.sft import SFTConfig

TITLE = "Predicted and actual preference"
QUESTION = "The reward model says it gets better and better: until where is it right?"

PROMPTS = 128  # of an examination, each answered twice
RUN = "no-penalty"
RECIPE = Recipe(
    sft=SFTConfig(),
    raters={"few": RaterConfig(n_pairs=1000)},  # honest
    arms={RUN: Arm("no penalty, β = 0", "few", RLHFConfig(
        updates=24, batch_size=128, num_mini_batches=2, lr=1.5e-4, kl_coef=0.0))},
    exam=ExamConfig(every=1, prompts=PROMPTS, final_prompts=2 * PROMPTS),
)
PREDICTED, ACTUAL = "rm/win_probability", "gold/win_rate"

# Two shares of 2·PROMPTS replies each: the standard error of their difference is at most this.
# Every examination asks the same prompts with the same luck, which can only make it smaller.
STANDARD_ERROR = math.sqrt(2 * 0.25 / (2 * PROMPTS))


def series(seed: Seed, name: str) -> list[float]:
    """A metric of the examinations, in their order."""
    return [float(exam[name]) for exam in seed.runs[RUN].exams]


def over_seeds(seeds: list[Seed], name: str) -> list[float]:
    """The mean over seeds of a metric at each examination."""
    return [fmean(column) for column in zip(*(series(s, name) for s in seeds), strict=True)]


def last_third(values: list[float]) -> list[float]:
    """The last third of a series."""
    return values[-(len(values) // 3) :]


def rise(seed: Seed) -> float:
    """How far the highest actual preference is above one half, in standard errors."""
    return (max(series(seed, ACTUAL)) - 0.5) / STANDARD_ERROR


def fall(seed: Seed) -> float:
    """How far the last actual preference is below the highest, in standard errors."""
    actual = series(seed, ACTUAL)
    return (max(actual) - actual[-1]) / STANDARD_ERROR


OBSERVATIONS = [
    Observation(
        "predicted-rises",
        "the predicted preference keeps rising with KLREF, means over seeds: Spearman ≥ 0.95",
        lambda seeds: spearman(over_seeds(seeds, "kl/exact"), over_seeds(seeds, PREDICTED)),
        0.95, "above", "Fig. 5: rises with KL throughout", pooled=True,
    ),
    Observation(
        "actual-rises",
        "the actual preference rises at first: its maximum is ≥ 2 standard errors above one half",
        rise, 2.0, "above", "Fig. 5: rises at first",
    ),
    Observation(
        "actual-falls",
        "and falls later: it ends ≥ 2 standard errors below its maximum",
        fall, 2.0, "above", "Fig. 5: falls at large KL",
    ),
    Observation(
        "anticorrelated",
        "over the last third of the run predicted and actual go opposite ways: Spearman < 0",
        lambda s: spearman(last_third(series(s, PREDICTED)), last_third(series(s, ACTUAL))),
        0.0, "below", "anticorrelated in the end",
    ),
]


def draw(axes: Any, seeds: list[Seed]) -> None:
    """Both preferences over KLREF, and over the updates."""
    from rlhf_edu.lab.plots import COLOURS, panel

    kinds = {"predicted by the reward model": PREDICTED, "actual (gold score)": ACTUAL}
    rows = {label: [series(seed, name) for seed in seeds] for label, name in kinds.items()}
    for (label, name), colour in zip(kinds.items(), COLOURS, strict=False):
        for seed in seeds:
            axes[0, 0].plot(series(seed, "kl/exact"), series(seed, name), color=colour, alpha=0.35,
                            linewidth=0.8)
        axes[0, 0].plot(over_seeds(seeds, "kl/exact"), over_seeds(seeds, name), color=colour,
                        linewidth=2.2, label=label)
    axes[0, 0].axhline(0.5, color="#888888", linewidth=0.8)
    axes[0, 0].legend(fontsize=8, frameon=False)
    panel(axes[0, 0], "preferred to the reference's reply", "KLREF: nats a response", "share")
    updates = [exam["update"] for exam in seeds[0].runs[RUN].exams]
    lines(axes[0, 1], updates, rows, "the same over the run", "PPO update")


TRIED = [
    (
        "3,000 labels of mildly biased raters (0.05 a word, 0.25 a sales or over-confident word)",
        "seed 0: the actual preference rose to 0.56 only, at the first examination (update 2), and "
        "was at 0.24 after 16 updates: nearly all fall, hardly a rise",
    ),
]
PICTURES = [Picture(
    "One axis, two preferences",
    "Thin lines are seeds, thick lines their mean over seeds at each examination.",
    draw,
)]
