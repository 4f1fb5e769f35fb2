"""The stages of a case as run folders: reference → labels → reward model → arm → probe.

A stage is known by what it depends on: its configuration, the stages before it, the code that runs,
torch, the device and the threads. The digest of all that names its place in the cache, so the
same work is never done twice and never mistaken for other work, whichever case asks for it.

    OUT/seed-11/reference/            supervised fine-tuning
    OUT/seed-11/labels-biased/        pairs of replies, compared by raters
    OUT/seed-11/reward-biased/        a reward model that learned from them
    OUT/seed-11/hacked/               PPO (or DPO), with its examinations
    OUT/seed-11/probe-tails/          a measurement of the case's own
"""

import hashlib
import inspect
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import platformdirs
import torch
from torch import Tensor

import rlhf_edu
from rlhf_edu import InputError
from rlhf_edu.lab import record
from rlhf_edu.lab.dpo import DPOConfig, train_dpo
from rlhf_edu.lab.evaluate import (
    Exam,
    ExamConfig,
    answer,
    exam_rows,
    filler_effect,
    make_exam,
    refusals,
)
from rlhf_edu.lab.machine import compiling
from rlhf_edu.lab.model import ModelConfig, Transformer, language_model, scalar_model
from rlhf_edu.lab.raters import LabelBudget, Preferences, RaterConfig, collect_preferences
from rlhf_edu.lab.reward_model import Ensemble, RewardModel, RewardModelConfig, train_reward_model
from rlhf_edu.lab.rlhf import RLHFConfig, start, train_rlhf
from rlhf_edu.lab.sft import SFTConfig, train_sft
from rlhf_edu.lab.state import TrainingState, restore_state, state_tensors

CHECKPOINT_EVERY = 4  # updates; what an interrupted run has to do again at most


@dataclass(frozen=True)
class Learner:
    """A reward model of a case: from whose labels it learns, and how."""

    labels: str  # a name in Recipe.raters
    training: RewardModelConfig = RewardModelConfig()  # its seed is added to that of the run
    first: int = 0  # it sees only the first so many pairs; 0: all


@dataclass(frozen=True)
class Arm:
    """One training of a policy in a case."""

    title: str  # for tables and plots
    raters: str | tuple[str, ...]  # its reward model, or an ensemble; for DPO, whose labels
    rlhf: RLHFConfig | DPOConfig  # its seed is replaced by the seed of the run
    combine: str = "mean"  # how an ensemble speaks, see reward_model.COMBINE


@dataclass(frozen=True)
class Recipe:
    """All that a case trains, for one seed."""

    sft: SFTConfig | None = None  # None: this one trains nothing, and only probes
    raters: dict[str, RaterConfig] = field(default_factory=dict)  # sets of labels
    reward_models: dict[str, Learner] = field(default_factory=dict)  # further reward models
    arms: dict[str, Arm] = field(default_factory=dict)
    exam: ExamConfig = ExamConfig()
    judge: str = ""  # every arm's last replies are also scored by this reward model
    label_budget: int = 6000  # labels that one set may cost
    model: ModelConfig = ModelConfig()
    reward_model: RewardModelConfig = RewardModelConfig()  # of the one that each set of labels has

    def learners(self) -> dict[str, Learner]:
        """Every reward model: one for each set of labels, and the further ones."""
        plain = {name: Learner(name, self.reward_model) for name in self.raters}
        return plain | self.reward_models

    def paid_for(self, arm: str) -> tuple[str, ...]:
        """The reward models of an arm, of those with the same labels the one that saw most."""
        raters, learners = self.arms[arm].raters, self.learners()
        names = (raters,) if isinstance(raters, str) else raters
        by_pairs = sorted(names, key=lambda name: learners[name].first or float("inf"))
        return tuple({learners[name].labels: name for name in by_pairs}.values())


@dataclass(frozen=True)
class Place:
    """Where a seed's folders are, on which device it runs, and what may be reused."""

    out: Path
    seed: int
    device: str
    fresh: bool  # ignore the cache
    resume: bool  # continue interrupted runs

    def folder(self, name: str) -> Path:
        """The run folder of a stage."""
        return self.out / f"seed-{self.seed}" / name


Tick = Callable[[float], None]  # told how many seconds of expected work were just done


# ── A stage: reuse, continue or make ────────────────────────────────────────────────────────────
@cache
def code_digest() -> str:
    """Digest of the code that numbers depend on: concept modules and laboratory, less its plots."""
    root = Path(rlhf_edu.__file__).parent
    silent = ("plots.py", "cli.py", "__main__.py")  # they show numbers, and make none
    files = [p for where in (root, root / "lab") for p in where.glob("*.py")]
    files = sorted(p for p in files if p.name not in silent)
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def cache_folder() -> Path:
    """Where finished stages are kept: RLHF_EDU_CACHE, or the user's cache folder."""
    return Path(os.environ.get("RLHF_EDU_CACHE") or platformdirs.user_cache_dir("rlhf-edu"))


def check_cache() -> None:
    """Raise InputError unless the cache folder can be written to, before anything is trained."""
    folder, why = cache_folder(), "not writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        why = "it is a file" if folder.is_file() else str(error.strerror)
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise InputError(f"{folder} cannot be the cache folder ({why}): "
                         "set RLHF_EDU_CACHE to a folder that you may write to")


def stage(place: Place, name: str, config: dict[str, Any], parents: list[str],
          make: Callable[[Path], None]) -> str:
    """Have the run folder of a stage finished, by whatever is least work; returns its key.

    `make` fills a folder that was begun; `parents` are the keys of the stages that it reads.
    """
    folder, device = place.folder(name), torch.device(place.device)
    identity = {"config": config, "parents": parents, "code": code_digest(),
                "torch": torch.__version__, "device": device.type,
                "threads": torch.get_num_threads(),
                "precision": torch.get_float32_matmul_precision(), "compiled": compiling()}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]
    wanted = {"key": key, **identity}  # not its name: another case may know the work by another
    kept = cache_folder() / f"{record.FORMAT}-{key}"

    if record.is_begun(folder) or record.is_finished(folder):
        record.check_same(folder, wanted)
        if record.is_finished(folder):
            record.verify(folder)
            return key
        if not place.resume:
            raise InputError(f"{folder} holds a run that was interrupted: --resume continues it, "
                             "--fresh starts it again")
    elif record.is_finished(kept) and not place.fresh:
        record.make_room(folder)
        record.verify(kept)
        record.copy_finished(kept, folder)
        return key
    record.begin(folder, wanted, record.environment(device))
    make(folder)
    record.finish(folder)
    if place.fresh or not record.is_finished(kept):  # a damaged one makes room
        shutil.rmtree(kept, ignore_errors=True)
    record.copy_finished(folder, kept)
    return key


def stage_key(place: Place, name: str) -> str:
    """The key of a finished stage."""
    return str(record.read_json(place.folder(name) / "config.json")["key"])


# ── The stages ──────────────────────────────────────────────────────────────────────────────────
def seeded(config: Any, seed: int) -> Any:
    """The configuration with the seed of the run; one of its own makes it another than others'."""
    return replace(config, seed=(seed + 10_007 * config.seed) % 2**31)


def prepare(recipe: Recipe, place: Place, tick: Tick) -> None:
    """The reference policy of a seed, the labels, and every reward model that learns from them."""
    if recipe.sft is None:
        return
    sft, exam = seeded(recipe.sft, place.seed), seeded(recipe.exam, place.seed)

    def make_reference(folder: Path) -> None:
        def log(step: int, metrics: dict[str, float]) -> None:
            record.append_line(folder / "metrics.jsonl", {"update": step, **metrics})
            tick(SFT_COST / (10 * sft.epochs))

        record.forget_after(folder, -1)
        policy = train_sft(sft, recipe.model, torch.device(place.device), log=log)
        record.write_tensors(folder / "model.safetensors", policy.state_dict())

    key = stage(place, "reference", {"sft": asdict(sft), "model": asdict(recipe.model)}, [],
                make_reference)
    reference = load_reference(recipe, place)

    keys = {}
    for name, raters in recipe.raters.items():
        settings = seeded(raters, place.seed)
        keys[name] = stage(place, f"labels-{name}", {"raters": asdict(settings)}, [key],
                           partial(make_labels, recipe.label_budget, settings, reference, tick))
    asked = {"seed": exam.seed, "prompts": exam.final_prompts, "refusals": exam.refusal_replies}
    for name, learner in recipe.learners().items():
        raters, training = recipe.raters[learner.labels], seeded(learner.training, place.seed)
        stage(place, f"reward-{name}",
              {"reward_model": asdict(training), "first": learner.first, "exam": asked},
              [keys[learner.labels]],
              partial(make_reward_model, recipe, place, learner, training, exam,
                      raters.response_length, reference, tick))


def make_labels(label_budget: int, raters: RaterConfig, reference: Transformer, tick: Tick,
                folder: Path) -> None:
    """Buy labels, and keep the pairs: token ids fit 16 bits."""
    budget = LabelBudget(label_budget)
    record.forget_after(folder, -1)
    pairs = collect_preferences(raters, reference, budget)
    record.write_tensors(folder / "preferences.safetensors", {
        "rows": pairs.rows, "chosen": pairs.chosen.short(), "rejected": pairs.rejected.short()})
    record.append_line(folder / "metrics.jsonl", {
        "final": True, "labels": budget.spent, "replies": raters.n_pairs * raters.candidates})
    tick(labels_cost(raters))


def make_reward_model(recipe: Recipe, place: Place, learner: Learner, training: RewardModelConfig,
                      exam: ExamConfig, response_length: int, reference: Transformer, tick: Tick,
                      folder: Path) -> None:
    """Learn from pairs, and examine the reference with the reward model that comes out."""
    pairs, bought = load_preferences(recipe, place, learner.labels)
    if learner.first:
        seen = slice(learner.first)
        pairs = Preferences(pairs.rows[seen], pairs.chosen[seen], pairs.rejected[seen])
    record.forget_after(folder, -1)

    def log(step: int, metrics: dict[str, float]) -> None:
        record.append_line(folder / "metrics.jsonl", {"update": step, **metrics})
        tick(learner_cost(len(pairs.rows), training) / (10 * training.epochs))

    model = train_reward_model(training, pairs, reference, log=log)
    replies = reference_replies(recipe, place, exam.seed, exam.final_prompts, response_length, 1.0)
    sit = make_exam(exam, exam.final_prompts, reference, model, response_length,
                    reference_replies=replies)
    found = sit(reference)[0] | refusals(exam, reference, response_length)
    record.append_line(folder / "metrics.jsonl", {
        "final": True, "labels": len(pairs.rows), "replies": bought["replies"],
        "filler_effect": filler_effect(model), **{f"reference/{k}": v for k, v in found.items()}})
    record.write_tensors(folder / "model.safetensors", model.model.state_dict(),
                         {"mean": model.mean, "sd": model.sd})


def run_arm(recipe: Recipe, name: str, place: Place, tick: Tick) -> None:
    """One training with the settings of an arm, examined on held-out prompts as it goes."""
    arm = recipe.arms[name]
    config, exam = seeded(arm.rlhf, place.seed), seeded(recipe.exam, place.seed)
    reference = load_reference(recipe, place)
    names = (arm.raters,) if isinstance(arm.raters, str) else arm.raters
    reward_model = load_ensemble(recipe, place, arm.raters, arm.combine)

    def new_exam(prompts: int) -> Exam:
        room = config.response_length, config.temperature
        return make_exam(exam, prompts, reference, reward_model, *room,
                         reference_replies(recipe, place, exam.seed, prompts, *room))

    def finish(folder: Path, update: int, policy: Transformer) -> None:
        """The last examination is longer, and the case's judge reads the replies as well."""
        judge = None
        if recipe.judge and arm.raters != recipe.judge:
            judge = load_reward_model(recipe, place, recipe.judge)
        sit = new_exam(exam.final_prompts)
        found, texts = sit(policy, judge)
        # A reward model has read the reference already, an ensemble has not.
        base = {} if isinstance(arm.raters, str) else sit(reference)[0]
        judged = found if judge is None else {
            k.removeprefix("judge/"): found.pop(k) for k in list(found) if k.startswith("judge/")}
        found |= refusals(exam, policy, config.response_length, config.temperature)
        for text in texts:
            record.append_line(folder / "samples.jsonl", {"update": update, "final": True, **text})
        record.append_line(folder / "metrics.jsonl", {
            "update": update, "final": True, **{f"final/{k}": v for k, v in found.items()},
            **{f"judge/{k}": v for k, v in judged.items() if k.startswith("rm/")},
            **{f"reference/{k}": v for k, v in base.items() if k.startswith("rm/")}})
        record.write_tensors(folder / "model.safetensors", policy.state_dict())

    def examine(folder: Path, take_exam: Exam, update: int, policy: Transformer) -> dict[str, Any]:
        found, texts = take_exam(policy)
        for text in texts[:4]:
            record.append_line(folder / "samples.jsonl", {"update": update, **text})
        return {f"exam/{k}": v for k, v in found.items()}

    def make_by_ppo(folder: Path) -> None:
        # 1. Where were we? Nowhere, or at the state that an interrupted run left.
        state = start(config, reference, reward_model)
        if (folder / "state.safetensors").exists():
            restore_state(state, *record.read_tensors(folder / "state.safetensors"))
        record.forget_after(folder, state.update if state.update else -1)
        tick(update_cost(config) * state.update)

        # 2. Train; write down every update, examine every few, and once before the first.
        take_exam = new_exam(exam.prompts)

        def after_update(state: TrainingState, metrics: dict[str, float]) -> None:
            due = state.update % exam.every == 0 or state.update == config.updates
            found = examine(folder, take_exam, state.update, state.policy) if due else {}
            record.append_line(folder / "metrics.jsonl",
                               {"update": state.update, **metrics, **found})
            if state.update and state.update % max(CHECKPOINT_EVERY, config.updates // 20) == 0:
                record.write_tensors(folder / "state.safetensors", *state_tensors(state))
            tick(update_cost(config) if state.update else 0)

        if state.update == 0:
            after_update(state, {})
        train_rlhf(config, state, reference, reward_model, after_update)
        finish(folder, state.update, state.policy)

    def make_by_dpo(folder: Path) -> None:
        record.forget_after(folder, -1)
        pairs, _ = load_preferences(recipe, place, names[0])
        take_exam = new_exam(exam.prompts)
        first = examine(folder, take_exam, 0, reference)
        record.append_line(folder / "metrics.jsonl", {"update": 0, **first})
        last = 0

        def after_step(step: int, policy: Transformer, metrics: dict[str, float]) -> None:
            nonlocal last
            last = step
            found = examine(folder, take_exam, step, policy)
            record.append_line(folder / "metrics.jsonl", {"update": step, **metrics, **found})
            tick(dpo_cost(config) / (10 * config.epochs))

        policy = train_dpo(config, pairs, reference, after_step=after_step)
        finish(folder, last, policy)

    parents = [stage_key(place, f"reward-{r}") for r in dict.fromkeys((*names, recipe.judge)) if r]
    dpo = isinstance(config, DPOConfig)
    stage(place, name, {"dpo" if dpo else "rlhf": asdict(config), "exam": asdict(exam),
                        **({"combine": arm.combine, "judge": recipe.judge}
                           if len(names) > 1 else {})},
          parents, make_by_dpo if dpo else make_by_ppo)


Probe = Callable[["Room"], Mapping[str, Any]]  # a measurement of a case's own, on one seed


@dataclass(frozen=True)
class Room:
    """What a probe finds: everything that was trained on its seed."""

    recipe: Recipe
    place: Place
    tick: Tick  # told how many seconds of expected work were just done

    @property
    def seed(self) -> int:
        """The seed of the run."""
        return self.place.seed

    def reference(self) -> Transformer:
        """The reference policy, frozen."""
        return load_reference(self.recipe, self.place)

    def policy(self, arm: str) -> Transformer:
        """The policy that an arm left, frozen."""
        weights, _ = record.read_tensors(self.place.folder(arm) / "model.safetensors")
        return _filled(language_model(self.recipe.model), weights, self.place)

    def reward_model(self, name: str) -> RewardModel:
        """A reward model, frozen."""
        return load_reward_model(self.recipe, self.place, name)

    def preferences(self, name: str) -> Preferences:
        """The pairs that these raters compared."""
        return load_preferences(self.recipe, self.place, name)[0]


def run_probe(recipe: Recipe, name: str, probe: Probe, place: Place, tick: Tick) -> None:
    """A measurement on what a seed has trained; its numbers are one line of metrics.jsonl."""
    def make(folder: Path) -> None:
        record.forget_after(folder, -1)
        found = probe(Room(recipe, place, tick))
        record.append_line(folder / "metrics.jsonl", {"final": True, **found})

    trained = [] if recipe.sft is None else ["reference", *recipe.arms]
    trained += [f"{kind}-{n}" for kind, names in (("labels", recipe.raters),
                                                  ("reward", recipe.learners())) for n in names]
    source = Path(inspect.getsourcefile(inspect.unwrap(probe)) or "").read_bytes()
    stage(place, f"probe-{name}",
          {"probe": name, "seed": place.seed, "source": hashlib.sha256(source).hexdigest()[:16]},
          [stage_key(place, n) for n in trained], make)


# ── Loading what a stage left ───────────────────────────────────────────────────────────────────
def load_reference(recipe: Recipe, place: Place) -> Transformer:
    """The reference policy of a finished stage, on the device, frozen."""
    weights, _ = record.read_tensors(place.folder("reference") / "model.safetensors")
    return _filled(language_model(recipe.model), weights, place)


def load_reward_model(recipe: Recipe, place: Place, name: str) -> RewardModel:
    """A reward model with its gauge, frozen."""
    weights, notes = record.read_tensors(place.folder(f"reward-{name}") / "model.safetensors")
    return RewardModel(
        _filled(scalar_model(recipe.model), weights, place), notes["mean"], notes["sd"]
    )


def load_ensemble(recipe: Recipe, place: Place, names: str | tuple[str, ...],
                  combine: str) -> RewardModel | Ensemble:
    """One reward model, or several that speak with one voice."""
    if isinstance(names, str):
        return load_reward_model(recipe, place, names)
    return Ensemble(tuple(load_reward_model(recipe, place, name) for name in names), combine)


def load_preferences(recipe: Recipe, place: Place, name: str) -> tuple[Preferences, dict[str, Any]]:
    """The pairs that raters compared, and what they cost."""
    folder = place.folder(f"labels-{name}")
    kept, _ = record.read_tensors(folder / "preferences.safetensors")
    pairs = (kept[k].long().to(place.device) for k in ("rows", "chosen", "rejected"))
    return Preferences(*pairs), record.read_lines(folder / "metrics.jsonl")[-1]


def reference_replies(recipe: Recipe, place: Place, seed: int, prompts: int, response_length: int,
                      temperature: float) -> Tensor:
    """The reference's answers to an examination; every arm of a seed compares itself with them."""
    key = stage_key(place, "reference"), seed, prompts, response_length, temperature
    if key not in _replies:
        if len(_replies) >= 8:  # a few examinations of one seed; then another seed's turn has come
            _replies.clear()
        _replies[key] = answer(load_reference(recipe, place), exam_rows(seed, prompts), seed,
                               response_length, temperature)
    return _replies[key]


_replies: dict[tuple[Any, ...], Tensor] = {}


def _filled(model: Transformer, weights: dict[str, Tensor], place: Place) -> Transformer:
    model.load_state_dict(weights)
    return model.to(place.device).eval().requires_grad_(False)


# ── How long things take, in seconds of one core: for the progress bar alone ────────────────────
SFT_COST = 8.0


def labels_cost(raters: RaterConfig) -> float:
    """Expected seconds for labels."""
    return raters.n_pairs * 0.25 * raters.candidates / 1000


def learner_cost(pairs: int, training: RewardModelConfig) -> float:
    """Expected seconds for a reward model."""
    return 0.8 * training.epochs * pairs / 1000


def update_cost(config: RLHFConfig) -> float:
    """Expected seconds for an update of PPO, its share of the examinations included."""
    return 0.03 + config.batch_size * (1 + 0.6 * config.num_ppo_epochs) / 850


def dpo_cost(config: DPOConfig) -> float:
    """Expected seconds for a training by DPO."""
    return 20.0 * config.epochs


def arm_cost(arm: Arm) -> float:
    """Expected seconds for one arm."""
    if isinstance(arm.rlhf, DPOConfig):
        return dpo_cost(arm.rlhf)
    return update_cost(arm.rlhf) * arm.rlhf.updates


def total_cost(recipe: Recipe) -> float:
    """Expected seconds for all stages of one seed, its probes aside."""
    if recipe.sft is None:
        return 0.0
    learners = recipe.learners().values()
    return (
        SFT_COST
        + sum(map(labels_cost, recipe.raters.values()))
        + sum(learner_cost(x.first or recipe.raters[x.labels].n_pairs, x.training)
              for x in learners)
        + sum(map(arm_cost, recipe.arms.values()))
    )
