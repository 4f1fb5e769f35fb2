"""P17 · What PPO owes to its clip, and what to its other tricks.

Engstrom et al. 2020 (arXiv 2005.12729) list nine details of PPO's code that its objective does not
have, among them: the critic's prediction is clipped, rewards are scaled, the step size falls to
zero, networks start in a chosen way. In their robots these decide more than the clip. PPO with the
tricks and without the clip does as well as PPO (Humanoid: 831 and 806), and the clip does not even
do what it is drawn for: with it, the largest ratio π_θ/π_old of a batch is outside 1 + ε all the
time, while the mean KL stays small.

Ours: the help desk, a reward model of honest raters, PPO with and without the clip (ε = 0.2, or a
million), with all of four tricks and with none: value clipping (0.2 of the reward's gauge),
rewards scaled to an SD of 1 in the batch, a linear fall of the step size, and the critic's trunk
copied from the reward model instead of random. Four further arms have the clip and one trick each.
A main effect is the mean of the two runs with it, minus the mean of the two without. All eight
start from one reference policy and one reward model, and are examined on the same prompts.

What is different: a fraction of the full factorial of 32 arms, so an effect of tricks is that of
the four together; batches of words instead of robots; the advantages are whitened in all arms, and
β = 0.05 (k1 in the reward). Left out: tanh layers, observation and reward clipping, gradient
clipping (on in all arms), TRPO.

Refuted, if ratios stayed inside the clip's range, or if taking the clip away cost more than taking
the tricks away. The two main effects, whichever is larger, are reported. On the two seeds that the
settings were chosen on, the tricks moved GOLD more than the clip did (+0.16 and +0.16 against +0.10
and +0.04), but the reward the other way (−0.03 for the tricks, −0.01 and +0.01 for the clip, in
SDs): it is mostly the falling step size, which by itself gains 0.13 and 0.11 of GOLD, and a run
that goes less far gains a little less of the reward and keeps more of what people want. That is a
kind of stopping early.
"""

from statistics import fmean
from typing import Any

from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed
from rlhf_edu.cases.pictures import dots, during
from rlhf_edu.cases.stages import Arm, Recipe
from rlhf_edu.cases.world import HONEST
from rlhf_edu.lab.evaluate import ExamConfig
from rlhf_edu.lab.rlhf import RLHFConfig
from rlhf_edu.lab.sft import SFTConfig

TITLE = "The clip or the tricks"
QUESTION = "What happens to PPO without its clip, and what without the details around it?"

EPSILON = 0.2
NEVER = 1e6  # a clip range that nothing reaches
TRICKS: dict[str, dict[str, Any]] = {
    "value-clip": {"cliprange_value": 0.2},
    "scaled-rewards": {"whiten_rewards": True},
    "falling-lr": {"lr_schedule": "linear"},
    "critic-from-rm": {"critic_init": "reward model"},
}
NONE: dict[str, Any] = {"cliprange_value": NEVER, "critic_init": "random"}
ALL: dict[str, Any] = {k: v for trick in TRICKS.values() for k, v in trick.items()}


def ppo(clip: bool, tricks: dict[str, Any]) -> RLHFConfig:
    """PPO with or without the clip, and with these tricks; all else is equal."""
    return RLHFConfig(**{"updates": 12, "batch_size": 96, "num_mini_batches": 2, "lr": 1.5e-4,
                         "cliprange": EPSILON if clip else NEVER, **NONE, **tricks})


RECIPE = Recipe(
    sft=SFTConfig(),
    raters={"honest": HONEST},
    arms={
        "clip+tricks": Arm("clip, all tricks", "honest", ppo(True, ALL)),
        "tricks": Arm("no clip, all tricks", "honest", ppo(False, ALL)),
        "clip": Arm("clip, no trick", "honest", ppo(True, {})),
        "neither": Arm("no clip, no trick", "honest", ppo(False, {})),
        **{name: Arm(f"clip and {name}", "honest", ppo(True, trick))
           for name, trick in TRICKS.items()},
    },
    exam=ExamConfig(every=100, prompts=64),
)


def share_beyond(seed: Seed, arm: str) -> float:
    """Share of the updates in which some token's ratio was above 1 + ε."""
    return fmean(u["policy/ratio_max"] > 1 + EPSILON for u in seed.runs[arm].updates)


def effect(seed: Seed, name: str, with_it: tuple[str, str], without: tuple[str, str]) -> float:
    """A main effect: mean of two arms, minus the mean of two others."""
    return fmean(seed.runs[a].final[name] for a in with_it) - fmean(
        seed.runs[a].final[name] for a in without)


def of_tricks(seed: Seed, name: str) -> float:
    """The main effect of all four tricks together."""
    return effect(seed, name, ("clip+tricks", "tricks"), ("clip", "neither"))


def of_clip(seed: Seed, name: str) -> float:
    """The main effect of the clip."""
    return effect(seed, name, ("clip+tricks", "clip"), ("tricks", "neither"))


OBSERVATIONS = [
    Observation(
        "ratio-beyond", "with the clip, the largest ratio is above 1 + ε in ≥ 50 % of updates",
        lambda s: share_beyond(s, "clip+tricks"), 0.5, "above", "routinely above 1 + ε",
    ),
    Observation(
        "clip-not-missed", "tricks without the clip: GOLD is not found to be below that of both",
        lambda s: s.change("tricks", "gold/total") - s.change("clip+tricks", "gold/total"),
        0.0, "reaches", "Humanoid: 831 without the clip, 806 with it",
    ),
    Observation(
        "tricks-beat-clip", "tricks without the clip end above the clip without tricks in GOLD",
        lambda s: s.change("tricks", "gold/total") - s.change("clip", "gold/total"),
        0.0, "above", "PPO without clip ≥ PPO without tricks",
    ),
    Observation(
        "effect-on-gold", "main effect on GOLD: that of the tricks is above that of the clip",
        lambda s: of_tricks(s, "gold/total") - of_clip(s, "gold/total"),
        0.0, "above", "tricks explain most of the difference", graded=False,
    ),
    Observation(
        "effect-on-reward", "main effect on the reward: that of the tricks is above the clip's",
        lambda s: of_tricks(s, "rm/mean") - of_clip(s, "rm/mean"),
        0.0, "above", "tricks explain most of the difference", graded=False,
    ),
]


def draw(axes: Any, seeds: list[Seed]) -> None:
    """GOLD and reward of every arm; the largest ratio of each update."""
    for axis, name, title in ((axes[0, 0], "gold/total", "GOLD, change from the reference"),
                              (axes[0, 1], "rm/mean", "reward, in SDs, change")):
        dots(axis, {arm: [s.change(arm, name) for s in seeds] for arm in RECIPE.arms}, title)
    during(axes[0, 2], seeds, {a: RECIPE.arms[a].title for a in ("clip+tricks", "tricks")},
           "policy/ratio_max", "largest ratio of an update")
    axes[0, 2].axhline(1 + EPSILON, color="#888888", linewidth=0.8)
    axes[0, 2].set_yscale("log")
    axes[0, 2].legend(fontsize=8, frameon=False)


TRIED = [
    (
        "step size 3e-4 and 4 minibatches a pass",
        "seed 0: steps so large that the clip mattered more. GOLD changed by +0.34 (clip and "
        "tricks), −0.05 (tricks), +0.05 (clip) and −0.14 (neither): main effect 0.28 of the clip, "
        "0.19 of the tricks; without tricks a token's mean log²(ratio)/2 reached 0.56",
    ),
]
PICTURES = [Picture(
    "With and without",
    "Dots are seeds, bars their mean. Right: the grey line is 1 + ε.",
    draw, shape=(1, 3),
)]
