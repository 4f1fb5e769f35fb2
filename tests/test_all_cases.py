"""Every case study and every study that is registered: its file is a `Case` that can be run.

What a case claims is for its runs to show; here is what holds for all of them before any run.
"""

import importlib
import inspect
import math
import re
import sys
import types
from pathlib import Path

import pytest

import rlhf_edu
from rlhf_edu.cases import CASES, STUDIES
from rlhf_edu.cases.case import Case, Picture, load_case
from rlhf_edu.cases.evidence import REGRESSIONS, SIDES, Observation
from rlhf_edu.cases.experiment import jobs
from rlhf_edu.cases.report import paragraphs
from rlhf_edu.cases.stages import Arm, Recipe
from rlhf_edu.lab.dpo import DPOConfig
from rlhf_edu.lab.reward_model import COMBINE

FOLDER = Path(rlhf_edu.__file__).parent / "cases"
EVERY = [*CASES, *STUDIES]
every = pytest.mark.parametrize("name", EVERY)
KEBAB = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
A_FOLDER = re.compile(r"[a-z0-9][a-z0-9.+_-]*")  # on every system
# What stages are called in a seed's folder; an arm of such a name would be mistaken for one.
OF_STAGES = ("reference", "labels-", "reward-", "probe-")


def module_of(name: str) -> types.ModuleType:
    folder = "" if name in CASES else "studies."
    return importlib.import_module(f"rlhf_edu.cases.{folder}{name.replace('-', '_')}")


def test_names_are_unique_kebab_case_and_no_file_is_forgotten() -> None:
    assert not CASES.keys() & STUDIES.keys()
    assert all(KEBAB.fullmatch(name) for name in EVERY)
    machinery = {"__init__", "case", "evidence", "experiment", "metrics", "pictures", "report",
                 "reproduce", "stages", "world"}  # fmt: skip
    for folder, names in ((FOLDER, CASES), (FOLDER / "studies", STUDIES)):
        files = {path.stem for path in folder.glob("*.py")} - machinery
        assert files <= {name.replace("-", "_") for name in names}


def test_a_case_is_loaded_by_the_names_in_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("rlhf_edu.cases.tuning", "Title.\n\nStory.")
    monkeypatch.setitem(sys.modules, "rlhf_edu.cases.tuning", module)
    for name in ("TITLE", "QUESTION", "RECIPE", "OBSERVATIONS"):
        with pytest.raises(AttributeError, match=f"rlhf_edu.cases.tuning has no {name}"):
            load_case("tuning")
        setattr(module, name, [name])
    case = load_case("tuning")
    assert case == Case(["TITLE"], ["QUESTION"], ["RECIPE"], ["OBSERVATIONS"], module.__doc__)
    assert case.regressions == REGRESSIONS and case.story == "" and case.write is None
    others = {"STORY": "s", "PROBES": {"p": 1}, "PROBE_SECONDS": 2, "REMEDIES": {"r": ""},
              "REGRESSIONS": {}, "PICTURES": [3], "REPLIES": {"a": ""}, "TRIED": [("x", "y")],
              "WRITE": print}  # fmt: skip
    for name, value in others.items():
        setattr(module, name, value)
    case = load_case("tuning")
    assert all(getattr(case, name.lower()) == value for name, value in others.items())


@every
def test_a_case_is_complete(name: str) -> None:
    case = load_case(name)
    assert isinstance(case, Case) and isinstance(case.recipe, Recipe)
    assert case.title and case.question
    story = paragraphs(case.text)
    assert len(story) >= 2, "the docstring's second paragraph opens the report"
    assert case.probe_seconds > 0 and jobs(case)
    assert case.recipe.sft is not None or case.probes, "it trains nothing and measures nothing"
    assert all(isinstance(picture, Picture) and picture.heading and picture.caption
               and min(picture.shape) >= 1 for picture in case.pictures)  # fmt: skip
    assert all(what and outcome for what, outcome in case.tried)


@every
def test_its_claims_can_be_graded(name: str) -> None:
    observations = load_case(name).observations
    assert observations and all(isinstance(o, Observation) for o in observations)
    ids = [o.id for o in observations]
    assert len(set(ids)) == len(ids) and all(KEBAB.fullmatch(i) for i in ids)
    for o in observations:
        assert o.claim and "\n" not in o.claim
        assert type(o.threshold) in (int, float) and math.isfinite(o.threshold)
        assert o.side in SIDES
        assert callable(o.measure)
        assert not (o.pooled and o.side == "mostly above"), "pseudo-values are not seeds"
    if name in STUDIES:
        assert any(o.paper for o in observations), "the published form or figure beside ours"


@every
def test_what_is_named_is_there(name: str) -> None:
    """Arms, reward models and labels that are named exist; a name would fail hours into a run."""
    case = load_case(name)
    recipe, learners = case.recipe, case.recipe.learners()
    assert recipe.sft is not None or not (recipe.raters or recipe.reward_models or recipe.arms)
    for name_of_both in recipe.raters.keys() & recipe.reward_models.keys():
        assert learners[name_of_both].labels == name_of_both, "it learns from labels of this name"
    assert all(learner.labels in recipe.raters for learner in learners.values())
    assert not recipe.judge or recipe.judge in learners
    for arm, settings in recipe.arms.items():
        assert isinstance(settings, Arm) and settings.title
        assert A_FOLDER.fullmatch(arm) and not arm.startswith(OF_STAGES)
        names = [settings.raters] if isinstance(settings.raters, str) else settings.raters
        assert names and set(names) <= learners.keys(), arm
        assert settings.combine in COMBINE
        if isinstance(settings.rlhf, DPOConfig):
            assert names[0] in recipe.raters, "DPO learns from labels"
    for raters in recipe.raters.values():
        assert raters.n_pairs <= recipe.label_budget
    for named in (case.remedies, case.replies):
        assert named.keys() <= recipe.arms.keys()
        assert all(named.values())
    assert not case.story or case.story in recipe.arms
    assert not case.remedies or case.story, "a remedy is held against a story"
    assert case.story not in case.remedies
    assert all("/" in metric and label for metric, label in case.regressions.items())


@every
def test_its_probes_are_functions_of_its_own_file(name: str) -> None:
    """A probe's place in the cache is the digest of the file that it stands in."""
    case, module = load_case(name), module_of(name)
    for probe_name, probe in case.probes.items():
        assert A_FOLDER.fullmatch(probe_name)
        assert inspect.isfunction(probe) and probe.__name__ != "<lambda>"
        assert probe.__module__ == module.__name__
        assert getattr(module, probe.__name__) is probe
        assert Path(inspect.getsourcefile(inspect.unwrap(probe)) or "") == Path(module.__file__)
        assert len(inspect.signature(probe).parameters) == 1
