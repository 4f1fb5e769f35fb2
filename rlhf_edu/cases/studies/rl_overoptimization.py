"""P2 · What people get out of PPO, as a function of how far it went.

Gao, Schulman and Hilton 2022 (arXiv 2210.10760) measure distance as d = √KL(policy ‖ initial) and
find for reinforcement learning without a KL penalty

    gold(d) − gold(0) = d·(α − β·log d)        peak at d* = e^(α/β − 1), height β·d*

and for best-of-n a parabola, d·(α − β·d). So gold rises steeply, turns and falls, while the reward
that is optimised goes on. (Their β is a coefficient of the curve; the penalty's is β_KL here, and
it is 0, as in all their runs but those of §3.6.)

Ours: one run of PPO per seed, clip 0.2, GAE with λ = 0.95, β_KL = 0, against a reward model that
learned from 1,000 honest comparisons; gold is the help desk's documented score. Each of its 24
updates is examined: KLREF exact along the sampled replies, in nats a response. Three curves with
two coefficients each are fitted by least squares to the mean over seeds of the points with d > 0.3:
the paper's for RL, its parabola for best-of-n, and a straight line with an intercept. AIC is
n·log(residual sum of squares / n) + 2·coefficients; lower is better. The points of a run are not
independent of each other, so an AIC compares the curves and is no test. Its interval over seeds is
the jackknife's, and biased: a mean of four seeds is noisier than that of five, so the interval need
not hold the value, and only its sign is read.

What is different: gold is not a larger reward model but a rule; model, reward model and labels are
tiny, so α and β are numbers of this desk. Left out: how α and β change with the size of the reward
model (study reward-model-scaling) and the slope at d = 0, which the form makes infinite and no run
can show.

Refuted, if gold did not turn, or if a straight line described it as well. The line is a strong
opponent here: it has an intercept, so it need not start at 0, and few of the points lie before the
peak. On five seeds that the settings were chosen on R² was 0.96 for the paper's form, 0.95 for the
line and 0.90 for the parabola: better than both, but than the line not on every choice of seeds.
So that comparison is reported and not graded.
"""

import math
from statistics import fmean
from typing import Any

import numpy as np

from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed, spearman
from rlhf_edu.cases.stages import Arm, Recipe
from rlhf_edu.lab.evaluate import ExamConfig
from rlhf_edu.lab.raters import RaterConfig
from rlhf_edu.lab.rlhf import RLHFConfig
from rlhf_edu.lab.sft import SFTConfig

TITLE = "Over-optimisation by reinforcement learning"
QUESTION = "How does gold depend on the distance that PPO has gone?"

RUN = "no-penalty"
RECIPE = Recipe(
    sft=SFTConfig(),
    raters={"few": RaterConfig(n_pairs=1000)},  # honest
    arms={RUN: Arm("no penalty, β = 0", "few", RLHFConfig(
        updates=24, batch_size=128, num_mini_batches=2, lr=1.5e-4, kl_coef=0.0))},
    exam=ExamConfig(every=1, prompts=128, final_prompts=256),
)
NEAREST = 0.3  # fitted are points with d above this, as the claim says

FORMS = {  # two coefficients each, in which they are linear: their columns at distances d
    "d(α − β log d)": lambda d: [d, -d * np.log(d)],
    "d(α − βd)": lambda d: [d, -(d**2)],
    "a + b·d": lambda d: [np.ones_like(d), d],
}
RL, PARABOLA, LINE = FORMS


def gain(seed: Seed, name: str = "gold/total") -> list[float]:
    """What an examination gives beyond the first, which is the reference's own."""
    values = [float(exam[name]) for exam in seed.runs[RUN].exams]
    return [value - values[0] for value in values]


def distance(seed: Seed) -> list[float]:
    """d at each examination."""
    return [math.sqrt(max(0.0, exam["kl/exact"])) for exam in seed.runs[RUN].exams]


def mean_curve(seeds: list[Seed]) -> tuple[np.ndarray, np.ndarray]:
    """Mean d and mean gain of gold over seeds, at each examination beyond the nearest."""
    d = np.mean([distance(seed) for seed in seeds], 0)
    gold = np.mean([gain(seed) for seed in seeds], 0)
    return d[d > NEAREST], gold[d > NEAREST]


def fit(form: str, seeds: list[Seed]) -> tuple[np.ndarray, float, float]:
    """Coefficients, R² and AIC of a form on the mean over seeds."""
    d, gold = mean_curve(seeds)
    columns = np.stack(FORMS[form](d), 1)
    coefficients = np.linalg.lstsq(columns, gold, rcond=None)[0]
    rss = float(np.sum((gold - columns @ coefficients) ** 2))
    explained = 1 - rss / float(np.sum((gold - gold.mean()) ** 2))
    return coefficients, explained, len(d) * math.log(rss / len(d)) + 2 * len(coefficients)


def lead(other: str, seeds: list[Seed]) -> float:
    """AIC of another form minus that of the paper's: above 0 the paper's is better."""
    return fit(other, seeds)[2] - fit(RL, seeds)[2]


def fitted_peak(seeds: list[Seed]) -> float:
    """d* of the fitted curve, e^(α/β − 1)."""
    alpha, beta = fit(RL, seeds)[0]
    return math.exp(alpha / beta - 1) if beta > 0 else math.inf


def gold_lost(seed: Seed) -> float:
    """Gold of the last three examinations, minus that at the three nearest to the fitted peak."""
    d, gold, peak = distance(seed), gain(seed), fitted_peak([seed])
    nearest = sorted(range(len(d)), key=lambda i: abs(d[i] - peak))[:3]
    return fmean(gold[-3:]) - fmean(gold[i] for i in nearest)


def gap(seed: Seed) -> list[float]:
    """Gain of the proxy minus gain of gold, each in SDs over the reference's replies."""
    sd = float(seed.runs[RUN].exams[0]["gold/sd"])
    return [r - g / sd for r, g in zip(gain(seed, "rm/mean"), gain(seed), strict=True)]


OBSERVATIONS = [
    Observation(
        "form-fits", "d(α − β log d) describes the mean over seeds for d > 0.3: R² ≥ 0.9",
        lambda seeds: fit(RL, seeds)[1], 0.9, "above", "R(d) = d(α − β log d)", pooled=True,
    ),
    Observation(
        "better-than-line", "better than a straight line: its AIC is lower",
        lambda seeds: lead(LINE, seeds), 0.0, "above", "not linear", pooled=True, graded=False,
    ),
    Observation(
        "better-than-parabola", "better than best-of-n's parabola d(α − βd): its AIC is lower",
        lambda seeds: lead(PARABOLA, seeds), 0.0, "above", "the parabola is that of best-of-n",
        pooled=True,
    ),
    Observation(
        "peak-inside", "the fitted peak d* lies inside the run: d* / last d < 1",
        lambda s: fitted_peak([s]) / max(distance(s)), 1.0, "below", "d* = e^(α/β − 1)",
    ),
    Observation(
        "gold-falls", "from there on gold falls: its end lies below the peak",
        gold_lost, 0.0, "below", "gold falls beyond d*",
    ),
    Observation(
        "gap-grows", "the proxy leaves gold behind: Spearman of update and their gap ≥ 0.9",
        lambda s: spearman(list(range(len(gap(s)))), gap(s)), 0.9, "above",
        "the gap grows with d",
    ),
]


def draw(axes: Any, seeds: list[Seed]) -> None:
    """Gold over d with the three fits; proxy and gold side by side."""
    from rlhf_edu.lab.plots import COLOURS, panel

    for seed in seeds:
        axes[0, 0].plot(distance(seed), gain(seed), color="#999999", alpha=0.5, linewidth=0.7)
    d, gold = mean_curve(seeds)
    axes[0, 0].plot(d, gold, "o", color="#000000", markersize=3.5, label="mean over seeds")
    x = np.linspace(0.02, max(d) * 1.05, 200)
    for form, colour in zip(FORMS, COLOURS, strict=False):
        (a, b), explained, _ = fit(form, seeds)
        axes[0, 0].plot(x, np.stack(FORMS[form](x), 1) @ [a, b], color=colour, linewidth=1.8,
                        label=f"{form}: {a:.2f}, {b:.2f}, R² {explained:.3f}")
    axes[0, 0].legend(fontsize=8, frameon=False)
    panel(axes[0, 0], "gain of GOLD, and what was fitted", "d = √KLREF")
    sds = ([r - g for r, g in zip(gain(s, "rm/mean"), gap(s), strict=True)] for s in seeds)
    for rows, label, colour in (([gain(s, "rm/mean") for s in seeds], "proxy", COLOURS[0]),
                                (list(sds), "gold", COLOURS[1])):
        for seed, row in zip(seeds, rows, strict=True):
            axes[0, 1].plot(distance(seed), row, color=colour, alpha=0.35, linewidth=0.8)
        axes[0, 1].plot(np.mean([distance(s) for s in seeds], 0), np.mean(rows, 0), color=colour,
                        linewidth=2.2, label=label)
    axes[0, 1].legend(fontsize=8, frameon=False)
    panel(axes[0, 1], "gains, in SDs over the reference's replies", "d = √KLREF")


TRIED = [
    (
        "3,000 labels of mildly biased raters (0.05 a word, 0.25 a sales or over-confident word)",
        "seed 0: GOLD never rose: 0.91, 0.89, 0.70 at updates 0, 2, 4, and −0.35 at 16",
    ),
]
PICTURES = [Picture(
    "Up, over and down",
    "Left: the two numbers of each form are α and β (of the line a and b). Right: the reward that "
    "was optimised and what people think of it.",
    draw,
)]
