"""P1 · best of n: gold rises with √KL, turns, and falls. Is it a parabola?

Gao, Schulman and Hilton 2022 (arXiv 2210.10760) let a reward model pick the best of n answers and
measured what the picks are worth by the gold score. Over d = √KL(best of n ‖ policy), with KL =
log n − (n−1)/n nats, the gain of gold is R(d) = d·(α − β·d): it peaks at d* = α/2β, and their fit
to n ≤ 1,000 predicts n = 60,000.

Here: the reference policy answers 24 held-out prompts 4,096 times each. Two reward models read all
answers: one learned from 6,000 labels of honest raters, one from the first 1,500 of them.
Nobody is biased; the error is what a reward model has not learned. Nakano's estimator makes every n
of one pool, without bias: Σ C(i−1, n−1)/C(N, n)·gold of the i-th. α and β are fitted to the mean
curve at n ≤ 64, and n = 256 … 4,096 are predicted.

What is true of it on our desk: gold turns early, after four to eight answers, while the reward goes
on rising; β > 0; and up to n = 64 the parabola runs through the points. What is not: beyond, the
parabola falls ever faster, and gold goes on falling about as before. The held-out R² ≥ 0.9 is NOT
REPRODUCED, at three temperatures of the policy and for weaker references (see what was tried); the
observation is kept as it was planned. A likely reason, not tested apart: the reward flattens early.
The rewards of a pool are not like a normal distribution, whose best of 4,096 stands 3.6 SDs above
the mean, and its best of eight two fifths of the way there; here the best of eight has most of the
way behind it, and little of the rise is left after n = 64, although d still has a third of its way
to go. That alone is not enough, for between n = 8 and 64 gold falls as fast with no more rise of
the reward. Nor is it only a want of new answers: the reward stalls where most of the 4,096 differ,
too. What it likes best in the end are short, plausible, wrong answers ("five years" for "one
year"), and they are worth what they are worth. In the paper the reward goes on rising with d.

What would have refuted the story itself: gold that keeps rising, a β whose interval includes 0, or
a peak at the largest n.

Different from the paper: all sizes; "smaller" means fewer labels, not fewer weights. The formula
for KL is an upper bound, exact where answers never tie; here they do, so d is too large, most of
all at large n, which alone makes gold seem to fall more slowly. The exact KL of this pool is not
computed here; the study best-of-n-bound shows what ties cost.
"""

from typing import Any

import torch

from rlhf_edu.best_of_n import best_of_n_curve, best_of_n_kl_bound
from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed
from rlhf_edu.cases.stages import Learner, Recipe, Room
from rlhf_edu.cases.world import HONEST
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.gold import gold_score
from rlhf_edu.lab.reward_model import RewardModelConfig
from rlhf_edu.lab.sampling import sample
from rlhf_edu.lab.sft import SFTConfig

TITLE = "Best of n"
QUESTION = "What becomes of gold when a reward model picks from more and more answers?"

LONGER = RewardModelConfig(epochs=4)
RECIPE = Recipe(
    sft=SFTConfig(), raters={"honest": HONEST},
    reward_models={"large": Learner("honest", LONGER), "small": Learner("honest", LONGER, 1500)},
)
NAMES = {"large": "6,000 labels", "small": "1,500 labels"}

PROMPTS, POOL = 24, 4096
NS = (1, 2, 4, 8, 16, 32, 64, 256, 512, 1024, 2048, 4096)
D = [best_of_n_kl_bound(n) ** 0.5 for n in NS]
FITTED = [i for i, n in enumerate(NS) if 1 < n <= 64]
PREDICTED = [i for i, n in enumerate(NS) if n >= 256]


def pools(room: Room) -> dict[str, Any]:
    """Mean gold and reward of the best of n, for every reward model; the reference's subtracted."""
    luck, table = torch.Generator().manual_seed(room.seed), helpdesk.desk()
    judges = {name: room.reward_model(name) for name in NAMES}
    gold, proxy = [], {name: [] for name in NAMES}  # type: ignore[var-annotated]
    different = 0
    for row in helpdesk.draw_prompts(table, PROMPTS, luck, held_out=True):
        drawn = sample(room.reference(), table.prompts[row : row + 1], 32, luck, copies=POOL)[0]
        replies, which = drawn.unique(dim=0, return_inverse=True)  # each is read once
        here = row.repeat(len(replies))
        gold.append(gold_score(replies, table[here]).total[which])
        for name, judge in judges.items():
            proxy[name].append(judge(table.prompts[here], replies)[which])
        different += len(replies)
        room.tick(PROBE_SECONDS / PROMPTS)
    found: dict[str, Any] = {"different": different / PROMPTS}
    for name in NAMES:
        curve = best_of_n_curve(torch.stack(proxy[name]).double(), torch.stack(gold).double(), NS)
        found[name] = {"gold": (curve.gold - curve.gold[0]).tolist(),
                       "proxy": (curve.proxy - curve.proxy[0]).tolist()}
    return found


PROBES = {"pools": pools}
PROBE_SECONDS = 16.0


# ── The fit ─────────────────────────────────────────────────────────────────────────────────────
def mean_curve(seeds: list[Seed], model: str, kind: str = "gold") -> list[float]:
    """A curve over NS, the mean over seeds."""
    rows = [seed.probes["pools"][model][kind] for seed in seeds]
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def fit(gold: list[float]) -> tuple[float, float]:
    """α and β of gold = d·(α − β·d), least squares over n = 2 … 64."""
    d = torch.tensor([D[i] for i in FITTED], dtype=torch.float64)
    y = torch.tensor([gold[i] for i in FITTED], dtype=torch.float64)
    alpha, beta = torch.linalg.lstsq(torch.stack([d, -d * d], 1), y[:, None]).solution[:, 0]
    return float(alpha), float(beta)


def r_squared(seeds: list[Seed], model: str, where: list[int]) -> float:
    """1 − (error of the fit) / (variation about the mean of these points), on the mean curve."""
    gold = mean_curve(seeds, model)
    alpha, beta = fit(gold)
    middle = sum(gold[i] for i in where) / len(where)
    error = sum((gold[i] - D[i] * (alpha - beta * D[i])) ** 2 for i in where)
    return 1 - error / sum((gold[i] - middle) ** 2 for i in where)


def peak_inside(seed: Seed, model: str) -> float:
    """How far the highest point stands above the nearer in height of the two ends."""
    gold = mean_curve([seed], model)
    return max(gold) - max(gold[0], gold[-1])


def proxy_rise(seed: Seed) -> float:
    """The smaller rise of reward from n = 256 to n = 4,096, in SDs of the reference's rewards."""
    curves = [mean_curve([seed], model, "proxy") for model in NAMES]
    return min(curve[-1] - curve[PREDICTED[0]] for curve in curves)


def late_share(seed: Seed) -> float:
    """The larger share of the reward's rise that comes after n = 64."""
    curves = [mean_curve([seed], model, "proxy") for model in NAMES]
    return max(1 - curve[FITTED[-1]] / curve[-1] for curve in curves)


def beyond_prediction(seeds: list[Seed], model: str) -> float:
    """Gold of the best of 4,096, minus what the fit says."""
    gold = mean_curve(seeds, model)
    alpha, beta = fit(gold)
    return gold[-1] - D[-1] * (alpha - beta * D[-1])


OBSERVATIONS = [
    Observation(
        "proxy-rises",
        "the picks' reward still rises from n = 256 to 4,096 (it cannot fall, but it could stall)",
        proxy_rise, 0.0, "above", paper="monotone"),
    Observation(
        "beta-positive", "β > 0, for both reward models",
        lambda s: min(fit(mean_curve([s], m))[1] for m in NAMES), 0.0, "above",
        paper="β > 0 (plotted only)"),
    Observation(
        "small-peaks-inside", "1,500 labels: gold peaks inside, above n = 1 and above n = 4,096",
        lambda s: peak_inside(s, "small"), 0.0, "above", paper="d* = α/2β"),
    Observation(
        "fits-small-n", "the parabola fits n = 2 … 64 (6,000 labels): R² ≥ 0.9",
        lambda seeds: r_squared(seeds, "large", FITTED), 0.9, "above", pooled=True),
    Observation(
        "predicts-large", "fitted to n ≤ 64 it predicts n = 256 … 4,096 (6,000 labels): R² ≥ 0.9",
        lambda seeds: r_squared(seeds, "large", PREDICTED), 0.9, "above", pooled=True,
        paper="n ≤ 1,000 predicts n = 60,000"),
    Observation(
        "predicts-small", "the same with 1,500 labels: R² ≥ 0.9",
        lambda seeds: r_squared(seeds, "small", PREDICTED), 0.9, "above", pooled=True,
        paper="n ≤ 1,000 predicts n = 60,000"),
    Observation(
        "falls-slower", "ours: at n = 4,096 gold is above the parabola, for both reward models",
        lambda seeds: min(beyond_prediction(seeds, m) for m in NAMES), 0.0, "above", pooled=True),
    Observation(
        "reward-ceiling", "ours: less than a quarter of the reward's rise comes after n = 64, "
        "where a third of d still lies ahead",
        late_share, 0.25, "below"),
]


# ── What the report shows ───────────────────────────────────────────────────────────────────────
def draw(axes: Any, seeds: list[Seed]) -> None:
    """Gold and proxy over d, with the fit."""
    from rlhf_edu.lab.plots import COLOURS, curve, panel

    for (model, label), colour in zip(NAMES.items(), COLOURS, strict=False):
        for axis, kind in zip(axes[0], ("gold", "proxy"), strict=True):
            rows = [seed.probes["pools"][model][kind] for seed in seeds]
            curve(axis, D, rows, label, colour)
        alpha, beta = fit(mean_curve(seeds, model))
        axes[0, 0].plot(D, [d * (alpha - beta * d) for d in D], "--", color=colour, linewidth=1.2)
    axes[0, 0].axvline(D[FITTED[-1]], color="#888888", linewidth=0.8)
    panel(axes[0, 0], "GOLD: gain over n = 1 (dashed: fit to n ≤ 64)", "d = √(log n − (n−1)/n)")
    panel(axes[0, 1], "reward: gain over n = 1, in SDs", "d = √(log n − (n−1)/n)")
    axes[0, 1].legend(fontsize=8, frameon=False)


PICTURES = [Picture(
    "The picks of two reward models",
    "Left of the grey line (n = 64) the parabola is fitted, right of it it predicts. Thin lines "
    "are seeds, the band reaches from the lowest to the highest. Labels are honest in both.",
    draw)]
TRIED = [
    ("temperature 1.25, to make answers more various (seeds 0-3)",
     "1,600 of 4,096 answers differ, not 600. Fit: R² 0.94 up to n = 64; at n = 4,096 it predicts "
     "−1.6 and −2.7 (6,000 and 1,500 labels), and gold is at −0.2 and −0.7"),
    ("temperatures 1.4 and 1.5 (seed 0, 16 prompts)",
     "gold falls faster than the parabola at n = 256, then levels off as well: R² −1 and −6"),
    ("one pass over the labels (seed 0)",
     "gold is 0.66 up at n = 8, down to −0.6 at n = 512, then level: R² far below 0"),
    ("raters who like length and sales (seed 0)",
     "gold falls from n = 2 on, nearly on a straight line in d: R² 0.92, but α < 0, and no peak"),
    ("the same tastes at half the strength (seed 0)",
     "a peak of +0.09 at n = 2; predicted −3.5 at n = 4,096, found −2.3: R² −26"),
    ("a reference that learned from 2,000 demonstrations in two passes, for a wider pool (seed 0, "
     "10 prompts)",
     "3,200 of 4,096 answers differ; 7 % and 1 % of the reward's rise come after n = 64; held-out "
     "R² −8 and 0.5"),
    ("from 500 demonstrations (seed 0, 10 prompts, one pass over the labels)",
     "3,960 of 4,096 answers differ; 1 % of the rise comes after n = 64; gold is level there at "
     "+0.99 and +0.9, and never falls"),
    ("2,000 demonstrations, one pass over the labels (seeds 0, 2, 10 prompts)",
     "6,000 labels: held-out R² 0.92 on seed 0, −1.5 on seed 2; 1,500 labels: −34 and 0"),
    ("the same with raters' noise 2, or a step size of 2e-4 in four passes (seed 0)",
     "1 to 10 % of the rise come after n = 64; held-out R² from −39 to 0"),
    ("agents with every habit at 0.3 to 0.5, one pass over the demonstrations (seed 0)",
     "3,400 answers differ; gold is level from n = 16 on, at +0.9 (6,000 labels) and +0.6"),
    ("agents who err as often as in reward-ensembles, two passes over the labels (seed 0)",
     "the tallest peak, +1.1 at n = 8, then a fall that slows down: held-out R² −80 and −26; 8 % "
     "and 20 % of the reward's rise come after n = 64"),
    ("honest raters who see pairs in which better is longer (seed 0)",
     "gold falls from n = 2 on, and the reward stalls as well: 1 to 8 % after n = 64"),
    ("48,000 labels of raters with noise 0.2, three passes (seeds 0 to 3)",
     "the peak comes later, at n = 8 to 16, for the reward model is better: held-out R² 0.76, "
     "0.83, −6.4, 0.35; with 12,000 labels 0.44, −8.9, −3.5 on seeds 1 to 3"),
    ("the same labels, agents who err as often as in reward-ensembles (seed 0)",
     "the peak is +2.0 at n = 32; gold then falls slower than the parabola: held-out R² −2.1"),
    ("a reward model of 24,000 honest labels as gold, as in the paper (seeds 0, 1)",
     "R² 0.95 to 0.99 up to n = 64; then gold falls slower than the parabola or levels off, and "
     "the reward stalls as before: held-out R² below −25"),
    ("GOLD itself, a step size of 3e-4, 24,000 labels in two and in four passes (seed 0; seed 1)",
     "R² 0.98 to 1.00 up to n = 64; held-out −3.5 and −34; 0.70 in four passes on seed 1"),
]
