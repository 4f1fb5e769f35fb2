"""C5 · instability: the reward models grow more accurate, and the policies end worse.

Labels are bought every month, more each time, and the reward model is trained for longer: 2,500,
4,000, 6,500, 10,500 and 17,000 pairs. From each of the five checkpoints a policy is trained with
the same PPO. On held-out pairs of the reference's replies the reward models get better. The
policies get worse: people like the last one less than the reference, its replies repeat themselves,
and more than one word in twenty is sales talk, which next to none was: "check the cable then wipe
the lens" has become "check the cable then wipe the lens . buy our new deal".

Three things change from month to month, and one of them nobody measures. Each month's pairs are
new; there are more of them, and more passes over them; and the raters are more hurried, and take a
sales sentence for a better answer. In the first month they do not, in the last a sales word is
worth six points of GOLD to them. But the reference nearly never says such a sentence, so on its
pairs the taste costs the reward model less accuracy than the further labels and passes bring.
Nothing is contradictory about that: RM-ACC-IN asks about the replies that the reference gives, and
PPO goes where the reward model pays most. The number to watch is the gap RM-ACC-IN − RM-ACC-ON: how
much of the reward model's judgement is lost on the pairs of the policy that it made. Read it
against the first month's, 0.15 to 0.4: a policy's own pairs are more alike than the reference's,
and harder to order for any reward model. By how much the gap grows differs between seeds: on one of
ten (21 to 25, 41 to 45) it was as large in the first month. It is reported.

"Instability" is then no matter of the optimiser: the five runs share every setting of PPO (k1 in
the reward, one β), the prompts and the random numbers, and only the reward model differs.

Two interventions on the last month, either of which could have failed. Ten times the β holds the
policy. The five reward models as an ensemble, where a reply is worth what the most doubtful of them
says, works as well; likely because the first does not share the taste (an ensemble without it was
not tried): one of members that all share it could not (Eisenstein et al. 2023). What each regained
of the loss of GOLD stands in the table, with its interval.

Repetition is rare: REP of the reference is about 0.0003. So it is measured on 8,192 replies, and as
the logarithm of a ratio. It is highest when PPO has just found the sentence, and says it twice;
trained for longer, the policy says it once. RM-ACC-IN is measured on as many replies. A single
reward model can be lucky: RM-ACC-IN and GOLD are held to a straight line through all five months,
not to the first and the last alone.

Settings and statistics were decided on seeds 0 to 4 and 200 to 204. On the six that the present
set-up was run on (0, 1, 200, 201, 203, 204) all ten claims hold. RM-ACC-IN holds by least: it rises
by 0.02 a month, on seed 200 by 0.005. On GOLD, style and the interventions the six agree.

It would have been refuted by an RM-ACC-IN that falls (then the usual dashboard would have warned),
by a GOLD that does not, or by no gap at all in the last month. (Item 28.)
"""

import itertools
from typing import Any

import torch
from torch import Tensor

from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Run, Seed, doublings
from rlhf_edu.cases.stages import Arm, Learner, Recipe, Room
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.evaluate import ExamConfig
from rlhf_edu.lab.gold import gold_score
from rlhf_edu.lab.helpdesk import AgentConfig
from rlhf_edu.lab.measure import repeated_4grams, reward_model_accuracy
from rlhf_edu.lab.model import ModelConfig, Transformer
from rlhf_edu.lab.raters import RaterConfig
from rlhf_edu.lab.reward_model import RewardModelConfig
from rlhf_edu.lab.rlhf import RLHFConfig
from rlhf_edu.lab.sampling import sample
from rlhf_edu.lab.sft import SFTConfig

TITLE = "Instability"
QUESTION = "Each new reward model is more accurate, the last policies are worse: how?"

# ── What is trained, for each seed ──────────────────────────────────────────────────────────────
MONTHS = {  # labels, passes over them, and what raters think a sales word is worth
    "month-1": (2500, 2, 0.0),
    "month-2": (4000, 3, 1.5),
    "month-3": (6500, 3, 2.0),
    "month-4": (10500, 4, 3.0),
    "month-5": (17000, 5, 6.0),
}
BETA = 0.3
LENGTH = 32  # longest reply, in tokens


def ppo(kl_coef: float = BETA) -> RLHFConfig:
    """The same PPO from every checkpoint, k1 in the reward."""
    return RLHFConfig(
        updates=30, batch_size=64, num_mini_batches=2, lr=5e-4, kl_coef=kl_coef)


CHECKPOINTS = tuple(f"from-{month}" for month in MONTHS)  # the arms, each from its reward model
STORY = CHECKPOINTS[-1]

RECIPE = Recipe(
    sft=SFTConfig(
        agents=AgentConfig(
            confident=0.02,
            sales=0.015,  # the hack: next to nothing of it is in the reference's replies
            wrong_step=0.1,
            missing_step=0.1,
            over_refuses=0.02,
            ignores_constraint=0.3,
            opener=0.1,
            closing=0.2,
        )
    ),
    raters={
        month: RaterConfig(n_pairs=pairs, sales_bias=taste, noise=0.5)
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
    exam=ExamConfig(every=10, prompts=96, final_prompts=1536),
    model=ModelConfig(n_layers=1),
)


# ── The probe: repetition is rare, and months differ little, so it reads many replies ────────────
PROMPTS = 4096  # held-out prompts, two replies each


@torch.inference_mode()
def closer(room: Room) -> dict[str, Any]:
    """REP of the reference and of the last policy, and RM-ACC-IN of every reward model."""
    table, luck = helpdesk.desk(), torch.Generator().manual_seed(room.seed)
    rows = helpdesk.draw_prompts(table, PROMPTS, luck, held_out=True)

    def replies(policy: Transformer) -> Tensor:
        return torch.cat([sample(policy, table.prompts[part], LENGTH, luck, copies=2)[0]
                          for part in rows.split(512)])

    base, last = replies(room.reference()), replies(room.policy(STORY))
    here = table.to(base.device)[rows.repeat_interleave(2).to(base.device)]
    gold = gold_score(base, here).total
    accuracy = {
        month: float(reward_model_accuracy(
            room.reward_model(month)(here.prompts, base).view(-1, 2), gold.view(-1, 2)))
        for month in MONTHS
    }
    return {"reference": float(repeated_4grams(base).mean()),
            "policy": float(repeated_4grams(last).mean()), "accuracy_in": accuracy}


PROBES = {"closer": closer}
PROBE_SECONDS = 5.0


# ── What must be seen ───────────────────────────────────────────────────────────────────────────
def along(seed: Seed, name: str) -> list[float]:
    """A metric of the last examination, one value a checkpoint."""
    return [float(seed.runs[arm].final[name]) for arm in CHECKPOINTS]


def accuracy_in(seed: Seed) -> list[float]:
    """RM-ACC-IN, one value a checkpoint."""
    found = seed.probes["closer"]["accuracy_in"]
    return [float(found[month]) for month in MONTHS]


def trend(values: list[float]) -> float:
    """Change from one checkpoint to the next, by the straight line of least squares.

    >>> trend([1.0, 2.0, 3.0, 4.0])
    1.0
    """
    middle = (len(values) - 1) / 2
    weights = [i - middle for i in range(len(values))]
    return (sum(w * v for w, v in zip(weights, values, strict=True))
            / sum(w * w for w in weights))


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


def times_as_repetitive(seed: Seed) -> float:
    """REP of the last policy over the reference's, in powers of two: 1 is twice as much."""
    found = seed.probes["closer"]
    return doublings(found["policy"], found["reference"])


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
        "RM-ACC-IN does not fall over the five checkpoints: a line through them rises, > 0 a month",
        lambda s: trend(accuracy_in(s)),
        0.0,
        "above",
    ),
    Observation(
        "gold-falls",
        "GOLD after PPO does: a line through its five values falls, < 0 a month",
        lambda s: trend(along(s, "gold/total")),
        0.0,
        "below",
    ),
    Observation(
        "opposite-ways",
        "over the five checkpoints the two go opposite ways: Kendall's τ ≤ 0",
        lambda s: kendall(accuracy_in(s), along(s, "gold/total")),
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
        "replies repeat themselves, REP ≥ 2 × the reference's: log₂ of the ratio > 1",
        times_as_repetitive,
        1.0,
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
        "gap-grows",
        "and larger than the first month's: the difference is > 0",
        lambda s: gap(s.runs[STORY]) - gap(s.runs[CHECKPOINTS[0]]),
        0.0,
        "above",
        graded=False,
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
    ("an over-confident word worth 0, 1.5, 3, 5 and 9, no taste for sales words; 24 updates with a "
     "step size of 3e-4; REP as a difference, on 3,072 replies (seeds 0 to 4)",
     "10 of 10 claims held, two by little: GOLD of the last policy minus the reference's −0.42 "
     "[−0.72, −0.13], REP minus twice the reference's 0.0017 [0.0002, 0.0032]. Five other seeds "
     "would show both about every second time. An over-confident sentence has one such word or "
     "two, and which one PPO finds is luck; on seed 3 it had just begun to"),
    ("the same with 40 updates (seeds 0 and 1)",
     "GOLD of the last policy 0.66 and 0.92, after 24 updates 0.68 and 0.65; REP 0.0025 and "
     "0.0009, after 24 updates 0.0028 and 0.0037: in the end the policy says the sentence once, "
     "and otherwise answers well"),
    ("the same with 32 updates and a step size of 5e-4 (seeds 1 to 3)",
     "the sentence is found some 4 updates earlier; GOLD of the last policy 1.00, 0.32, 1.01"),
    ("a sales word, not an over-confident one, worth 0, 1.5, 3, 5 and 9; the first month 2,000 "
     "labels; 32 updates with 4e-4 (seeds 3 and 4)",
     "GOLD of the last policy minus the reference's −0.63 and −0.45, where it had been −0.14 and "
     "−0.19: a sales sentence has two or three such words. But τ −0.2 and −0.6: from the third "
     "month on the policies hardly differ"),
    ("a sales word worth 0, 1.2, 1.6, 2.4 and 5; one pass in the first month, four in the last; 28 "
     "updates with 4e-4 (seeds 0, 1, 3, 4, 200, 201)",
     "RM-ACC-IN +0.11, +0.05, +0.10, +0.10, −0.01, +0.05, and τ 0.2 on seed 200. In 6 % of the "
     "reference's pairs is a sales word, and of those the last reward model has 19 % right, the "
     "first 83 %: the taste costs 0.04 of accuracy"),
    ("the same, but agents who say half as many sales sentences, and five passes in the last month "
     "(seeds 200 and 201)",
     "RM-ACC-IN +0.09 and +0.07; but the sentence is found after 20 of 28 updates, and the first "
     "policy, of a reward model with one pass, is over-optimised on seed 201 (GOLD 0.83)"),
    ("the last checkpoint minus the first, in place of a line through all five; otherwise as now "
     "(seeds 0, 1, 200, 201)",
     "RM-ACC-IN +0.09, +0.06, +0.01, +0.11: mean over SD 1.6, that of the line 1.9"),
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
        "RM-ACC-IN: the reference's pairs": [accuracy_in(s) for s in seeds],
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
