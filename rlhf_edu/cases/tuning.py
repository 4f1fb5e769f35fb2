"""C1 · tuning: reward up 18 %, behaviour worse. Which of the settings is it?

A help desk's assistant was trained with PPO. The checkpoint that the team picked, early in the
run, scores 18 % more than the reference. Replies are longer, full of sales talk, the same
request is now refused and now carried out, and people like the whole of it less. The log looks
like a list of culprits: nearly all advantages are positive, the critic explains nothing, a fifth of
the tokens leave the clip's interval on the last pass over a batch, and most of the final KL
(policy ‖ reference) is there after a quarter of the updates. (Items 24 and 36-50.)

18 % of what? Only differences of reward mean anything. The reward is read in SDs of the reference's
own rewards, and this team never centred it: 4.4 was added to every score. The reference's mean is
therefore 4.4 SDs, and 18 % are four fifths of an SD. With 44 added the same policy would be 1.8 %
better. The chosen checkpoint is the one, of the updates of the run's first half, whose reward
is nearest to +18 %; how near it comes is graded. The settings: penalty k3 in the loss with
β = 0.45, a clip with an upper bound only (min(ρ, 1+ε)·A as printed, lesson T2), four passes over
each batch, a high learning rate that falls linearly to zero, λ = 1.

So we change one thing at a time, and ask of each change how much of the reward gain it keeps and
how much of each regression it removes. A change wins that keeps 70 % and removes 70 %.

Which link of the chain is true. (1) The reward model. With honest raters and *every* setting left
as it is, GOLD's fall goes away. (2) β, but as a brake: it decides where on the way the policy
stops. Ten times β removes most of the regressions and most of the gain with them. (3) Clip, ε,
passes and learning rate decide how fast the policy walks, and k1 in the reward or k3 in the loss
how it is held: the mix of sales talk and length shifts a little, but none is seen to end with more
GOLD than the story has where it passes the same KL. (4) The positive advantages are a symptom of
the uncentred reward and of a critic that starts at zero; centred, with a critic warmed up, many are
gone, and the behaviour is not better, for whitening had taken out the constant already. (With λ < 1
and an uncentred reward there is more to it: early tokens of long replies get less of the constant,
and whitening cannot take that out; see what was tried.)

What would have refuted this: a single change of PPO that wins by the rule; honest raters whose GOLD
falls like the story's. The honest control is the story itself, stopped early at the same KL: the
last column of the table of changes.

REF is read at the checkpoint, in the middle of the fall: refusal *consistency* is lowest while
refusals are half lost. A policy that refuses nothing is perfectly consistent again, so the share
that is refused belongs beside it. It is read on all 24 clusters of such requests, those of training
among them: which of six held-out clusters flip is luck that differs from run to run, even between
two CPUs that round differently (see what was tried). And it is read with 32 replies to each
request: of few replies max(p, 1 − p) comes out too high where p is near a half, which hides a part
of the fall. The agents here carry out one in twenty such requests, so the reference refuses about
nine in ten; from the usual agents (one in seven) it would be of two minds already, with less to
lose.

The settings were decided on seeds 0 to 4, 200 and 201, but seeds 21 to 25 had a part in them, for
earlier settings had failed there (see what was tried); seeds 31 to 35 and 41 to 45 had none. One
threshold of our own was changed after seeds 51 to 55.
"""

import math
import statistics
from dataclasses import replace
from typing import Any

from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import WINS, Observation, Seed, kept_and_removed
from rlhf_edu.cases.pictures import curves
from rlhf_edu.cases.stages import Arm, Recipe, Room, seeded
from rlhf_edu.cases.world import BIASED, HONEST
from rlhf_edu.lab.evaluate import ExamConfig, make_exam, refusals
from rlhf_edu.lab.helpdesk import AgentConfig
from rlhf_edu.lab.model import Transformer
from rlhf_edu.lab.rlhf import RLHFConfig, start, train_rlhf
from rlhf_edu.lab.sft import SFTConfig
from rlhf_edu.lab.state import TrainingState

TITLE = "Tuning: reward up 18 %, behaviour worse"
QUESTION = "Reward +18 %, behaviour worse: which of the settings is it?"

# ── What is trained, for each seed ──────────────────────────────────────────────────────────────
OFFSET = 4.4  # the reference's mean reward in SDs, and so what 100 % are
GAIN = 0.18  # what the team reports of its checkpoint
REFUSAL_REPLIES = 32  # to each request that must be refused, at the checkpoint

HACKED = RLHFConfig(
    updates=12,
    batch_size=128,
    num_mini_batches=2,
    lr=3e-4,
    lr_schedule="linear",
    kl_coef=0.45,
    kl_placement="loss",
    kl_estimator="k3",
    clip="upper",
    lam=1.0,
    reward_offset=OFFSET,
)


def changed(title: str, **settings: Any) -> Arm:
    """The story with one thing changed (two, where one cannot go without the other)."""
    return Arm(title, "biased", replace(HACKED, **settings))


RECIPE = Recipe(
    sft=SFTConfig(agents=AgentConfig(complies=0.05)),  # few who carry out what is wrong
    raters={"biased": BIASED, "honest": HONEST},
    arms={
        "hacked": changed("the story"),
        "beta-x2": changed("β × 2", kl_coef=2 * HACKED.kl_coef),
        "beta-x5": changed("β × 5", kl_coef=5 * HACKED.kl_coef),
        "beta-x10": changed("β × 10", kl_coef=10 * HACKED.kl_coef),
        "adaptive-beta": changed("adaptive β", kl_target=0.4, kl_horizon=64.0),
        "kl-stop": changed("KL stop", target_kl=0.01),
        "one-epoch": changed("1 epoch", num_ppo_epochs=1),
        "narrow-clip": changed("ε = 0.1", cliprange=0.1),
        "lr-third": changed("learning rate / 3", lr=HACKED.lr / 3),
        # From the end of the warm-up on, the step size is the story's.
        "centred": changed("centred, critic warm", reward_offset=0.0, updates=18, critic_warmup=6,
                           lr=18 / 12 * HACKED.lr),
        "in-reward": changed("penalty in the reward", kl_placement="reward", kl_estimator="k1"),
        "two-sided": changed("two-sided clip", clip="two-sided"),
        "honest-raters": Arm("honest raters", "honest", HACKED),
    },
    exam=ExamConfig(every=4),
    judge="biased",
)
STORY = "hacked"
STEPS = {  # how far one update goes
    "kl-stop": "passes that end at a KL", "one-epoch": "one pass over each batch",
    "narrow-clip": "a narrower clip", "lr-third": "a third of the learning rate",
    "two-sided": "a clip with a lower bound"}
REMEDIES = {
    "beta-x2": "β × 2",
    "beta-x5": "β × 5",
    "beta-x10": "β × 10",
    "adaptive-beta": "an adaptive β that steers to 0.4 nats a response",
    "kl-stop": "the passes over a batch end at 0.01 nats a token of KL to the policy before it",
    "one-epoch": "passes over a batch: 4 → 1",
    "narrow-clip": "ε: 0.2 → 0.1",
    "lr-third": "learning rate / 3",
    "centred": "the reward centred, and six more updates at the start that only the critic uses; "
    "from there on the step size is the story's",
    "in-reward": "the same β, moved from the loss (k3) to the reward (k1, which alone has the "
    "gradient of the KL there)",
    "two-sided": "the usual clip, with a lower bound for negative advantages",
}
REGRESSIONS = {
    "gold/total": "GOLD",
    "style/length": "LEN",
    "style/sales": "SALES",
    "refusal/consistency": "REF",
}


# ── What is measured beside the runs ────────────────────────────────────────────────────────────
def checkpoint(room: Room) -> dict[str, float]:
    """The first half of the story's run again, and the long examination after each update.

    What is kept: the checkpoint whose reward is nearest to +18 %, the reference's REF on the same
    clusters, and the KL after a quarter. REF is read with more replies than elsewhere.
    """
    half = replace(HACKED, updates=HACKED.updates // 2, lr_end=0.5)
    config, exam = seeded(half, room.seed), seeded(RECIPE.exam, room.seed)
    reference, reward_model = room.reference(), room.reward_model("biased")
    length = config.response_length
    sit = make_exam(exam, exam.final_prompts, reference, reward_model, length)
    base = sit(reference)[0]["rm/mean"]
    looks: list[dict[str, float]] = []

    def distance(look: dict[str, float]) -> float:
        return abs((look["rm/mean"] - base) / (base + OFFSET) - GAIN)

    def asked_to_refuse(policy: Transformer) -> dict[str, float]:
        closely = replace(exam, refusal_replies=REFUSAL_REPLIES)
        return refusals(closely, policy, length, everywhere=True)

    def after_update(state: TrainingState, metrics: dict[str, float]) -> None:
        look = sit(state.policy)[0] | {"update": state.update}
        if all(distance(look) < distance(other) for other in looks):  # the nearest so far
            look |= asked_to_refuse(state.policy)
        looks.append(look)
        room.tick(1.0)

    train_rlhf(config, start(config, reference, reward_model), reference, reward_model,
               after_update)
    return min(looks, key=distance) | {
        "quarter/kl/exact": looks[HACKED.updates // 4 - 1]["kl/exact"],
        "reference/consistency": asked_to_refuse(reference)["refusal/consistency"]}


PROBES = {"checkpoint": checkpoint}
PROBE_SECONDS = 8.0


# ── What must be seen ───────────────────────────────────────────────────────────────────────────
def change(seed: Seed, name: str) -> float:
    """A number at the chosen checkpoint, minus the reference's own."""
    return float(seed.probes["checkpoint"][name] - seed.runs[STORY].reference[name])


def times(seed: Seed, name: str) -> float:
    """A number at the chosen checkpoint, as a multiple of the reference's own."""
    return float(seed.probes["checkpoint"][name] / seed.runs[STORY].reference[name])


def reward_gain(seed: Seed) -> float:
    """Gain of reward as a share of the reference's mean, which is OFFSET SDs, near enough."""
    return change(seed, "rm/mean") / (seed.runs[STORY].reference["rm/mean"] + OFFSET)


def early(seed: Seed, arm: str, name: str) -> float:
    """Mean of a number over the first fifth of the updates in which the policy learns."""
    config = RECIPE.arms[arm].rlhf
    assert isinstance(config, RLHFConfig)
    first = config.critic_warmup
    fifth = math.ceil((config.updates - first) / 5)
    return statistics.fmean(u[name] for u in seed.runs[arm].updates[first : first + fifth])


def kept(arm: str, seeds: list[Seed]) -> float:
    """The share of the story's reward gain that an arm keeps."""
    return kept_and_removed(arm, STORY, REGRESSIONS, seeds)[0][0]


def removed(arm: str, seeds: list[Seed], label: str = "GOLD") -> float:
    """The share of one of the story's regressions that an arm removes."""
    return kept_and_removed(arm, STORY, REGRESSIONS, seeds)[1][label][0]


OBSERVATIONS = [
    Observation(
        "reward-18-percent-or-more",
        f"at the checkpoint the reward is up, by 15 % or more of the reference's {OFFSET} SDs",
        reward_gain, 0.15, "above"),
    Observation(
        "reward-18-percent-or-less", "and by 21 % or less: 18 % ± 3 points",
        reward_gain, 0.21, "below"),
    Observation("longer", "replies are longer: LEN ≥ 1.3 times the reference's",
                lambda s: times(s, "style/length"), 1.3, "above"),
    Observation("sales", "more sales talk: SALES ≥ 2 times the reference's",
                lambda s: times(s, "style/sales"), 2.0, "above"),
    Observation("refusals", "refusals turn into a coin toss: REF falls by 10 points or more",
                lambda s: s.probes["checkpoint"]["refusal/consistency"]
                - s.probes["checkpoint"]["reference/consistency"], -0.10, "below"),
    Observation("gold-down", "people like it less: GOLD falls",
                lambda s: change(s, "gold/total"), 0.0, "below"),
    Observation("advantages-positive",
                "share of positive advantages before whitening ≥ 0.65, first fifth of the updates",
                lambda s: early(s, STORY, "advantage/share_positive"), 0.65, "above"),
    Observation("critic-lags", "the critic explains little meanwhile: EV ≤ 0.2",
                lambda s: early(s, STORY, "critic/explained_variance"), 0.2, "below"),
    Observation("outside",
                "on the last pass over the first batch ≥ 0.15 of the ratios are outside 1 ± ε",
                lambda s: s.runs[STORY].updates[0]["policy/outside_last_epoch"], 0.15, "above"),
    Observation("front-loaded", "half of the final KLREF or more in the first 25 % of the updates",
                lambda s: s.probes["checkpoint"]["quarter/kl/exact"]
                / s.runs[STORY].final["kl/exact"],
                0.5, "above"),
    # Which link is true: our own thresholds.
    Observation("cause-reward-model",
                "honest raters, every setting as it is: ≥ 70 % of GOLD's fall is gone",
                lambda seeds: removed("honest-raters", seeds), WINS, "above", pooled=True),
    Observation("beta-brakes", "β × 10: ≥ 70 % of GOLD's fall is gone",
                lambda seeds: removed("beta-x10", seeds), WINS, "above", pooled=True),
    Observation("brake-costs", "but less than half of the reward gain is kept",
                lambda seeds: kept("beta-x10", seeds), 0.5, "below", pooled=True),
    *(Observation(f"{arm}-is-not-it", f"{what}: less than 70 % of GOLD's fall is gone",
                  lambda seeds, arm=arm: removed(arm, seeds), WINS, "below", pooled=True)
      for arm, what in STEPS.items()),
    Observation("placement-is-not-it",
                "the penalty moved into the reward: less than 70 % of GOLD's fall is gone",
                lambda seeds: removed("in-reward", seeds), WINS, "below", pooled=True),
    Observation("centring-cures-the-log",
                "centred, with a critic warmed up: ≥ 25 points fewer advantages are positive",
                lambda s: early(s, STORY, "advantage/share_positive")
                - early(s, "centred", "advantage/share_positive"), 0.25, "above"),
    Observation("centring-is-not-it", "but less than 70 % of GOLD's fall is gone",
                lambda seeds: removed("centred", seeds), WINS, "below", pooled=True),
]


# ── What the report shows ───────────────────────────────────────────────────────────────────────
def draw_changes(axes: Any, seeds: list[Seed]) -> None:
    """Reward gain and GOLD's fall of every arm; KLREF over the updates of some."""
    from rlhf_edu.lab.plots import COLOURS, panel

    for i, arm in enumerate((STORY, *REMEDIES)):
        runs = [s.runs[arm] for s in seeds]
        x = [r.judge["rm/mean"] - s.runs[STORY].reference["rm/mean"]
             for r, s in zip(runs, seeds, strict=True)]
        y = [r.final["gold/total"] - r.reference["gold/total"] for r in runs]
        style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)],
                                 "marker": "osD^"[i // len(COLOURS)]}
        axes[0, 0].plot(x, y, linestyle="", alpha=0.3, markersize=4, **style)
        axes[0, 0].plot(statistics.fmean(x), statistics.fmean(y), linestyle="", markersize=8,
                        label=RECIPE.arms[arm].title, **style)
    axes[0, 0].axhline(0, color="#888888", linewidth=0.8)
    axes[0, 0].legend(fontsize=7, frameon=False)
    panel(axes[0, 0], "change of GOLD", "reward gain, SDs of the reference's rewards")
    some = {arm: RECIPE.arms[arm].title
            for arm in (STORY, "beta-x2", "beta-x10", "lr-third", "two-sided")}
    curves(axes[0, 1], seeds, some, "kl/exact", "KLREF: nats a response")
    axes[0, 1].legend(fontsize=8, frameon=False)


PICTURES = [
    Picture(
        "No change of PPO is seen to do better than stopping early",
        "Left: each change at the end of its run, large marks the mean and small ones the seeds. "
        "Good would be top right, much reward and no fall of GOLD. Right: KL(policy ‖ reference), "
        "exact along the sampled replies; β decides where it stops, the step how fast it climbs.",
        draw_changes,
        height=4.6,
    )
]
REPLIES = {
    "honest-raters": "The same settings, every one of them, and a reward model that learned from "
    "honest raters: what changes is the cause."
}
TRIED = [
    ("\"centred\" with the story's first step size, falling over all 18 updates (seeds 21 to 25)",
     "where the policy began, its steps were two thirds of the story's: one more change, which "
     "nobody had meant. GOLD's fall was 8 % larger than the story's [−15, 31]"),
    ("\"less than half of GOLD's fall is gone\" for shorter steps and for the penalty in the "
     "reward (seeds 51 to 55)",
     "18 of 21: one pass over each batch removes 19 % [−12, 51], a third of the learning rate 31 % "
     "[9, 54], the penalty in the reward 20 % [−24, 64]. One half was our own number. Now the rule "
     "for a winner is asked of these changes as it is of the honest raters: 70 %"),
    ("\"none of the shorter steps removes half of GOLD's fall\" as one claim about the largest",
     "held on every set of seeds; but the jackknife is not valid for a maximum, so each of the "
     "five is graded by itself"),
    ("the present set-up on seeds that had no part in it (31 to 35, then 41 to 45)",
     "16 of 17: SALES 3.0 [1.8, 4.1] times the reference's, on seed 32 only 1.5; then 17 of 17. "
     "With 21 to 25 it is 2.8, as a geometric mean, and above 2 on 14 of 15 seeds"),
    ("agents who carry out 15 % of such requests, as elsewhere, not 5 % (seeds 31 to 35)",
     "16 of 17: REF falls by 7, 16, 5, 13 and 17 points, from 0.76 to 0.85. On seeds 0 to 4, 200 "
     "and 201 it had been 20 (SD 4), on 21 to 25 20 (SD 2). With 5 %, on seeds 0 to 4 and 200: "
     "from 0.90 to 0.93, by 22, 32, 29, 33, 28 and 28 points, and the reward is up by 17 to 21 %"),
    ("k1 in the loss with β = 0.1, λ = 0.95, 5 added to every score, 16 updates (seed 0)",
     "LEN 1.12 times only, GOLD 0.89 → −1.36: with λ < 1 the first tokens of a long reply get "
     "less of the constant, so an uncentred reward pays for being short"),
    ("the same with λ = 1 and learning rate 4.5e-4 (seed 0)",
     "KLREF 200 with the one-sided clip: word salad, no sales words at all"),
    ("k1 in the loss with β = 0.1, λ = 1, 8 updates (seeds 0, 1)",
     "all but REF: refused 0.79 → 0.15 and 0.84 → 0.12, and a policy that hardly refuses is "
     "consistent again (REF +0.06, +0.04); on seed 1 only 0.45 of the KLREF in the first quarter"),
    ("raters who like length less (0.10 or 0.07 a word) and label with less noise (seeds 0, 2)",
     "the refusals go all the same: 0.06, 0.01 and 0.10, 0.01 are left; KLREF 6 to 25"),
    ("the end of the run as the chosen checkpoint, k3 in the loss with β = 0.5 (seeds 0 to 3)",
     "reward gains 1.17, 0.66, 0.91, 0.97 SDs: no interval of ± 3 points around any percentage. "
     "At update 2 it is 0.70 with an SD of 0.10 over five seeds"),
    ("update 2 of 8 as the checkpoint, learning rate 3e-4, 3.7 added (seeds 21 to 25)",
     "reward +21.8, 17.8, 21.0, 15.6, 23.0 %: reward models differ in how fast they are climbed, "
     "and LEN, SALES and the front-loading of KLREF differ with it (four of the claims failed). A "
     "checkpoint that is chosen by its reward, in a slower and longer run, has the rest alike"),
    ("4.2 added to every score (seeds 21 to 25)",
     "SALES 2.0 to 2.6 times on every seed, its interval [1.97, 2.56]: the only one of 18 claims "
     "that did not hold"),
    ("\"no single change wins\" as a graded claim (seeds 21 to 25)",
     "the best change is worth 0.52, the jackknife says 0.51 to 0.73: a maximum is no smooth "
     "function of the seeds, and the jackknife is not valid for it. The ranking below the table of "
     "changes says the same without an interval"),
    ("the set-up with agents who carry out 15 %, on seeds 41 to 45, on which nothing was tuned",
     "16 of 17 claims hold; REF falls by 0.08 to 0.29, 0.20 on average, and its interval ends at "
     "−0.083 instead of below −0.10"),
    ("the same, REF on the six held-out clusters alone (seeds 21 to 25 on two kinds of CPU)",
     "−0.24 [−0.28, −0.21] on an AMD EPYC and −0.14 [−0.20, −0.09] on an Intel Xeon: the same "
     "seeds, whose sums are rounded differently. On all 24 clusters it falls by 0.20 (SD 0.04) "
     "over seeds 0 to 4 and 200 to 204"),
    ("batches of 256 instead (seeds 0 to 4)",
     "SD 0.14: what differs between the seeds is the reward model, not the luck of a batch"),
    ("β = 0.6, learning rate 2.5e-4 (seeds 0 to 4)",
     "on two seeds the first half of the run stops at +15.3 and +16.4 %, the others pass 18: over "
     "all 17.2 (SD 1.3), too near to 15. Outside 1 ± ε 0.195 (SD 0.019). With β = 0.45 and 3e-4 "
     "the checkpoints are at 17.5 to 19.4 %, and it is 0.20 (SD 0.018; seeds 0 to 4, 200, 201)"),
    ("REF with 8 replies to each request instead of 32, at those checkpoints (seeds 0 to 4)",
     "it falls by 0.20 (SD 0.03), with 32 by 0.22 (SD 0.02)"),
    ("a critic warmed up for 2 updates (learning rate 2.5e-4, seeds 0 to 2), or 4 (3e-4, 0 to 4)",
     "0.32 to 0.36, and 0.33 to 0.47 (SD 0.055), of the advantages are positive no more; with 6 "
     "updates 0.39 (SD 0.045). The policy still improves faster than the critic follows"),
]
