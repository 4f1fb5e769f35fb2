"""P21 · clip-higher: does a wider upper clip keep the entropy?

DAPO (Yu et al. 2025, arXiv 2503.14476) sees the entropy of a policy collapse under PPO's symmetric
clip, and blames the upper side. A word of probability 0.01 that turned out well earns nothing
beyond 0.01·(1 + 0.2) = 0.012 in one update, while for a word of 0.9 the bound 1.08 lies beyond any
probability: the likely are free to grow, the rare are held down. With ε_low = 0.2 and ε_high = 0.28
the rare word may go to 0.0128, and the entropy is said to last.

The caps are arithmetic, and are read off the gradient of this package's own loss. Whether the
entropy lasts is asked twice.

*50 arms.* Ten of them are good, rewards are noisy, 128 are sampled a batch and used eight times.
Both clips end with the same reward, and clip-higher with more good arms alive: without the wider
side a rare good arm that is drawn rises by a factor 1.2 at most, and falls by 0.8 when noise speaks
against it, so luck thins the rare ones out.

*The desk.* Two policies against one reward model, the same but for ε_high, eight passes a batch.
Here neither the claim nor its premise is seen (NOT REPRODUCED): under the symmetric clip the
entropy does not collapse. From 0.42 nats a word it goes to 0.31, 0.44, 0.49, 0.66 and 0.47 on
seeds 0 to 4, and clip-higher ends above that on seed 0 alone (+0.06, −0.07, −0.13, −0.31, −0.00);
its reward is a little higher, by 0.18 SD on seed 3, so the rewards are not quite equal either. Both
arms first widen the choice of words (0.7 nats), as there are many kinds of filler that pay, and
then narrow it. Longer runs, without the penalty or with a checker in place of the reward model,
did not collapse under the symmetric clip either (see what was tried).

What is ours: a critic and GAE (DAPO has groups and no critic), a reward model of biased raters in
place of a checker, k1 of KL(policy ‖ reference) in the reward with β = 0.05 (DAPO: no penalty), and
twelve updates. Left out: DAPO's dynamic sampling, token-level loss (here the default) and overlong
shaping.
"""

import statistics
from typing import Any

import torch

from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed
from rlhf_edu.cases.stages import Arm, Recipe, Room
from rlhf_edu.cases.world import BIASED
from rlhf_edu.lab.evaluate import ExamConfig
from rlhf_edu.lab.rlhf import RLHFConfig
from rlhf_edu.lab.sft import SFTConfig
from rlhf_edu.ppo_clip import clipped_surrogate_loss

TITLE = "Clip higher"
QUESTION = "Does a wider upper clip keep a policy's entropy, and for which words?"
LOW, HIGH = 0.2, 0.28


def ppo(cliprange_high: float) -> RLHFConfig:
    """Eight passes over each batch, so that the clip is at work; 0: symmetric."""
    return RLHFConfig(updates=12, batch_size=128, num_ppo_epochs=8, num_mini_batches=4, lr=3e-4,
                      kl_coef=0.05, lam=0.95, cliprange=LOW, cliprange_high=cliprange_high)


RECIPE = Recipe(
    sft=SFTConfig(),
    raters={"biased": BIASED},
    arms={"symmetric": Arm("symmetric: 0.2 below and above", "biased", ppo(0.0)),
          "higher": Arm("clip-higher: 0.2 below, 0.28 above", "biased", ppo(HIGH))},
    exam=ExamConfig(every=100, prompts=32, final_prompts=256),
)
PROBE_SECONDS = 4.0


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


def everything(room: Room) -> dict[str, Any]:
    """All parts, one after another: part/key."""
    return {f"{part.__name__}/{key}": value
            for part in (caps, bandits) for key, value in part(room).items()}


PROBES = {"all": everything}


# ── What must be seen ───────────────────────────────────────────────────────────────────────────
def lead(seed: Seed, name: str) -> float:
    """A final measure of clip-higher minus that of the symmetric clip."""
    higher, symmetric = (seed.runs[arm].final[name] for arm in ("higher", "symmetric"))
    return float(higher - symmetric)


def bandit_lead(seed: Seed, name: str) -> float:
    """The same for the bandits."""
    higher, symmetric = (seed.probes["all"][f"bandits/{arm}/{name}"][-1]
                         for arm in ("higher", "symmetric"))
    return float(higher - symmetric)


def clipped(seed: Seed) -> float:
    """Share of tokens whose gradient the symmetric clip takes, mean over passes and updates."""
    updates = seed.runs["symmetric"].updates
    return statistics.fmean(u["policy/clipfrac_avg"] for u in updates)


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
                "seeds", lambda s: bandit_lead(s, "entropy"), 0.0, "mostly above", "ENT is kept"),
    Observation("bandit-reward", "at equal reward: differing by < 0.01 of the best",
                lambda s: abs(bandit_lead(s, "reward")), 0.01, "below"),
    Observation("clip-at-work", "the desk: the symmetric clip is at work on ≥ 5 % of the tokens",
                clipped, 0.05, "above"),
    Observation("collapse", "its premise: under the symmetric clip the entropy falls",
                lambda s: s.change("symmetric", "policy/entropy"), 0.0, "below",
                "entropy collapse"),
    Observation("entropy", "clip-higher ends with more entropy, in at least 4 of 5 seeds",
                lambda s: lead(s, "policy/entropy"), 0.0, "mostly above", "ENT is kept"),
    Observation("equal-reward", "at equal reward: final rewards differ by < 0.1 SD",
                lambda s: abs(lead(s, "rm/mean")), 0.1, "below"),
]


# ── What the report shows ───────────────────────────────────────────────────────────────────────
def draw_entropy(axes: Any, seeds: list[Seed]) -> None:
    """Entropy of the bandits; entropy and score on the desk, while training."""
    from rlhf_edu.cases.pictures import during, lines

    arms = {name: arm.title for name, arm in RECIPE.arms.items()}
    lines(axes[0, 0], range(41), {title: [s.probes["all"][f"bandits/{name}/entropy"] for s in seeds]
                                  for name, title in arms.items()},
          "50 arms: entropy, nats", "update")
    during(axes[0, 1], seeds, arms, "policy/entropy_avg", "desk: entropy, nats a token")
    during(axes[0, 2], seeds, arms, "objective/scores", "desk: reward, SDs of the reference's")
    axes[0, 0].legend(fontsize=7, frameon=False)


TRIED = [
    ("RLOO (four replies a prompt), four passes, β = 0, 10 updates of 128",
     "seed 0: final entropy 0.58 symmetric, 0.69 higher; with β = 0.05 0.57 and 0.52"),
    ("RLOO, six passes, β = 0, lr 6e-4, 40 updates of 64",
     "seed 0: no collapse under the symmetric clip, 0.40 → 0.79; higher 0.38; KLREF 58 and 31"),
    ("a checker (1 for a right answer) in place of the reward model, groups of 8, eight passes, "
     "β = 0, lr 2e-4, 20 updates of 128",
     "seed 0: no collapse while training, 0.37 → 0.39 with either clip"),
    ("50 arms without noise in the reward, rate 8",
     "the reverse: entropy 0.16 symmetric, 0.11 higher (seed 0); the first to rise take all"),
]
PICTURES = [
    Picture("Entropy and reward under two upper clips",
            "Left: 32 bandits a seed. Middle and right: the desk, batches of training. A thin line "
            "is a seed. The two arms differ in ε_high alone.",
            draw_entropy, shape=(1, 3))
]
