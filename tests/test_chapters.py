"""The chapters: each notebook is built from the .py file beside it, was run, and ended well."""

import json
from pathlib import Path

import jupytext
import pytest

CHAPTERS = sorted((Path(__file__).parent.parent / "chapters").glob("[0-9]*.py"))


def test_there_is_a_chapter():
    assert CHAPTERS


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)
def test_the_notebook_says_what_its_source_says(source):
    written = jupytext.read(source).cells
    built = jupytext.read(source.with_suffix(".ipynb")).cells
    for number, (a, b) in enumerate(zip(written, built, strict=True), 1):
        assert (a.cell_type, a.source) == (b.cell_type, b.source), (
            f"cell {number} of {source.stem}.ipynb differs from {source.name}: run `make chapters`")


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)
def test_the_notebook_was_run_from_top_to_bottom_without_an_error(source):
    cells = jupytext.read(source.with_suffix(".ipynb")).cells
    counts = [cell.execution_count for cell in cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1)), "run `make chapters`"
    assert not [o for cell in cells for o in cell.get("outputs", []) if o.output_type == "error"]


@pytest.mark.parametrize("source", CHAPTERS, ids=lambda path: path.stem)
def test_the_notebook_carries_no_path_of_the_machine_it_was_run_on(source):
    text = source.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert str(Path.home()) not in text
    assert str(source.parent.parent) not in text
    assert json.loads(text)["metadata"]["kernelspec"]["name"] == "python3"


ROOT = Path(__file__).parent.parent


def readme_block(result, benchmark, iteration):
    """The part of the README that shows measured numbers, made from the files that hold them."""
    lines = [f"{o['value']:7.3f} [{o['low']:7.3f}, {o['high']:7.3f}]  "
             f"{'HOLDS' if o['holds'] else 'NOT REPRODUCED'}  {o['claim']}"
             for o in result["observations"]]
    seeds, machine = " ".join(map(str, result["seeds"])), benchmark["environment"]
    one, seconds = benchmark["one_seed"], iteration["seconds"]
    return "\n".join([
        "<!-- measured -->",
        f"On seeds {seeds}, on which nothing was tuned: mean over seeds, 95 % interval, and "
        "the verdict:", "", "```text", *lines, "```", "",
        f"That took {result['wall_s'] / 60:.1f} minutes on {machine['cores']} cores "
        f"({machine['system']}, torch {machine['torch']}); one seed of the story's own run, from "
        f"nothing, {one['total_s']:.0f} s and {one['peak_memory_gb']:.1f} GB.", "",
        f"One PPO iteration (256 replies, 4 epochs, separate critic) takes "
        f"{seconds['full_length']['ours']:.2f} s when every reply has 32 tokens, "
        f"{iteration['full_length_vs_trl']:.1f} times as fast as TRL 1.12's on the same models and "
        f"cores, and {seconds['desk_lengths']['ours']:.2f} s on the desk's own lengths, "
        f"{iteration['desk_lengths_vs_trl']:.1f} times as fast. The matrix products "
        f"alone would take {100 * iteration['update_share_of_bound']:.0f} % of an update's time "
        "at full length (`python benchmarks/iteration.py`).",
        "<!-- /measured -->",
    ])


def test_the_readme_shows_the_numbers_that_were_measured():
    result = json.loads((ROOT / "chapters/results/conflicting-signals.json").read_text())
    benchmark = json.loads((ROOT / "benchmarks/results/first_case.json").read_text())
    iteration = json.loads((ROOT / "benchmarks/results/iteration.json").read_text())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme_block(result, benchmark, iteration) in readme
