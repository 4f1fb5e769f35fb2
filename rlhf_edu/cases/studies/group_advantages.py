"""P19 · group advantages: GRPO's two divisors, and what length has to do with them.

GRPO (Shao et al. 2024, arXiv 2402.03300) gives an answer A = (R − mean)/SD over the G answers to
its prompt, and each token of it the weight 1/|o|. So [1, 0, 1, 0] becomes ±1, [1, 1, 1, 0] becomes
+0.577 and −1.732, a group that is all right or all wrong teaches nothing, and |A| is √(G−1) at
most. Dr. GRPO (Liu et al. 2025, arXiv 2503.20783) drops both divisors, and warns of 1/|o|: a wrong
answer is punished less per token the longer it is, so wrong answers grow.

Three experiments ask whether they do. Rewards are 1 for a right answer and 0 for any other; the KL
penalty is k3 in the loss, as in GRPO, with a small β; Dr. GRPO is the same run without divisors.

1. *Exact.* A tabular policy says "right" or "wrong" and then anything. With the expected gradient
   (G = 8, clip inactive) wrong answers grow under GRPO, right ones shrink, and under Dr. GRPO the
   law of what follows a wrong start does not move at all: its advantage is the same whatever
   follows, and a constant advantage has no expected gradient.
2. *The desk, half of the group.* The checker reads the first units that a reply names, as many as
   the right answer has; what follows is free, as after a boxed answer in mathematics. If only wrong
   answers are learnt from (A > 0 is set to 0), GRPO's wrong replies grow and Dr. GRPO's hardly do.
   If only right ones are, GRPO's shrink, wrong ones with right ones: a right answer is paid *more*
   per token the shorter it is.
3. *The desk, the whole of GRPO.* Advantages of a group add up to 0, and the two pulls meet: this
   small model ends right and wrong replies likely by one habit. Wrong replies vary more in length,
   so theirs is the stronger pull: they grow under GRPO, and by more than under Dr. GRPO. What
   nothing pays for drifts by chance, more in one run than GRPO adds to it; so twelve runs are
   averaged on each seed, every one with a reference of its own, and two claims are graded: GRPO's
   slope, and its difference from that of Dr. GRPO, whose runs have the same luck.

Does Dr. GRPO's own slope vanish there? Not quite, and the number is reported, not graded: "about 0"
has no limit in it, and the same runs said "no rise" when they were few and noisy, "a small rise"
when they were more. Dropping the divisors takes away what *they* do to lengths. A likely reason for
the rest, not settled, is learning itself: to one prompt a right reply is longer than a wrong one,
by 0.6 words here, 0.9 where agents leave steps out, and a policy that learns to give right replies
learns to give longer ones. Where right replies are as long as wrong ones (questions that one
instruction answers) Dr. GRPO's slope is 0.005 ± 0.012 in sixteen runs: about 0, but too noisy to
differ from the 0.012 of seeds 21 to 25. The claim on Dr. GRPO that is graded is part 2's, where
only the divisors act.

Why the checker matters. One that looks for further, wrong units in the whole of a reply pays for
what follows, too, and learning itself then moves lengths: with it, wrong replies shrank under Dr.
GRPO, and GRPO's growth was at the edge of what five seeds can show (see what was tried). *Which*
replies are wrong changes as right ones become more. With agents who err on purpose the policy soon
learns to answer, wrong replies become those of other questions, and they shrink under both. In the
mathematics of the papers questions stay hard. So the reference here has seen too few demonstrations
to know the answers.

What is ours and different: the world; a desk whose wrong replies come of not knowing; batches of 32
prompts, 16 updates, and a small β. Refuted if wrong replies did not grow under GRPO, or did so as
much without its divisors. Each prompt has its own p, so more groups are dead than the mean p says:
32 to 42 % where it says 20 to 28 % (seeds 0 to 2).
Left out: dynamic sampling, which skips dead groups.
"""

from dataclasses import replace
from functools import partial
from itertools import product
from math import comb
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor

from rlhf_edu import exact
from rlhf_edu.advantage import grpo_advantage
from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed
from rlhf_edu.cases.stages import Recipe, Room
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.gold import find_units, reply_mask
from rlhf_edu.lab.group import RightAnswer, group_advantages
from rlhf_edu.lab.model import Transformer
from rlhf_edu.lab.rlhf import RLHFConfig, start, train_rlhf
from rlhf_edu.lab.sampling import sample
from rlhf_edu.lab.sft import SFTConfig, train_sft

TITLE = "Group advantages"
QUESTION = "What do GRPO's two divisors do, and do they lengthen wrong answers?"
WEAK = SFTConfig(  # a weak reference: for it the questions stay hard
    n_demonstrations=2200, epochs=2,
    agents=helpdesk.AgentConfig(
        wrong_step=0.3, missing_step=0.0, opener=0.0, confident=0.25, sales=0.25))
RECIPE = Recipe(sft=WEAK)
KINDS = {"grpo": "GRPO", "dr-grpo": "Dr. GRPO"}
G = 8  # answers to a prompt
BATCHES = 5  # of which the middle one is asked for: one in 22 is off by two standard errors by luck
UPDATES = {"whole": 16, "wrong half": 8, "right half": 8}  # lengths are read at 0, half-way, end
RUNS = {"whole": 12, "wrong half": 1, "right half": 1}  # each of its own reference, then averaged
LEARNT = {"whole": (-100.0, 100.0), "wrong half": (-100.0, 0.0), "right half": (0.0, 100.0)}
PROBE_SECONDS = 120.0


def formulas(room: Room) -> dict[str, Any]:
    """GRPO's advantage by hand, its bound, and the share of groups that teach nothing."""
    draw = torch.Generator().manual_seed(room.seed)
    some = torch.tensor([[1.0, 0, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1], [0.3, 0.3, 0.3, 0.3]])
    third = 3**-0.5  # 0.577
    want = torch.tensor([[1, -1, 1, -1], [third, third, third, -3 * third], [0.0] * 4, [0.0] * 4])
    skewed = torch.randn(20_000, G, generator=draw, dtype=torch.float64).mul(3).exp()
    found = {"examples": float((grpo_advantage(some) - want).abs().max()),
             "largest": float(grpo_advantage(skewed).abs().max())}
    for p in (0.1, 0.3, 0.5, 0.9):
        right = (torch.rand(BATCHES, 20_000, G, generator=draw) < p).float()
        dead = (grpo_advantage(right.view(-1, G)) == 0).all(1).double().view(BATCHES, -1)
        share = p**G + (1 - p) ** G
        found[f"z/{p:g}"] = ((dead.mean(1) - share)
                             / (share * (1 - share) / dead.shape[1]) ** 0.5).tolist()
    return found


@torch.inference_mode()
def dead_groups(room: Room) -> dict[str, Any]:
    """Dead groups on the desk: five batches of 32 prompts, each prompt with its own p.

    Half of a prompt's 128 replies make 8 groups; from the other half p^G + (1−p)^G is estimated
    without bias: the share of its subsets of G that are all right or all wrong.
    """
    reference, table = room.reference(), helpdesk.desk()
    draw, check = torch.Generator().manual_seed(room.seed), RightAnswer(reference)
    x = table.prompts[helpdesk.draw_prompts(table, 32 * BATCHES, draw)].to(room.place.device)
    right = []
    for part in x.split(8):
        y, _ = sample(reference, part, 32, draw, copies=128)
        right.append(check(part.repeat_interleave(128, 0), y).view(-1, 2, 64).cpu())
    groups, others = torch.cat(right).unbind(1)
    dead = (grpo_advantage(groups.reshape(-1, G)) == 0).all(1).double().view(len(x), -1).mean(1)
    ways = torch.tensor([comb(k, G) / comb(64, G) for k in range(65)], dtype=torch.float64)
    k = others.sum(1).long()
    off, p = (dead - (ways[k] + ways[64 - k])).view(BATCHES, -1), float(groups.mean())
    return {"share": float(dead.mean()), "of_the_mean_p": p**G + (1 - p) ** G,
            "z": (off.mean(1) / (off.std(1) / off.shape[1] ** 0.5)).tolist()}


def expected_advantage(p: float, kind: str) -> Tensor:
    """Mean advantage of a wrong and of a right answer among G, p the share that is right: (2,)."""
    k = torch.arange(G)  # right ones among the others
    weight = torch.tensor([comb(G - 1, i) * p**i * (1 - p) ** (G - 1 - i) for i in range(G)])
    others = (torch.arange(G - 1) < k[:, None]).double()
    groups = (torch.cat([torch.full((G, 1), mine, dtype=torch.float64), others], 1)
              for mine in (0.0, 1.0))
    return torch.stack([(weight * grpo_advantage(g, divide_by_sd=kind == "grpo")[:, 0]).sum()
                        for g in groups])


def tabular(room: Room) -> dict[str, Any]:
    """Mean lengths of wrong and right answers over 30 exact steps of a tabular policy."""
    world = exact.enumerate_world(3, 7)
    found: dict[str, Any] = {}
    wrong, right = world.tokens[:, 0] == 2, world.tokens[:, 0] == 1  # 0: it ends at once
    n = world.mask.sum(1).double()
    for kind in KINDS:
        draw = torch.Generator().manual_seed(room.seed)
        z = 0.3 * torch.randn(world.table, generator=draw, dtype=torch.float64)
        z[0] += torch.tensor([-3.0, -1.0, 1.0])  # wrong is likelier at first
        rows: dict[str, list[float]] = {"wrong": [], "right": []}
        for _ in range(31):
            z = z.detach().requires_grad_()
            logp = exact.response_logprobs(world, z)
            p = logp.exp().detach()
            for name, these in (("wrong", wrong), ("right", right)):
                rows[name].append(float((p * n)[these].sum() / p[these].sum()))
            gain = expected_advantage(float(p[right].sum()), kind)[right.long()]
            mean = (p * n).sum()
            if kind == "grpo":  # 1/|o|, in the unit of group.py
                gain = gain * mean / n
            z = z + 2 * torch.autograd.grad((p * gain * logp).sum() / mean, z)[0]
        found |= {f"{kind}/{name}": row for name, row in rows.items()}
    return found


class FirstAnswer(RightAnswer):
    """1 if the first units that a reply names are those of the right answer, as many as that has.

    What follows is free, as it is after a boxed answer in mathematics.
    """

    def __call__(self, prompts: Tensor, responses: Tensor) -> Tensor:
        right = self.asked(prompts).right  # (B, U)
        starts, many = find_units(responses), right.sum(1)  # (B, U, T), (B,)
        nth = starts.any(1).cumsum(1)  # (B, T) units named so far
        first = (starts & (nth <= many[:, None])[:, None]).any(2)
        return ((first & right).sum(1) == many).float()


def lengths(room: Room) -> dict[str, Any]:
    """Mean lengths of wrong and right replies to the same 512 prompts, as training goes on."""
    table, place = helpdesk.desk(), torch.device(room.place.device)
    draw = torch.Generator().manual_seed(room.seed)
    x = table.prompts[helpdesk.draw_prompts(table, 512, draw)].to(place)
    found: dict[str, Any] = {}

    def half(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float,
             kind: str, low: float, high: float) -> tuple[Tensor, Tensor]:
        advantages, returns = group_advantages(rewards, values, mask, gamma, lam, kind, G)
        return advantages.clamp(low, high), returns

    def follow(reference: Transformer, seed: int, part: str, kind: str) -> dict[str, list[float]]:
        config = RLHFConfig(
            seed=seed, advantage=kind, group_size=G, whiten_advantages=False,
            updates=UPDATES[part], batch_size=256, num_ppo_epochs=1, num_mini_batches=2, lr=2e-4,
            kl_coef=0.02, kl_placement="loss", kl_estimator="k3", critic_init="random",
            missing_eos_penalty=0.0)
        check, (low, high) = FirstAnswer(reference), LEARNT[part]
        rows: dict[str, list[float]] = {"wrong": [], "right": [], "share": []}

        def look(state: Any, metrics: dict[str, float]) -> None:
            if state.update % (UPDATES[part] // 2) == 0:
                luck = torch.Generator().manual_seed(room.seed)
                y, _ = sample(state.policy, x, 32, luck, copies=4)
                right, length = check(x.repeat_interleave(4, 0), y), reply_mask(y).sum(1)
                for name, these in (("wrong", right == 0), ("right", right == 1)):
                    rows[name].append(float(length[these].mean()))
                rows["share"].append(float(right.mean()))

        state = start(config, reference, check)  # type: ignore[arg-type]
        look(state, {})
        train_rlhf(config, state, reference, check, look,
                   advantage_fn=partial(half, kind=kind, low=low, high=high))
        room.tick(PROBE_SECONDS / (len(KINDS) * sum(RUNS.values())))
        return rows

    runs: dict[tuple[str, str], list[dict[str, list[float]]]] = {}
    for run in range(max(RUNS.values())):
        seed = room.seed + 1000 * run
        reference = train_sft(replace(WEAK, seed=seed), RECIPE.model, place) if run \
            else room.reference()
        for part, kind in product(UPDATES, KINDS):
            if run < RUNS[part]:
                runs.setdefault((part, kind), []).append(follow(reference, seed, part, kind))
    for (part, kind), each in runs.items():
        for name in each[0]:
            at_each = zip(*(rows[name] for rows in each), strict=True)
            found[f"{part}/{kind}/{name}"] = [fmean(at) for at in at_each]
    return found


def everything(room: Room) -> dict[str, Any]:
    """All parts, one after another: part/key."""
    parts = formulas, dead_groups, tabular, lengths
    return {f"{part.__name__}/{key}": value for part in parts for key, value in part(room).items()}


PROBES = {"all": everything}


# ── What must be seen ───────────────────────────────────────────────────────────────────────────
def slope(seed: Seed, part: str, kind: str) -> float:
    """Growth of the mean length of wrong replies, words an update."""
    row = seed.probes["all"][f"lengths/{part}/{kind}/wrong"]
    return float(row[-1] - row[0]) / UPDATES[part]


def inside(seed: Seed, part: str) -> float:
    """How far the share of dead groups is inside two standard errors, in the middle batch."""
    return 2 - median(map(abs, seed.probes["all"][part]))


def grown(seed: Seed, kind: str, name: str = "wrong") -> float:
    """Change of the mean length over the exact steps, tokens."""
    row = seed.probes["all"][f"tabular/{kind}/{name}"]
    return float(row[-1] - row[0])


OBSERVATIONS = [
    Observation("examples", "[1,0,1,0] → ±1; [1,1,1,0] → +0.577, −1.732; equal group → 0: off by "
                "< 1e-6", lambda s: s.probes["all"]["formulas/examples"], 1e-6, "below",
                "A = (r − mean)/SD"),
    Observation("bound", "20,000 skewed groups of 8: largest |A| ≤ √7 = 2.6458",
                lambda s: s.probes["all"]["formulas/largest"], (G - 1) ** 0.5 + 1e-9, "below",
                "|A| ≤ √(G−1)"),
    *(Observation(f"dead-{100 * p:.0f}-percent",
                  f"share of dead groups at p = {p:g} within 2 SE of p^8 + (1−p)^8 in the middle "
                  "one of five batches (2 − |z| > 0 in at least 4 of 5 seeds)",
                  lambda s, p=p: inside(s, f"formulas/z/{p:g}"), 0.0, "mostly above",
                  "p^G + (1−p)^G") for p in (0.1, 0.3, 0.5, 0.9)),
    Observation("dead-desk", "and on the desk, where each prompt has its own p (the same test)",
                lambda s: inside(s, "dead_groups/z"), 0.0, "mostly above",
                "p^G + (1−p)^G"),
    Observation("exact-grpo", "exact world: wrong answers grow under GRPO, change of LEN > 0",
                lambda s: grown(s, "grpo"), 0.0, "above", "GRPO lengthens wrong answers"),
    Observation("exact-dr", "and under Dr. GRPO they do not move: |change| < 1e-9",
                lambda s: abs(grown(s, "dr-grpo")), 1e-9, "below", "Dr. GRPO does not"),
    Observation("wrong-half-grpo", "the desk, learning from wrong answers alone: under GRPO LEN of "
                "wrong replies rises, slope > 0", lambda s: slope(s, "wrong half", "grpo"), 0.0,
                "above", "GRPO lengthens wrong answers"),
    Observation("wrong-half-dr", "under Dr. GRPO by less than a quarter of that, up or down",
                lambda s: abs(slope(s, "wrong half", "dr-grpo")) / slope(s, "wrong half", "grpo"),
                0.25, "below", "Dr. GRPO does not"),
    Observation("right-half-grpo", "learning from right answers alone: under GRPO LEN of wrong "
                "replies falls, slope < 0", lambda s: slope(s, "right half", "grpo"), 0.0, "below"),
    Observation("whole-grpo", "the desk, the whole of GRPO: LEN of wrong replies rises, slope > 0",
                lambda s: slope(s, "whole", "grpo"), 0.0, "above", "GRPO lengthens wrong answers"),
    Observation("whole-gap", "by more than under Dr. GRPO: difference of the slopes > 0",
                lambda s: slope(s, "whole", "grpo") - slope(s, "whole", "dr-grpo"), 0.0, "above",
                "GRPO lengthens wrong answers"),
    Observation("whole-dr", "and Dr. GRPO's own mean slope is less than a quarter of GRPO's, up or "
                "down", lambda seeds: abs(fmean(slope(s, "whole", "dr-grpo") for s in seeds))
                / fmean(slope(s, "whole", "grpo") for s in seeds), 0.25, "below", "about 0",
                pooled=True, graded=False),
]


# ── What the report shows ───────────────────────────────────────────────────────────────────────
def draw_lengths(axes: Any, seeds: list[Seed]) -> None:
    """LEN of wrong answers in the three experiments."""
    from rlhf_edu.cases.pictures import lines

    rows = {f"{title}, {name}": [s.probes["all"][f"tabular/{kind}/{name}"] for s in seeds]
            for kind, title in KINDS.items() for name in ("wrong", "right")}
    lines(axes[0, 0], range(31), rows, "exact: tokens an answer", "step")
    axes[0, 0].legend(fontsize=7, frameon=False)
    for axis, parts in zip(axes[0, 1:], (("wrong half", "right half"), ("whole",)), strict=True):
        rows = {f"{title}, {part}": [s.probes["all"][f"lengths/{part}/{kind}/wrong"] for s in seeds]
                for part in parts for kind, title in KINDS.items()}
        updates = UPDATES[parts[0]]
        lines(axis, [0, updates // 2, updates], rows, "desk: LEN of wrong replies", "PPO update")
        axis.legend(fontsize=7, frameon=False)
    axes[0, 1].set_ylim(0, 22)


TRIED = [
    ("agents who leave steps out in 12 % of their replies (right ones 0.9 words longer), six "
     "references a seed; that Dr. GRPO's slope reaches 0 was a graded claim",
     "GRPO 0.064 [0.053, 0.074], Dr. GRPO 0.032 [0.014, 0.050] on seeds 21 to 25, NOT REPRODUCED "
     "(on another kind of CPU 0.06 and 0.014 [−0.003, 0.032]); 0.06 [0.02, 0.09] and 0.025 [0.023, "
     "0.027] on 81 to 85. Sixteen single references (2000 to 2015): 0.107 ± 0.025, 0.032 ± 0.015"),
    ("questions that one instruction answers alone (the others are paid 0): there right replies "
     "are 0.1 ± 0.1 words shorter than wrong ones to the same prompt (sixteen references)",
     "GRPO 0.023 ± 0.020, Dr. GRPO 0.005 ± 0.012: nothing to learn about length, and two pulls of "
     "nearly the same size"),
    ("a checker that looks for wrong units in the whole reply; three runs a seed of one reference",
     "slopes of LEN of wrong replies: GRPO 0.02 [0.00, 0.05] on seeds 21 to 25, 0.03 [−0.02, 0.09] "
     "on 71 to 75; Dr. GRPO −0.03 [−0.04, −0.01] on 21 to 25: they shrink, NOT REPRODUCED. Weights "
     "of prompts held as at update 0 change nothing (seeds 0, 1). Over eleven other references, a "
     "run each: GRPO 0.03, Dr. GRPO −0.02, but wrong replies less right ones 0.05 (0.02 to 0.09) "
     "and 0.02"),
    ("the same, one run for each of eight references (seeds 1000 to 1007)",
     "GRPO 0.06 ± 0.04, Dr. GRPO 0.02 ± 0.03 (standard errors; one of 0.32): where it was decided "
     "to average six"),
    ("the same with batches of 1,024 (six references)",
     "GRPO 0.03 ± 0.02, Dr. GRPO 0.01 ± 0.02; wrong less right 0.06 ± 0.01 and 0.00 ± 0.01"),
    ("the present agents, twelve references a seed (seeds 91 to 95)",
     "GRPO 0.052 [0.015, 0.090], Dr. GRPO 0.017 [0.002, 0.033]: less, but not none. Twenty single "
     "references (1000 to 1019): 0.05 ± 0.02 and 0.01 ± 0.01; fourteen (2000 to 2013): 0.08 ± "
     "0.02, 0.01 ± 0.01"),
    ("a checker that reads the first unit alone (twelve references)",
     "GRPO 0.10 ± 0.02, Dr. GRPO 0.04 ± 0.02; right replies 0.9 words longer"),
    ("the former checker, one run a seed",
     "slopes of LEN of wrong replies under GRPO: 0.08 [0.03, 0.13] on seeds 0 to 4, 0.05 [−0.03, "
     "0.13] on 21 to 25; runs of one seed with other luck: 0.11, 0.17, 0.06 (seed 0), 0.09, 0.03, "
     "0.03 (seed 1). That Dr. GRPO's do not fall held then, as noise was large; with three runs it "
     "does not"),
    ("the former checker, batches of 768 (seeds 0 to 4)",
     "slopes of LEN of wrong replies: GRPO −0.01 [−0.05, 0.03], Dr. GRPO −0.04 [−0.07, −0.02]"),
    ("the former checker, 32 updates (seeds 0 to 4)",
     "GRPO 0.01 [−0.01, 0.04], Dr. GRPO −0.01 [−0.04, 0.01]: wrong replies grow for some 20 "
     "updates and shrink again, as right ones become more (from 13 to 20 %)"),
    ("agents who are often wrong (wrong step 0.6, missing step 0.3; a third right, learnt fast), "
     "16 updates of 128, lr 4e-4, β = 0.02",
     "seeds 0 to 4: LEN of wrong replies −0.02 words an update under GRPO (interval −0.18 to 0.13) "
     "and −0.11 under Dr. GRPO: the same difference as here, but both fall, and neither is as "
     "published. The pull of 1/|o|, mean LEN · mean(1/LEN) − 1 over the reference's replies: wrong "
     "0.46, 0.45, 0.48, right 0.37, 0.33, 0.34 on seeds 0, 1, 2; in the present world, by the "
     "former checker, 0.45, 0.52, 0.56 and 0.34, 0.37, 0.37"),
    ("agents who refuse 60 % of what they should answer, so that wrong answers look different "
     "from the first word; lr 1e-4, β = 0, 12 updates of 256",
     "seed 0: the share refused falls from 52 to 10 %, and wrong replies with it: −0.17 GRPO, "
     "−0.10 Dr. GRPO; those that refuse −0.05 and +0.05: the kinds of wrong replies change"),
    ("the usual agents with few errors (79 % right), lr 1e-4, 12 updates of 256",
     "seed 0: −0.03 GRPO, −0.05 Dr. GRPO; right replies −0.08 and −0.06"),
    ("a reference from 3000 demonstrations in two passes (26 to 31 % right), as here otherwise",
     "seeds 0, 1, 2: wrong replies in 16 updates +1.1, −0.5, +1.2 words under GRPO and +0.5, −0.9, "
     "+0.1 under Dr. GRPO; seed 1 has the best reference (31 → 46 % right)"),
    ("the desk's usual agents (64 % right at first), 24 updates of 256 replies, lr 2e-4, β = 0.01",
     "seed 0, slopes of LEN of wrong replies: GRPO −0.03, Dr. GRPO +0.03 words an update; right "
     "replies rise to 91 %, and too few wrong ones are left to be measured"),
    ("agents who are often wrong (31 % right), lr 2e-4, β = 0.05 and 0.3",
     "seed 0: GRPO −0.09 and −0.03, Dr. GRPO −0.03 and 0.00"),
    ("the same with lr 6e-4 and β = 0",
     "seed 0: GRPO 9.3 → 8.9 words (right replies 10.3 → 7.9), Dr. GRPO 9.3 → 13.8: drift"),
    ("lr 4e-4, β = 0.02, 24 updates of 128 replies",
     "GRPO 9.3 → 11.6 on seed 0 and 9.9 → 7.6 on seed 1; Dr. GRPO 9.3 → 9.9 and 9.9 → 7.7"),
]
PICTURES = [
    Picture("Where wrong answers grow, and where they do not",
            "Left: a tabular policy and exact gradients. Middle: the desk, learning from wrong or "
            "from right answers alone. Right: the desk, nothing left out. A thin line is a seed.",
            draw_lengths, shape=(1, 3))
]
