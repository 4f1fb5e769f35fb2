"""`rlhf-edu grade-class`: a folder of submissions, one student's disaster at a time.

Every entry of the folder is a student: a folder, or a single file. Each gets a report of its own in
CSV-reports/, written when that student is done, so that a run that was ended anyhow goes on where
it was. A kept report counts only if the submission, the assignment, the seed and the isolation are
the same; students' code never sees that folder.

    scores.csv            one line a student
    scores-tests.csv      one line a test
    scores-canvas.csv     Canvas' gradebook with one column filled in (--canvas)
    scores.html           the class: distribution of each question, commonest slips
"""

import csv
import hashlib
import html
import json
import os
import queue
import re
import secrets
import traceback
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tqdm import tqdm

from rlhf_edu import InputError, __version__
from rlhf_edu.grading.assignment import SOLUTIONS, Task, load_assignment
from rlhf_edu.grading.grade import choose_level, grade_submission, new_sandbox
from rlhf_edu.grading.judging import make_exercise
from rlhf_edu.grading.report import is_whole, page, points, readable, said, write_html
from rlhf_edu.grading.sandbox import Sandbox
from rlhf_edu.grading.submission import files_in, read_submission
from rlhf_edu.lab import record
from rlhf_edu.lab.machine import available_cores

Report = dict[str, Any]


def late_score(raw: float, submitted: float, due: float, per_day: float = 0.1,
               grace: float = 3600.0, most: float = 1.0) -> float:
    """The score after the late policy: for each day begun, `per_day` of it less, at most `most`.

    Times are in seconds since 1970; up to `grace` seconds late is in time.

    >>> late_score(10.0, submitted=90_000.0, due=0.0)
    8.0
    """
    late = submitted - due
    if late <= grace:
        return raw
    days = -(-late // 86_400)
    return round(raw * (1 - min(most, per_day * days)), 6)


def students_in(folder: Path) -> list[Path]:
    """Every submission in a class's folder, hidden files aside."""
    return sorted(p for p in folder.iterdir() if not p.name.startswith("."))


def digest(paths: Iterable[bytes]) -> str:
    """One number for what was handed in, or asked."""
    total = hashlib.sha256()
    for part in paths:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:24]


def assignment_digest(tasks: Sequence[Task]) -> str:
    """One number for all files of the questions, and the grader's version."""
    files = [p.read_bytes() for task in tasks
             for p in sorted(task.folder.glob(f"{task.name}*.py"))]
    return digest([__version__.encode(), *files])


def grade_class(folder: Path, csv_file: Path, jobs: int | None, seed: int | None,
                exercises: tuple[str, ...], assignment: Path | None, canvas: Path | None,
                due: str, per_day: float, allow_weak: bool) -> int:
    """Grade everybody, write the tables; returns 0 whatever the students did."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: give the folder that holds the submissions")
    if not csv_file.parent.is_dir():
        raise InputError(f"--csv {csv_file}: there is no folder {str(csv_file.parent)!r}; make it "
                         "first")
    deadline = read_due(due)
    tasks = load_assignment(assignment or SOLUTIONS, exercises)
    students = students_in(folder)
    if not students:
        raise InputError(f"{folder} is empty: every folder or file in it is a student's submission")
    for task in tasks:  # a fault of the assignment shows here, and not in everybody's report
        if task.kind == "implement":
            make_exercise(task, task.generator(0, ""))
    level = choose_level(allow_weak)
    reports = csv_file.with_name(f"{csv_file.stem}-reports")
    reports.mkdir(exist_ok=True)
    seed = kept_seed(reports) if seed is None else seed
    record.write_json(reports / "seed.json", {"seed": seed})

    asked, found = assignment_digest(tasks), {}
    sandboxes: queue.Queue[Sandbox] = queue.Queue()
    workers = jobs or available_cores()

    def one(path: Path) -> Report:
        sandbox = sandboxes.get()
        try:
            return grade_student(path, tasks, seed, sandbox, asked, reports)
        finally:
            sandboxes.put(sandbox)

    with ExitStack() as open_ones, ThreadPoolExecutor(workers) as pool:
        for slot in range(workers):
            sandboxes.put(open_ones.enter_context(new_sandbox(level, tasks, slot)))
        graded = pool.map(one, students)
        for path, report in zip(students, tqdm(graded, total=len(students), unit="student"),
                                strict=True):
            found[readable(path.name)] = report
            late = None
            if deadline is not None:
                late = late_score(report["score"], newest(path), deadline, per_day)
            report["score_after_late_policy"] = report["score"] if late is None else late

    write_tables(csv_file, found)
    if canvas is not None:
        fill_canvas(canvas, csv_file.with_name(f"{csv_file.stem}-canvas.csv"), found)
    write_class_page(csv_file.with_suffix(".html"), found, reports)
    scores = [r["score"] for r in found.values()]
    print(f"{len(found)} submissions, mean {sum(scores) / len(scores):.2f}; isolation {level}; "
          f"seed {seed}; {csv_file}")
    return 0


def kept_seed(reports: Path) -> int:
    """The seed of the run that is continued, or a new one that nobody could know."""
    try:
        return int(json.loads((reports / "seed.json").read_text())["seed"])
    except (OSError, ValueError, KeyError, TypeError):
        return secrets.randbelow(2**31)


def grade_student(path: Path, tasks: list[Task], seed: int, sandbox: Sandbox, asked: str,
                  reports: Path) -> Report:
    """One student's report, from an earlier run if it is the same work; never an exception."""
    file = report_file(reports, readable(path.name))
    try:
        handed_in = read_submission(path, follow=False)
        key = digest([asked.encode(), str(seed).encode(), sandbox.level.encode(),
                      *(part for name, content in sorted(handed_in.files.items())
                        for part in (os.fsencode(name), content)),
                      *(c.encode() for c in handed_in.complaints)])
        with suppress(OSError, ValueError, KeyError, TypeError):  # one that cannot be read is none
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept["key"] == key and kept["finished"] is True:
                return dict(kept)
        report = grade_submission(handed_in, tasks, seed, sandbox, readable(path.name))
    except Exception as error:  # ours, and still only this student's
        lines = traceback.format_exc().splitlines()[-1]
        complaint = readable(f"grading failed ({lines}): please look at it by hand")
        report = {"finished": False, "student": readable(path.name), "seed": seed,
                  "isolation": sandbox.level, "complaints": [complaint],
                  "score": 0, "max_score": 0, "questions": [], "error": type(error).__name__}
        key = ""
    report["key"] = key
    record.write_json(file, report)
    write_html(file.with_suffix(".html"), report)
    return report


def report_file(reports: Path, student: str) -> Path:
    """Where a student's report is kept: a name that every disk takes, and nobody else's."""
    safe = re.sub(r"[^\w.-]", "_", student)[:80]
    return reports / f"{safe}-{digest([student.encode(errors='replace')])[:8]}.json"


def newest(path: Path) -> float:
    """When the last file of a submission was written."""
    times = [0.0]
    for file in files_in(path) if path.is_dir() else [path]:
        with suppress(OSError):
            times.append(file.lstat().st_mtime)
    return max(times)


def read_due(due: str) -> float | None:
    """A date such as 2026-11-30T23:59 as seconds since 1970; local time unless it says which."""
    if not due:
        return None
    try:
        when = datetime.fromisoformat(due)
    except ValueError:
        raise InputError(f"--due {due!r} is no date: write it like 2026-11-30T23:59") from None
    return when.timestamp() if when.tzinfo else when.astimezone().astimezone(
        timezone.utc).timestamp()


# ── Tables ──────────────────────────────────────────────────────────────────────────────────────
def write_csv(path: Path, rows: list[list[Any]]) -> None:
    """A CSV file, whole or not at all; a cell that a spreadsheet would run becomes text."""
    out = StringIO()
    writer = csv.writer(out)
    for row in rows:
        writer.writerow([f"'{c}" if isinstance(c, str) and c[:1] in "=+-@\t\r" and c else c
                         for c in row])
    record.write_text(path, out.getvalue())


def write_tables(csv_file: Path, found: dict[str, Report]) -> None:
    """One line a student, and one line a test."""
    names = list(dict.fromkeys(q["name"] for r in found.values() for q in r["questions"]))
    rows: list[list[Any]] = [["student", "score", "max_score", "after_late_policy", *names,
                              "complaints"]]
    tests: list[list[Any]] = [["student", "question", "test", "score", "max_score", "message"]]
    for student, r in found.items():
        each = {q["name"]: q["score"] for q in r["questions"]}
        rows.append([student, r["score"], r["max_score"], r["score_after_late_policy"],
                     *(each.get(name, 0) for name in names), "; ".join(r["complaints"])])
        tests += [[student, q["name"], t["name"], t["score"], t["max_score"],
                   " ".join(said(t))]
                  for q in r["questions"] for t in q["tests"]]
    write_csv(csv_file, rows)
    write_csv(csv_file.with_name(f"{csv_file.stem}-tests.csv"), tests)


def fill_canvas(gradebook: Path, target: Path, found: dict[str, Report]) -> None:
    """Canvas' exported gradebook with the scores in a new last column, by login or by name."""
    try:
        rows = list(csv.reader(gradebook.read_text(encoding="utf-8-sig").splitlines()))
        head = rows[0]
    except (OSError, UnicodeDecodeError, IndexError):
        raise InputError(f"--canvas {gradebook} is not a gradebook exported by Canvas (CSV)") \
            from None
    known = [head.index(name) for name in ("SIS Login ID", "SIS User ID", "ID", "Student")
             if name in head]
    if not known:
        raise InputError(f"--canvas {gradebook} has none of the columns Student, ID, SIS User ID, "
                         "SIS Login ID in its first line")
    scores = {name: points(r["score_after_late_policy"]) for name, r in found.items()}
    scores = {Path(name).stem: score for name, score in scores.items()
              if Path(name).suffix in (".py", ".ipynb", ".json")} | scores
    # A score goes to one student, and to a login before a name: that one can be chosen freely.
    given: dict[int, str] = {}
    for i in known:
        named = {n: row[i] for n, row in enumerate(rows)
                 if n and n not in given and i < len(row) and row[i] in scores}
        given |= {n: scores[name] for n, name in named.items()}
        scores = {name: score for name, score in scores.items() if name not in named.values()}
    filled = [[*head, "rlhf_edu"]]
    filled += [[*row, given.get(n, "")] for n, row in enumerate(rows) if n]
    out = StringIO()
    csv.writer(out).writerows(filled)
    record.write_text(target, out.getvalue())


def write_class_page(path: Path, found: dict[str, Report], reports: Path) -> None:
    """How the class did: all of it, each question with its tests and commonest slips, each one."""
    e = html.escape
    shares = [r["score"] / r["max_score"] if r["max_score"] else 0.0 for r in found.values()]
    parts = [f"<h1>{len(found)} submissions, mean {sum(shares) / len(shares):.0%}</h1>",
             histogram(shares)]
    troubled = [f"<li>{e(s)}: {e('; '.join(r['complaints']))}</li>"
                for s, r in found.items() if r["complaints"]]
    if troubled:
        parts.append(f"<h2>To look at</h2><ul>{''.join(troubled)}</ul>")
    by_name: dict[str, list[dict[str, Any]]] = {}
    for r in found.values():
        for q in r["questions"]:
            by_name.setdefault(q["name"], []).append(q)
    for name, answered in by_name.items():
        most = answered[0]["max_score"]
        mean = sum(q["score"] for q in answered) / len(answered)
        parts.append(f"<h2>{e(name)}: mean {mean:.2f} of {points(most)}</h2>")
        parts.append(histogram([q["score"] / most if most else 0.0 for q in answered]))
        right: Counter[str] = Counter()
        slips: Counter[str] = Counter()
        for q in answered:
            right.update({t["name"]: int(is_whole(t)) for t in q["tests"]})
            slips.update({t["hint"] for t in q["tests"] if t["hint"]})
        parts.append(table("right", "test", [(f"{n / len(answered):.0%}", test)
                                             for test, n in right.items()]))
        if slips:
            parts.append(table("students", "slip", [(n, words) for words, n in
                                                     slips.most_common(5)]))
    links = "".join(
        f"<tr><td class=number>{points(r['score'])}</td><td><a href='"
        f"{e(quote(f'{reports.name}/{report_file(reports, s).stem}.html'))}'>{e(s)}</a></td></tr>"
        for s, r in found.items())
    parts.append(f"<h2>Everybody</h2><table>{links}</table>")
    page(path, "Class", parts)


def table(number: str, words: str, rows: Iterable[tuple[Any, str]]) -> str:
    """A table of a number and words in each row."""
    lines = "".join(f"<tr><td>{n}</td><td>{html.escape(text)}</td></tr>" for n, text in rows)
    return f"<table><tr><th class=number>{number}</th><th>{words}</th></tr>{lines}</table>"


def histogram(shares: list[float]) -> str:
    """Bars for the number of students by share of the points, in tenths, as SVG."""
    counts = [0] * 11
    for share in shares:
        counts[min(10, int(share * 10 + 1e-9))] += 1
    tallest = max(counts)
    bars = ""
    for i, n in enumerate(counts):
        x, high = i * 36, 80 * n / tallest
        bars += (f"<rect x={x + 4} y={90 - high:.1f} width=28 height={high:.1f} fill='#0072B2'>"
                 f"</rect><text x={x + 18} y=104 font-size=10 text-anchor=middle>{10 * i}%</text>"
                 f"<text x={x + 18} y={86 - high:.1f} font-size=10 text-anchor=middle>{n or ''}"
                 "</text>")
    return (f"<figure><svg viewBox='0 -8 400 118' width=480 role=img>{bars}</svg>"
            "<figcaption>students, by their share of the points</figcaption></figure>")
