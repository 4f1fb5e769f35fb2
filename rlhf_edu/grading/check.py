"""`rlhf-edu check`: a student's quick public check of an exercise, with messages.

The student's file runs in the same worker as when it is graded, on the lowest rung of isolation:
it is their own code on their own machine. The tests are public, so this check promises nothing.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch

from rlhf_edu import InputError
from rlhf_edu.grading.assignment import SOLUTIONS, load_assignment
from rlhf_edu.grading.judging import (
    Exercise,
    find_problem,
    make_exercise,
    name_slips,
    not_loaded,
    slip_line,
)
from rlhf_edu.grading.sandbox import Asked, Question, Sandbox
from rlhf_edu.grading.submission import as_text, read_files

SEED = 0  # of the public inputs
TIME_LIMIT = 20.0  # seconds for the file itself, and for each call
PRINT_LIMIT = 10_000_000  # bytes a file may print before it is stopped
PRINT_SHOWN = 4_000  # characters of what it printed that are shown


def exercise_names() -> list[str]:
    """The exercises there are: one for every NAME.py with its NAME_checks.py in solutions/."""
    if not SOLUTIONS.is_dir():
        raise InputError(
            f"check needs the folder {SOLUTIONS}, which is not there: clone the repository and "
            "install it from the clone with `pip install -e .`"
        )
    names = sorted(path.stem.removesuffix("_checks") for path in SOLUTIONS.glob("*_checks.py"))
    return [name for name in names if (SOLUTIONS / f"{name}.py").exists()]


def load_exercise(name: str, seed: int = SEED) -> Exercise:
    """Read an exercise of the package; its public inputs have the seed SEED."""
    (task,) = load_assignment(SOLUTIONS, (name,))
    return make_exercise(task, torch.Generator().manual_seed(seed))


def find_files(names: Sequence[str]) -> list[tuple[str, Path]]:
    """The exercise and the student's file for each name or path; without any, all that are here."""
    known = exercise_names()
    if not names:
        found = [(name, Path("exercises", f"{name}.py")) for name in known]
        found = [(name, file) for name, file in found if file.is_file()]
        if not found:
            raise InputError(
                f"there are no exercises in {Path('exercises').absolute()}; go to the folder of "
                "the clone, or give the path of your file"
            )
        return found
    return [_find_file(name, known) for name in names]


def _find_file(given: str, known: list[str]) -> tuple[str, Path]:
    if given in known:
        file = Path("exercises", f"{given}.py")
        if not file.is_file():
            raise InputError(
                f"there is no {file} in {Path.cwd()}; go to the folder of the clone, or give the "
                "path of your file"
            )
        return given, file
    file = Path(given)
    if file.suffix == ".py" and not file.is_file():
        raise InputError(f"there is no file {given}")
    if file.suffix == ".py" and file.stem in known:
        return file.stem, file
    if file.suffix == ".py":
        allowed = ", ".join(f"{name}.py" for name in known)
        raise InputError(f"{given} is named after no exercise; name your file one of: {allowed}")
    raise InputError(f"no exercise is called {given!r}; there are: {', '.join(known)}")


def ask(exercise: Exercise, file: Path, sandbox: Sandbox) -> Asked:
    """What the student's file answers to the tests. The Python files beside it are its helpers."""
    text = as_text(file.read_bytes())
    if text is None:
        raise InputError(f"{file} is not a text file in UTF-8: save it as one")
    beside = [*file.parent.glob("*.py"), *file.parent.glob("*/*.py")]
    return sandbox.ask(Question(
        file.name, read_files(file.parent, sorted(beside)).files, [text], exercise.function,
        exercise.calls, exercise.gradient_of, TIME_LIMIT, TIME_LIMIT, chances=1,
        most_printed=PRINT_LIMIT))


def judge(exercise: Exercise, asked: Asked) -> tuple[str, list[str]]:
    """A verdict ("right", "wrong" or "not yet written") and the lines that explain it."""
    if asked.failed is not None:
        return "wrong", [not_loaded(exercise.function, asked.failed)]
    errors = [answer.get("error", {}).get("type") for answer in asked.answers]
    if set(errors) == {"NotImplementedError"}:
        return "not yet written", []
    # What comes after a call that never came back was not run.
    stops = (i + 1 for i, answer in enumerate(asked.answers) if "stopped" in answer)
    answers = asked.answers[:next(stops, None)]
    slips = name_slips(exercise, answers)
    lines, right = [], True
    for i, (title, answer) in enumerate(itertools.zip_longest(exercise.titles, answers)):
        if answer is None:
            lines.append(f"  -    {title} (not run)")
            continue
        problem = find_problem(exercise, i, answer)
        if problem is None:
            lines.append(f"ok     {title}")
            continue
        right = False
        said = [problem.shown, slip_line(problem, slips[i])]
        lines += [f"WRONG  {title}", *(f"       {words}" for words in said if words)]
    return ("right" if right else "wrong"), lines


def check_exercises(names: Sequence[str]) -> int:
    """Check the named exercises, print what was found, and return 0 if all are right, else 1."""
    verdicts = []
    files = find_files(names)
    with Sandbox("weak", []) as sandbox:
        for name, file in files:
            exercise = load_exercise(name)
            asked = ask(exercise, file, sandbox)
            verdict, lines = judge(exercise, asked)
            verdicts.append(verdict)
            print(f"{name} ({file}): {verdict}")
            for line in lines:
                print(f"  {line}")
            if asked.printed:
                print("  Your code printed:")
                for line in asked.printed[:PRINT_SHOWN].splitlines():
                    print(f"  | {line}")
                if len(asked.printed) > PRINT_SHOWN:
                    print("  | ...")
            print(flush=True)
    counts = [f"{verdicts.count(v)} {v}" for v in ("right", "wrong", "not yet written")]
    print(f"{', '.join(c for c in counts if c[0] != '0')}. These are the public tests.")
    return 0 if set(verdicts) == {"right"} else 1
