"""A case that is done in seconds, for the tests. It finds nothing out.

The second paragraph of a case's docstring opens its report: 1 < 2 & "so on".
"""

import math
from pathlib import Path
from typing import Any

from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed, spearman
from rlhf_edu.cases.pictures import curves, dots, final
from rlhf_edu.cases.stages import Arm, Recipe, Room
from rlhf_edu.lab.evaluate import ExamConfig
from rlhf_edu.lab.model import ModelConfig
from rlhf_edu.lab.raters import RaterConfig
from rlhf_edu.lab.reward_model import RewardModelConfig
from rlhf_edu.lab.rlhf import RLHFConfig
from rlhf_edu.lab.sft import SFTConfig

TITLE = "Tiny & quick"
QUESTION = "Is 1 < 2, and does everything run?"


def ppo(kl_coef: float = 0.1, kl_placement: str = "loss") -> RLHFConfig:
    """Six updates: the state is written down once on the way, after the fourth."""
    return RLHFConfig(
        updates=6,
        batch_size=8,
        num_ppo_epochs=1,
        num_mini_batches=2,
        kl_coef=kl_coef,
        kl_placement=kl_placement,
        response_length=8,
    )


RECIPE = Recipe(
    sft=SFTConfig(n_demonstrations=64, epochs=1, batch_size=16),
    raters={
        "biased": RaterConfig(n_pairs=32, sales_bias=0.6, response_length=8),
        "thin": RaterConfig(n_pairs=24, candidates=3, pairing="thin", response_length=8),
    },
    reward_model=RewardModelConfig(gauge_replies=16, response_length=8),
    arms={
        "hacked": Arm("the story", "biased", ppo()),
        "no-penalty": Arm("no penalty", "biased", ppo(kl_coef=0.0)),
        "k1-in-reward": Arm("k1 in the reward", "biased", ppo(kl_placement="reward")),
        "thin-coverage": Arm("thin coverage", "thin", ppo()),
    },
    exam=ExamConfig(every=2, prompts=48, final_prompts=64, refusal_replies=1, samples=5),
    judge="biased",
    label_budget=32,
    model=ModelConfig(n_layers=1, width=8, n_heads=2),
)
STORY = "hacked"
REMEDIES = {"k1-in-reward": "PPO/KL: the penalty < moved", "thin-coverage": "data: other pairs"}


def measured(room: Room) -> dict[str, Any]:
    """Numbers that only what was trained on this seed can give, and one that does not exist."""
    policy = room.policy(STORY)
    return {
        "seed": room.seed,
        "drift": float((policy.head.weight - room.reference().head.weight).abs().max()),
        "unit": room.reward_model("thin").sd,
        "pairs": room.preferences("biased").rows.tolist(),
        "nothing": math.nan,
    }


PROBES = {"measured": measured}

OBSERVATIONS = [
    Observation(
        "reward-known",
        "the win-probability is a share & not < 0",
        lambda s: s.runs[STORY].final["rm/win_probability"],
        0.0,
        "above",
        paper="0 < p < 1",
    ),
    Observation(
        "gold-leaps",
        "GOLD rises by 100, which it cannot",
        lambda s: s.change(STORY, "gold/total"),
        100.0,
        "above",
    ),
    Observation(
        "kl-rises",
        "KLREF grows with the updates",
        lambda s: spearman(
            [e["update"] for e in s.runs[STORY].exams], [e["kl/exact"] for e in s.runs[STORY].exams]
        ),
        0.9,
        "above",
    ),
    Observation(
        "weights-move",
        "the weights of the story move",
        lambda s: s.probes["measured"]["drift"],
        0.0,
        "mostly above",
    ),
    Observation(
        "seeds-differ",
        "the seeds' GOLD varies",
        lambda seeds: max(s.runs[STORY].final["gold/total"] for s in seeds),
        -100.0,
        "above",
        pooled=True,
    ),
]


def draw(axes: Any, seeds: list[Seed]) -> None:
    """Two panels."""
    curves(axes[0, 0], seeds, {STORY: "the story"}, "kl/exact", "KLREF < here")
    dots(axes[0, 1], {"the story": final(seeds, STORY, "gold/total")}, "GOLD")


PICTURES = [Picture("A picture & its heading", "Left < right.", draw)]
REPLIES = {"thin-coverage": "Nobody is <biased> here."}
TRIED = [("a step size of 1 < 2", "nothing & worse")]


def write(out: Path, seeds: list[Seed]) -> None:
    """A further document."""
    (out / "card.md").write_text(f"# {len(seeds)} seeds\n", encoding="utf-8")


WRITE = write
