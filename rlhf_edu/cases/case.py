"""What a case study is: data, in a file of its own, and the few lines that are its own.

    TITLE, QUESTION   what it is called and what it asks; the file's docstring is its story
    RECIPE            what is trained for each seed
    OBSERVATIONS      what must be seen, with thresholds fixed beforehand (or TRIED says why not)
    STORY             the arm that the report follows, if the case has one
    REMEDIES          arms that change something of the story, each with what it changes
    …                 the other names of `Case` below, where a case has them

A study of a published result is the same kind of file, in cases/studies/.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from rlhf_edu.cases import CASES
from rlhf_edu.cases.evidence import REGRESSIONS, Observation, Seed
from rlhf_edu.cases.stages import Probe, Recipe


@dataclass(frozen=True)
class Picture:
    """A figure of the report: `draw(axes, seeds)` fills its panels."""

    heading: str
    caption: str
    draw: Callable[[Any, list[Seed]], None]  # axes: an array of matplotlib's, as `shape` says
    shape: tuple[int, int] = (1, 2)  # rows and columns of panels
    height: float = 3.4  # of a row, in inches


@dataclass(frozen=True)
class Case:
    """A case study as its file has it."""

    title: str
    question: str
    recipe: Recipe
    observations: Sequence[Observation]
    text: str  # the story, the file's docstring
    story: str = ""
    probes: Mapping[str, Probe] = field(default_factory=dict)  # measurements of its own, by name
    probe_seconds: float = 10.0  # what its probes take on one seed, for the progress bar
    remedies: Mapping[str, str] = field(default_factory=dict)
    regressions: Mapping[str, str] = field(default_factory=lambda: REGRESSIONS)
    pictures: Sequence[Picture] = ()
    replies: Mapping[str, str] = field(default_factory=dict)  # arms whose replies are shown: why
    tried: Sequence[tuple[str, str]] = ()  # what was tried first, and what came of it
    write: Callable[[Path, list[Seed]], None] | None = None  # further documents for the out folder


def load_case(name: str) -> Case:
    """The case study or study of this name."""
    folder = "" if name in CASES else "studies."
    module = importlib.import_module(f"rlhf_edu.cases.{folder}{name.replace('-', '_')}")
    found: dict[str, Any] = {"text": module.__doc__}
    for each in fields(Case):
        if hasattr(module, each.name.upper()):
            found[each.name] = getattr(module, each.name.upper())
        elif each.name != "text" and each.default is MISSING and each.default_factory is MISSING:
            raise AttributeError(f"{module.__name__} has no {each.name.upper()}")
    return Case(**found)
