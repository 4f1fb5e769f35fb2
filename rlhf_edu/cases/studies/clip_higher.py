"""P21 · clip-higher: does a wider upper clip keep the entropy?

DAPO (Yu et al. 2025, arXiv 2503.14476) sees the entropy of a policy collapse under PPO's symmetric
clip, and blames the upper side. A word of probability 0.01 that turned out well earns nothing
beyond 0.01·(1 + 0.2) = 0.012 in one update, while for a word of 0.9 the bound 1.08 lies beyond any
probability: the likely are free to grow, the rare are held down. With ε_low = 0.2 and ε_high = 0.28
the rare word may go to 0.0128, and the entropy is said to last.

The caps are arithmetic, and are read off the gradient of this package's own loss. Whether the
entropy lasts is asked twice.

*50 arms.* Ten of them are good, rewards are noisy, 128 are sampled a batch and used eight times.
Both clips end with the same reward, and clip-higher with more entropy. The likely reason: a rare
good arm that is drawn earns nothing beyond a factor of 1.2, and is pushed down to 0.8 when noise
speaks against it, so luck thins the rare ones out. Without noise in the reward it is the reverse
(see what was tried).

*The desk.* Two policies, the same but for ε_high. As in DAPO a checker pays 1 for a right answer,
advantages are (R − mean)/SD over the 8 answers to a prompt, each token counts the same, and there
is no penalty. Agents give many courtesies and are often wrong, and temperature 1.3 widens the
choice further. Here the premise holds: as right answers go from a quarter to three quarters, the
entropy under the symmetric clip falls. But that clip-higher keeps more of it cannot be shown: on
seeds 21 to 25 it ends 0.07 nats higher [−0.12, 0.25], on three of five: NOT REPRODUCED.

Why? Two more policies have an upper ε of 0.6 for some words alone. Where it is for rare words (p <
0.2 when sampled), more entropy is left than where it is for the others: by 0.16 nats [0.07, 0.24]
on seeds 0 to 4, by 0.32 [0.14, 0.49] on 21 to 25. That is DAPO's direction. A likely reason why a
wider clip for all helps so little (the two special clips point to it): the upper clip does two
things. It holds rare words down, which costs entropy. It also slows a word that rises from 0.2 to
0.83, and such a rise makes the choice narrower, so slowing it saves entropy. A wider clip gives up
both. DAPO finds that the words which the upper clip stops are rare; on this desk their mean p is
above 0.2. What is left at 0.28 drowns in noise: runs that differ in rounding alone, the reference's
training included, end up to 0.4 nats apart.

What is ours: eight passes over a batch, so that the clip is at work (DAPO: 16 steps, one pass); a
step size that falls to 0, without which the noise of late steps widens the choice of words again;
replies of at most 16 words, and one that is cut off is paid 1 less, else what follows the answer is
free and nothing narrows it. Left out: dynamic sampling, and DAPO's soft overlong punishment.
Refuted, for the desk, if the entropy lasts under the symmetric clip, or falls as far under both.
"""

import statistics
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from rlhf_edu.advantage import grpo_advantage, masked_mean, reward_to_go
from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed
from rlhf_edu.cases.stages import Recipe, Room
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.gold import reply_mask
from rlhf_edu.lab.group import RightAnswer
from rlhf_edu.lab.rlhf import RLHFConfig, start, train_rlhf
from rlhf_edu.lab.sampling import sample
from rlhf_edu.lab.sft import SFTConfig
from rlhf_edu.ppo_clip import clipped_surrogate_loss, probability_ratio

TITLE = "Clip higher"
QUESTION = "Does a wider upper clip keep a policy's entropy, and for which words?"
LOW, HIGH = 0.2, 0.28


RARE = 0.2  # a word below this probability is rare: those that DAPO sees stopped
CLIPS = {  # ε above 1: for rare words and for the others
    "symmetric": (LOW, LOW), "higher": (HIGH, HIGH), "rare": (0.6, LOW), "likely": (LOW, 0.6)}
TITLES = {"symmetric": "0.2 below and above", "higher": "0.28 above",
          "rare": "0.6 above for rare words", "likely": "0.6 above for the others"}
G = 8  # answers to a prompt
RECIPE = Recipe(sft=SFTConfig(agents=helpdesk.AgentConfig(
    opener=0.5, closing=0.5, confident=0.3, sales=0.3, wrong_step=0.3)))
DESK = RLHFConfig(updates=24, batch_size=128, group_size=G, advantage="grpo", num_ppo_epochs=8,
                  num_mini_batches=2, lr=3e-4, lr_schedule="linear", kl_coef=0.0, cliprange=LOW,
                  whiten_advantages=False, critic_init="random", temperature=1.3,
                  response_length=16)
PROBE_SECONDS = 60.0


def caps(room: Room) -> dict[str, Any]:
    """How far one update may raise a probability: the largest at which a gradient is left, A > 0.

    10⁶ + 1 probabilities between p and 1 stand for the stations of a rising word.
    """
    found = {}
    for p in (0.01, 0.9):
        there = torch.linspace(p, 1.0, 10**6 + 1, dtype=torch.float64)[None]
        old, ones = torch.full_like(there, p).log(), torch.ones_like(there)
        for name, high in (("symmetric", None), ("higher", HIGH)):
            logprobs = there.log().requires_grad_()
            loss = clipped_surrogate_loss(logprobs, old, ones, ones, LOW, high)
            slope = torch.autograd.grad(loss, logprobs)[0]
            found[f"{name}/{p:g}"] = float(there[slope < 0].max())
    return found


def bandits(room: Room) -> dict[str, Any]:
    """Mean entropy and reward of 32 bandits of 50 arms, trained with either clip."""
    found: dict[str, Any] = {}
    for name, high in (("symmetric", None), ("higher", HIGH)):
        draw = torch.Generator().manual_seed(room.seed)
        z = 1.5 * torch.randn(32, 50, generator=draw, dtype=torch.float64)
        good = (torch.rand(32, 50, generator=draw).argsort(1) < 10).double()
        entropy, reward = [], []
        for _ in range(41):
            old = z.log_softmax(1)
            entropy.append(float(-(old.exp() * old).sum(1).mean()))
            reward.append(float((old.exp() * good).sum(1).mean()))
            arms = torch.multinomial(old.exp(), 128, replacement=True, generator=draw)
            noise = torch.randn(arms.shape, generator=draw, dtype=torch.float64)
            paid = good.gather(1, arms) + 0.3 * noise
            gain = (paid - paid.mean(1, keepdim=True)) / paid.std(1, keepdim=True)
            for _ in range(8):  # plain gradient ascent, rate 8, each bandit by itself
                z.requires_grad_()
                loss = len(z) * clipped_surrogate_loss(
                    z.log_softmax(1).gather(1, arms), old.gather(1, arms), gain,
                    torch.ones_like(gain), LOW, high)
                z = (z - 8 * torch.autograd.grad(loss, z)[0]).detach()
        found |= {f"{name}/entropy": entropy, f"{name}/reward": reward}
    return found


def of_group(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float,
             lam: float) -> tuple[Tensor, Tensor]:
    """DAPO's advantages: GRPO's without 1/|o|, so that every token counts the same."""
    each = grpo_advantage((rewards * mask).sum(1).view(-1, G)).flatten()
    return each[:, None] * mask, reward_to_go(rewards, mask, gamma)


def clipped_by_rarity(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor,
                      low: float, widths: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """The clipped loss with an upper ε for rare words and one for the others; whom it stops (B, T).

    With two equal widths it is the package's `clipped_surrogate_loss` (a test compares them).
    """
    ratio, p = probability_ratio(logprobs, old_logprobs), old_logprobs.exp()
    rare, other = (ratio.new_tensor(width) for width in widths)
    most = 1 + torch.where(p < RARE, rare, other)
    kept = torch.where(advantages > 0, ratio.minimum(most), ratio.clamp(min=1 - low))
    return -masked_mean(kept * advantages, mask), (ratio > most) & (advantages * mask > 0)


def desk(room: Room) -> dict[str, Any]:
    """Entropy and right answers before, during and after training with each of the four clips."""
    reference, table = room.reference(), helpdesk.desk()
    check, draw = RightAnswer(reference), torch.Generator().manual_seed(room.seed)
    x = table.prompts[helpdesk.draw_prompts(table, 512, draw)].to(room.place.device)
    found: dict[str, Any] = {}

    @torch.inference_mode()
    def examine(policy: Any) -> tuple[float, float]:
        logp = torch.zeros(2 * len(x), DESK.response_length, helpdesk.VOCAB_SIZE, device=x.device)
        luck = torch.Generator().manual_seed(room.seed)
        y, _ = sample(policy, x, DESK.response_length, luck, DESK.temperature, logp, copies=2)
        mask, right = reply_mask(y), check(x.repeat_interleave(2, 0), y)
        return float((-(logp.exp() * logp).sum(-1) * mask).sum() / mask.sum()), float(right.mean())

    found["before/entropy"], found["before/right"] = examine(reference)
    for name, widths in CLIPS.items():
        config = replace(DESK, seed=room.seed)
        stopped: list[Tensor] = []  # probabilities of the words that the upper clip stopped
        rows: dict[str, list[float]] = {
            "policy/entropy_avg": [], "objective/scores": [], "policy/clipfrac_avg": []}

        def loss(logprobs: Tensor, old: Tensor, gain: Tensor, mask: Tensor, low: float,
                 widths: Any = widths, stopped: Any = stopped) -> Tensor:
            value, beyond = clipped_by_rarity(logprobs, old, gain, mask, low, widths)
            stopped.append(old.exp()[beyond])
            return value

        def note(state: Any, metrics: dict[str, float], rows: Any = rows) -> None:
            for key, row in rows.items():
                row.append(metrics[key])

        state = start(config, reference, check)  # type: ignore[arg-type]
        train_rlhf(config, state, reference, check, note, policy_loss=loss, advantage_fn=of_group)
        found[f"{name}/entropy"], found[f"{name}/right"] = examine(state.policy)
        found |= {f"{name}/stopped": float(torch.cat(stopped).mean()),
                  **{f"{name}/{key}": row for key, row in rows.items()}}
    return found


def everything(room: Room) -> dict[str, Any]:
    """All parts, one after another: part/key."""
    return {f"{part.__name__}/{key}": value
            for part in (caps, bandits, desk) for key, value in part(room).items()}


PROBES = {"all": everything}


# ── What must be seen ───────────────────────────────────────────────────────────────────────────
def lead(seed: Seed, part: str, name: str, other: str = "higher") -> float:
    """A measure at the end with another clip, minus that with the symmetric one."""
    ends = []
    for clip in (other, "symmetric"):
        found = seed.probes["all"][f"{part}/{clip}/{name}"]
        ends.append(found[-1] if isinstance(found, list) else found)
    return float(ends[0] - ends[1])


def on_desk(seed: Seed, name: str) -> Any:
    """A number of the part about the desk."""
    return seed.probes["all"][f"desk/{name}"]


def cap(name: str, p: float, at: float, claim: str) -> Observation:
    """The largest probability that still earns something, to 2e-6."""
    return Observation(f"cap-{name}-{'rare' if p < 0.5 else 'likely'}", f"{claim}: off by < 2e-6",
                       lambda s: abs(s.probes["all"][f"caps/{name}/{p:g}"] - at), 2e-6, "below",
                       f"{at:g}" if at < 1 else "uncapped")


OBSERVATIONS = [
    cap("symmetric", 0.01, 0.012, "ε = 0.2: a word of p = 0.01 earns nothing beyond 0.012"),
    cap("higher", 0.01, 0.0128, "ε_high = 0.28: nothing beyond 0.0128"),
    cap("symmetric", 0.9, 1.0, "ε = 0.2: a word of p = 0.9 is never stopped"),
    Observation("bandit-entropy", "50 arms: clip-higher ends with more entropy, in at least 4 of 5 "
                "seeds", lambda s: lead(s, "bandits", "entropy"), 0.0, "mostly above",
                "ENT is kept"),
    Observation("bandit-reward", "at equal reward: differing by < 0.01 of the best",
                lambda s: abs(lead(s, "bandits", "reward")), 0.01, "below"),
    Observation("clip-at-work", "the desk: the symmetric clip is at work on ≥ 5 % of the tokens",
                lambda s: statistics.fmean(on_desk(s, "symmetric/policy/clipfrac_avg")), 0.05,
                "above"),
    Observation("collapse", "its premise: under the symmetric clip the entropy falls",
                lambda s: on_desk(s, "symmetric/entropy") - on_desk(s, "before/entropy"), 0.0,
                "below", "entropy collapse"),
    Observation("entropy", "clip-higher ends with more entropy, in at least 4 of 5 seeds",
                lambda s: lead(s, "desk", "entropy"), 0.0, "mostly above", "ENT is kept"),
    Observation("equal-reward", "at equal reward: shares of right answers differ by < 0.1",
                lambda s: abs(lead(s, "desk", "right")), 0.1, "below"),
    Observation("rare", "the words that the symmetric clip stops from rising are rare, p < 0.2",
                lambda s: on_desk(s, "symmetric/stopped"), RARE, "below", "p < 0.2", graded=False),
    Observation("reason", "wider for rare words alone leaves more entropy than for others alone",
                lambda s: lead(s, "desk", "entropy", "rare") - lead(s, "desk", "entropy", "likely"),
                0.0, "above", "the rare are held down"),
    Observation("rare-entropy", "and more than the symmetric clip, in at least 4 of 5 seeds",
                lambda s: lead(s, "desk", "entropy", "rare"), 0.0, "mostly above", graded=False),
]


# ── What the report shows ───────────────────────────────────────────────────────────────────────
def draw_entropy(axes: Any, seeds: list[Seed]) -> None:
    """Entropy of the bandits; entropy and reward on the desk, while training."""
    from rlhf_edu.cases.pictures import lines

    panels = (("bandits", "entropy", "50 arms: entropy, nats"),
              ("desk", "policy/entropy_avg", "desk: entropy, nats a token"),
              ("desk", "objective/scores", "desk: reward"))
    for axis, (part, name, label) in zip(axes[0], panels, strict=True):
        rows = {title: [s.probes["all"][f"{part}/{clip}/{name}"] for s in seeds]
                for clip, title in TITLES.items()
                if f"{part}/{clip}/{name}" in seeds[0].probes["all"]}
        lines(axis, range(len(next(iter(rows.values()))[0])), rows, label, "update")
    axes[0, 1].legend(fontsize=6, frameon=False)


TRIED = [
    ("five trainings with either clip from each of six references (seeds 0 to 4 and 200)",
     "clip-higher +0.02 nats ± 0.025 (standard error of the six means), more on 16 of 30: if there "
     "is an effect it is far below the 0.1 by which two trainings of a seed differ"),
    ("a reward model of biased raters, a critic, β = 0.05, eight passes, 12 updates of 128",
     "seeds 0 to 4: no premise: 0.42 nats a word go to 0.31, 0.44, 0.49, 0.66 and 0.47 under the "
     "symmetric clip; clip-higher +0.06, −0.07, −0.13, −0.31, −0.00"),
    ("RLOO, six passes, β = 0, lr 6e-4, 40 updates of 64",
     "seed 0: no collapse under the symmetric clip, 0.40 → 0.79; higher 0.38; KLREF 58 and 31"),
    ("a checker, replies of up to 32 words, lr 3e-4 to the end, 20 updates of 128",
     "seed 0: entropy 0.45 → 0.60 symmetric, 0.53 higher; temperature 1.5: 1.39 → 1.29 and 1.49: "
     "what follows the answer is free and turns to noise"),
    ("no courtesies at all, replies of up to 12 words, lr falling to 0, 32 updates",
     "seed 0: collapse, 0.42 → 0.13 symmetric, 0.12 higher; at temperature 1.5 1.29 → 0.52 and "
     "0.50: with one right reply a prompt entropy is little else than error"),
    ("the set-up of this study at temperature 1",
     "seeds 0, 1, 2: 0.48 → 0.39, 0.31, 0.32 symmetric; clip-higher +0.01, −0.08, −0.01"),
    ("the two policies with ε = 0.6 with the same seeds, reference and loss rounded otherwise",
     "seeds 0, 2, 4: rare words 1.02, 0.81, 1.07; others 0.53, 0.64, 0.53 (in this study 0.70, "
     "0.94, 0.66 and 0.52, 0.81, 0.50; symmetric 0.66, 0.70, 0.47)"),
    ("the set-up of this study at temperature 1.6",
     "seeds 0, 1, 2: entropy 1.24, 1.15, 1.15 symmetric, clip-higher −0.09, −0.06, −0.01; but it "
     "has learnt more: right 0.41, 0.44, 0.43 symmetric, 0.48, 0.48, 0.45 higher"),
    ("a coin in place of the checker, 16 updates, lr 3e-4 (and 1e-4 in eight minibatches)",
     "seed 0: the reverse: entropy 0.49 → 0.88 (0.65) symmetric, 0.73 (0.61) higher"),
    ("a reference from 2000 demonstrations in two passes (1.9 nats a word); right if a right step "
     "is named", "words stopped have p = 0.15 on average, as in the paper; seeds 0, 1, 2: entropy "
     "1.57, 1.32, 1.87 symmetric; clip-higher +0.18, +0.08, −0.11; right 0.21, 0.14, 0.23"),
    ("four words, right if all are of the right answer; reference from 1500 to 3000 demonstrations",
     "seed 0: from 1500 full collapse, to the same four words for every prompt: 0.03 symmetric, "
     "0.32 higher with lr 3e-4, 0.98 and 0.16 with 1e-4: who finds them first has less entropy"),
    ("50 arms without noise in the reward, rate 8",
     "the reverse: entropy 0.16 symmetric, 0.11 higher (seed 0); the first to rise take all"),
]
PICTURES = [
    Picture("Entropy and reward under four upper clips",
            "Left: 32 bandits a seed, two of the clips. Middle and right: the desk, batches of "
            "training. A thin line is a seed. The clips differ in ε above 1 alone.",
            draw_entropy, shape=(1, 3))
]
