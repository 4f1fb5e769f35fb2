"""The enumerable world against brute force, and every public loss against the exact gradient.

The link between the two is a *lawful batch*: a policy whose probabilities are quarters and halves,
and a batch that holds each response exactly as often as the policy would write it. On it a mean
over the batch is an expectation, without a weight and without a sample.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rlhf_edu import advantage, exact, kl_penalty, policy_gradient, ppo_clip
from rlhf_edu.best_of_n import best_of_n_curve, best_of_n_kl_bound

WORLD = exact.enumerate_world(vocab_size=3, max_length=3)
ROWS, (STATES, VOCAB) = len(WORLD.tokens), WORLD.table


def close(got: Tensor, want: object, tol: float = 1e-11) -> None:
    want = torch.as_tensor(want, dtype=got.dtype)
    assert got.shape == want.shape, f"{tuple(got.shape)} is not {tuple(want.shape)}"
    assert torch.allclose(got, want, rtol=tol, atol=tol), f"{got} is not {want}"


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def table(seed: int) -> Tensor:
    return normal(seed, STATES, VOCAB)


def gradient(objective: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    logits = logits.detach().clone().requires_grad_()
    return torch.autograd.grad(objective(logits), [logits])[0]


def prefixes(row: int) -> list[tuple[tuple[int, ...], int]]:
    """(prefix, next token) of every token of a response."""
    tokens = WORLD.tokens[row][WORLD.mask[row]].tolist()
    return [(tuple(tokens[:t]), tokens[t]) for t in range(len(tokens))]


def state_of() -> dict[tuple[int, ...], int]:
    """Prefix → row of the table, read off the world."""
    return {
        prefix: WORLD.states[row, t].item()
        for row in range(ROWS)
        for t, (prefix, _) in enumerate(prefixes(row))
    }


def brute_force_probability(logits: Tensor, row: int) -> float:
    chance, where = 1.0, state_of()
    for prefix, token in prefixes(row):
        weights = [math.exp(x) for x in logits[where[prefix]].tolist()]
        chance *= weights[token] / sum(weights)
    return chance


# The world


def test_enumerate_world_lists_every_response_once():
    for vocab, length in ((2, 1), (3, 3), (4, 2), (5, 1)):
        world = exact.enumerate_world(vocab, length)
        found = {tuple(y[m].tolist()) for y, m in zip(world.tokens, world.mask, strict=True)}
        want = set()
        for n in range(1, length + 1):
            for y in itertools.product(range(vocab), repeat=n):
                ended = y.index(0) + 1 if 0 in y else None
                if ended == n or (ended is None and n == length):
                    want.add(y)
        assert found == want and len(world.tokens) == len(want)
        assert world.table == (sum((vocab - 1) ** t for t in range(length)), vocab)
        assert (world.tokens[~world.mask] == 0).all() and (world.states[~world.mask] == 0).all()
        assert (world.mask[:, 1:] <= world.mask[:, :-1]).all()
    assert len(exact.enumerate_world(7, 4).tokens) == 1555  # EOS, 6 words, at most 4 tokens


def test_enumerate_world_gives_each_prefix_one_state_and_each_state_one_prefix():
    where = state_of()
    assert sorted(where.values()) == list(range(STATES))
    for row in range(ROWS):
        for t, (prefix, _) in enumerate(prefixes(row)):
            assert WORLD.states[row, t] == where[prefix]


def test_token_logprobs_and_response_logprobs_match_brute_force_item_4():
    logits = table(0)
    probs = exact.response_logprobs(WORLD, logits).exp()
    close(probs, [brute_force_probability(logits, row) for row in range(ROWS)])
    close(probs.sum(), 1.0)
    per_token = exact.token_logprobs(WORLD, logits)
    close(per_token.sum(1), exact.response_logprobs(WORLD, logits))
    assert (per_token[~WORLD.mask] == 0).all() and (per_token[WORLD.mask] < 0).all()


def test_tabulate_reads_a_neural_policy():
    """A small recurrent policy: the table has its probabilities, its weights their gradient."""
    torch.manual_seed(0)
    embed = torch.nn.Embedding(VOCAB + 1, 8).double()  # one more for "nothing yet"
    core, head = torch.nn.GRU(8, 8, batch_first=True).double(), torch.nn.Linear(8, VOCAB).double()
    weights = [*embed.parameters(), *core.parameters(), *head.parameters()]

    def policy(tokens: Tensor) -> Tensor:
        before = torch.cat([torch.full_like(tokens[:, :1], VOCAB), tokens[:, :-1]], dim=1)
        return head(core(embed(before))[0])

    logits = exact.tabulate(WORLD, policy)
    direct = policy(WORLD.tokens).log_softmax(-1).gather(-1, WORLD.tokens[..., None])[..., 0]
    direct = (direct * WORLD.mask).sum(1)
    for row in range(ROWS):
        for t in range(WORLD.mask[row].sum()):
            close(logits[WORLD.states[row, t]], policy(WORLD.tokens)[row, t])
    close(exact.response_logprobs(WORLD, logits), direct)
    close(direct.exp().sum(), 1.0)
    scores = normal(1, ROWS)
    one = torch.autograd.grad((direct.exp() * scores).sum(), weights, retain_graph=True)
    two = torch.autograd.grad(
        (exact.response_logprobs(WORLD, logits).exp() * scores).sum(), weights
    )
    for g, h in zip(one, two, strict=True):
        close(g, h)


def test_policy_table_is_the_way_back():
    logits = table(0)
    back = exact.policy_table(WORLD, exact.response_logprobs(WORLD, logits))
    close(back, logits.log_softmax(-1))
    close(
        exact.policy_table(WORLD, exact.response_logprobs(WORLD, logits) - 900), back
    )  # no underflow


# The best policy and the KL


def test_optimal_policy_is_the_best_there_is_items_7_and_44():
    ref, scores, beta = table(1), normal(2, ROWS), 0.4
    log_ref = exact.response_logprobs(WORLD, ref)
    best, log_z = exact.optimal_policy(log_ref, scores, beta)
    weights = [
        math.exp(a + b / beta) for a, b in zip(log_ref.tolist(), scores.tolist(), strict=True)
    ]
    close(best.exp(), [w / sum(weights) for w in weights])
    close(log_z, math.log(sum(weights)))
    star = exact.policy_table(WORLD, best)
    close(exact.response_logprobs(WORLD, star), best)

    def objective(z: Tensor) -> Tensor:
        return exact.penalized_objective(WORLD, z, ref, scores, beta)

    close(objective(star), beta * log_z)
    close(gradient(objective, star), torch.zeros(STATES, VOCAB))
    for seed in range(5):  # and every other policy is worse by exactly β·KL(policy ‖ π*)
        other = table(10 + seed)
        gap = beta * exact.kl(exact.response_logprobs(WORLD, other), best)
        close(objective(other), beta * log_z - gap)
        assert gap > 0


def test_optimal_policy_between_its_ends_items_44_and_51():
    log_ref, scores = exact.response_logprobs(WORLD, table(1)), normal(2, ROWS)
    close(exact.optimal_policy(log_ref, scores, 1e9)[0], log_ref, 1e-7)
    greedy = exact.optimal_policy(log_ref, scores, 1e-4)[0].exp()
    close(greedy, torch.eye(ROWS, dtype=torch.float64)[scores.argmax()])
    betas = [0.05, 0.2, 1.0, 5.0]
    kls = [exact.kl(exact.optimal_policy(log_ref, scores, b)[0], log_ref).item() for b in betas]
    assert kls == sorted(kls, reverse=True)


def test_kl_and_visits_obey_the_chain_rule_both_ways():
    one, two = table(0), table(1)
    for p, q in ((one, two), (two, one)):
        log_p, log_q = exact.response_logprobs(WORLD, p), exact.response_logprobs(WORLD, q)
        pairs = zip(log_p.tolist(), log_q.tolist(), strict=True)
        whole = exact.kl(log_p, log_q)
        close(whole, sum(math.exp(a) * (a - b) for a, b in pairs))
        per_state = exact.kl(p.log_softmax(-1), q.log_softmax(-1))
        close((exact.visits(WORLD, p) * per_state).sum(), whole)
        close(per_state, kl_penalty.exact_kl(p, q))
    sure = torch.tensor([0.0, -math.inf, -math.inf], dtype=torch.float64)
    third = torch.tensor(3.0, dtype=torch.float64).log().neg().expand(3)
    close(exact.kl(sure, third), math.log(3))  # 0·log 0 = 0
    log_p, log_q = (x[0].log_softmax(-1) for x in (one, two))  # and as a function of log p, log q
    close(gradient(lambda x: exact.kl(x, log_q), log_p), log_p.exp() * (log_p - log_q + 1))
    close(gradient(lambda x: exact.kl(log_p, x), log_q), -log_p.exp())


def test_visits_match_brute_force():
    logits = table(0)
    want = [0.0] * STATES
    for row in range(ROWS):
        for prefix, _ in prefixes(row):
            want[state_of()[prefix]] += brute_force_probability(logits, row)
    close(exact.visits(WORLD, logits), want)
    close(exact.visits(WORLD, logits)[0], 1.0)


def test_advantages_match_brute_force():
    logits, scores = table(0), normal(1, ROWS)
    got, where = exact.advantages(WORLD, logits, scores), state_of()
    chance = [brute_force_probability(logits, row) for row in range(ROWS)]

    def mean(rows: list[int]) -> float:
        return sum(chance[r] * scores[r].item() for r in rows) / sum(chance[r] for r in rows)

    for prefix, state in where.items():
        through = [r for r in range(ROWS) if prefix in [p for p, _ in prefixes(r)]]
        for token in range(VOCAB):
            taken = [r for r in through if (prefix, token) in prefixes(r)]
            close(got[state, token], mean(taken) - mean(through))


def test_a_world_with_extreme_logits_stays_finite():
    logits = torch.where(table(0) > 0, 1e4, -1e4).double()
    scores, ref = normal(1, ROWS), table(2)
    assert torch.isfinite(exact.score_gradient(WORLD, logits, scores)).all()
    assert torch.isfinite(exact.advantages(WORLD, logits, scores)).all()
    assert torch.isfinite(exact.policy_table(WORLD, exact.response_logprobs(WORLD, logits))).all()
    for estimator in ("k1", "k2"):  # k3 would be e^20000
        assert torch.isfinite(exact.kl_in_loss(WORLD, logits, logits, ref, estimator))
    assert torch.isfinite(exact.penalized_objective(WORLD, logits, ref, scores, 0.1))


# Exact gradients, three ways: written out, by autograd, by finite differences


def test_score_gradient_is_the_gradient_of_the_mean_score_items_54_and_56():
    logits, scores = table(0), normal(1, ROWS)

    def mean_score(z: Tensor) -> Tensor:
        return (exact.response_logprobs(WORLD, z).exp() * scores).sum()

    got = exact.score_gradient(WORLD, logits, scores)
    close(got, gradient(mean_score, logits))
    for place in [(0, 0), (0, 2), (2, 1), (6, 0)]:
        bump = torch.zeros_like(logits)
        bump[place] = 1e-5
        slope = (mean_score(logits + bump) - mean_score(logits - bump)) / 2e-5
        assert got[place].item() == pytest.approx(slope.item(), abs=1e-9)


def test_on_policy_objectives_have_the_score_gradient():
    logits, scores = table(0), normal(1, ROWS)
    want = exact.score_gradient(WORLD, logits, scores)
    for objective in (
        lambda z: exact.reinforce_objective(WORLD, z, logits, scores),
        lambda z: exact.reinforce_objective(WORLD, z, logits, scores, baseline=0.7),
        lambda z: exact.a2c_objective(WORLD, z, logits, scores),
        lambda z: exact.ppo_clip_objective(WORLD, z, logits, scores),
        lambda z: exact.penalized_objective(WORLD, z, table(5), scores, 0.0),
    ):
        close(gradient(objective, logits), want)


def test_penalized_objective_has_the_policy_gradient_of_the_shaped_score():
    logits, ref, scores, beta = table(0), table(1), normal(2, ROWS), 0.3
    log_ratio = exact.response_logprobs(WORLD, logits) - exact.response_logprobs(WORLD, ref)
    got = gradient(lambda z: exact.penalized_objective(WORLD, z, ref, scores, beta), logits)
    close(got, exact.score_gradient(WORLD, logits, scores - beta * log_ratio))


def test_kl_in_loss_has_these_gradients_on_policy():
    """Nothing for k1; per visited state ∇KL(policy ‖ ref) for k2 and ∇KL(ref ‖ policy) for k3."""
    logits, ref = table(0), table(1)
    p, q = logits.softmax(-1), ref.softmax(-1)
    d = exact.visits(WORLD, logits)[:, None]
    per_state = exact.kl(p.log(), q.log())[:, None]
    want = {
        "k1": torch.zeros(STATES, VOCAB),
        "k2": d * p * ((p / q).log() - per_state),
        "k3": d * (p - q),
    }
    for estimator, expected in want.items():

        def loss(z: Tensor, estimator: str = estimator) -> Tensor:
            return exact.kl_in_loss(WORLD, z, logits, ref, estimator)

        close(gradient(loss, logits), expected, 1e-12)

    def forward_and_back(z: Tensor) -> tuple[Tensor, Tensor]:
        log_p, log_q = z.log_softmax(-1), ref.log_softmax(-1)
        return (d[:, 0] * exact.kl(log_p, log_q)).sum(), (d[:, 0] * exact.kl(log_q, log_p)).sum()

    close(gradient(lambda z: forward_and_back(z)[0], logits), want["k2"])
    close(gradient(lambda z: forward_and_back(z)[1], logits), want["k3"])
    # What k2 leaves out is that the policy also chooses where it goes; in the reward that is in.
    whole = gradient(
        lambda z: -exact.penalized_objective(WORLD, z, ref, 0 * normal(0, ROWS), 1.0), logits
    )
    assert (whole - want["k2"]).abs().max() > 0.01


def test_kl_in_loss_off_policy_is_the_mean_under_the_old_policy():
    logits, old, ref = table(0), table(1), table(2)
    chance = [brute_force_probability(old, row) for row in range(ROWS)]
    lp, lr = exact.token_logprobs(WORLD, logits), exact.token_logprobs(WORLD, ref)
    for estimator in ("k1", "k2", "k3"):
        total = 0.0
        for row, length in enumerate(WORLD.mask.sum(1).tolist()):
            for t in range(length):
                x = (lp[row, t] - lr[row, t]).item()
                k = {"k1": x, "k2": x * x / 2, "k3": math.exp(-x) - 1 + x}[estimator]
                total += chance[row] * k
        close(exact.kl_in_loss(WORLD, logits, old, ref, estimator), total)

        def loss(z: Tensor, estimator: str = estimator) -> Tensor:
            return exact.kl_in_loss(WORLD, z, old, ref, estimator)

        got = gradient(loss, logits)
        for place in [(0, 0), (0, 2), (2, 1), (6, 0)]:
            bump = torch.zeros_like(logits)
            bump[place] = 1e-5
            slope = (loss(logits + bump) - loss(logits - bump)) / 2e-5
            assert got[place].item() == pytest.approx(slope.item(), abs=1e-8)


def test_off_policy_objectives_are_means_under_the_old_policy():
    logits, old, scores = table(0), table(1), normal(2, ROWS)
    logits = old + 0.4 * logits  # ratios on both sides of the range
    chance = [brute_force_probability(old, row) for row in range(ROWS)]
    lp, lo = exact.token_logprobs(WORLD, logits), exact.token_logprobs(WORLD, old)
    gain = exact.advantages(WORLD, old, scores)
    sums = {"reinforce": 0.0, "a2c": 0.0, "ppo": 0.0}
    for row, length in enumerate(WORLD.mask.sum(1).tolist()):
        for t in range(length):
            a = gain[WORLD.states[row, t], WORLD.tokens[row, t]].item()
            r = math.exp((lp[row, t] - lo[row, t]).item())
            sums["reinforce"] += chance[row] * lp[row, t].item() * (scores[row].item() - 0.7)
            sums["a2c"] += chance[row] * lp[row, t].item() * a
            sums["ppo"] += chance[row] * min(r * a, min(max(r, 0.9), 1.1) * a)
    close(exact.reinforce_objective(WORLD, logits, old, scores, 0.7), sums["reinforce"])
    close(exact.a2c_objective(WORLD, logits, old, scores), sums["a2c"])
    close(exact.ppo_clip_objective(WORLD, logits, old, scores, 0.1), sums["ppo"])
    default = exact.ppo_clip_objective(WORLD, logits, old, scores)
    close(default, exact.ppo_clip_objective(WORLD, logits, old, scores, 0.2))
    close(
        exact.reinforce_objective(WORLD, logits, old, scores),
        exact.reinforce_objective(WORLD, logits, old, scores, 0.0),
    )


def test_the_reference_and_the_old_policy_are_constants():
    logits, scores = table(0), normal(1, ROWS)
    other = table(2).requires_grad_()
    assert not exact.penalized_objective(WORLD, logits, other, scores, 0.1).requires_grad
    assert not exact.reinforce_objective(WORLD, logits, other, scores).requires_grad
    assert not exact.a2c_objective(WORLD, logits, other, scores).requires_grad
    assert not exact.ppo_clip_objective(WORLD, logits, other, scores).requires_grad
    assert not exact.kl_in_loss(WORLD, logits, other, other, "k2").requires_grad


# The public losses on a lawful batch


def lawful(seed: int) -> tuple[Tensor, Tensor]:
    """A table of halves and quarters, and the 64 responses of which each is there p(y)·64 times."""
    order = torch.stack(
        [
            torch.randperm(3, generator=torch.Generator().manual_seed(seed + s))
            for s in range(STATES)
        ]
    )
    logits = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log()[order]
    counts = exact.response_logprobs(WORLD, logits).exp() * 64
    assert torch.allclose(counts, counts.round(), atol=1e-9)
    return logits, torch.arange(ROWS).repeat_interleave(counts.round().long())


LAWFUL, BATCH = lawful(3)
MASK = WORLD.mask[BATCH]
LENGTH = (
    MASK.sum() / 64
)  # tokens a response: losses are means over tokens, objectives over responses


def on_batch(logits: Tensor) -> Tensor:
    return exact.token_logprobs(WORLD, logits)[BATCH]


def check(loss: Callable[[Tensor], Tensor], want: Tensor, at: Tensor = LAWFUL) -> None:
    """The gradient of a loss, in units of responses, is the exact one, to 1e-6 and far below."""
    assert len(BATCH) == 64
    got = LENGTH * gradient(loss, at)
    assert (got - want).abs().max() < 1e-6
    close(got, want, 1e-10)


def test_policy_gradient_losses_have_the_exact_gradient():
    scores = normal(1, ROWS)
    want = -exact.score_gradient(WORLD, LAWFUL, scores)
    assert want.abs().max() > 0.01
    values = normal(2, STATES)[WORLD.states][BATCH]
    r = torch.zeros(64, 3, dtype=torch.float64)
    r[torch.arange(64), MASK.sum(1) - 1] = scores[BATCH]
    to_go = advantage.reward_to_go(r, MASK)
    every, _ = advantage.gae(r, values, MASK, 1.0, 1.0)
    a = exact.advantages(WORLD, LAWFUL, scores)[WORLD.states, WORLD.tokens][BATCH]
    for loss in (
        lambda z: policy_gradient.reinforce_loss(on_batch(z), scores[BATCH], MASK),
        lambda z: policy_gradient.reinforce_loss(on_batch(z), scores[BATCH], MASK, 0.7),
        lambda z: policy_gradient.policy_gradient_loss(on_batch(z), to_go, MASK),
        lambda z: policy_gradient.policy_gradient_loss(
            on_batch(z), every, MASK
        ),  # any critic, λ = 1
        lambda z: policy_gradient.policy_gradient_loss(on_batch(z), a, MASK),
        lambda z: policy_gradient.a2c_loss(on_batch(z), values, a, values, MASK),
        lambda z: ppo_clip.clipped_surrogate_loss(on_batch(z), on_batch(LAWFUL), a, MASK),
        lambda z: ppo_clip.upper_bound_clip_loss(on_batch(z), on_batch(LAWFUL), a, MASK),
    ):
        check(loss, want)


def test_the_clipped_surrogate_of_a_stale_batch_is_the_exact_objective():
    """16 epochs later: another policy, the samples of the old one."""
    scores, moved = normal(1, ROWS), LAWFUL + 0.4 * table(7)
    a = exact.advantages(WORLD, LAWFUL, scores)[WORLD.states, WORLD.tokens][BATCH]

    def loss(z: Tensor) -> Tensor:
        return ppo_clip.clipped_surrogate_loss(on_batch(z), on_batch(LAWFUL), a, MASK)

    def objective(z: Tensor) -> Tensor:
        return -exact.ppo_clip_objective(WORLD, z, LAWFUL, scores)

    close(LENGTH * loss(moved), objective(moved))
    check(loss, gradient(objective, moved), moved)
    assert 0 < ppo_clip.clip_fraction(on_batch(moved), on_batch(LAWFUL), a, MASK) < 1


def test_k1_in_the_reward_climbs_the_penalised_objective():
    scores, ref, beta = normal(1, ROWS), table(2), 0.3
    rewards = kl_penalty.penalized_rewards(
        scores[BATCH], on_batch(LAWFUL), on_batch(ref), MASK, beta
    )
    want = -gradient(lambda z: exact.penalized_objective(WORLD, z, ref, scores, beta), LAWFUL)
    no_penalty = -exact.score_gradient(WORLD, LAWFUL, scores)
    log_ratio = exact.response_logprobs(WORLD, LAWFUL) - exact.response_logprobs(WORLD, ref)
    close(want, no_penalty + beta * exact.score_gradient(WORLD, LAWFUL, log_ratio))  # +β·∇KL
    a = advantage.reward_to_go(rewards, MASK)
    check(lambda z: policy_gradient.policy_gradient_loss(on_batch(z), a, MASK), want)
    # with a critic that knows, GAE at any λ says the same: reward-to-go per state, averaged
    d = torch.zeros(STATES).double().index_add(0, WORLD.states[BATCH][MASK], a[MASK])
    n = torch.zeros(STATES).double().index_add(0, WORLD.states[BATCH][MASK], MASK[MASK].double())
    values = (d / n)[WORLD.states][BATCH]
    for lam in (0.0, 0.5, 1.0):
        gain, _ = advantage.gae(rewards, values, MASK, 1.0, lam)

        def loss(z: Tensor, gain: Tensor = gain) -> Tensor:
            return policy_gradient.policy_gradient_loss(on_batch(z), gain, MASK)

        check(loss, want)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_loss_has_the_exact_gradient(estimator):
    ref = table(2)

    def loss(z: Tensor) -> Tensor:
        return kl_penalty.kl_loss(on_batch(z), on_batch(ref), MASK, estimator)

    def objective(z: Tensor) -> Tensor:
        return exact.kl_in_loss(WORLD, z, LAWFUL, ref, estimator)

    close(LENGTH * loss(LAWFUL), objective(LAWFUL))
    check(loss, gradient(objective, LAWFUL))
    if estimator == "k1":
        assert gradient(loss, LAWFUL).abs().max() < 1e-12  # exactly 0 on samples of the policy
        log_p, log_q = exact.response_logprobs(WORLD, LAWFUL), exact.response_logprobs(WORLD, ref)
        close(LENGTH * loss(LAWFUL), exact.kl(log_p, log_q))  # and the value is the true KL


def test_exact_kl_along_the_batch_is_the_kl_of_the_responses():
    ref = table(2)
    per_token = kl_penalty.exact_kl(LAWFUL[WORLD.states][BATCH], ref[WORLD.states][BATCH])
    log_p, log_q = exact.response_logprobs(WORLD, LAWFUL), exact.response_logprobs(WORLD, ref)
    close((per_token * MASK).sum() / 64, exact.kl(log_p, log_q))


# Why an advantage: exact means and variances of the gradient of one response (item 57)


def one_response_gradients(weights: Tensor) -> Tensor:
    """Σ_t weight_t·∇log π(a_t|s_t) for every response: (B, S·V). weights (B, T)."""
    probs = LAWFUL.softmax(-1)
    grads = torch.zeros(ROWS, STATES, VOCAB, dtype=torch.float64)
    for row, length in enumerate(WORLD.mask.sum(1).tolist()):
        for t in range(length):
            s, a = WORLD.states[row, t], WORLD.tokens[row, t]
            grads[row, s] -= weights[row, t] * probs[s]
            grads[row, s, a] += weights[row, t]
    return grads.flatten(1)


def mean_and_variance(weights: Tensor) -> tuple[Tensor, float]:
    p, g = exact.response_logprobs(WORLD, LAWFUL).exp(), one_response_gradients(weights)
    mean = p @ g
    return mean, (p @ (g - mean).square().sum(1)).item()


def test_baselines_keep_the_mean_and_cut_the_variance_item_57():
    scores = normal(1, ROWS) + 3.0  # as a reward model's: all on one side of zero
    p = exact.response_logprobs(WORLD, LAWFUL).exp()
    want = exact.score_gradient(WORLD, LAWFUL, scores).flatten()
    rows = scores[:, None].expand(ROWS, 3)
    mean_score = (p * scores).sum()
    q = exact.advantages(WORLD, LAWFUL, scores)[WORLD.states, WORLD.tokens]
    probs_through = exact.visits(WORLD, LAWFUL)
    total = torch.zeros(STATES).double()
    for row, length in enumerate(WORLD.mask.sum(1).tolist()):
        for t in range(length):
            total[WORLD.states[row, t]] += p[row] * scores[row]
    value = (total / probs_through)[WORLD.states]
    variances = []
    for weights in (rows, rows - mean_score, rows - value, q):
        mean, variance = mean_and_variance(weights)
        close(mean, want)
        variances.append(variance)
    reward, constant, critic, exact_advantage = variances
    assert reward > 2 * constant and constant > critic > exact_advantage


def test_a_bad_critic_biases_one_step_td_and_not_lambda_one_item_57():
    scores, bad = normal(1, ROWS), normal(9, STATES)[WORLD.states]
    r = torch.zeros(ROWS, 3, dtype=torch.float64)
    r[torch.arange(ROWS), WORLD.mask.sum(1) - 1] = scores
    want = exact.score_gradient(WORLD, LAWFUL, scores).flatten()
    off = {}
    for lam in (0.0, 0.95, 1.0):
        gain, _ = advantage.gae(r, bad, WORLD.mask, 1.0, lam)
        off[lam] = (mean_and_variance(gain)[0] - want).norm().item()
    assert off[1.0] < 1e-12 < off[0.95] < off[0.0]
    assert off[0.0] > 0.1 * want.norm()


def test_a_reward_at_eos_and_one_split_over_tokens_agree_at_lambda_one_only_item_8():
    """The same sum, paid late or spread: one gradient on average, another variance."""
    scores, lengths = normal(1, ROWS), WORLD.mask.sum(1)
    late = torch.zeros(ROWS, 3, dtype=torch.float64)
    late[torch.arange(ROWS), lengths - 1] = scores
    spread = (scores / lengths)[:, None] * WORLD.mask
    zero = torch.zeros(ROWS, 3, dtype=torch.float64)
    found = [
        mean_and_variance(advantage.gae(r, zero, WORLD.mask, 1.0, lam)[0])
        for lam in (1.0, 0.5)
        for r in (late, spread)
    ]
    (mean_late, var_late), (_, var_spread), (half_late, _), (half_spread, _) = found
    close(mean_late, exact.score_gradient(WORLD, LAWFUL, scores).flatten())
    assert abs(var_late - var_spread) > 1e-3
    assert (half_late - half_spread).norm() > 1e-3


# Best of n


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_best_of_n_law_matches_all_tuples(n, ties):
    log_p, proxy = exact.response_logprobs(WORLD, table(0)), normal(1, ROWS)
    proxy = proxy.round() if ties else proxy
    p, want = log_p.exp().tolist(), [0.0] * ROWS
    for sample in itertools.product(range(ROWS), repeat=n):
        best = max(proxy[i].item() for i in sample)
        tied = [i for i in sample if proxy[i].item() == best]
        for i in tied:
            want[i] += math.prod(p[j] for j in sample) / len(tied)
    close(exact.best_of_n_law(log_p, proxy, n).exp(), want)


def test_best_of_n_kl_is_never_above_its_bound_and_close_to_it_without_ties():
    for seed in range(5):
        log_p = exact.response_logprobs(WORLD, table(seed))
        for proxy in (normal(seed + 50, ROWS), normal(seed + 50, ROWS).round()):
            kls = []
            for n in (1, 2, 4, 16, 64, 1024):
                law = exact.best_of_n_law(log_p, proxy, n)
                close(law.exp().sum(), 1.0)
                kls.append(exact.kl(law, log_p).item())
                assert -1e-12 <= kls[-1] <= best_of_n_kl_bound(n) + 1e-12
            assert kls == sorted(kls) and abs(kls[0]) < 1e-12
    fine = torch.full((5000,), -math.log(5000)).double()
    truth = exact.kl(exact.best_of_n_law(fine, torch.arange(5000.0).double(), 8), fine).item()
    assert truth == pytest.approx(best_of_n_kl_bound(8), abs=2e-3)


def test_best_of_n_bound_is_far_off_with_few_answers():
    uniform = torch.full((8,), -math.log(8)).double()
    law = exact.best_of_n_law(uniform, torch.arange(8.0).double(), 256)
    assert exact.kl(law, uniform).item() == pytest.approx(2.08, abs=5e-3)
    assert best_of_n_kl_bound(256) == pytest.approx(4.55, abs=5e-3)


def test_best_of_n_law_of_impossible_answers_stays_finite():
    log_p = torch.tensor([-2000.0, math.log(0.5), math.log(0.5)], dtype=torch.float64)
    law = exact.best_of_n_law(log_p, torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64), 2)
    close(law.exp(), [0.0, 0.25, 0.75])
    assert torch.isfinite(exact.kl(law, log_p))


def test_best_of_n_curve_estimates_the_law_without_bias():
    """The mean over every pool of 3, weighted by its chance, is the exact gold of the best of n."""
    world = exact.enumerate_world(4, 1)
    log_p = exact.response_logprobs(world, normal(0, *world.table))
    proxy, gold = torch.tensor([0.3, -1.0, 0.3, 2.0]).double(), normal(1, 4)
    pools = torch.tensor(list(itertools.product(range(4), repeat=3)))
    chance = log_p.exp()[pools].prod(1)
    for n in (1, 2, 3):
        each = [best_of_n_curve(proxy[i], gold[i], [n]) for i in pools]
        law = exact.best_of_n_law(log_p, proxy, n).exp()
        close(sum(c * x.gold[0] for c, x in zip(chance, each, strict=True)), law @ gold)
        close(sum(c * x.proxy[0] for c, x in zip(chance, each, strict=True)), law @ proxy)


# Bad input


def test_bad_worlds_are_named():
    for vocab, length in ((1, 3), (3, 0), (2, 21), (1025, 2)):
        with pytest.raises(ValueError, match="^vocab_size, max_length: expected"):
            exact.enumerate_world(vocab, length)
    assert exact.enumerate_world(2, 1).table == (1, 2)
    assert exact.enumerate_world(2, 20).mask.shape == (21, 20)


def test_bad_tables_and_scores_are_named():
    z, s, ref = table(0), normal(1, ROWS), table(2)
    nan, inf = z.clone(), s.clone()
    nan[0, 0], inf[0] = math.nan, math.inf
    for bad in (z[:1], z.long(), nan, z / 0, z[None]):
        for call in (
            lambda x: exact.token_logprobs(WORLD, x),
            lambda x: exact.response_logprobs(WORLD, x),
            lambda x: exact.visits(WORLD, x),
            lambda x: exact.penalized_objective(WORLD, z, x, s, 0.1),
            lambda x: exact.kl_in_loss(WORLD, z, x, ref, "k1"),
        ):
            with pytest.raises(ValueError, match="^logits: expected"):
                call(bad)
    for bad in (s[:3], s.long(), s * math.nan, inf, s[None]):
        for call in (
            lambda x: exact.advantages(WORLD, z, x),
            lambda x: exact.score_gradient(WORLD, z, x),
            lambda x: exact.penalized_objective(WORLD, z, ref, x, 0.1),
            lambda x: exact.reinforce_objective(WORLD, z, ref, x),
            lambda x: exact.a2c_objective(WORLD, z, ref, x),
            lambda x: exact.ppo_clip_objective(WORLD, z, ref, x),
        ):
            with pytest.raises(ValueError, match="^scores: expected"):
                call(bad)
        with pytest.raises(ValueError, match="^logprobs: expected"):
            exact.policy_table(WORLD, bad)
        with pytest.raises(ValueError, match="^(ref_logprobs|scores): expected"):
            exact.optimal_policy(s, bad, 0.1)
        with pytest.raises(ValueError, match="^(logprobs|proxy): expected"):
            exact.best_of_n_law(s, bad, 2)
    for value in (0.0, -0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="^kl_coef: expected"):
            exact.optimal_policy(s, s, value)
    with pytest.raises(ValueError, match="^n: expected at least 1, got 0"):
        exact.best_of_n_law(s, s, 0)
    with pytest.raises(ValueError, match="^estimator: expected 'k1', 'k2' or 'k3', got 'k4'"):
        exact.kl_in_loss(WORLD, z, z, ref, "k4")
