"""Stages of a case: labels that reward models share, arms by DPO and with ensembles, probes.

Everything is the tiny case's, in one folder that is made once; what is kept is compared with what
the laboratory gives when it is called directly.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import shutil
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from extra_cases import tiny
from test_cases import Page

from rlhf_edu import InputError
from rlhf_edu.cases import experiment, stages
from rlhf_edu.cases.case import Case, Picture
from rlhf_edu.cases.evidence import Observation, Seed, read_seed
from rlhf_edu.cases.pictures import lines
from rlhf_edu.cases.stages import (
    Arm,
    Learner,
    Place,
    Recipe,
    Room,
    prepare,
    run_arm,
    run_probe,
    seeded,
    stage_key,
)
from rlhf_edu.lab import record
from rlhf_edu.lab.dpo import DPOConfig, train_dpo
from rlhf_edu.lab.evaluate import answer, exam_rows, make_exam
from rlhf_edu.lab.reward_model import Ensemble, RewardModelConfig, train_reward_model

OWN = RewardModelConfig(seed=2, gauge_replies=16, response_length=8, lr=2e-3)
RECIPE = replace(
    tiny.RECIPE,
    reward_models={"few": Learner("biased", replace(OWN, seed=0), first=10),
                   "second": Learner("biased", OWN)},
    arms={
        "hacked": tiny.RECIPE.arms["hacked"],
        "both": Arm("two models", ("second", "few"), tiny.ppo(), combine="min"),
        "direct": Arm("DPO", "thin", DPOConfig(epochs=2, batch_size=8, lr=1e-2, beta=0.2,
                                               response_length=8)),
    },
)  # fmt: skip


def no_tick(seconds: float) -> None:
    pass


@pytest.fixture(scope="module", autouse=True)
def one_thread_and_a_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLHF_EDU_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    torch.set_num_threads(threads)


class Made:
    """The place in which everything was made, and with what the laboratory was called."""

    def __init__(self, out: Path):
        self.place = Place(out, 3, "cpu", fresh=False, resume=False)
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.answered: list[torch.nn.Module] = []
        with pytest.MonkeyPatch.context() as patch:
            for name in ("collect_preferences", "train_reward_model", "answer"):
                patch.setattr(stages, name, self.noted(name))
            patch.setattr(stages, "_replies", {})
            prepare(RECIPE, self.place, no_tick)
            for arm in RECIPE.arms:
                run_arm(RECIPE, arm, self.place, no_tick)
        self.room = Room(RECIPE, self.place, no_tick)

    def noted(self, name: str) -> Callable[..., Any]:
        real = getattr(stages, name)

        def call(*args: Any, **options: Any) -> Any:
            self.calls.append((name, args))
            return real(*args, **options)

        return call

    def config(self, name: str) -> dict[str, Any]:
        return record.read_json(self.place.folder(name) / "config.json")

    def lines(self, name: str) -> list[dict[str, Any]]:
        return record.read_lines(self.place.folder(name) / "metrics.jsonl")


@pytest.fixture(scope="module")
def made(one_thread_and_a_cache: None, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made") / "out")


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(k == m and torch.equal(v, w) for (k, v), (m, w) in pairs)


# ── Seeds ───────────────────────────────────────────────────────────────────────────────────────
def test_a_configuration_gets_the_seed_of_the_run_and_one_of_its_own_another() -> None:
    assert seeded(OWN, 5) == replace(OWN, seed=5 + 10_007 * 2)
    assert seeded(replace(OWN, seed=0), 5) == replace(OWN, seed=5)
    seeds = {seeded(replace(OWN, seed=own), run).seed for own in range(20) for run in range(1000)}
    assert len(seeds) == 20_000, "no two runs share one"
    last = seeded(replace(tiny.ppo(), seed=2**31 - 1), 2**31 - 1).seed
    assert 0 <= last < 2**31 - 1


# ── Labels and reward models ────────────────────────────────────────────────────────────────────
def test_labels_are_bought_once_however_many_reward_models_learn_from_them(made: Made) -> None:
    bought = [args for name, args in made.calls if name == "collect_preferences"]
    assert [args[0] for args in bought] == [seeded(r, 3) for r in RECIPE.raters.values()]
    assert len([name for name, _ in made.calls if name == "train_reward_model"]) == 4
    labels = stage_key(made.place, "labels-biased")
    for name in ("biased", "few", "second"):
        assert made.config(f"reward-{name}")["parents"] == [labels]
    assert made.config("reward-thin")["parents"] == [stage_key(made.place, "labels-thin")]
    assert list(RECIPE.learners()) == ["biased", "thin", "few", "second"]


def test_what_raters_compared_is_kept(made: Made) -> None:
    config = seeded(RECIPE.raters["thin"], 3)
    bought = stages.collect_preferences(config, made.room.reference(), stages.LabelBudget(24))
    kept = made.room.preferences("thin")
    for name in ("rows", "chosen", "rejected"):
        assert torch.equal(getattr(kept, name), getattr(bought, name))
        assert getattr(kept, name).dtype == torch.long
    last = made.lines("labels-thin")[-1]
    assert (last["labels"], last["replies"]) == (24, 72)


def test_a_learner_sees_only_the_first_pairs_that_it_is_given(made: Made) -> None:
    seen = {len(args[1].rows): args[1] for name, args in made.calls
            if name == "train_reward_model"}  # fmt: skip
    assert seen.keys() == {32, 24, 10}
    every = made.room.preferences("biased")
    for name in ("rows", "chosen", "rejected"):
        assert torch.equal(getattr(seen[10], name), getattr(every, name)[:10])
    assert [made.lines(f"reward-{name}")[-1]["labels"] for name in ("few", "second")] == [10, 32]
    assert made.lines("reward-few")[-1]["replies"] == 64, "replies were sampled for all pairs"


@pytest.mark.parametrize("name", ["few", "second", "thin"])
def test_a_reward_model_is_the_laboratorys_on_those_pairs(made: Made, name: str) -> None:
    learner = RECIPE.learners()[name]
    pairs = made.room.preferences(learner.labels)
    n = learner.first or len(pairs.rows)
    pairs = type(pairs)(pairs.rows[:n], pairs.chosen[:n], pairs.rejected[:n])
    want = train_reward_model(seeded(learner.training, 3), pairs, made.room.reference())
    kept = made.room.reward_model(name)
    assert same(kept.model, want.model) and (kept.mean, kept.sd) == (want.mean, want.sd)
    assert not any(p.requires_grad for p in kept.model.parameters())


def test_another_number_of_pairs_is_another_reward_model_and_nothing_else(
    made: Made, tmp_path: Path
) -> None:
    shutil.copytree(made.place.out, tmp_path / "out")
    place = replace(made.place, out=tmp_path / "out")
    shutil.rmtree(place.folder("reward-few"))
    learner = replace(RECIPE.reward_models["few"], first=11)
    reward_models = RECIPE.reward_models | {"few": learner}
    prepare(replace(RECIPE, reward_models=reward_models), place, no_tick)
    assert stage_key(place, "reward-few") != stage_key(made.place, "reward-few")
    with pytest.raises(InputError, match=r"config.first \(there 11, now 10\)"):
        prepare(RECIPE, place, no_tick)


# ── Arms ────────────────────────────────────────────────────────────────────────────────────────
def test_an_arm_by_dpo_is_the_laboratorys_on_the_labels(made: Made) -> None:
    config = seeded(RECIPE.arms["direct"].rlhf, 3)
    told: list[tuple[int, dict[str, float]]] = []
    want = train_dpo(config, made.room.preferences("thin"), made.room.reference(),
                     after_step=lambda i, p, m: told.append((i, m)))  # fmt: skip
    assert same(made.room.policy("direct"), want)
    assert not same(made.room.policy("direct"), made.room.reference())

    *written, last = made.lines("direct")
    assert [line["update"] for line in written] == [0, *(i for i, _ in told)] == list(range(7))
    assert written[0]["exam/kl/exact"] == pytest.approx(0, abs=1e-6)
    for line, (_, metrics) in zip(written[1:], told, strict=True):
        assert metrics.items() <= line.items() and "exam/gold/total" in line
    assert last["update"] == 6 and last["final"]
    assert last["final/kl/exact"] > 1e-4

    assert made.config("direct")["config"]["dpo"]["beta"] == 0.2
    assert made.config("direct")["parents"] == [stage_key(made.place, f"reward-{name}")
                                                for name in ("thin", "biased")]  # fmt: skip


def test_an_arm_with_an_ensemble_is_rewarded_and_examined_by_all_its_members(made: Made) -> None:
    """And read by the case's judge, on the same replies."""
    reference, policy = made.room.reference(), made.room.policy("both")
    ensemble = Ensemble((made.room.reward_model("second"), made.room.reward_model("few")), "min")
    exam = seeded(RECIPE.exam, 3)
    sit = make_exam(exam, exam.final_prompts, reference, ensemble, 8)
    found, texts = sit(policy, made.room.reward_model("biased"))
    last = made.lines("both")[-1]
    for key, value in found.items():
        key = key if key.startswith("judge/") else f"final/{key}"
        assert last[key] == (value if math.isfinite(value) else None), key
    assert last["judge/rm/mean"] != last["final/rm/mean"]
    samples = record.read_lines(made.place.folder("both") / "samples.jsonl")[-5:]
    assert [sample["reward"] for sample in samples] == [text["reward"] for text in texts]

    config = made.config("both")
    assert config["config"]["combine"] == "min"
    names = [stage_key(made.place, f"reward-{name}") for name in ("second", "few", "biased")]
    assert config["parents"] == names
    assert "combine" not in made.config("hacked")["config"]


def test_how_an_ensemble_speaks_is_in_the_key(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.place.out, tmp_path / "out")
    place = replace(made.place, out=tmp_path / "out")
    arms = {"both": replace(RECIPE.arms["both"], combine="mean")}
    with pytest.raises(InputError, match=r"config.combine \(there \"min\", now \"mean\"\)"):
        run_arm(replace(RECIPE, arms=arms), "both", place, no_tick)


def test_who_judges_an_ensembles_replies_is_in_the_key(made: Made, tmp_path: Path) -> None:
    keys = set()
    for judge in ("few", "second", ""):
        shutil.copytree(made.place.out, tmp_path / judge / "out")
        place = replace(made.place, out=tmp_path / judge / "out", fresh=True)
        shutil.rmtree(place.folder("both"))
        arm = replace(RECIPE.arms["both"], rlhf=replace(tiny.ppo(), updates=1))
        run_arm(replace(RECIPE, arms={"both": arm}, judge=judge), "both", place, no_tick)
        keys.add(stage_key(place, "both"))
    assert len(keys) == 3


def test_the_reference_answers_an_examination_once_for_all_arms(made: Made) -> None:
    """One short examination and one long one; each arm's reference is the same one."""
    asked = [args for name, args in made.calls if name == "answer"]
    assert sorted(len(args[1]) for args in asked) == [96, 128]
    kept = stages.reference_replies(RECIPE, made.place, 3, 48, 8, 1.0)
    assert torch.equal(kept, answer(made.room.reference(), exam_rows(3, 48), 3, 8))
    assert kept.shape == (96, 8)
    first = {name: made.lines(name)[0] for name in RECIPE.arms}
    assert len({line["exam/gold/total"] for line in first.values()}) == 1


def test_replies_of_the_reference_are_those_that_were_asked_for(made: Made) -> None:
    stages._replies.clear()  # other tests have asked, too
    kept = [stages.reference_replies(RECIPE, made.place, *asked)
            for asked in ((3, 48, 8, 1.0), (4, 48, 8, 1.0), (3, 48, 8, 0.5), (3, 24, 8, 1.0),
                          (3, 48, 6, 1.0))]  # fmt: skip
    assert [tuple(x.shape) for x in kept] == [(96, 8), (96, 8), (96, 8), (48, 8), (96, 6)]
    assert not any(torch.equal(kept[0], x) for x in kept[1:3])
    again = stages.reference_replies(RECIPE, made.place, 3, 48, 8, 1.0)
    assert again is kept[0]
    for i in range(20):  # a few are kept, not all there ever were
        stages.reference_replies(RECIPE, made.place, i, 2, 2, 1.0)
    assert len(stages._replies) <= 8


def test_what_is_read_of_learners_and_arms_is_what_was_written(made: Made) -> None:
    raters_of = {name: arm.raters for name, arm in RECIPE.arms.items()}
    folder = made.place.out / "seed-3"
    seed = read_seed(folder, 3, raters_of, RECIPE.learners())
    assert seed.reward_models.keys() == RECIPE.learners().keys()
    assert seed.reward_models["few"]["labels"] == 10
    assert seed.probes == {}
    direct = seed.runs["direct"]
    assert direct.updates == [] and [exam["update"] for exam in direct.exams] == list(range(7))
    assert direct.reference["gold/total"] == seed.reward_models["thin"]["reference/gold/total"]
    assert [u["update"] for u in seed.runs["both"].updates] == [1, 2, 3, 4, 5, 6]
    alone = read_seed(folder, 3, raters_of)
    assert alone.reward_models.keys() == {"biased", "thin", "second"}


def test_the_reference_of_an_ensembles_arm_is_read_by_the_ensemble(made: Made) -> None:
    raters_of = {name: arm.raters for name, arm in RECIPE.arms.items()}
    run = read_seed(made.place.out / "seed-3", 3, raters_of, RECIPE.learners()).runs["both"]
    ensemble = Ensemble((made.room.reward_model("second"), made.room.reward_model("few")), "min")
    exam = seeded(RECIPE.exam, 3)
    reference = made.room.reference()
    found, _ = make_exam(exam, exam.final_prompts, reference, ensemble, 8)(reference)
    assert run.reference["rm/mean"] == pytest.approx(found["rm/mean"], abs=1e-6)


# ── Probes ──────────────────────────────────────────────────────────────────────────────────────
SOURCE = '''
from functools import wraps
calls = []

def probe(room):
    calls.append(room)
    room.tick(0.5)
    return {"weight": float(room.reference().head.weight[3, 0]), "rows": [1, 2.5],
            "none": float("nan"), "infinite": float("inf"), "some": [1.0, float("nan")]}
'''


def module_in(folder: Path, source: str = SOURCE) -> types.ModuleType:
    """A module in a file of its own, imported."""
    folder.mkdir(exist_ok=True)
    (folder / "probes.py").write_text(source, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("probes", folder / "probes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def place(made: Made, tmp_path: Path) -> Place:
    """All that was made, in a folder of this test's own."""
    shutil.copytree(made.place.out, tmp_path / "out")
    return replace(made.place, out=tmp_path / "out")


def test_what_a_probe_finds_comes_back(made: Made, place: Place, tmp_path: Path) -> None:
    ticks: list[float] = []
    run_probe(RECIPE, "own", module_in(tmp_path / "a").probe, place, ticks.append)
    found = read_seed(place.out / "seed-3", 3, {}, (), ["own"]).probes["own"]
    assert found["weight"] == made.room.reference().head.weight[3, 0].item()
    assert found["rows"] == [1, 2.5] and ticks == [0.5]
    assert math.isnan(found["none"]) and math.isnan(found["infinite"])
    text = (place.folder("probe-own") / "metrics.jsonl").read_text()
    assert "null" in text and "NaN" not in text and "Infinity" not in text


def test_what_does_not_exist_in_a_probes_list_comes_back_as_nan(
    place: Place, tmp_path: Path
) -> None:
    run_probe(RECIPE, "own", module_in(tmp_path / "a").probe, place, no_tick)
    found = read_seed(place.out / "seed-3", 3, {}, (), ["own"]).probes["own"]
    assert found["some"][0] == 1 and math.isnan(found["some"][1])


def test_a_probe_is_keyed_by_its_file_its_seed_and_all_that_was_trained(
    place: Place, made: Made, tmp_path: Path
) -> None:
    def key(source: str = SOURCE, recipe: Recipe = RECIPE, seed: int = 3,
            wrap: bool = False) -> str:  # fmt: skip
        probe = module_in(tmp_path / "a", source).probe
        if wrap:
            plain = probe

            @functools.wraps(plain)
            def probe(room: Room) -> dict[str, float]:
                return plain(room)

        here = replace(place, seed=seed)
        shutil.rmtree(here.folder("probe-own"), ignore_errors=True)
        run_probe(recipe, "own", probe, here, no_tick)
        config = record.read_json(here.folder("probe-own") / "config.json")
        assert config["config"]["seed"] == seed
        every = ["reference", *recipe.arms, *(f"labels-{n}" for n in recipe.raters),
                 *(f"reward-{n}" for n in recipe.learners())]  # fmt: skip
        assert sorted(config["parents"]) == sorted(stage_key(place, n) for n in every)
        return str(config["key"])

    first = key()
    assert key() == key(wrap=True) == first
    shutil.copytree(place.out / "seed-3", place.out / "seed-4")
    few = replace(RECIPE, arms={"hacked": RECIPE.arms["hacked"]})
    assert len({first, key(SOURCE + "# changed\n"), key(seed=4), key(recipe=few)}) == 4


def test_a_probe_is_not_run_again(place: Place, made: Made, tmp_path: Path) -> None:
    module = module_in(tmp_path / "a", SOURCE + "# not yet in the cache\n")
    run_probe(RECIPE, "own", module.probe, place, no_tick)
    run_probe(RECIPE, "own", module.probe, place, no_tick)
    shutil.copytree(made.place.out, tmp_path / "another")
    run_probe(RECIPE, "own", module.probe, replace(place, out=tmp_path / "another"), no_tick)
    assert len(module.calls) == 1
    run_probe(RECIPE, "own", module.probe, replace(place, fresh=True), no_tick)
    assert len(module.calls) == 1, "a finished folder stays; --fresh empties it before"


def test_a_probe_that_was_interrupted_is_resumed(place: Place, tmp_path: Path) -> None:
    """Half a line of a killed process lies there; without --resume the folder is refused."""
    module = module_in(tmp_path / "a", SOURCE + "# interrupted\n")

    def ended(room: Room) -> dict[str, float]:
        (place.folder("probe-own") / "metrics.jsonl").write_bytes(b'{"final": true, "wei')
        raise KeyboardInterrupt

    interrupted = functools.wraps(module.probe)(ended)
    with pytest.raises(KeyboardInterrupt):
        run_probe(RECIPE, "own", interrupted, place, no_tick)
    with pytest.raises(InputError, match="--resume continues it"):
        run_probe(RECIPE, "own", module.probe, place, no_tick)
    assert not module.calls
    run_probe(RECIPE, "own", module.probe, replace(place, resume=True), no_tick)
    (line,) = record.read_lines(place.folder("probe-own") / "metrics.jsonl")
    assert line["final"] and line["rows"] == [1, 2.5] and len(module.calls) == 1


def test_a_room_holds_what_was_trained_frozen(made: Made) -> None:
    room = made.room
    assert room.seed == 3
    models = [room.reference(), room.policy("hacked"), room.reward_model("thin").model]
    for model in models:
        assert not model.training and not any(p.requires_grad for p in model.parameters())
    weights, _ = record.read_tensors(made.place.folder("hacked") / "model.safetensors")
    assert all(torch.equal(weights[k], v) for k, v in models[1].state_dict().items())


# ── A study: no desk, no story ──────────────────────────────────────────────────────────────────
def numbers(room: Room) -> dict[str, Any]:
    """A measurement that trains nothing."""
    return {"value": room.seed + 0.5, "line": [float(room.seed), 1.0, 4.0]}


def draw(axes: Any, seeds: list[Seed]) -> None:
    """One panel."""
    lines(axes[0, 0], [1, 2, 3], {"ours": [s.probes["numbers"]["line"] for s in seeds]},
          "what was found", "n")  # fmt: skip


STUDY = Case(
    title="A study < of numbers",
    question="Is there more than a probe?",
    recipe=Recipe(),
    text="Title.\n\nNothing is trained.",
    observations=[
        Observation("value", "the value is above 0", lambda s: s.probes["numbers"]["value"], 0.0,
                    "above", paper="it was 7 & more"),
        Observation("rises", "the largest of all is above 3",
                    lambda some: max(s.probes["numbers"]["value"] for s in some), 3.0, "above",
                    pooled=True),
    ],
    probes={"numbers": numbers},
    pictures=[Picture("What was found", "A caption.", draw, shape=(1, 1))],
)  # fmt: skip


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Run a case that has no file, in this process."""

    def run(case: Case, out: Path, seeds: list[int]) -> dict[str, Any]:
        def one_after_another(name: str, places: list[Place], tick: Any, seed_done: Any) -> None:
            for place in places:
                for round_of_jobs in experiment.jobs(case):
                    for job in round_of_jobs:
                        experiment.work(name, job, place, tick)
                seed_done(place.seed)

        monkeypatch.setattr(experiment, "load_case", lambda name: case)
        monkeypatch.setattr(experiment, "in_processes", one_after_another)
        return experiment.run_case("no-file", seeds, "cpu", out, None, False, False)

    return run


def test_a_study_without_a_desk_runs_its_probes_and_shows_them(
    run_here: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_here(STUDY, tmp_path / "out", [0, 1, 2, 3, 4])
    assert [o["id"] for o in result["observations"]] == ["value", "rises"]
    assert result["observations"][0]["per_seed"] == [0.5, 1.5, 2.5, 3.5, 4.5]
    assert result["observations"][1]["value"] == 4.5
    assert result["observations"][0]["paper"] == "it was 7 & more"
    assert result["observations"][0]["holds"] and result["winner"] == "" == "".join(
        result["remedies"])
    assert [path.name for path in (tmp_path / "out" / "seed-0").iterdir()] == ["probe-numbers"]
    said = capsys.readouterr().out
    assert "5 seeds, on cpu" in said and "arms on" not in said and "seed 4: done" in said
    assert "(paper: it was 7 & more)" in said

    page = Page(tmp_path / "out" / "report.html")
    for words in (STUDY.title, STUDY.question, "Nothing is trained.", "What was found",
                  "A caption.", "published"):  # fmt: skip
        assert words in page.everything
    assert "it was 7 & more" in page.cells and "svg" in page.tags
    for absent in ("What happens", "before and after", "keeps, removes", "tried and failed",
                   "The ranking", "Marked:"):  # fmt: skip
        assert absent not in page.everything


def test_a_story_whose_remedy_is_a_reward_model_of_other_labels_is_weighed(
    run_here: Any, made: Made, place: Place
) -> None:
    case = Case("t", "q", RECIPE, tiny.OBSERVATIONS[:1], "Title.\n\nStory.", story="hacked",
                remedies={"direct": "DPO on other labels"})  # fmt: skip
    (remedy,) = run_here_in(run_here, case, place)["remedies"]
    assert (remedy["labels"], remedy["replies"]) == (24, 72)


def run_here_in(run_here: Any, case: Case, place: Place) -> dict[str, Any]:
    record.write_json(place.out / "case.json", {"format": record.FORMAT, "case": "no-file"})
    result: dict[str, Any] = run_here(case, place.out, [3])
    return result


def test_a_remedy_that_is_an_ensemble_costs_the_labels_of_all_its_members(
    run_here: Any, place: Place
) -> None:
    """Of labels that two members share, once."""
    case = Case("t", "q", RECIPE, tiny.OBSERVATIONS[:1], "Title.\n\nStory.", story="hacked",
                remedies={"both": "two models"})  # fmt: skip
    (remedy,) = run_here_in(run_here, case, place)["remedies"]
    assert (remedy["labels"], remedy["replies"]) == (32, 64)


def test_jobs_of_a_seed_come_in_rounds() -> None:
    assert experiment.jobs(STUDY) == [[("prepare", "")], [("probe", "numbers")]]
    whole = Case("t", "q", RECIPE, [], "T.", probes={"a": numbers, "b": numbers})
    assert experiment.jobs(whole) == [
        [("prepare", "")], [("arm", arm) for arm in RECIPE.arms], [("probe", "a"), ("probe", "b")]]


def test_earlier_seeds_come_first_but_for_the_start_of_the_next() -> None:
    """Prepare, arms and probe of three seeds: no core waits for the last seed's reference."""
    line = sorted(((i, turn) for i in range(3) for turn in range(3)),
                  key=lambda each: experiment.due(*each))
    assert line == [(0, 0), (1, 0), (0, 1), (0, 2), (2, 0), (1, 1), (1, 2), (2, 1), (2, 2)]


def test_expected_work_counts_every_stage() -> None:
    """For the progress bar: what is told while a case runs adds up to what was expected."""
    assert stages.total_cost(Recipe()) == 0
    more = replace(RECIPE, reward_models={}, arms={})
    learners = RECIPE.reward_models.values()
    rest = sum(stages.learner_cost(x.first or 32, x.training) for x in learners)
    rest += sum(map(stages.arm_cost, RECIPE.arms.values()))
    assert stages.total_cost(RECIPE) == pytest.approx(stages.total_cost(more) + rest)
