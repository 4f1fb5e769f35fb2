"""Everything again, on seeds that no result has used: `make reproduce`.

    python -m rlhf_edu.cases.reproduce                      all cases and studies
    python -m rlhf_edu.cases.reproduce tuning length        some of them
    python -m rlhf_edu.cases.reproduce --seeds 50 51 52 53 54

It runs each case, writes chapters/results/NAME.json with date, machine and seeds, draws the
pictures anew, and then rewrites from these files what the book shows: chapters/results.md (the
table), chapters/metrics.md (every logged quantity, healthy and sick) and the measured part of the
README. No number in them is typed by hand. A claim that does not hold stands there as NOT
REPRODUCED.
"""

import json
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro

from rlhf_edu.cases import CASES, STUDIES
from rlhf_edu.cases.case import Case, load_case
from rlhf_edu.cases.evidence import MIN_SEEDS, Seed
from rlhf_edu.cases.experiment import read_case, run_case
from rlhf_edu.cases.metrics import write_metrics_page
from rlhf_edu.cases.report import story_figure
from rlhf_edu.lab import record
from rlhf_edu.lab.machine import available_cores
from rlhf_edu.lab.plots import new_figure

HEADLINE = "conflicting-signals"  # the case of the README and of chapter 8
METRICS_FROM = HEADLINE  # the case whose runs the page of metrics shows


def main(
    names: tyro.conf.Positional[tuple[str, ...]] = (),
    seeds: tuple[int, ...] = (),
    book: Path = Path("chapters"),
    runs: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/reproduce"),
) -> None:
    """Run cases and studies on fresh seeds, and rewrite what the book shows of them.

    Args:
        names: cases and studies; without any, all
        seeds: instead of the next five that no result has used
        book: the folder of the chapters
        runs: where the run folders and reports go
    """
    results = book / "results"
    chosen = list(seeds) or fresh_seeds(results)
    for name in names or (*CASES, *STUDIES):
        out = runs / name
        result = finished(out, chosen) or run_case(
            name, chosen, "auto", out, None, fresh=False, resume=True)
        environment = record.environment(torch.device(result["device"]))
        record.write_json(results / f"{name}.json", result | {
            "environment": environment | {"cores": available_cores()}})
        case = load_case(name)
        found = [read_case(case, out, seed) for seed in chosen]
        draw(case, name, found, results)
        if name == METRICS_FROM:
            write_metrics_page(book, case, found)
    write_table(book)
    if Path("README.md").exists():
        write_readme(Path("README.md"), results)


def finished(out: Path, seeds: list[int]) -> dict[str, Any] | None:
    """The result of a case that was run on these seeds before an interruption; None if it was not.

    Run again it would take no time at all, and say so.
    """
    if not (out / "result.json").exists():
        return None
    result: dict[str, Any] = record.read_json(out / "result.json")
    return result if result["seeds"] == seeds else None


def fresh_seeds(results: Path) -> list[int]:
    """The next seeds after the largest that a result in this folder has used."""
    used = [s for path in results.glob("*.json") for s in json.loads(path.read_text())["seeds"]]
    first = max(used, default=-1) + 1
    return list(range(first, first + MIN_SEEDS))


def draw(case: Case, name: str, seeds: list[Seed], results: Path) -> None:
    """The story's figure and the case's own pictures, as results/NAME-0.png and on."""
    for old in results.glob(f"{name}-[0-9]*.png"):
        old.unlink()
    drawn = [story_figure(case, seeds)] if case.story else []
    for picture in case.pictures:
        figure, axes = new_figure(*picture.shape, height=picture.height)
        picture.draw(axes, seeds)
        drawn.append(figure)
    for i, figure in enumerate(drawn):
        figure.savefig(results / f"{name}-{i}.png", dpi=80, metadata={"Software": None})


# ── What the book shows ─────────────────────────────────────────────────────────────────────────
def number(value: float | None) -> str:
    """A number of a table, and a dash for one that does not exist."""
    return "–" if value is None else format(value, ".3g")


def write_table(book: Path) -> None:
    """chapters/results.md, from every result there is."""
    lines = [
        "# Results", "",
        "Written by `make reproduce` from the files in `results/`; nothing here is typed by hand. "
        "Each number is a mean over seeds, with its 95 % interval and the seed that speaks most "
        "against the claim. A number that only all seeds have together has the jackknife's "
        "interval, which need not contain it, and the worst of its pseudo-values.", "",
    ]
    for title, names in (("Case studies", CASES), ("Published results in miniature", STUDIES)):
        lines += [f"## {title}", ""]
        for name, summary in names.items():
            path = book / "results" / f"{name}.json"
            if path.exists():
                lines += section(name, summary, json.loads(path.read_text()), book)
    record.write_text(book / "results.md", "\n".join(lines) + "\n")


def section(name: str, summary: str, result: dict[str, Any], book: Path) -> list[str]:
    """One case: verdict, observations, remedies, pictures, and where it was run."""
    verdict = "REPRODUCED" if result["reproduced"] else "NOT REPRODUCED"
    papers = any(o.get("paper") for o in result["observations"])
    head = ["claim", *(["published"] if papers else []), "value", "95 % interval", "worst", ""]
    lines = [f"### {name}", "", f"{summary[0].upper()}{summary[1:]} **{verdict}**", "",
             f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for o in result["observations"]:
        cells = [o["claim"], *([o["paper"]] if papers else []), number(o["value"]),
                 f"{number(o['low'])} … {number(o['high'])}", number(o["worst"]),
                 in_words(o)]
        lines.append(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in cells)} |")
    lines.append("")
    if result["winner"]:
        lines += [f"Remedies: {result['winner']}.", ""]
    for picture in sorted((book / "results").glob(f"{name}-[0-9]*.png")):
        lines += [f"![{name}](results/{picture.name})", ""]
    where = result["environment"]
    seconds = f"{result['wall_s']:.0f} s, less what the cache held"
    cores = f"{where['cores']} core{'s' * (where['cores'] != 1)}"
    lines += [f"Seeds {', '.join(map(str, result['seeds']))}; {seconds}; "
              f"{where['date'].split()[0]}; {cores}, {where['system']}, "
              f"{where['device_name']}, torch {where['torch']}.", ""]
    return lines


def in_words(o: dict[str, Any]) -> str:
    """An observation's verdict."""
    if not o.get("graded", True):
        return "reported: yes" if o["holds"] else "reported: no"
    return "holds" if o["holds"] else "**not reproduced**"


def readme_block(result: dict[str, Any], first_case: dict[str, Any],
                 iteration: dict[str, Any], elsewhere: list[dict[str, Any]]) -> str:
    """The part of the README that shows measured numbers, made from the files that hold them.

    `elsewhere`: the same measurement as `iteration`, on other machines.
    """
    lines = [f"{o['value']:7.3f} [{o['low']:7.3f}, {o['high']:7.3f}]  "
             f"{'HOLDS' if o['holds'] else 'NOT REPRODUCED'}  {o['claim']}"
             for o in result["observations"]]
    seeds, machine = " ".join(map(str, result["seeds"])), first_case["environment"]
    one, demo = first_case["one_seed"], first_case.get("demo")
    whole = f"the demo takes {demo['wall_s'] / 60:.1f} minutes and " if demo else ""
    seconds = iteration["seconds"]
    return "\n".join([
        "<!-- measured -->",
        f"On seeds {seeds}, on which nothing was tuned: mean over seeds, 95 % interval, and "
        "the verdict:", "", "```text", *lines, "```", "",
        f"From nothing, on {machine['cores']} cores ({machine['device_name']}, torch "
        f"{machine['torch']}), {whole}one seed of the story's own run {one['total_s']:.0f} s and "
        f"{one['peak_memory_gb']:.1f} GB.", "",
        f"One PPO iteration (256 replies, 4 epochs, separate critic) takes "
        f"{seconds['full_length']['ours']:.2f} s when every reply has 32 tokens, "
        f"{iteration['full_length_vs_trl']:.1f} times as fast as TRL 1.12's on the same models and "
        f"cores, and {seconds['desk_lengths']['ours']:.2f} s on the desk's own lengths, "
        f"{iteration['desk_lengths_vs_trl']:.1f} times as fast. The matrix products "
        f"alone would take {100 * iteration['update_share_of_bound']:.0f} % of an update's time "
        "at full length (`python benchmarks/iteration.py`).",
        *map(on_another_machine, elsewhere),
        "<!-- /measured -->",
    ])


def on_another_machine(iteration: dict[str, Any]) -> str:
    """A sentence on the same measurement there."""
    where, seconds = iteration["environment"], iteration["seconds"]
    ours = [seconds[lengths]["ours"] for lengths in ("full_length", "desk_lengths")]
    times = [iteration[f"{lengths}_vs_trl"] for lengths in ("full_length", "desk_lengths")]
    return (f"On another machine ({where['cores']} cores, {where['device_name']}, with the code of "
            f"{where['date'].split()[0]}): {ours[0]:.2f} and {ours[1]:.2f} s, {times[0]:.1f} and "
            f"{times[1]:.1f} times as fast, the products alone "
            f"{100 * iteration['update_share_of_bound']:.0f} % of an update.")


def write_readme(readme: Path, results: Path) -> None:
    """The measured part of the README, anew."""
    measured = readme.parent / "benchmarks/results"
    result, first_case, iteration = (json.loads(path.read_text()) for path in (
        results / f"{HEADLINE}.json", measured / "first_case.json", measured / "iteration.json"))
    elsewhere = [json.loads(path.read_text()) for path in sorted(measured.glob("iteration-*.json"))]
    block = readme_block(result, first_case, iteration, elsewhere)
    text = readme.read_text(encoding="utf-8")
    record.write_text(readme, re.sub("<!-- measured -->.*<!-- /measured -->",
                                     lambda _: block, text, flags=re.DOTALL))


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
