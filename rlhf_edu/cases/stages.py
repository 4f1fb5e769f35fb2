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
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs
import torch
from torch import Tensor

import rlhf_edu
from rlhf_edu import InputError
from rlhf_edu.lab import record
from rlhf_edu.lab.evaluate import ExamConfig, filler_effect, make_exam, refusals
from rlhf_edu.lab.model import ModelConfig, Transformer, language_model, scalar_model
from rlhf_edu.lab.raters import LabelBudget, RaterConfig, collect_preferences
from rlhf_edu.lab.reward_model import RewardModel, RewardModelConfig, train_reward_model
from rlhf_edu.lab.rlhf import (
    RLHFConfig, TrainingState, restore_state, start, state_tensors, train_rlhf,
)
from rlhf_edu.lab.sft import SFTConfig, train_sft

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
    tick: Callable[[float], None]  # told how many seconds of expected work were just done

    def folder(self, name: str) -> Path:
        """The run folder of a stage."""
        return self.out / f"seed-{self.seed}" / name


# ── A stage: reuse, continue or make ────────────────────────────────────────────────────────────
@cache
def code_digest() -> str:
    """Digest of all code that numbers depend on: the concept modules and the laboratory."""
    root = Path(rlhf_edu.__file__).parent
    files = sorted([*root.glob("*.py"), *(root / "lab").glob("*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def cache_folder() -> Path:
    """Where finished stages are kept: RLHF_EDU_CACHE, or the user's cache folder."""
    return Path(os.environ.get("RLHF_EDU_CACHE") or platformdirs.user_cache_dir("rlhf-edu"))


def stage(place: Place, name: str, config: dict[str, Any], parents: list[str], cost: float,
          make: Callable[[Path], None]) -> str:
    """Have the run folder of a stage finished, by whatever is least work; returns its key.

    `make` fills a begun folder; `cost` is how many seconds it is expected to take.
    """
    folder = place.folder(name)
    device = torch.device(place.device)
    wanted = json.loads(json.dumps({
        "stage": name, "config": config, "parents": parents, "code": code_digest(),
        "torch": torch.__version__, "device": device.type, "threads": torch.get_num_threads()}))
    key = hashlib.sha256(json.dumps({k: v for k, v in wanted.items() if k != "stage"},
                                    sort_keys=True).encode()).hexdigest()[:20]
    kept = cache_folder() / f"{record.FORMAT}-{key}"

    if record.is_finished(folder):
        record.check_same(folder, wanted)
        record.verify(folder)
        place.tick(cost)
        return key
    if record.is_begun(folder) and not place.resume:
        raise InputError(f"{folder} holds a run that was interrupted: --resume continues it, "
                         "--fresh starts it again")
    if not place.fresh and record.is_finished(kept) and not record.is_begun(folder):
        record.verify(kept)
        record.copy_finished(kept, folder)
        place.tick(cost)
        return key
    record.begin(folder, wanted, record.environment(device))
    make(folder)
    record.finish(folder)
    if place.fresh:
        shutil.rmtree(kept, ignore_errors=True)
    record.copy_finished(folder, kept)
    return key


# ── The three stages ────────────────────────────────────────────────────────────────────────────
def prepare(recipe: Recipe, place: Place) -> None:
    """The reference policy of a seed, and a reward model for each kind of raters."""
    device = torch.device(place.device)
    sft = replace(recipe.sft, seed=place.seed)

    def make_reference(folder: Path) -> None:
        lines = _fresh_lines(folder)
        steps = sft.epochs * -(-sft.n_demonstrations // sft.batch_size)
        done = [0]

        def log(step: int, metrics: dict[str, float]) -> None:
            record.append_line(lines, {"update": step, **metrics})
            place.tick(SFT_COST * (step - done[0]) / steps)
            done[0] = step

        policy = train_sft(sft, recipe.model, device, log=log)
        record.write_tensors(folder / "model.safetensors", policy.state_dict())

    reference_key = stage(place, "reference", {"sft": asdict(sft), "model": asdict(recipe.model)},
                          [], SFT_COST, make_reference)
    reference = load_reference(recipe, place)

    for name, raters in recipe.raters.items():
        raters, training = (replace(c, seed=place.seed) for c in (raters, recipe.reward_model))

        def make_reward_model(folder: Path, raters: RaterConfig = raters,
                              training: RewardModelConfig = training) -> None:
            lines = _fresh_lines(folder)
            steps = training.epochs * -(-raters.n_pairs // training.batch_size)
            cost, done = reward_model_cost(raters), [0]
            budget = LabelBudget(recipe.label_budget)
            preferences = collect_preferences(raters, reference, budget)
            place.tick(cost / 2)

            def log(step: int, metrics: dict[str, float]) -> None:
                record.append_line(lines, {"update": step, **metrics})
                place.tick(cost / 2 * (step - done[0]) / steps)
                done[0] = step

            model = train_reward_model(training, preferences, reference, log=log)
            exam = replace(recipe.exam, seed=place.seed)
            found, _ = make_exam(exam, exam.final_prompts, reference, model, sft.response_length)(reference)
            record.append_line(lines, {
                "update": steps, "labels": budget.spent, "replies": raters.n_pairs * raters.candidates,
                "filler_effect": filler_effect(model), "final": True,
                **{f"reference/{k}": v for k, v in found.items()},
                **{f"reference/{k}": v for k, v in refusals(exam, reference, sft.response_length).items()}})
            record.write_tensors(folder / "model.safetensors", model.model.state_dict(),
                                 {"mean": model.mean, "sd": model.sd})

        stage(place, f"reward-{name}",
              {"raters": asdict(raters), "reward_model": asdict(training), "exam": asdict(recipe.exam)},
              [reference_key],
              reward_model_cost(raters), make_reward_model)


def run_arm(recipe: Recipe, name: str, place: Place) -> None:
    """PPO with the settings of one arm, examined on held-out prompts as it goes."""
    arm = recipe.arms[name]
    config, exam = replace(arm.rlhf, seed=place.seed), replace(recipe.exam, seed=place.seed)
    reference = load_reference(recipe, place)
    reward_model = load_reward_model(recipe, place, arm.raters)
    judge = load_reward_model(recipe, place, recipe.judge)

    def make(folder: Path) -> None:
        # 1. Where were we? Nowhere, or at the state that an interrupted run left.
        state = start(config, reference, reward_model)
        if (folder / "state.safetensors").exists():
            restore_state(state, *record.read_tensors(folder / "state.safetensors"))
        record.forget_after(folder, state.update if state.update else -1)
        take_exam = make_exam(exam, exam.prompts, reference, reward_model, config.response_length,
                              config.temperature)

        # 2. Train; write down every update, examine every few.
        def after_update(state: TrainingState, metrics: dict[str, float]) -> None:
            if state.update % exam.every == 0 or state.update == 0:
                found, texts = take_exam(state.policy)
                metrics |= {f"exam/{k}": v for k, v in found.items()}
                for text in texts[:4]:
                    record.append_line(folder / "samples.jsonl", {"update": state.update, **text})
            record.append_line(folder / "metrics.jsonl", {"update": state.update, **metrics})
            if state.update and state.update % CHECKPOINT_EVERY == 0:
                record.write_tensors(folder / "state.safetensors", *state_tensors(state))
            place.tick(UPDATE_COST if state.update else 0)

        if state.update == 0:
            after_update(state, {})
        place.tick(UPDATE_COST * state.update)
        train_rlhf(config, state, reference, reward_model, after_update)

        # 3. The last examination is longer, and the case's judge reads the replies as well.
        def last_exam(scorer: RewardModel) -> tuple[dict[str, float], list[dict[str, Any]]]:
            return make_exam(exam, exam.final_prompts, reference, scorer, config.response_length,
                             config.temperature)(state.policy)

        found, texts = last_exam(reward_model)
        judged = found if arm.raters == recipe.judge else last_exam(judge)[0]
        last = {f"final/{k}": v for k, v in found.items()}
        last |= {f"judge/{k}": v for k, v in judged.items() if k.startswith("rm/")}
        for text in texts:
            record.append_line(folder / "samples.jsonl", {"update": state.update, "final": True, **text})
        last |= {f"final/{k}": v for k, v in
                 refusals(exam, state.policy, config.response_length, config.temperature).items()}
        record.append_line(folder / "metrics.jsonl", {"update": state.update, "final": True, **last})
        record.write_tensors(folder / "model.safetensors", state.policy.state_dict())

    keys = [record.read_json(place.folder(f"reward-{r}") / "done.json")["files"]["model.safetensors"][1][:20]
            for r in dict.fromkeys((arm.raters, recipe.judge))]
    stage(place, name, {"rlhf": asdict(config), "exam": asdict(exam), "raters": arm.raters},
          keys, arm_cost(arm), make)


# ── Loading what a stage left ───────────────────────────────────────────────────────────────────
def load_reference(recipe: Recipe, place: Place) -> Transformer:
    """The reference policy of a finished stage, on the device, frozen."""
    weights, _ = record.read_tensors(place.folder("reference") / "model.safetensors")
    return _filled(language_model(recipe.model), weights, place)


def load_reward_model(recipe: Recipe, place: Place, raters: str) -> RewardModel:
    """The reward model that learned from these raters, with its gauge, frozen."""
    weights, notes = record.read_tensors(place.folder(f"reward-{raters}") / "model.safetensors")
    return RewardModel(_filled(scalar_model(recipe.model), weights, place), notes["mean"], notes["sd"])


def _filled(model: Transformer, weights: dict[str, Tensor], place: Place) -> Transformer:
    model.load_state_dict(weights)
    return model.to(place.device).eval().requires_grad_(False)


def _fresh_lines(folder: Path) -> Path:
    """metrics.jsonl of a stage that starts again from nothing when it was interrupted."""
    (folder / "metrics.jsonl").unlink(missing_ok=True)
    return folder / "metrics.jsonl"


# ── How long things take, in seconds of one core: for the progress bar alone ────────────────────
SFT_COST, UPDATE_COST = 7.0, 0.6


def reward_model_cost(raters: RaterConfig) -> float:
    """Expected seconds for labels and a reward model."""
    return raters.n_pairs * (0.8 + 0.25 * raters.candidates) / 1000


def arm_cost(arm: Arm) -> float:
    """Expected seconds for one arm."""
    return UPDATE_COST * arm.rlhf.updates


def total_cost(recipe: Recipe) -> float:
    """Expected seconds for all stages of one seed."""
    return (SFT_COST + sum(map(reward_model_cost, recipe.raters.values()))
            + sum(map(arm_cost, recipe.arms.values())))
