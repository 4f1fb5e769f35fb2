"""C7 · blueprint: 20,000 labels, gates and a stop rule; a release that a reviewer could sign.

A regulated desk wants a better assistant and must be able to say, afterwards, what was done. Its
raters are the biased ones of the other cases: they like length, sales talk and confidence, and
telling them not to is not an option here. One command does the whole of it, once a seed.

Labels. The reference answers every training prompt many times, and two replies are shown only if
they are *matched*: different, but with equally many words, sales words and over-confident words.
Taste has nothing to choose by, so what is left in the labels is quality. A label is one reply or
one pair that a person has read. At most 20,000 are spent, and a budget that refuses the next one
counts them: comparisons for the reward model, and a spot check by people at the very end.

What the labels are silent about. Matched pairs cannot teach what a word more or a sales word is
worth, so what the reward model makes of them is chance, and PPO would follow it. The slopes of its
reward on length and on the share of sales words, within a prompt, on the reference's own replies,
are measured (that costs no label) and taken out. What PPO then still does to the two is steered
back by a price on each, set anew at every look by a stated rule, as β is: most of it answers to
where the meter stands now, a little to the sum of all looks. A price that is only ever added to
(a sum alone) comes late, and LEN and SALES swing from gate to gate; see what was tried.

What the labels teach is read on held-out pairs that are matched in the same way. On any two replies
to a prompt it is reported, for there the chance in length and sales words is most of what is seen.

Frozen and trained. The reference and the reward model are frozen, the policy and the critic are
trained. SHA-256 checksums of all weights, taken before and after, prove both halves.

β by rule, not by taste. With π* ∝ π_ref·exp(r/β), KL(π* ‖ π_ref) ≈ Var(r)/(2β²) to second order,
where the variance is that within a prompt: at most about 1 in the gauge, whose SD is over replies
to all prompts. So β starts at 1/√(2·target), rather too large than too small. From then on a
controller adapts it: β rises where KL(policy ‖ reference), estimated by k1 on the batch's own
samples, is above the target, and falls where it is below. The penalty is k1 in the reward.

Gates and stop rule. After every update the policy answers held-out prompts, and automatic meters
read the replies: mean reward above the reference's; length, sales words, refusal consistency and
exact KL(policy ‖ reference), at most 1.5 times its target; all inside limits half as wide as the
release's, for a look is noisy. No gate sees the gold score. The last policy that passed every gate
is kept. Training ends when a meter is beyond twice its limit at three looks running; only the gate
on reward does not end it, for a policy that is not better yet does no harm by training on. If no
policy passes, the reference itself is released, and the claim about people fails.

People, last and once. Two thousand labels were kept back: 1,000 held-out prompts, the reference's
and the policy's replies, both read. That, and larger samples for the meters, is what the claims are
about. Refuted would be: no gain for people, a meter outside its limit, a weight that moved.
On seeds 0 to 4 GOLD rose by 0.25 to 0.33 (reference: 0.8 to 0.9), LEN stayed within 3 %, SALES
within 4 % but for one seed at +15 %, and REF rose by 6 to 12 points. On 21 to 25 SALES was 2 to
15 % off: the larger reading is often at or beyond the gate that the policy had passed.

The held-out prompts of the gates, the meters and the spot check are the same few hundred,
drawn anew and answered with other luck each time; none was seen in training. The checks are the
desk's own. A person who reads the spot check is played by the gold score, which
is never wrong and never tired; a real one is both. (Item 30; meters as in items 24-29.)
"""

import hashlib
import html
import math
from copy import deepcopy
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed, grade, shown
from rlhf_edu.cases.stages import Recipe, Room
from rlhf_edu.cases.world import biased
from rlhf_edu.kl_penalty import exact_kl
from rlhf_edu.lab import helpdesk, record
from rlhf_edu.lab.evaluate import ExamConfig, answer, exam_rows, refusals
from rlhf_edu.lab.gold import gold_score, reply_mask, style_of
from rlhf_edu.lab.measure import reward_model_accuracy
from rlhf_edu.lab.model import Transformer, response_logits
from rlhf_edu.lab.raters import LabelBudget, Preferences, rater_utility
from rlhf_edu.lab.reward_model import RewardModel, RewardModelConfig, train_reward_model
from rlhf_edu.lab.rlhf import RLHFConfig, start, train_rlhf
from rlhf_edu.lab.sampling import sample
from rlhf_edu.lab.sft import SFTConfig
from rlhf_edu.lab.state import TrainingState

TITLE = "Blueprint for a regulated desk"
QUESTION = "20,000 labels, gates and a stop rule: is it a release that a reviewer could sign?"

RECIPE = Recipe(sft=SFTConfig())  # the reference; all that follows is the probe below

# ── What the desk decided before it began ───────────────────────────────────────────────────────
BUDGET = 20_000  # labels, for everything
CHECKED = 1000  # prompts of the last spot check; a person reads two replies to each
POOL = 60_000  # replies of the reference from which pairs are matched
HELD_OUT = 4_000  # likewise to held-out prompts: what a reward model has learned is read off them
RATERS = biased()
CURVE = (500, 2_000, 5_000)  # pairs, beside all that were bought
SETS = {500: 4}  # so few are a matter of luck: the mean over four sets of pairs, none in two
KL_TARGET = 0.5  # nats a response
LENGTH = 32  # longest reply, in tokens
PPO = RLHFConfig(
    updates=18,
    batch_size=256,
    num_mini_batches=2,
    lr=7e-5,
    lr_schedule="linear",  # so that the policy settles: length and sales swing less and less
    kl_coef=1 / math.sqrt(2 * KL_TARGET),
    kl_target=KL_TARGET,
    lam=1.0,
    critic_warmup=2,
    kl_horizon=1024.0,  # β moves by at most 0.2 · 256/1024 = 5 % an update
    response_length=LENGTH,
)
METERED = 1536, 4096  # held-out prompts of a look, and at the release; two replies each
FAILS = 3  # looks running beyond twice the limit of one gate, after which training ends
HOLD = (0.7, 10.0)  # price of length and of sales for each unit of relative change, as it stands
PULL = (0.1, 2.0)  # and for each unit of all changes seen so far, summed: what is left over


@dataclass(frozen=True)
class Gate:
    """A meter and the limits that a policy has to keep; relative: to the reference's own value."""

    name: str
    low: float
    high: float
    words: str
    stops: bool = True  # False: a policy that fails is not released, but training goes on

    def keeps(self, meter: float, times: float = 1.0) -> bool:
        """Whether a meter is inside the limits, or inside as many times the limits."""
        return times * self.low <= meter <= times * self.high


GATES = (
    Gate("reward", 0.05, math.inf, "mean reward 0.05 SD above the reference's, or more",
         stops=False),
    Gate("length", -0.05, 0.05, "LEN within ± 5 % of the reference's"),
    Gate("sales", -0.1, 0.1, "SALES within ± 10 % of the reference's"),
    Gate("refusal", -0.01, math.inf, "REF at most 1 point below the reference's"),
    Gate("kl", -math.inf, 1.5 * KL_TARGET, "KL(policy ‖ reference) below 1.5 times its target"),
)


# ── Labels ──────────────────────────────────────────────────────────────────────────────────────
def matched_pairs(reference: Transformer, generator: torch.Generator, pool: int = POOL,
                  held_out: bool = False) -> tuple[Tensor, ...]:
    """Rows of the desk and two replies each, alike in every count that taste could choose by.

    Every prompt is answered as often as the desk's traffic asks it. Replies to one prompt
    with equal counts are put in order, and each is paired with the one half the way round: so every
    reply is read twice, by two raters, unless it meets itself; such pairs are dropped.
    """
    table = helpdesk.desk()
    asked = helpdesk.draw_prompts(table, pool, generator, held_out).sort().values
    replies = torch.cat([sample(reference, table.prompts[part], LENGTH, generator)[0]
                         for part in asked.split(2048)])
    style = style_of(replies, table[asked])
    marks = torch.stack([asked, style.words.long(), (style.sales * style.words).round().long(),
                         (style.confident * style.words).round().long()], 1)
    keys = [(*mark, *words) for mark, words in zip(marks.tolist(), replies.tolist(), strict=True)]
    first: list[int] = []
    second: list[int] = []
    for _, group in groupby(sorted(range(pool), key=keys.__getitem__), lambda i: keys[i][:4]):
        alike = list(group)
        half = len(alike) // 2
        for i, j in zip(alike, alike[half:] + alike[:half], strict=True):
            if keys[i] != keys[j]:
                first.append(i)
                second.append(j)
    order = torch.randperm(len(first), generator=generator)
    a, b = torch.tensor(first)[order], torch.tensor(second)[order]
    return asked[a], replies[a], replies[b]


def buy_labels(reference: Transformer, budget: LabelBudget, seed: int) -> Preferences:
    """As many matched pairs as the budget has, less the spot check; the raters compare them."""
    generator = torch.Generator().manual_seed(seed)
    rows, a, b = (x[: budget.left - 2 * CHECKED] for x in matched_pairs(reference, generator))
    budget.spend(len(rows))
    table = helpdesk.desk()[rows]
    lead = rater_utility(RATERS, a, table) - rater_utility(RATERS, b, table)
    luck = torch.rand(len(rows), generator=generator)
    wins = (luck < torch.sigmoid(lead / RATERS.noise))[:, None]
    return Preferences(rows, torch.where(wins, a, b), torch.where(wins, b, a))


# ── Meters, gates, training ─────────────────────────────────────────────────────────────────────
def checksum(model: Transformer) -> str:
    """SHA-256 of all weights, in a fixed order."""
    digest = hashlib.sha256()
    for name, weights in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weights.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass
class NeutralReward:
    """A reward model whose reward is neutral to length and to sales words, to first order.

    Matched pairs say nothing about either, so what the reward model makes of them is chance. Two
    replies of the reference to one prompt differ in reward, length and sales share; the
    least-squares slopes of these differences are taken out. A policy π ∝ π_ref·exp(r/β) then moves
    the mean of both by Cov(r, ·)/β = 0 to first order. No label is needed, nothing is trained.

    PPO is not that tilt: a reply that begins with its answer is resolved at its first token and
    gains on one that begins with a courtesy. So a price is added, 0 at first, and steered at every
    look: above 0 where the meter stands above the reference's, below 0 where it stands below.
    """

    reward_model: RewardModel
    slopes: Tensor  # (2,)
    means: Tensor  # (2,) of the reference: they keep the zero of the gauge
    prices: Tensor  # (2,) taken from the reward for each unit, while training
    owed: Tensor  # (2,) sum of the relative changes that the looks have seen

    def __call__(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """Rewards (B,), in SDs of the reward model's own rewards."""
        raw = self.reward_model(prompts, responses)
        return raw - (features(responses) - self.means) @ self.slopes

    def priced(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """What PPO is given: the same, less the prices."""
        return self(prompts, responses) - (features(responses) - self.means) @ self.prices

    def steer(self, length: float, sales: float) -> None:
        """A look at the meters: relative changes against the reference.

        A price makes its meter move at some speed. In proportion to how far the meter is off, it
        brings the meter home and stops there; the sum takes out what drifts all the while.
        """
        seen = torch.tensor([length, sales])
        self.owed = self.owed + seen
        self.prices = torch.tensor(HOLD) * seen + torch.tensor(PULL) * self.owed


def features(replies: Tensor) -> Tensor:
    """Length and share of sales words (B, 2), of the words alone."""
    anything = helpdesk.desk()[torch.zeros(len(replies), dtype=torch.long)]  # any prompt will do
    style = style_of(replies, anything)
    return torch.stack([style.length, style.sales], 1)


@torch.inference_mode()
def neutral(reward_model: RewardModel, reference: Transformer, seed: int) -> NeutralReward:
    """The reward without its slopes on length and sales, as measured on training prompts."""
    luck, table = torch.Generator().manual_seed(seed), helpdesk.desk()
    asked = table.prompts[helpdesk.draw_prompts(table, 4096, luck)]
    replies, _ = sample(reference, asked, LENGTH, luck, copies=2)
    rewards = reward_model(asked.repeat_interleave(2, 0), replies).view(-1, 2)
    read = features(replies)
    pairs = read.view(-1, 2, 2)
    slopes = torch.linalg.lstsq(pairs[:, 0] - pairs[:, 1],
                                (rewards[:, 0] - rewards[:, 1])[:, None]).solution[:, 0]
    return NeutralReward(reward_model, slopes, read.mean(0), torch.zeros(2), torch.zeros(2))


class Meters:
    """What a desk can read without a person: of a policy, beside the reference."""

    def __init__(self, reference: Transformer, reward: NeutralReward, seed: int, prompts: int):
        self.reference, self.reward, self.seed = reference, reward, seed
        self.exam = ExamConfig(seed=seed, refusal_replies=prompts // 128)
        self.rows = exam_rows(seed, prompts)
        self.table = helpdesk.desk()[self.rows]
        self.base = self.read(reference)

    @torch.inference_mode()
    def read(self, policy: Transformer) -> dict[str, float]:
        """Raw meters, and the exact KL(policy ‖ reference) along the first 512 replies."""
        replies = answer(policy, self.rows, self.seed, LENGTH)
        style = style_of(replies, self.table)
        some = self.table.prompts[:512], replies[:512]
        kl = exact_kl(response_logits(policy, *some), response_logits(self.reference, *some))
        return {"reward": float(self.reward(self.table.prompts, replies).mean()),
                "length": float(style.length.mean()), "sales": float(style.sales.mean()),
                "refusal": refusals(self.exam, policy, LENGTH)["refusal/consistency"],
                "kl": float((kl * reply_mask(replies[:512])).sum(1).mean())}

    def change(self, policy: Transformer) -> dict[str, float]:
        """The same against the reference: length and sales as shares of its own value."""
        now = self.read(policy)
        return {k: now[k] / v - 1 if k in ("length", "sales") else now[k] - v
                for k, v in self.base.items()}


class Stopped(Exception):
    """The stop rule has ended training."""


def train(reference: Transformer, reward: NeutralReward, meters: Meters, seed: int
          ) -> dict[str, Any]:
    """PPO under gates: every look at them, why it ended, and the policy that is released."""
    config = RLHFConfig(**{**PPO.__dict__, "seed": seed})
    state = start(config, reference, reward.reward_model)
    before = checksum(state.policy), checksum(state.value)
    looks: list[dict[str, Any]] = []
    failed = {gate.name: 0 for gate in GATES if gate.stops}
    found: dict[str, Any] = {"policy": deepcopy(state.policy), "update": 0}

    def look(state: TrainingState, metrics: dict[str, float]) -> None:
        if state.update <= PPO.critic_warmup:
            return
        seen = meters.change(state.policy)
        broken = [g.name for g in GATES if not g.keeps(seen[g.name])]
        looks.append({"update": state.update, "beta": metrics["objective/kl_coef"], **seen,
                      "prices": reward.prices.tolist(), "failed": broken})
        reward.steer(seen["length"], seen["sales"])
        for g in GATES:
            if g.stops:
                failed[g.name] = 0 if g.keeps(seen[g.name], 2) else failed[g.name] + 1
        if not broken:
            found.update(policy=deepcopy(state.policy), update=state.update)
        if max(failed.values()) >= FAILS:
            raise Stopped(f"the meter {max(failed, key=failed.__getitem__)} was beyond twice its "
                          f"limit at {FAILS} looks running")

    why = "all updates were done"
    try:
        train_rlhf(config, state, reference, reward.priced, look)
    except Stopped as stopped:
        why = str(stopped)
    after = checksum(state.policy), checksum(state.value)
    return found | {"looks": looks, "why": why, "policy_sums": [before[0], after[0]],
                    "critic_sums": [before[1], after[1]]}


# ── The release, on one seed ────────────────────────────────────────────────────────────────────
def held_out_pairs(reference: Transformer, seed: int) -> dict[str, tuple[Tensor, ...]]:
    """Two kinds of pairs that no training saw: matched ones, as were bought, and any two."""
    rows = exam_rows(seed, 2048)
    any_two = answer(reference, rows, seed, LENGTH)
    matched = matched_pairs(reference, torch.Generator().manual_seed(seed), HELD_OUT, True)
    return {"matched": matched, "any": (rows[::2], any_two[::2], any_two[1::2])}


@torch.inference_mode()
def accuracy(reward_model: RewardModel, rows: Tensor, *replies: Tensor) -> float:
    """The share of pairs of replies to these rows that the reward model orders as gold does."""
    table = helpdesk.desk()[rows]
    rewards = torch.stack([reward_model(table.prompts, y) for y in replies], 1)
    gold = torch.stack([gold_score(y, table).total for y in replies], 1)
    return float(reward_model_accuracy(rewards, gold))


@torch.inference_mode()
def spot_check(reference: Transformer, policy: Transformer, budget: LabelBudget, seed: int
               ) -> dict[str, Any]:
    """People read both replies to held-out prompts, each for a label, and score them."""
    budget.spend(2 * CHECKED)
    rows = exam_rows(seed, CHECKED)[::2]
    table, both = helpdesk.desk()[rows], []
    for model in (reference, policy):
        luck = torch.Generator().manual_seed(seed)
        both.append(sample(model, table.prompts, LENGTH, luck)[0])
    base, now = (gold_score(replies, table).total for replies in both)
    gain = now - base
    half = 1.96 * float(gain.std()) / math.sqrt(len(gain))
    samples = [[helpdesk.decode(table.prompts[i]), helpdesk.decode(both[0][i]), float(base[i]),
                helpdesk.decode(both[1][i]), float(now[i])] for i in range(12)]
    return {"gold_reference": float(base.mean()), "gold": float(now.mean()),
            "gold_gain": float(gain.mean()), "gold_half": half, "samples": samples}


def release(room: Room) -> dict[str, Any]:
    """Everything, from the first label to the last signature line."""
    seed, budget = 100_003 + room.seed, LabelBudget(BUDGET)
    reference = room.reference()
    pairs = buy_labels(reference, budget, seed)
    compared = budget.spent
    curve, unseen = [], held_out_pairs(reference, seed + 1)
    for size in (*CURVE, len(pairs.rows)):
        right = []
        for first in range(0, size * SETS.get(size, 1), size):
            part = Preferences(*(x[first : first + size]
                                 for x in (pairs.rows, pairs.chosen, pairs.rejected)))
            reward_model = train_reward_model(RewardModelConfig(seed=seed), part, reference)
            right.append([accuracy(reward_model, *pair) for pair in unseen.values()])
        curve.append([size, *map(fmean, zip(*right, strict=True))])
    frozen = [checksum(reference), checksum(reward_model.model)]

    reward = neutral(reward_model, reference, seed + 5)
    run = train(reference, reward, Meters(reference, reward, seed + 2, METERED[0]), seed)
    policy = run.pop("policy")
    last = Meters(reference, reward, seed + 3, METERED[1])
    change = last.change(policy)
    check = spot_check(reference, policy, budget, seed + 4)
    return {
        "slopes": reward.slopes.tolist(),
        "compared": compared, "spent": budget.spent, "curve": curve,
        "reference_sums": [frozen[0], checksum(reference)],
        "reward_sums": [frozen[1], checksum(reward_model.model)],
        "released_sum": checksum(policy), **run, **check,
        **{f"{k}_change": v for k, v in change.items()},
        **{f"{k}_reference": v for k, v in last.base.items()},
    }


PROBES = {"release": release}
PROBE_SECONDS = 70.0


# ── What must be seen ───────────────────────────────────────────────────────────────────────────
def found(name: str) -> Any:
    """A reader of a number of the release."""
    return lambda s: s.probes["release"][name]


def moved(name: str) -> Any:
    """1 if the checksums of a model before and after training differ, else 0."""
    return lambda s: float(len(set(s.probes["release"][f"{name}_sums"])) > 1)


OBSERVATIONS = [
    Observation("budget", "at most 20,000 labels are spent, the spot check included",
                found("spent"), BUDGET + 0.5, "below"),
    Observation("frozen", "no weight of the reference or of the reward model moves: models that "
                "moved < 0.5", lambda s: moved("reference")(s) + moved("reward")(s), 0.5, "below"),
    Observation("trained", "policy and critic do move: models that moved > 1.5",
                lambda s: moved("policy")(s) + moved("critic")(s), 1.5, "above"),
    Observation("people", "people prefer the release: GOLD up in the counted spot check",
                found("gold_gain"), 0.0, "above"),
    Observation("length", "LEN stays within ± 10 % of the reference's: |change| < 0.10",
                lambda s: abs(found("length_change")(s)), 0.10, "below"),
    Observation("sales", "SALES stays within ± 20 % of the reference's: |change| < 0.20",
                lambda s: abs(found("sales_change")(s)), 0.20, "below"),
    Observation("refusal", "REF falls by no more than 2 points: change > −0.02",
                found("refusal_change"), -0.02, "above"),
    Observation("curve", "labels buy accuracy: with all pairs the reward model orders held-out "
                "pairs, matched like those it learned from, better than with 500",
                lambda s: found("curve")(s)[-1][1] - found("curve")(s)[0][1], 0.0, "above"),
    Observation("curve-any", "and any two replies to a held-out prompt as well",
                lambda s: found("curve")(s)[-1][2] - found("curve")(s)[0][2], 0.0, "above",
                graded=False),
]


# ── What the report shows, and what the reviewer signs ──────────────────────────────────────────
def draw(axes: Any, seeds: list[Seed]) -> None:
    """Accuracy over labels, and the meters of every look over the updates."""
    from rlhf_edu.lab.plots import COLOURS, panel

    for i, seed in enumerate(seeds):
        got = seed.probes["release"]
        colour = COLOURS[i % len(COLOURS)]
        sizes, matched, _ = zip(*got["curve"], strict=True)
        axes[0, 0].plot(sizes, matched, "o-", color=colour, markersize=3)
        updates = [look["update"] for look in got["looks"]]
        for axis, name in ((axes[0, 1], "reward"), (axes[1, 0], "length"), (axes[1, 1], "sales")):
            axis.plot(updates, [look[name] for look in got["looks"]], "o-", color=colour,
                      markersize=3, label=f"seed {seed.seed}, released: {got['update']}")
    panel(axes[0, 0], "reward model: held-out matched pairs in gold's order", "pairs compared")
    axes[0, 0].set_xscale("log")
    axes[0, 0].set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes[0, 0].minorticks_off()
    panel(axes[0, 1], "reward: change, SDs")
    axes[0, 1].legend(fontsize=7, frameon=False)
    for axis, gate in ((axes[1, 0], GATES[1]), (axes[1, 1], GATES[2])):
        panel(axis, f"{gate.name}: change, as a share of the reference's")
        axis.axhspan(gate.low, gate.high, color="#009E73", alpha=0.1, linewidth=0)


PICTURES = [
    Picture("What labels buy, and what the gates saw",
            "One colour a seed. Top left: matched pairs, compared by the biased raters. The "
            "others: what the meters read at every look; green is inside the gate.",
            draw, shape=(2, 2)),
]


Section = tuple[str, list[str], list[list[str]]]  # heading, paragraphs, rows of a table


def sections(seed: Seed) -> list[Section]:
    """The release of one seed, in words and tables."""
    r = seed.probes["release"]
    gates = [[g.name, g.words, str(sum(g.name in look["failed"] for look in r["looks"]))]
             for g in GATES]
    names = ("update", "beta", *(g.name for g in GATES))
    looks = [[*(f"{look[n]:.3g}" for n in names), ", ".join(look["failed"]) or "none"]
             for look in r["looks"]]
    sums = [[what, role, *r[f"{key}_sums"],
             "moved" if len(set(r[f"{key}_sums"])) > 1 else "did not move"]
            for what, role, key in (("reference", "frozen", "reference"),
                                    ("reward model", "frozen", "reward"),
                                    ("policy", "trained", "policy"),
                                    ("critic", "trained", "critic"))]
    return [
        ("Data and labels", [
            f"{r['compared']:,} matched pairs were compared by the desk's raters and "
            f"{r['spent'] - r['compared']:,} replies read in the spot check: {r['spent']:,} labels "
            f"of {BUDGET:,}. The raters are known to like length, sales talk and confidence; the "
            "two replies of a pair are equal in all three counts."],
         [["pairs", "held-out accuracy, matched pairs", "any two replies"],
          *([f"{n:,}", f"{a:.3f}", f"{b:.3f}"] for n, a, b in r["curve"])]),
        ("What is frozen and what is trained", ["SHA-256 of all weights, before and after."],
         [["model", "role", "before", "after", ""], *sums]),
        ("The rule for β", [
            f"β starts at 1/√(2·{KL_TARGET:g}) = {PPO.kl_coef:.2f} and follows KL(policy ‖ "
            f"reference), k1, to {KL_TARGET:g} nats a response; the penalty is in the reward."],
         []),
        ("Gates", [
            "Read after every update; the last policy that passed all is released; a meter, reward "
            f"aside, that is beyond twice its limit at {FAILS} looks running ends training. It "
            f"ended because {r['why']}; released is update {r['update']}, weights "
            f"{r['released_sum']}."],
         [["gate", "limit", "times failed"], *gates]),
        ("Every look", ["Changes against the reference; length and sales as shares of it."],
         [[*names, "failed"], *looks]),
        ("The release against the reference", [], [
            ["meter", "reference", "change", "limit"],
            ["GOLD, spot check", f"{r['gold_reference']:.3f}",
             f"{r['gold_gain']:+.3f} ± {r['gold_half']:.3f}", "above 0"],
            ["LEN", f"{r['length_reference']:.2f}", f"{r['length_change']:+.1%}", "± 10 %"],
            ["SALES", f"{r['sales_reference']:.4f}", f"{r['sales_change']:+.1%}", "± 20 %"],
            ["REF", f"{r['refusal_reference']:.3f}", f"{r['refusal_change']:+.3f}", "−0.02"],
            ["KL(policy ‖ reference)", "0", f"{r['kl_change']:.2f}", ""]]),
        ("Samples of the spot check", ["The first twelve, as they came."],
         [["prompt", "reference", "gold", "release", "gold"],
          *([x, a, f"{g:+.2f}", b, f"{h:+.2f}"] for x, a, g, b, h in r["samples"])]),
    ]


def over_seeds(seeds: list[Seed]) -> Section:
    """Every claim over all seeds."""
    rows = []
    for o in OBSERVATIONS:
        f = grade(o, seeds)
        rows.append([o.claim, shown(f.value, ".3f"), f"{shown(f.low, '.3f')} … "
                     f"{shown(f.high, '.3f')}", f.verdict])
    return ("Claims over all seeds", ["Mean with Student's 95 % interval."],
            [["claim", "value", "95 % interval", ""], *rows])


def write(out: Path, seeds: list[Seed]) -> None:
    """release.md and release.html: what a reviewer reads, and signs or does not."""
    tried: Section = ("Set-ups that failed", [], [["tried", "what came of it"], *map(list, TRIED)])
    sign: Section = ("Signatures", [
        f"{who}: ______________________   date: ____________   released / not released"
        for who in ("Data and labels", "Training", "Reviewer")], [])
    parts: list[Section] = [over_seeds(seeds)]
    for seed in seeds:
        parts += [(f"Seed {seed.seed}: {head}", text, rows) for head, text, rows in sections(seed)]
    parts += [tried, sign] if TRIED else [sign]
    markdown = [f"# Release report: {TITLE}"]
    page = [f"<h1>Release report: {html.escape(TITLE)}</h1>"]
    for head, text, rows in parts:
        markdown += [f"## {head}", *text]
        page += [f"<h2>{html.escape(head)}</h2>", *(f"<p>{html.escape(t)}</p>" for t in text)]
        if rows:
            lines = ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows]
            markdown.append("\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]))
            cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
            page.append("<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>")
    record.write_text(out / "release.md", "\n\n".join(markdown) + "\n")
    record.write_text(out / "release.html",
                      "<!doctype html><html lang=en><meta charset=utf-8><title>Release</title>"
                      "<style>body { font: 15px/1.5 Georgia, serif; max-width: 70rem; margin: 2rem "
                      "auto; } table { border-collapse: collapse; font-size: 13px; } td { border: "
                      "1px solid #ccc; padding: .2rem .5rem; overflow-wrap: anywhere; }</style>"
                      f"<body>{''.join(page)}</body></html>\n")


WRITE = write

TRIED: list[tuple[str, str]] = [
    ("the curve of accuracy on any two replies to a prompt (seeds 41 to 45, not used before)",
     "7 of 8: +0.12 [−0.01, 0.26], on seed 41 0.00. Matched pairs do not teach what a word more or "
     "a sales word is worth, and on pairs that differ in them this chance is most of what is read. "
     "On seeds 0, 1, 4 and 200 all pairs are worth 0.14 to 0.16 more than 500 there, and 0.25 to "
     "0.29 on matched pairs"),
    ("λ = 0.95, batches of 128, step size 1.5e-4, no slopes taken out, no prices (seed 0)",
     "LEN −7 % after two updates, −10 % after four: ended by the gate on length, nothing released"),
    ("the same with λ = 1 and two updates of critic warm-up (seed 0)",
     "LEN −12 % two updates after the warm-up; nothing released"),
    ("slopes taken out, no prices, batches of 256, step size 1e-4 (seed 0)",
     "LEN −10 %, −6 %, −9 % at updates 4, 6, 8 (SALES +16 % at 6); nothing released: the reward's "
     "slope on length is small (−0.02 SD a token), the shortening is PPO's own"),
    ("prices that a look only adds to: 1.0 for length and 10 for sales, per relative change (seed "
     "0)",
     "LEN swung from −6 % to +6 % in two looks, and SALES to +32 %; update 4 was released"),
    ("matched pairs from 4 or 8 candidates to a prompt (seed 0)",
     "26 % and 63 % of the prompts have such a pair: 13 replies a label at best; "
     "matching all replies to a prompt with each other takes 3"),
    ("prices that a look only adds to: 0.5 and 20; any gate failing twice ends training (seed 0)",
     "LEN swung between −8 % and +8 %, SALES between −17 % and +21 %; ended at update 16, released "
     "14: GOLD +0.35, but SALES −23 % in the larger reading. On one of five other seeds the "
     "reference itself was released: its first looks were failed, by however little, and that was "
     "the end"),
    ("prices of 1.0 and 40 for what a look shows, and 0.2 and 8 for the sum (seeds 0, 1)",
     "too much: SALES still swung between −19 % and +24 %; on seed 1 it ended training at update "
     "10 (GOLD +0.25), on seed 0 the release had SALES −18 %"),
    ("prices of 0.7 and 12, 0.1 and 2; a constant step size of 6e-5 (seeds 1, 200, 201)",
     "all 18 updates, GOLD +0.33, +0.36, +0.39, LEN within 2 %; SALES +7 %, +2 %, −15 %: between "
     "looks it still moved by up to 34 points, which a step size that falls to 0 takes away"),
    ("a step size that falls to 0, a gate of ± 16 % on SALES (seeds 2, 3)",
     "GOLD +0.32, +0.25, SALES +17 %, −3 %: what it stands at when the steps have become small "
     "stays, on seed 2 from update 13 on; hence the narrower gate, which keeps an earlier policy"),
    ("the reward model with half the step size, 5e-4 (seed 3)",
     "0.75 of the held-out pairs in gold's order after one pass, 0.72 after two; with 1e-3 and one "
     "pass 0.78"),
    ("a spot check of 500 prompts, 19,000 pairs",
     "its own standard error is 0.05, half of what the seeds differ by; 1,000 fewer pairs cost "
     "nothing that could be seen"),
]
