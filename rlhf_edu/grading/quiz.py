"""`rlhf-edu quiz`: asks, says at once whether it is right, and explains, wrong answers included."""

import secrets
from typing import Any

from rlhf_edu import InputError
from rlhf_edu.grading.assignment import SOLUTIONS, load_assignment
from rlhf_edu.grading.kinds import judge_answer


def read_answer(q: dict[str, Any], typed: str) -> Any:
    """What was typed as the answer that a question of this kind takes; None for nothing."""
    typed = typed.strip()
    if not typed:
        return None
    if "options" in q:
        return typed.lower()
    if "items" in q:  # 2 1 3: numbers of the items as they were shown
        picked = typed.replace(",", " ").split()
        if all(p.isdigit() and 1 <= int(p) <= len(q["items"]) for p in picked):
            return [q["items"][int(p) - 1] for p in picked]
        return picked
    try:
        return float(typed.replace(",", "."))
    except ValueError:
        return typed


def shown(q: dict[str, Any]) -> list[str]:
    """A question as it is asked, line by line."""
    options = [f"  {key}) {words}" for key, (words, _) in q.get("options", {}).items()]
    return [q["ask"], *options, *(f"  {i}) {item}" for i, item in enumerate(q.get("items", []), 1))]


def ask(chapter: str) -> int:
    """Ask the questions of one chapter's quiz, or of all; 0 when all were right, else 1."""
    names = [path.stem.removesuffix("_checks") for path in sorted(SOLUTIONS.glob("quiz_*.py"))]
    chosen = [name for name in names if not chapter or name == f"quiz_{chapter.zfill(2)}"]
    if not chosen:
        there = ", ".join(name.removeprefix("quiz_") for name in names) or "none"
        raise InputError(f"there is no quiz of chapter {chapter!r}; there are: {there}")
    right = total = 0
    for task in load_assignment(SOLUTIONS, tuple(chosen)):
        for q in task.checks["questions"](task.generator(secrets.randbelow(2**31), "")):
            print("", *shown(q), sep="\n")
            if "items" in q:
                print("  (the numbers in the right order, such as 2 1 3)")
            try:
                given = read_answer(q, input("> "))
            except EOFError:
                print()
                return 1
            good, words = judge_answer(q, given)
            total, right = total + 1, right + good
            print(f"{'Right.' if good else 'Not right.'} {words}")
    print(f"\n{right} of {total} right.")
    return 0 if right == total else 1
