r"""Best of n: sample n answers, keep the one that the reward model likes best.

No training, no gradient, and still an optimiser: the larger n, the harder it presses on the proxy,
and the further the answers go from the policy that wrote them,

    KL(best of n ‖ policy) ≤ log n − (n−1)/n       nats; Stiennon et al. 2020, Beirami et al. 2024

with equality where two samples never tie. One pool of N scored answers holds the answer for *every*
n ≤ N. Sort it by proxy, worst first: the i-th is the best of a random n of them with probability

    w_i = C(i−1, n−1) / C(N, n)                    Nakano et al. 2021; Gao et al. 2022

and Σ_i w_i·gold_i is the mean gold score of best-of-n, without bias and without sampling again.

Shapes: a pool is (N,), or (B, N) for B prompts with N responses of each. ValueError names the
argument if a shape is wrong, a dtype is not floating, a number is NaN or infinite, or an n is not a
whole number from 1 to N. Numbers inside tensors are checked on the CPU only: on a GPU each look
would make the host wait for the device.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class BestOfN(NamedTuple):
    """Mean scores of the best of n, one number for each n asked for."""

    gold: Tensor
    proxy: Tensor


def best_of_n(proxy: Tensor) -> Tensor:
    """Index of the response with the largest proxy; of equal ones the first. (B, N) → (B,).

    A single pool (N,) gives one index.
    """
    _check(proxy=proxy)
    return proxy.argmax(-1)


def best_of_n_curve(proxy: Tensor, gold: Tensor, ns: Iterable[int]) -> BestOfN:
    """Mean gold and mean proxy of the best of n by proxy, for every n in `ns`. → two (len(ns),).

    proxy and gold: (N,), or (B, N) and then the mean over the B pools. Equal proxies share their
    gold, as if the tie were broken by lot. Item 19: proxy rises with n, gold may turn and fall.
    """
    _check(proxy=proxy, gold=gold)
    rows = [_weights(n, proxy.shape[-1]) for n in ns]
    if not rows:
        raise ValueError("ns: expected at least one n, got none")
    weights = torch.stack(rows).to(proxy)  # (len(ns), N)
    proxy, order = proxy.sort(-1, descending=True)
    gold = _share_ties(proxy, gold.gather(-1, order))
    curves = [(x.unsqueeze(-2) * weights).sum(-1) for x in (gold, proxy)]
    return BestOfN(*[x.mean(0) if x.dim() == 2 else x for x in curves])


def best_of_n_kl_bound(n: int) -> float:
    """log n − (n−1)/n, in nats: the most that best-of-n can be from its policy (item 19).

    An upper bound, exact where two samples never tie (Beirami et al. 2024, arXiv 2401.01879). With
    few possible answers it is far off: 8 equally likely ones, n = 256: log 8 = 2.08 against 4.55.
    """
    if not 1 <= n < math.inf:
        raise ValueError(f"n: expected a number from 1 up, got {n}")
    return math.log(n) - (n - 1) / n


def _weights(n: int, pool: int) -> Tensor:
    """(N,) probabilities w of the formula above, best response first: w_1 = n/N, and each next one
    is the one before times the chance that the n−1 others all lie further down still."""
    if n != int(n) or not 1 <= n <= pool:
        raise ValueError(f"ns: expected whole numbers from 1 to the pool's {pool}, got {n}")
    better = torch.arange(1, pool, dtype=torch.float64)  # how many of the pool are better
    shrink = (pool - n - better + 1) / (pool - better)  # 0 once fewer than n are left, for good
    return torch.cat([torch.ones(1, dtype=torch.float64), shrink]).cumprod(0) * (n / pool)


def _share_ties(proxy: Tensor, gold: Tensor) -> Tensor:
    """Gold, where equal proxies stand together: replaced by the mean of its tie. (…, N), (…, N)."""
    new = torch.nn.functional.pad(proxy[..., 1:] != proxy[..., :-1], (1, 0))
    tie = new.long().cumsum(-1)  # 0, 0, 1, 2, 2, …
    total = torch.zeros_like(gold).scatter_add(-1, tie, gold)
    count = torch.zeros_like(gold).scatter_add(-1, tie, torch.ones_like(gold))
    return (total / count).gather(-1, tie)


def _check(**tensors: Tensor) -> None:
    """All (N,) or (B, N), of the shape of the first, floating, finite, not empty."""
    first, like = next(iter(tensors.items()))
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise ValueError(f"{name}: expected a tensor, got {type(x).__name__}")
        if x.dim() not in (1, 2) or x.shape != like.shape or x.numel() == 0:
            want = "shape (N,) or (B, N), not empty" if x is like else f"the shape of {first}"
            raise ValueError(f"{name}: expected {want}, got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"{name}: expected a floating dtype, got {x.dtype}")
        if x.device.type == "cpu" and not torch.isfinite(x).all():
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
