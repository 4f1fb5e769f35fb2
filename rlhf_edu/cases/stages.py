"""The stages of a case as run folders: reference → preferences and reward model → one arm of PPO.

A stage is known by what it depends on: its configuration, the stages before it, the code that runs,
torch, the device and the threads. The digest of all that names its place in the cache, so the
same work is never done twice and never mistaken for other work.

    OUT/seed-11/reference/            supervised fine-tuning
    OUT/seed-11/reward-biased/        labels and a reward model
    OUT/seed-11/hacked/               PPO, with its examinations
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import platformdirs
import torch
from torch import Tensor

import rlhf_edu
from rlhf_edu import InputError
from rlhf_edu.lab import record
from rlhf_edu.lab.evaluate import Exam, ExamConfig, filler_effect, make_exam, refusals
from rlhf_edu.lab.model import ModelConfig, Transformer, language_model, scalar_model
from rlhf_edu.lab.raters import LabelBudget, RaterConfig, collect_preferences
from rlhf_edu.lab.reward_model import RewardModel, RewardModelConfig, train_reward_model
from rlhf_edu.lab.rlhf import (
    RLHFConfig,
    start,
    train_rlhf,
)
from rlhf_edu.lab.sft import SFTConfig, train_sft
from rlhf_edu.lab.state import TrainingState, restore_state, state_tensors

CHECKPOINT_EVERY = 4  # updates; what an interrupted run has to do again at most


@dataclass(frozen=True)
class Arm:
    """One run of PPO in a case: which raters its reward model learned from, and how it trains."""

    title: str  # for tables and plots
    raters: str  # a name in Recipe.raters
    rlhf: RLHFConfig  # its seed is replaced by the seed of the run


@dataclass(frozen=True)
class Recipe:
    """All that a case trains, for one seed."""

    sft: SFTConfig
    raters: dict[str, RaterConfig]
    reward_model: RewardModelConfig
    arms: dict[str, Arm]
    exam: ExamConfig
    judge: str  # every arm's last replies are also scored by the reward model of these raters
    label_budget: int  # labels a reward model may cost
    model: ModelConfig = ModelConfig()


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
    numbers = [p for p in (root / "lab").glob("*.py") if p.name != "plots.py"]
    files = sorted([*root.glob("*.py"), *numbers])
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
                "precision": torch.get_float32_matmul_precision()}
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]
    wanted = {"stage": name, "key": key, **identity}
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


# ── The three stages ────────────────────────────────────────────────────────────────────────────
def prepare(recipe: Recipe, place: Place, tick: Tick) -> None:
    """The reference policy of a seed, then a reward model for each kind of raters."""
    sft = replace(recipe.sft, seed=place.seed)
    training = replace(recipe.reward_model, seed=place.seed)
    exam = replace(recipe.exam, seed=place.seed)

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

    for name, raters in recipe.raters.items():
        settings = replace(raters, seed=place.seed)
        stage(place, f"reward-{name}",
              {"raters": asdict(settings), "reward_model": asdict(training), "exam": asdict(exam)},
              [key], partial(make_reward_model, recipe.label_budget, settings, training, exam,
                             reference, tick))


def make_reward_model(label_budget: int, raters: RaterConfig, training: RewardModelConfig,
                      exam: ExamConfig, reference: Transformer, tick: Tick, folder: Path) -> None:
    """Buy labels, train on them, and examine the reference with the reward model that comes out."""
    cost = reward_model_cost(raters)
    budget = LabelBudget(label_budget)
    record.forget_after(folder, -1)
    preferences = collect_preferences(raters, reference, budget)
    tick(cost / 2)

    def log(step: int, metrics: dict[str, float]) -> None:
        record.append_line(folder / "metrics.jsonl", {"update": step, **metrics})
        tick(cost / 2 / (10 * training.epochs))

    model = train_reward_model(training, preferences, reference, log=log)
    sit = make_exam(exam, exam.final_prompts, reference, model, raters.response_length)
    found = sit(reference)[0] | refusals(exam, reference, raters.response_length)
    record.append_line(folder / "metrics.jsonl", {
        "final": True, "labels": budget.spent, "replies": raters.n_pairs * raters.candidates,
        "filler_effect": filler_effect(model), **{f"reference/{k}": v for k, v in found.items()}})
    record.write_tensors(folder / "model.safetensors", model.model.state_dict(),
                         {"mean": model.mean, "sd": model.sd})


def run_arm(recipe: Recipe, name: str, place: Place, tick: Tick) -> None:
    """PPO with the settings of one arm, examined on held-out prompts as it goes."""
    arm = recipe.arms[name]
    config, exam = replace(arm.rlhf, seed=place.seed), replace(recipe.exam, seed=place.seed)
    reference = load_reference(recipe, place)
    reward_model = load_reward_model(recipe, place, arm.raters)

    def new_exam(prompts: int, scorer: RewardModel) -> Exam:
        return make_exam(exam, prompts, reference, scorer, config.response_length,
                         config.temperature)

    def make(folder: Path) -> None:
        metrics_file, samples_file = folder / "metrics.jsonl", folder / "samples.jsonl"

        # 1. Where were we? Nowhere, or at the state that an interrupted run left.
        state = start(config, reference, reward_model)
        if (folder / "state.safetensors").exists():
            restore_state(state, *record.read_tensors(folder / "state.safetensors"))
        record.forget_after(folder, state.update if state.update else -1)
        tick(UPDATE_COST * state.update)

        # 2. Train; write down every update, examine every few, and once before the first.
        take_exam = new_exam(exam.prompts, reward_model)

        def after_update(state: TrainingState, metrics: dict[str, float]) -> None:
            found, texts = take_exam(state.policy) if state.update % exam.every == 0 else ({}, [])
            for text in texts[:4]:
                record.append_line(samples_file, {"update": state.update, **text})
            record.append_line(metrics_file, {"update": state.update, **metrics,
                                              **{f"exam/{k}": v for k, v in found.items()}})
            if state.update and state.update % CHECKPOINT_EVERY == 0:
                record.write_tensors(folder / "state.safetensors", *state_tensors(state))
            tick(UPDATE_COST if state.update else 0)

        if state.update == 0:
            after_update(state, {})
        train_rlhf(config, state, reference, reward_model, after_update)

        # 3. The last examination is longer, and the case's judge reads the replies as well.
        found, texts = new_exam(exam.final_prompts, reward_model)(state.policy)
        judged = found
        if arm.raters != recipe.judge:
            judge = load_reward_model(recipe, place, recipe.judge)
            judged, _ = new_exam(exam.final_prompts, judge)(state.policy)
        found |= refusals(exam, state.policy, config.response_length, config.temperature)
        for text in texts:
            record.append_line(samples_file, {"update": state.update, "final": True, **text})
        record.append_line(metrics_file, {
            "update": state.update, "final": True, **{f"final/{k}": v for k, v in found.items()},
            **{f"judge/{k}": v for k, v in judged.items() if k.startswith("rm/")}})
        record.write_tensors(folder / "model.safetensors", state.policy.state_dict())

    parents = [stage_key(place, f"reward-{r}") for r in (arm.raters, recipe.judge)]
    stage(place, name, {"rlhf": asdict(config), "exam": asdict(exam)}, parents, make)


# ── Loading what a stage left ───────────────────────────────────────────────────────────────────
def load_reference(recipe: Recipe, place: Place) -> Transformer:
    """The reference policy of a finished stage, on the device, frozen."""
    weights, _ = record.read_tensors(place.folder("reference") / "model.safetensors")
    return _filled(language_model(recipe.model), weights, place)


def load_reward_model(recipe: Recipe, place: Place, raters: str) -> RewardModel:
    """The reward model that learned from these raters, with its gauge, frozen."""
    weights, notes = record.read_tensors(place.folder(f"reward-{raters}") / "model.safetensors")
    return RewardModel(
        _filled(scalar_model(recipe.model), weights, place), notes["mean"], notes["sd"]
    )


def _filled(model: Transformer, weights: dict[str, Tensor], place: Place) -> Transformer:
    model.load_state_dict(weights)
    return model.to(place.device).eval().requires_grad_(False)


# ── How long things take, in seconds of one core: for the progress bar alone ────────────────────
SFT_COST, UPDATE_COST = 8.0, 0.6


def reward_model_cost(raters: RaterConfig) -> float:
    """Expected seconds for labels and a reward model."""
    return raters.n_pairs * (0.8 + 0.25 * raters.candidates) / 1000


def arm_cost(arm: Arm) -> float:
    """Expected seconds for one arm."""
    return UPDATE_COST * arm.rlhf.updates


def total_cost(recipe: Recipe) -> float:
    """Expected seconds for all stages of one seed."""
    return (
        SFT_COST
        + sum(map(reward_model_cost, recipe.raters.values()))
        + sum(map(arm_cost, recipe.arms.values()))
    )
