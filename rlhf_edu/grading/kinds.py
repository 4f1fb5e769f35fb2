"""The five kinds of question: from what a student handed in to tests with points and words.

    implement   a function, run in the sandbox on inputs that nobody has seen
    quiz        choices, numbers, orderings: data, compared here
    diagnose    a quiz about a training log with a planted fault, and where in it the evidence is
    intervene   a configuration, tried here on seeds that nobody has seen
    explain     claims, held against facts, and prose for a human to read

A test is {"name", "score", "max_score", "message", "hint", "visibility"}: the student sees the
message of a public test; of a hidden one its category, and the name of the slip if it is known.
"""

import math
import multiprocessing
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty
from typing import Any

import torch

from rlhf_edu.grading.assignment import Task, load
from rlhf_edu.grading.judging import (
    find_problem,
    make_exercise,
    name_slips,
    not_loaded,
    slip_line,
)
from rlhf_edu.grading.sandbox import Question, Sandbox
from rlhf_edu.grading.submission import Submission, find_answers, find_code

Test = dict[str, Any]


def test(name: str, points: float, right: bool | float, message: str = "", hint: str = "",
         public: bool = True) -> Test:
    """A test's line in the report; `right` may be a share of its points."""
    return {"name": name, "score": round(points * float(right), 6), "max_score": points,
            "message": message[:2000], "hint": hint, "visibility": "public" if public else "hidden"}


# ── implement ───────────────────────────────────────────────────────────────────────────────────
def implement(task: Task, submission: Submission, sandbox: Sandbox, seed: int, student: str,
              names: list[str]) -> tuple[list[Test], dict[str, Any]]:
    """Values, gradients, shapes and dtypes of a function, on this student's inputs."""
    exercise = make_exercise(task, task.generator(seed, student))
    code = find_code(submission, task.name, exercise.function, names)
    about = list(zip(exercise.titles, exercise.points, exercise.public, strict=True))
    if code.problem:
        return [test(title, points, 0, code.problem) for title, points, _ in about], {}

    asked = sandbox.ask(Question(code.file, submission.files, code.parts, exercise.function,
                                 exercise.calls, exercise.gradient_of, task.seconds))
    notes = {"printed": asked.printed}
    if asked.failed is not None:
        words = not_loaded(exercise.function, asked.failed)
        return [test(title, points, 0, words) for title, points, _ in about], notes

    slips, tests = name_slips(exercise, asked.answers), []
    for i, (title, points, public) in enumerate(about):
        problem = find_problem(exercise, i, asked.answers[i])
        if problem is None:
            tests.append(test(title, points, 1, public=public))
        else:
            message = problem.shown if public else problem.hidden
            tests.append(test(title, points, 0, message, slip_line(problem, slips[i]), public))
    changed = {name for answer in asked.answers for name in answer.get("changed", [])}
    if changed:
        notes["note"] = f"your code changes its inputs in place ({', '.join(sorted(changed))}); " \
                        "that costs nothing here, and surprises whoever calls it"
    return tests, notes


# ── quiz, diagnose ──────────────────────────────────────────────────────────────────────────────
def quiz(task: Task, submission: Submission, sandbox: Sandbox, seed: int, student: str,
         names: list[str]) -> tuple[list[Test], dict[str, Any]]:
    """Answers in NAME.json: {"question": answer}."""
    generator = task.generator(seed, student)
    questions = task.checks["questions"](generator)
    answers, problem = find_answers(submission, task.name)
    tests = []
    for q in questions:
        right, words = judge_answer(q, answers.get(q["id"]))
        tests.append(test(q["id"], q.get("points", 1), right, problem or words))
    return tests, {}


def shown(given: Any) -> str:
    """What was handed in, for a message: short, whatever it is."""
    try:
        text = repr(given)
    except (RecursionError, ValueError):  # nested too deeply, or a number of too many digits
        text = f"what is there ({type(given).__name__})"
    return text if len(text) < 100 else f"{text[:100]}..."


def judge_answer(q: Mapping[str, Any], given: Any) -> tuple[bool, str]:
    """Whether an answer to a quiz question is right, and the explanation that belongs to it."""
    if given is None:
        return False, "no answer was given"
    if "options" in q:  # a choice
        if not isinstance(given, str) or given not in q["options"]:
            return False, f"{shown(given)} is no option; there are: {', '.join(q['options'])}"
        return given == q["answer"], str(q["options"][given][1])
    if "items" in q:  # an ordering
        items = q["items"]
        if not (isinstance(given, list) and len(given) == len(items)
                and all(item in given for item in items)):
            return False, f"expected these, each once, in order: {', '.join(items)}"
        return given == q["answer"], str(q.get("explanation", ""))
    number = given if isinstance(given, int | float) and not isinstance(given, bool) else math.nan
    if not abs(number) < 1e300:  # NaN is not below it either
        return False, f"{shown(given)} is no number"
    for words, slip in q.get("slips", {}).items():
        if abs(number - slip) <= q["tolerance"] < abs(slip - q["answer"]):
            return False, str(words)
    return abs(number - q["answer"]) <= q["tolerance"], str(q.get("explanation", ""))


def diagnose(task: Task, submission: Submission, sandbox: Sandbox, seed: int, student: str,
             names: list[str]) -> tuple[list[Test], dict[str, Any]]:
    """A log with a planted fault: name the cause, and point at the evidence.

    `log(generator)` gives {"rows", "cause", "evidence"}; evidence names metrics, each with the
    (first, last) update in which it shows. NAME.json: {"cause", "metric", "update"}.
    """
    made = task.checks["log"](task.generator(seed, student))
    answers, problem = find_answers(submission, task.name)
    causes, points = task.checks["CAUSES"], task.checks.get("POINTS", (2, 1, 1))
    cause, metric, update = (answers.get(k) for k in ("cause", "metric", "update"))
    if isinstance(cause, str) and cause in causes:
        words = causes[cause]
    else:
        words = f"{shown(cause)} is no cause; there are: {', '.join(causes)}"
    where = made["evidence"].get(metric) if isinstance(metric, str) else None
    inside = where is not None and type(update) is int and where[0] <= update <= where[1]
    return [
        test("cause", points[0], cause == made["cause"], problem or words),
        test("metric", points[1], where is not None,
             problem or ("" if where else f"{shown(metric)} does not show this fault")),
        test("update", points[2], inside,
             problem or ("" if inside else "the fault does not show there")),
    ], {}


# ── intervene ───────────────────────────────────────────────────────────────────────────────────
def intervene(task: Task, submission: Submission, sandbox: Sandbox, seed: int, student: str,
              names: list[str]) -> tuple[list[Test], dict[str, Any]]:
    """A configuration change in NAME.json, tried on hidden seeds by the grader's own code.

    What was handed in is data, and only what ALLOWED names, in its range, goes any further.
    """
    config, problem = find_answers(submission, task.name)
    problem = problem or not_allowed(config, task.checks["ALLOWED"])
    worths = task.checks.get("POINTS", {"reward kept": 5, "regressions removed": 5})
    if problem:
        return [test(name, points, 0, problem) for name, points in worths.items()], {}
    generator = task.generator(seed, student)
    seeds = [int(s) for s in torch.randint(0, 2**31 - 1, (task.checks.get("SEEDS", 3),),
                                                  generator=generator)]
    results, why = in_time(task, config, seeds)
    if why:
        return [test(name, points, 0, why) for name, points in worths.items()], {}
    found = task.checks["score"](results)
    return [test(name, points, min(1.0, max(0.0, found[name][0])), found[name][1])
            for name, points in worths.items()], {}


def not_allowed(config: Mapping[str, Any], allowed: Mapping[str, Any]) -> str:
    """What a configuration may not say, in words; empty if it may say all of it.

    ALLOWED maps a field to its (lowest, highest) or to the list of words it may be, and may have
    "most changes".
    """
    most = allowed.get("most changes", len(allowed))
    fields = [name for name in allowed if name != "most changes"]
    if len(config) > most:
        return f"{len(config)} fields are changed, {most} may be"
    for name, value in config.items():
        if name not in fields:
            return f"{shown(name)} may not be changed; allowed are {', '.join(fields)}"
        limits = allowed[name]
        if isinstance(limits, list):
            if not any(type(value) is type(each) and value == each for each in limits):
                return f"{name} = {shown(value)}: allowed are {', '.join(map(repr, limits))}"
        elif isinstance(value, bool) or not isinstance(value, int | float) or not (
                limits[0] <= value <= limits[1]):
            return f"{name} = {shown(value)}: allowed is a number from {limits[0]} to {limits[1]}"
    return ""


def in_time(task: Task, config: Mapping[str, Any], seeds: list[int]) -> tuple[list[Any], str]:
    """The results of the experiment on each seed, in a process that can be stopped; or why not."""
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    process = context.Process(
        target=run_experiment, args=(str(task.folder), task.name, dict(config), seeds, results),
        daemon=True)
    process.start()
    try:
        kind, found = results.get(timeout=task.seconds)
    except Empty:
        return [], f"the run took more than {task.seconds:g} seconds"
    finally:
        process.kill()
        process.join()
    return (found, "") if kind == "done" else ([], f"the run ended with {found}")


def run_experiment(folder: str, name: str, config: dict[str, Any], seeds: list[int],
                   results: Any) -> None:
    """In a process of its own: the trusted experiment of NAME_checks.py on each seed."""
    try:
        run: Callable[..., Any] = load(Path(folder) / f"{name}_checks.py")["run"]
        results.put(("done", [run(config, seed) for seed in seeds]))
    except Exception as error:
        results.put(("error", f"{type(error).__name__}: {error}"))


# ── explain ─────────────────────────────────────────────────────────────────────────────────────
def explain(task: Task, submission: Submission, sandbox: Sandbox, seed: int, student: str,
            names: list[str]) -> tuple[list[Test], dict[str, Any]]:
    """Structured claims against facts; the prose goes to a marking sheet and gets no score here.

    CLAIMS maps a claim's name to (question, options, points); `facts(generator)` gives the true
    option of each with the numbers that show it. NAME.json: {"claims": {…}, "prose": "…"}.
    """
    given, problem = find_answers(submission, task.name)
    facts = task.checks["facts"](task.generator(seed, student))
    claims = given.get("claims") if isinstance(given.get("claims"), dict) else {}
    tests = []
    for name, (question, options, points) in task.checks["CLAIMS"].items():
        said, (truth, evidence) = (claims or {}).get(name), facts[name]
        words = str(evidence) if said in list(options) else (
            f"{question}: {shown(said)} is none of {', '.join(options)}")
        tests.append(test(name, points, said == truth, problem or words))
    prose = given.get("prose", "")
    prose = prose[:20_000] if isinstance(prose, str) else shown(prose)
    sheet = {"prose": prose, "rubric": task.checks.get("RUBRIC", []),
             "model answer": task.checks.get("MODEL_ANSWER", "")}
    return tests, {"marking sheet": sheet}


KINDS: dict[str, Callable[..., tuple[list[Test], dict[str, Any]]]] = {
    "implement": implement, "quiz": quiz, "diagnose": diagnose, "intervene": intervene,
    "explain": explain,
}
