"""P16 · best of n: log n − (n−1)/n is an upper bound of the KL, not the KL.

How far is the best of n from the policy that wrote the n answers? The number that papers print is
KL(best of n ‖ policy) = log n − (n−1)/n nats. Beirami et al. 2024 (arXiv 2401.01879) show that it
is an upper bound: equality needs that two answers never tie, that is, very many answers, each very
unlikely. They also show that the best of n beats a plain answer at a rate of n/(n+1) at most.

Here both are checked without sampling. The law of the best of n is known in closed form: it has
level ℓ of the proxy with probability F(ℓ)^n − F(below ℓ)^n. We sum it up for many policies (K
equally likely answers; K answers of random probabilities; every response of a small language,
enumerated), each with a proxy that never ties and with one that often does. First the closed form
itself is held against a count over all 4^5 ways to draw five answers.

What comes out: the bound is never broken, and it is nearly met where answers are many (131,072
equally likely ones). But with eight equally likely answers and n = 256 the formula says 4.55 nats,
and no law on eight answers can be further than log 8 = 2.08 nats from the uniform one. A chart of
gold over √KL that takes the formula for its x-axis is stretched to the right, most at large n.
One KL or one win rate above its bound, in any of the laws, would have refuted the paper's claim.

A tie counts one half here. Count it as a win, and the bound on the win rate breaks: with one
answer only, the best of n would beat it always.

Left out: Beirami et al.'s better estimate of the KL from samples, and best of n for several
prompts at once, whose KL is the mean over prompts and obeys the same bound.
"""

import math
from itertools import product
from typing import Any

import torch
from torch import Tensor

from rlhf_edu.best_of_n import best_of_n_kl_bound
from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed
from rlhf_edu.cases.pictures import lines
from rlhf_edu.cases.stages import Recipe, Room
from rlhf_edu.exact import best_of_n_law, enumerate_world, kl, response_logprobs

TITLE = "Best of n: an upper bound"
QUESTION = "Is log n − (n−1)/n the KL of the best of n, or only a bound of it?"

RECIPE = Recipe()
SHARP = 96  # sharp policies of the small language: how sharp one is differs much
NS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096)
ROUNDING = 1e-9  # nats; the sums are of 64-bit numbers


def win_rate(logprobs: Tensor, proxy: Tensor, n: int) -> float:
    """How often the best of n beats a plain answer by proxy; a tie counts one half."""
    _, level = proxy.unique(return_inverse=True)
    mass = torch.zeros(int(level.max()) + 1, dtype=logprobs.dtype)
    plain = mass.index_add(0, level, logprobs.exp())
    best = mass.index_add(0, level, best_of_n_law(logprobs, proxy, n).exp())
    return float((best * (plain.cumsum(0) - plain / 2)).sum())


def by_counting(logprobs: Tensor, proxy: Tensor, n: int) -> Tensor:
    """The law of the best of n, summed over all ways to draw n answers; ties by lot."""
    law = torch.zeros_like(logprobs)
    for draw in product(range(len(proxy)), repeat=n):
        drawn = torch.tensor(draw)
        top = drawn[proxy[drawn] == proxy[drawn].max()]
        law.index_add_(0, top, logprobs[drawn].sum().exp().expand(len(top)) / len(top))
    return law


def laws(seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Policies and proxies, as (log-probabilities, proxy) of all their answers."""
    luck = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=luck, dtype=torch.float64)

    found = {}
    for k in (2, 8, 64, 2**17):
        even = torch.full((k,), -math.log(k), dtype=torch.float64)
        found[f"uniform over {k:,}"] = even, torch.arange(k, dtype=torch.float64)
    for k, spread in ((5, 1.0), (50, 1.0), (50, 3.0), (500, 2.0)):
        policy, proxy = (spread * normal(k)).log_softmax(0), normal(k)
        found[f"random, {k}, spread {spread}"] = policy, proxy
        found[f"random, {k}, spread {spread}, ties"] = policy, proxy.round()
    world = enumerate_world(7, 4)  # six words and the end: 1,555 responses
    for name, spread in (("broad", 1.0), ("sharp", 3.0)):
        policy = response_logprobs(world, spread * normal(*world.table))
        policy, proxy = policy - policy.logsumexp(0), normal(len(policy))
        found[f"small language, {name}"] = policy, proxy
        found[f"small language, {name}, ties"] = policy, proxy.round()
    for i in range(SHARP):
        policy = response_logprobs(world, 3.0 * normal(*world.table))
        found[f"sharp {i}"] = policy - policy.logsumexp(0), normal(len(policy))
    return found


def bounds(room: Room) -> dict[str, Any]:
    """KL and win rate of every law and every n, beside their bounds."""
    rows = {}
    for name, (policy, proxy) in laws(room.seed).items():
        far = [float(kl(best_of_n_law(policy, proxy, n), policy)) for n in NS]
        rows[name] = far, [win_rate(policy, proxy, n) for n in NS]
    sharp = [value for name, (value, _) in rows.items() if name.startswith("sharp")]
    four = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64).log()
    tied = torch.tensor([1.0, 2.0, 2.0, 0.0], dtype=torch.float64)
    return {
        "counting": float((best_of_n_law(four, tied, 5).exp() - by_counting(four, tied, 5))
                          .abs().max()),
        "kl": {name: far for name, (far, _) in rows.items()},
        "sharp": sum(far[NS.index(256)] for far in sharp) / len(sharp),
        "kl_excess": max(far - best_of_n_kl_bound(n)
                         for fars, _ in rows.values() for far, n in zip(fars, NS, strict=True)),
        "win_excess": max(won - n / (n + 1)
                          for _, wins in rows.values() for won, n in zip(wins, NS, strict=True)),
    }


PROBES = {"bounds": bounds}
PROBE_SECONDS = 0.5


def at(seed: Seed, law: str, n: int) -> float:
    """KL(best of n ‖ policy) of a law, in nats."""
    return float(seed.probes["bounds"]["kl"][law][NS.index(n)])


OBSERVATIONS = [
    Observation(
        "closed-form",
        "F(ℓ)^n − F(below ℓ)^n is the law of the best of n: against a count over all draws, "
        "no probability differs by 1e-9",
        lambda s: s.probes["bounds"]["counting"], ROUNDING, "below"),
    Observation(
        "bound-holds",
        "KL(best of n ‖ policy) never exceeds log n − (n−1)/n: largest excess < 1e-9 nats",
        lambda s: s.probes["bounds"]["kl_excess"], ROUNDING, "below",
        paper="KL ≤ log n − (n−1)/n"),
    Observation(
        "win-rate-bound",
        "the best of n never beats a plain answer more often than n/(n+1): largest excess < 1e-9",
        lambda s: s.probes["bounds"]["win_excess"], ROUNDING, "below", paper="≤ n/(n+1)"),
    Observation(
        "eight-answers",
        "eight equally likely answers, n = 256: the KL is log 8 = 2.08 (within 0.01) …",
        lambda s: abs(at(s, "uniform over 8", 256) - math.log(8)), 0.01, "below",
        paper="the formula says 4.55"),
    Observation(
        "gap",
        "… so the formula is more than 2.4 nats too far",
        lambda s: best_of_n_kl_bound(256) - at(s, "uniform over 8", 256), 2.4, "above"),
    Observation(
        "nearly-met",
        "131,072 equally likely answers, n = 256: the gap is below 0.01 nats",
        lambda s: best_of_n_kl_bound(256) - at(s, "uniform over 131,072", 256), 0.01, "below",
        paper="equality if two answers never tie"),
    Observation(
        "language-gap",
        f"sharp policies over 1,555 responses (mean of {SHARP}), n = 256: the formula is more than "
        "0.1 nats too far",
        lambda s: best_of_n_kl_bound(256) - s.probes["bounds"]["sharp"], 0.1, "above"),
]


def draw_gap(axes: Any, seeds: list[Seed]) -> None:
    """KL of some laws over n, beside the bound."""
    names = ("uniform over 131,072", "uniform over 64", "uniform over 8",
             "small language, broad", "small language, sharp", "small language, sharp, ties")
    rows = {name: [s.probes["bounds"]["kl"][name] for s in seeds] for name in names}
    lines(axes[0, 0], NS, rows, "KL(best of n ‖ policy), exact", "n", "nats", log=True)
    axes[0, 0].plot(NS, [best_of_n_kl_bound(n) for n in NS], "k--", label="log n − (n−1)/n")
    axes[0, 0].legend(fontsize=8, frameon=False)


PICTURES = [Picture(
    "The formula and the truth",
    "Dashed: the formula. The fewer answers there are, or the fewer of them are likely, the "
    "sooner the best of n has nowhere left to go. Thin lines are seeds.",
    draw_gap, shape=(1, 1), height=4.2)]

TRIED = [
    ("the mean of 16 sharp policies (seeds 21 to 25)",
     "the formula is 0.47 nats too far [0.20, 0.75]: one policy differs from the next by twice the "
     "mean, and the lower end comes near the threshold. With 96 it is 0.50 [0.39, 0.60] on seeds 0 "
     "to 4"),
]
