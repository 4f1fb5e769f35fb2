"""The command `rlhf-edu`: reads what was typed, calls the part that does it, explains errors.

Exit codes: 0 done, 1 the answer is no (`run --check` not reproduced, `check` not all right),
2 bad input, 130 interrupted. Only what a person can put right becomes one line on stderr; an
error of ours keeps its traceback. torch is imported by the commands that need it, not here.
"""

import difflib
import errno
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import FlagCreatePairsOff, Positional, arg

from rlhf_edu import InputError
from rlhf_edu.cases import CASES, STUDIES

DEVICES = ("auto", "cpu", "cuda")
MAX_SEED = 2**31 - 1

# The ways in which a disk or a folder says no. A file of ours that is missing (ENOENT) is not
# among them: that is a bug, and wants its traceback.
DISK_ERRORS = {
    errno.EACCES: "choose a place you may write to, or change its permissions",
    errno.EPERM: "choose a place you may write to, or change its permissions",
    errno.EROFS: "this disk is read-only: choose another place",
    errno.ENOSPC: "the disk is full: free some space; a run goes on with --resume",
    errno.EDQUOT: "your quota is used up: free some space; a run goes on with --resume",
    errno.EFBIG: "the file is larger than this disk or your limits allow: choose another place",
    errno.ENOTDIR: "a file stands where a folder is needed: choose another path",
    errno.EISDIR: "a folder stands where a file is needed: choose another path",
    errno.ENAMETOOLONG: "the path is too long: choose a shorter one",
}


def cases() -> int:
    """List the case studies and the studies of published results, one line each."""
    for title, names in (("case studies", CASES), ("published results in miniature", STUDIES)):
        print(f"{title}, to be run with: rlhf-edu run NAME")
        for name, summary in names.items():
            print(f"  {name}: {summary}")
    return 0


def run(
    name: Annotated[Positional[str], arg(metavar="NAME")],
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    device: Annotated[str, arg(metavar="auto|cpu|cuda")] = "auto",
    out: Annotated[Path | None, arg(metavar="DIR")] = None,
    json_file: Annotated[Path | None, arg(name="json", metavar="FILE")] = None,
    check: bool = False,
    fresh: bool = False,
    resume: bool = False,
) -> int:
    """Run a case or a study: all its arms on all seeds, then each observation with its verdict.

    Args:
        name: the case study, or the study of a published result; `rlhf-edu cases` lists them
        seeds: every arm is run once with each of these
        device: auto takes cuda where there is one
        out: where the run folders and the report go; without it, runs/NAME
        json_file: also write the observations to this file
        check: exit with 1 if the case is not reproduced
        fresh: train everything again, whatever the cache holds
        resume: continue a run that was interrupted
    """
    check_run_options(name, seeds, device, json_file, fresh, resume)
    try:
        from rlhf_edu.cases.experiment import run_case

        result = run_case(name, list(seeds), device, out, json_file, fresh, resume)
    except KeyboardInterrupt:
        print(
            "rlhf-edu: interrupted; what was logged is kept; run again with --resume",
            file=sys.stderr,
        )
        return 130
    return 1 if check and not result["reproduced"] else 0


def check_run_options(
    name: str,
    seeds: Sequence[int],
    device: str,
    json_file: Path | None,
    fresh: bool,
    resume: bool,
) -> None:
    """Raise InputError for an option of `run` that cannot work, before anything is trained."""
    known = [*CASES, *STUDIES]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise InputError(
            f"no case study or study is called {name!r}; there are: {', '.join(known)}{hint}")
    if device not in DEVICES:
        raise InputError(f"--device is one of {', '.join(DEVICES)}; given: {device!r}")
    if not seeds:
        raise InputError("--seeds needs at least one whole number, for example --seeds 0 1 2")
    for seed in seeds:
        if not 0 <= seed <= MAX_SEED:
            raise InputError(f"a seed is a whole number from 0 to {MAX_SEED}; given: {seed}")
        if seeds.count(seed) > 1:
            raise InputError(
                f"seed {seed} is given {seeds.count(seed)} times; a seed counts once: drop the rest"
            )
    if fresh and resume:
        raise InputError("--fresh starts again and --resume continues: choose one of the two")
    if json_file is not None and not json_file.parent.is_dir():
        raise InputError(
            f"--json {json_file}: there is no folder {str(json_file.parent)!r}; make it first"
        )
    if json_file is not None and json_file.is_dir():
        raise InputError(f"--json {json_file} is a folder; give the name of a file")


def check(exercise: Annotated[Positional[tuple[str, ...]], arg(metavar="EXERCISE")] = ()) -> int:
    """Check your answers to the exercises with their public tests.

    Args:
        exercise: names of exercises (then the files are exercises/NAME.py of the current folder)
            or paths of .py files; without any, all of exercises/ is checked
    """
    from rlhf_edu.grading.check import check_exercises

    return check_exercises(exercise)


def grade(
    folder: Annotated[Positional[Path], arg(metavar="FOLDER")],
    exercise: tuple[str, ...] = (),
    seed: int | None = None,
    json_file: Annotated[Path | None, arg(name="json", metavar="FILE")] = None,
    gradescope: Annotated[Path | None, arg(metavar="FILE")] = None,
    html: Annotated[Path | None, arg(metavar="FILE")] = None,
    assignment: Annotated[Path | None, arg(metavar="DIR")] = None,
    student: str = "",
    allow_weak: bool = False,
) -> int:
    """Grade one submission, isolated from everything else, on inputs that nobody has seen.

    Args:
        folder: what was handed in, a folder or a file
        exercise: grade these questions; without any, all of the assignment
        seed: of the hidden inputs; without one, a new one, which the report names
        json_file: also write the report to this file
        gradescope: also write Gradescope's results.json to this file
        html: also write a page for the student
        assignment: a folder of questions; without one, the package's own
        student: a name; another name gets other inputs
        allow_weak: grade even where nothing keeps a hostile student in
    """
    from rlhf_edu.grading.grade import grade_one

    return grade_one(folder, exercise, seed, json_file, gradescope, html, assignment, student,
                     allow_weak)


def grade_class(
    folder: Annotated[Positional[Path], arg(metavar="FOLDER")],
    csv: Annotated[Path, arg(metavar="FILE")],
    jobs: int | None = None,
    seed: int | None = None,
    exercise: tuple[str, ...] = (),
    assignment: Annotated[Path | None, arg(metavar="DIR")] = None,
    canvas: Annotated[Path | None, arg(metavar="FILE")] = None,
    due: str = "",
    late_per_day: float = 0.1,
    allow_weak: bool = False,
) -> int:
    """Grade a folder of submissions; a run that was interrupted goes on where it was.

    Args:
        folder: every folder or file in it is one student's submission
        csv: the table of scores; reports and further tables go beside it
        jobs: submissions at a time; without it, one for each core
        seed: of the hidden inputs; without one, a new one, kept for a run that goes on
        exercise: grade these questions; without any, all of the assignment
        assignment: a folder of questions; without one, the package's own
        canvas: a gradebook exported by Canvas, to be filled in
        due: when it was due, such as 2026-11-30T23:59; later files lose points
        late_per_day: share of the score that each day begun costs
        allow_weak: grade even where nothing keeps a hostile student in
    """
    from rlhf_edu.grading.classroom import grade_class as grade_all

    return grade_all(folder, csv, jobs, seed, exercise, assignment, canvas, due, late_per_day,
                     allow_weak)


def export(
    kind: Annotated[Positional[str], arg(metavar="handout|gradescope|nbgrader")],
    target: Annotated[Positional[Path], arg(metavar="FILE|DIR")],
    assignment: Annotated[Path | None, arg(metavar="DIR")] = None,
    exercise: tuple[str, ...] = (),
    seed: int = 0,
    student: str = "",
    allow_weak: bool = False,
) -> int:
    """Export an assignment: for a student, as an autograder zip for Gradescope, for nbgrader.

    Args:
        kind: handout, gradescope or nbgrader
        target: the zip to write, or the folder that gets the files or source/NAME/NAME.ipynb
        assignment: a folder of questions; without one, the package's own
        exercise: these questions; without any, all of the assignment
        seed: of the hidden inputs, and of the numbers in a handout
        student: whose handout; grade-class takes the name of a submission's folder
        allow_weak: Gradescope's grader may run where nothing keeps a hostile student in
    """
    if kind not in ("handout", "gradescope", "nbgrader"):
        raise InputError(f"export {kind!r}: allowed are handout, gradescope, nbgrader")
    from rlhf_edu.grading.export import export as write

    return write(kind, target, assignment, exercise, seed, student, allow_weak)


def quiz(chapter: Annotated[Positional[str], arg(metavar="CHAPTER")] = "") -> int:
    """Ask the questions of a chapter's quiz, and explain every answer.

    Args:
        chapter: such as 8; without one, all quizzes
    """
    from rlhf_edu.grading.quiz import ask

    return ask(chapter)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line (by default the one that was typed) and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an old console that has no "β" shows "?"
    try:
        try:
            code: int = tyro.extras.subcommand_cli_from_dict(
                {"cases": cases, "run": run, "check": check, "grade": grade,
                 "grade-class": grade_class, "quiz": quiz, "export": export},
                prog="rlhf-edu",
                description="Run case studies, check exercises, grade them, ask quizzes.",
                args=args,
                config=(FlagCreatePairsOff,),
            )
            return code
        finally:
            sys.stdout.flush()  # a closed pipe (`| head`) should show here, not at exit
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except InputError as error:
        message = str(error)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        where = f": {error.filename}" if error.filename else ""
        message = f"{error.strerror}{where}; {DISK_ERRORS[error.errno]}"
    except KeyboardInterrupt:
        print("rlhf-edu: interrupted", file=sys.stderr)
        return 130
    print(f"rlhf-edu: {message}", file=sys.stderr)
    return 2
