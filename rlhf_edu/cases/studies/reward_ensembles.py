"""P13 · Ensembles of reward models: the most doubtful of five decides.

Coste, Anwar, Kirk and Krueger (2023, arXiv 2310.02743) turn a quarter of the labels round, train
five reward models and let them speak with one voice: their mean, the smallest of them (WCO), or
the mean less λ times their variance (UWO). Best-of-n is pressed too far by a single reward model
and, with noisy labels, by the mean; by WCO and UWO it was not, up to n = 12,500.

Here the reference imitates agents who often err, so that the pairs hold many plausible answers to
the wrong question; honest raters compare random pairs, a quarter of the labels turned round. Each
of five members has pairs of its own and a trunk of its own, which learned to write from another
seed. All read one pool of the reference's replies to held-out prompts. The curve of the single one
is the mean of the five members' own.

Half of it came out on seeds 0 to 4: a single one over-optimises, and the mean beats it, up to n =
32 on all seeds and at n = 512 on four of five. On seeds 21 to 25 even that half is unsure: there
the mean ends above a single one on three of five. What does not come out is the caution of WCO and
UWO: they do not end above the mean, and no voice keeps 97 % of its peak. A part of the errors at
large n is shared, and variance does not see that part: what one member likes best of 512 the other
four put 0.6 SD above the reference's replies. How large a part is not measured. Such picks are
well-formed answers to another question ("clean the fan then press the switch" to one who asks how
to copy software); likely, not tested: different pairs and trunks, and the same habit of reading the
answer without the question (P14).

The published claims that would have been confirmed stand below as they were written beforehand.

What is different here: 3,000 pairs a member, n up to 512, λ = 1 for variances in SDs of the
reference's rewards, five members that differ in trunk and pairs (so the ensemble has seen five
times the labels of the single one, and a lead of the mean may be theirs). Left out: reinforcement
learning, where the paper's ensembles need a penalty of 0.01 and a single reward model one of 0.2;
the claim that the smallest β without a loss of gold is five times smaller with an ensemble is not
tested.
"""

from dataclasses import replace
from typing import Any

import torch

from rlhf_edu.best_of_n import best_of_n_curve
from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed
from rlhf_edu.cases.pictures import lines
from rlhf_edu.cases.stages import Recipe, Room
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.gold import gold_score
from rlhf_edu.lab.model import ModelConfig
from rlhf_edu.lab.raters import LabelBudget, Preferences, RaterConfig, collect_preferences
from rlhf_edu.lab.reward_model import COMBINE, RewardModelConfig, train_reward_model
from rlhf_edu.lab.sampling import sample
from rlhf_edu.lab.sft import SFTConfig, train_sft

TITLE = "The most doubtful of five reward models decides"
QUESTION = "A quarter of the labels is wrong: how far can best-of-n be pressed?"

AGENTS = helpdesk.AgentConfig(wrong_step=0.6, missing_step=0.2, complies=0.4, over_refuses=0.2)
MEMBERS, PAIRS = 5, 3000  # each member has pairs of its own
RATERS = RaterConfig(n_pairs=MEMBERS * PAIRS, flip=0.25)
NS = [2**k for k in range(10)]  # 1 … 512
PROMPTS = 24
VOICES = {"single": "single", "mean": "mean", "min": "minimum (WCO)",
          "mean - variance": "mean − variance (UWO)"}

RECIPE = Recipe(sft=SFTConfig(agents=AGENTS))


def pressed(room: Room) -> dict[str, Any]:
    """Gold of the best of n by each voice, on one pool of the reference's replies."""
    # 1. The pool; equal replies to a prompt are read once.
    generator = torch.Generator().manual_seed(room.seed)
    table, reference = helpdesk.desk(), room.reference()
    asked = helpdesk.draw_prompts(table, PROMPTS, generator, held_out=True)
    replies, _ = sample(reference, table.prompts[asked], 32, generator, copies=NS[-1])
    rows = asked.repeat_interleave(NS[-1])
    once, back = torch.cat([rows[:, None], replies], 1).unique(dim=0, return_inverse=True)
    here, texts = table[once[:, 0]], once[:, 1:]
    gold = gold_score(texts, here).total

    # 2. Five members: a trunk each, and a fifth of the noisy labels each.
    pairs = collect_preferences(
        replace(RATERS, seed=room.seed), reference, LabelBudget(RATERS.n_pairs))
    members = []
    for k in range(MEMBERS):
        own = slice(k * PAIRS, (k + 1) * PAIRS)
        some = Preferences(pairs.rows[own], pairs.chosen[own], pairs.rejected[own])
        seed = room.seed + 10_007 * (k + 1)
        trunk = train_sft(SFTConfig(seed=seed, epochs=2, agents=AGENTS), ModelConfig(),
                          torch.device("cpu"))
        member = train_reward_model(
            RewardModelConfig(seed=seed, epochs=2, lr=2e-3, gauge_replies=256), some, trunk)
        parts = zip(here.prompts.split(2048), texts.split(2048), strict=True)
        members.append(torch.cat([member(x, y) for x, y in parts]))
        room.tick(8.0)
    rewards = torch.stack(members)

    # 3. What each voice picks.
    spoken = {name: voice(rewards) for name, voice in COMBINE.items()}
    found = {}
    for name, proxy in [*((str(k), rewards[k]) for k in range(MEMBERS)), *spoken.items()]:
        read, liked = (x[back].view(PROMPTS, NS[-1]).double() for x in (proxy, gold))
        curve = best_of_n_curve(read, liked, NS).gold
        found[name] = (curve - curve[0]).tolist()
    single = [found.pop(str(k)) for k in range(MEMBERS)]
    found["single"] = [sum(at) / MEMBERS for at in zip(*single, strict=True)]

    # 4. Is what one member likes best an error of its own? What the other four say of it.
    pool = rewards[:, back].view(MEMBERS, PROMPTS, NS[-1])
    said = []
    for k in range(MEMBERS):
        of_pick = pool.gather(2, pool[k].argmax(1)[None, :, None].expand(MEMBERS, -1, 1))
        said.append((of_pick.sum(0) - of_pick[k]).mean() / (MEMBERS - 1))
    return found | {"others_say": float(torch.stack(said).mean())}


PROBES = {"pressed": pressed}
PROBE_SECONDS = 40.0


def gold(seed: Seed, voice: str) -> list[float]:
    """Gold of the best of n minus the reference's, for each n."""
    curve: list[float] = seed.probes["pressed"][voice]
    return curve


def of_peak(seed: Seed, voice: str) -> float:
    """The end of a curve over its largest value."""
    return gold(seed, voice)[-1] / max(gold(seed, voice))


OBSERVATIONS = [
    Observation(
        "cautious-beat-mean",
        "at the largest n WCO and UWO are both above the mean, in at least 4 of 5 seeds",
        lambda s: min(gold(s, "min")[-1], gold(s, "mean - variance")[-1]) - gold(s, "mean")[-1],
        0.0, "mostly above", paper="UWO ≈ WCO ≥ mean with 25 % label noise"),
    Observation(
        "mean-beats-single",
        "and the mean is above a single reward model, in at least 4 of 5 seeds",
        lambda s: gold(s, "mean")[-1] - gold(s, "single")[-1], 0.0, "mostly above",
        paper="mean ≥ single"),
    Observation(
        "wco-keeps", "WCO ends at ≥ 97 % of its own peak",
        lambda s: of_peak(s, "min"), 0.97, "above", paper="no over-optimisation to n = 12,500"),
    Observation(
        "uwo-keeps", "and so does UWO",
        lambda s: of_peak(s, "mean - variance"), 0.97, "above",
        paper="no over-optimisation to n = 12,500"),
    Observation(
        "single-does-not", "a single one ends below 97 % of its peak",
        lambda s: of_peak(s, "single"), 0.97, "below", paper="a single one over-optimises"),
    Observation(
        "errors-are-shared", "ours: what one member likes best of 512, the other four like as "
        "well: their mean reward of it is above that of the reference's replies",
        lambda s: s.probes["pressed"]["others_say"], 0.0, "above"),
]


def draw(axes: Any, seeds: list[Seed]) -> None:
    """Gold over n for each voice."""
    lines(axes[0, 0], NS, {label: [gold(s, voice) for s in seeds]
                           for voice, label in VOICES.items()},
          "GOLD of the best of n, minus the reference's", "n", log=True)
    axes[0, 0].legend(fontsize=8, frameon=False)


TRIED = [
    ("members of one trunk (the reference), 1,500 random pairs",
     "seed 0, n = 512, gold minus the reference's: single −1.38, mean −1.17, WCO −1.34, UWO −1.34"),
    ("the same with 4,000 pairs",
     "seed 0: single −1.10, mean −1.16, WCO −1.10, UWO −1.15: more labels, and no order at all"),
    ("a trunk each and 1,600 matched pairs, drawn with replacement",
     "seed 0: single −1.25, mean −1.23, WCO −1.48, UWO −1.35; seed 1: −1.25, −1.42, −1.23, −1.71; "
     "other draws of the same set-up on seed 0: −1.54, −1.43, −1.01, −1.24. The order is luck"),
    ("a trunk each and 4,000 random pairs each, agents who seldom err (seed 0, 24 prompts)",
     "−1.52, −1.42, −1.47, −1.41. Picks: “check the cable then press the switch” to whatever is "
     "asked; pairs with a plausible answer to the wrong question are rare. So agents were made to "
     "err often: −0.48, −0.36, −0.65, −0.45, and the mean's peak rose from 0.42 to 0.76"),
    ("often erring agents, 8,000 pairs each, noise 0.2, three members (seed 0)",
     "−0.44, 0.00, −0.67, −0.81: the mean gains, caution loses"),
    ("often erring agents, the reference as everyone's trunk, 5,000 pairs each in three passes "
     "(seed 0)",
     "−0.67, −0.98, −0.56, −1.20: with one trunk the mean is worse than a single one"),
    ("eight passes over 3,000 pairs each, so that members learn their own noise by heart (seed 0)",
     "the published order: −0.44 single, 0.15 mean, 0.32 WCO, 0.28 UWO at n = 512, and what one "
     "member likes best the others like less (0.2 SD, not 0.8); but WCO keeps a third of its peak"),
    ("20 passes; 8,000 pairs in six passes; 20,000 in four (seed 0)",
     "−0.59, 0.00, −0.40, −0.47; −0.17, −0.10, 0.05, −0.10; −0.09, 0.51, 0.25, 0.23: single, mean, "
     "WCO, UWO. No voice keeps more than 40 % of its peak"),
    ("a reward model of 20,000 honest labels as gold, as in the paper, labels of its choice, a "
     "quarter turned round; 20,000 pairs each, noise 0.5, two passes at a step size of 5e-4 (seed "
     "0)",
     "the published order, 0.44, 0.83, 0.94, 0.85, and WCO keeps 93 % of its peak; with another "
     "such gold (30,000 labels, three passes at 5e-4) 0.29, 0.54, 0.53, 0.59, half of the peaks"),
    ("the first of these golds: 3,000, 10,000 and 24,000 pairs each, no noise, step size 2e-3",
     "at best 0.27, 0.72, 0.66, 0.81 (10,000 pairs in four passes): UWO keeps 88 %, WCO 74 %"),
    ("GOLD itself, 20,000 pairs each in four passes at a step size of 3e-4 (seed 0)",
     "0.68, 1.05, 0.95, 1.14: small steps make better members, but UWO keeps 66 %, WCO 62 %"),
    ("eight passes, prompts of training, or replies drawn at temperature 0.6 (seed 0)",
     "−0.54, 0.15, −0.02, 0.00; −0.59, −0.26, −0.30, −0.18"),
]
PICTURES = [Picture(
    "How far best-of-n can be pressed",
    "Best of n on one pool of replies, a quarter of the labels wrong. Thin lines are seeds, thick "
    "lines their mean.", draw, (1, 1))]
