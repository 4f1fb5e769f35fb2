"""C2 · conflicting signals: reward up, people less pleased, KL up although it is penalised.

A help desk's assistant is trained with PPO against a reward model that learned from comparisons.
The reward model prefers the new policy, people do not. Replies are longer and reach the right
answer later or not at all; requests that must be refused are carried out; and the distance to the
reference grows from update to update, although the objective has a penalty −β·KL in it. Two links
of the chain are broken, and each is shown by an experiment.

First, the reward model: it learned from raters who like length and sales talk, and learned them
well. Append a courtesy to a right reply, change nothing else, and its reward rises; the reward
model of honest raters, who saw pairs drawn in the same way, pays less for it.

Second, the penalty: it stands in the loss as log π_θ − log π_ref on fixed samples (k1 in the loss,
as the objective is printed). π_ref is not in its gradient. On the first step on a batch, whose
samples are the policy's own, its expected gradient is zero, so β multiplies a zero; on later steps
it makes the old samples rarer, whatever π_ref says of them. So nothing pulls the policy back: KLREF
ends no lower than with β = 0. The same coefficient in the reward does hold the policy.

The clip is not what differs: it is the same in the arms that stay near. Each update stays close to
the policy that made its samples, but small steps add up. (Items 25, 36, 42-50; lesson T1.)

The arms share the coefficient β, not its strength: advantages are whitened and a penalty in the
loss is not, so there it weighs β times the SD of the advantages, and it does not see the KL of the
words that follow. So the arms say which placement acts at all, not which estimator is the best.

What was tried before the settings were fixed, and what came of it, stands in chapter 8.
"""

from typing import Any

from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed, spearman
from rlhf_edu.cases.pictures import curves
from rlhf_edu.cases.stages import Arm, Recipe
from rlhf_edu.cases.world import BIASED, HONEST, MATCHED, THIN
from rlhf_edu.lab.evaluate import ExamConfig
from rlhf_edu.lab.rlhf import RLHFConfig
from rlhf_edu.lab.sft import SFTConfig

TITLE = "Conflicting signals"
QUESTION = "Reward up, people less pleased, KL up although it is penalised: why?"

# ── What is trained, for each seed ──────────────────────────────────────────────────────────────
BETA = 0.1


def ppo(kl_coef: float = BETA, kl_placement: str = "loss", kl_estimator: str = "k1") -> RLHFConfig:
    """The run of the story; the arms change where the penalty is, nothing else."""
    return RLHFConfig(
        updates=16,
        batch_size=128,
        num_mini_batches=2,
        lr=1.5e-4,
        kl_coef=kl_coef,
        kl_placement=kl_placement,
        kl_estimator=kl_estimator,
    )


RECIPE = Recipe(
    sft=SFTConfig(),
    raters={"biased": BIASED, "honest": HONEST, "thin": THIN, "matched": MATCHED},
    arms={
        "hacked": Arm("the story: k1 in the loss", "biased", ppo()),
        "no-penalty": Arm("no penalty, β = 0", "biased", ppo(kl_coef=0.0)),
        "k1-in-reward": Arm("k1 in the reward", "biased", ppo(kl_placement="reward")),
        "k2-in-loss": Arm("k2 in the loss", "biased", ppo(kl_estimator="k2")),
        "k3-in-loss": Arm("k3 in the loss", "biased", ppo(kl_estimator="k3")),
        "honest-raters": Arm("honest raters", "honest", ppo()),
        "thin-coverage": Arm("honest raters, thin coverage", "thin", ppo()),
        "matched-pairs": Arm("matched pairs", "matched", ppo()),
        "both-changes": Arm(
            "matched pairs, k1 in the reward", "matched", ppo(kl_placement="reward")
        ),
    },
    exam=ExamConfig(every=4),
    judge="biased",
)
STORY = "hacked"  # the arm that the report follows
HOLDING = ("k1-in-reward", "k2-in-loss", "k3-in-loss")  # placements that should act

# Each remedy changes one thing of the story, or both; what it costs is measured and said.
REMEDIES = {
    "k1-in-reward": "PPO/KL: the same penalty, moved from the loss to the reward",
    "matched-pairs": "data: the same raters, but the two replies of a pair are equally long, with "
    "as many sales and over-confident words. Taste has nothing to choose by; whoever draws the "
    "pairs has to know the tastes, and prompts without such a pair are not shown",
    "both-changes": "both",
}


# ── What must be seen ───────────────────────────────────────────────────────────────────────────
def kl(seed: Seed, arm: str) -> float:
    """KLREF of an arm at the end, nats a response."""
    return float(seed.runs[arm].final["kl/exact"])


def kl_against_no_penalty(seed: Seed, arm: str) -> float:
    """KLREF of an arm over that of β = 0 on the same seed, minus 1: −0.5 is half the drift."""
    return kl(seed, arm) / kl(seed, "no-penalty") - 1


def kl_rank_correlation(seed: Seed, arm: str) -> float:
    """Spearman's correlation of update and KLREF over the examinations."""
    exams = seed.runs[arm].exams
    return spearman([e["update"] for e in exams], [e["kl/exact"] for e in exams])


def largest_step(seed: Seed) -> float:
    """The largest KLOLD of one update over the final KLREF, both in nats a response."""
    return max(u["policy/kl_old_last_epoch"] for u in seed.runs[STORY].updates) / kl(seed, STORY)


def gold_regained(seed: Seed, arm: str) -> float:
    """The share of the story's loss of GOLD, on the same seed, that an arm does not have.

    NaN, which holds nothing, on a seed where the story lost none.
    """
    loss = -seed.change(STORY, "gold/total")
    gain = seed.runs[arm].final["gold/total"] - seed.runs[STORY].final["gold/total"]
    return gain / loss if loss > 0 else float("nan")


def below_no_penalty(arm: str, claim: str) -> Observation:
    """A placement of the penalty that ends below β = 0."""
    return Observation(
        f"{arm}-acts", claim, lambda s: kl_against_no_penalty(s, arm), 0.0, "below")


OBSERVATIONS = [
    Observation(
        "reward-up",
        "the reward model prefers the new policy: win-probability ≥ 0.6",
        lambda s: s.runs[STORY].final["rm/win_probability"],
        0.6,
        "above",
    ),
    Observation(
        "gold-down",
        "people do not: GOLD falls",
        lambda s: s.change(STORY, "gold/total"),
        0.0,
        "below",
    ),
    Observation(
        "length-up",
        "replies grow longer: LEN rises",
        lambda s: s.change(STORY, "style/length"),
        0.0,
        "above",
    ),
    Observation(
        "direct-worse",
        "and reach the right answer later or not at all: DIRECT rises (no answer counts all words)",
        lambda s: s.change(STORY, "style/first_answer"),
        0.0,
        "above",
    ),
    Observation(
        "kl-rises",
        "KLREF grows with the updates although β > 0: Spearman ≥ 0.9",
        lambda s: kl_rank_correlation(s, STORY),
        0.9,
        "above",
    ),
    Observation(
        "filler-pays",
        "append a courtesy to a right reply and its reward rises",
        lambda s: s.reward_models["biased"]["filler_effect"],
        0.0,
        "above",
    ),
    Observation(
        "filler-is-taste",
        "more than it does for the reward model of honest raters on pairs drawn in the same way",
        lambda s: s.reward_models["biased"]["filler_effect"]
        - s.reward_models["honest"]["filler_effect"],
        0.0,
        "above",
    ),
    Observation(
        "small-steps",
        "yet each update is small: largest KLOLD ≤ 1/10 of the final KLREF",
        largest_step,
        0.1,
        "below",
    ),
    Observation(
        "k1-in-loss-idle",
        "k1 in the loss: no final KLREF below that of β = 0 is found",
        lambda s: kl_against_no_penalty(s, STORY),
        0.0,
        "reaches",
    ),
    below_no_penalty("k1-in-reward", "the same β with k1 in the reward: below that of β = 0"),
    below_no_penalty("k2-in-loss", "with k2 in the loss: below that of β = 0"),
    below_no_penalty("k3-in-loss", "with k3 in the loss: below that of β = 0"),
    Observation(
        "placement-matters",
        "k1 in the loss ends above each of the other three",
        lambda s: kl(s, STORY) / max(kl(s, arm) for arm in HOLDING) - 1,
        0.0,
        "above",
    ),
    Observation(
        "thin-reward-up",
        "honest raters, thin coverage: the reward rises as well",
        lambda s: s.change("thin-coverage", "rm/mean"),
        0.0,
        "above",
    ),
    Observation(
        "thin-gold-down",
        "and GOLD falls as well",
        lambda s: s.change("thin-coverage", "gold/total"),
        0.0,
        "below",
    ),
    Observation(
        "thin-kl-rises",
        "and KLREF grows as well: Spearman ≥ 0.9",
        lambda s: kl_rank_correlation(s, "thin-coverage"),
        0.9,
        "above",
    ),
    Observation(
        "remedy-kl",
        "moving the penalty into the reward removes a part of the loss of GOLD: share > 0",
        lambda s: gold_regained(s, "k1-in-reward"),
        0.0,
        "above",
    ),
    Observation(
        "remedy-data",
        "and so do matched pairs: share > 0",
        lambda s: gold_regained(s, "matched-pairs"),
        0.0,
        "above",
    ),
]


# ── What the report shows ───────────────────────────────────────────────────────────────────────
def draw_placements(axes: Any, seeds: list[Seed]) -> None:
    """KLREF and GOLD of every placement of the penalty."""
    arms = {arm: RECIPE.arms[arm].title for arm in ("no-penalty", STORY, *HOLDING)}
    curves(axes[0, 0], seeds, arms, "kl/exact", "KLREF: nats a response")
    curves(axes[0, 1], seeds, arms, "gold/total", "GOLD: the human score")
    axes[0, 0].legend(fontsize=8, frameon=False)


PICTURES = [
    Picture(
        "Where the penalty stands decides whether it acts",
        "One reward model, one β, four placements of the penalty, and none. Left: KL(policy ‖ "
        "reference), exact along the sampled replies. Right: what people think of it.",
        draw_placements,
    )
]
REPLIES = {
    "thin-coverage": "The other way to a wrong reward model. Here nobody is biased. The raters "
    "are honest, but of four candidate replies they are shown "
    "the two for which longer and better agree most. Longer explains their labels as well as "
    "better does, and the reward model learns it. What the policy finds is length: courtesies "
    "around the answer, before it or after it, and in the end instead of it. There are next to no "
    "sales words, and not a single biased label."
}
