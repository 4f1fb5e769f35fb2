"""C3 · the reward-hacking spike: quiet at first, then reward and KL jump together.

A long run of small updates: 2,000 of them, eight replies each, by steps that get smaller and
smaller (which makes what follows the jump quiet: with a constant step RM's steepest slope is 3.5 to
12 times the median one). For the first hundred updates or two little happens. Then, within a few
hundred, the reward model's score and KL(policy ‖ reference) both leave their course. Afterwards
almost every reply carries a sentence such as "it is absolutely guaranteed", also where the user
asked for three words, and people like the replies much less.

What was found? The human agents nearly never write such a sentence, so the reference nearly never
says it. But the raters love it, and the 400 or so replies with it among 16,000 were enough to teach
that to the reward model. Append the sentence to a right reply and the score rises by about five
SDs of the reference's rewards; the sentence alone, with no answer at all, scores above the right
reply. The hack was there from the first update. It only had to be found, and what is rare is found
slowly: PPO learns from what it samples, and what is said twice as often is pushed twice as hard. So
the share grows like interest, or faster, too small to see until it is everywhere.

When does it come? On twenty seeds (0, 1, 21 to 25, 31 to 35, 41 to 45 and 200 to 202) RM is
half-way up after 284 updates [260, 308], and KLREF within 52 of it on every seed. The steepest 50
updates lie there, too, but a climb takes 200 to 300 updates, and which 50 of an even climb are the
steepest is luck.

RM-ACC-IN gives no warning. It is measured on pairs of the reference's replies, where the sentence
hardly occurs, and since neither the reward model nor those replies change, it *cannot* change
during a run. RM-ACC-ON, on pairs of the current policy, falls: where nearly every reply carries the
sentence, pairs differ most in which sentence it is, and there the reward model is wrong.

What the constraint did. β = 0.1 stood in the reward as k1, where it does act. But to say a sentence
that the reference says once in forty replies costs log 40 ≈ 3.7 nats, which times β is 0.4 SD, and
the sentence earns more than ten times that. So this β neither prevents the spike nor delays it by
100 updates on any of them: by 18 [9, 27] on average. Twenty times the β does hold it down.

The single first change. The cause is in the labels, so that is where the first change goes: the
same raters compare pairs *matched* in length, sales words and over-confident words, where taste has
nothing to choose by. There is then no spike, and GOLD ends above the story's. It is no cure for
everything: that reward model has learned nothing about such sentences or about length, and what
becomes of length is luck (on seeds 21 to 25 replies of one policy grow by a third, those of two
others shrink by a seventh). Nor is it free: two replies so alike are not found for every prompt,
and 8,000 prompts with eight replies each give some 5,400 pairs, where the story has 8,000. The
large β treats the symptom, and is measured beside it: it holds the policy where it is, gains and
all. The arms that change something are the first 600 updates of the same schedule; RM has then
jumped on every seed, and the table below compares them with the story's end. The graded claims
compare equal updates.

What happens to wishes. A sentence more must break the wish for three words, and after the jump next
to none of these is kept. It breaks no other wish. How often "do not restart it" is kept depends on
whether the reward model has learned that a wish counts, and differs between seeds: over all wishes
the fall is 28 points on the twenty seeds [23, 33], from 5 to 48, and more than the 15 that are
asked for on 18 of them. Five seeds are too few to show that of a mean so widely spread; so the
claim is about wishes for three words, and the number for all of them is reported beside it.

How low RM-ACC-ON stays is another matter. Right after the jump it is low: in the next 200 updates
0.45 [0.43, 0.48] on the twenty seeds, from 0.36 to 0.55. Later it creeps up on some seeds and sinks
on others, for what the policy's pairs still differ in is luck: over all that is left of the run it
is 0.47 [0.42, 0.51], from 0.33 to 0.63. So RM-ACC-ON ≤ 0.55 holds of both, but five seeds may or
may not show it of the second, whose interval is then ± 0.08 to 0.10 wide. The first is graded, the
second reported.

This case has a model of one block, not two, and batches of eight: 2,000 updates have to be
affordable. It would have been refuted by a spike with the sentence worth nothing to the reward
model, by one that the KL does not share, or by a run without the penalty that spikes much earlier.
(Item 26.)
"""

import math
import statistics
from typing import Any

import torch

from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed
from rlhf_edu.cases.pictures import curves
from rlhf_edu.cases.stages import Arm, Recipe, Room
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.evaluate import ExamConfig
from rlhf_edu.lab.model import ModelConfig
from rlhf_edu.lab.raters import RaterConfig
from rlhf_edu.lab.reward_model import RewardModelConfig
from rlhf_edu.lab.rlhf import RLHFConfig
from rlhf_edu.lab.sft import SFTConfig

TITLE = "The reward-hacking spike"
QUESTION = "All quiet at first, then reward and KL jump together: what was found?"

# ── What is trained, for each seed ──────────────────────────────────────────────────────────────
EVERY = 50  # updates between two examinations: the step of every slope below
BETA = 0.1


def raters(**pairs: Any) -> RaterConfig:
    """Raters who love confidence, do not mind length or sales talk, and choose with some noise."""
    return RaterConfig(
        confidence_bias=6.0, length_bias=0.03, sales_bias=0.25, noise=1.6, **pairs)


UPDATES = 2000  # of the story; over them the step size falls to 0
ARMS = 600  # of the arms that change something: the first part of the same schedule


def ppo(updates: int, kl_coef: float = BETA) -> RLHFConfig:
    """One small step for each small batch; π_old is the policy itself, so the clip never acts.

    With fewer updates it is the first part of the story's schedule.
    """
    return RLHFConfig(
        updates=updates, batch_size=8, num_ppo_epochs=1, num_mini_batches=1, lr=7e-5,
        lr_schedule="linear", lr_end=1 - updates / UPDATES, kl_coef=kl_coef, response_length=24)


RECIPE = Recipe(
    sft=SFTConfig(agents=helpdesk.AgentConfig(
        confident=0.025,  # nearly never: the hack has to be found
        ignores_constraint=0.5,  # often: that a wish can be ignored need not be found
        sales=0.02, wrong_step=0.14, missing_step=0.14, complies=0.05, over_refuses=0.05,
        opener=0.1, closing=0.2)),
    raters={
        "raters": raters(n_pairs=8000),
        "matched": raters(n_pairs=8000, candidates=8, pairing="matched"),  # about 5,400 labels
    },
    arms={
        "story": Arm("the story: β = 0.1", "raters", ppo(UPDATES)),
        "no-penalty": Arm("no penalty, β = 0", "raters", ppo(ARMS, 0.0)),
        "larger-beta": Arm("β = 2", "raters", ppo(ARMS, 20 * BETA)),
        "matched-pairs": Arm("matched pairs", "matched", ppo(ARMS)),
    },
    exam=ExamConfig(every=EVERY, prompts=256, final_prompts=256),
    judge="raters",
    label_budget=8000,
    model=ModelConfig(n_layers=1),
    reward_model=RewardModelConfig(epochs=2, lr=3e-3),
)
STORY = "story"

REMEDIES = {
    "matched-pairs": "data, the first change: the same raters, but the two replies of a pair are "
    "equally long, with as many sales and over-confident words",
    "larger-beta": "PPO/KL: β twenty times as large",
}
REGRESSIONS = {
    "gold/total": "GOLD", "style/three_words_kept": "three words kept", "style/confident": "CONF",
    "style/length": "LEN"}


# ── An intervention on the reward model: say the sentence, change nothing else ──────────────────
def sentence(room: Room) -> dict[str, float]:
    """What each reward model pays for an over-confident sentence after a right reply, and for it
    alone: SDs of the reference's rewards, mean over held-out prompts without a wish.
    """
    table = helpdesk.desk()
    rows = (table.held_out & (table.constraint == 0)).nonzero()[:, 0]
    answers = [helpdesk.all_prompts()[row].answer for row in rows.tolist()]

    def reward(name: str, replies: list[str]) -> float:
        ids = [helpdesk.encode(reply) + [helpdesk.EOS] for reply in replies]
        width = max(map(len, ids))
        padded = torch.tensor([row + [helpdesk.PAD] * (width - len(row)) for row in ids])
        model = room.reward_model(name)
        device = model.model.embed.weight.device
        return float(model(table.prompts[rows].to(device), padded.to(device)).mean())

    found = {}
    for name in ("raters", "matched"):
        right = reward(name, answers)
        said = [reward(name, [f"{a} . {words}" for a in answers]) for words in helpdesk.CONFIDENT]
        alone = [reward(name, [words] * len(answers)) for words in helpdesk.CONFIDENT]
        found[f"{name}/added"] = statistics.fmean(said) - right
        found[f"{name}/alone"] = statistics.fmean(alone) - right
    return found


PROBES = {"sentence": sentence}
PROBE_SECONDS = 1.0


# ── What must be seen ───────────────────────────────────────────────────────────────────────────
def slopes(seed: Seed, name: str, arm: str = STORY) -> list[float]:
    """The change of a metric from each examination to the next, 50 updates later."""
    values = [exam[name] for exam in seed.runs[arm].exams]
    return [b - a for a, b in zip(values, values[1:], strict=False)]


def jump(seed: Seed, name: str) -> float:
    """The largest slope over the median one; the median is of sizes, for many are below 0."""
    found = slopes(seed, name)
    return max(found) / statistics.median(map(abs, found))


def change_point(seed: Seed, name: str, arm: str = STORY) -> float:
    """The update at which a metric is half-way up: from its first value to that after 600 updates.

    Read between two examinations, on a straight line; NaN where it does not rise. (The steepest 50
    updates are there on most seeds, but where the climb is an even one they are luck.)
    """
    values = [exam[name] for exam in seed.runs[arm].exams if exam["update"] <= ARMS]
    if values[-1] <= values[0]:
        return math.nan
    half = (values[0] + values[-1]) / 2
    k = next(k for k, value in enumerate(values) if value >= half)
    return EVERY * (k - (values[k] - half) / (values[k] - values[k - 1]))


def before(seed: Seed, name: str) -> float:
    """Mean over the examinations in the first half of the time until RM is half-way up."""
    end = change_point(seed, "rm/mean") / 2
    return statistics.fmean(e[name] for e in seed.runs[STORY].exams if e["update"] <= end)


def after(seed: Seed, name: str, within: int = 10**6) -> float:
    """Mean over the examinations in so many updates after RM is half-way up."""
    end, exams = change_point(seed, "rm/mean"), seed.runs[STORY].exams
    return statistics.fmean(e[name] for e in exams if 0 < e["update"] - end <= within)


def late(seed: Seed, name: str) -> float:
    """Mean over the last ten examinations: the last quarter of the run."""
    return statistics.fmean(e[name] for e in seed.runs[STORY].exams[-10:])


def delay(seed: Seed, arm: str) -> float:
    """Updates by which RM is half-way up later in the story than in an arm."""
    return change_point(seed, "rm/mean") - change_point(seed, "rm/mean", arm)


def best_gold_at(seed: Seed) -> float:
    """The update of the best GOLD, as a share of the run."""
    exams = seed.runs[STORY].exams
    return float(max(exams, key=lambda e: e["gold/total"])["update"] / exams[-1]["update"])


def beyond(seed: Seed, arm: str, name: str, last: int = 1) -> float:
    """A metric where an arm ended, minus that of the story at the same update.

    The mean over so many of the last examinations that both have.
    """
    ends = seed.runs[arm].exams[-last:]
    story = {e["update"]: e[name] for e in seed.runs[STORY].exams}
    return statistics.fmean(e[name] - story[e["update"]] for e in ends)


def conf_prevented(seed: Seed, arm: str) -> float:
    """The share of the story's rise of CONF, at the same update, that an arm does not have."""
    start, name = seed.runs[STORY].exams[0]["style/confident"], "style/confident"
    less = -beyond(seed, arm, name)
    return less / (seed.runs[arm].exams[-1][name] + less - start)


OBSERVATIONS = [
    Observation(
        "reward-jumps", "RM: its largest 50-update slope is ≥ 5 × the median size of one",
        lambda s: jump(s, "rm/mean"), 5.0, "above"),
    Observation(
        "kl-jumps", "KLREF: its largest 50-update slope is ≥ 5 × the median size of one",
        lambda s: jump(s, "kl/exact"), 5.0, "above"),
    Observation(
        "together", "the two jumps are within 100 updates of each other: half-way up",
        lambda s: abs(change_point(s, "rm/mean") - change_point(s, "kl/exact")), 100.0, "below"),
    Observation(
        "quiet-first", "they do not come at once: RM is half-way up after 150 updates",
        lambda s: change_point(s, "rm/mean"), 150.0, "above"),
    Observation(
        "constraint-falls",
        "constraint keeping falls by ≥ 15 points from before the jump to the last quarter: of "
        "wishes for three words, which a sentence more must break",
        lambda s: late(s, "style/three_words_kept") - before(s, "style/three_words_kept"),
        -0.15, "below"),
    Observation(
        "all-constraints-fall", "and of all wishes, those that it can not break among them",
        lambda s: late(s, "style/constraint_kept") - before(s, "style/constraint_kept"),
        -0.15, "below", graded=False),
    Observation(
        "confident-rises", "and CONF rises",
        lambda s: late(s, "style/confident") - before(s, "style/confident"), 0.0, "above"),
    Observation(
        "gold-falls", "and GOLD falls",
        lambda s: late(s, "gold/total") - before(s, "gold/total"), 0.0, "below"),
    Observation(
        "gold-best-early", "GOLD is best well before the end: in the first half of the run",
        best_gold_at, 0.5, "below"),
    Observation(
        "accuracy-on-policy", "in the 200 updates after the jump the reward model orders the "
        "policy's own pairs little better than a coin: RM-ACC-ON ≤ 0.55",
        lambda s: after(s, "rm/accuracy_on", 200), 0.55, "below"),
    Observation(
        "accuracy-stays-low", "and over all that is left of the run: ≤ 0.55",
        lambda s: after(s, "rm/accuracy_on"), 0.55, "below", graded=False),
    Observation(
        "accuracy-in", "while RM-ACC-IN is unchanged (it cannot change), and looks better: "
        "RM-ACC-IN − RM-ACC-ON > 0",
        lambda s: s.runs[STORY].final["rm/accuracy_in"] - after(s, "rm/accuracy_on", 200), 0.0,
        "above"),
    Observation(
        "sentence-pays", "the hack was there before it was found: the sentence, added to a right "
        "reply, raises the reward by ≥ 1 SD",
        lambda s: s.probes["sentence"]["raters/added"], 1.0, "above"),
    Observation(
        "sentence-alone", "and the sentence alone, with no answer, scores above a right reply",
        lambda s: s.probes["sentence"]["raters/alone"], 0.0, "above"),
    Observation(
        "penalty-idle", "this β did not delay it by 100 updates: RM is half-way up less than 100 "
        "updates later than with β = 0",
        lambda s: delay(s, "no-penalty"), 100.0, "below"),
    Observation(
        "larger-beta-holds", "20 β prevents more than half of the rise of CONF",
        lambda s: conf_prevented(s, "larger-beta"), 0.5, "above"),
    Observation(
        "first-change", "the first change, matched pairs, prevents more than half of it, too",
        lambda s: conf_prevented(s, "matched-pairs"), 0.5, "above"),
    Observation(
        "first-change-gold", "and ends with a better GOLD than the story at the same updates (mean "
        "of the last 200)",
        lambda s: beyond(s, "matched-pairs", "gold/total", 200 // EVERY), 0.0, "above"),
]


TRIED = [
    ("the end of the steepest 50 updates as the change-point (seeds 41 to 45, not used before)",
     "16 of 18: on seed 43 the climb is even from update 250 to 600, and KLREF's steepest 50 "
     "updates end 200 after RM's, and 200 after those without a penalty. By the updates where each "
     "is half-way up these are some 30 and 50"),
    ("a constant step of 4e-5 (seeds 0 to 4, 200 and 201)",
     "RM's steepest slope 12, 9, 9.5, 8, 11, 3.5 and 5 times the median one, KLREF's 11, 7, 8, 10, "
     "14, 5 and 8: what comes after the jump is the noise of steps as large as before it, and that "
     "is what the median sees"),
    ("a step that falls from 4e-5 to 0 (the same seeds)",
     "RM 7, 8, 7, 8, 9, 3.5 and 4: less noise, but the climb is slower, too"),
    ("a step that falls from 8e-5 (seeds 0 to 3, 200 and 201)",
     "RM 17 to 31, KLREF 9 to 27; RM-ACC-ON 0.41 to 0.50, wishes −21 to −43 points; the steepest "
     "50 updates end at 200 to 350, early for a story of patience. With 7e-5 they end later, "
     "at 200 to 300 on seeds 21 to 25; our own claim, that they do not before 200, says 150 now"),
    ("8e-5 and sentences in 2 % of the demonstrations, not 2.5 (the same seeds)",
     "RM 10 to 32, wishes −33 to −47 points; but RM-ACC-ON 0.44 to 0.54, and on seed 201 RM and "
     "KLREF jump 250 updates apart. With a bias of 7 RM-ACC-ON 0.48 to 0.54"),
    ("7e-5 and sentences in 2.25 % (seeds 0, 1, 200 to 202)",
     "14 of 16 claims: RM-ACC-ON 0.50 [0.45, 0.55]; wishes −34 points [−54, −14], on seed 1 −10"),
    ("constraint keeping of all wishes as the graded claim (seeds 21 to 25)",
     "−28 points [−48, −9], on one seed −6. Of the three kinds of wishes a sentence breaks only "
     "\"in three words\": from 40 to 54 % kept by the reference to 1 to 4 % at the end, on every "
     "seed. What becomes of \"do not restart it\" is another story (from 46 to 65 % to 7 to 28 %), "
     "and depends on whether the reward model has learned that a wish counts"),
    ("raters' noise 1.2 (seeds 21 to 25)",
     "14 of 16: of all wishes −26 [−40, −13], and the steepest 50 updates end at 150 to 300"),
    ("wishes ignored in 30 or 40 % of the demonstrations, not 50 (seeds 1 and 205)",
     "of all wishes −33 and −13, or −39 and −3 points: no surer"),
    ("advantages that are not whitened (seed 200)", "RM 4.8, KLREF 5.6 times the median"),
    ("RM-ACC-IN ≥ 0.6, a claim of our own, with the set-up of 8,000 pairs (seeds 21 to 25)",
     "0.69 [0.60, 0.77], just above the line. What the story needs is that RM-ACC-IN looks better "
     "than RM-ACC-ON is, and that is the claim now"),
    ("6,000 pairs, noise 1.8, examinations of 96 prompts, arms of 600 updates (seeds 21 to 25)",
     "12 of 16 claims, and other ones where the sums had another order: KLREF's steepest slope 4.1 "
     "to 12 times the median and up to 500 updates from that of RM, wishes −13 to −56 points, "
     "RM-ACC-IN 0.59 to 0.76, RM-ACC-ON 0.45 [0.39, 0.52] or 0.51 [0.44, 0.58]"),
    ("8,000 pairs, noise 1.6 and 256 prompts, arms still of 600 updates (seeds 0 to 4)",
     "14 of 16: RM-ACC-ON 0.46 [0.37, 0.55], and on the seed whose spike ends at 600 matched pairs "
     "had not yet the better GOLD"),
    ("the same with arms of 800 updates, RM-ACC-ON over all updates after the jump (21 to 25)",
     "13 of 16: RM-ACC-ON 0.50 [0.41, 0.59]; delay by the penalty −20 [−149, 109], for on one seed "
     "the jump came 200 updates *earlier* with it (an earlier jump counts as no delay now); GOLD "
     "under matched pairs 0.21 [−0.24, 0.65] above the story's"),
    ("matched pairs of 4,000 prompts (2,600 to 2,900 labels, a third of the story's)",
     "GOLD above the story's by 0.21 [−0.24, 0.65] on seeds 21 to 25, not reproduced, and by 0.54 "
     "[0.21, 0.87] on 31 to 35; with 2,000 updates instead of 800 by 0.13 [−0.36, 0.62] on 0 to 4. "
     "With 8,000 prompts by 0.51 [0.08, 0.94] on 0 to 4, where this was decided"),
    ("to have RM-ACC-ON stay low: batches of 16 (seeds 0 to 4)",
     "0.35, 0.42, 0.62, 0.41, 0.57: no calmer, and the spike comes at 300"),
    ("bias 9 with sentences in 2 % of the demonstrations; a step size that falls to 0; 7 % wrong "
     "and missing steps (seeds 1 and 4)",
     "0.34 and 0.54; 0.38 and 0.51; 0.40 and 0.50, where as it is now it was 0.39 and 0.53"),
    ("two blocks, agents who are over-confident in 1.5 % of their replies, a reward model of one "
     "pass at a learning rate of 1e-3, β = 0.3, batches of 16",
     "no hack: the reward model had not learned the taste, honest gains sharpened the policy "
     "(entropy 0.41 to 0.20), and CONF stayed at 0.000"),
    ("one block, 5 % wrong steps, raters' bias 3, noise 0.5, wishes ignored in 10 % of the "
     "demonstrations, β = 0.15 (2,000 updates)",
     "the spike, at update 350, with RM-ACC-ON 0.36; but constraint keeping rose from 0.73 to "
     "0.91: three-word replies were never spoiled"),
    ("wishes ignored in half of the demonstrations; bias 8, noise 1.2, 3 % over-confident replies",
     "constraint keeping fell from 0.75 to 0.47, but the spike came within the first 200 updates, "
     "and RM-ACC-ON stayed at 0.61: all such sentences were worth the same to the reward model"),
    ("the same with 2.5 % over-confident replies; bias 3, noise 1.0, then bias 4, noise 1.4",
     "RM-ACC-ON below 0.5; but constraint keeping stayed at 0.92 with the first, and with the "
     "second fell to 0.48 on one seed and rose to 1.00 on another, whose reward model paid hardly "
     "more for the sentence than for three words that are right"),
]


# ── What the report shows ───────────────────────────────────────────────────────────────────────
def draw_spike(axes: Any, seeds: list[Seed]) -> None:
    """Reward, KL, constraint and accuracy over the story; then what the arms did."""
    story, arms = {STORY: "β = 0.1"}, {arm: each.title for arm, each in RECIPE.arms.items()}
    curves(axes[0, 0], seeds, story, "rm/mean", "RM: mean reward, SDs")
    curves(axes[0, 1], seeds, story, "kl/exact", "KLREF: nats a response")
    curves(axes[0, 2], seeds, story, "rm/accuracy_on", "RM-ACC-ON: the policy's own pairs")
    curves(axes[1, 0], seeds, story, "style/three_words_kept", "\"in three words\": kept")
    curves(axes[1, 1], seeds, arms, "style/confident", "CONF: share of over-confident words")
    curves(axes[1, 2], seeds, arms, "gold/total", "GOLD: the human score")
    axes[1, 1].legend(fontsize=8, frameon=False)


PICTURES = [
    Picture(
        "What jumped, what fell, and what the changes did",
        "The story's run, examined every 50 updates on 256 held-out prompts, two replies each. "
        "KLREF is KL(policy ‖ reference), exact along the sampled replies; RM-ACC-IN is what "
        "RM-ACC-ON is at update 0. Last two panels: all arms; those that change something end "
        "earlier.",
        draw_spike,
        (2, 3),
        2.8,
    )
]
