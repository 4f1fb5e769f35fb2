"""What is wrong with the answers of a student's function, in words; `check` and `grade` ask here.

An answer is {"value", "gradients"}, {"error"} or {"stopped"}, as sandbox.py hands it over: arrays
that were rebuilt here, numbers, text, and tuples, lists and dictionaries of these.
"""

import inspect
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlhf_edu import InputError
from rlhf_edu.grading import wire, worker
from rlhf_edu.grading.assignment import Task, load

Answer = dict[str, Any]
ARRAYS = Tensor | np.ndarray


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


def make_exercise(task: Task, generator: torch.Generator) -> Exercise:
    """Draw the inputs of an exercise, and compute the right and the known wrong answers."""
    usual: dict[str, Any] = {"GRADIENT_OF": [], "TOLERANCE": 1e-5, "WRONG": {}}
    checks = usual | task.checks
    solution = load(task.folder / f"{task.name}.py").get(checks["FUNCTION"])
    if not callable(solution):
        raise InputError(f"{task.name}.py has no function {checks['FUNCTION']}, which "
                         f"{task.name}_checks.py asks for")
    tests = checks["tests"](generator)
    for title, _, call, *_ in tests:
        for name, value in call.items():
            if '"kind": "other"' in json.dumps(wire.describe(value, [])):
                raise InputError(f"{task.name}_checks.py: in the test {title!r} {name} is of type "
                                 f"{type(value).__name__}; allowed are tensors, numpy arrays, "
                                 "numbers, text, and tuples, lists and dictionaries of these")

    def answers(function: Callable[..., Any], what: str) -> list[Answer]:
        found = []
        for title, _, call, *_ in tests:
            try:
                answer = worker.answer(function, call, checks["GRADIENT_OF"])
            except Exception as error:
                raise InputError(f"{task.name}: {what} raised {type(error).__name__}: {error} in "
                                 f"the test {title!r}") from error
            found.append({name: wire.copy(answer[name]) for name in ("value", "gradients")})
        return found

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
        calls=[test[2] for test in tests],
        expected=answers(solution, "the solution"),
        slips={words: answers(slip(variant), f"the wrong variant {words!r}")
               for words, variant in checks["WRONG"].items()},
    )


def not_loaded(function: str, failed: Answer) -> str:
    """Why no call could be made, in words."""
    if "missing" in failed:
        return f"your file has no function called {function}"
    if "error" in failed:
        return f"your file could not be loaded: {describe_error(failed['error'])}"
    return f"while your file was loaded, your code {failed['stopped']}"


def describe_error(error: dict[str, Any]) -> str:
    """Type, message and place of what a student's code raised."""
    message = f": {error['message'][:500]}" if error["message"] else ""
    line = f" (line {error['line']} of {error['place']}" if error["line"] else ""
    text = f": {error['text']}" if line and error["text"] else ""
    return f"{error['type']}{message}{line}{text}{')' if line else ''}"


@dataclass(frozen=True)
class Problem:
    """What is wrong with an answer, in words."""

    shown: str  # with the numbers of the test
    hidden: str  # without them: its inputs are not to be known
    of_gradient: bool = False


DIFFER = "your values differ from the right ones"
NO_GRADIENT = ("the value is right but carries no gradient, so nothing can be trained with it: "
               "look for .item(), .detach(), .data, numpy or torch.no_grad()")


def find_problem(exercise: Exercise, test: int, answer: Answer) -> Problem | None:
    """The first thing that is wrong with an answer; None if it is right."""
    if "value" not in answer:
        words = answer.get("stopped") or f"raised {describe_error(answer['error'])}"
        return Problem(f"your code {words}", f"your code {words}")
    expected, tolerance = exercise.expected[test], exercise.tolerance
    problem = _difference("value", answer["value"], expected["value"], tolerance)
    if problem is not None or not exercise.gradient_of:
        return problem
    if answer["gradients"] is None:
        return Problem(NO_GRADIENT, NO_GRADIENT)
    for name in exercise.gradient_of:
        got, want = answer["gradients"].get(name), expected["gradients"][name]
        problem = _difference(f"gradient with respect to {name}", got, want, tolerance)
        if problem is not None:
            return Problem(problem.shown, "the value is right, a gradient is not", True)
    return None


# ── Comparison ──────────────────────────────────────────────────────────────────────────────────
def _difference(what: str, got: Any, want: Any, tolerance: float,
                nan: bool = True) -> Problem | None:
    """The first difference of two values; None if there is none. With `nan` nan equals nan."""
    if isinstance(want, np.ndarray) and want.ndim == 0:
        want = want.item()  # numpy's own kind of a number
    if not isinstance(want, ARRAYS) and isinstance(got, ARRAYS) and got.ndim == 0:
        got = got.item()
    unlike = _unlike(got, want)
    if unlike is not None:
        return unlike
    if isinstance(want, tuple | list | dict):
        keys = want if isinstance(want, dict) else range(len(want))
        found = (_difference(f"{what}[{k!r}]", got[k], want[k], tolerance, nan) for k in keys)
        return next((problem for problem in found if problem), None)
    if not isinstance(want, ARRAYS | int | float):
        return None if got == want else Problem(
            f"{what}: got {got!r:.200}, expected {want!r}", DIFFER)
    a, b = torch.as_tensor(got), torch.as_tensor(want)
    if a.is_floating_point() or b.is_floating_point():
        a, b = a.double(), b.double()
        wrong = ~torch.isclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=nan)
    else:
        wrong = a != b
    if not wrong.any():
        return None
    first = wrong.nonzero()[0].tolist()
    numbers = f"got {_digits(a[tuple(first)])}, expected {_digits(b[tuple(first)])}"
    count = f"{int(wrong.sum())} of {wrong.numel()} entries are wrong; first at {first}: "
    return Problem(f"{what}: {count if a.dim() else ''}{numbers}", DIFFER)


def _digits(number: Tensor) -> str:
    return f"{number.item():.7g}" if number.is_floating_point() else str(number.item())


def _unlike(got: Any, want: Any) -> Problem | None:
    """A difference of kind: type, shape, dtype, length, keys."""
    if isinstance(want, ARRAYS):
        if not isinstance(got, type(want)):
            return _returned(got, _kind(want))
        for thing in ("shape", "dtype"):
            this, that = (_plain(getattr(value, thing)) for value in (got, want))
            if this != that:
                return Problem(f"your code returned {thing} {this}, expected {that}",
                               f"your code returned another {thing} than expected")
    elif isinstance(want, int | float) and not isinstance(want, bool):
        if isinstance(got, bool) or not isinstance(got, int | float):
            return _returned(got, "a number")
    elif type(got) is not type(want):
        return _returned(got, _kind(want))
    elif isinstance(want, tuple | list | dict) and len(got) != len(want):
        words = f"your code returned {len(got)} values, expected {len(want)}"
        return Problem(words, words)
    elif isinstance(want, dict) and got.keys() != want.keys():
        words = f"your code returned the keys {', '.join(got):.200}, expected {', '.join(want)}"
        return Problem(words, words)
    return None


def _returned(got: Any, wanted: str) -> Problem:
    """A value of another type."""
    hint = ": is a `return` missing?" if got is None else ""
    if isinstance(got, float) and wanted == "a torch.Tensor":
        hint = ": no gradient can flow through a Python number"
    words = f"your code returned {_kind(got)}, expected {wanted}{hint}"
    return Problem(words, words)


def _kind(value: Any) -> str:
    """What a student would call this value."""
    if isinstance(value, ARRAYS):
        return "a torch.Tensor" if isinstance(value, Tensor) else "a numpy array"
    return str(value) if isinstance(value, wire.Other) else type(value).__name__


def _plain(thing: Any) -> Any:
    """A shape as a list, a dtype as its name."""
    return list(thing) if isinstance(thing, tuple) else str(thing).removeprefix("torch.")


# ── Slips ───────────────────────────────────────────────────────────────────────────────────────
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

    def close(a: Any, b: Any) -> bool:
        return _difference("", a, b, exercise.tolerance, nan=False) is None

    if "value" not in answer or not close(answer["value"], wrong["value"]):
        return False
    if not close(wrong["value"], right["value"]):
        return True
    return close(answer["gradients"], wrong["gradients"])


def slip_line(problem: Problem, slip: str | None) -> str:
    """The line that names a slip; empty if none is known."""
    what = "gradients are those of" if problem.of_gradient else "values equal"
    return f"Your {what} {slip}." if slip else ""
