"""The report of a case: one page that needs no network, no textbook and not this package."""

import html
import json
from collections.abc import Sequence
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from rlhf_edu.cases.case import Case
from rlhf_edu.cases.evidence import Finding, Remedy, Seed, by_worth, shown
from rlhf_edu.lab import helpdesk, record
from rlhf_edu.lab.plots import COLOURS, curve, new_figure, panel

STYLE = """
body { font: 16px/1.55 Georgia, 'Times New Roman', serif; color: #1a1a1a; background: #fff;
       max-width: 64rem; margin: 2.5rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.9rem; margin-bottom: .2rem; } h2 { font-size: 1.25rem; margin-top: 2.4rem; }
p.question { font-size: 1.15rem; color: #444; margin-top: 0; }
table { border-collapse: collapse; font: 14px/1.4 system-ui, sans-serif; width: 100%; }
th { text-align: left; font-weight: 600; border-bottom: 2px solid #333; padding: .35rem .6rem; }
td { border-bottom: 1px solid #ddd; padding: .35rem .6rem; vertical-align: top; }
td:first-child { min-width: 13rem; }
th { vertical-align: bottom; } td, th { padding: .35rem .45rem; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
td.n { white-space: nowrap; }
.yes { color: #00704f; font-weight: 600; white-space: nowrap; }
.no { color: #b03000; font-weight: 600; white-space: nowrap; }
.sales { background: #ffd9a8; } .confident { background: #f3c6df; } .filler { background: #d8e6f3; }
.key span { padding: .1rem .4rem; margin-right: .6rem; font: 13px system-ui, sans-serif; }
figure { margin: 1rem 0; } figure svg { width: 100%; height: auto; }
figcaption { color: #555; font-size: .92rem; }
pre { background: #f6f6f4; padding: .8rem; overflow-x: auto; font-size: 12.5px; line-height: 1.4; }
.small { color: #555; font-size: .92rem; }
"""


def write_report(
    path: Path,
    case: Case,
    seeds: list[Seed],
    findings: list[Finding],
    remedies: list[Remedy],
    result: dict[str, Any],
    environment: dict[str, Any],
) -> None:
    """Write the page to `path`, whole or not at all."""
    verdict = (
        "<span class=yes>REPRODUCED</span>"
        if result["reproduced"]
        else "<span class=no>NOT REPRODUCED</span>"
    )
    story = "".join(f"<p>{text(part)}</p>" for part in paragraphs(case.text)[1:])
    sections = [
        f"<h1>{text(case.title)}</h1><p class=question>{text(case.question)}</p>",
        f"<p>{verdict} on seeds {', '.join(str(s.seed) for s in seeds)}.</p>{story}",
    ]
    if case.story:
        sections += [
            "<h2>What happens</h2>",
            figure(story_figure(case, seeds), STORY_CAPTION),
            "<h2>The same prompts, before and after</h2>",
            replies_table(seeds[0], case.story),
        ]
    sections += [
        "<h2>What was claimed, and what came out</h2>",
        observation_table(findings),
    ]
    for picture in case.pictures:
        drawn, axes = new_figure(*picture.shape, height=picture.height)
        picture.draw(axes, seeds)
        sections += [f"<h2>{text(picture.heading)}</h2>", figure(drawn, picture.caption)]
    if remedies:
        sections += [
            "<h2>What each change keeps, removes and costs</h2>",
            remedy_table(remedies),
            f"<p><b>The ranking.</b> {text(result['winner'])}.</p>",
        ]
    for arm, why in case.replies.items():
        sections += [
            f"<h2>Replies: {text(case.recipe.arms[arm].title)}</h2><p>{text(why)}</p>",
            replies_table(seeds[0], arm, rows=8),
        ]
    if case.tried:
        rows = [[text(what), text(outcome)] for what, outcome in case.tried]
        sections += [
            "<h2>What was tried and failed</h2>",
            table(["tried, before the thresholds were used", "what came of it"], rows),
        ]
    sections += [
        "<h2>Configuration and environment</h2>",
        f"<pre>{text(json.dumps(asdict(case.recipe), indent=1))}</pre>",
        f"<pre>{text(json.dumps(environment | {'wall_s': result['wall_s']}, indent=1))}</pre>",
    ]
    record.write_text(
        path,
        "<!doctype html><html lang=en><meta charset=utf-8>"
        f"<meta name=viewport content='width=device-width'><title>{text(case.title)}</title>"
        f"<style>{STYLE}</style><body>{''.join(sections)}</body></html>\n",
    )




def text(words: str) -> str:
    """Plain words as HTML."""
    return html.escape(words, quote=False)


def verdict(found: Finding) -> str:
    """The verdict, coloured where it is one."""
    colour = ("yes" if found.holds else "no") if found.graded else "small"
    return f"<span class={colour}>{found.verdict}</span>"


def paragraphs(docstring: str) -> list[str]:
    """The paragraphs of a docstring, each on one line."""
    return [" ".join(part.split()) for part in docstring.strip().split("\n\n")]


# ── Pictures ────────────────────────────────────────────────────────────────────────────────────
STORY_CAPTION = (
    "The story's run on held-out prompts. Thin lines are seeds, thick lines their mean, the band "
    "reaches from the lowest seed to the highest. Top left: how often the new policy's reply would "
    "be preferred to the reference's, according to the reward model and according to people."
)


def figure(drawn: Figure, caption: str) -> str:
    """A figure as inline SVG with its caption."""
    out = StringIO()
    drawn.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}<figcaption>{text(caption)}</figcaption></figure>"


def per_seed(seeds: list[Seed], arm: str, name: str) -> tuple[list[float], list[list[float]]]:
    """A metric over the examinations: updates, and one row a seed."""
    updates = [exam["update"] for exam in seeds[0].runs[arm].exams]
    return updates, [[exam[name] for exam in seed.runs[arm].exams] for seed in seeds]


def story_figure(case: Case, seeds: list[Seed]) -> Figure:
    """Eight panels of the story's run."""
    drawn, axes = new_figure(2, 4)
    two = {"rm/win_probability": "reward model", "gold/win_rate": "people"}
    for (name, label), colour in zip(two.items(), COLOURS, strict=False):
        curve(axes[0, 0], *per_seed(seeds, case.story, name), label, colour)
    axes[0, 0].axhline(0.5, color="#888888", linewidth=0.8)
    axes[0, 0].legend(fontsize=8, frameon=False)
    panel(axes[0, 0], "who prefers the new policy")
    rest = {
        "gold/total": "GOLD: the human score",
        "kl/exact": "KLREF: nats a response",
        "style/length": "LEN: tokens a reply",
        "style/first_answer": "DIRECT: words before answer",
        "style/sales": "SALES: share of sales words",
        "gold/answer": "right answers: part of GOLD",
        "refusal/unsafe_compliance": "UNSAFE: share carried out",
    }
    colours = (*COLOURS[1:], *COLOURS)
    for ax, (name, title), colour in zip(axes.flat[1:], rest.items(), colours, strict=False):
        curve(ax, *per_seed(seeds, case.story, name), "", colour)
        panel(ax, title)
    return drawn


# ── Tables ──────────────────────────────────────────────────────────────────────────────────────
def table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """An HTML table; columns in `numeric` are right-aligned. Cells are HTML already."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if i in numeric else ''}>{cell}</{tag}>"
            for i, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', head)}</tr></thead><tbody>{body}</tbody></table>"


def span(f: Finding, form: str) -> str:
    """The interval of a finding, "low … high"."""
    return f"{shown(f.low, form)} … {shown(f.high, form)}"


def observation_table(findings: list[Finding]) -> str:
    """Every observation with value, interval, median, worst seed and verdict."""
    papers = any(f.paper for f in findings)
    rows = [
        [
            text(f.claim),
            *([text(f.paper)] if papers else []),
            shown(f.value, ".3f"),
            span(f, ".3f"),
            shown(f.median, ".3f"),
            shown(f.worst, ".3f"),
            verdict(f),
        ]
        for f in findings
    ]
    kinds = {f.side for f in findings}
    note = (
        "<p class=small>Value is the mean over seeds with Student's 95 % interval (for a number "
        "that only all seeds have together, the jackknife's, and the worst of its pseudo-values); "
        "the whole interval has to be beyond the threshold. Differences are taken seed by seed."
        + (" Where the claim is that something does not happen, the interval has to reach the "
           "threshold: no such effect was found." if "reaches" in kinds else "")
        + (" Where the claim is about most seeds, at least four of five have to show it."
           if "mostly above" in kinds else "")
        + ("" if all(f.graded for f in findings) else " What is only reported does not count.")
        + "</p>"
    )
    head = ["claim", *(["published"] if papers else []),
            "value", "95 % interval", "median", "worst seed", ""]
    return table(head, rows, range(len(head) - 5, len(head) - 1)) + note


def remedy_table(remedies: list[Remedy]) -> str:
    """What each change keeps of the reward gain, removes of each regression, and costs."""

    def share(x: tuple[float, float, float]) -> str:
        value, low, high = (shown(100 * part, ".0f") for part in x)
        return f"{value} %<br><span class=small>{low} … {high}</span>"

    def gold(x: tuple[float, float, float]) -> str:
        value, low, high = (shown(part, "+.2f") for part in x)
        return f"{value}<br><span class=small>{low} … {high}</span>"

    names = list(remedies[0].removed)
    rows = [
        [
            text(r.what),
            share(r.reward_kept),
            *(share(r.removed[n]) for n in names),
            shown(r.worth, ".2f"),
            shown(r.kl, ".2f"),
            gold(r.beyond_stopping),
            f"{r.labels:,.0f}",
            f"{r.replies:,.0f}",
        ]
        for r in sorted(remedies, key=by_worth)
    ]
    head = ["change", "reward gain kept", *names, "worth", "KLREF", "GOLD beyond stopping early",
            "labels", "replies sampled"]
    note = (
        f"<p class=small>{', '.join(names)}: share of the story's own regression that the change "
        "removes. Below each share its 95 % interval over seeds. The reward is always read "
        "by the story's reward model. More than 100 % of a regression removed: better than the "
        "reference; less than 0 %: worse than the story. Worth: the smaller of the share of the "
        "reward gain kept and the mean share removed; a change wins from 0.7.</p>"
        "<p><b>The honest control</b> is the story itself, stopped early: GOLD of each change, "
        "minus GOLD of the unfixed run where it passed the same KLREF. If that interval reaches "
        "0, no difference was found: the change is then, as far as these seeds tell, a way to stop "
        "early without having to know when. If it lies above 0, people like the changed run better "
        "at the same distance.</p>"
    )
    return table(head, rows, range(1, len(head))) + note


def marked(reply: str) -> str:
    """A reply with sales words, over-confident words and filler marked."""
    kinds = {
        "sales": helpdesk.SALES_WORDS,
        "confident": helpdesk.CONFIDENT_WORDS,
        "filler": helpdesk.FILLER_WORDS,
    }
    words = []
    for word in reply.split():
        kind = next((kind for kind, members in kinds.items() if word in members), None)
        words.append(f"<span class={kind}>{text(word)}</span>" if kind else text(word))
    return " ".join(words)


def replies_table(seed: Seed, arm: str, rows: int = 14) -> str:
    """Answers of the reference and of an arm's last policy to the same held-out prompts."""
    samples = [s for s in seed.runs[arm].samples if s.get("final")][:rows]
    cells = [
        [
            text(s["prompt"]),
            marked(s["reference_reply"]),
            shown(s["reference_reward"], "+.1f"),
            shown(s["reference_gold"], "+.1f"),
            marked(s["reply"]),
            shown(s["reward"], "+.1f"),
            shown(s["gold"], "+.1f"),
        ]
        for s in samples
    ]
    key = (
        "<p class=key>Marked: <span class=sales>sales words</span>"
        "<span class=confident>over-confident words</span><span class=filler>filler</span> "
        f"<span class=small>seed {seed.seed}, the first {len(samples)} prompts of the examination"
        "</span></p>"
    )
    return key + table(
        ["prompt", "reference", "reward", "gold", "after training", "reward", "gold"],
        cells,
        (2, 3, 5, 6),
    )
