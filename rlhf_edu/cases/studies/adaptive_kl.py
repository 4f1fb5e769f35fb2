"""P8 · β that follows a target.

Ziegler et al. 2019 (arXiv 1909.08593) let the coefficient of the KL penalty follow a target,
because the same β gave different KLs in different runs:

    e = clip(KL / target − 1, −0.2, 0.2)        β ← β·(1 + K·e), K = 0.1

KL is that of policy ‖ reference in nats a response, read off each batch by k1; their targets were 6
and 10 nats. Each step moves β by at most 2 %, so ten times as much takes 117 updates, and a tenth
114. The first is asked of the controller itself.

Ours: runs of 60 updates, for which K is 0.4 (`kl_horizon` is the batch size over K). Two reward
models, of the biased raters and of 1,000 honest labels, one β for both, and the same start for a β
that follows a target of 2 nats; k1 in the reward. The final KL is the mean of the exact KLREF over
the last third of the updates, when an adaptive β has come back from the fall that it has while
KLREF is still on its way up. The spread is the SD of its logarithm over all runs, of seeds and of
reward models, and that is graded. A further run, of 40 updates, has no penalty at all.

The spread over seeds alone, with one reward model, is reported only. The reward has a unit here
(one SD over the reference's own replies), which takes away most of what made the paper's runs
differ: β = 0.15 ends at 2.9 to 3.5 nats with the biased raters' reward models and at 1.6, 1.6, 2.3,
1.6, 1.7 with those of few labels (seeds 0, 2, 3, 4, 1), the β that follows the target at 1.9 to 2.1
with either. A ratio of two SDs, of five numbers each, of which one makes the larger SD, is not
known well enough to be held against 1/2, even if it is small: 1/4 on these seeds, 1/7 on 21 to 25.
(What is graded is for the larger part the gap between the two reward models.)

Without a penalty the replies end as strings of words that the reward model likes one by one
("for profile vent can profile with store with tray tray"). What all seeds share is that the answer
is lost: the points for right answers fall to less than a quarter of the reference's (seeds 0 to 4).
Repetition is a rare event beside that (2 to 12 % of 4-grams; of the reference's 0.1 %), and several
times as common on one seed as on another, so its claim is about the number of seeds.

What is different: size, a larger K for a shorter run, and smaller targets. Left out: training the
reward model further meanwhile.

Refuted, if β at a target ended as far from it as a fixed β ends from its own mean.
"""

import math
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed
from rlhf_edu.cases.pictures import during
from rlhf_edu.cases.stages import Arm, Recipe, Room
from rlhf_edu.cases.world import BIASED
from rlhf_edu.kl_penalty import AdaptiveKLController
from rlhf_edu.lab.evaluate import ExamConfig
from rlhf_edu.lab.raters import RaterConfig
from rlhf_edu.lab.rlhf import RLHFConfig
from rlhf_edu.lab.sft import SFTConfig

TITLE = "A coefficient that follows a target"
QUESTION = "The same β gives different KLs: does a β that reacts give the same KL?"

TARGET, START, K = 2.0, 0.15, 0.4
BATCH = 64


def ppo(kl_coef: float = START, **more: Any) -> RLHFConfig:
    """PPO; the arms differ in β, and whether it follows a target."""
    return RLHFConfig(updates=60, batch_size=BATCH, num_mini_batches=2, lr=3e-4, kl_coef=kl_coef,
                      **more)


ADAPTIVE = ppo(kl_target=TARGET, kl_horizon=BATCH / K)
RECIPE = Recipe(
    sft=SFTConfig(),
    raters={"biased": BIASED, "few": RaterConfig(n_pairs=1000)},
    arms={
        "fixed": Arm("biased raters, β fixed", "biased", ppo()),
        "adaptive": Arm("biased raters, β adaptive", "biased", ADAPTIVE),
        "fixed-few": Arm("few labels, β fixed", "few", ppo()),
        "adaptive-few": Arm("few labels, β adaptive", "few", ADAPTIVE),
        "no-penalty": Arm("biased raters, β = 0", "biased", replace(ppo(0.0), updates=40)),
    },
    exam=ExamConfig(every=100, prompts=64, final_prompts=256),
)
FIXED, FOLLOWING = ("fixed", "fixed-few"), ("adaptive", "adaptive-few")


# ── The controller by itself ────────────────────────────────────────────────────────────────────
def controller(room: Room) -> dict[str, float]:
    """K = 0.1, fed KLs far above and far below its target: its largest step, and how long ×10."""
    largest, steps = 0.0, []
    for kl in (1e6, 0.0):
        beta, n = AdaptiveKLController(0.1, 6.0, horizon=10 * BATCH), 0
        while 0.01 < beta.value < 1.0:
            before = beta.value
            beta.update(kl, BATCH)
            largest, n = max(largest, abs(beta.value / before - 1)), n + 1
        steps.append(n)
    return {"largest": largest, "tenfold_up": steps[0], "tenfold_down": steps[1]}


PROBES = {"controller": controller}
PROBE_SECONDS = 0.1


# ── What must be seen ───────────────────────────────────────────────────────────────────────────
def final_kl(seed: Seed, arm: str) -> float:
    """KLREF, mean over the last third of the updates."""
    kl = [float(u["objective/kl_exact"]) for u in seed.runs[arm].updates]
    return fmean(kl[-(len(kl) // 3) :])


def spread(seeds: list[Seed], arms: tuple[str, ...]) -> float:
    """SD of log KLREF over all runs of these arms; NaN for a single run."""
    logs = [math.log(final_kl(seed, arm)) for seed in seeds for arm in arms]
    return stdev(logs) if len(logs) > 1 else math.nan


def off_target(seed: Seed) -> float:
    """|KL − target| / target over the last third, the larger of the two adaptive arms."""
    return max(abs(final_kl(seed, arm) / TARGET - 1) for arm in FOLLOWING)


OBSERVATIONS = [
    Observation(
        "spread-over-both", "over seeds and reward models: the adaptive β's spread of the final "
        "KLREF is ≤ 1/2 of the fixed β's",
        lambda seeds: spread(seeds, FOLLOWING) / spread(seeds, FIXED),
        0.5, "below", "same β, other seeds: other KLs", pooled=True,
    ),
    Observation(
        "spread-over-seeds", "over seeds alone, few labels: ≤ 1/2 as well",
        lambda seeds: spread(seeds, ("adaptive-few",)) / spread(seeds, ("fixed-few",)),
        0.5, "below", "same β, other seeds: other KLs", pooled=True, graded=False,
    ),
    Observation(
        "on-target", "over the last third |KLREF − target| / target ≤ 0.15, both reward models",
        off_target, 0.15, "below", "targets of 6 and 10 nats",
    ),
    Observation(
        "small-steps", "K = 0.1: a step of β is at most 2 % (to rounding)",
        lambda s: s.probes["controller"]["largest"], 0.02 + 1e-9, "below", "× 1.02 at most",
    ),
    Observation(
        "slow", "so ten times as much takes more than 116 updates",
        lambda s: s.probes["controller"]["tenfold_up"], 116.0, "above", "117 updates",
    ),
    Observation(
        "degenerate", "without a penalty the text degenerates: points for right answers ≤ 1/2 of "
        "the reference's",
        lambda s: s.runs["no-penalty"].reference["gold/answer"] / 2
        - s.runs["no-penalty"].final["gold/answer"],
        0.0, "above", "without a KL term samples degenerate",
    ),
    Observation(
        "repeats", "and repeated 4-grams are ≥ 2× the reference's in at least 4 of 5 seeds",
        lambda s: s.runs["no-penalty"].final["style/repeated_4grams"]
        - 2 * s.runs["no-penalty"].reference["style/repeated_4grams"],
        0.0, "mostly above", "without a KL term samples degenerate",
    ),
]


def draw(axes: Any, seeds: list[Seed]) -> None:
    """KLREF with a fixed β and with an adaptive one; the adaptive β itself."""
    for axis, arms, title in ((axes[0, 0], FIXED, "KLREF, β fixed"),
                              (axes[0, 1], FOLLOWING, "KLREF, β adaptive")):
        during(axis, seeds, {arm: str(RECIPE.arms[arm].raters) for arm in arms},
               "objective/kl_exact", title)
        axis.axhline(TARGET, color="#888888", linewidth=0.8)
        axis.set_ylim(0, 7)
    during(axes[0, 2], seeds, {arm: str(RECIPE.arms[arm].raters) for arm in FOLLOWING},
           "objective/kl_coef", "the adaptive β")
    axes[0, 0].legend(fontsize=8, frameon=False)


TRIED = [
    (
        "40 updates; graded over seeds alone, with the biased raters' reward model",
        "ratio of the spreads 0.18, interval −0.05 to 0.41, on seeds 21 to 25; but 0.7 on seeds 0, "
        "2, 3, 4, where the fixed β ends at 2.9, 3.4, 3.4, 3.2 nats: there is no spread that could "
        "be narrowed. On seed 0 the adaptive β of the few labels had fallen to 0.05 on the way up, "
        "and KLREF, back from 3.0, was still 17 % over its target in the last third",
    ),
    (
        "300 honest labels, β = 0.1 and an adaptive β from there, 60 updates (seeds 0, 1, 2)",
        "the seeds differ more: the fixed β at 3.7, 2.8, 2.6 nats (after 40 updates 1.8 and 1.6 on "
        "seeds 3 and 4), the adaptive at 2.3, 1.9, 1.9; but on seed 0 KLREF is so uneven that its "
        "mean is 14 % off the target, as a step is cut at ±20 %",
    ),
    (
        "1,000 honest labels, a fixed β of 0.05, 60 updates (seeds 0, 2, 3, 4, 1)",
        "2.8, 2.0, 2.5, 2.0, 2.7 nats: the spread of the logarithm is 0.15, as with 0.15",
    ),
    (
        "degenerate text by the mean number of repeated 4-grams, minus twice the reference's",
        "0.06, 0.12, 0.14, 0.02, 0.06 on seeds 21 to 25: an interval over five such seeds contains "
        "0 once in four times, though no seed is near it; the number of seeds is claimed now",
    ),
    (
        "K = 1, so that β moves by up to 20 % an update (biased raters, target 2 nats)",
        "seed 0: KLREF swung from 5.3 at update 10 to 0.9 at update 25 and back to 2.5",
    ),
    (
        "K = 0.5 from β = 0.05, target 1.2 nats (few labels), step sizes 0.375e-4, 1.5e-4, 6e-4",
        "seed 0: on the way to the target β fell to below 0.01, and the smallest step size reached "
        "it at the end only; at 1.5e-4 KLREF passed 3.6 before it came back",
    ),
]
PICTURES = [Picture(
    "The coefficient moves, so that the distance does not",
    "KL(policy ‖ reference), exact along the replies of each batch, nats a response. Grey: target.",
    draw, shape=(1, 3),
)]
