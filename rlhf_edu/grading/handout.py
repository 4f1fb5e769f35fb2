"""`rlhf-edu export handout`: what students are given, with the same seed as they are graded with.

    implement   NAME.py     the solution with its marked parts left out
    quiz        NAME.md     the questions, with this student's numbers
    diagnose    NAME.jsonl  the log, and NAME.md what to name
    intervene   NAME.md     what may be changed
    explain     NAME.md     the claims to choose, and what to write

Where the answer is data and not code, NAME.json is the form to be filled in.
"""

import json
from pathlib import Path
from typing import Any

from rlhf_edu.grading.assignment import Task
from rlhf_edu.grading.generate import make_stub
from rlhf_edu.grading.quiz import shown
from rlhf_edu.lab import record


def handout(task: Task, seed: int, student: str) -> dict[str, str]:
    """The files of one question for one student, by name."""
    name, checks, draw = task.name, task.checks, task.generator(seed, student)
    if task.kind == "implement":
        solution = (task.folder / f"{name}.py").read_text(encoding="utf-8")
        return {f"{name}.py": make_stub(name, solution).partition("\n")[2]}
    lines, log = [f"# {name}", ""], []
    form: dict[str, Any] = {}
    if task.kind == "quiz":
        for q in checks["questions"](draw):
            form[q["id"]] = None
            wanted = "a letter" if "options" in q else (
                "the items themselves, in order" if "items" in q else "a number")
            lines += [f"## {q['id']} (worth {q.get('points', 1)}; {wanted})", "", *shown(q), ""]
    elif task.kind == "diagnose":
        log, form = checks["log"](draw)["rows"], {"cause": None, "metric": None, "update": None}
        lines += [f"{name}.jsonl is the log of a run with a fault. Name its cause, a metric that "
                  "shows it, and an update at which it does. The causes:", "",
                  *(f"- {cause}" for cause in checks["CAUSES"])]
    elif task.kind == "intervene":
        lines += ["Choose a configuration. It will be run on seeds that you do not know. What may "
                  "be changed:", ""]
        lines += [f"- {what}: {_limits(limits)}" for what, limits in checks["ALLOWED"].items()]
    else:
        form = {"claims": dict.fromkeys(checks["CLAIMS"]), "prose": ""}
        for claim, (question, options, points) in checks["CLAIMS"].items():
            lines.append(f"- {claim} (worth {points}): {question} {' / '.join(options)}")
        lines += ["", "And in prose, for a person to read:",
                  *(f"- it {line}" for line in checks.get("RUBRIC", []))]
    lines += ["", f"Write your answers into {name}.json."]
    files = {f"{name}.md": "\n".join(lines) + "\n",
             f"{name}.json": json.dumps(form, indent=1, ensure_ascii=False) + "\n"}
    if log:
        files[f"{name}.jsonl"] = "".join(f"{json.dumps(row)}\n" for row in log)
    return files


def _limits(limits: object) -> str:
    """What ALLOWED says of a field, in words."""
    if isinstance(limits, tuple):
        return f"a number from {limits[0]} to {limits[1]}"
    return ", ".join(map(str, limits)) if isinstance(limits, list) else str(limits)


def write_handout(folder: Path, tasks: list[Task], seed: int, student: str) -> None:
    """Write the files of all questions into a folder; what stands there is not overwritten."""
    folder.mkdir(exist_ok=True)
    for task in tasks:
        for name, text in handout(task, seed, student).items():
            if (folder / name).exists():
                print(f"kept {folder / name}: it is there already")
                continue
            record.write_text(folder / name, text)
            print(f"wrote {folder / name}")
