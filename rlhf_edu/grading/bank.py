"""Tries an assignment before students do: `python -m rlhf_edu.grading.bank [DIR] [--seeds N]`.

Each seed draws other hidden inputs. On every one the right answer must get full marks, graded as a
student's is; and each wrong answer of the bank must lose a mark and be told which slip it is. The
bank of a function is its named wrong variants (WRONG); of a quiz, every other option, every slip
of a number and the reversed order; of a diagnosis every other cause, of claims every other option.
Prints a line a question: seeds on which the right answer was right, wrong answers, how many of them
were killed, and how many named. Less than 100 % of anything is exit code 1.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import tyro
from tqdm import tqdm

from rlhf_edu import InputError
from rlhf_edu.grading.assignment import SOLUTIONS, Task, load_assignment
from rlhf_edu.grading.grade import choose_level, grade_submission, new_sandbox
from rlhf_edu.grading.judging import find_problem, make_exercise, name_slips
from rlhf_edu.grading.kinds import judge_answer
from rlhf_edu.grading.sandbox import Sandbox
from rlhf_edu.grading.submission import Submission

Tried = tuple[str, bool, bool]  # a wrong answer, whether it lost a mark, whether it was named


def right_answer(task: Task, seed: int) -> tuple[str, str] | None:
    """The file that gets full marks, by name and text; None where the assignment gives none."""
    if task.kind == "implement":
        return f"{task.name}.py", (task.folder / f"{task.name}.py").read_text(encoding="utf-8")
    draw = task.generator(seed, "")
    given: Any = None
    if task.kind == "quiz":
        given = {q["id"]: q["answer"] for q in task.checks["questions"](draw)}
    elif task.kind == "diagnose":
        made = task.checks["log"](draw)
        metric, (first, _) = next(iter(made["evidence"].items()))
        given = {"cause": made["cause"], "metric": metric, "update": first}
    elif task.kind == "explain":
        given = {"claims": {name: truth for name, (truth, _) in task.checks["facts"](draw).items()}}
    else:
        given = task.checks.get("RIGHT")
    return None if given is None else (f"{task.name}.json", json.dumps(given))


def is_right(task: Task, seed: int, sandbox: Sandbox) -> bool | None:
    """Whether the right answer gets full marks on this seed; None where there is none to try."""
    answer = right_answer(task, seed)
    if answer is None:
        return None
    submission = Submission({answer[0]: answer[1].encode()}, [])
    report = grade_submission(submission, [task], seed, sandbox)
    return bool(report["score"] == report["max_score"] > 0)


def wrong_answers(task: Task, seed: int) -> Iterator[Tried]:
    """Every wrong answer of the bank, judged on this seed."""
    draw = task.generator(seed, "")
    if task.kind == "implement":
        exercise = make_exercise(task, draw)
        for words, answers in exercise.slips.items():
            named = name_slips(exercise, answers)
            lost = [i for i, answer in enumerate(answers) if find_problem(exercise, i, answer)]
            yield words, bool(lost), {named[i] for i in lost} == {words}
    elif task.kind == "quiz":
        for q in task.checks["questions"](draw):
            wrong: list[tuple[Any, str]] = [(option, why) for option, (_, why) in
                                            q.get("options", {}).items() if option != q["answer"]]
            wrong += [(number, words) for words, number in q.get("slips", {}).items()]
            wrong += [(q["answer"][::-1], q["explanation"])] if "items" in q else []
            for given, why in wrong:
                right, said = judge_answer(q, given)
                yield f"{q['id']}: {why}", not right, bool(why) and said == why
    elif task.kind == "diagnose":
        cause = task.checks["log"](draw)["cause"]
        for other, words in task.checks["CAUSES"].items():
            if other != cause:
                yield other, True, bool(words)
    elif task.kind == "explain":
        facts = task.checks["facts"](draw)
        for name, (_, options, _) in task.checks["CLAIMS"].items():
            truth, evidence = facts[name]
            for other in options:
                if other != truth:
                    yield f"{name}: {other}", truth in options, bool(evidence)


def main(
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")] = SOLUTIONS,
    seeds: int = 100,
    allow_weak: bool = False,
) -> int:
    """Try the right and the wrong answers of an assignment on many seeds.

    Args:
        folder: the assignment; without it, the package's own
        seeds: so many, from 0 on
        allow_weak: also where nothing would keep a hostile student in
    """
    tasks = load_assignment(folder)
    lines, whole = [f"{'question':<24} {'right on':>12} {'wrong answers':>14} {'killed':>7} "
                    f"{'named':>7}"], True
    with new_sandbox(choose_level(allow_weak), tasks) as sandbox:
        for task in tasks:
            right, tried = [], []
            for seed in tqdm(range(seeds), desc=task.name, leave=False, disable=None):
                right.append(is_right(task, seed, sandbox))
                tried += [(seed, *each) for each in wrong_answers(task, seed)]
            n = len({words for _, words, _, _ in tried})
            survivors = [(seed, words) for seed, words, lost, _ in tried if not lost]
            unnamed = [(seed, words) for seed, words, lost, named in tried if lost and not named]
            shares = [f"{1 - len(bad) / len(tried):.1%}" if tried else "-"
                      for bad in (survivors, unnamed)]
            said = "-" if None in right else f"{sum(map(bool, right))} of {seeds}"
            lines.append(f"{task.name:<24} {said:>12} {n:>14} {shares[0]:>7} {shares[1]:>7}")
            lines += [f"  seed {seed}: {what}: {words}"
                      for what, found in (("SURVIVED", survivors), ("not named", unnamed))
                      for seed, words in found[:10]]
            lines += [f"  seed {seed}: the right answer lost marks"
                      for seed, good in enumerate(right) if good is False]
            whole = whole and False not in right and not survivors and not unnamed
    print("\n".join(lines))
    return 0 if whole else 1


if __name__ == "__main__":
    try:
        sys.exit(tyro.cli(main, prog="python -m rlhf_edu.grading.bank"))
    except InputError as error:
        print(f"bank: {error}", file=sys.stderr)
        sys.exit(2)
