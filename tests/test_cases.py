"""Case studies: verdicts are right, runs repeatable, interrupts lose nothing, errors are a line.

Whole runs are those of extra_cases/tiny.py, a case that is done in seconds.
"""

import importlib
import itertools
import json
import math
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import rlhf_edu
from rlhf_edu import InputError, cli
from rlhf_edu.cases import CASES, conflicting_signals, evidence, experiment, report, stages
from rlhf_edu.cases.case import load_case
from rlhf_edu.cases.evidence import Observation, Run, Seed, grade, interval, ratio, spearman, weigh
from rlhf_edu.cases.stages import Place, prepare, run_arm, run_probe
from rlhf_edu.lab import helpdesk, record
from rlhf_edu.lab.machine import settle

EXTRA = Path(__file__).parent / "extra_cases"
STAGES = ("reference", "labels-biased", "labels-thin", "reward-biased", "reward-thin")
ARMS = ("hacked", "no-penalty", "k1-in-reward", "thin-coverage")
PROBES = ("probe-measured",)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


# ── Verdicts ────────────────────────────────────────────────────────────────────────────────────
def inside(t: float, df: int) -> float:
    """Pr(|T| ≤ t) of Student's t: Simpson's rule on its density."""
    x = np.linspace(0, t, 2001)
    log_density = -(df + 1) / 2 * np.log1p(x**2 / df)
    log_density += math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
    weights = np.ones(2001)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return float(2 * (np.exp(log_density) * weights).sum() * (x[1] - x[0]) / 3)


def used_t(n: int) -> float:
    """The t that `interval` uses for n values."""
    values = [float(i % 7) for i in range(n)]
    low, high = interval(values)
    assert (low + high) / 2 == pytest.approx(statistics.fmean(values))
    return (high - low) / 2 * math.sqrt(n) / float(np.std(values, ddof=1))


@pytest.mark.parametrize("df", range(1, 31))
def test_the_table_of_t_is_right_to_its_last_digit(df: int) -> None:
    t = used_t(df + 1)
    assert inside(t - 0.0005, df) <= 0.95 <= inside(t + 0.0005, df)


@pytest.mark.parametrize("df", [31, 32, 40, 60, 200])
def test_beyond_the_table_the_interval_is_never_too_narrow(df: int) -> None:
    assert 0.95 <= inside(used_t(df + 1), df) < 0.96


def test_interval_by_hand() -> None:
    assert interval([3.0, 3.0, 3.0]) == (3.0, 3.0)
    low, high = interval([0.0, 2.0])  # SD √2, so SD/√n is 1
    assert (low, high) == pytest.approx((1 - 12.706, 1 + 12.706))


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan], [1.0, math.inf, 2.0]])
def test_no_interval_where_there_is_none(values: list[float]) -> None:
    assert all(map(math.isnan, interval(values)))


def slow_spearman(x: list[float], y: list[float]) -> float:
    """Pearson's correlation of ranks found by counting; 0 if one of them does not vary."""

    def ranks(values: list[float]) -> np.ndarray:
        return np.array(
            [sum(v < w for v in values) + sum(v == w for v in values) / 2 for w in values]
        )

    a, b = ranks(x) - len(x) / 2, ranks(y) - len(y) / 2  # ranks so counted have the mean n/2
    spread = math.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / spread) if spread else 0.0


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=9))
def test_spearman_is_the_correlation_of_ranks(pairs: list[tuple[int, int]]) -> None:
    x, y = [float(a) for a, _ in pairs], [b / 7 for _, b in pairs]
    assert spearman(x, y) == pytest.approx(slow_spearman(x, y), abs=1e-12)


def test_spearman_by_hand() -> None:
    assert spearman([0, 2, 4, 6], [0, 0.1, 3, 900]) == pytest.approx(1)
    assert spearman([0, 2, 4, 6], [4, 3, 2, -1]) == pytest.approx(-1)
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert spearman([1, 2, 3, 4], [1, 1, 2, 2]) == pytest.approx(2 / math.sqrt(5))


@pytest.mark.parametrize("x, y", [([0, 2, 4], [0, 0, 0]), ([5, 5], [1, 2]), ([0], [0]), ([], [])])
def test_what_does_not_vary_has_no_correlation(x: list[float], y: list[float]) -> None:
    assert spearman(x, y) == 0


def test_spearman_with_a_nan_is_nan() -> None:
    assert math.isnan(spearman([0, 1, 2], [0, math.nan, 2]))


def seeds_with(values: list[float]) -> list[Seed]:
    """Seeds of which number i shows `values[i]`."""
    return [Seed(i, {}, {"shown": {"value": v}}) for i, v in enumerate(values)]


def graded(side: str, threshold: float, values: list[float]) -> evidence.Finding:
    claim = Observation("id", "claim", lambda s: s.reward_models["shown"]["value"], threshold, side)
    return grade(claim, seeds_with(values))


SPREAD = [0.9, 0.95, 1.0, 1.05, 1.1]  # the interval is 1 ± 0.098


@pytest.mark.parametrize(
    "side, threshold, values, holds",
    [
        ("above", 0.90, SPREAD, True),
        ("above", 0.91, SPREAD, False),  # every seed but one is above, the mean is, the end is not
        ("above", 1.2, SPREAD, False),
        ("below", 1.10, SPREAD, True),
        ("below", 1.09, SPREAD, False),
        ("below", 0.5, SPREAD, False),
        ("reaches", 1.09, SPREAD, True),  # not clearly below
        ("reaches", 0.5, SPREAD, True),
        ("reaches", 1.10, SPREAD, False),
        ("above", 1.0, [1.0] * 5, False),  # an effect of nothing is no effect
        ("below", 1.0, [1.0] * 5, False),
        ("reaches", 1.0, [1.0] * 5, True),
        ("above", 0.0, [5.0] * 4, False),  # fewer than five seeds never hold
        ("below", 9.0, [5.0] * 4, False),
        ("reaches", 0.0, [5.0] * 4, False),
        ("above", 0.0, [5.0], False),
        ("above", 0.0, [5.0] * 5 + [math.nan], False),
        ("below", 9.0, [5.0] * 5 + [math.nan], False),
        ("reaches", 0.0, [math.inf] * 6, False),
    ],
)
def test_verdict(side: str, threshold: float, values: list[float], holds: bool) -> None:
    assert graded(side, threshold, values).holds is holds


def test_a_finding_says_everything() -> None:
    found = graded("above", 0.5, [0.9, 1.1, 0.95, 1.05, 2.0])
    assert (found.id, found.claim, found.threshold, found.side) == ("id", "claim", 0.5, "above")
    assert found.values == [0.9, 1.1, 0.95, 1.05, 2.0]
    assert found.value == pytest.approx(1.2) and found.median == 1.05
    assert (found.low, found.high) == interval(found.values)
    assert found.worst == 0.9
    assert graded("reaches", 0.5, [0.9, 1.1]).worst == 0.9
    assert graded("below", 0.5, [0.9, 1.1]).worst == 1.1


def test_one_seed_has_a_value_but_no_interval() -> None:
    found = graded("above", 0.5, [0.9])
    assert (found.value, found.median, found.worst) == (0.9, 0.9, 0.9)
    assert math.isnan(found.low) and math.isnan(found.high)


@pytest.mark.parametrize("values", [[0.9], [1.0, math.nan, 3.0], [math.inf] * 5])
def test_a_finding_is_json(values: list[float]) -> None:
    content = experiment.as_json(graded("above", 0.5, values))
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["low"] is None and content["high"] is None
    assert content["per_seed"] == [v if math.isfinite(v) else None for v in values]
    if len(values) > 1:
        assert content["value"] is content["median"] is content["worst"] is None


def test_a_share_of_nothing_does_not_hold() -> None:
    claim = Observation("id", "claim", lambda s: 1 / s.seed, 0.0, "above")
    found = grade(claim, [Seed(i, {}, {}) for i in range(6)])
    assert math.isnan(found.values[0]) and found.values[1:] == [1 / i for i in range(1, 6)]
    assert not found.holds


def test_what_does_not_exist_is_shown_as_a_dash() -> None:
    assert evidence.shown(1.25, "+.1f") == "+1.2"
    assert evidence.shown(math.nan, "+.1f") == evidence.shown(-math.inf, ".3f") == "–"


# ── What a change keeps, removes and costs ──────────────────────────────────────────────────────
def test_ratio_keeps_pairs_together() -> None:
    wholes = [1.0, 5.0, 2.0, 40.0]
    assert ratio([w / 4 for w in wholes], wholes) == pytest.approx((0.25, 0.25, 0.25))


def test_ratio_is_of_sums_and_for_equal_wholes_a_mean() -> None:
    assert ratio([0.0, 3.0], [1.0, 2.0])[0] == 1
    parts = [0.1, 0.4, -0.2, 0.3, 0.9]
    expected = (statistics.fmean(parts) / 2, *(end / 2 for end in interval(parts)))
    assert ratio(parts, [2.0] * 5) == pytest.approx(expected)
    value, low, high = ratio(parts, [-2.0] * 5)  # a story in which a measure falls
    assert (value, low, high) == pytest.approx((-expected[0], -expected[2], -expected[1]))


def test_ratio_has_an_interval_as_wide_as_a_bootstrap_would_find() -> None:
    numbers = np.random.default_rng(1)
    whole = numbers.normal(2, 0.4, 60)
    part = 0.5 * whole + numbers.normal(0, 0.3, 60)
    value, low, high = ratio([float(x) for x in part], [float(x) for x in whole])
    draws = numbers.integers(0, 60, (4000, 60))
    again = part[draws].sum(1) / whole[draws].sum(1)
    assert value == pytest.approx(float(part.sum() / whole.sum()))
    assert high - value == pytest.approx(value - low)
    assert high - low == pytest.approx(2 * 2.042 * float(again.std()), rel=0.1)


def test_one_seed_has_a_ratio_but_no_interval() -> None:
    value, low, high = ratio([2.0], [8.0])
    assert value == 0.25 and math.isnan(low) and math.isnan(high)


@pytest.mark.filterwarnings("error")
def test_a_ratio_to_nothing_is_nan() -> None:
    for parts, wholes in (([0.0, 0.0], [0.0, 0.0]), ([1.0, 2.0], [0.0, 0.0])):
        assert all(map(math.isnan, ratio(parts, wholes)))
    assert all(map(math.isnan, ratio([1.0, math.nan], [1.0, 2.0])))
    assert all(map(math.isnan, ratio([1.0, 1.0], [1.0, math.nan])))


def hand_made(number: int, story: dict[str, float], change: dict[str, float]) -> Seed:
    """A seed with a story and a changed arm, of which all regressions are given by name."""

    def run(given: dict[str, float], own_reading: float) -> Run:
        final = {name: given[label] for name, label in evidence.REGRESSIONS.items()}
        final |= {"kl/exact": given["kl"], "rm/mean": own_reading}
        base = dict.fromkeys(evidence.REGRESSIONS, 10.0) | {"rm/mean": 0.5}
        exams = [base | {"update": 0, "kl/exact": 0.0}, final | {"update": 2}]
        return Run([], exams, final, base, {"rm/mean": given["rm"]}, [])

    models = {"biased": {"labels": 60, "replies": 120}, "other": {"labels": 50, "replies": 400.0}}
    return Seed(number, {"story": run(story, 77.0), "change": run(change, -5.0)}, models)


def test_weigh_by_hand() -> None:
    """The reference has 10 in every measure and 0.5 in reward; the story loses 4, then 2."""
    measures = evidence.REGRESSIONS.values()
    seeds = [
        hand_made(0, {"rm": 2.5, "kl": 9.0} | dict.fromkeys(measures, 6.0),
                  dict.fromkeys(measures, 10.0)
                  | {"rm": 1.5, "kl": 3.0, "LEN": 6.0, "DIRECT": 8.0, "SALES": 12.0}),
        hand_made(1, {"rm": 4.5, "kl": 9.0} | dict.fromkeys(measures, 8.0),
                  dict.fromkeys(measures, 10.0)
                  | {"rm": 2.5, "kl": 5.0, "LEN": 8.0, "DIRECT": 9.0, "SALES": 11.0}),
    ]  # fmt: skip
    found = weigh("change", "what", "story", "other", evidence.REGRESSIONS, seeds)
    assert (found.arm, found.what, found.kl) == ("change", "what", 4.0)
    assert (found.labels, found.replies) == (50, 400)
    # The judge's readings: (1 + 2) of (2 + 4).
    assert found.reward_kept == pytest.approx((0.5, 0.5, 0.5))
    assert {name: share[0] for name, share in found.removed.items()} == pytest.approx(
        dict.fromkeys(measures, 1.0) | {"LEN": 0.0, "DIRECT": 0.5, "SALES": 1.5}
    )
    # The story passed the KL of 3 and of 5 after a third and five ninths of its way down.
    beyond = [10.0 - (10 - 4 * 3 / 9), 10.0 - (10 - 2 * 5 / 9)]
    assert found.beyond_stopping == pytest.approx((statistics.fmean(beyond), *interval(beyond)))


def still(seed: int) -> Seed:
    """A seed of the first case in which nothing moves: every metric is 0 throughout."""
    metrics = {"kl/exact": 0.0, "rm/mean": 0.0, "rm/win_probability": 0.0}
    metrics |= dict.fromkeys(evidence.REGRESSIONS, 0.0)
    exams = [{"update": update, **metrics} for update in (0, 2, 4)]
    run = Run([{"policy/kl_old_last_epoch": 0.0}], exams, metrics, metrics, metrics, [])
    raters = {"filler_effect": 0.0, "labels": 1, "replies": 2}
    recipe = conflicting_signals.RECIPE
    return Seed(seed, dict.fromkeys(recipe.arms, run), dict.fromkeys(recipe.raters, raters))


@pytest.mark.filterwarnings("error")
def test_a_run_in_which_nothing_moves_is_graded_too() -> None:
    seeds = [still(seed) for seed in range(5)]
    for claim in conflicting_signals.OBSERVATIONS:
        json.dumps(experiment.as_json(grade(claim, seeds)), allow_nan=False)
    rises = next(c for c in conflicting_signals.OBSERVATIONS if c.id == "kl-rises")
    assert grade(rises, seeds).values == [0.0] * 5
    remedy = weigh("both-changes", "", conflicting_signals.STORY, "matched", evidence.REGRESSIONS,
                   seeds)
    assert math.isnan(remedy.reward_kept[0]) and math.isnan(remedy.worth)
    assert remedy.beyond_stopping == (0, 0, 0)


# ── The tiny case ───────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module", autouse=True)
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The tiny case, known here and in every process started from here; settled as a worker is."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rlhf_edu.cases, "__path__", [*rlhf_edu.cases.__path__, str(EXTRA)])
        patch.setitem(CASES, "tiny", "a case for the tests")
        path = os.environ.get("PYTHONPATH")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(EXTRA), *([path] if path else [])]))
        patch.setenv("RLHF_EDU_CACHE", str(tmp_path_factory.mktemp("cache")))
        settle(cores=1)
        yield importlib.import_module("rlhf_edu.cases.tiny")
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        sys.modules.pop("rlhf_edu.cases.tiny")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of this test's own."""
    monkeypatch.setenv("RLHF_EDU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def no_tick(seconds: float) -> None:
    pass


@pytest.fixture(scope="module")
def prepared(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder in which reference, labels and reward models of seed 3 are finished."""
    out = tmp_path_factory.mktemp("prepared") / "out"
    prepare(tiny.RECIPE, Place(out, 3, "cpu", fresh=False, resume=False), no_tick)
    return out


@pytest.fixture(scope="module")
def whole(tiny: Any, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of seed 3, all of it made in this process without an interrupt."""
    out = tmp_path_factory.mktemp("whole") / "out"
    shutil.copytree(prepared, out)
    for arm in ARMS:
        run_arm(tiny.RECIPE, arm, Place(out, 3, "cpu", fresh=False, resume=False), no_tick)
    run_probe(tiny.RECIPE, "measured", tiny.measured,
              Place(out, 3, "cpu", fresh=False, resume=False), no_tick)
    return out


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Jobs run in this process, one after another, without a report; holds what was trained."""
    seen: list[str] = []

    def one_after_another(name: str, places: list[Place], tick: Any, seed_done: Any) -> None:
        for place in places:
            for round_of_jobs in experiment.jobs(load_case(name)):
                for job in round_of_jobs:
                    experiment.work(name, job, place, tick)
            seed_done(place.seed)

    def counted(name: str, train: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            seen.append(name)
            return train(*args, **options)

        return call

    monkeypatch.setattr(experiment, "in_processes", one_after_another)
    monkeypatch.setattr(report, "write_report", lambda *everything: None)
    for name in MAKERS:
        monkeypatch.setattr(stages, name, counted(name, getattr(stages, name)))
    return seen


MAKERS = ("train_sft", "collect_preferences", "train_reward_model", "train_rlhf", "Room")
EVERYTHING = [name for name, n in zip(MAKERS, (1, 2, 2, 4, 1), strict=True) for _ in range(n)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a run that must not depend on when and how it was made."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("environment.json", "done.json")
    }


def same_runs(a: Path, b: Path, seed: int = 3) -> None:
    """Two output folders hold the same ten runs of a seed, bit for bit."""
    runs = contents(a / f"seed-{seed}")
    assert {path.split(os.sep)[0] for path in runs} == {*STAGES, *ARMS, *PROBES}
    assert {f"{run}{os.sep}model.safetensors" for run in (*STAGES, *ARMS)
            if not run.startswith("labels-")} <= runs.keys()
    assert {f"labels-{raters}{os.sep}preferences.safetensors" for raters in ("biased", "thin")} \
        <= runs.keys()
    assert runs.keys() == contents(b / f"seed-{seed}").keys()
    for name, content in contents(b / f"seed-{seed}").items():
        assert runs[name] == content, name


def run_tiny(*options: str | Path) -> int:
    """`rlhf-edu run tiny` in this process."""
    return cli.main(["run", "tiny", "--device", "cpu", *map(str, options)])


def error_line(stderr: str) -> str:
    """The only line on stderr beside the progress bar, which must be an error of ours."""
    lines = [x for x in stderr.replace("\r", "\n").splitlines() if x.strip() and "% |" not in x]
    assert len(lines) == 1 and lines[0].startswith("rlhf-edu: "), stderr
    return lines[0]


# ── Run whole, run again ────────────────────────────────────────────────────────────────────────
def test_what_is_done_is_not_done_again(
    cache: Path, trained: list[str], whole: Path, tmp_path: Path
) -> None:
    out, another, options = tmp_path / "a", tmp_path / "b", ("--seeds", "3")
    assert run_tiny("--out", out, *options) == 0
    assert trained == EVERYTHING
    same_runs(out, whole)

    trained.clear()
    before = contents(out / "seed-3")
    assert run_tiny("--out", out, *options) == 0
    assert trained == [] and contents(out / "seed-3") == before, "the folder is complete"

    assert run_tiny("--out", another, *options) == 0
    assert trained == [], "another folder is filled from the cache"
    same_runs(another, out)

    assert run_tiny("--out", another, "--fresh", *options) == 0
    assert trained == EVERYTHING, "--fresh uses neither the folder nor the cache"
    same_runs(another, out)


def test_another_seed_is_other_work(
    cache: Path, tiny: Any, trained: list[str], complete: tuple[Path, dict[str, Any]],
    tmp_path: Path,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    shutil.copytree(complete[0], out)
    assert run_tiny("--out", out, "--seeds", "3", "4", "--json", tmp_path / "a.json") == 0
    assert trained == EVERYTHING
    same_runs(out, complete[0])
    metrics = [out / f"seed-{seed}" / "hacked" / "metrics.jsonl" for seed in (3, 4)]
    assert metrics[0].read_bytes() != metrics[1].read_bytes()
    observations = record.read_json(tmp_path / "a.json")["observations"]
    assert all(len(observation["per_seed"]) == 2 for observation in observations)
    assert all(observation["low"] is not None for observation in observations)
    both = zip(observations, complete[1]["observations"], tiny.OBSERVATIONS, strict=True)
    assert all(two["per_seed"][0] == one["per_seed"][0] for two, one, o in both if not o.pooled)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Makes an empty stage as described and returns its key; a GPU need not be there."""
    monkeypatch.setattr(record, "environment", lambda device: {})
    numbers = itertools.count()

    def make(out: Path, name: str = "x", config: Any = None, parents: Any = ("p",), seed: int = 0,
             device: str = "cpu") -> str:  # fmt: skip
        place = Place(out / str(next(numbers)), seed, device, fresh=False, resume=False)
        return stages.stage(place, name, config or {"lr": 0.1}, list(parents), lambda folder: None)

    return make


def test_a_key_is_what_the_numbers_depend_on(
    cache: Path, made: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = made(tmp_path)
    assert made(tmp_path) == made(tmp_path / "other", seed=5) == key, "wherever it is"
    others = [
        made(tmp_path, config={"lr": 0.2}),
        made(tmp_path, config={"lr": 0.1, "seed": 1}),
        made(tmp_path, parents=["q"]),
        made(tmp_path, parents=["p", "p"]),
        made(tmp_path, device="cuda"),
    ]
    for change in (
        lambda: monkeypatch.setattr(stages, "code_digest", lambda: "edited"),
        lambda: monkeypatch.setattr(torch, "__version__", "9.9"),
        lambda: monkeypatch.setattr(torch, "get_num_threads", lambda: 64),
    ):
        change()
        others.append(made(tmp_path))
    assert len({key, *others}) == 9
    assert sorted(p.name for p in cache.iterdir()) == sorted(
        f"{record.FORMAT}-{k}" for k in {key, *others}
    )


def test_a_key_knows_how_precise_matrix_products_are(
    cache: Path, made: Callable[..., str], tmp_path: Path
) -> None:
    """Two precisions of 32 bits round differently: other bits after one update."""
    before = torch.get_float32_matmul_precision()
    keys = set()
    try:
        for precision in ("highest", "medium"):
            torch.set_float32_matmul_precision(precision)
            keys.add(made(tmp_path))
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(keys) == 2


def test_the_code_digest_sees_every_change_of_concepts_and_laboratory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "rlhf_edu"
    shutil.copytree(Path(rlhf_edu.__file__).parent, package)
    monkeypatch.setattr(rlhf_edu, "__file__", str(package / "__init__.py"))
    digest: Callable[[], str] = stages.code_digest.__wrapped__
    before = digest()
    assert digest() == before
    for name, seen in {
        "kl_penalty.py": True,
        "lab/rlhf.py": True,
        "lab/helpdesk.py": True,
        "cases/report.py": False,
        "grading/check.py": False,
    }.items():
        file = package / name
        text = file.read_text(encoding="utf-8")
        file.write_text(text + "\n# changed\n", encoding="utf-8")
        assert (digest() != before) is seen, name
        file.write_text(text, encoding="utf-8")


def test_a_stage_is_keyed_by_its_own_settings_and_by_those_before_it(
    tiny: Any, whole: Path, prepared: Path, tmp_path: Path
) -> None:
    """An arm holds the keys of its reward model and of the judge; those hold their labels'; those
    hold the reference's. A probe holds them all."""
    configs = {run: record.read_json(whole / "seed-3" / run / "config.json")
               for run in (*STAGES, *PROBES)}  # fmt: skip
    reference, labels, thin_labels, biased, thin, probe = configs.values()
    assert reference["parents"] == []
    assert labels["parents"] == thin_labels["parents"] == [reference["key"]]
    assert biased["parents"] == [labels["key"]] and thin["parents"] == [thin_labels["key"]]
    arms = {arm: record.read_json(whole / "seed-3" / arm / "config.json") for arm in ARMS}
    assert arms["hacked"]["parents"] == [biased["key"]]
    assert arms["thin-coverage"]["parents"] == [thin["key"], biased["key"]]
    keys = [config["key"] for config in (*configs.values(), *arms.values())]
    assert len(set(keys)) == 10
    assert sorted(probe["parents"]) == sorted(set(keys) - {probe["key"]})
    assert arms["hacked"]["config"]["rlhf"]["seed"] == reference["config"]["sft"]["seed"] == 3

    shutil.copytree(prepared, tmp_path / "out")
    arm = tiny.RECIPE.arms["hacked"]
    changed = replace(arm, rlhf=replace(arm.rlhf, lr=arm.rlhf.lr / 2, updates=1))
    recipe = replace(tiny.RECIPE, arms={"hacked": changed})
    place = Place(tmp_path / "out", 3, "cpu", fresh=False, resume=False)
    run_arm(recipe, "hacked", place, no_tick)
    assert stages.stage_key(place, "hacked") not in keys
    with pytest.raises(InputError, match=r"config\.rlhf\.lr \(there .*, now .*--fresh"):
        run_arm(tiny.RECIPE, "hacked", place, no_tick)


# ── What a run leaves ───────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def complete(
    tiny: Any, prepared: Path, whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """The output folder of a whole run on one seed, and what it returned."""
    folder = tmp_path_factory.mktemp("complete")
    shutil.copytree(whole, folder / "out")
    record.write_json(folder / "out" / "case.json", {"format": record.FORMAT, "case": "tiny"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "in_processes", lambda name, places, tick, done: done(3))
        result = experiment.run_case(
            "tiny", [3], "cpu", folder / "out", folder / "a.json", False, False
        )
    return folder / "out", result


def test_the_json_has_the_keys_that_others_rely_on(
    tiny: Any, complete: tuple[Path, dict[str, Any]]
) -> None:
    out, result = complete

    def strict(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    text = (out.parent / "a.json").read_text(encoding="utf-8")
    content = json.loads(text, parse_constant=strict)
    assert content == result == json.loads((out / "result.json").read_text(encoding="utf-8"))
    promised = {"name", "reproduced", "observations", "seeds", "device", "wall_s"}
    assert content.keys() == promised | {"remedies", "winner"}
    promised = {"id", "claim", "value", "low", "high", "worst", "threshold", "holds"}
    for observation in content["observations"]:
        assert observation.keys() == promised | {"median", "per_seed", "paper", "graded"}
    assert (content["name"], content["seeds"], content["device"]) == ("tiny", [3], "cpu")
    assert [o["id"] for o in content["observations"]] == [o.id for o in tiny.OBSERVATIONS]
    assert content["observations"][0]["low"] is None and content["reproduced"] is False
    assert [r["arm"] for r in content["remedies"]] == ["k1-in-reward", "thin-coverage"]
    assert all(math.isfinite(r["beyond_stopping"][0]) and r["beyond_stopping"][1] is None
               for r in content["remedies"])  # fmt: skip
    assert content["winner"].split()[0] in tiny.REMEDIES


def test_a_case_may_write_documents_of_its_own(complete: tuple[Path, dict[str, Any]]) -> None:
    assert (complete[0] / "card.md").read_text(encoding="utf-8") == "# 1 seeds\n"


def test_what_is_read_is_what_was_written(
    tiny: Any, complete: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    raters_of = {arm: settings.raters for arm, settings in tiny.RECIPE.arms.items()}
    seed = evidence.read_seed(complete[0] / "seed-3", 3, raters_of, (), tiny.PROBES)
    assert seed.probes["measured"]["seed"] == 3 and seed.probes["measured"]["drift"] > 0
    assert math.isnan(seed.probes["measured"]["nothing"])
    assert seed.runs.keys() == set(ARMS) and seed.reward_models.keys() == {"biased", "thin"}
    for arm, run in seed.runs.items():
        assert [update["update"] for update in run.updates] == [1, 2, 3, 4, 5, 6]
        assert [exam["update"] for exam in run.exams] == [0, 2, 4, 6]
        assert run.exams[0]["kl/exact"] == pytest.approx(0, abs=1e-6)
        assert run.final["gold/total"] != run.reference["gold/total"]
        assert run.judge.keys() == {name for name in run.final if name.startswith("rm/")}
        assert (run.judge["rm/mean"] == run.final["rm/mean"]) is (arm != "thin-coverage")
        assert len([s for s in run.samples if s.get("final")]) == 5
        change = run.final["gold/total"] - run.reference["gold/total"]
        assert seed.change(arm, "gold/total") == change
        model = seed.reward_models[raters_of[arm]]
        assert run.reference["rm/mean"] == model["reference/rm/mean"]
    assert (seed.reward_models["thin"]["labels"], seed.reward_models["thin"]["replies"]) == (24, 72)

    shutil.copytree(complete[0] / "seed-3", tmp_path / "seed-3")
    metrics = tmp_path / "seed-3" / "hacked" / "metrics.jsonl"
    lines = record.read_lines(metrics)
    metrics.unlink()
    for line in lines:
        record.append_line(metrics, {k: math.nan if k.endswith("kl/exact") else v
                                     for k, v in line.items()})  # fmt: skip
    run = evidence.read_seed(tmp_path / "seed-3", 3, raters_of).runs["hacked"]
    assert math.isnan(run.final["kl/exact"]) and math.isnan(run.exams[0]["kl/exact"])


class Page(HTMLParser):
    """Reads a page: its text, what it points to, its classes; complains about loose ends."""

    VOID = {"meta", "br", "hr", "img", "link", "input"}
    OPTIONAL = {"p", "html", "body", "td", "th", "tr", "li"}

    def __init__(self, path: Path):
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.marked: dict[str, set[str]] = {}
        self.pointers: list[str] = []
        self.tags: set[str] = set()
        self.styles = self.everything = ""
        self.kind: str | None = None
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        named = dict(attributes)
        self.kind = named.get("class") if tag == "span" else None
        if tag == "td":
            self.cells.append("")
        for name, value in attributes:
            if name.split(":")[-1] in ("src", "href", "srcset", "data", "action", "poster"):
                self.pointers.append(value or "")
            elif not name.startswith(("xmlns", "rdf:")):  # names, which nothing loads
                self.styles += value or ""

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        self.kind = None
        while self.open[-1] != tag and self.open[-1] in self.OPTIONAL:
            self.open.pop()
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            self.styles += data
            return
        self.everything += data
        if "td" in self.open:
            self.cells[-1] += data
        if self.kind:
            self.marked.setdefault(self.kind, set()).add(data)


@pytest.fixture(scope="module")
def page(complete: tuple[Path, dict[str, Any]]) -> Page:
    return Page(complete[0] / "report.html")


def test_the_report_needs_nothing_from_outside(page: Page) -> None:
    assert all(pointer.startswith("#") for pointer in page.pointers), page.pointers
    assert not page.tags & {"script", "link", "iframe", "img", "image", "object", "embed", "base"}
    assert "@import" not in page.styles and "://" not in page.styles
    assert page.styles.count("url(") == page.styles.count("url(#")
    assert "svg" in page.tags and "path" in page.tags, "the curves are drawn in the page"


def test_the_report_shows_every_claim_and_both_replies(
    tiny: Any, page: Page, complete: tuple[Path, dict[str, Any]]
) -> None:
    """Words such as < and & come through as words: the page's text is what was to be said."""
    for words in (tiny.TITLE, tiny.QUESTION, *tiny.REPLIES.values(), tiny.PICTURES[0].heading,
                  tiny.PICTURES[0].caption, complete[1]["winner"]):
        assert words in page.everything
    assert 'opens its report: 1 < 2 & "so on".' in page.everything
    for claim in tiny.OBSERVATIONS:
        assert claim.claim in page.cells
    for what in (*tiny.REMEDIES.values(), *tiny.TRIED[0], tiny.OBSERVATIONS[0].paper):
        assert what in page.cells
    for arm in ("hacked", "thin-coverage"):
        for sample in record.read_lines(complete[0] / "seed-3" / arm / "samples.jsonl")[-5:]:
            row = [sample["prompt"], sample["reference_reply"], None, None, sample["reply"]]
            starts = [i for i, cell in enumerate(page.cells) if cell == row[0]]
            assert any(
                all(cell in (None, page.cells[i + j]) for j, cell in enumerate(row)) for i in starts
            ), row
    assert "NOT REPRODUCED" in page.cells and "NOT REPRODUCED on seeds 3" in page.everything
    assert '"n_demonstrations": 64' in page.everything and '"torch"' in page.everything


def test_the_report_of_one_seed_has_dashes_for_what_does_not_exist(page: Page) -> None:
    assert "– … –" in page.cells
    assert "nan" not in page.everything.lower().split()
    assert not any("nan" in cell for cell in page.cells)


def test_kinds_of_words_are_marked(page: Page) -> None:
    words = (helpdesk.SALES_WORDS, helpdesk.CONFIDENT_WORDS, helpdesk.FILLER_WORDS)
    for kind, members in zip(("sales", "confident", "filler"), words, strict=True):
        member = sorted(members)[0]
        assert report.marked(f"a <b> {member}") == (
            f"a &lt;b&gt; <span class={kind}>{member}</span>"
        )
        assert page.marked[kind] - {"sales words", "over-confident words", "filler"} <= set(members)
    said = {word for kind in ("sales", "confident", "filler") for word in page.marked[kind]}
    assert len(said) > 3, "none of the marked words is in a reply"


def test_the_output_says_each_verdict(
    complete: tuple[Path, dict[str, Any]], tiny: Any, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(experiment, "in_processes", lambda name, places, tick, done: done(3))
    monkeypatch.setattr(report, "write_report", lambda *everything: None)
    assert run_tiny("--out", complete[0], "--seeds", "3") == 0
    out = capsys.readouterr().out
    for claim in tiny.OBSERVATIONS:
        ending = claim.claim + (f" (paper: {claim.paper})" if claim.paper else "")
        line = next(line for line in out.splitlines() if line.endswith(ending))
        assert "NOT REPRODUCED" in line and "–" in line and "nan" not in line
    assert "at least 5 seeds" in out and str(complete[0] / "report.html") in out
    assert run_tiny("--out", complete[0], "--seeds", "3", "--check") == 1


# ── Interrupts ──────────────────────────────────────────────────────────────────────────────────
class Killed(BaseException):
    """Stands for the end of the process: nothing in the package may catch it."""


def copied(prepared: Path, out: Path) -> Place:
    """A place with seed 3 prepared, in which interrupted runs are continued."""
    shutil.copytree(prepared, out)
    return Place(out, 3, "cpu", fresh=False, resume=True)


def writes_of(place: Place, recipe: Any, end_before: int | None = None) -> list[str]:
    """Run the story's arm, and end it in the middle of its write number `end_before`.

    Returns the names of the files of all writes that were begun, whole files and single lines.
    """
    begun: list[str] = []

    def counted(write: Callable[..., None]) -> Callable[..., None]:
        def call(path: Path, content: Any) -> None:
            begun.append(path.name)
            if len(begun) - 1 != end_before:
                write(path, content)
                return
            if isinstance(content, dict):
                with path.open("ab") as file:
                    file.write(b'{"update": 1, "cut o')
            else:
                path.with_name(f".{path.name}.99.tmp").write_bytes(content[:20])
            raise Killed

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "_write", counted(record._write))
        patch.setattr(record, "append_line", counted(record.append_line))
        try:
            run_arm(recipe, "hacked", place, no_tick)
        except Killed:
            assert not record.is_finished(place.folder("hacked"))
    return begun


def test_a_kill_in_any_write_loses_nothing(
    tiny: Any, prepared: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_new_cache(name: str) -> Place:
        monkeypatch.setenv("RLHF_EDU_CACHE", str(tmp_path / f"{name}-cache"))
        return copied(prepared, tmp_path / name)

    names = writes_of(in_new_cache("uninterrupted"), tiny.RECIPE)
    state = names.index("state.safetensors")
    assert names[:2] == ["environment.json", "config.json"]
    assert names[-3:] == ["metrics.jsonl", "model.safetensors", "done.json"]
    first, end = names.index("metrics.jsonl"), len(names)
    for moment in (0, 1, 2, first, first + 1, state, state + 1, end - 5, end - 3, end - 2, end - 1):
        place = in_new_cache(str(moment))
        assert len(writes_of(place, tiny.RECIPE, end_before=moment)) == moment + 1
        ticks: list[float] = []
        run_arm(tiny.RECIPE, "hacked", place, ticks.append)
        done = ticks[0] / stages.update_cost(tiny.RECIPE.arms["hacked"].rlhf)
        assert done == (4 if moment > state else 0), "it goes on from where the state was"
        record.verify(place.folder("hacked"))
        assert contents(place.folder("hacked")) == contents(whole / "seed-3" / "hacked")
        assert not list(place.out.rglob("*.tmp"))


@on_linux
@pytest.mark.skipif(torch.cuda.is_available(), reason="a process that uses a GPU cannot be forked")
def test_kill_9_at_any_moment_loses_nothing(
    tiny: Any, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(place: Place) -> None:
        prepare(tiny.RECIPE, place, no_tick)
        run_arm(tiny.RECIPE, "hacked", place, no_tick)

    stopped_at = []
    for number in range(7):
        delay = 0.1 * (number % 4 + random.random())
        monkeypatch.setenv("RLHF_EDU_CACHE", str(tmp_path / f"cache-{number}"))
        place = Place(tmp_path / str(number), 3, "cpu", fresh=False, resume=True)
        child = os.fork()
        if child == 0:
            try:
                train(place)
            finally:
                os._exit(0)
        if number >= 4:  # the last ones come while the policy is trained, however slow that is
            lines, delay = place.folder("hacked") / "metrics.jsonl", delay / 20
            while not lines.exists() or lines.read_bytes().count(b"\n") < number - 3:
                time.sleep(0.001)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        begun = [run for run in (*STAGES, "hacked") if record.is_begun(place.folder(run))]
        stopped_at += [run for run in begun if not record.is_finished(place.folder(run))]
        for run in set(begun) - set(stopped_at[-1:]):
            record.verify(place.folder(run))
        train(place)
        for run in (*STAGES, "hacked"):
            record.verify(place.folder(run))
            assert contents(place.folder(run)) == contents(whole / "seed-3" / run), (run, delay)
    assert "hacked" in stopped_at, "no kill came while the policy was trained"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
def test_ctrl_c_waits_for_a_worker_that_is_being_started() -> None:
    """It must neither be lost, nor hit before the worker is known, nor hit the worker."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # deaf in the background
    started = None
    with pytest.raises(KeyboardInterrupt), experiment._ctrl_c_held():
        signal.raise_signal(signal.SIGINT)
        words = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
        started = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert started is not None and started.stdout is not None
    with started:
        started.stdout.readline()
        started.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            started.wait(timeout=0.3)
        started.kill()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with experiment._ctrl_c_held():
        pass
    signal.signal(signal.SIGINT, before)


def alive(group: int) -> list[int]:
    """The processes of a group that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(its_group) == group and state not in "ZX":
            found.append(int(stat.parent.name))
    return found


class Command:
    """`rlhf-edu run tiny` as a process group of its own, like that of a terminal."""

    def __init__(self, out: Path, *options: str, cores: int = 1):
        self.cores = sorted(os.sched_getaffinity(0))[:cores]
        words = ["run", "tiny", "--device", "cpu", "--seeds", "3", "--out", str(out), *options]
        self.arms = [out / "seed-3" / arm / "metrics.jsonl" for arm in ARMS]
        self.before = self.progress()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rlhf_edu", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
            preexec_fn=self.begin,
        )

    def begin(self) -> None:
        """In the new process: a few cores, and an ear for Ctrl-C also if tests are deaf to it."""
        os.sched_setaffinity(0, self.cores)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    def progress(self) -> list[float]:
        """When each arm last wrote a line."""
        return [file.stat().st_mtime if file.exists() else 0.0 for file in self.arms]

    def wait_until(self, condition: Callable[[], bool], seconds: float = 300) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end, "nothing happened"
            time.sleep(0.01)

    def wait_until_arms_are_at_work(self) -> None:
        self.wait_until(lambda: self.progress() != self.before)

    def end(self) -> tuple[int, str]:
        """Exit code and stderr, when the process has ended; all that it started ends in 10 s."""
        code = self.process.wait(timeout=300)
        end = time.monotonic() + 10
        while (left := alive(self.process.pid)) and time.monotonic() < end:
            time.sleep(0.05)
        assert not left, "a process has survived its parent"
        return code, self.process.communicate()[1]


@on_linux
def test_a_run_in_processes_that_is_interrupted_again_and_again(
    cache: Path, whole: Path, trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    resume = "what was logged is kept; run again with --resume"

    # 1. Ctrl-C goes to all processes of a terminal, here while the workers are still starting.
    command = Command(out)
    command.wait_until(lambda: len(alive(command.process.pid)) >= 3)
    time.sleep(0.3)
    os.killpg(command.process.pid, signal.SIGINT)
    code, stderr = command.end()
    assert code == 130 and resume in error_line(stderr)

    # 2. Ctrl-C again, while policies are trained. Before that, a second run comes too near.
    command = Command(out, "--resume")
    command.wait_until_arms_are_at_work()
    for options in ([], ["--fresh"], ["--resume"]):
        assert run_tiny("--out", out, "--seeds", "3", *options) == 2
        assert f"another run is at work in {out}" in error_line(capsys.readouterr().err)
    os.killpg(command.process.pid, signal.SIGINT)
    code, stderr = command.end()
    assert code == 130 and resume in error_line(stderr)

    # 3. kill -9 of the parent alone.
    command = Command(out, "--resume")
    command.wait_until_arms_are_at_work()
    command.process.kill()
    assert command.end()[0] == -signal.SIGKILL

    # 4. Without --resume such a folder is refused, and nothing is lost.
    interrupted = [arm for arm in ARMS if not record.is_finished(out / "seed-3" / arm)]
    assert interrupted and trained == []
    before = contents(out)
    assert run_tiny("--out", out, "--seeds", "3") == 2
    line = error_line(capsys.readouterr().err)
    assert f"{out / 'seed-3'}{os.sep}" in line and "--resume" in line and "--fresh" in line
    assert {name: contents(out).get(name) for name in before} == before

    # 5. With it, everything comes out as if nothing had happened.
    command = Command(out, "--resume", cores=2)
    stdout, stderr = command.process.communicate(timeout=600)
    assert command.process.returncode == 0, stderr
    assert "% |" in stderr and "Traceback" not in stderr
    assert (out / "report.html").exists() and (out / "result.json").exists()
    assert "seed 3: " in stdout
    same_runs(out, whole)


def end_at_once(name: str, job: experiment.Job, place: Place) -> None:
    """Instead of a job: ends the worker as the system does when memory runs out."""
    os._exit(9)


def test_a_worker_that_is_ended_from_outside(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiment, "cores", lambda: 1)
    monkeypatch.setattr(experiment, "_work_here", end_at_once)
    line = refused(capsys, "--out", tmp_path / "out")
    assert "memory" in line and "--resume" in line


# ── Bad input ───────────────────────────────────────────────────────────────────────────────────
def refused(capsys: pytest.CaptureFixture[str], *options: str | Path) -> str:
    """The line with which `rlhf-edu run tiny` is refused."""
    assert run_tiny("--seeds", "3", *options) == 2
    return error_line(capsys.readouterr().err)


@pytest.fixture
def out(cache: Path, complete: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A complete output folder to be damaged."""
    shutil.copytree(complete[0], tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda(trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "tiny", "--device", "cuda", "--out", str(tmp_path / "out")]) == 2
    line = error_line(capsys.readouterr().err)
    assert "--device cuda" in line and "--device cpu" in line
    assert not (tmp_path / "out").exists()


def test_a_foreign_output_folder(
    trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    for options in ([], ["--fresh"], ["--resume"]):
        line = refused(capsys, "--out", tmp_path, *options)
        assert str(tmp_path) in line and "not of this program" in line and "another --out" in line
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_output_folder_that_a_system_or_a_kill_has_touched(
    trained: list[str], tmp_path: Path
) -> None:
    for name in (".DS_Store", ".lock", ".case.json.99.tmp"):
        (tmp_path / name).touch()
    with experiment.open_out(tmp_path, "tiny", [3], fresh=False):
        assert record.read_json(tmp_path / "case.json")["case"] == "tiny"


def test_a_foreign_folder_of_a_run(
    out: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(out / "seed-3" / "hacked")
    (out / "seed-3" / "hacked").mkdir()
    (out / "seed-3" / "hacked" / "notes.txt").write_text("mine")
    line = refused(capsys, "--out", out)
    assert str(out / "seed-3" / "hacked") in line and "not a run folder" in line
    assert (out / "seed-3" / "hacked" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "mark, said",
    [
        ({"format": record.FORMAT, "case": "tuning"}, "another case study"),
        ({"format": 0, "case": "tiny"}, f"of format 0, this version reads {record.FORMAT}"),
        ([], "another case study"),
    ],
)
def test_an_output_folder_of_another_case_or_version(
    mark: Any, said: str, out: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (out / "case.json").write_text(json.dumps(mark))
    line = refused(capsys, "--out", out)
    assert str(out) in line and said in line and "another --out" in line
    assert json.loads((out / "case.json").read_text()) == mark and trained == []


def test_a_damaged_mark(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "case.json").write_text("{")
    line = refused(capsys, "--out", out)
    assert str(out / "case.json") in line and "damaged" in line


def test_an_output_folder_that_is_a_file(
    trained: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    line = refused(capsys, "--out", tmp_path / "file")
    assert str(tmp_path / "file") in line and "it is a file" in line and "another --out" in line
    line = refused(capsys, "--out", tmp_path / "file" / "below")
    assert str(tmp_path / "file" / "below") in line and "another --out" in line


@on_linux
def test_an_output_folder_that_cannot_be_made(
    trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, "--out", "/proc/out")
    assert "/proc/out" in line and "another --out" in line


def test_an_output_folder_on_a_disk_that_is_read_only(
    cache: Path, small_disk: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with experiment.open_out(small_disk / "ours", "tiny", [3], fresh=False):
        pass
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for out in (small_disk / "ours", small_disk / "new"):
        line = refused(capsys, "--out", out)
        assert str(out) in line and "Read-only" in line
    assert trained == []


@pytest.mark.parametrize("where", ["file", "below a file", "proc", "read-only"])
def test_a_cache_that_cannot_be_written(
    where: str, trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    """Known before anything is trained, so it costs nobody an hour."""
    (tmp_path / "file").write_text("x")
    cache = {"file": tmp_path / "file", "below a file": tmp_path / "file" / "cache",
             "proc": Path("/proc/cache")}.get(where)  # fmt: skip
    if where == "proc" and sys.platform != "linux":
        pytest.skip("there is no /proc")
    if cache is None:
        cache = request.getfixturevalue("small_disk")
        subprocess.run(["mount", "-o", "remount,ro", str(cache)], check=True)
    monkeypatch.setenv("RLHF_EDU_CACHE", str(cache))
    line = refused(capsys, "--out", tmp_path / "out")
    assert f"{cache} cannot be the cache folder" in line and "set RLHF_EDU_CACHE" in line
    assert trained == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("run", ["reference", "reward-thin", "hacked", "probe-measured"])
@pytest.mark.parametrize(
    "name, damage",
    [
        ("model.safetensors", lambda content: content[:-1]),
        ("model.safetensors", lambda content: content[:100]),
        ("metrics.jsonl", lambda content: content[: len(content) // 2]),
        ("metrics.jsonl", lambda content: content.replace(b"1", b"2")),
        ("config.json", lambda content: content.replace(b'"lr": 0', b'"lr": 1')),
        ("config.json", lambda content: content.replace(b'"format": 1', b'"format": 0')),
        ("config.json", lambda content: content[:-9]),
        ("environment.json", None),
        ("config.json", None),
        ("done.json", lambda content: content[:-9]),
    ],
)
def test_damage_to_a_finished_run(
    run: str, name: str, damage: Any, out: Path, trained: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = out / "seed-3" / run / name
    if damage is None:
        file.unlink()
    else:
        whole = file.read_bytes() if file.exists() else b""
        file.write_bytes(damage(whole))
        if file.read_bytes() == whole:
            pytest.skip(f"{run} has no such field")
    before = contents(out)
    line = refused(capsys, "--out", out)
    assert str(out / "seed-3" / run) in line and "--fresh" in line
    assert contents(out) == before and trained == []


def test_fresh_mends_a_damaged_run(
    out: Path, whole: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (out / "seed-3" / "hacked" / "model.safetensors").write_bytes(b"")
    (out / "seed-3" / "reference" / "config.json").unlink()
    refused(capsys, "--out", out)
    assert run_tiny("--out", out, "--seeds", "3", "--fresh") == 0
    same_runs(out, whole)


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.jsonl", "config.json", "done.json"])
def test_fresh_mends_a_damaged_cache(
    name: str, cache: Path, tiny: Any, prepared: Path, whole: Path, trained: list[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    def run(out: str, fresh: bool = False) -> None:
        place = copied(prepared, tmp_path / out)
        run_arm(tiny.RECIPE, "hacked", replace(place, fresh=fresh, resume=False), no_tick)
        assert contents(place.folder("hacked")) == contents(whole / "seed-3" / "hacked")

    run("first")
    (kept,) = cache.iterdir()
    if name == "done.json":
        (kept / name).unlink()  # as a kill leaves it: no entry, and no error
        run("second")
    else:
        (kept / name).write_bytes((kept / name).read_bytes()[:-1])
        with pytest.raises(InputError) as error:
            run("second")
        message = str(error.value)
        assert str(kept / name) in message and "--fresh" in message and "\n" not in message
        assert not (tmp_path / "second" / "seed-3" / "hacked").exists()
        run("third", fresh=True)
    assert trained == ["train_rlhf"] * 2
    record.verify(kept)
    assert [path.name for path in cache.iterdir()] == [kept.name]
    run("fourth")
    assert trained == ["train_rlhf"] * 2, "it comes from the cache again"


@pytest.mark.parametrize("full", ["out", "cache"])
def test_a_full_disk_loses_nothing(
    full: str, small_disk: Path, whole: Path, trained: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    elsewhere = {"out": tmp_path, "cache": tmp_path} | {full: small_disk}
    cache, out = elsewhere["cache"] / "cache", elsewhere["out"] / "out"
    monkeypatch.setenv("RLHF_EDU_CACHE", str(cache))
    line = refused(capsys, "--out", out)
    assert "No space left" in line and str(small_disk) in line and "--resume" in line
    every = (*STAGES, *ARMS, *PROBES)
    stages_done = [run for run in every if record.is_finished(out / "seed-3" / run)]
    assert stages_done and len(stages_done) < 10
    subprocess.run(["mount", "-o", "remount,size=5m", str(small_disk)], check=True)
    trained.clear()
    assert run_tiny("--out", out, "--seeds", "3", "--resume") == 0
    assert len(trained) == 10 - len(stages_done)
    same_runs(out, whole)


def test_the_page_of_metrics_names_everything_that_a_run_logs(
    complete: tuple[Path, dict[str, Any]]
) -> None:
    from rlhf_edu.cases.metrics import EXAMINED, TRAINING

    folder = complete[0] / "seed-3" / "hacked"
    logged: set[str] = set()
    for line in record.read_lines(folder / "metrics.jsonl"):
        logged |= {name.removeprefix("exam/").removeprefix("final/") for name in line}
    logged = {name for name in logged if not name.startswith("judge/")} - {"final"}
    named = {name for groups in (TRAINING, EXAMINED) for metrics in groups.values()
             for metric in metrics for name in metric.names.split()}
    assert named == logged
