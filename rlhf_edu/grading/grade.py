"""`rlhf-edu grade`: one submission, isolated, on hidden inputs, and a report written last.

The report is made here, from what this process compared itself, after every process of the student
has ended; it goes to a temporary name and is then moved into place. Before anything runs, a first
one says that grading did not finish. No report that is found on disk is ever read.
"""

import secrets
from pathlib import Path
from typing import Any

from rlhf_edu import InputError, __version__
from rlhf_edu.grading import isolation
from rlhf_edu.grading.assignment import SOLUTIONS, Task, load_assignment
from rlhf_edu.grading.kinds import KINDS
from rlhf_edu.grading.report import gradescope, readable, terminal, write_html
from rlhf_edu.grading.sandbox import Sandbox
from rlhf_edu.grading.submission import Submission, read_submission
from rlhf_edu.lab import record

WEAK = ("neither bubblewrap nor Landlock works here, so a hostile student could read the answers "
        "or change the grade: grade on Linux (apt install bubblewrap), or say --allow-weak")


def choose_level(allow_weak: bool) -> str:
    """The highest rung of the isolation ladder; InputError if it is the last one and not wanted."""
    level = isolation.probe()
    if level == "weak" and not allow_weak:
        raise InputError(WEAK)
    return level


def new_sandbox(level: str, tasks: list[Task], slot: int = 0) -> Sandbox:
    """A sandbox in which neither the package's answers nor those of these questions can be read."""
    return Sandbox(level, [SOLUTIONS, *{task.folder for task in tasks}], slot)


def grade_submission(submission: Submission, tasks: list[Task], seed: int, sandbox: Sandbox,
                     student: str = "") -> dict[str, Any]:
    """The report of one submission, as a dictionary."""
    names, questions = [task.name for task in tasks], []
    sandbox.renew()
    for task in tasks:
        tests, notes = KINDS[task.kind](task, submission, sandbox, seed, student, names)
        questions.append({
            "name": task.name, "kind": task.kind,
            "score": round(sum(t["score"] for t in tests), 6),
            "max_score": sum(t["max_score"] for t in tests), "tests": tests, **notes})
    return dict(readable({
        "finished": True, "student": student, "seed": seed, "rlhf_edu": __version__,
        "isolation": sandbox.level, "complaints": submission.complaints,
        "score": round(sum(q["score"] for q in questions), 6),
        "max_score": sum(q["max_score"] for q in questions), "questions": questions,
    }))


def unfinished(student: str, seed: int, level: str) -> dict[str, Any]:
    """The report that stands there until the real one does."""
    return {"finished": False, "student": student, "seed": seed, "isolation": level, "score": 0,
            "max_score": 0, "complaints": ["grading did not finish"], "questions": []}


def grade_one(folder: Path, exercises: tuple[str, ...], seed: int | None, json_file: Path | None,
              gradescope_file: Path | None, html_file: Path | None, assignment: Path | None,
              student: str, allow_weak: bool) -> int:
    """Grade a submission, print it, and write the reports that were asked for."""
    if not folder.exists():
        raise InputError(f"there is no folder {folder}: give the folder (or the file) that was "
                         "handed in")
    for file in (json_file, gradescope_file, html_file):
        if file is not None and not file.parent.is_dir():
            raise InputError(f"{file}: there is no folder {str(file.parent)!r}; make it first")
    tasks = load_assignment(assignment or SOLUTIONS, exercises)
    level = choose_level(allow_weak)
    seed = secrets.randbelow(2**31) if seed is None else seed
    first = unfinished(student, seed, level)
    if json_file is not None:
        record.write_json(json_file, first)
    if gradescope_file is not None:
        record.write_json(gradescope_file, gradescope(first))
    if html_file is not None:
        write_html(html_file, first)
    with new_sandbox(level, tasks) as sandbox:
        report = grade_submission(read_submission(folder), tasks, seed, sandbox, student)
    print(terminal(report))
    if json_file is not None:
        record.write_json(json_file, report)
    if gradescope_file is not None:
        record.write_json(gradescope_file, gradescope(report))
    if html_file is not None:
        write_html(html_file, report)
    return 0
