"""A grade in the forms that people and systems read: a terminal, a page, Gradescope."""

import html
import re
import shutil
import textwrap
from pathlib import Path
from typing import Any

from rlhf_edu.lab import record

LADDER = {
    "bubblewrap": "bubblewrap: namespaces, Landlock and limits",
    "landlock": "Landlock and limits",
    "weak": "limits only: not safe against a hostile student",
}


# What moves the cursor, clears a screen, turns the direction of text, or is no character at all.
UNREADABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def readable(content: Any) -> Any:
    """The same text, or tree of texts, with such characters as escapes: \\x1b for one of them."""
    if isinstance(content, str):
        plain = content.replace("\r\n", "\n").replace("\r", "\n")
        return UNREADABLE.sub(lambda found: ascii(found[0])[1:-1], plain)
    if isinstance(content, dict):
        return {readable(name): readable(each) for name, each in content.items()}
    return [readable(each) for each in content] if isinstance(content, list | tuple) else content


def points(number: float) -> str:
    """Points without needless digits."""
    return f"{number:.12g}"


def said(test: dict[str, Any]) -> list[str]:
    """What there is to say about a test. Where a slip is named, a hidden test needs no more."""
    words = [test["message"], test["hint"]]
    if test["visibility"] == "hidden" and test["hint"]:
        words = [test["hint"]]
    return [word for word in words if word]


def is_whole(test: dict[str, Any]) -> bool:
    """Whether a test gave all its points."""
    return bool(test["score"] == test["max_score"])


def terminal(report: dict[str, Any]) -> str:
    """The report as text, no wider than the terminal."""
    width = max(60, min(100, shutil.get_terminal_size().columns))

    def add(words: str, indent: str = "", first: str | None = None) -> None:
        lines.extend(textwrap.wrap(words, width, subsequent_indent=indent,
                                   initial_indent=indent if first is None else first))

    lines = [f"isolation: {LADDER[report['isolation']]}; seed {report['seed']}"]
    for line in report["complaints"]:
        add(line, "      ", "note: ")
    for q in report["questions"]:
        lines += ["", f"{q['name']}: {points(q['score'])} of {points(q['max_score'])}"]
        for t in q["tests"]:
            mark = "ok   " if is_whole(t) else "WRONG"
            lines.append(f"  {mark} {points(t['score'])}/{points(t['max_score'])}  {t['name']}")
            for words in () if is_whole(t) else said(t):
                add(words, "         ")
        if q.get("note"):
            add(q["note"], "        ", "  note: ")
        if q.get("marking sheet"):
            add("the prose is for a person to mark; --json and --html have its marking sheet",
                "        ", "  note: ")
        if q.get("printed"):
            lines.append("  Your code printed:")
            lines += [f"  | {line}" for line in q["printed"][:4096].splitlines()[:40]]
    lines += ["", f"score: {points(report['score'])} of {points(report['max_score'])}"]
    return "\n".join(lines)


def gradescope(report: dict[str, Any]) -> dict[str, Any]:
    """Gradescope's results.json."""
    tests = [{"name": f"{q['name']}: {t['name']}", "score": t["score"],
              "max_score": t["max_score"], "status": "passed" if is_whole(t) else "failed",
              "output": "\n".join(said(t)), "visibility": "visible"}
             for q in report["questions"] for t in q["tests"]]
    lines = [f"isolation: {LADDER[report['isolation']]}; seed {report['seed']}"]
    lines += report["complaints"]
    for q in report["questions"]:
        if q.get("note"):
            lines.append(f"{q['name']}: {q['note']}")
        if q.get("printed"):
            lines += [f"{q['name']} printed:", q["printed"][:4096]]
    return {"score": report["score"], "output": "\n".join(lines), "visibility": "visible",
            "stdout_visibility": "hidden", "tests": tests}


STYLE = """
body { font: 16px/1.5 Georgia, serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin: 2rem 0 .4rem; }
table { border-collapse: collapse; width: 100%; font: 14px/1.4 system-ui, sans-serif; }
td, th { border-bottom: 1px solid #ddd; padding: .35rem .5rem; text-align: left;
         vertical-align: top; }
table.tests { table-layout: fixed; } .tests th:nth-child(1) { width: 32%; }
.tests th:nth-child(2) { width: 4.5rem; } td p { margin: 0 0 .2rem; }
table + table { margin-top: 1rem; } figure { margin: .3rem 0 .8rem; } ul.boxes { list-style: none; }
.number { width: 5rem; } .yes { color: #00704f; } .no { color: #b03000; }
.small { color: #555; font-size: .9rem; } figcaption { font: 13px system-ui; color: #555; }
pre { background: #f6f6f4; padding: .7rem; font-size: 13px; line-height: 1.35;
      white-space: pre-wrap; overflow-wrap: anywhere; }"""


def page(path: Path, title: str, parts: list[str]) -> None:
    """Write a page that needs nothing beside it."""
    record.write_text(path, "<!doctype html><html lang=en><meta charset=utf-8>"
                            "<meta name=viewport content='width=device-width'>"
                            f"<title>{html.escape(title)}</title><style>{STYLE}</style>"
                            f"<body>{''.join(parts)}</body></html>\n")


def write_html(path: Path, report: dict[str, Any]) -> None:
    """The page for the student."""
    e = html.escape
    head = f"{points(report['score'])} of {points(report['max_score'])} points"
    if report["student"]:
        head = f"{report['student']}: {head}"
    parts = [f"<h1>{e(head)}</h1>",
             f"<p class=small>Seed {report['seed']}. Isolation: "
             f"{e(LADDER[report['isolation']])}.</p>"]
    parts += [f"<p class=no>{e(line)}</p>" for line in report["complaints"]]
    for q in report["questions"]:
        parts.append(f"<h2>{e(q['name'])}: {points(q['score'])} of {points(q['max_score'])}</h2>")
        parts.append("<table class=tests><tr><th>test</th><th>points</th><th>remarks</th>"
                     "</tr>")
        for t in q["tests"]:
            kind, mark = ("yes", "✓") if is_whole(t) else ("no", "✗")
            words = "".join(f"<p>{e(w)}</p>" for w in said(t))
            parts.append(f"<tr><td>{e(t['name'])}</td><td class={kind}>{mark} {points(t['score'])}"
                         f"/{points(t['max_score'])}</td><td>{words}</td></tr>")
        parts.append("</table>")
        if q.get("note"):
            parts.append(f"<p class=small>Note: {e(q['note'])}.</p>")
        if q.get("printed"):
            parts.append("<p class=small>Your code printed:</p>"
                         f"<pre>{e(q['printed'][:4096])}</pre>")
        parts += marking_sheet(q.get("marking sheet"))
    page(path, head, parts)


def marking_sheet(sheet: dict[str, Any] | None) -> list[str]:
    """Prose with what it is to be measured by: a person marks it, perhaps the one who wrote it."""
    if sheet is None:
        return []
    e = html.escape
    boxes = "".join(f"<li>☐ {e(str(line))}</li>" for line in sheet["rubric"])
    return [f"<h3>The prose, for a person to mark</h3><pre>{e(sheet['prose']) or '(none)'}</pre>",
            f"<p class=small>What to look for:</p><ul class=boxes>{boxes}</ul>" if boxes else "",
            f"<p class=small>A model answer:</p><pre>{e(sheet['model answer'])}</pre>"
            if sheet["model answer"] else ""]
