"""`rlhf-edu export`: the same questions for students, for Gradescope and for nbgrader.

    rlhf-edu export handout DIR [--assignment DIR]            what a student is given (handout.py)
    rlhf-edu export gradescope FILE.zip [--assignment DIR]    setup.sh, run_autograder, the grader
    rlhf-edu export nbgrader DIR [--assignment DIR]           a source notebook for each question

The Gradescope image is built once, with network; grading itself needs none. In a notebook's hidden
tests stand inputs and right numbers, drawn from a seed: nbgrader runs a student's code in the
grader's own process, so what this package's `grade` promises, nbgrader does not.
"""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from rlhf_edu import InputError
from rlhf_edu.grading.assignment import SOLUTIONS, Task, load_assignment
from rlhf_edu.grading.handout import write_handout
from rlhf_edu.grading.judging import Exercise, make_exercise
from rlhf_edu.lab import record

PACKAGE = Path(__file__).resolve().parents[1]

SETUP = """#!/usr/bin/env bash
# Runs once, when the image is built: Python, torch, numpy and bubblewrap.
set -euo pipefail
apt-get update && apt-get install -y bubblewrap python3 python3-venv || true
python3 -m venv /autograder/venv
/autograder/venv/bin/pip install "torch>=2.6,<2.14" "numpy>=1.26" "safetensors>=0.4" tqdm \\
    tyro platformdirs matplotlib
"""

RUN = """#!/usr/bin/env bash
# Runs for each submission, without network.
set -uo pipefail
cd /autograder/source
mkdir -p /autograder/results
python=/autograder/venv/bin/python
[ -x "$python" ] || python=python3
PYTHONPATH=/autograder/source "$python" -m rlhf_edu grade /autograder/submission \\
    --assignment /autograder/source/assignment --seed {seed} \\
    --gradescope /autograder/results/results.json {weak}
"""


def gradescope_zip(target: Path, tasks: list[Task], seed: int, allow_weak: bool) -> None:
    """An autograder zip: the grader, the assignment, and the two scripts that Gradescope calls."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name: str, content: str | bytes, mode: int = 0o644) -> None:
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))  # the same zip from the same files
            entry.external_attr = mode << 16
            archive.writestr(entry, content)

        add("setup.sh", SETUP, 0o755)
        add("run_autograder",
            RUN.format(seed=seed, weak="--allow-weak" if allow_weak else ""), 0o755)
        for path in sorted(PACKAGE.rglob("*.py")) + sorted(PACKAGE.glob("*.json")):
            add(f"rlhf_edu/{path.relative_to(PACKAGE).as_posix()}", path.read_bytes())
        for task in tasks:
            for path in sorted(task.folder.glob(f"{task.name}*.py")):
                if path.stem in (task.name, f"{task.name}_checks"):
                    add(f"assignment/{path.name}", path.read_bytes())
    target.write_bytes(out.getvalue())


# ── nbgrader ────────────────────────────────────────────────────────────────────────────────────
def cell(kind: str, source: str, name: str, **flags: Any) -> dict[str, Any]:
    """A notebook cell with nbgrader's marks."""
    marks = {"grade": False, "solution": False, "locked": True, "task": False,
             "schema_version": 3, "grade_id": name} | flags
    made: dict[str, Any] = {"cell_type": kind, "id": re.sub(r"\W", "-", name)[:60],
                            "metadata": {"nbgrader": marks}, "source": source}
    return made | ({"outputs": [], "execution_count": None} if kind == "code" else {})


def source_notebook(task: Task, seed: int) -> dict[str, Any]:
    """A question as a source notebook: task, solution between its marks, and tests."""
    exercise = make_exercise(task, task.generator(seed, ""))
    solution = (task.folder / f"{task.name}.py").read_text(encoding="utf-8")
    cells = [
        cell("markdown", f"# {task.name}\n\nWrite the function `{exercise.function}`.",
             f"{task.name}-task"),
        cell("code", solution, f"{task.name}-solution", solution=True, locked=False),
    ]
    for i, title in enumerate(exercise.titles):
        test = test_source(exercise, i)
        if not exercise.public[i]:
            test = f"# {title}\n### BEGIN HIDDEN TESTS\n{test}\n### END HIDDEN TESTS"
        cells.append(cell("code", test, f"{task.name}-test-{i + 1}", grade=True,
                          points=exercise.points[i]))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": cells}


def literal(value: Any) -> str:
    """A value as Python that makes it again, digit for digit."""
    if isinstance(value, torch.Tensor):
        return f"torch.tensor({value.tolist()!r}, dtype={value.dtype})"
    if type(value).__module__ == "numpy":
        return f"np.array({value.tolist()!r}, dtype={str(value.dtype)!r})"
    if isinstance(value, tuple | list):
        inside = "".join(f"{literal(each)}, " for each in value)
        return f"({inside})" if isinstance(value, tuple) else f"[{inside}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {literal(each)}' for key, each in value.items())}}}"
    return repr(value)


TEST = """import numpy as np
import torch

inf, nan = float("inf"), float("nan")


def _same(got, want):
    if isinstance(want, (tuple, list)):
        return len(got) == len(want) and all(map(_same, got, want))
    if isinstance(want, dict):
        return got.keys() == want.keys() and all(_same(got[key], want[key]) for key in want)
    if want is None or isinstance(want, str):
        return got == want
    got, want = torch.as_tensor(got).detach(), torch.as_tensor(want)
    return got.shape == want.shape and torch.allclose(
        got.double(), want.double(), rtol={tolerance}, atol={tolerance}, equal_nan=True)


{inputs}
_got = {function}({given})
assert _same(_got, {want}), "another value"
"""


def test_source(exercise: Exercise, i: int) -> str:
    """A test cell: the call, and its right value and gradients as numbers."""
    right, inputs = exercise.expected[i], []
    for name, value in exercise.calls[i].items():
        inputs.append(f"_{name} = {literal(value)}")
        if name in exercise.gradient_of:
            inputs.append(f"_{name}.requires_grad_()")
    text = TEST.format(
        tolerance=exercise.tolerance, inputs="\n".join(inputs), function=exercise.function,
        given=", ".join(f"{name}=_{name}" for name in exercise.calls[i]),
        want=literal(right["value"]))
    if right["gradients"] is not None:
        text += "_got.backward()\n"
        for name, gradient in right["gradients"].items():
            text += (f"_grad = torch.zeros_like(_{name}) if _{name}.grad is None else _{name}.grad"
                     f"\nassert _same(_grad, {literal(gradient)}), 'another gradient of {name}'\n")
    return text.rstrip("\n")


def export(kind: str, target: Path, assignment: Path | None, exercises: tuple[str, ...], seed: int,
           student: str, allow_weak: bool) -> int:
    """Write the export; returns 0."""
    tasks = load_assignment(assignment or SOLUTIONS, exercises)
    if not target.parent.is_dir():
        raise InputError(f"{target}: there is no folder {str(target.parent)!r}; make it first")
    if kind == "gradescope":
        gradescope_zip(target, tasks, seed, allow_weak)
        print(f"wrote {target}: upload it as the autograder")
        return 0
    if kind == "handout":
        write_handout(target, tasks, seed, student)
        return 0
    for task in tasks:
        if task.kind != "implement":
            print(f"{task.name} is a {task.kind} question, which nbgrader has no place for")
            continue
        folder = target / "source" / task.name
        folder.mkdir(parents=True, exist_ok=True)
        notebook = json.dumps(source_notebook(task, seed), indent=1, ensure_ascii=False)
        record.write_text(folder / f"{task.name}.ipynb", notebook + "\n")
        print(f"wrote {folder / task.name}.ipynb")
    return 0
