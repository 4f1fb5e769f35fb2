"""Sequence packing: rows laid end to end in tiles, so that a model computes real tokens only.

    prompts and replies, padded          tiles
    · · a b c | d e · · ·                a b c d e k l m n o
    · k l m n | o p q · ·                f g h i j · · · · ·
    f g h i j | k · · · ·                              a token sees earlier tokens of its own row

A batch of padded rows costs its rows times the longest of them: on the desk's replies more than
half of that is padding. In tiles it costs its tokens, in one call, and outputs and gradients are
those of the padded rows up to rounding. The last block computes only what is read: the positions
from which response tokens are predicted or valued.

Without `lengths` every row is a tile of its own, padding included: the plain way, which the tests
compare with, and the way of a GPU, which then need not be asked how long the replies are.
Shapes: B responses, L prompt tokens, T response tokens, V vocabulary, K tiles of S tokens, R tokens
read in a tile, N response tokens in all (B·T without `lengths`).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rlhf_edu.lab.helpdesk import PAD
from rlhf_edu.lab.machine import compilable, rounded
from rlhf_edu.lab.model import Transformer, next_token_logits


def lengths_of(prompts: Tensor, responses: Tensor) -> Tensor | None:
    """Tokens of each prompt and of each reply, (B, 2); None on a GPU: it would have to be asked."""
    if prompts.device.type != "cpu":
        return None
    return torch.stack([(prompts != PAD).sum(1), (responses != PAD).sum(1)], 1)


@dataclass(frozen=True)
class Tiles:
    """A batch laid out for a model."""

    tokens: Tensor  # (K, S) token ids
    positions: Tensor  # (K, S) position numbers, as in the padded row
    visible: Tensor  # (K, S, S) 0 or −∞
    read: Tensor  # (K·R,) where among the K·S positions those are that are read
    back: Tensor  # (N + a few,) which of these K·R are real; then what makes up a rounder number
    place: Tensor  # (N,) which of the B·T response tokens each of them predicts
    shape: tuple[int, int]  # B, T

    def rows(self, x: Tensor) -> Tensor:
        """(N,) → (B, T), 0 where there is no response token."""
        B, T = self.shape
        return x.new_zeros(B * T).index_copy(0, self.place, x).view(B, T)

    def flat(self, x: Tensor) -> Tensor:
        """(B, T, …) → (N, …)."""
        return x.flatten(0, 1).index_select(0, self.place)


def fill(lengths: list[int], width: int) -> tuple[list[int], list[int], int]:
    """(tile of each row, its first column, number of tiles): the longest that fits goes next."""
    waiting: list[list[int]] = [[] for _ in range(width + 1)]
    for row, length in enumerate(lengths):
        waiting[length].append(row)
    tile, first, tiles, left = [0] * len(lengths), [0] * len(lengths), 0, len(lengths)
    while left:
        room = size = width
        while size:
            if waiting[size]:
                row = waiting[size].pop()
                tile[row], first[row] = tiles, width - room
                room, left = room - size, left - 1
                size = min(size, room)
            else:
                size -= 1
        tiles += 1
    return tile, first, tiles


def lay(model: Transformer, prompts: Tensor, responses: Tensor, lengths: Tensor | None = None,
        last: bool = False) -> Tiles:
    """Prompts (B, L) and responses (B, T) in tiles; `lengths` (B, 2) on the host, their tokens.

    What is read is where a response token is predicted or valued; with `last`, where the response
    has ended, and only there. A response's last token is laid only then.
    """
    (B, T), L, device = responses.shape, prompts.shape[1], prompts.device
    tokens = torch.cat([prompts, responses if last else responses[:, :-1]], 1)
    S = tokens.shape[1]
    if lengths is None:
        where, visible = model.as_rows(tokens, L)
        n = torch.arange(B if last else B * T, device=device)
        read = n * S + L - 1 + (responses != PAD).sum(1) if last else n // T * S + n % T + L - 1
        return Tiles(tokens, where, visible, read, n, n, (B, 1 if last else T))

    model.check_fits(L, S - L)
    # For each token laid: its row, its number there, where it comes from and where it goes.
    asked, total = lengths[:, 0], lengths.sum(1) - (0 if last else 1)
    tile, first, K = fill(total.tolist(), S)
    K = rounded(K, 4)
    row = torch.arange(B).repeat_interleave(total)
    nth = torch.arange(len(row)) - (total.cumsum(0) - total)[row]
    slot = (torch.tensor(tile) * S + torch.tensor(first))[row] + nth
    source = row * S + L - asked[row] + nth
    predicts = nth - asked[row] + 1  # number of the response token that it predicts; < 0: none
    is_read = nth == (total - 1)[row] if last else predicts >= 0

    positions = torch.zeros(K * S, dtype=torch.long).index_copy(
        0, slot, nth + model.config.max_prompt - asked[row])
    # A token sees what is neither before its row's first nor after itself; a filler sees itself.
    column = torch.arange(S)
    begin = column.repeat(K).index_copy(0, slot, torch.tensor(first)[row])
    before = torch.zeros(S, S).masked_fill_(column < column[:, None], -torch.inf)
    visible = before.index_select(0, begin).view(K, S, S) + before.T.contiguous()

    # What is read: as many places in every tile as in the fullest.
    wanted, by_slot = slot[is_read].sort()
    in_tile = wanted // S
    count = torch.bincount(in_tile, minlength=K)
    R = rounded(int(count.max()), 8)
    back = in_tile * R + torch.arange(len(wanted)) - (count.cumsum(0) - count)[in_tile]
    read = (torch.arange(K) * S).repeat_interleave(R).index_copy(0, back, wanted)
    back = F.pad(back, (0, rounded(len(back), 32) - len(back)))
    place = (row if last else row * T + predicts)[is_read][by_slot]

    def put(x: Tensor) -> Tensor:
        return x.to(device, non_blocking=True)

    words = tokens.flatten().index_select(0, put(source))
    tokens = words.new_zeros(K * S).index_copy(0, put(slot), words).view(K, S)
    return Tiles(tokens, put(positions.view(K, S)), put(visible), put(read), put(back), put(place),
                 (B, 1 if last else T))


@compilable
def before_each_token(model: Transformer, tiles: Tiles) -> Tensor:
    """Hidden states (N or a little more, D) from which response tokens are predicted or valued."""
    def read(x: Tensor) -> Tensor:  # (K, S, …) → (K, R, …)
        return x.flatten(0, 1).index_select(0, tiles.read).view(len(x), -1, x.shape[-1])

    def keep(x: Tensor) -> Tensor:  # (K, R, D) → (N + a few, D)
        return x.flatten(0, 1).index_select(0, tiles.back)

    return model.trunk(tiles.tokens, tiles.positions, tiles.visible, read=read, keep=keep)


def logits_in(tiles: Tiles, policy: Transformer, temperature: float = 1.0) -> Tensor:
    """Logits (N, V) with which each response token was, or would be, chosen."""
    logits = next_token_logits(policy, before_each_token(policy, tiles), temperature)
    return logits[: len(tiles.place)]


def rewards_in(tiles: Tiles, reward: Transformer) -> Tensor:
    """Rewards (B,), read at the last token of each response; of tiles laid with `last`.

    (B, K) of a model with K heads.
    """
    each = reward.head(before_each_token(reward, tiles))[: len(tiles.place)]
    heads = [tiles.rows(head)[:, 0] for head in each.unbind(1)]
    return heads[0] if len(heads) == 1 else torch.stack(heads, 1)


def values_in(tiles: Tiles, value: Transformer) -> Tensor:
    """Values (N,): what the critic expects before each response token is chosen."""
    return value.head(before_each_token(value, tiles))[: len(tiles.place), 0]
