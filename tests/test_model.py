"""The transformer and sampling with a cache, against slow and simple ways."""

from __future__ import annotations

import math

import pytest
import torch
from lively import PROMPTS, SMALL, generator, lively, unpadded
from torch import Tensor

from rlhf_edu import InputError
from rlhf_edu.lab import sampling
from rlhf_edu.lab.gold import reply_mask
from rlhf_edu.lab.helpdesk import EOS, PAD, REPLY, VOCAB_SIZE
from rlhf_edu.lab.model import (
    ModelConfig,
    Transformer,
    gather_logprobs,
    language_model,
    next_token_logits,
    response_logits,
    reward_of,
    scalar_model,
    values_of,
)
from rlhf_edu.lab.sampling import sample

# Log-probabilities reach −10 and pass through three layers: 32 bits leave an error of 10⁻⁵ at most.
NEAR = 5e-5


@pytest.fixture(scope="module")
def policy() -> Transformer:
    """Says <eos> with probability of about 1/10 a token."""
    return lively(language_model(SMALL), 0, ends=3.5)


@pytest.fixture(scope="module")
def critic() -> Transformer:
    return lively(scalar_model(SMALL), 50)


def hidden_states(model: Transformer, words: list[int], prompt_width: int) -> Tensor:
    """Hidden states (S, D) of one text, alone in a batch, without padding, all of them read."""
    tokens = torch.tensor([words])
    return model.trunk(tokens, *model.as_rows(tokens, prompt_width))[0]


def slow_logits(model: Transformer, words: list[int], temperature: float = 1.0) -> Tensor:
    """Next-token logits (V,) after these tokens, alone in a batch, without padding or cache."""
    hidden = hidden_states(model, words, words.index(REPLY) + 1)[-1]
    logits = (model.head.weight @ hidden + model.head.bias) / temperature
    return logits.index_fill(0, torch.tensor([PAD, REPLY]), -torch.inf)


# Log-probabilities


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
def test_logprobs_of_sampled_tokens_are_those_of_one_forward_pass(policy, temperature):
    """Ragged prompts and replies; rows that have ended are dropped on the way."""
    responses, logprobs = sample(policy, PROMPTS[:300], 24, generator(1), temperature)
    mask = reply_mask(responses)
    assert mask[:, -1].sum() > 3 and (mask.sum(1) < 5).sum() > 30
    with torch.no_grad():
        logits = response_logits(policy, PROMPTS[:300], responses, temperature)
        again = gather_logprobs(logits, responses)
    assert ((logprobs - again) * mask).abs().max() < NEAR
    assert (logprobs[mask == 0] == 0).all() and (logprobs[mask == 1] < 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_each_reply_read_alone_token_by_token(policy, temperature):
    responses, logprobs = sample(policy, PROMPTS[:12], 10, generator(2), temperature)
    with torch.no_grad():
        for prompt, reply, given in zip(PROMPTS, responses, logprobs, strict=False):
            words = unpadded(prompt)
            for t, token in enumerate(unpadded(reply)):
                want = slow_logits(policy, words, temperature).log_softmax(0)[token]
                assert given[t].item() == pytest.approx(want.item(), abs=NEAR)
                words.append(token)


def test_gather_logprobs_reads_the_probability_of_each_token():
    probabilities = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]])
    found = gather_logprobs(probabilities.log() + 3.0, torch.tensor([[1, 2]]))
    assert torch.allclose(found, torch.tensor([[math.log(0.25), math.log(0.7)]]))


def test_temperature_divides_the_logits_and_padding_and_the_reply_token_are_never_said(policy):
    hidden = torch.randn(3, SMALL.width, generator=generator())
    plain, hot = next_token_logits(policy, hidden), next_token_logits(policy, hidden, 4.0)
    said = [v for v in range(VOCAB_SIZE) if v not in (PAD, REPLY)]
    assert torch.allclose(plain[:, said], hidden @ policy.head.weight.T[:, said]
                          + policy.head.bias[said], atol=1e-5)  # fmt: skip
    assert torch.allclose(hot[:, said], plain[:, said] / 4, atol=1e-6)
    assert (plain.softmax(-1)[:, [PAD, REPLY]] == 0).all()


def test_padding_and_the_reply_token_are_never_sampled_however_likely():
    model = lively(language_model(SMALL), 1)
    with torch.no_grad():
        model.head.bias[[PAD, REPLY]] = 50.0
    responses, _ = sample(model, PROMPTS[:200], 12, generator(), 3.0)
    mask = reply_mask(responses)
    assert (responses != REPLY).all()
    for row in responses.tolist():  # padding stands only after the end
        end = row.index(EOS) + 1 if EOS in row else len(row)
        assert PAD not in row[:end] and set(row[end:]) <= {PAD}
    assert torch.equal(mask == 0, responses == PAD)


# What a row may depend on


@pytest.mark.parametrize("batch", [1, 5])
def test_a_rows_logits_do_not_depend_on_its_neighbours(policy, critic, batch):
    responses, _ = sample(policy, PROMPTS[:20], 12, generator(4))
    prompts = PROMPTS[:20]
    with torch.no_grad():
        logits, values = response_logits(policy, prompts, responses), values_of(
            critic, prompts, responses
        )
        for i in range(0, 20, batch):
            x, y = prompts[i : i + batch], responses[i : i + batch]
            assert torch.allclose(logits[i : i + batch], response_logits(policy, x, y), atol=NEAR)
            assert torch.allclose(values[i : i + batch], values_of(critic, x, y), atol=NEAR)


def test_a_rows_logits_do_not_depend_on_the_amount_of_padding(policy, critic):
    responses, _ = sample(policy, PROMPTS[:40], 12, generator(5))
    mask = reply_mask(responses)
    with torch.no_grad():
        logits = response_logits(policy, PROMPTS[:40], responses)
        values = values_of(critic, PROMPTS[:40], responses)
        rewards = reward_of(critic, PROMPTS[:40], responses, mask)
        for i in range(40):
            x = torch.tensor([unpadded(PROMPTS[i])])
            y = torch.tensor([unpadded(responses[i])])
            n = y.shape[1]
            assert torch.allclose(response_logits(policy, x, y)[0], logits[i, :n], atol=NEAR)
            assert torch.allclose(values_of(critic, x, y)[0], values[i, :n], atol=NEAR)
            assert torch.allclose(reward_of(critic, x, y, torch.ones(1, n))[0], rewards[i],
                                  atol=NEAR)  # fmt: skip
    assert values[mask == 1].std() > 0.1 and rewards.std() > 0.1


def test_a_token_sees_what_stands_before_it_and_nothing_after(policy, critic):
    prompts, responses = PROMPTS[:1], torch.randint(3, VOCAB_SIZE, (1, 8), generator=generator(6))
    base, base_values = response_logits(policy, prompts, responses), values_of(
        critic, prompts, responses
    )
    for t in range(8):
        other = responses.clone()
        other[0, t] = 3 + (other[0, t] - 2) % (VOCAB_SIZE - 3)
        moved = (response_logits(policy, prompts, other) - base).abs().amax(-1)[0]
        values_moved = (values_of(critic, prompts, other) - base_values).abs()[0]
        for change in (moved, values_moved):
            assert change[: t + 1].max() < NEAR
            assert t == 7 or change[t + 1 :].min() > 1e-4
    start = int((prompts == PAD).sum())
    for column in range(start, prompts.shape[1] - 1):
        other = prompts.clone()
        other[0, column] = 3 + (other[0, column] - 2) % (VOCAB_SIZE - 3)
        assert (response_logits(policy, other, responses) - base).abs().amax(-1).min() > 1e-4


def slow_trunk(model: Transformer, words: list[int], prompt_width: int) -> Tensor:
    """Hidden states of one text without padding, one position, one layer and one head at a time."""
    config = model.config
    weights = {k: v.detach().double() for k, v in model.state_dict().items()}

    def norm(x: Tensor, name: str) -> Tensor:
        x = (x - x.mean()) / (((x - x.mean()) ** 2).mean() + 1e-5).sqrt()
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    # The first reply token always has position number max_prompt.
    start = config.max_prompt - prompt_width
    stream = [weights["embed.weight"][word] + weights["position.weight"][start + i]
              for i, word in enumerate(words)]  # fmt: skip
    for n in range(config.n_layers):
        block, D = f"blocks.{n}", config.width
        seen_by = [norm(x, f"{block}.norm1") for x in stream]
        queries = [linear(x, f"{block}.query") for x in seen_by]
        both = [linear(x, f"{block}.key_value") for x in seen_by]
        keys, values = [x[:D] for x in both], [x[D:] for x in both]
        for i, x in enumerate(stream):
            seen = []
            for head in range(config.n_heads):
                size = D // config.n_heads
                own = slice(head * size, (head + 1) * size)
                match = [(queries[i][own] @ keys[j][own]).item() / size**0.5 for j in range(i + 1)]
                share = [math.exp(m) / sum(math.exp(other) for other in match) for m in match]
                seen.append(sum(s * values[j][own] for j, s in enumerate(share)))
            x = x + linear(torch.cat(seen), f"{block}.out")
            up = linear(norm(x, f"{block}.norm2"), f"{block}.up")
            stream[i] = x + linear(up.clamp(min=0), f"{block}.down")
    return torch.stack([norm(x, "norm") for x in stream])


def test_hidden_states_are_those_of_a_transformer_read_one_token_at_a_time(policy):
    for row in range(5):
        prompt = unpadded(PROMPTS[row])
        words = prompt + torch.randint(3, VOCAB_SIZE, (6,), generator=generator(row)).tolist()
        with torch.no_grad():
            hidden = hidden_states(policy, words, len(prompt)).double()
        assert torch.allclose(hidden, slow_trunk(policy, words, len(prompt)), atol=2e-5)


def test_word_order_matters(policy):
    a, b = PROMPTS[:1].clone(), PROMPTS[:1].clone()
    b[0, -3], b[0, -2] = a[0, -2].item(), a[0, -3].item()
    responses = torch.tensor([[5, EOS]])
    assert a[0, -3] != a[0, -2]
    change = response_logits(policy, a, responses) - response_logits(policy, b, responses)
    assert change.abs().max() > 0.01


def test_a_value_is_read_before_its_token_and_a_reward_after_the_last(critic):
    prompts, responses = PROMPTS[:4], torch.randint(3, VOCAB_SIZE, (4, 6), generator=generator(7))
    responses[0, 2:], responses[1, 5:], responses[2, 0] = PAD, PAD, EOS
    responses[0, 1], responses[1, 4], responses[2, 1:] = EOS, EOS, PAD
    mask = reply_mask(responses)
    values = values_of(critic, prompts, responses)
    rewards = reward_of(critic, prompts, responses, mask)
    for i in range(4):
        words = unpadded(prompts[i]) + unpadded(responses[i])
        n = len(unpadded(prompts[i]))
        hidden = hidden_states(critic, words, n)
        outputs = hidden @ critic.head.weight[0] + critic.head.bias[0]
        assert torch.allclose(values[i, : len(words) - n], outputs[n - 1 : -1], atol=NEAR)
        assert rewards[i].item() == pytest.approx(outputs[-1].item(), abs=NEAR)


def test_tokens_after_the_end_change_no_reward(critic):
    responses = torch.randint(3, VOCAB_SIZE, (30, 9), generator=generator(8))
    ends = torch.randint(0, 8, (30,), generator=generator(9))
    responses[torch.arange(30), ends] = EOS
    mask = reply_mask(responses)
    before = reward_of(critic, PROMPTS[:30], responses, mask)
    padded = responses.masked_fill(mask == 0, PAD)
    assert torch.allclose(reward_of(critic, PROMPTS[:30], padded, mask), before, atol=1e-6)
    responses[torch.arange(30), ends] = 7
    assert (reward_of(critic, PROMPTS[:30], responses, mask) - before).abs().min() > 1e-4


# Sampling


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_first_tokens_are_sampled_as_often_as_the_model_says(policy, temperature):
    n = 20_000
    responses, _ = sample(policy, PROMPTS[:1].expand(n, -1), 1, generator(11), temperature)
    with torch.no_grad():
        p = slow_logits(policy, unpadded(PROMPTS[0]), temperature).softmax(0).double()
    counts = responses[:, 0].bincount(minlength=VOCAB_SIZE)
    assert (counts[p == 0] == 0).all()
    common = n * p > 5
    # Of the common words each by itself, the rare ones taken together.
    counts, p = (torch.cat([x[common], x[~common].sum()[None]]) for x in (counts, p))
    assert n * p[-1] > 5
    assert ((counts - n * p).abs() <= 5 * (n * p * (1 - p)).sqrt()).all()
    chi2 = ((counts - n * p).square() / (n * p)).sum().item()
    freedom = len(p) - 1
    assert freedom > 10 and abs(chi2 - freedom) < 5 * (2 * freedom) ** 0.5


def test_second_tokens_are_sampled_given_the_first(policy):
    """The mean log-probability of what was sampled is minus the entropy, at every step."""
    n = 8000
    responses, logprobs = sample(policy, PROMPTS[:1].expand(n, -1), 4, generator(12))
    with torch.no_grad():
        logits = response_logits(policy, PROMPTS[:1].expand(n, -1), responses)
    logp = logits.log_softmax(-1)
    entropy = -(logp.exp() * logp).sum(-1)
    mask = reply_mask(responses)
    for t in range(4):
        surprise = (-logprobs[:, t] - entropy[:, t])[mask[:, t] == 1]
        assert abs(surprise.mean()) < 5 * surprise.std() / len(surprise) ** 0.5


def test_a_reply_is_what_its_own_random_numbers_say(policy, monkeypatch):
    """Inverse transform by hand: the first word whose cumulative probability exceeds the number."""
    uniform = torch.rand(6, 9, generator=generator(13))
    responses, _ = sample(policy, PROMPTS[:6], 9, generator(13))
    for i in range(6):
        words, reply = unpadded(PROMPTS[i]), []
        with torch.no_grad():
            while len(reply) < 9 and EOS not in reply:
                total, token = 0.0, -1
                for p in slow_logits(policy, words + reply).softmax(0).tolist():
                    token, total = token + 1, total + p
                    if total > uniform[i, len(reply)]:
                        break
                reply.append(token)
        assert unpadded(responses[i]) == reply


@pytest.mark.parametrize("u", [0.0, 1 - 2**-24])
def test_the_smallest_and_the_largest_random_number_choose_a_word_that_may_be_said(
    policy, monkeypatch, u
):
    monkeypatch.setattr(sampling.torch, "rand", lambda *shape, **kw: torch.full(shape, u))
    responses, logprobs = sample(policy, PROMPTS[:30], 4, generator())
    on = reply_mask(responses) == 1
    assert on[:, 0].all() and (responses[on] != REPLY).all() and (logprobs[on] > -1e6).all()


def test_a_reply_does_not_depend_on_how_long_its_neighbours_run(policy, monkeypatch):
    """The same random numbers beside neighbours that never end, and alone."""
    uniform = torch.rand(64, 20, generator=generator(14))
    numbers = [uniform]
    monkeypatch.setattr(sampling.torch, "rand", lambda *shape, **kw: numbers[0].clone())
    responses, logprobs = sample(policy, PROMPTS[:64], 20, generator())
    lengths = reply_mask(responses).sum(1)
    assert lengths.min() <= 3 and lengths.max() >= 15
    for rows in (torch.arange(1), lengths.argsort()[:32], lengths.argsort()[32:], torch.arange(5)):
        numbers[0] = uniform[rows]
        again, again_logprobs = sample(policy, PROMPTS[:64][rows], 20, generator())
        assert torch.equal(again, responses[rows])
        assert torch.allclose(again_logprobs, logprobs[rows], atol=NEAR)


def test_a_longer_limit_leaves_the_beginning_of_a_reply_as_it_is(policy, monkeypatch):
    uniform = torch.rand(50, 24, generator=generator(15))
    monkeypatch.setattr(sampling.torch, "rand", lambda B, T, **kw: uniform[:, :T])
    whole, _ = sample(policy, PROMPTS[:50], 24, generator())
    cut, logprobs = sample(policy, PROMPTS[:50], 6, generator())
    assert torch.equal(whole[:, :6], cut) and cut.shape == logprobs.shape == (50, 6)
    cut_off = ~(cut == EOS).any(1)
    assert 5 < cut_off.sum() < 45
    assert (cut[cut_off] != PAD).all() and (logprobs[cut_off] < 0).all()


def test_rows_are_dropped_only_when_they_have_ended(policy, monkeypatch):
    """Rows that are computed at each step: all that still run, and half as many more at most."""
    computed = []
    trunk = Transformer.trunk

    def counting(self, tokens, *args, **kwargs):
        computed.append(len(tokens))
        return trunk(self, tokens, *args, **kwargs)

    monkeypatch.setattr(Transformer, "trunk", counting)
    responses, _ = sample(policy, PROMPTS[:200], 24, generator(16))
    running = (reply_mask(responses).sum(0) - (responses == EOS).sum(0)).tolist()
    assert computed[0] == 200 and len(computed) <= 24
    assert all(n >= left for n, left in zip(computed[1:], running, strict=False))
    assert computed[-1] < 100
    assert all(2 * n <= 3 * left for n, left in zip(computed[1:], running, strict=False))


def test_sampling_stops_when_all_have_ended():
    model = lively(language_model(SMALL), 3)
    with torch.no_grad():
        model.head.bias[EOS] = 1000.0
    responses, logprobs = sample(model, PROMPTS[:9], 5, generator())
    assert torch.equal(responses, torch.tensor([[EOS, PAD, PAD, PAD, PAD]] * 9))
    assert (logprobs == 0).all()


def test_samples_depend_on_the_generator_alone(policy):
    torch.manual_seed(1)
    first = sample(policy, PROMPTS[:50], 8, generator(17))[0]
    torch.manual_seed(2)
    assert torch.equal(first, sample(policy, PROMPTS[:50], 8, generator(17))[0])
    assert not torch.equal(first, sample(policy, PROMPTS[:50], 8, generator(18))[0])


def with_every_logprob(policy: Transformer, prompts: Tensor, length: int, seed: int,
                       **settings) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Replies, log-probabilities and those of every word, NaN where nothing was written."""
    rows = len(prompts) * settings.get("copies", 1)
    every = torch.full((rows, length, VOCAB_SIZE), torch.nan)
    return *sample(policy, prompts, length, generator(seed), every_logprob=every, **settings), every


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_of_every_word_are_those_of_each_reply_read_alone(policy, temperature):
    """At every step up to <eos>, of rows that end early and of rows that do not."""
    responses, logprobs, every = with_every_logprob(policy, PROMPTS[:30], 14, 19,
                                                    temperature=temperature)  # fmt: skip
    lengths = reply_mask(responses).sum(1)
    assert lengths.min() <= 2 and lengths.max() >= 13
    said = [v for v in range(VOCAB_SIZE) if v not in (PAD, REPLY)]
    with torch.no_grad():
        for i in range(30):
            words = unpadded(PROMPTS[i])
            for t, token in enumerate(unpadded(responses[i])):
                want = slow_logits(policy, words, temperature).log_softmax(0)
                assert torch.allclose(every[i, t, said], want[said], atol=NEAR)
                assert (every[i, t, [PAD, REPLY]] < -1e6).all()
                assert every[i, t, token] == logprobs[i, t]
                words.append(token)


def test_log_probabilities_of_every_word_change_nothing_else(policy):
    responses, logprobs = sample(policy, PROMPTS[:100], 12, generator(20))
    again, logprobs_again, every = with_every_logprob(policy, PROMPTS[:100], 12, 20)
    assert torch.equal(again, responses) and torch.equal(logprobs_again, logprobs)
    on = responses != PAD
    assert torch.equal(every.gather(-1, responses[..., None])[..., 0][on], logprobs[on])
    assert torch.allclose(every[on].exp().sum(-1), torch.tensor(1.0), atol=1e-5)
    assert every.isnan().any(), "rows that have ended were computed to the end"


def test_rows_dropped_early_get_what_they_get_when_no_row_is_dropped(policy, monkeypatch):
    """Alone in its batch a row is never dropped, and shares its prompt with nobody."""
    prompts = torch.cat([PROMPTS[:40], PROMPTS[10:30]])
    uniform = torch.rand(60, 16, generator=generator(21))
    numbers = [uniform]
    monkeypatch.setattr(sampling.torch, "rand", lambda *shape, **kw: numbers[0].clone())
    responses, logprobs, every = with_every_logprob(policy, prompts, 16, 0)
    mask = reply_mask(responses)
    assert (mask.sum(1) <= 3).sum() >= 15 and mask[:, -1].sum() >= 5
    for i in range(60):
        numbers[0] = uniform[i : i + 1]
        y, logp, words = with_every_logprob(policy, prompts[i : i + 1], 16, 0)
        on = mask[i] == 1
        assert torch.equal(y[0], responses[i])
        assert torch.allclose(logp[0], logprobs[i], atol=NEAR)
        assert torch.allclose(words[0][on], every[i][on], atol=NEAR, rtol=1e-6)


@pytest.mark.parametrize("copies", [2, 5])
def test_copies_are_the_replies_to_prompts_that_are_repeated(policy, copies):
    """With the same random numbers, row for row: all replies to the first prompt come first."""
    prompts = PROMPTS[:24]
    assert ((prompts == PAD).sum(1) > 0).any() and len({tuple(x) for x in prompts.tolist()}) == 24
    responses, logprobs, every = with_every_logprob(policy, prompts, 12, 22, copies=copies)
    repeated = torch.stack([row for row in prompts for _ in range(copies)])
    again, logprobs_again, every_again = with_every_logprob(policy, repeated, 12, 22)
    assert responses.shape == (24 * copies, 12) and torch.equal(responses, again)
    assert torch.allclose(logprobs, logprobs_again, atol=NEAR)
    on = responses != PAD
    assert torch.allclose(every[on], every_again[on], atol=NEAR, rtol=1e-6)
    first = responses.view(24, copies, 12)
    assert (first[:, 0] != first[:, 1]).any(1).sum() > 18, "one reply, copied"


def test_copies_read_a_prompt_once(policy, monkeypatch):
    read = []
    trunk = Transformer.trunk

    def counting(self, tokens, *args, **kwargs):
        read.append(tuple(tokens.shape))
        return trunk(self, tokens, *args, **kwargs)

    monkeypatch.setattr(Transformer, "trunk", counting)
    sample(policy, PROMPTS[:10], 8, generator(23), copies=4)
    assert read[0] == (10, PROMPTS.shape[1])
    assert read[1] == (40, 1) and all(width == 1 for _, width in read[1:])
    read.clear()
    sample(policy, PROMPTS[[3, 5, 3, 3, 7, 5]], 8, generator(23))
    assert read[0] == (3, PROMPTS.shape[1]) and read[1] == (6, 1)
    monkeypatch.setattr(sampling, "rounded", lambda n, step: n + 2)  # for oneDNN
    found = sample(policy, PROMPTS[[3, 5, 3, 3, 7, 5]], 8, generator(23))[0]
    assert read[-1][1] == 1 and (5, PROMPTS.shape[1]) in read
    monkeypatch.setattr(sampling, "rounded", lambda n, step: n)
    assert torch.equal(found, sample(policy, PROMPTS[[3, 5, 3, 3, 7, 5]], 8, generator(23))[0])


# Models


def test_a_fresh_scalar_model_says_zero_and_copies_the_trunk_it_starts_from(policy):
    fresh = scalar_model(SMALL, trunk_from=policy)
    weights, source = fresh.state_dict(), policy.state_dict()
    assert set(weights) == set(source)
    assert all(torch.equal(weights[k], source[k]) for k in source if not k.startswith("head."))
    assert weights["head.weight"].shape == (1, SMALL.width)
    assert (weights["head.weight"] == 0).all() and (weights["head.bias"] == 0).all()
    responses = torch.randint(3, VOCAB_SIZE, (5, 4), generator=generator())
    assert (values_of(fresh, PROMPTS[:5], responses) == 0).all()
    with torch.no_grad():
        fresh.embed.weight.add_(1.0)
    assert torch.equal(policy.embed.weight, source["embed.weight"]), "a copy, not the same tensor"
    assert not torch.equal(fresh.embed.weight, policy.embed.weight)


def test_a_model_has_the_size_that_its_config_says():
    config = ModelConfig(n_layers=3, width=20, n_heads=5, max_prompt=9, max_response=7)
    model = language_model(config)
    D = 20
    block = 4 * D + (3 * D * D + 3 * D) + (D * D + D) + (4 * D * D + 4 * D) + (4 * D * D + D)
    want = VOCAB_SIZE * D + 16 * D + 3 * block + 2 * D + (D * VOCAB_SIZE + VOCAB_SIZE)
    assert sum(p.numel() for p in model.parameters()) == want
    assert all(block.n_heads == 5 for block in model.blocks)


@pytest.mark.parametrize(
    "prompt, reply, message",
    [(10, 3, r"max_prompt = 9: allowed is 10 or"), (9, 8, r"max_response = 7: allowed is 8 or"),
     (9, 7, None)],
)  # fmt: skip
def test_a_text_longer_than_the_model_can_read_is_an_error_that_names_the_limit(
    prompt, reply, message
):
    model = scalar_model(ModelConfig(n_layers=1, width=4, n_heads=1, max_prompt=9, max_response=7))
    prompts, responses = torch.full((2, prompt), 5), torch.full((2, reply), 5)
    if message is None:
        assert reward_of(model, prompts, responses, torch.ones(2, reply)).shape == (2,)
        return
    with pytest.raises(InputError, match=rf"ModelConfig\.{message} more"):
        reward_of(model, prompts, responses, torch.ones(2, reply))


@pytest.mark.parametrize(
    "prompt, reply, message",
    [(10, 3, r"max_prompt = 9: allowed is 10 or"), (9, 8, r"max_response = 7: allowed is 8 or"),
     (9, 7, None)],
)  # fmt: skip
def test_a_reply_longer_than_the_model_can_read_is_not_begun(prompt, reply, message):
    model = language_model(ModelConfig(n_layers=1, width=4, n_heads=1, max_prompt=9,
                                       max_response=7))  # fmt: skip
    prompts = torch.full((2, prompt), 5)
    if message is None:
        assert sample(model, prompts, reply, generator())[0].shape == (2, reply)
        return
    with pytest.raises(InputError, match=rf"ModelConfig\.{message} more"):
        sample(model, prompts, reply, generator())
