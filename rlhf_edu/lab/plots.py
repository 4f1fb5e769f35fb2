"""Curves with seed bands: every plot of the companion shows each seed, their mean and range."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe & Ito's colours, which people with any colour vision can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


def curve(
    ax: Axes, x: Sequence[float], per_seed: Sequence[Sequence[float]], label: str, colour: str
) -> None:
    """One line a seed (thin), their mean (thick), and the range from lowest to highest."""
    y = np.array(per_seed, dtype=float)
    ax.fill_between(x, y.min(0), y.max(0), color=colour, alpha=0.15, linewidth=0)
    for row in y:
        ax.plot(x, row, color=colour, alpha=0.35, linewidth=0.7)
    ax.plot(x, y.mean(0), color=colour, linewidth=2.2, label=label)


def panel(ax: Axes, title: str, xlabel: str = "PPO update", ylabel: str = "") -> None:
    """A quiet frame: title on the left, no box, a light grid."""
    ax.set_title(title, loc="left", fontsize=10)
    ax.set_xlabel(xlabel, fontsize=9)
    ax.set_ylabel(ylabel, fontsize=9)
    ax.tick_params(labelsize=8)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.grid(color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)


def new_figure(rows: int, columns: int, height: float = 2.7) -> tuple[Figure, np.ndarray]:
    """A figure of panels (rows, columns), without touching matplotlib's global state."""
    figure = Figure(figsize=(10.5, height * rows), layout="constrained")
    return figure, np.array(figure.subplots(rows, columns, squeeze=False))
