"""P4 · A KL penalty moves along the gold-KL frontier; it does not move the frontier.

Gao, Schulman and Hilton 2022 (arXiv 2210.10760, §3.6) train with several coefficients of the KL
penalty and find: at the same distance from the initial policy the reward that is optimised is
higher with a penalty, and what people get is not. The penalty then works like stopping early. (They
warn that this depends on the other settings of PPO.)

Ours: three runs of PPO per seed against a reward model of 1,000 honest comparisons, with β = 0,
0.05 and 0.15 times k1 in the reward, examined after every update. Distance is d = √KLREF, KLREF the
exact KL(policy ‖ reference) along the sampled replies, in nats a response. Every point of a run
with a penalty is held against the run without, on the same seed, read off the broken line through
its examinations where it passed that d. The differences are averaged in bands of d. Graded is each
seed's mean over all the bands that it reached: the interval over seeds must reach 0, from either
side. No difference found is not the same as none. How many of the bands that every seed reached
(about four) lie 2 standard errors (SD / √n over seeds) or more from 0 is reported, and so is the
lead of the proxy, which is small: above 0 on four of seeds 21 to 25, 0.04 [−0.04, 0.11]; two
earlier runs that differed in the order of sums alone had it on all five. The bands are not graded,
either: with five seeds a band in which there is no difference is that far out in 12 % of all cases.

What is different: size, and the gold score is a documented function. Left out: coefficients so
large that the policy hardly moves.

Refuted, if gold with the penalty were above (or below) that without it at the same distance; the
picture's right panel has the sign. On five seeds that the settings were chosen on the bands spoke
against it by a hair: in one band of four (β = 0.15, d from 0.5 to 1) gold was higher with the
penalty, by 0.023 of a score whose SD is about 1.4, just over 2 standard errors. In the others it
was within them, with either sign. A run that a penalty holds in place stays longer at its distance,
and so has had more updates there than the run that passed through.
"""

import bisect
import itertools
import math
from statistics import fmean, stdev
from typing import Any

from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed
from rlhf_edu.cases.stages import Arm, Recipe
from rlhf_edu.lab.evaluate import ExamConfig
from rlhf_edu.lab.raters import RaterConfig
from rlhf_edu.lab.rlhf import RLHFConfig
from rlhf_edu.lab.sft import SFTConfig

TITLE = "The KL penalty and stopping early"
QUESTION = "At the same distance, is a policy better if a penalty kept it there?"

FREE = "no-penalty"


def ppo(kl_coef: float) -> RLHFConfig:
    """PPO; the arms differ in β alone."""
    return RLHFConfig(updates=24, batch_size=128, num_mini_batches=2, lr=1.5e-4, kl_coef=kl_coef)


RECIPE = Recipe(
    sft=SFTConfig(),
    raters={"few": RaterConfig(n_pairs=1000)},  # honest
    arms={
        FREE: Arm("no penalty, β = 0", "few", ppo(0.0)),
        "weak": Arm("β = 0.05", "few", ppo(0.05)),
        "strong": Arm("β = 0.15", "few", ppo(0.15)),
    },
    exam=ExamConfig(every=1, prompts=128, final_prompts=256),
)
PENALISED = ("weak", "strong")
NEAREST, BAND = 0.5, 0.5  # nearer by, the runs have hardly parted; the width of a band of d


def distance(exam: dict[str, Any]) -> float:
    """d of an examination."""
    return math.sqrt(max(0.0, exam["kl/exact"]))


def differences(seed: Seed, arm: str, name: str) -> dict[int, float]:
    """A metric with the penalty minus without, at equal d: the mean in each band of d."""
    free = seed.runs[FREE].exams
    drift = list(itertools.accumulate(map(distance, free), max))
    bands: dict[int, list[float]] = {}
    for exam in seed.runs[arm].exams:
        d = distance(exam)
        after = bisect.bisect_left(drift, d)
        if d < NEAREST or after == len(drift):
            continue
        x0, x1 = drift[after - 1], drift[after]
        y0, y1 = free[after - 1][name], free[after][name]
        there = y0 + (y1 - y0) * (d - x0) / (x1 - x0)
        bands.setdefault(int((d - NEAREST) / BAND), []).append(exam[name] - there)
    return {band: fmean(values) for band, values in bands.items()}


def per_band(seeds: list[Seed], arm: str, name: str) -> dict[int, tuple[float, float]]:
    """Mean over seeds and its standard error, in each band that every seed reached."""
    found = [differences(seed, arm, name) for seed in seeds]
    shared = sorted(set.intersection(*(set(each) for each in found)))
    rows = {band: [each[band] for each in found] for band in shared}
    return {band: (fmean(row), stdev(row) / math.sqrt(len(row))) for band, row in rows.items()}


def bands_apart(seeds: list[Seed]) -> float:
    """In how many bands gold with and without a penalty differ by 2 standard errors or more."""
    if len(seeds) < 2:
        return math.nan
    bands = [per_band(seeds, arm, "gold/total") for arm in PENALISED]
    if not all(bands):
        return math.nan  # nothing was compared
    return sum(abs(mean) >= 2 * error for each in bands for mean, error in each.values())


def over_shared(seed: Seed, name: str) -> float:
    """The mean difference over all bands of both coefficients that this seed reached."""
    return fmean(x for arm in PENALISED for x in differences(seed, arm, name).values())


def drift_left(seed: Seed) -> float:
    """Final KLREF of the weaker penalty, over that without one."""
    return float(seed.runs["weak"].final["kl/exact"] / seed.runs[FREE].final["kl/exact"])


OBSERVATIONS = [
    Observation(
        "penalty-holds", "the penalty acts: with β = 0.05 the final KLREF is below that of β = 0",
        drift_left, 1.0, "below", "a penalty ends at a smaller KL",
    ),
    Observation(
        "proxy-higher", "at equal KLREF the proxy reward is higher with a penalty",
        lambda s: over_shared(s, "rm/mean"), 0.0, "above", "higher proxy at given KL", graded=False,
    ),
    Observation(
        "no-better", "at equal KLREF gold is no better with a penalty: no gain is found (the "
        "difference without it, minus with it, reaches 0)",
        lambda s: -over_shared(s, "gold/total"), 0.0, "reaches", "no better gold-KL frontier",
    ),
    Observation(
        "no-worse", "nor a loss (with it, minus without it, reaches 0)",
        lambda s: over_shared(s, "gold/total"), 0.0, "reaches", "like stopping early",
    ),
    Observation(
        "bands-apart", "bands of d in which the mean difference reaches 2 standard errors: none",
        bands_apart, 0.5, "below", "no better gold-KL frontier", pooled=True, graded=False,
    ),
]


def draw(axes: Any, seeds: list[Seed]) -> None:
    """Proxy and gold over d for each coefficient; what differs at equal d, in each band."""
    from rlhf_edu.lab.plots import COLOURS, panel

    for axis, name, title in ((axes[0, 0], "rm/mean", "proxy reward, SDs"),
                              (axes[0, 1], "gold/total", "GOLD: the human score")):
        for (arm, settings), colour in zip(RECIPE.arms.items(), COLOURS, strict=False):
            for i, seed in enumerate(seeds):
                exams = seed.runs[arm].exams
                axis.plot([distance(e) for e in exams], [e[name] for e in exams], color=colour,
                          alpha=0.7, linewidth=0.9, label="" if i else settings.title)
        panel(axis, title, "d = √KLREF")
    axes[0, 0].legend(fontsize=8, frameon=False)
    for arm, colour in zip(PENALISED, COLOURS[1:], strict=False):
        bands = per_band(seeds, arm, "gold/total") if len(seeds) > 1 else {}
        x = [NEAREST + BAND * (band + 0.5) + 0.03 * PENALISED.index(arm) for band in bands]
        axes[0, 2].errorbar(x, [mean for mean, _ in bands.values()],
                            [2 * error for _, error in bands.values()], fmt="o", color=colour,
                            capsize=3, label=RECIPE.arms[arm].title)
    axes[0, 2].axhline(0, color="#888888", linewidth=0.8)
    axes[0, 2].set_xlim(NEAREST, NEAREST + 3 * BAND)
    panel(axes[0, 2], "GOLD with minus without, at equal d", "d = √KLREF")


PICTURES = [Picture(
    "Along one frontier",
    "Left and middle: every line is a run. Right: mean over seeds of the difference in each band "
    "of d, with 2 standard errors.",
    draw, shape=(1, 3),
)]
