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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf_edu import InputError
from rlhf_edu.grading import worker

KINDS = ("implement", "quiz", "diagnose", "intervene", "explain")


@dataclass(frozen=True)
class Task:
    """One question of an assignment."""

    name: str
    kind: str
    checks: dict[str, Any]  # the names of NAME_checks.py
    folder: Path

    @property
    def seconds(self) -> float:
        """What one call, or one run, may take."""
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
    tasks = []
    for name in names or found:
        checks = worker.load(folder / f"{name}_checks.py")
        kind = checks.get("KIND", "implement")
        if kind not in KINDS:
            raise InputError(f"{name}_checks.py: KIND = {kind!r}; allowed are {', '.join(KINDS)}")
        tasks.append(Task(name, kind, checks, folder))
    return tasks
