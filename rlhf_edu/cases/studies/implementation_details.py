"""P10 · Details of PPO for language, taken away one at a time.

Huang et al. 2024 (arXiv 2403.17031) reproduce RLHF for summaries and write down 25 details on which
it depends. Four of them, each ablated alone:

EOS is not padding. If the end-of-sequence token doubles as the padding token and padding is masked
out of the supervised loss, no example ever teaches the end, and replies run on until they are cut.

The EOS trick. A reply without an end gets a bad score, here 2 SDs of the reference's rewards less.
Without it nothing holds a policy whose reward model likes length from running to the limit.

The critic starts from the reward model. Its trunk already knows what the score depends on; from
random weights the critic explains less of the returns at first (EV = 1 − Var(returns − V) /
Var(returns)). In both arms the head starts at 0, so in the first batch EV is 0 for both, and over
the first three updates the difference is small (0.015 [0.007, 0.022] on seeds 21 to 25).

Advantages are whitened. The claim is that runs without it differ more from seed to seed. Five runs,
each with a reward model of its own, say little about a spread, so on each seed PPO runs four times
with whitening and four times without, on one reward model, with other prompts and samples.

Whitening divides by the SD and subtracts the mean. Adam hardly knows scale, so one would think that
only the mean can matter, and that little is left to subtract where rewards are centred on the
reference's replies (a detail of its own in the paper). After 20 updates we saw no difference there
(see what was tried); after these 50 runs without it differ more on all of seeds 21 to 25, by a log
ratio of 0.83 [−0.01, 1.68], so the scale may matter as well. It is reported, not graded. A ranking
loss does not know where 0 is: r and r − 3 are the same reward model. So the claim is graded where
every reward is 3 SDs lower. Without whitening every advantage is negative until the critic has
caught up; each word that was sampled is pushed down, and when a run finds its way up is a matter of
luck. That shows where whitened runs have arrived after these 50 updates and the others are on their
way: on seeds 0 to 4 and 21 to 25. On 71 to 75 all learn more slowly, those without it had hardly
moved (reward 0.3 on average, whitened 0.85), and the claim fails: who has not moved does not
spread. Nor do twice as many updates make it sure (see what was tried). That whitened runs end
higher is the surer half: it is so on all 15 seeds.

Ours: the help desk with the biased raters' reward model, replies of at most 12 tokens, so that
truncation happens; PPO with β = 0.05 (k1 in the reward). The first ablation is a supervised
training of its own, in which the mask of the loss ends one token early. What is different: their
score of a reply without an end is −1 in all, ours is 2 less than what the reward model says; their
spread is over all that a seed decides, ours over the seeds of PPO alone. Left out: the other 21
details, and accuracies of reward models of 1 to 7 billion weights. Three SDs too high was tried on
seed 0: there both ways are slow, and spread alike.

Refuted, for each detail, if the run without it were as good.
"""

import math
from dataclasses import replace
from itertools import product
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed
from rlhf_edu.cases.pictures import dots, during
from rlhf_edu.cases.stages import Arm, Recipe, Room
from rlhf_edu.cases.world import BIASED
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.evaluate import ExamConfig, answer, exam_rows
from rlhf_edu.lab.rlhf import RLHFConfig, start, train_rlhf
from rlhf_edu.lab.sft import SFTConfig, sft_loss, train_sft

TITLE = "Details that decide"
QUESTION = "Which small details does PPO for language not work without?"

BASE = RLHFConfig(updates=30, batch_size=64, num_ppo_epochs=2, num_mini_batches=2, lr=3e-4,
                  response_length=12, missing_eos_penalty=2.0)
EARLY = BASE.updates // 10  # updates: the first 10 %
RUNS, UPDATES = 4, 50  # of PPO, to see how far its seeds spread
ZEROS = {"centred": 0.0, "low": 3.0}  # SDs taken off every reward
WHITEN = {"whitened": True, "raw": False}
RECIPE = Recipe(
    sft=SFTConfig(),
    raters={"biased": BIASED},
    arms={
        "all-details": Arm("all details", "biased", BASE),
        "no-eos-trick": Arm("no EOS trick", "biased", replace(BASE, missing_eos_penalty=0.0)),
        "random-critic": Arm("random critic", "biased", replace(BASE, critic_init="random")),
    },
    exam=ExamConfig(every=100, prompts=64),
)


# ── EOS as padding: a supervised training without the end ───────────────────────────────────────
def without_the_end(logprobs: Tensor, mask: Tensor) -> Tensor:
    """The supervised loss when padding is masked and the end is a padding token."""
    return sft_loss(logprobs, torch.nn.functional.pad(mask[:, 1:], (0, 1)))


def eos_is_padding(room: Room) -> dict[str, float]:
    """Share of replies that never end, with the end in the supervised loss and without."""
    rows = exam_rows(room.seed, 128)
    config = SFTConfig(seed=room.seed, n_demonstrations=3000, epochs=2)
    device = torch.device(room.place.device)
    found = {}
    for name, loss in (("with", sft_loss), ("without", without_the_end)):
        policy = train_sft(config, room.recipe.model, device, loss_fn=loss)
        replies = answer(policy, rows, room.seed, config.response_length)
        found[name] = float((replies != helpdesk.EOS).all(1).float().mean())
    return found


# ── Whitening: the spread of PPO's seeds ────────────────────────────────────────────────────────
def whitening(room: Room) -> dict[str, list[float]]:
    """Last rewards, in the usual gauge, of four runs with whitened advantages and four without.

    Both where the reference's replies get 0 on average, and where they get −3: zero/advantages.
    """
    reference, judge = room.reference(), room.reward_model("biased")
    rows = exam_rows(room.seed, 128)
    prompts = helpdesk.desk().prompts[rows].to(room.place.device)
    found: dict[str, list[float]] = {}
    for zero, name, run in product(ZEROS, WHITEN, range(RUNS)):
        reward_model = replace(judge, mean=judge.mean + ZEROS[zero] * judge.sd)
        config = replace(BASE, updates=UPDATES, seed=room.seed + 1000 * run,
                         whiten_advantages=WHITEN[name])
        state = train_rlhf(config, start(config, reference, reward_model), reference, reward_model)
        with torch.inference_mode():
            replies = answer(state.policy, rows, room.seed, config.response_length)
            end = float(judge(prompts, replies).mean())
        found.setdefault(f"{zero}/{name}", []).append(end)
        room.tick(PROBE_SECONDS / (len(ZEROS) * len(WHITEN) * RUNS))
    return found


PROBES = {"eos": eos_is_padding, "whitening": whitening}
PROBE_SECONDS = 100.0


# ── What must be seen ───────────────────────────────────────────────────────────────────────────
def cut_off(seed: Seed, arm: str) -> float:
    """Share of the last replies that were cut off: gold takes 0.5 off each of them."""
    return -2.0 * float(seed.runs[arm].final["gold/ending"])


def early_ev(seed: Seed, arm: str) -> float:
    """The critic's explained variance, mean over the first 10 % of updates."""
    return fmean(u["critic/explained_variance"] for u in seed.runs[arm].updates[:EARLY])


def wider(seed: Seed, zero: str) -> float:
    """How much wider the runs without whitening spread: log of the ratio of SDs."""
    found = seed.probes["whitening"]
    return math.log(stdev(found[f"{zero}/raw"]) / stdev(found[f"{zero}/whitened"]))


OBSERVATIONS = [
    Observation(
        "eos-is-padding", "EOS out of the supervised loss: ≥ 90 % of replies never end",
        lambda s: s.probes["eos"]["without"], 0.9, "above", "replies run to the limit",
    ),
    Observation(
        "eos-trick", "no EOS trick: the share of replies cut off is ≥ 3× that with it, in at least "
        "4 of 5 seeds",
        lambda s: cut_off(s, "no-eos-trick") - 3 * cut_off(s, "all-details"),
        0.0, "mostly above", "score −1 without EOS",
    ),
    Observation(
        "critic-init", "critic from the reward model: EV above that of a random one at first, in "
        "at least 4 of 5 seeds",
        lambda s: early_ev(s, "all-details") - early_ev(s, "random-critic"),
        0.0, "mostly above", "value network initialised from the reward model",
    ),
    Observation(
        "whitening", "no whitening, rewards 3 SDs too low: four runs differ more (log of the ratio "
        "of the SDs of their rewards > 0), in at least 4 of 5 seeds",
        lambda s: wider(s, "low"), 0.0, "mostly above", "advantages are whitened",
    ),
    Observation(
        "whitening-centred", "and where rewards are centred on the reference's, in at least 4 of 5",
        lambda s: wider(s, "centred"), 0.0, "mostly above", graded=False,
    ),
]


def draw(axes: Any, seeds: list[Seed]) -> None:
    """A panel for each detail."""
    dots(axes[0, 0], {"EOS learned": [s.probes["eos"]["with"] for s in seeds],
                      "EOS = padding": [s.probes["eos"]["without"] for s in seeds]},
         "replies that never end, after SFT", "share")
    pair = {arm: RECIPE.arms[arm].title for arm in ("all-details", "no-eos-trick")}
    dots(axes[0, 1], {label: [cut_off(s, arm) for s in seeds] for arm, label in pair.items()},
         "replies cut off, after PPO", "share")
    pair = {arm: RECIPE.arms[arm].title for arm in ("all-details", "random-critic")}
    during(axes[1, 0], seeds, pair, "critic/explained_variance", "EV of the critic")
    axes[1, 0].legend(fontsize=8, frameon=False)
    dots(axes[1, 1], {f"{zero}, {label}": [stdev(s.probes["whitening"][f"{zero}/{name}"])
                                           for s in seeds]
                      for zero in ZEROS for name, label in (("whitened", "whitened"),
                                                            ("raw", "not"))},
         "SD of the rewards of four runs", "SDs of the reference's")


TRIED = [
    (
        "whitening: one run on each of five seeds, SD over seeds",
        "seeds 0 to 4: runs without it did not differ more; five runs with five reward models",
    ),
    (
        "whitening: rewards centred on the reference's, 20 updates, four runs each",
        "wider without it on three of seeds 0 to 4, and on two of 21 to 25",
    ),
    (
        "rewards 3 SDs too low, 20 updates, four runs each",
        "seed 0: SD 0.08 and 0.08, reward 0.76 and −0.19: too early, for the slow have not moved",
    ),
    (
        "10 to 60 updates, six runs each, rewards 3 SDs too low (seeds 0 to 4)",
        "SD with and without after 40 updates: 0.05 and 0.36, 0.11 and 0.10, 0.04 and 0.51, 0.01 "
        "and 0.11, 0.04 and 0.24; after 50 wider without it on all five, and after 60 as well",
    ),
    (
        "100 updates, SDs averaged over the whole way, rewards 3 SDs too low",
        "seeds 0 to 4: wider without whitening on all five (log of the ratio 0.5 to 1.1); on 91 to "
        "94, not used before: −0.4, 1.2, −0.1, 1.7. There some reward models have a slope that a "
        "run finds or does not, with whitening as without",
    ),
    (
        "the same, 3 SDs too high, and centred (seed 0, 60 updates)",
        "too high: SD 0.47 and 0.36, reward 0.44 and 0.19; centred: SD 0.08 and 0.04",
    ),
    (
        "replies of at most 16 tokens",
        "seed 0: without the EOS trick 11 % of the replies were cut off, with it 3 %: the limit is "
        "too far for the reference (10 tokens) to meet it often; with 12 tokens it is 99 % and 7 %",
    ),
    (
        "an EOS trick of 1 SD (replies of at most 12 tokens)",
        "cut off with the trick: 7, 11, 60, 17 and 6 % of the replies on seeds 0 to 4, 91 to 99 % "
        "without. On seed 2 a long reply was worth more than the trick took; with 2 SDs it is 1 %",
    ),
]
PICTURES = [Picture(
    "One detail less",
    "Dots are seeds, bars their mean; lines are seeds and their mean.",
    draw, shape=(2, 2), height=2.8,
)]
