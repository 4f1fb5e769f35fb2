"""Panels that several cases draw: a metric over the updates of some arms, dots of seeds.

Drawing is imported where it is used: the processes that train do not need it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_edu.cases.evidence import Seed


def curves(axis: Any, seeds: list[Seed], arms: Mapping[str, str], name: str, title: str) -> None:
    """A metric of the examinations over updates, a colour for each arm (its label)."""
    from rlhf_edu.lab.plots import COLOURS, curve, panel

    for (arm, label), colour in zip(arms.items(), COLOURS * 2, strict=False):
        updates = [exam["update"] for exam in seeds[0].runs[arm].exams]
        rows = [[exam[name] for exam in seed.runs[arm].exams] for seed in seeds]
        curve(axis, updates, rows, label, colour)
    panel(axis, title)


def during(axis: Any, seeds: list[Seed], arms: Mapping[str, str], name: str, title: str) -> None:
    """A metric of training over updates, a colour for each arm (its label)."""
    from rlhf_edu.lab.plots import COLOURS, curve, panel

    for (arm, label), colour in zip(arms.items(), COLOURS * 2, strict=False):
        shortest = min(len(seed.runs[arm].updates) for seed in seeds)
        updates = [u["update"] for u in seeds[0].runs[arm].updates][:shortest]
        rows = [[u[name] for u in seed.runs[arm].updates][:shortest] for seed in seeds]
        curve(axis, updates, rows, label, colour)
    panel(axis, title)


def lines(axis: Any, x: Sequence[float], rows: Mapping[str, Sequence[Sequence[float]]],
          title: str, xlabel: str, ylabel: str = "", log: bool = False) -> None:
    """For each label one line a seed over the same x, their mean and range."""
    from rlhf_edu.lab.plots import COLOURS, curve, panel

    for (label, per_seed), colour in zip(rows.items(), COLOURS * 2, strict=False):
        curve(axis, x, per_seed, label, colour)
    panel(axis, title, xlabel, ylabel)
    if log:
        axis.set_xscale("log")


def dots(axis: Any, values: Mapping[str, Sequence[float]], title: str, xlabel: str = "") -> None:
    """A row of dots for each label, one dot a seed, their mean as a bar."""
    from rlhf_edu.lab.plots import COLOURS, panel

    panel(axis, title, xlabel)
    for i, (each, colour) in enumerate(zip(values.values(), COLOURS * 4, strict=False)):
        axis.plot(each, [i] * len(each), "o", color=colour, alpha=0.6, markersize=5)
        axis.plot([sum(each) / len(each)] * 2, [i - 0.3, i + 0.3], color=colour, linewidth=2.4)
    axis.set_yticks(range(len(values)), list(values), fontsize=8)
    axis.invert_yaxis()


def final(seeds: list[Seed], arm: str, read: str | Callable[[Seed], float]) -> list[float]:
    """A number of an arm's last examination, one a seed."""
    if callable(read):
        return [read(seed) for seed in seeds]
    return [seed.runs[arm].final[read] for seed in seeds]
