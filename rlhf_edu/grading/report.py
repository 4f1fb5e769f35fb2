"""A grade in the forms that people and systems read: a terminal, a page, Gradescope, CSV."""

import html
from pathlib import Path
from typing import Any

from rlhf_edu.lab import record

LADDER = {
    "bubblewrap": "bubblewrap: namespaces, Landlock and limits",
    "landlock": "Landlock and limits",
    "weak": "limits only: not safe against a hostile student",
}


def points(number: float) -> str:
    """Points without needless digits."""
    return f"{number:g}"


def terminal(report: dict[str, Any]) -> str:
    """The report as text."""
    lines = [f"isolation: {LADDER[report['isolation']]}; seed {report['seed']}"]
    lines += [f"note: {line}" for line in report["complaints"]]
    for q in report["questions"]:
        lines.append(f"{q['name']}: {points(q['score'])} of {points(q['max_score'])}")
        for t in q["tests"]:
            mark = "ok   " if t["score"] == t["max_score"] else "WRONG"
            lines.append(f"  {mark} {points(t['score'])}/{points(t['max_score'])}  {t['name']}")
            if t["score"] != t["max_score"]:
                lines += [f"         {words}" for words in (t["message"], t["hint"]) if words]
        if q.get("note"):
            lines.append(f"  note: {q['note']}")
        if q.get("printed"):
            lines.append("  Your code printed:")
            lines += [f"  | {line}" for line in q["printed"][:4096].splitlines()[:40]]
    lines.append(f"score: {points(report['score'])} of {points(report['max_score'])}")
    return "\n".join(lines)


def gradescope(report: dict[str, Any]) -> dict[str, Any]:
    """Gradescope's results.json."""
    tests = []
    for q in report["questions"]:
        for t in q["tests"]:
            right = t["score"] == t["max_score"]
            words = [w for w in (t["message"], t["hint"]) if w]
            tests.append({"name": f"{q['name']}: {t['name']}", "score": t["score"],
                          "max_score": t["max_score"], "status": "passed" if right else "failed",
                          "output": "\n".join(words), "visibility": "visible"})
    said = [f"isolation: {LADDER[report['isolation']]}; seed {report['seed']}"]
    said += report["complaints"]
    for q in report["questions"]:
        if q.get("printed"):
            said += [f"{q['name']} printed:", q["printed"][:4096]]
    return {"score": report["score"], "output": "\n".join(said), "visibility": "visible",
            "stdout_visibility": "hidden", "tests": tests}


STYLE = """
body { font: 16px/1.5 Georgia, serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font: 14px/1.4 system-ui, sans-serif; }
td, th { border-bottom: 1px solid #ddd; padding: .35rem .5rem; text-align: left;
         vertical-align: top; }
.yes { color: #00704f; } .no { color: #b03000; } .small { color: #555; font-size: .9rem; }
pre { background: #f6f6f4; padding: .7rem; overflow-x: auto; white-space: pre-wrap; }"""


def write_html(path: Path, report: dict[str, Any]) -> None:
    """The page for the student."""
    e = html.escape
    parts = [f"<h1>{points(report['score'])} of {points(report['max_score'])} points</h1>",
             f"<p class=small>{e(report['student'])} · seed {report['seed']} · "
             f"{e(LADDER[report['isolation']])}</p>"]
    parts += [f"<p class=no>{e(line)}</p>" for line in report["complaints"]]
    for q in report["questions"]:
        parts.append(f"<h2>{e(q['name'])}: {points(q['score'])} of {points(q['max_score'])}</h2>")
        parts.append("<table><tr><th>test</th><th>points</th><th></th></tr>")
        for t in q["tests"]:
            kind = "yes" if t["score"] == t["max_score"] else "no"
            words = "<br>".join(e(w) for w in (t["message"], t["hint"]) if w)
            parts.append(f"<tr><td>{e(t['name'])}</td><td class={kind}>{points(t['score'])}/"
                         f"{points(t['max_score'])}</td><td>{words}</td></tr>")
        parts.append("</table>")
        if q.get("note"):
            parts.append(f"<p class=small>{e(q['note'])}</p>")
        if q.get("printed"):
            said = e(q["printed"][:4096])
            parts.append(f"<p class=small>Your code printed:</p><pre>{said}</pre>")
    record.write_text(path, "<!doctype html><html lang=en><meta charset=utf-8>"
                            f"<title>Grade</title><style>{STYLE}</style><body>{''.join(parts)}"
                            "</body></html>\n")
