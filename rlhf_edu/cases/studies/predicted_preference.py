"""P9 · The preference that a reward model predicts, and the one that people have.

Stiennon et al. 2020 (arXiv 2009.01325, Figure 5) train summarisers against one reward model with
ever weaker KL penalties and put two curves over one axis, the KL from the supervised model. How
often would the new summary be preferred to the human-written reference summary? The reward model's
own answer keeps rising. The people's answer rises at first, turns, and ends far below one half:
past the turn, what the reward model takes for an improvement is one that people like less.

Ours: two runs of PPO per seed without any penalty (β = 0), each against a reward model of its own
that learned from 1,000 honest comparisons. Nobody is biased here; the labels are merely few. Along
a run the policy moves away from the reference, and each examination gives a point: KLREF, that is
KL(policy ‖ reference), exact along the sampled replies, in nats a response; predicted preference,
the mean of σ(r(policy's reply) − r(reference's reply)) in the reward model's raw units (rewards
whose zero and scale are changed for PPO give another number); actual preference, the share of
prompts where the gold score of the policy's reply is higher (ties count one half). All three are
means of the two runs of a seed: how soon the actual preference falls, and where a run settles,
depends on which 1,000 pairs its reward model saw.

What is different: our replies are compared with those of the policy that the run starts from, so
both curves start at one half; the paper's points are finished policies of different penalties, ours
are moments of runs with none (the study kl-and-early-stopping asks whether that matters). The
paper's people are ours only in play: the gold score is a documented function. The predicted
preference rises little, from 0.50 to about 0.59, because a reward model that saw 1,000 pairs is
rarely sure; its direction is the claim, not its height. It is claimed of the means over seeds, the
curve that is drawn, because KLREF of a run goes back and forth for a while on some seeds. For the
same reason "the last third" is the third of the examinations where KLREF is highest, as on the
paper's axis, which is not always the third that came last. A rank correlation of so many
examinations is smooth enough for the jackknife, but its interval can pass 1. Left out: the paper's
rates of accuracy per doubling of labels and of model size (study reward-model-scaling).

Refuted, if the predicted curve turned as well (then the reward model would have known), or if the
actual one never turned.
"""

import math
from dataclasses import replace
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
TIMES = ("first", "second")  # labels are bought, and a policy trained on them, twice a seed
PPO = RLHFConfig(updates=24, batch_size=128, num_mini_batches=2, lr=1.5e-4, kl_coef=0.0)
RECIPE = Recipe(
    sft=SFTConfig(),
    raters={time: RaterConfig(seed=i, n_pairs=1000) for i, time in enumerate(TIMES)},  # honest
    arms={time: Arm(f"no penalty, β = 0, {time} labels", time, replace(PPO, seed=i))
          for i, time in enumerate(TIMES)},
    exam=ExamConfig(every=1, prompts=PROMPTS, final_prompts=PROMPTS),
)
KLREF, PREDICTED, ACTUAL = "kl/exact", "rm/win_probability", "gold/win_rate"

# Two shares of 2·PROMPTS replies each: the standard error of their difference is at most this.
# Every examination asks the same prompts with the same luck, and a seed's number is the mean of two
# runs: both can only make it smaller.
STANDARD_ERROR = math.sqrt(2 * 0.25 / (2 * PROMPTS))


def series(seed: Seed, name: str) -> list[float]:
    """A metric of the examinations, in their order: the mean of both runs."""
    exams = zip(*(seed.runs[time].exams for time in TIMES), strict=True)
    return [fmean(exam[name] for exam in both) for both in exams]


def over_seeds(seeds: list[Seed], name: str) -> list[float]:
    """The mean over seeds of a metric at each examination."""
    return [fmean(column) for column in zip(*(series(s, name) for s in seeds), strict=True)]


def far_out(seed: Seed, name: str) -> list[float]:
    """A metric of that third of the examinations where KLREF is highest."""
    by_drift = sorted(zip(series(seed, KLREF), series(seed, name), strict=True))
    return [value for _, value in by_drift[-(len(by_drift) // 3) :]]


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
        lambda seeds: spearman(over_seeds(seeds, KLREF), over_seeds(seeds, PREDICTED)),
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
        "over the last third of KLREF predicted and actual go opposite ways: Spearman < 0",
        lambda s: spearman(far_out(s, PREDICTED), far_out(s, ACTUAL)),
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
            axes[0, 0].plot(series(seed, KLREF), series(seed, name), color=colour, alpha=0.35,
                            linewidth=0.8)
        axes[0, 0].plot(over_seeds(seeds, KLREF), over_seeds(seeds, name), color=colour,
                        linewidth=2.2, label=label)
    axes[0, 0].axhline(0.5, color="#888888", linewidth=0.8)
    axes[0, 0].legend(fontsize=8, frameon=False)
    panel(axes[0, 0], "preferred to the reference's reply", "KLREF: nats a response", "share")
    updates = [exam["update"] for exam in seeds[0].runs[TIMES[0]].exams]
    lines(axes[0, 1], updates, rows, "the same over the run", "PPO update")


TRIED = [
    (
        "3,000 labels of mildly biased raters (0.05 a word, 0.25 a sales or over-confident word)",
        "seed 0: the actual preference rose to 0.56 only, at the first examination (update 2), and "
        "was at 0.24 after 16 updates: nearly all fall, hardly a rise",
    ),
    (
        "one run a seed, and for the last claim the third of the examinations that came last "
        "(seeds 0 to 4 and 200 to 204)",
        "4 of 4 on the ten together, but Spearman −0.50, SD 0.53, from −0.98 to 0.69: five such "
        "seeds often do not show it. On seed 3 both preferences and KLREF hardly moved after "
        "update 13. By KLREF in the place of time −0.67, SD 0.31. The actual preference ended 6.1 "
        "standard errors below its maximum, SD 1.7",
    ),
    (
        "700 labels, lr 2e-4, examinations of 256 prompts (seeds 0 to 4)",
        "worse: Spearman −0.36, −0.67, 0.23, −0.80, 0.87. Runs settle earlier, and two of five "
        "recover a little of the actual preference in the end",
    ),
    (
        "the mean of two runs a seed, by KLREF, as it is now (seeds 0 to 4 and 200 to 204)",
        "Spearman −0.80, SD 0.16, −0.44 at worst; 6.1 standard errors, SD 1.6, 3.9 at worst",
    ),
]
PICTURES = [Picture(
    "One axis, two preferences",
    "Thin lines are seeds, thick lines their mean over seeds at each examination.",
    draw,
)]
