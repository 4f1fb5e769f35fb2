"""A case that is done in seconds, for the tests. It finds nothing out.

The second paragraph of a case's docstring opens its report: 1 < 2 & "so on".
"""

from rlhf_edu.cases.evidence import Observation, spearman
from rlhf_edu.cases.stages import Arm, Recipe
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
HOLDING = ("k1-in-reward",)
REMEDIES = {"k1-in-reward": "PPO/KL: the penalty < moved", "thin-coverage": "data: other pairs"}

OBSERVATIONS = [
    Observation(
        "reward-known",
        "the win-probability is a share & not < 0",
        lambda s: s.runs[STORY].final["rm/win_probability"],
        0.0,
        "above",
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
]
CONTROL = Observation(
    "control",
    "GOLD of one arm > GOLD of another",
    lambda s: s.runs["k1-in-reward"].final["gold/total"] - s.runs[STORY].final["gold/total"],
    0.0,
    "above",
)
THIN_STORY = "Nobody is <biased> here."
