r"""The enumerable world: so small that every response can be listed and every expectation summed.

With an end-of-sequence token, 6 words and at most 4 tokens there are 1,555 responses. A policy is a
table of logits, one row for each *state* (a prefix that has not ended), so that

    Pr(y) = Π_t softmax(logits[state_t])[token_t]             NLPBook (10.14), items 4 and 18
    E[f]  = Σ_y Pr(y)·f(y)                                    no sampling, no estimate

Here the best policy under a KL penalty is known, not searched for: π* ∝ π_ref·exp(r/β) (10.76). The
objectives below are the exact expectations of what the losses of the other modules estimate, and
autograd turns each into its exact gradient. Use them to see what an estimator should have said.

Shapes: B responses (all there are), T response tokens, V vocabulary (token 0 is EOS), S states.
logits (S, V); scores (B,), one number a response; all in nats. ValueError names the argument if a
shape is wrong, a dtype is not floating, or a number is not finite or out of range.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import log_softmax


class World(NamedTuple):
    """Every response there is. A row ends with its EOS, or at T tokens without one."""

    tokens: Tensor  # (B, T) long, 0 is EOS and padding
    mask: Tensor  # (B, T) bool, 1 up to and including EOS
    states: Tensor  # (B, T) long, the state in which each token is chosen; 0 as padding
    table: tuple[int, int]  # (S, V), the shape of logits


def enumerate_world(vocab_size: int, max_length: int) -> World:
    """All responses over tokens 0 … V−1 of at most `max_length` tokens (1 of them: a bandit)."""
    if not (vocab_size >= 2 and max_length >= 1 and vocab_size**max_length <= 2**20):
        got = f"vocab_size = {vocab_size}, max_length = {max_length}"
        raise ValueError(f"vocab_size, max_length: expected >= 2, >= 1 and V^T <= 2^20, got {got}")
    prefixes: list[tuple[int, ...]] = [()]
    number: dict[tuple[int, ...], int] = {(): 0}
    responses: list[tuple[int, ...]] = []
    for length in range(1, max_length + 1):
        longer = [prefix + (token,) for prefix in prefixes for token in range(vocab_size)]
        responses += [y for y in longer if y[-1] == 0 or length == max_length]
        prefixes = [y for y in longer if y[-1] != 0 and length < max_length]
        number.update({y: len(number) + i for i, y in enumerate(prefixes)})

    def rows(lists: list[list[int]]) -> Tensor:
        return torch.tensor([x + [0] * (max_length - len(x)) for x in lists])

    return World(
        tokens=rows([list(y) for y in responses]),
        mask=rows([[1] * len(y) for y in responses]).bool(),
        states=rows([[number[y[:t]] for t in range(len(y))] for y in responses]),
        table=(len(number), vocab_size),
    )


def tabulate(world: World, policy: Callable[[Tensor], Tensor]) -> Tensor:
    """The table (S, V) of a neural policy that maps tokens (B, T) to logits (B, T, V).

    logits[:, t] must be the prediction of tokens[:, t] from the tokens before it. Differentiable.
    """
    logits, states = policy(world.tokens)[world.mask], world.states[world.mask]
    table = logits.new_zeros(world.table).index_add(0, states, logits)
    return table / torch.bincount(states).unsqueeze(1)  # each visit of a state adds the same row


def token_logprobs(world: World, logits: Tensor) -> Tensor:
    """log π(token | state), 0 outside the mask. (S, V) → (B, T)."""
    _check(world.table, logits=logits)
    return torch.where(world.mask, log_softmax(logits, 1)[world.states, world.tokens], 0.0)


def response_logprobs(world: World, logits: Tensor) -> Tensor:
    """log Pr(y) = Σ_t log π(token_t | state_t). (S, V) → (B,). The probabilities sum to 1."""
    return token_logprobs(world, logits).sum(1)


def policy_table(world: World, logprobs: Tensor) -> Tensor:
    """The logits (S, V) of the policy whose responses have these log-probabilities (B,)."""
    _check(world.mask.shape[:1], logprobs=logprobs)
    return log_softmax(_log_through(world, logprobs), 1)


def optimal_policy(ref_logprobs: Tensor, scores: Tensor, kl_coef: float) -> tuple[Tensor, Tensor]:
    """log π*(y) = log π_ref(y) + r(y)/β − log Z, and log Z. (B,), (B,) → (B,), scalar.

    Maximises E[r] − β·KL(policy ‖ reference), which then is β·log Z. NLPBook (10.73)-(10.79), items
    7, 44, 51: β → ∞ gives the reference back, β → 0 nothing but the best response. β is kl_coef.
    """
    _check(scores.shape, ref_logprobs=ref_logprobs, scores=scores)
    if not 0 < kl_coef < float("inf"):
        raise ValueError(f"kl_coef: expected a finite number > 0, got {kl_coef}")
    weights = ref_logprobs + scores / kl_coef
    log_z = weights.logsumexp(0)
    return weights - log_z, log_z


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) = Σ p·(log p − log q) over the last dimension, 0·log 0 = 0. (…, K), (…, K) → (…).

    Per response: two (B,) of log-probabilities. Per state: log_softmax of two tables (S, V). The
    penalty means kl(policy, reference); swap the arguments for the forward KL.
    """
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)


def visits(world: World, logits: Tensor) -> Tensor:
    """The share of responses that pass through each state. (S, V) → (S,).

    Chain rule: KL of two laws over responses = Σ_s visits(s)·KL of the two softmaxes at s.
    """
    return _log_through(world, response_logprobs(world, logits)).exp().sum(1)


def advantages(world: World, logits: Tensor, scores: Tensor) -> Tensor:
    """A(s, a) = Q(s, a) − V(s). (S, V), (B,) → (S, V). NLPBook (10.29), item 57.

    Q(s, a) is the mean score of the responses that take a in s, V(s) = Σ_a π(a|s)·Q(s, a).
    """
    _check(world.mask.shape[:1], scores=scores)
    cell, row = _cells(world)
    log_p = response_logprobs(world, logits)
    share = (log_p[row] - _log_through(world, log_p).flatten()[cell]).exp()  # Pr(y | s, a)
    q = torch.zeros_like(logits).flatten().index_add(0, cell, share * scores[row]).view_as(logits)
    return q - (torch.softmax(logits, 1) * q).sum(1, keepdim=True)


def score_gradient(world: World, logits: Tensor, scores: Tensor) -> Tensor:
    """∂E[score]/∂logits = visits(s)·π(a|s)·A(s, a), the policy gradient theorem. → (S, V), item 54.

    Written out, without autograd: what every policy-gradient loss should have as its mean.
    """
    rate = visits(world, logits).unsqueeze(1) * torch.softmax(logits, 1)
    return rate * advantages(world, logits, scores)


# Exact objectives: means over responses of sums over tokens. `old_logits` made the samples; they,
# the reference, the scores and the advantages are constants.


def penalized_objective(
    world: World, logits: Tensor, ref_logits: Tensor, scores: Tensor, kl_coef: float
) -> Tensor:
    """E[score] − β·KL(policy ‖ reference) of responses, (10.73): the penalty in the reward."""
    _check(world.mask.shape[:1], scores=scores)
    log_p, log_q = response_logprobs(world, logits), response_logprobs(world, ref_logits)
    return (log_p.exp() * scores).sum() - kl_coef * kl(log_p, log_q.detach())


def reinforce_objective(
    world: World, logits: Tensor, old_logits: Tensor, scores: Tensor, baseline: float = 0.0
) -> Tensor:
    """E_old[Σ_t log π·(score − baseline)]; at logits = old_logits it has score_gradient."""
    _check(world.mask.shape[:1], scores=scores)
    gain = (scores - baseline).unsqueeze(1)
    return _mean_of_sums(world, old_logits, token_logprobs(world, logits) * gain)


def a2c_objective(world: World, logits: Tensor, old_logits: Tensor, scores: Tensor) -> Tensor:
    """E_old[Σ_t log π·A(s_t, a_t)] with the exact advantages of the old policy."""
    gain = advantages(world, old_logits, scores).detach()[world.states, world.tokens]
    return _mean_of_sums(world, old_logits, token_logprobs(world, logits) * gain)


def ppo_clip_objective(
    world: World, logits: Tensor, old_logits: Tensor, scores: Tensor, cliprange: float = 0.2
) -> Tensor:
    """E_old[Σ_t min(ρ·A, clip(ρ)·A)], case by case: A > 0 stops at 1+ε, A < 0 at 1−ε."""
    gain = advantages(world, old_logits, scores).detach()[world.states, world.tokens]
    ratio = (token_logprobs(world, logits) - token_logprobs(world, old_logits).detach()).exp()
    stopped = torch.where(gain > 0, ratio.clamp(max=1 + cliprange), ratio.clamp(min=1 - cliprange))
    return _mean_of_sums(world, old_logits, stopped * gain)


def kl_in_loss(
    world: World, logits: Tensor, old_logits: Tensor, ref_logits: Tensor, estimator: str
) -> Tensor:
    """E_old[Σ_t k_t], the estimate k1, k2 or k3 of policy ‖ reference as a loss, item 42."""
    log_ratio = token_logprobs(world, logits) - token_logprobs(world, ref_logits).detach()
    if estimator == "k1":
        return _mean_of_sums(world, old_logits, log_ratio)
    if estimator == "k2":
        return _mean_of_sums(world, old_logits, log_ratio**2 / 2)
    if estimator == "k3":
        return _mean_of_sums(world, old_logits, (-log_ratio).exp() - 1 + log_ratio)
    raise ValueError(f"estimator: expected 'k1', 'k2' or 'k3', got {estimator!r}")


def best_of_n_law(logprobs: Tensor, proxy: Tensor, n: int) -> Tensor:
    """log Pr(y is the best of n by proxy), ties by lot. (B,), (B,) → (B,), item 19.

    The best has level ℓ with probability F(ℓ)^n − F(below ℓ)^n, shared within the level as the
    policy shares it. kl(best_of_n_law(…), logprobs) is the truth beside log n − (n−1)/n.
    """
    _check(proxy.shape, logprobs=logprobs, proxy=proxy)
    if n < 1:
        raise ValueError(f"n: expected at least 1, got {n}")
    levels, level = proxy.unique(return_inverse=True)
    mass = logprobs.new_zeros(len(levels)).index_add(0, level, logprobs.exp())
    mass = mass.clamp(min=torch.finfo(mass.dtype).tiny)  # an impossible level stays impossible
    upto = mass.cumsum(0)
    below = torch.cat([upto.new_zeros(1), upto[:-1]])
    return logprobs + ((upto**n - below**n) / mass).log()[level]


def _cells(world: World) -> tuple[Tensor, Tensor]:
    """For every response token: its place in a flattened (S, V) table, and its row of (B, T)."""
    cell = world.states * world.table[1] + world.tokens
    return cell[world.mask], world.mask.nonzero()[:, 0]


def _log_through(world: World, logprobs: Tensor) -> Tensor:
    """log Σ Pr(y) over the responses that take token a in state s. (B,) → (S, V)."""
    cell, row = _cells(world)
    x, empty = logprobs[row], logprobs.new_zeros(world.table).flatten()
    top = (empty - torch.inf).scatter_reduce(0, cell, x, "amax")  # so that exp ≤ 1
    return (empty.index_add(0, cell, (x - top[cell]).exp()).log() + top).view(world.table)


def _mean_of_sums(world: World, old_logits: Tensor, per_token: Tensor) -> Tensor:
    """E_old[Σ_t x_t], with old_logits as constants. (S, V), (B, T) → scalar."""
    law = response_logprobs(world, old_logits).exp().detach()
    return (law * torch.where(world.mask, per_token, 0.0).sum(1)).sum()


def _check(shape: tuple[int, ...], **tensors: Tensor) -> None:
    for name, x in tensors.items():
        if x.shape != torch.Size(shape):
            raise ValueError(f"{name}: expected shape {tuple(shape)}, got {tuple(x.shape)}")
        if not x.is_floating_point() or not torch.isfinite(x).all():
            raise ValueError(f"{name}: expected finite floating numbers, got {x.dtype} or NaN, inf")
