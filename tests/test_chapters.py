"""The chapters: each notebook is built from the .py file beside it, was run, and ended well."""

import json
from pathlib import Path

import jupytext
import pytest

from rlhf_edu.cases.reproduce import readme_block

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


def test_the_readme_shows_the_numbers_that_were_measured():
    result = json.loads((ROOT / "chapters/results/conflicting-signals.json").read_text())
    benchmark = json.loads((ROOT / "benchmarks/results/first_case.json").read_text())
    iteration, *elsewhere = (json.loads(path.read_text()) for path in (
        ROOT / "benchmarks/results/iteration.json",
        *sorted((ROOT / "benchmarks/results").glob("iteration-*.json"))))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme_block(result, benchmark, iteration, elsewhere)
    assert block in readme
    assert block.count("times as fast") == 2 + len(elsewhere)
