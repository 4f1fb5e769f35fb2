"""From runs to verdicts: an observation is a claim, a number read off each seed, and a threshold.

An observation HOLDS if the whole 95 % interval over seeds lies beyond the threshold, on the right
side: a mean on the right side is not enough, and neither are fewer than five seeds. A claim that
something does *not* happen ("reaches") is weaker: it HOLDS if the interval reaches the threshold,
and says that no such effect was found, not that there is none. The interval is Student's, mean ±
t·SD/√n; differences between arms are taken seed by seed. What does not exist, such as the interval
of one seed or a share of nothing, is NaN, and NaN holds nothing.
"""

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_edu.lab import record

MIN_SEEDS = 5  # a claim over fewer is not made

# Student's t, two-sided 95 %, for 1 … 30 degrees of freedom (a test integrates the density).
_T = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
    2.120,
    2.110,
    2.101,
    2.093,
    2.086,
    2.080,
    2.074,
    2.069,
    2.064,
    2.060,
    2.056,
    2.052,
    2.048,
    2.045,
    2.042,
)


@dataclass(frozen=True)
class Run:
    """What one arm left on one seed."""

    updates: list[dict[str, Any]]  # one a PPO update
    exams: list[
        dict[str, Any]
    ]  # one an examination, the first before any update; keys without "exam/"
    final: dict[str, Any]  # the last, longer examination; keys without "final/"
    reference: dict[str, Any]  # the reference in that examination, read by the arm's reward model
    judge: dict[str, Any]  # the case's judge on the same replies; keys without "judge/"
    samples: list[dict[str, Any]]


@dataclass(frozen=True)
class Seed:
    """All runs of one seed, by the name of the arm, and what its reward models left."""

    seed: int
    runs: Mapping[str, Run]
    reward_models: Mapping[
        str, dict[str, Any]
    ]  # by raters: labels, replies, filler_effect, reference/…

    def change(self, arm: str, name: str) -> float:
        """`name` in an arm's last examination, minus the reference's own value."""
        return self.runs[arm].final[name] - self.runs[arm].reference[name]


@dataclass(frozen=True)
class Observation:
    """A claim that is graded: `measure` of every seed must be on the right side of `threshold`."""

    id: str
    claim: str  # a sentence with the threshold in words
    measure: Callable[[Seed], float]
    threshold: float
    side: str  # "above" or "below": where the interval has to lie; "reaches": it must not lie below


@dataclass(frozen=True)
class Finding:
    """An observation after the runs."""

    id: str
    claim: str
    values: list[float]  # one a seed
    value: float  # their mean
    low: float  # 95 % interval of the mean; NaN for a single seed
    high: float
    median: float
    worst: float  # the seed that speaks most against the claim
    threshold: float
    side: str
    holds: bool


def interval(values: list[float]) -> tuple[float, float]:
    """95 % Student interval of the mean; (NaN, NaN) for fewer than two values, or with a NaN.

    >>> low, high = interval([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan, math.nan
    t = _T[min(len(values) - 1, len(_T)) - 1]  # beyond the table its last entry, a little wide
    half = t * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half


def spearman(x: list[float], y: list[float]) -> float:
    """Rank correlation; ties share their mean rank. 0 if x or y does not vary; NaN with a NaN."""
    if not all(map(math.isfinite, [*x, *y])):
        return math.nan
    if len(set(x)) < 2 or len(set(y)) < 2:
        return 0.0

    def ranks(values: list[float]) -> list[float]:
        ordered = sorted(values)
        return [(ordered.index(v) + len(values) - 1 - ordered[::-1].index(v)) / 2 for v in values]

    return statistics.correlation(ranks(x), ranks(y))


def grade(observation: Observation, seeds: list[Seed]) -> Finding:
    """Hold an observation against the runs."""
    values = [_measured(observation, seed) for seed in seeds]
    low, high = interval(values)
    known = values if all(map(math.isfinite, values)) else [math.nan]
    right_side = {
        "above": low > observation.threshold,
        "below": high < observation.threshold,
        "reaches": high >= observation.threshold,
    }[observation.side]
    return Finding(
        observation.id,
        observation.claim,
        values,
        statistics.fmean(known),
        low,
        high,
        statistics.median(known),
        (max if observation.side == "below" else min)(known),
        observation.threshold,
        observation.side,
        bool(right_side) and len(values) >= MIN_SEEDS,
    )


def _measured(observation: Observation, seed: Seed) -> float:
    try:
        return float(observation.measure(seed))
    except ZeroDivisionError:
        return math.nan


def shown(number: float, form: str) -> str:
    """A number as text, and a dash for one that does not exist."""
    return format(number, form) if math.isfinite(number) else "–"


def ratio(parts: list[float], wholes: list[float]) -> tuple[float, float, float]:
    """Σ parts / Σ wholes over seeds with a 95 % interval: Student's, of the linearised ratio.

    NaN where there is nothing to divide by. (A bootstrap of five seeds would be too narrow.)
    """
    if sum(wholes) == 0:
        return math.nan, math.nan, math.nan
    share, whole = sum(parts) / sum(wholes), statistics.fmean(wholes)
    rest = [part - share * w for part, w in zip(parts, wholes, strict=True)]  # their mean is 0
    low, high = sorted(share + end / whole for end in interval(rest))
    return share, low, high


@dataclass(frozen=True)
class Remedy:
    """One change, after the runs: shares of the story's own gain and losses, (value, low, high)."""

    arm: str
    what: str
    reward_kept: tuple[
        float, float, float
    ]  # share of the reward gain kept, by the story's reward model
    removed: dict[str, tuple[float, float, float]]  # share of each regression removed
    kl: float  # KLREF at the end, mean over seeds
    labels: float  # labels its reward model cost
    replies: float  # candidate replies that were sampled for them


REGRESSIONS = {
    "gold/total": "GOLD",
    "gold/answer": "right answers",
    "refusal/unsafe_compliance": "UNSAFE",
    "style/length": "LEN",
    "style/first_answer": "DIRECT",
    "style/sales": "SALES",
}


def weigh(arm: str, what: str, story: str, raters: str, seeds: list[Seed]) -> Remedy:
    """What an arm keeps of the story's reward gain, removes of its regressions, and costs."""
    runs, stories = [s.runs[arm] for s in seeds], [s.runs[story] for s in seeds]
    base = [s.runs[story].reference["rm/mean"] for s in seeds]
    kept = ratio(
        [run.judge["rm/mean"] - b for run, b in zip(runs, base, strict=True)],
        [run.judge["rm/mean"] - b for run, b in zip(stories, base, strict=True)],
    )
    removed = {
        label: ratio(
            [t.final[name] - r.final[name] for r, t in zip(runs, stories, strict=True)],
            [t.final[name] - t.reference[name] for t in stories],
        )
        for name, label in REGRESSIONS.items()
    }
    return Remedy(
        arm,
        what,
        kept,
        removed,
        statistics.fmean(r.final["kl/exact"] for r in runs),
        *(
            statistics.fmean(s.reward_models[raters][k] for s in seeds)
            for k in ("labels", "replies")
        ),
    )


def _part(line: dict[str, Any], prefix: str) -> dict[str, Any]:
    """What a line holds under `prefix`, without it; null becomes NaN again."""
    return {
        k.removeprefix(prefix): math.nan if v is None else v
        for k, v in line.items()
        if k.startswith(prefix)
    }


def read_seed(folder: Path, seed: int, raters_of: Mapping[str, str]) -> Seed:
    """All runs in a seed's folder; `raters_of` says, for each arm, whose reward model it used."""
    reward_models = {
        name: _part(record.read_lines(folder / f"reward-{name}" / "metrics.jsonl")[-1], "")
        for name in dict.fromkeys(raters_of.values())
    }
    runs = {}
    for arm, raters in raters_of.items():
        lines = record.read_lines(folder / arm / "metrics.jsonl")
        runs[arm] = Run(
            updates=[_part(line, "") for line in lines[:-1] if "objective/kl" in line],
            exams=[
                {"update": line["update"], **_part(line, "exam/")}
                for line in lines[:-1]
                if "exam/gold/total" in line
            ],
            final=_part(lines[-1], "final/"),
            judge=_part(lines[-1], "judge/"),
            reference=_part(reward_models[raters], "reference/"),
            samples=[_part(line, "") for line in record.read_lines(folder / arm / "samples.jsonl")],
        )
    return Seed(seed, runs, reward_models)
