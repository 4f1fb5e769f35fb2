"""P14 · Helping or herding: an ensemble does not remove a bias that all its members share.

Eisenstein et al. (2023, arXiv 2312.09244) trained ensembles of reward models and found that the
members agree on data like that they learned from and disagree on the replies of a policy that was
trained against one of them. So an ensemble helps where the members err in different ways. Where
they err alike it does not: replies grew to twice their length on TL;DR, the share of answers that
are lists from 8 to about 50 %, whatever the ensemble.

The same here, with the cause in our hands. In one world all members learn from the labels of the
same raters, who like long replies: PPO (β·k1 of KL(policy ‖ reference) in the reward) lengthens its
replies against the mean of the members and against the most doubtful of them (WCO). In the other
each member has raters of its own: one lot likes length, one sales words, one over-confident words,
two have no such taste. What only one member likes the others do not pay for, and replies do not
grow: they lose about a third of their length, probably as honest taste is for short ones. The
ensembles are trained and combined alike. But members with raters of their own have five times the
labels together, and two of them no bias: more than the place of the bias differs.

Do members disagree on the replies of a policy that was trained against one of them? Those with
tastes of their own do, where a taste finds something that is rare in data: the policy of the member
that likes sales words uses many, and the other four dislike them. Members of the shared bias do
not, for they all like what it has found. Disagreement warns of the bias that an ensemble removes,
and is silent about the one that it leaves.

Also here is the paper's term + η·mean (r⁺ + r⁻)². A ranking loss is blind to r(x, y) + c(x); the
term pulls every pair's mean towards 0, and costs no accuracy. With the opposite sign, as it is
printed in (10.63), the loss has no minimum and the raw rewards run away as far as the steps carry
them (lesson T4).

Refuted would be: members with tastes of their own that agree on the policy's replies as they do on
data, an ensemble that keeps its length under a shared bias, or one that grows under biases that are
not shared.

What is different here: the members of the shared bias start from one trunk and differ in the order
of the pairs, a weak kind of ensemble. In the paper members differ by the seed of their pre-training
and learn from the same labels; trunks of their own did not make ours disagree (see what was tried).
"""

import math
from dataclasses import replace
from typing import Any

import torch

from rlhf_edu.as_printed import as_printed_regularized_loss
from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed
from rlhf_edu.cases.pictures import dots
from rlhf_edu.cases.stages import Arm, Learner, Recipe, Room
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.evaluate import ExamConfig, answer, exam_rows
from rlhf_edu.lab.raters import LabelBudget, RaterConfig, collect_preferences
from rlhf_edu.lab.reward_model import RewardModel, RewardModelConfig, train_reward_model
from rlhf_edu.lab.rlhf import RLHFConfig
from rlhf_edu.lab.sft import SFTConfig
from rlhf_edu.ranking_loss import pairwise_ranking_loss, ranking_accuracy

TITLE = "An ensemble does not remove a bias that its members share"
QUESTION = "Five reward models instead of one: does the length go?"

AGENTS = helpdesk.AgentConfig(sales=0.05, confident=0.05)  # what two of the tastes look for is rare
PAIRS = 5000
UPDATES = 30
SHARED = ("length", "length-b", "length-c", "length-d", "length-e")
SPECIFIC = ("length", "sales", "confidence", "none", "none-b")
PPO = RLHFConfig(updates=UPDATES, batch_size=128, num_mini_batches=2, lr=1.5e-4, kl_coef=0.05)

RECIPE = Recipe(
    sft=SFTConfig(agents=AGENTS),
    raters={
        "length": RaterConfig(length_bias=0.15, n_pairs=PAIRS),
        "sales": RaterConfig(sales_bias=1.8, n_pairs=PAIRS),
        "confidence": RaterConfig(confidence_bias=1.6, n_pairs=PAIRS),
        "none": RaterConfig(n_pairs=PAIRS),
        "none-b": RaterConfig(n_pairs=PAIRS, seed=1),
    },
    reward_models={name: Learner("length", RewardModelConfig(seed=k, epochs=2))
                   for k, name in enumerate(SHARED) if k},
    reward_model=RewardModelConfig(epochs=2),
    arms={
        "single": Arm("the one that likes length", "length", PPO),
        "single-sales": Arm("the one that likes sales words", "sales", PPO),
        "shared-mean": Arm("shared bias: mean", SHARED, PPO),
        "shared-min": Arm("shared bias: minimum (WCO)", SHARED, PPO, "min"),
        "specific-mean": Arm("tastes of their own: mean", SPECIFIC, PPO),
        "specific-min": Arm("tastes of their own: minimum (WCO)", SPECIFIC, PPO, "min"),
    },
    exam=ExamConfig(every=UPDATES, prompts=64, final_prompts=256),
)
ETA = 0.02  # of the centring term
HELD_OUT = 20_000  # new pairs of the raters who like length


def disagreement(room: Room) -> dict[str, float]:
    """Variance between members, each in its gauge, on data and on a policy trained against one."""
    rows = exam_rows(room.seed, 256)
    prompts = helpdesk.desk().prompts[rows]
    found = {}
    for kind, names, arm in (("shared", SHARED, "single"), ("specific", SPECIFIC, "single-sales")):
        for where, model in (("data", room.reference()), ("policy", room.policy(arm))):
            replies = answer(model, rows, room.seed, 32)
            read = torch.stack([room.reward_model(name)(prompts, replies) for name in names])
            found[f"{kind}/{where}"] = float(read.var(0).mean())
    return found


def centring(room: Room) -> dict[str, float]:
    """Mean |raw reward of a pair| and accuracy without the term, with it, with the wrong sign."""
    pairs, reference = room.preferences("length"), room.reference()
    raters = replace(RECIPE.raters["length"], n_pairs=HELD_OUT, seed=room.seed + 777_777)
    fresh = collect_preferences(raters, reference, LabelBudget(raters.n_pairs))
    prompts = helpdesk.desk().prompts[fresh.rows]

    def look(config: RewardModelConfig, name: str, loss: Any = pairwise_ranking_loss) -> Any:
        model = train_reward_model(config, pairs, reference, loss).model
        raw = RewardModel(model, 0.0, 1.0)
        chosen, rejected = raw(prompts, fresh.chosen), raw(prompts, fresh.rejected)
        return {f"{name}/mean": float((chosen + rejected).abs().mean() / 2),
                f"{name}/accuracy": float(ranking_accuracy(chosen, rejected))}

    plain = RewardModelConfig(seed=room.seed, gauge_replies=64)
    longer = replace(plain, epochs=4)  # what has no minimum shows itself in time
    return (look(plain, "plain") | look(replace(plain, centring=ETA), "centred")
            | look(longer, "longer") | look(longer, "printed", as_printed_regularized_loss))


PROBES = {"disagreement": disagreement, "centring": centring}
PROBE_SECONDS = 40.0


def longer(seed: Seed, arm: str) -> float:
    """LEN of an arm over the reference's."""
    run = seed.runs[arm]
    return float(run.final["style/length"] / run.reference["style/length"])


def more_variance(seed: Seed, kind: str) -> float:
    """Variance between members on the policy's replies over that on data."""
    found = seed.probes["disagreement"]
    return float(found[f"{kind}/policy"] / found[f"{kind}/data"])


def changed(seed: Seed, what: str) -> float:
    """A number of the centring probe with the term, minus that without."""
    found = seed.probes["centring"]
    return float(found[f"centred/{what}"] - found[f"plain/{what}"])


def run_away(seed: Seed) -> float:
    """How much further from 0 raw rewards are with the wrong sign: log₁₀ of the ratio."""
    found = seed.probes["centring"]
    return math.log10(found["printed/mean"] / found["longer/mean"])


OBSERVATIONS = [
    Observation(
        "disagree-on-policy", "members with tastes of their own disagree on the policy's replies: "
        "variance between them ≥ 2 × that on data",
        lambda s: more_variance(s, "specific"), 2.0, "above",
        paper="they agree in distribution, disagree on aligned outputs"),
    Observation(
        "shared-disagree", "and so do members of the shared bias: ≥ 2 ×",
        lambda s: more_variance(s, "shared"), 2.0, "above", graded=False),
    Observation(
        "shared-mean-lengthens", "bias in the shared labels: against the mean LEN × ≥ 1.2",
        lambda s: longer(s, "shared-mean"), 1.2, "above", paper="TL;DR: length × 2"),
    Observation(
        "shared-min-lengthens", "and against the most doubtful member: LEN × ≥ 1.2",
        lambda s: longer(s, "shared-min"), 1.2, "above", paper="TL;DR: length × 2"),
    Observation(
        "specific-mean-does-not", "tastes of their own: against the mean LEN × < 1.2",
        lambda s: longer(s, "specific-mean"), 1.2, "below"),
    Observation(
        "specific-min-does-not", "and against the most doubtful member: LEN × < 1.2",
        lambda s: longer(s, "specific-min"), 1.2, "below"),
    Observation(
        "centring-centres", "the centring term: |mean raw reward| of a pair falls",
        lambda s: changed(s, "mean"), 0.0, "below"),
    Observation(
        "centring-keeps-accuracy", "at a change of accuracy of at most 1 point: change > −0.01",
        lambda s: changed(s, "accuracy"), -0.01, "above"),
    Observation(
        "centring-buys-none", "and < 0.01", lambda s: changed(s, "accuracy"), 0.01, "below"),
    Observation(
        "wrong-sign-diverges", "with the wrong sign and four passes raw rewards run away: |mean| "
        "of a pair ≥ 10 × as large as without it (log₁₀ of the ratio ≥ 1)", run_away, 1.0, "above",
        paper="unbounded below (T4)"),
]


def draw(axes: Any, seeds: list[Seed]) -> None:
    """Lengths of all arms, and the spread between members."""
    dots(axes[0, 0], {arm.title: [longer(s, name) for s in seeds]
                      for name, arm in RECIPE.arms.items()}, "LEN over the reference's")
    axes[0, 0].axvline(1.2, color="#888888", linewidth=0.8)
    dots(axes[0, 1], {f"{kind}: {where}": [s.probes["disagreement"][f"{kind}/{where}"]
                                          for s in seeds]
                      for kind in ("shared", "specific") for where in ("data", "policy")},
         "variance between members")


TRIED = [
    ("members that differ in the order of the pairs alone",
     "seed 0: no more variance on the policy's replies than on data (× 0.79): they err alike"),
    ("members with trunks of their own, which learned to write from other seeds",
     "seed 0: × 0.49. They differ more, on data above all; the claim is no nearer"),
    ("5,000 labels, and the single policy trained for 10, 20, 30 and 40 updates (seed 0)",
     "shared bias: variance × 0.72, 0.53, 0.44, 0.44; a taste each: × 1.34, 1.40, 1.50, 1.62. More "
     "pressure drives the two further apart, and those who share a bias closer together"),
    ("centring: the size of each seed's change of accuracy, on 4,000 labels (seeds 21 to 25)",
     "0.7 points [0.0, 1.4]: noise of the measure and of training does not cancel in sizes. So it "
     "is the signed change now, on 20,000"),
    ("η = 0.03",
     "seed 0: |mean raw reward of all pairs| 0.11 → 0.02; accuracy changed by 1.4 points"),
    ("η = 0.01", "seed 0: 0.118 → 0.116, accuracy changed by 0.1 points: too little"),
    ("honest raters, 1,500 or 4,000 labels, trunks of their own, 5 to 40 updates (seed 0)",
     "variance × 0.45 falling to 0.10, and × 0.79 falling to 0.33: good replies are good to all"),
    ("three members; tastes of 0.2 a word and 0.8, 2,500 labels, the usual agents, 10 updates "
     "(seeds 21 to 25)",
     "a taste each: variance × 1.6 [1.2, 2.0] under the policy that likes length, LEN × 1.04 "
     "[0.64, 1.45]: × 1.3 on three of five. |mean raw reward of all pairs| was as small without "
     "the term"),
    ("three members, 0.15 and 1.6, agents with few sales words, 5,000 labels, 20 updates (seeds 0 "
     "to 4)",
     "variance × 3.1 [1.7, 4.4] under the policy that likes sales words; LEN × 1.14 [1.01, 1.26] "
     "against the mean, which still pays a third of each taste, 0.83 against the minimum; with the "
     "wrong sign and one pass |raw mean| of a pair × 6 [4, 9], with two × 9 to 12"),
    ("the same with 0.12 and 1.8, 30 updates (seeds 0 to 4)",
     "variance × 3.0 to 5.2; LEN × 0.7, 1.0, 1.2, 1.6, 1.0 against the mean. So two honest members "
     "were added to each ensemble of tastes, and two of the same to the shared one"),
]
PICTURES = [Picture(
    "What all members like, the ensemble likes",
    "A dot a seed, the bar their mean; the line is the threshold. Right: on replies of the "
    "reference (data) and of a policy trained against one member: shared, one that likes length; "
    "specific, the one that likes sales words.",
    draw)]
