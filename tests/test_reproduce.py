"""What the book shows of the runs: the table of results, the page of metrics, fresh seeds."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf_edu.cases import CASES, STUDIES
from rlhf_edu.cases import reproduce as book
from rlhf_edu.cases.metrics import EXAMINED, TRAINING

CHAPTERS = Path(__file__).parent.parent / "chapters"


def result(**changes):
    """A result as `run_case` writes it, with the environment that `reproduce` adds."""
    observation = {"id": "up", "claim": "a|b rises", "value": 1.25, "low": 1.0, "high": None,
                   "worst": 0.5, "median": 1.2, "threshold": 0.0, "holds": False, "paper": "",
                   "per_seed": []}
    environment = {"date": "2026-01-02 03:04:05 +0000", "cores": 2, "system": "Linux x86_64",
                   "device_name": "x86_64", "torch": "2.13.0"}
    return {"name": "tuning", "reproduced": False, "observations": [observation], "remedies": [],
            "winner": "", "seeds": [3, 4], "device": "cpu", "wall_s": 61.2,
            "environment": environment} | changes


def test_fresh_seeds_are_those_that_no_result_has_used(tmp_path: Path) -> None:
    assert book.fresh_seeds(tmp_path) == [0, 1, 2, 3, 4]
    for name, seeds in (("a", [7, 3]), ("b", [41])):
        (tmp_path / f"{name}.json").write_text(json.dumps(result(seeds=seeds)))
    assert book.fresh_seeds(tmp_path) == [42, 43, 44, 45, 46]


def test_the_table_shows_every_claim_and_what_did_not_come_out(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results/tuning.json").write_text(json.dumps(result()))
    (tmp_path / "results/tuning-0.png").write_bytes(b"")
    (tmp_path / "results/tuning-twice-0.png").write_bytes(b"")  # of another case
    book.write_table(tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert "**NOT REPRODUCED**" in text and "**not reproduced**" in text
    assert r"| a\|b rises | 1.25 | 1 … – | 0.5 |" in text
    assert "![tuning](results/tuning-0.png)" in text and "tuning-twice" not in text
    assert ("Seeds 3, 4; 61 s, less what the cache held; 2026-01-02; 2 cores, Linux x86_64, "
            "x86_64, torch 2.13.0.") in text


def test_a_case_that_was_run_is_not_run_again_on_the_same_seeds(tmp_path: Path) -> None:
    assert book.finished(tmp_path, [3, 4]) is None
    (tmp_path / "result.json").write_text(json.dumps(result()))
    assert book.finished(tmp_path, [3, 4]) == result()
    assert book.finished(tmp_path, [3, 5]) is None


def test_the_books_table_is_what_its_results_say(tmp_path: Path) -> None:
    (tmp_path / "results").symlink_to(CHAPTERS / "results")
    book.write_table(tmp_path)
    assert (tmp_path / "results.md").read_text() == (CHAPTERS / "results.md").read_text()


@pytest.mark.parametrize("metric", [m for groups in (TRAINING, EXAMINED)
                                    for metrics in groups.values() for m in metrics],
                         ids=lambda m: m.names.split()[0])
def test_a_metric_says_what_it_is_and_which_case_shows_it(metric) -> None:
    assert metric.what and metric.unit and metric.healthy and metric.sick
    assert metric.case in {*CASES, *STUDIES, "–"}
    assert metric.drawn in {"", *metric.names.split()}
    assert all(f"`{name}`" in (CHAPTERS / "metrics.md").read_text()
               for name in metric.names.split())


def test_pictures_of_a_case_with_a_longer_name_are_left_alone(tmp_path: Path) -> None:
    for name in ("tuning-0.png", "tuning-1.png", "tuning-twice-0.png"):
        (tmp_path / name).write_bytes(b"")
    book.draw(SimpleNamespace(story="", pictures=[]), "tuning", [], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tuning-twice-0.png"]
