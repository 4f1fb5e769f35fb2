"""Rows laid end to end in tiles, against the padded rows of the model and each row by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lively import PROMPTS, SMALL, generator, lively, unpadded
from torch import Tensor

from rlhf_edu import InputError
from rlhf_edu.lab.gold import reply_mask
from rlhf_edu.lab.helpdesk import EOS, PAD, REPLY, VOCAB_SIZE
from rlhf_edu.lab.machine import medium_is_exact
from rlhf_edu.lab.model import (
    ModelConfig,
    Transformer,
    language_model,
    response_logits,
    reward_of,
    scalar_model,
    values_of,
)
from rlhf_edu.lab.tiles import Tiles, fill, lay, lengths_of, logits_in, rewards_in, values_in

# Difference allowed, relative to the largest number (or to 1): in 64 bits no mistake can hide.
NEAR = {torch.float32: 1e-5, torch.float64: 1e-12}


def models(dtype: torch.dtype) -> tuple[Transformer, Transformer]:
    """A policy and a scalar model with the same weights, rounded to `dtype`."""
    return lively(language_model(SMALL).to(dtype), 0), lively(scalar_model(SMALL).to(dtype), 50)


MODELS = {dtype: models(dtype) for dtype in NEAR}


@pytest.fixture(params=["highest", "medium"], ids=["for MKL", "for oneDNN"], autouse=True)
def product(request) -> Iterator[str]:
    """Tiles are laid for the matrix product in use: as many as are filled, or a round number."""
    if request.param == "medium" and not medium_is_exact():
        pytest.skip("here it rounds to 16 bits")
    torch.set_float32_matmul_precision(request.param)
    yield request.param
    torch.set_float32_matmul_precision("highest")


@pytest.fixture(params=NEAR, ids=["float32", "float64"])
def dtype(request) -> Iterator[torch.dtype]:
    """Everything in this precision, masks included."""
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float32)


def batch(asked: list[int], said: list[int], L: int, T: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random prompts (B, L) of `asked` tokens and replies (B, T) of `said` tokens.

    A reply ends with <eos> unless it is as long as it may be, when every other one is cut off.
    """
    luck = generator(seed)
    prompts, responses = torch.full((len(asked), L), PAD), torch.full((len(said), T), PAD)
    for i, (n, m) in enumerate(zip(asked, said, strict=True)):
        prompts[i, L - n :] = torch.randint(3, VOCAB_SIZE, (n,), generator=luck)
        prompts[i, -1] = REPLY
        responses[i, :m] = torch.randint(3, VOCAB_SIZE, (m,), generator=luck)
        if m < T or i % 2:
            responses[i, m - 1] = EOS
    return prompts, responses


def mixed(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Prompts of the desk, and replies of 1 to 15 tokens."""
    luck = generator(seed)
    asked = [len(unpadded(row)) for row in PROMPTS[:n]]
    said = torch.randint(1, 16, (n,), generator=luck).tolist()
    return PROMPTS[:n], batch(asked, said, PROMPTS.shape[1], 15, seed)[1]


BATCHES = {
    "mixed": mixed(23, 1),
    "one row": batch([7], [5], 9, 8, 2),
    "one row without padding": batch([6], [9], 6, 9, 3),
    "one row of two tokens": batch([1], [1], 1, 1, 4),
    "all as long as they may be": batch([6] * 7, [9] * 7, 6, 9, 5),
    "replies of one token": batch([3, 8, 5, 8, 1], [1] * 5, 8, 12, 6),
    "replies of one token, no room for more": batch([3, 8, 5, 8, 1], [1] * 5, 8, 1, 6),
    "prompts of every length": batch([*range(1, 17)], [4] * 16, 16, 6, 7),
    "one long, many short": batch([4] * 30, [40, *[2] * 29], 4, 48, 8),
    "as long as the model can read": batch([16, 1, 16], [48, 48, 1], 16, 48, 9),
    "more rows than tiles in a step of rounding": mixed(150, 10),
}


@st.composite
def batches(draw) -> tuple[Tensor, Tensor]:
    rows = draw(st.integers(1, 12))
    L, T = draw(st.integers(1, 10)), draw(st.integers(1, 12))
    asked = draw(st.lists(st.integers(1, L), min_size=rows, max_size=rows))
    said = draw(st.lists(st.integers(1, T), min_size=rows, max_size=rows))
    return batch(asked, said, L, T, draw(st.integers(0, 999)))


def laid(prompts: Tensor, responses: Tensor, packed: bool, last: bool = False) -> Tiles:
    lengths = lengths_of(prompts, responses) if packed else None
    assert not packed or lengths is not None
    return lay(next(iter(MODELS.values()))[0], prompts, responses, lengths, last)


def in_tiles(
    dtype: torch.dtype, prompts: Tensor, responses: Tensor, packed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, T, V) with temperature 0.7, values (B, T) and rewards (B,), from tiles."""
    policy, scalar = MODELS[dtype]
    tiles = laid(prompts, responses, packed)
    logits = logits_in(tiles, policy, 0.7)
    by_word = torch.stack([tiles.rows(word) for word in logits.unbind(1)], -1)
    rewards = rewards_in(laid(prompts, responses, packed, last=True), scalar)
    return by_word, tiles.rows(values_in(tiles, scalar)), rewards


def in_rows(
    dtype: torch.dtype, prompts: Tensor, responses: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same from padded rows."""
    policy, scalar = MODELS[dtype]
    return (response_logits(policy, prompts, responses, 0.7), values_of(scalar, prompts, responses),
            reward_of(scalar, prompts, responses, reply_mask(responses)))  # fmt: skip


def assert_near(got: Tensor, want: Tensor, dtype: torch.dtype) -> None:
    assert got.shape == want.shape and got.dtype == want.dtype == dtype
    assert (got - want).abs().max() <= NEAR[dtype] * want.abs().max().clamp(min=1.0)


def check_batch(dtype: torch.dtype, prompts: Tensor, responses: Tensor, packed: bool) -> None:
    """Outputs on real tokens and gradients of a random weighted sum of them all."""
    found, want = in_tiles(dtype, prompts, responses, packed), in_rows(dtype, prompts, responses)
    on = responses != PAD
    some = [torch.randn(x.shape, generator=generator(i)) for i, x in enumerate(want)]
    allowed = torch.ones(VOCAB_SIZE, dtype=torch.bool)
    allowed[[PAD, REPLY]] = False  # their logits are −10⁹: they would hide all the others

    def real(x: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        return x[0][on][:, allowed], x[1][on], x[2]

    gradients = []
    for outputs in (found, want):
        loss = sum((x * w).sum() for x, w in zip(real(outputs), real(tuple(some)), strict=True))
        parameters = [p for model in MODELS[dtype] for p in model.parameters()]
        gradients.append(torch.autograd.grad(loss, parameters))
    for got, expected in zip(real(found), real(want), strict=True):
        assert_near(got, expected, dtype)
    assert (found[0][..., [PAD, REPLY]][on] < -1e8).all()
    scale = max(g.abs().max() for g in gradients[1])
    for got, expected in zip(*gradients, strict=True):
        assert (got - expected).abs().max() <= NEAR[dtype] * scale


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "one row a tile"])
@pytest.mark.parametrize("name", BATCHES)
def test_outputs_and_gradients_are_those_of_padded_rows(dtype, name, packed):
    check_batch(dtype, *BATCHES[name], packed)


@settings(deadline=None, max_examples=60)
@given(batches(), st.booleans())
def test_outputs_and_gradients_are_those_of_padded_rows_whatever_the_lengths(rows, packed):
    torch.set_default_dtype(torch.float64)
    try:
        check_batch(torch.float64, *rows, packed)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "one row a tile"])
@pytest.mark.parametrize("name", BATCHES)
def test_outputs_are_those_of_each_row_by_itself_without_any_padding(dtype, name, packed):
    prompts, responses = BATCHES[name]
    policy, scalar = MODELS[dtype]
    with torch.no_grad():
        logits, values, rewards = in_tiles(dtype, prompts, responses, packed)
        for i, (prompt, reply) in enumerate(zip(prompts, responses, strict=True)):
            x, y = torch.tensor([unpadded(prompt)]), torch.tensor([unpadded(reply)])
            n = y.shape[1]
            said = [v for v in range(VOCAB_SIZE) if v not in (PAD, REPLY)]
            alone = response_logits(policy, x, y, 0.7)[0]
            assert_near(logits[i, :n, said], alone[:, said], dtype)
            assert_near(values[i, :n], values_of(scalar, x, y)[0], dtype)
            assert_near(rewards[i : i + 1], reward_of(scalar, x, y, torch.ones(1, n)), dtype)


# Where everything is laid


@pytest.mark.parametrize("name", BATCHES)
def test_rows_and_flat_are_inverse_on_real_tokens(name):
    prompts, responses = BATCHES[name]
    tiles, on = laid(prompts, responses, packed=True), responses != PAD
    x = torch.randn(responses.shape, generator=generator())
    assert torch.equal(tiles.rows(tiles.flat(x)), x * on)
    flat = torch.randn(int(on.sum()), generator=generator(1))
    assert torch.equal(tiles.flat(tiles.rows(flat)), flat)
    wide = torch.randn(*responses.shape, 3, generator=generator(2))
    assert torch.equal(tiles.flat(wide)[:, 1], tiles.flat(wide[..., 1]))
    whole = laid(prompts, responses, packed=False)
    assert torch.equal(whole.rows(whole.flat(x)), x)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", BATCHES)
def test_every_token_is_laid_once_in_order_and_nothing_else(name, last):
    """Read off the tiles alone: a row is what a token sees, up to itself."""
    prompts, responses = BATCHES[name]
    tiles = laid(prompts, responses, True, last)
    want = sorted(unpadded(x) + unpadded(y)[: None if last else -1]
                  for x, y in zip(prompts, responses, strict=True))  # fmt: skip
    found = []
    for tokens, visible in zip(tiles.tokens, tiles.visible, strict=True):
        assert ((visible == 0) | (visible == -torch.inf)).all()
        owner = visible == 0  # (S, S)
        assert torch.equal(owner, owner.tril()) and owner.diagonal().all()
        ends = [i for i in range(len(tokens)) if i + 1 == len(tokens) or not owner[i + 1, i]]
        for end in ends:
            seen = owner[end].nonzero()[:, 0].tolist()
            assert seen == [*range(seen[0], end + 1)], "a row has no gaps"
            assert all(torch.equal(owner[i, seen[0] : i + 1], owner[end, seen[0] : i + 1])
                       for i in seen)  # fmt: skip
            found.append(tokens[seen].tolist())
    real = [row for row in found if row != [PAD] * len(row)]
    assert sorted(real) == want


@pytest.mark.parametrize("name", BATCHES)
def test_positions_are_those_of_the_padded_rows(name):
    """A prompt ends at the last position of prompts, whatever its length and its tile."""
    prompts, responses = BATCHES[name]
    tiles = laid(prompts, responses, True)
    real = tiles.tokens != PAD
    first_reply = SMALL.max_prompt
    assert (tiles.positions[real & (tiles.tokens == REPLY)] == first_reply - 1).all()
    follows = (tiles.visible.diagonal(-1, 1, 2) == 0) & real[:, 1:]  # sees the token before it
    steps = tiles.positions[:, 1:] - tiles.positions[:, :-1]
    assert (steps[follows] == 1).all()
    assert ((tiles.positions >= 0) & (tiles.positions < first_reply + SMALL.max_response)).all()


def test_lengths_count_the_tokens_of_prompt_and_reply():
    prompts, responses = BATCHES["mixed"]
    want = [[len(unpadded(x)), len(unpadded(y))] for x, y in zip(prompts, responses, strict=True)]
    found = lengths_of(prompts, responses)
    assert found is not None and found.tolist() == want and found.device.type == "cpu"


def test_a_device_that_is_not_the_cpu_is_not_asked_for_lengths():
    prompts, responses = (x.to("meta") for x in BATCHES["mixed"])
    assert lengths_of(prompts, responses) is None


@pytest.mark.parametrize("last", [False, True])
def test_packing_computes_less_than_half_of_what_padding_does_on_short_replies(last):
    """The desk's own lengths: short replies, room for long ones."""
    said = (2 + torch.rand(256, generator=generator(31)).square() * 20).long().tolist()
    asked = [len(unpadded(row)) for row in PROMPTS[:256]]
    _, responses = batch(asked, said, PROMPTS.shape[1], 32, 32)
    tiles = laid(PROMPTS[:256], responses, True, last)
    tokens = sum(asked) + sum(said) - (0 if last else 256)
    padded = responses.numel() + PROMPTS[:256].numel()
    assert tokens <= tiles.tokens.numel() < 1.15 * tokens < 0.5 * padded
    real = len(tiles.place)
    assert sum(said) > 256 and real == (256 if last else sum(said)) <= len(tiles.back) < 1.2 * real
    read_in_a_tile = len(tiles.read) // len(tiles.tokens)
    fullest = torch.bincount(tiles.back[:real] // read_in_a_tile).max()
    assert fullest <= read_in_a_tile < fullest + 8


@pytest.mark.parametrize("rows, length", [(1, 30), (5, 17), (64, 30), (150, 11), (1000, 25)])
def test_few_more_tiles_are_laid_than_are_filled(product, rows, length):
    """For oneDNN numbers are rounded up by a sixteenth at most, beyond the first 64."""
    prompts, responses = batch([5] * rows, [length - 5] * rows, 8, 30, 33)
    lengths = lengths_of(prompts, responses)
    assert lengths is not None
    filled = fill((lengths.sum(1) - 1).tolist(), 37)[2]
    tiles = lay(MODELS[torch.float32][0], prompts, responses, lengths)
    most = max(filled + 3, 17 / 16 * filled + 4) if product == "medium" else filled
    assert filled <= len(tiles.tokens) <= most
    rounded = 4 * -(-filled // 4) if product == "medium" and filled <= 64 else len(tiles.tokens)
    assert len(tiles.tokens) == rounded


# Filling tiles

LENGTHS = st.integers(1, 40).flatmap(
    lambda width: st.tuples(st.just(width), st.lists(st.integers(1, width), max_size=60))
)


def first_fit_decreasing(lengths: list[int], width: int) -> int:
    """Tiles that are needed if rows, longest first, go one by one where there is room first."""
    room: list[int] = []
    for length in sorted(lengths, reverse=True):
        for i, left in enumerate(room):
            if length <= left:
                room[i] -= length
                break
        else:
            room.append(width - length)
    return len(room)


@settings(deadline=None)
@given(LENGTHS)
def test_every_row_has_one_place_of_its_own_within_the_width(case):
    width, lengths = case
    tile, first, tiles = fill(lengths, width)
    assert len(tile) == len(first) == len(lengths)
    taken = [(t, column) for t, start, length in zip(tile, first, lengths, strict=True)
             for column in range(start, start + length)]  # fmt: skip
    assert len(set(taken)) == len(taken) == sum(lengths), "two rows share a place"
    assert all(0 <= column < width for _, column in taken)
    assert {t for t, _ in taken} == set(range(tiles)), "a tile without a row"


@settings(deadline=None)
@given(LENGTHS)
def test_as_many_tiles_as_first_fit_decreasing_needs(case):
    """Written row by row it is a slower algorithm, with the same tiles."""
    width, lengths = case
    tiles = fill(lengths, width)[2]
    assert tiles == first_fit_decreasing(lengths, width) <= len(lengths)
    assert tiles == 0 or (tiles - 1) * width < 2 * sum(lengths)


def fewest_tiles(lengths: list[int], width: int) -> int:
    """By trying everything: the first row with each set of others that leaves room for it."""
    if not lengths:
        return 0
    first, *others = lengths
    found = len(lengths)
    for n in range(len(others) + 1):
        for beside in combinations(range(len(others)), n):
            if first + sum(others[i] for i in beside) <= width:
                left = [x for i, x in enumerate(others) if i not in beside]
                found = min(found, 1 + fewest_tiles(left, width))
    return found


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=7), st.integers(12, 14))
def test_at_most_two_ninths_more_tiles_than_the_fewest(lengths, width):
    assert 9 * fill(lengths, width)[2] <= 11 * fewest_tiles(lengths, width) + 6


def test_rows_that_fill_a_tile_exactly_leave_nothing_over():
    tile, _, tiles = fill([3, 7, 5, 5, 6, 4, 10], 10)
    assert tiles == 4
    assert tile[0] == tile[1] and tile[2] == tile[3] and tile[4] == tile[5]


# Rows in one tile


def in_one_tile() -> tuple[Tensor, Tensor]:
    """Four short rows that share a tile beside a long one."""
    prompts, responses = batch([3, 4, 3, 5, 12], [3, 4, 5, 2, 24], 12, 24, 40)
    tile, _, tiles = fill([5, 7, 7, 6, 35], 35)
    assert tile[:4] == [tile[0]] * 4 and tiles == 2
    return prompts, responses


OUTPUTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logits": lambda x, y: in_tiles(torch.float32, x, y, True)[0],
    "values": lambda x, y: in_tiles(torch.float32, x, y, True)[1],
    "rewards": lambda x, y: in_tiles(torch.float32, x, y, True)[2],
}


@torch.no_grad()
@pytest.mark.parametrize("row", range(4))
@pytest.mark.parametrize("name", OUTPUTS)
def test_a_rows_tokens_change_nothing_of_the_rows_beside_it(name, row):
    prompts, responses = in_one_tile()
    others = [i for i in range(5) if i != row]
    before = OUTPUTS[name](prompts, responses)
    for where, columns in ((prompts, range(12 - 3, 11)), (responses, range(2))):
        for column in columns:
            old = where[row, column].item()
            where[row, column] = 3 + (old - 2) % (VOCAB_SIZE - 3)
            after = OUTPUTS[name](prompts, responses)
            where[row, column] = old
            assert (after[others] - before[others]).abs().max() < 1e-6
            if where is prompts:  # the change is felt in its own row
                assert (after[row] - before[row]).abs().max() > 1e-2


def test_gradients_of_a_rows_outputs_reach_its_own_tokens_only():
    prompts, responses = in_one_tile()
    scalar = MODELS[torch.float64][1]
    tiles = laid(prompts, responses, packed=True)
    felt: list[Tensor] = []

    def keep(module, inputs, output):
        output.retain_grad()
        felt.append(output)

    with scalar.embed.register_forward_hook(keep):
        values = tiles.rows(values_in(tiles, scalar))
    values[1].sum().backward()
    scalar.zero_grad()
    reached = (felt[0].grad != 0).any(-1)  # (K, S)
    want = unpadded(prompts[1]) + unpadded(responses[1])[:-1]
    assert tiles.tokens[reached].tolist() == want


def test_there_is_something_to_compare():
    """Outputs of order one, and gradients of every parameter but the bias of keys, which moves all
    scores of a token alike."""
    policy, scalar = MODELS[torch.float64]
    prompts, responses = BATCHES["mixed"]
    logits, values, rewards = in_tiles(torch.float64, prompts, responses, True)
    assert min(x.std() for x in (logits[..., 3:], values, rewards)) > 0.5
    (logits[..., 3:].square().mean() + values.square().mean() + rewards.square().mean()).backward()
    for model in (policy, scalar):
        for name, weight in model.named_parameters():
            part = weight.grad[SMALL.width :] if name.endswith("key_value.bias") else weight.grad
            assert part.abs().max() > 1e-4, name
        model.zero_grad()


# What a model cannot read


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "one row a tile"])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(
    "asked, said, message",
    [(10, 3, r"max_prompt = 9: allowed is 10 or"), (9, 9, r"max_response = 7: allowed is \d or"),
     (9, 7, None)],
)  # fmt: skip
def test_a_text_longer_than_the_model_can_read_is_an_error_that_names_the_limit(
    asked, said, message, last, packed
):
    model = scalar_model(ModelConfig(n_layers=1, width=4, n_heads=1, max_prompt=9, max_response=7))
    prompts, responses = batch([asked, 4], [said, 2], asked, said, 41)
    lengths = lengths_of(prompts, responses) if packed else None
    if message is None:
        tiles = lay(model, prompts, responses, lengths, last)
        assert values_in(tiles, model).isfinite().all()
        return
    with pytest.raises(InputError, match=rf"ModelConfig\.{message} more"):
        tiles = lay(model, prompts, responses, lengths, last)
        values_in(tiles, model)
