"""The transformer, sampling with a cache, and batches by length, against slow and simple ways."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlhf_edu import InputError
from rlhf_edu.lab import helpdesk, sampling
from rlhf_edu.lab.batching import by_length, grouped_batches, lengths_of, trim
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

SMALL = ModelConfig(n_layers=2, width=16, n_heads=4)
PROMPTS = helpdesk.desk().prompts[torch.randperm(777, generator=torch.Generator().manual_seed(3))]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lively(model: Transformer, seed: int, ends: float = 0.0) -> Transformer:
    """Weights of order one, so that what one token is depends on the others; `ends`: on <eos>."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.copy_(0.5 * torch.randn(weight.shape, generator=generator(seed)))
            seed += 1
        if ends:
            model.head.bias[EOS] += ends
    return model.eval()


@pytest.fixture(scope="module")
def policy() -> Transformer:
    """Says <eos> with probability of about 1/8 a token."""
    return lively(language_model(SMALL), 0, ends=4.5)


@pytest.fixture(scope="module")
def critic() -> Transformer:
    return lively(scalar_model(SMALL), 50)


def slow_logits(model: Transformer, words: list[int], temperature: float = 1.0) -> Tensor:
    """Next-token logits (V,) after these tokens, alone in a batch, without padding or cache."""
    n = words.index(REPLY) + 1
    hidden = model.trunk(torch.tensor([words]), n)[0, -1]
    logits = (model.head.weight @ hidden + model.head.bias) / temperature
    return logits.index_fill(0, torch.tensor([PAD, REPLY]), -torch.inf)


def unpadded(row: Tensor) -> list[int]:
    return [token for token in row.tolist() if token != PAD]


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
    assert ((logprobs - again) * mask).abs().max() < 1e-5
    assert (logprobs[mask == 0] == 0).all() and (logprobs[mask == 1] < 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_each_reply_read_alone_token_by_token(policy, temperature):
    responses, logprobs = sample(policy, PROMPTS[:12], 10, generator(2), temperature)
    with torch.no_grad():
        for prompt, reply, given in zip(PROMPTS, responses, logprobs, strict=False):
            words = unpadded(prompt)
            for t, token in enumerate(unpadded(reply)):
                want = slow_logits(policy, words, temperature).log_softmax(0)[token]
                assert given[t].item() == pytest.approx(want.item(), abs=1e-5)
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
            assert torch.allclose(logits[i : i + batch], response_logits(policy, x, y), atol=1e-5)
            assert torch.allclose(values[i : i + batch], values_of(critic, x, y), atol=1e-5)


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
            assert torch.allclose(response_logits(policy, x, y)[0], logits[i, :n], atol=1e-5)
            assert torch.allclose(values_of(critic, x, y)[0], values[i, :n], atol=1e-5)
            assert torch.allclose(reward_of(critic, x, y, torch.ones(1, n))[0], rewards[i],
                                  atol=1e-5)  # fmt: skip
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
            assert change[: t + 1].max() < 1e-5
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
        qkv = [linear(norm(x, f"{block}.norm1"), f"{block}.qkv") for x in stream]
        for i, x in enumerate(stream):
            seen = []
            for head in range(config.n_heads):
                size = D // config.n_heads
                q, k, v = (slice(part * D + head * size, part * D + (head + 1) * size)
                           for part in range(3))  # fmt: skip
                match = [(qkv[i][q] @ qkv[j][k]).item() / size**0.5 for j in range(i + 1)]
                share = [math.exp(m) / sum(math.exp(other) for other in match) for m in match]
                seen.append(sum(s * qkv[j][v] for j, s in enumerate(share)))
            x = x + linear(torch.cat(seen), f"{block}.out")
            up = linear(norm(x, f"{block}.norm2"), f"{block}.up")
            gelu = up * 0.5 * (1 + torch.erf(up / 2**0.5))
            stream[i] = x + linear(gelu, f"{block}.down")
    return torch.stack([norm(x, "norm") for x in stream])


def test_hidden_states_are_those_of_a_transformer_read_one_token_at_a_time(policy):
    for row in range(5):
        prompt = unpadded(PROMPTS[row])
        words = prompt + torch.randint(3, VOCAB_SIZE, (6,), generator=generator(row)).tolist()
        with torch.no_grad():
            hidden = policy.trunk(torch.tensor([words]), len(prompt))[0].double()
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
        hidden = critic.trunk(torch.tensor([words]), n)[0]
        outputs = hidden @ critic.head.weight[0] + critic.head.bias[0]
        assert torch.allclose(values[i, : len(words) - n], outputs[n - 1 : -1], atol=1e-5)
        assert rewards[i].item() == pytest.approx(outputs[-1].item(), abs=1e-5)


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
    assert ((counts - n * p).abs() <= 5 * (n * p * (1 - p)).sqrt() + 1e-9).all()
    common = n * p > 5
    chi2 = ((counts - n * p).square() / (n * p).clamp(min=1e-300))[common].sum().item()
    freedom = int(common.sum())
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
        assert torch.allclose(again_logprobs, logprobs[rows], atol=1e-5)


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
    """Rows that are computed at each step: never fewer than still run, often fewer than all."""
    computed = []
    trunk = Transformer.trunk

    def counting(self, tokens, *args, **kwargs):
        computed.append(len(tokens))
        return trunk(self, tokens, *args, **kwargs)

    monkeypatch.setattr(Transformer, "trunk", counting)
    responses, _ = sample(policy, PROMPTS[:200], 16, generator(16))
    running = (reply_mask(responses).sum(0) - (responses == EOS).sum(0)).tolist()
    assert computed[0] == 200 and len(computed) <= 16
    assert all(n >= left for n, left in zip(computed[1:], running, strict=False))
    assert computed[-1] < 100
    assert all(n <= 2 * left + 1 for n, left in zip(computed[1:], running, strict=False))


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


# Batches by length


def ragged(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Prompts, replies and lengths; replies are of very different length."""
    replies = torch.randint(3, VOCAB_SIZE, (n, 15), generator=generator(seed))
    ends = torch.randint(0, 14, (n,), generator=generator(seed + 1))
    replies[torch.arange(n), ends] = EOS
    replies = replies.masked_fill(torch.arange(15) > ends[:, None], PAD)
    return PROMPTS[:n], replies, lengths_of(PROMPTS[:n], replies)


def test_lengths_count_tokens_of_prompt_and_reply():
    prompts, replies, lengths = ragged(30, 20)
    want = [[len(unpadded(x)), len(unpadded(y))] for x, y in zip(prompts, replies, strict=True)]
    assert lengths.tolist() == want


def test_trimming_drops_the_columns_that_are_padding_in_all_rows_and_no_other():
    prompts, replies, lengths = ragged(4, 22)
    for x, y in (trim(prompts, replies), trim(prompts, replies, lengths)):
        assert [unpadded(row) for row in x] == [unpadded(row) for row in prompts]
        assert [unpadded(row) for row in y] == [unpadded(row) for row in replies]
        assert (x[:, 0] != PAD).any() and (y[:, -1] != PAD).any()
        assert x.shape[1] < prompts.shape[1] and y.shape[1] < replies.shape[1]


@pytest.mark.parametrize("parts", [1, 3, 7, 100])
def test_reading_by_length_gives_the_values_and_gradients_of_one_call(policy, critic, parts):
    prompts, replies, lengths = ragged(41, 24)
    mask = reply_mask(replies)
    weights = torch.randn(41, 15, generator=generator(26)) * mask
    calls = []

    def read(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        calls.append(y.numel())
        return (gather_logprobs(response_logits(policy, x, y), y), values_of(critic, x, y),
                reward_of(critic, x, y, reply_mask(y)))  # fmt: skip

    def gradients(outputs: tuple[Tensor, ...]) -> list[Tensor]:
        logprobs, values, rewards = outputs
        loss = (weights * (logprobs + values)).sum() + (weights[:, 0] * rewards).sum()
        parameters = [*policy.parameters(), *critic.parameters()]
        return torch.autograd.grad(loss / mask.sum(), parameters)

    whole = read(prompts, replies)
    grouped = by_length(read, prompts, replies, lengths, parts)
    assert len(calls) == 1 + min(parts, 41)
    for a, b in zip(whole, grouped, strict=True):
        assert a.shape == b.shape
        on = mask if a.dim() == 2 else torch.ones(41)
        assert ((a - b) * on).abs().max() < 1e-5
        assert (b[on == 0].isfinite()).all()
    for a, b in zip(gradients(whole), gradients(grouped), strict=True):
        assert torch.allclose(a, b, atol=1e-6, rtol=1e-5), (a - b).abs().max()
    if parts > 1:
        assert sum(calls[1:]) < 0.8 * calls[0], "no padding was saved"


def test_reading_by_length_keeps_rows_apart_and_pads_with_zeros():
    prompts, replies, lengths = ragged(23, 28)
    (first, longest) = by_length(
        lambda x, y: (y[:, 0].float(), torch.ones_like(y).float()), prompts, replies, lengths, 5
    )
    assert torch.equal(first, replies[:, 0].float())
    assert longest.shape == replies.shape
    assert (longest >= reply_mask(replies)).all() and (longest == 0).any()


@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_grouped_batches_hold_every_row_once(seed, batch_size):
    lengths = torch.randint(1, 30, (100,), generator=generator(30))
    batches = list(grouped_batches(lengths, batch_size, None if seed is None else generator(seed)))
    assert sorted(torch.cat(batches).tolist()) == list(range(100))
    assert sorted(map(len, batches)) == sorted(
        [batch_size] * (100 // batch_size) + [100 % batch_size] * (100 % batch_size > 0)
    )


def test_rows_of_a_grouped_batch_are_of_like_length_and_batches_are_shuffled():
    lengths = torch.randint(1, 60, (2000,), generator=generator(31))
    plain = list(grouped_batches(lengths, 50))
    assert torch.equal(lengths[torch.cat(plain)], lengths.sort().values)
    shuffled = list(grouped_batches(lengths, 50, generator(1)))
    assert max((lengths[b].max() - lengths[b].min()).item() for b in shuffled) <= 5
    means = [lengths[b].float().mean().item() for b in shuffled]
    assert means != sorted(means)
    again, other = (list(grouped_batches(lengths, 50, generator(s))) for s in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(shuffled, again, strict=True))
    sets = [{tuple(sorted(b.tolist())) for b in batches} for batches in (shuffled, other)]
    assert len(sets[0] & sets[1]) < 10, "the same rows meet in every epoch"
