"""`rlhf-edu check`: a student's quick public check of an exercise, with messages.

An exercise is two files in solutions/: NAME.py, the solution from which the stub is generated,
and NAME_checks.py, which says what is asked of an answer (function, tests, tolerance, slips).
The student's file runs in a worker process with a time limit; what it answers is judged here.
Still, the tests are public and the worker is no sandbox: this check promises nothing.
"""

import inspect
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf_edu import InputError
from rlhf_edu.grading import worker

SOLUTIONS = Path(__file__).resolve().parents[2] / "solutions"
SEED = 0  # of the public inputs
TIME_LIMIT = 60.0  # seconds for one file, the start of Python and torch included
PRINT_LIMIT = 10_000_000  # bytes a file may print before it is stopped
PRINT_SHOWN = 4_000  # characters of what it printed that are shown

Answer = dict[str, Any]  # what worker.answer gives


@dataclass(frozen=True)
class Exercise:
    """What is asked, the right answers, and the answers of the known slips."""

    function: str  # the name of the function that a student writes
    gradient_of: list[str]  # the arguments with respect to which the gradient is asked for
    tolerance: float  # absolute and relative
    titles: list[str]  # of the tests
    points: list[int]
    public: list[bool]  # whose numbers a graded student may see
    calls: list[dict[str, Any]]  # the arguments of each test
    expected: list[Answer]  # to each test
    slips: dict[str, list[Answer]]  # for each named wrong variant, its answer to each test


@dataclass(frozen=True)
class Run:
    """What came back from a worker."""

    messages: list[dict[str, Any]]  # as worker.py describes them, in order
    printed: str  # the beginning of what the student's code printed
    stopped: str | None  # why it ended before its time, or None


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
    checks = worker.load(SOLUTIONS / f"{name}_checks.py")
    return make_exercise(SOLUTIONS, name, checks, torch.Generator().manual_seed(seed))


def make_exercise(folder: Path, name: str, checks: dict[str, Any],
                  generator: torch.Generator) -> Exercise:
    """Draw the inputs of an exercise, and compute the right and the known wrong answers."""
    solution = worker.load(folder / f"{name}.py")[checks["FUNCTION"]]
    usual: dict[str, Any] = {"GRADIENT_OF": [], "TOLERANCE": 1e-5, "WRONG": {}}
    checks = usual | checks
    tests = checks["tests"](generator)
    calls = [test[2] for test in tests]

    def answers(function: Callable[..., Any]) -> list[Answer]:
        return [worker.answer(function, call, checks["GRADIENT_OF"]) for call in calls]

    def slip(variant: Callable[..., Any]) -> Callable[..., Any]:
        """A wrong variant takes all arguments in order: the defaults are filled in here."""

        def call(**arguments: Any) -> Any:
            bound = inspect.signature(solution).bind(**arguments)
            bound.apply_defaults()
            return variant(*bound.arguments.values())

        return call

    return Exercise(
        function=checks["FUNCTION"],
        gradient_of=checks["GRADIENT_OF"],
        tolerance=checks["TOLERANCE"],
        titles=[test[0] for test in tests],
        points=[test[1] for test in tests],
        public=["public" in test[3:] for test in tests],
        calls=calls,
        expected=answers(solution),
        slips={words: answers(slip(variant)) for words, variant in checks["WRONG"].items()},
    )


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


def run_worker(exercise: Exercise, file: Path) -> Run:
    """Run the student's file in a process of its own, and stop it if it does not end."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        write_job(exercise, file, folder)
        with (folder / "printed.txt").open("wb") as printed:
            # Output goes to a file and not to a pipe: a process that the student's code starts
            # could hold a pipe open for ever.
            process = subprocess.Popen(
                [sys.executable, "-X", "utf8", "-u", worker.__file__, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
            )
            try:
                stopped = _wait(process, folder / "printed.txt")
            finally:
                process.kill()
                process.wait()
        with (folder / "printed.txt").open(encoding="utf-8", errors="replace") as text:
            beginning = text.read(PRINT_SHOWN + 1)
        messages = read_messages(folder)
    if stopped is None and not _complete(messages, exercise):
        code = process.returncode
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        stopped = f"ended its Python process {how}"
    return Run(messages, beginning, stopped)


def write_job(exercise: Exercise, file: Path, folder: Path) -> None:
    """Write the calls that the worker is to make, without their answers, to folder/job.json."""

    def pack(value: Any) -> Any:
        return worker.pack(value) if isinstance(value, torch.Tensor) else value

    job = {
        "file": str(file.absolute()),
        "function": exercise.function,
        "gradient_of": exercise.gradient_of,
        "calls": [{name: pack(v) for name, v in call.items()} for call in exercise.calls],
    }
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")


def read_messages(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of folder/answers.jsonl; a last one without its end was cut off."""
    file = folder / "answers.jsonl"
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def _wait(process: subprocess.Popen[bytes], printed: Path) -> str | None:
    """Wait for the process to end; why it must be stopped, or None."""
    deadline = time.monotonic() + TIME_LIMIT
    while process.poll() is None:
        if time.monotonic() > deadline:
            return f"was still running after {TIME_LIMIT:g} seconds: is there a loop without end?"
        if printed.stat().st_size > PRINT_LIMIT:
            return f"printed more than {PRINT_LIMIT // 1_000_000} MB: is there a loop without end?"
        time.sleep(0.02)
    return None


def _complete(messages: list[dict[str, Any]], exercise: Exercise) -> bool:
    """Whether the worker said all it had to say."""
    if not messages:
        return False
    return "loaded" not in messages[0] or len(messages) == 1 + len(exercise.calls)


def find_problem(exercise: Exercise, test: int, answer: Answer) -> str | None:
    """The first thing that is wrong with an answer, in words; None if it is right."""
    if "error" in answer:
        return f"your code raised {describe_error(answer['error'])}"
    value, expected = answer["value"], exercise.expected[test]["value"]
    if bool(value.get("numpy")) != bool(expected.get("numpy")) and "type" not in value:
        kinds = {True: "a numpy array", False: "a torch.Tensor"}
        got, want = (kinds[bool(x.get("numpy"))] for x in (value, expected))
        return f"your code returned {got}, expected {want}"
    if "type" in value:
        advice = {
            "NoneType": ": is a `return` missing?",
            "float": ": no gradient can flow through a Python number",
        }.get(value["type"], "")
        want = "a numpy array" if expected.get("numpy") else "a torch.Tensor"
        return f"your code returned {value['type']}, expected {want}{advice}"
    for what in ("shape", "dtype"):
        got, want = value[what], expected[what]
        if got != want:
            return f"your code returned {what} {got}, expected {want}"
    wrong = _difference("value", value, expected, exercise.tolerance)
    if wrong is None and exercise.gradient_of and answer["gradients"] is None:
        return (
            "the value is right but carries no gradient, so nothing can be trained with it: "
            "look for .item(), .detach(), .data, numpy or torch.no_grad()"
        )
    for name in exercise.gradient_of:
        if wrong is None:
            got, want = (a["gradients"][name] for a in (answer, exercise.expected[test]))
            what = f"gradient with respect to {name}"
            wrong = _difference(what, got, want, exercise.tolerance)
    return wrong


def describe_error(error: dict[str, Any]) -> str:
    """Type, message and place of what a student's code raised."""
    message = f": {error['message'][:500]}" if error["message"] else ""
    line = f" (line {error['line']} of your file" if error["line"] else ""
    text = f": {error['text']}" if line and error["text"] else ""
    return f"{error['type']}{message}{line}{text}{')' if line else ''}"


def _difference(what: str, got: Answer, want: Answer, tolerance: float) -> str | None:
    """How two packed tensors of one shape differ, in words; None if they do not."""
    a, b = worker.unpack(got), worker.unpack(want)
    wrong = ~torch.isclose(a, b, rtol=tolerance, atol=tolerance)
    if not wrong.any():
        return None
    first = wrong.nonzero()[0].tolist()
    numbers = f"got {a[tuple(first)].item():.7g}, expected {b[tuple(first)].item():.7g}"
    if a.dim() == 0:
        return f"{what}: {numbers}"
    count = f"{int(wrong.sum())} of {wrong.numel()} entries are wrong"
    return f"{what}: {count}; first at {first}: {numbers}"


def name_slips(exercise: Exercise, answers: Sequence[Answer]) -> list[str | None]:
    """For each answer the wrong variant that gives the same numbers, in words, or None.

    Where several do, the one that agrees with most of the answers is named; it may be right on
    some tests, as the student's code is.
    """
    tests = range(len(answers))
    explained = {
        words: {i for i in tests if _is_slip(answers[i], wrong[i], exercise.expected[i], exercise)}
        for words, wrong in exercise.slips.items()
    }
    by_size = sorted(explained, key=lambda words: -len(explained[words]))  # ties: first named first
    return [next((words for words in by_size if i in explained[words]), None) for i in tests]


def _is_slip(answer: Answer, wrong: Answer, right: Answer, exercise: Exercise) -> bool:
    """Whether an answer is that of a wrong variant.

    The values decide; where the variant's value is the right one, the gradients must agree too.
    """
    if "error" in answer or not _close(answer["value"], wrong["value"], exercise):
        return False
    if not _close(wrong["value"], right["value"], exercise):
        return True
    if answer["gradients"] is None:
        return False
    return all(
        _close(answer["gradients"][name], wrong["gradients"][name], exercise)
        for name in exercise.gradient_of
    )


def _close(a: Answer, b: Answer, exercise: Exercise) -> bool:
    """Whether two packed values are tensors of one shape with the same numbers; nan equals none."""
    if any(a.get(key) != b.get(key) for key in ("shape", "dtype")) or a.get("numbers") is None:
        return False
    tolerance = exercise.tolerance
    x, y = worker.unpack(a), worker.unpack(b)
    return torch.allclose(x, y, rtol=tolerance, atol=tolerance)


def judge(exercise: Exercise, run: Run) -> tuple[str, list[str]]:
    """A verdict ("right", "wrong" or "not yet written") and the lines that explain it."""
    first = run.messages[0] if run.messages else {}
    if "error" in first:
        return "wrong", [f"your file could not be loaded: {describe_error(first['error'])}"]
    if "missing" in first:
        return "wrong", [f"your file has no function called {exercise.function}"]
    if not run.messages:
        return "wrong", [f"while your file was loaded, your code {run.stopped}"]
    answers = run.messages[1:]
    if answers and all(a.get("error", {}).get("type") == "NotImplementedError" for a in answers):
        return "not yet written", []
    lines = []
    slips = name_slips(exercise, answers)
    problems = [find_problem(exercise, i, answer) for i, answer in enumerate(answers)]
    for title, problem, slip in zip(exercise.titles, problems, slips, strict=False):
        lines.append(f"{'ok   ' if problem is None else 'WRONG'}  {title}")
        if problem is not None:
            lines.append(f"       {problem}")
        if problem is not None and slip is not None:
            only_gradient = problem.startswith("gradient")
            what = "gradients are those of" if only_gradient else "values equal"
            lines.append(f"       Your {what} {slip}.")
    if run.stopped is not None:
        lines.append(f"WRONG  {exercise.titles[len(answers)]}")
        lines.append(f"       your code {run.stopped}")
        lines += [f"  -    {title} (not run)" for title in exercise.titles[len(answers) + 1 :]]
    right = run.stopped is None and not any(problems)
    return ("right" if right else "wrong"), lines


def check_exercises(names: Sequence[str]) -> int:
    """Check the named exercises, print what was found, and return 0 if all are right, else 1."""
    verdicts = []
    for name, file in find_files(names):
        exercise = load_exercise(name)
        run = run_worker(exercise, file)
        verdict, lines = judge(exercise, run)
        verdicts.append(verdict)
        print(f"{name} ({file}): {verdict}")
        for line in lines:
            print(f"  {line}")
        if run.printed:
            print("  Your code printed:")
            for line in run.printed[:PRINT_SHOWN].splitlines():
                print(f"  | {line}")
            if len(run.printed) > PRINT_SHOWN:
                print("  | ...")
        print(flush=True)
    counts = [f"{verdicts.count(v)} {v}" for v in ("right", "wrong", "not yet written")]
    print(f"{', '.join(c for c in counts if c[0] != '0')}. These are the public tests.")
    return 0 if set(verdicts) == {"right"} else 1
