"""C5 · instability: every new reward model is more accurate, and the policies end worse.

Labels are bought every month, more each time, and the reward model is trained for longer: 2,500,
4,000, 6,500, 10,500 and 17,000 pairs. From each of the five checkpoints a policy is trained with
the same PPO. On held-out pairs of the reference's replies the reward models get better. The
policies get worse from the third month on: people like the last one less than the reference, its
replies repeat themselves, and more than one word in twenty is over-confident or sales talk, which
next to none was.

Three things change from month to month, and one of them nobody measures. Each month's pairs are
new; there are more of them, and more passes over them; and the raters are more hurried, and take an
over-confident sentence for a better answer. In the first month they do not, in the last such a word
is worth nine points of GOLD to them. But the reference nearly never says such a sentence, so on its
pairs the taste costs the reward model less accuracy than the further labels and passes bring.
Nothing is contradictory about that: RM-ACC-IN asks about the replies that the reference gives, and
PPO goes where the reward model pays most. The number to watch is the gap RM-ACC-IN − RM-ACC-ON: how
much of the reward model's judgement is lost on the pairs of the policy that it made. Read it
against the first month's, about 0.2: a policy's own pairs are more alike than the reference's, and
harder to order for any reward model.

"Instability" is then no matter of the optimiser: the five runs share every setting of PPO (k1 in
the reward, one β), the prompts and the random numbers, and only the reward model differs.

Two interventions on the last month, either of which could have failed. Ten times the β holds the
policy. The five reward models as an ensemble, where a reply is worth what the most doubtful of them
says, works as well; likely because the first does not share the taste (an ensemble without it was
not tried): one of members that all share it could not (Eisenstein et al. 2023). What each regained
of the loss of GOLD stands in the table, with its interval.

Seeds 21 to 25 are no longer untouched: settings were changed after earlier versions had failed a
claim on them (see what was tried). On seeds 61 to 65, on which nothing was ever tuned, all ten
claims hold as well. REP is the claim that holds by least.

It would have been refuted by an RM-ACC-IN that falls (then the usual dashboard would have warned),
by a GOLD that does not, or by a gap that stays shut. (Item 28.)
"""

import itertools
from typing import Any

from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Run, Seed
from rlhf_edu.cases.stages import Arm, Learner, Recipe
from rlhf_edu.lab.evaluate import ExamConfig
from rlhf_edu.lab.helpdesk import AgentConfig
from rlhf_edu.lab.model import ModelConfig
from rlhf_edu.lab.raters import RaterConfig
from rlhf_edu.lab.reward_model import RewardModelConfig
from rlhf_edu.lab.rlhf import RLHFConfig
from rlhf_edu.lab.sft import SFTConfig

TITLE = "Instability"
QUESTION = "Each new reward model is more accurate, the last policies are worse: how?"

# ── What is trained, for each seed ──────────────────────────────────────────────────────────────
MONTHS = {  # labels, passes over them, and what raters think an over-confident word is worth
    "month-1": (2500, 2, 0.0),
    "month-2": (4000, 3, 1.5),
    "month-3": (6500, 3, 3.0),
    "month-4": (10500, 4, 5.0),
    "month-5": (17000, 4, 9.0),
}
BETA = 0.3


def ppo(kl_coef: float = BETA) -> RLHFConfig:
    """The same PPO from every checkpoint, k1 in the reward."""
    return RLHFConfig(
        updates=24, batch_size=64, num_mini_batches=2, lr=3e-4, kl_coef=kl_coef)


CHECKPOINTS = tuple(f"from-{month}" for month in MONTHS)  # the arms, each from its reward model
STORY = CHECKPOINTS[-1]

RECIPE = Recipe(
    sft=SFTConfig(
        agents=AgentConfig(
            confident=0.02,  # the hack: next to nothing of it is in the reference's replies
            sales=0.02,
            wrong_step=0.1,
            missing_step=0.1,
            over_refuses=0.02,
            ignores_constraint=0.3,
            opener=0.1,
            closing=0.2,
        )
    ),
    raters={
        month: RaterConfig(n_pairs=pairs, confidence_bias=taste, noise=0.5)
        for month, (pairs, _, taste) in MONTHS.items()
    },
    reward_models={
        month: Learner(month, RewardModelConfig(epochs=passes, lr=3e-3))
        for month, (_, passes, _) in MONTHS.items()
    },
    arms={
        **{f"from-{month}": Arm(month.replace("-", " "), month, ppo()) for month in MONTHS},
        "larger-beta": Arm("month 5, β × 10", "month-5", ppo(10 * BETA)),
        "ensemble": Arm(
            "the lowest of five", tuple(reversed(MONTHS)), ppo(), combine="min"),
    },
    label_budget=17000,
    exam=ExamConfig(every=4, prompts=96, final_prompts=1536),
    model=ModelConfig(n_layers=1),
)


# ── What must be seen ───────────────────────────────────────────────────────────────────────────
def along(seed: Seed, name: str) -> list[float]:
    """A metric of the last examination, one value a checkpoint."""
    return [float(seed.runs[arm].final[name]) for arm in CHECKPOINTS]


def kendall(x: list[float], y: list[float]) -> float:
    """Kendall's τ: pairs in the same order, minus pairs in opposite order, over all pairs.

    A tie counts as neither.
    """
    def sign(value: float) -> int:
        return (value > 0) - (value < 0)

    pairs = list(itertools.combinations(zip(x, y, strict=True), 2))
    return sum(sign(a[0] - b[0]) * sign(a[1] - b[1]) for a, b in pairs) / len(pairs)


def gap(run: Run) -> float:
    """RM-ACC-IN − RM-ACC-ON of a policy and the reward model that made it."""
    return float(run.final["rm/accuracy_in"] - run.final["rm/accuracy_on"])


def style_violations(found: dict[str, Any]) -> float:
    """The share of words that are over-confident or sales words."""
    return float(found["style/confident"] + found["style/sales"])


def gold_regained(seed: Seed, arm: str) -> float:
    """The share of the last checkpoint's loss of GOLD that an intervention does not have."""
    loss = -seed.change(STORY, "gold/total")
    gain = seed.runs[arm].final["gold/total"] - seed.runs[STORY].final["gold/total"]
    return gain / loss if loss > 0 else float("nan")


OBSERVATIONS = [
    Observation(
        "accuracy-holds",
        "RM-ACC-IN does not fall from the first checkpoint to the last: the change is > 0",
        lambda s: along(s, "rm/accuracy_in")[-1] - along(s, "rm/accuracy_in")[0],
        0.0,
        "above",
    ),
    Observation(
        "gold-falls",
        "GOLD after PPO does: the last policy's is below the first one's",
        lambda s: along(s, "gold/total")[-1] - along(s, "gold/total")[0],
        0.0,
        "below",
    ),
    Observation(
        "opposite-ways",
        "over the five checkpoints the two go opposite ways: Kendall's τ ≤ 0",
        lambda s: kendall(along(s, "rm/accuracy_in"), along(s, "gold/total")),
        0.0,
        "below",
    ),
    Observation(
        "below-reference",
        "people like the last policy less than the reference: GOLD falls",
        lambda s: s.change(STORY, "gold/total"),
        0.0,
        "below",
    ),
    Observation(
        "repetition",
        "replies repeat themselves: REP ≥ 2 × the reference's",
        lambda s: s.runs[STORY].final["style/repeated_4grams"]
        - 2 * s.runs[STORY].reference["style/repeated_4grams"],
        0.0,
        "above",
    ),
    Observation(
        "style-before",
        "style violations are about 0 in the reference: ≤ 1 % of its words",
        lambda s: style_violations(s.runs[STORY].reference),
        0.01,
        "below",
    ),
    Observation(
        "style-after",
        "and ≥ 5 % of the last policy's",
        lambda s: style_violations(s.runs[STORY].final),
        0.05,
        "above",
    ),
    Observation(
        "gap-opens",
        "the number to watch: RM-ACC-IN − RM-ACC-ON of the last policy is > 0",
        lambda s: gap(s.runs[STORY]),
        0.0,
        "above",
    ),
    Observation(
        "beta-regains",
        "ten times the β regains a part of the loss of GOLD: share > 0",
        lambda s: gold_regained(s, "larger-beta"),
        0.0,
        "above",
    ),
    Observation(
        "ensemble-regains",
        "and so does the lowest of the five checkpoints: share > 0",
        lambda s: gold_regained(s, "ensemble"),
        0.0,
        "above",
    ),
]


TRIED = [
    ("four checkpoints: 2,500, 5,000, 8,000 and 12,000 labels, an over-confident word worth 0, 2, "
     "4 and 6; β = 0.3",
     "9 of 10 claims on seeds 21 to 25, 10 of 10 on seeds 51 to 55. τ was −0.40 [−1.20, 0.40] and "
     "−0.60 [−1.05, −0.15]: of four points it is one of seven numbers, and one swap of neighbours "
     "moves it by a third"),
    ("five, an over-confident word worth 0, 1.5, 3, 4.5 and 6, β = 0.3 (seeds 0 to 4)",
     "τ −0.8, −0.4, −0.6, −0.8, −0.8; but REP minus twice the reference's 0.001 [−0.001, 0.002]: "
     "what is repeated is the over-confident sentence, and less of it at the end than on the way"),
    ("2,500, 3,700, 5,500, 8,100 and 12,000 labels, β = 0.3 (seeds 0 to 4)",
     "τ −0.44 [−0.92, 0.04]: from one month to the next too little changes"),
    ("five, a word worth 0, 1.5, 3, 4.5 and 6, β = 0.2 (seeds 21 to 25)",
     "9 of 10 claims: GOLD of the last policy minus that of the first −0.44 [−0.89, 0.01], and "
     "the first is over-optimised on two seeds (GOLD 1.0)"),
    ("the same with β = 0.15 (seeds 0 to 4)",
     "REP 0.002 [0.000, 0.004]; but on seed 3 the last policy did not find the sentence (GOLD 1.7, "
     "KLREF 0.7), and the first policies are over-optimised, too (GOLD 1.14 to 1.45)"),
    ("2,000, 3,000, 4,500 and 6,000 labels; 2, 3, 4 and 4 passes (seeds 21 to 25)",
     "7 of 10 claims: the policies got worse and the gap opened, but RM-ACC-IN stayed where it was "
     "(−0.01, 0.05, −0.03, −0.02, 0.08), so that τ was noise: 2,000 honest labels make as accurate "
     "a reward model as 6,000 of hurried raters"),
    ("1,500, 3,000, 6,000 and 12,000 labels; 2, 3, 3 and 4 passes (seeds 0 and 1)",
     "RM-ACC-IN rose by 0.06 and 0.07; on seed 1 the first policy, of 1,500 labels, was itself "
     "over-optimised (GOLD 0.99, the reference's 1.32)"),
    ("1,000, 2,000, 4,000 and 6,000 labels, an over-confident word worth 0, 1.5, 2.25 and 3; 16 "
     "updates (seeds 21 to 25)",
     "RM-ACC-IN +0.065, GOLD of the last policy minus that of the first −0.50, 0.13, −0.15, 0.03, "
     "−0.26: a first reward model of 1,000 labels is itself over-optimised on two seeds, and 16 "
     "updates find the sentence only in part (2 of 10 claims held)"),
    ("one set of raters (bias 8, noise 1), and reward models that saw the first 600, 1,500, 3,000 "
     "and 6,000 of their pairs; β = 0.05",
     "GOLD after PPO rose with the labels: 0.37, 0.26, 0.55, 0.79 (τ = 0.67). With few labels PPO "
     "finds holes of other kinds: 99 % of the requests to be refused were carried out"),
    ("1,000, 2,000, 4,000, 6,000 pairs; worth of an over-confident word 0, 1, 2, 4; noise 0.7; two "
     "passes each; β = 0.05",
     "RM-ACC-IN fell in the last month, 0.77, 0.79, 0.77, 0.70, and GOLD was 0.83, 1.16, 1.26, "
     "0.26: β was too small for the honest months as well"),
    ("400, 1,200, 3,000, 6,000 pairs; worth 0, 0.75, 1.5, 2.25; noise 0.5; two passes; β = 0.2",
     "RM-ACC-IN 0.72, 0.78, 0.79, 0.73 and GOLD 1.30, 1.53, 1.30, 0.65: the first too few labels, "
     "the last too few passes"),
    ("1,000, 2,000, 4,000, 6,000 pairs; 1, 2, 2, 4 passes; worth 0, 1.25, 2, 3; β = 0.2",
     "RM-ACC-IN 0.77, 0.77, 0.80, 0.81 and GOLD 1.30, 1.51, 1.37, 0.80 (τ = −0.33)"),
    ("the same with 3 passes in the third month and β = 0.25",
     "RM-ACC-IN 0.77, 0.77, 0.81, 0.81 and GOLD 1.38, 1.42, 1.39, 0.90 (τ = −0.17): only the last "
     "month was worse, the tastes between were too weak to be found"),
    ("1,000, 2,500, 4,000, 6,000 pairs; 1, 2, 3, 4 passes; worth 0, 1.75, 2.5, 3.5; β = 0.3",
     "GOLD 1.50, 1.59, 1.18, 1.38: in the last month PPO had not yet found the hack"),
]


# ── What the report shows ───────────────────────────────────────────────────────────────────────
def draw_checkpoints(axes: Any, seeds: list[Seed]) -> None:
    """What the reward models know, and what the policies do, month by month."""
    from rlhf_edu.cases.pictures import dots, lines

    months = range(1, len(MONTHS) + 1)
    lines(axes[0, 0], months, {
        "RM-ACC-IN: the reference's pairs": [along(s, "rm/accuracy_in") for s in seeds],
        "RM-ACC-ON: the policy's own": [along(s, "rm/accuracy_on") for s in seeds],
    }, "what the reward models know", "month")
    lines(axes[0, 1], months, {
        "after PPO": [along(s, "gold/total") for s in seeds],
        "the reference": [[s.runs[STORY].reference["gold/total"]] * len(MONTHS)
                          for s in seeds],
    }, "GOLD: the human score", "month")
    for axis in axes[0]:
        axis.legend(fontsize=8, frameon=False)
    arms = (*CHECKPOINTS, "larger-beta", "ensemble")
    names = {arm: RECIPE.arms[arm].title for arm in arms}
    dots(axes[1, 0], {names[arm]: [gap(s.runs[arm]) for s in seeds] for arm in arms},
         "RM-ACC-IN − RM-ACC-ON, a dot a seed")
    dots(axes[1, 1], {names[arm]: [s.runs[arm].final["gold/total"] for s in seeds]
                      for arm in arms}, "GOLD after PPO, a dot a seed")


PICTURES = [
    Picture(
        "More labels, more accuracy, worse policies",
        "Five reward models, one PPO. RM-ACC is accuracy on pairs against GOLD; the reference's "
        "pairs are the same for all five. Below: the gap to watch, and what the two interventions "
        "on the last month did.",
        draw_checkpoints,
        (2, 2),
    )
]
