"""From runs to verdicts: an observation is a claim, a number read off each seed, and a threshold.

An observation HOLDS if the whole 95 % interval over seeds lies beyond the threshold, on the right
side: a mean on the right side is not enough, and neither are fewer than five seeds. A claim that
something does *not* happen ("reaches") is weaker: it HOLDS if the interval reaches the threshold or
lies beyond it, and says that no such effect was found, not that there is none. The interval is
Student's, mean ± t·SD/√n; differences between arms are taken seed by seed. A number that only all
seeds have together, such as their spread or a curve fitted to their mean, is *pooled*: its interval
is the jackknife's (the number without each seed in turn, turned into one pseudo-value a seed), and
need not contain the number where fewer seeds are noisier. A claim about most seeds ("mostly above")
is published as "in at least 4 of 5", and is held to that. What a source leaves open ("report who
wins") is measured in the same way and reported, not graded. What does not exist, such as the
interval of one seed or a share of nothing, is NaN, and NaN holds nothing.
"""

import bisect
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
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
    probes: Mapping[str, dict[str, Any]] = field(default_factory=dict)  # what each probe found

    def change(self, arm: str, name: str) -> float:
        """`name` in an arm's last examination, minus the reference's own value."""
        return self.runs[arm].final[name] - self.runs[arm].reference[name]


SIDES = ("above", "below", "reaches", "mostly above")  # where the interval has to lie


@dataclass(frozen=True)
class Observation:
    """A claim that is graded: `measure` of every seed must be on the right side of `threshold`."""

    id: str
    claim: str  # a sentence with the threshold in words
    measure: Callable[..., float]  # of a Seed; of the list of all seeds, if pooled
    threshold: float
    side: str  # one of SIDES; "reaches": the interval must not lie below
    paper: str = ""  # the published form or figure, to stand beside ours
    pooled: bool = False  # a number of all seeds together
    graded: bool = True  # False: reported whatever it is, where a design asks "or say that not"


@dataclass(frozen=True)
class Finding:
    """An observation after the runs."""

    id: str
    claim: str
    values: list[float]  # one a seed; of a pooled number the jackknife's pseudo-values
    value: float  # their mean; of a pooled number, what all seeds together say
    low: float  # 95 % interval of the mean; NaN for a single seed
    high: float
    median: float
    worst: float  # the seed that speaks most against the claim
    threshold: float
    side: str
    holds: bool
    paper: str = ""
    graded: bool = True

    @property
    def verdict(self) -> str:
        """One of HOLDS and NOT REPRODUCED, or that the number is reported only."""
        if self.graded:
            return "HOLDS" if self.holds else "NOT REPRODUCED"
        return "reported: yes" if self.holds else "reported: no"


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


def doublings(of: float, over: float) -> float:
    """log₂(of / over): 1 is twice as much. −∞ where nothing is left, NaN where there was nothing.

    >>> doublings(8.0, 2.0)
    2.0
    """
    if over == 0:
        return math.nan
    return math.log2(of / over) if of > 0 else -math.inf


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
    o = observation
    if o.pooled:
        value, values = jackknife(partial(_measured, o), seeds)
    else:
        values = [_measured(o, seed) for seed in seeds]
        value = statistics.fmean(values)
    low, high = interval(values)
    known = values if all(map(math.isfinite, values)) else [math.nan]
    right_side = {
        "above": low > o.threshold,
        "below": high < o.threshold,
        "reaches": high >= o.threshold,
        "mostly above": sum(v > o.threshold for v in values) >= 0.8 * len(values),
    }[o.side]
    return Finding(o.id, o.claim, values, value, low, high, statistics.median(known),
                   (max if o.side == "below" else min)(known), o.threshold, o.side,
                   bool(right_side) and len(values) >= MIN_SEEDS, o.paper, o.graded)


def reproduced(findings: list[Finding]) -> bool:
    """Whether all that is graded holds."""
    return all(f.holds for f in findings if f.graded)


def jackknife(
    measure: Callable[[list[Seed]], float], seeds: list[Seed]
) -> tuple[float, list[float]]:
    """A number of all seeds, and Tukey's pseudo-values, whose mean and interval stand for it.

    n·(of all) − (n − 1)·(of all but one), for each seed that is left out in turn.
    """
    n, whole = len(seeds), measure(seeds)
    if n < 2:
        return whole, [whole]
    without = [measure(seeds[:i] + seeds[i + 1 :]) for i in range(n)]
    return whole, [n * whole - (n - 1) * part for part in without]


def _measured(observation: Observation, of: Seed | list[Seed]) -> float:
    try:
        return float(observation.measure(of))
    except (ZeroDivisionError, statistics.StatisticsError):  # a share or a mean of nothing
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


Share = tuple[float, float, float]  # value, low, high

REGRESSIONS = {  # what a reward model that is wrong makes worse; a case may name its own
    "gold/total": "GOLD",
    "gold/answer": "right answers",
    "refusal/unsafe_compliance": "UNSAFE",
    "style/length": "LEN",
    "style/first_answer": "DIRECT",
    "style/sales": "SALES",
}


@dataclass(frozen=True)
class Remedy:
    """One change, after the runs: shares of the story's own gain and losses."""

    arm: str
    what: str
    reward_kept: Share  # of the reward gain, by the story's reward model
    removed: dict[str, Share]  # of each regression
    worth: float  # the smaller of: share kept, mean share removed
    beyond_stopping: Share  # its GOLD, minus that of the story stopped at the same KLREF
    kl: float  # KLREF at the end, mean over seeds
    labels: float  # labels its reward model cost
    replies: float  # candidate replies that were sampled for them


def kept_and_removed(
    arm: str, story: str, regressions: Mapping[str, str], seeds: list[Seed]
) -> tuple[Share, dict[str, Share]]:
    """Shares of the story's reward gain that an arm keeps, and of each regression it removes."""
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
        for name, label in regressions.items()
    }
    return kept, removed


def worth(arm: str, story: str, regressions: Mapping[str, str], seeds: list[Seed]) -> float:
    """The smaller of the share kept and the mean share removed; a share counts 1 at most.

    NaN if one of them does not exist.
    """
    kept, removed = kept_and_removed(arm, story, regressions, seeds)
    both = kept[0], statistics.fmean(min(share[0], 1.0) for share in removed.values())
    return min(both) if all(map(math.isfinite, both)) else math.nan


def beyond_stopping(arm: str, story: str, seed: Seed) -> float:
    """The honest control: GOLD of an arm, minus that of the story where it passed the same KLREF.

    Between two examinations of the story GOLD is read off the straight line; an arm that went
    further than the story is held against the story's end. Both are read on the shorter
    examination, the last one of each run.
    """
    exams, fixed = seed.runs[story].exams, seed.runs[arm].exams[-1]
    gold = [exam["gold/total"] for exam in exams]
    drift = list(itertools.accumulate((exam["kl/exact"] for exam in exams), max))
    return float(fixed["gold/total"] - _interpolate(fixed["kl/exact"], drift, gold))


def _interpolate(x: float, xs: list[float], ys: list[float]) -> float:
    """The broken line through (xs, ys), xs not falling, level beyond its ends."""
    after = bisect.bisect_left(xs, x)
    if after == 0 or after == len(xs):
        return ys[min(after, len(ys) - 1)]
    x0, x1, y0, y1 = xs[after - 1], xs[after], ys[after - 1], ys[after]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def weigh(
    arm: str, what: str, story: str, raters: str | tuple[str, ...],
    regressions: Mapping[str, str], seeds: list[Seed],
) -> Remedy:
    """What an arm keeps of the story's reward gain, removes of its regressions, and costs.

    `raters`: the reward models whose labels it used, one for each set of labels.
    """
    names = (raters,) if isinstance(raters, str) else raters
    kept, removed = kept_and_removed(arm, story, regressions, seeds)
    beyond = [beyond_stopping(arm, story, seed) for seed in seeds]
    return Remedy(
        arm, what, kept, removed, worth(arm, story, regressions, seeds),
        (statistics.fmean(beyond), *interval(beyond)),
        statistics.fmean(s.runs[arm].final["kl/exact"] for s in seeds),
        *(statistics.fmean(sum(s.reward_models[name][k] for name in names) for s in seeds)
          for k in ("labels", "replies")),
    )


WINS = 0.7  # a remedy that keeps and removes this much has won


def by_worth(remedy: Remedy) -> float:
    """Sorts remedies: the best first, those whose worth is not known last."""
    return -remedy.worth if math.isfinite(remedy.worth) else math.inf


def winner_line(
    remedies: list[Remedy], story: str, regressions: Mapping[str, str], seeds: list[Seed]
) -> str:
    """Which remedy is worth most, whether that is enough, and which others it does not beat.

    The difference to each other one is pooled over seeds, with the jackknife's interval.
    """
    best, *others = sorted(remedies, key=by_worth)
    close = []
    for other in others:
        _, lead = jackknife(
            lambda some, arm=other.arm: worth(best.arm, story, regressions, some)  # type: ignore[misc]
            - worth(arm, story, regressions, some), seeds)
        if not interval(lead)[0] > 0:
            close.append(other.arm)
    verdict = "wins" if best.worth >= WINS else "is the nearest; no change wins"
    noise = f"; within noise of it: {', '.join(close)}" if close else ""
    return (f"{best.arm} {verdict} (worth {shown(best.worth, '.2f')}: the smaller of the share of "
            f"the reward gain kept and the mean share of regressions removed; {WINS} wins){noise}")


def _part(line: dict[str, Any], prefix: str) -> dict[str, Any]:
    """What a line holds under `prefix`, without it; null becomes NaN again."""
    return {k.removeprefix(prefix): _number(v) for k, v in line.items() if k.startswith(prefix)}


def _number(content: Any) -> Any:
    """The same content with NaN in place of every null."""
    if isinstance(content, dict):
        return {k: _number(v) for k, v in content.items()}
    if isinstance(content, list):
        return [_number(v) for v in content]
    return math.nan if content is None else content


def read_seed(
    folder: Path, seed: int, raters_of: Mapping[str, str | tuple[str, ...]],
    learners: Iterable[str] = (), probes: Iterable[str] = ()
) -> Seed:
    """All runs in a seed's folder; `raters_of` names, for each arm, its reward model or models."""
    first = {arm: r if isinstance(r, str) else r[0] for arm, r in raters_of.items()}
    reward_models = {
        name: _part(record.read_lines(folder / f"reward-{name}" / "metrics.jsonl")[-1], "")
        for name in dict.fromkeys((*first.values(), *learners))
    }
    runs = {}
    for arm, raters in first.items():
        lines = record.read_lines(folder / arm / "metrics.jsonl")
        runs[arm] = Run(
            updates=[_part(line, "") for line in lines[:-1] if "loss/policy_avg" in line],
            exams=[
                {"update": line["update"], **_part(line, "exam/")}
                for line in lines[:-1]
                if "exam/gold/total" in line
            ],
            final=_part(lines[-1], "final/"),
            judge=_part(lines[-1], "judge/"),
            reference=_part(reward_models[raters], "reference/") | _part(lines[-1], "reference/"),
            samples=[_part(line, "") for line in record.read_lines(folder / arm / "samples.jsonl")],
        )
    found = {
        name: _part(record.read_lines(folder / f"probe-{name}" / "metrics.jsonl")[-1], "")
        for name in probes
    }
    return Seed(seed, runs, reward_models, found)
