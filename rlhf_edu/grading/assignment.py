"""An assignment is a folder of data: for each question NAME_checks.py, and for code also NAME.py.

NAME.py is the solution, with the marks ### BEGIN SOLUTION and ### END SOLUTION. NAME_checks.py says
what is asked. Its names, of which a kind needs the first line and may have the others:

    implement   FUNCTION  GRADIENT_OF  TOLERANCE  tests(generator)  WRONG
    quiz        questions(generator)
    diagnose    log(generator)  QUESTIONS
    intervene   ALLOWED  run(config, seed)  score(results)
    explain     CLAIMS  facts(generator)  RUBRIC  MODEL_ANSWER
    any         KIND ("implement" if missing)  POINTS  MINUTES  DIFFICULTY  ITEMS  HINTS  SECONDS

`tests` gives (title, points, arguments) or (title, points, arguments, "public"): a public test
shows its numbers, a hidden one a category and a hint. All inputs are drawn from the generator, so
a seed and a student's name give a variant. An instructor's own assignment is such a folder anywhere
on disk; nothing in the grader knows a question by name.
"""

import hashlib
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf_edu import InputError

SOLUTIONS = Path(__file__).resolve().parents[2] / "solutions"  # the package's own assignment

NEEDED = {  # the names that a question of each kind must have in its NAME_checks.py
    "implement": ("FUNCTION", "tests"),
    "quiz": ("questions",),
    "diagnose": ("log", "CAUSES"),
    "intervene": ("ALLOWED", "run", "score"),
    "explain": ("CLAIMS", "facts"),
}


@dataclass(frozen=True)
class Task:
    """One question of an assignment."""

    name: str
    kind: str
    checks: dict[str, Any]  # the names of NAME_checks.py
    folder: Path

    @property
    def seconds(self) -> float:
        """What one call may compute, or how long one run may take."""
        return float(self.checks.get("SECONDS", 10.0 if self.kind == "implement" else 300.0))

    def generator(self, seed: int, student: str) -> torch.Generator:
        """The random numbers of this question, this seed and this student."""
        text = f"{seed}/{self.name}/{student}".encode()
        number = int.from_bytes(hashlib.sha256(text).digest()[:7], "big")
        return torch.Generator().manual_seed(number)


def load_assignment(folder: Path, names: tuple[str, ...] = ()) -> list[Task]:
    """The questions of an assignment, all or the named ones; InputError if it is none."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: an assignment is a folder with a "
                         "NAME_checks.py for each question")
    found = sorted(path.stem.removesuffix("_checks") for path in folder.glob("*_checks.py"))
    if not found:
        raise InputError(f"{folder} holds no assignment: expected a NAME_checks.py for each "
                         "question")
    for name in names:
        if name not in found:
            raise InputError(f"no question is called {name!r}; there are: {', '.join(found)}")
    return [load_task(folder, name) for name in names or found]


def load_task(folder: Path, name: str) -> Task:
    """One question; InputError if something is missing."""
    checks = load(folder / f"{name}_checks.py")
    kind = checks.get("KIND", "implement")
    if kind not in NEEDED:
        raise InputError(f"{name}_checks.py: KIND = {kind!r}; allowed are {', '.join(NEEDED)}")
    missing = [word for word in NEEDED[kind] if word not in checks]
    if missing:
        raise InputError(f"{name}_checks.py has no {', '.join(missing)}: a question of kind "
                         f"{kind!r} needs {', '.join(NEEDED[kind])}")
    if kind == "implement" and not (folder / f"{name}.py").is_file():
        raise InputError(f"{folder} holds {name}_checks.py but no {name}.py: the solution goes "
                         "there")
    return Task(name, kind, checks, folder)


def load(file: Path) -> dict[str, Any]:
    """Run a file of an assignment and return its names; InputError if it cannot be run."""
    module = types.ModuleType(f"assignment_{file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # dataclasses look their module up here
    try:
        exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    except Exception as error:
        raise InputError(f"{file} cannot be run: {type(error).__name__}: {error}") from error
    return module.__dict__
