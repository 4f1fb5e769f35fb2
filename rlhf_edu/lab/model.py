"""A small decoder-only transformer, with a language-model head or with a scalar head.

RLHF has four models, all of this one shape:

    policy      Pr_θ(y_t | x, y_<t)   language-model head, trained
    reference   Pr_ref(y_t | x, y_<t) language-model head, frozen after supervised fine-tuning
    reward      r_φ(x, y)             scalar head, read at the last response token
    value       V_ω(x, y_<t)          scalar head, read *before* each response token

A row of tokens is a prompt, left-padded, followed by a reply, padded on the right. So the first
reply token stands in the same column in every row, padding on the left is hidden by the attention
mask, and padding on the right is hidden by causality.

    prompts (B, L)            responses (B, T)
    · · my router is slow ⇒   clear the memory <eos> ·

The output that predicts response token t is read one column earlier: columns L−1 … L+T−2.

Shapes: B responses, L prompt tokens, T response tokens, V vocabulary, D width.
Left out: dropout (it would make log-probabilities of the same reply differ between two passes),
weight tying, rotary positions; none matters at this size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlhf_edu import InputError
from rlhf_edu.lab.helpdesk import PAD, REPLY, VOCAB_SIZE
from rlhf_edu.lab.record import check_range


@dataclass(frozen=True)
class ModelConfig:
    """Size of the transformer."""

    n_layers: int = 2  # transformer blocks
    width: int = 64  # D, size of a token's vector
    n_heads: int = 2  # attention heads; divides width
    max_prompt: int = 16  # longest prompt, in tokens
    max_response: int = 48  # longest reply, in tokens

    def __post_init__(self) -> None:
        check_range(
            self,
            n_layers=(1, 1000),
            width=(1, 10**5),
            n_heads=(1, 10**5),
            max_prompt=(1, 10**5),
            max_response=(1, 10**5),
        )
        if self.width % self.n_heads:
            raise InputError(
                f"ModelConfig.n_heads = {self.n_heads}: allowed is a divisor of the width, "
                f"{self.width}"
            )


# One (keys, values) pair a layer, each (B, heads, L + T, D / heads), filled from the left.
Cache = list[tuple[Tensor, Tensor]]


class Block(nn.Module):
    """Attention, then a feed-forward layer, each added to the residual stream."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.n_heads = config.n_heads
        self.norm1, self.norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.query = nn.Linear(config.width, config.width)
        self.key_value = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)

    def forward(
        self,
        x: Tensor,
        visible: Tensor,
        cache: tuple[Tensor, Tensor] | None = None,
        read: Callable[[Tensor], Tensor] = lambda x: x,
        keep: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Tensor:
        """x (B, S, D), visible (B, S, keys), 0 or −∞ → (B, R, D), or what `keep` makes of that.

        `read` picks the R columns whose output is wanted; all the others only give keys and values.
        Where rows have different numbers of such columns, `keep` drops what only fills them up.
        """
        B, S, D = x.shape
        h = self.norm1(x)
        k, v = self.key_value(h).view(B, S, 2, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        if cache is not None:
            n = visible.shape[-1]  # columns that are known now; these tokens are the last of them
            cache[0][:, :, n - S : n], cache[1][:, :, n - S : n] = k, v
            k, v = cache[0][:, :, :n], cache[1][:, :, :n]
        x, h, visible = read(x), read(h), read(visible)
        q = self.query(h).view(B, -1, self.n_heads, D // self.n_heads).transpose(1, 2)
        # Three lines of formula take half the time of the library's kernel on heads this narrow.
        scores = ((q / q.shape[-1] ** 0.5) @ k.mT).add_(visible[:, None])  # (B, heads, R, keys)
        seen = (scores.softmax(-1) @ v).transpose(1, 2).reshape(x.shape)
        x, seen = keep(x), keep(seen)
        x = x + self.out(seen)
        # In two dimensions: compiled for a CPU, three make the activation's gradient crawl.
        h = self.up(self.norm2(x).flatten(0, -2))
        return x + self.down(F.relu(h, inplace=not torch.is_grad_enabled())).view(x.shape)


class Transformer(nn.Module):
    """The trunk and one linear head: `out_features` = V for a language model, 1 for a scalar."""

    def __init__(self, config: ModelConfig, out_features: int):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(VOCAB_SIZE, config.width)
        self.position = nn.Embedding(config.max_prompt + config.max_response, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, out_features)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.05)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        if out_features == 1:
            nn.init.zeros_(self.head.weight)  # a fresh scalar head says 0 everywhere

    def trunk(
        self,
        tokens: Tensor,
        positions: Tensor,
        visible: Tensor,
        cache: Cache | None = None,
        read: Callable[[Tensor], Tensor] = lambda x: x,
        keep: Callable[[Tensor], Tensor] = lambda x: x,
    ) -> Tensor:
        """Hidden states (B, R, D) of `tokens` (B, S) at `positions` (B, S) or (S,).

        `visible` (B, S, keys) is 0 where a token may look, −∞ elsewhere; `read` picks R of the S
        columns, all if not given, and `keep` some of these B·R: the last block computes no others.
        With a `cache` these tokens become the last of its first `keys` columns.
        """
        x = self.embed(tokens) + self.position(positions)
        kept: Sequence[tuple[Tensor, Tensor] | None] = cache or [None] * len(self.blocks)
        for i, block in enumerate(self.blocks[:-1]):
            x = block(x, visible, kept[i])
        return self.norm(self.blocks[-1](x, visible, kept[-1], read, keep))

    def before_each_token(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """Hidden states (B, T, D) from which response token t is predicted or valued."""
        L = prompts.shape[1]
        tokens = torch.cat([prompts, responses[:, :-1]], 1)
        return self.trunk(tokens, *self.as_rows(tokens, L), read=lambda x: x[:, L - 1 :])

    def check_fits(self, prompt_width: int, response_width: int) -> None:
        """Raise InputError if a prompt or a reply is longer than this model can read."""
        for field, given in (("max_prompt", prompt_width), ("max_response", response_width)):
            if given > getattr(self.config, field):
                raise InputError(
                    f"ModelConfig.{field} = {getattr(self.config, field)}: allowed is {given} or "
                    "more, the tokens that this model is given to read"
                )

    def as_rows(self, tokens: Tensor, prompt_width: int) -> tuple[Tensor, Tensor]:
        """Positions (S,) and visibility (B, S, S) of left-padded rows (B, S), for `trunk`."""
        S = tokens.shape[1]
        self.check_fits(prompt_width, S - prompt_width)
        columns = torch.arange(S, device=tokens.device)
        padding = columns < (tokens[:, :prompt_width] == PAD).sum(1)[:, None]  # (B, S)
        causal = columns <= columns[:, None]  # (S, S)
        itself = columns == columns[:, None]  # a padding row sees itself: softmax of nothing is NaN
        hidden = ~(causal & ~padding[:, None] | itself)  # (B, S, S)
        visible = torch.zeros(hidden.shape, device=tokens.device).masked_fill(hidden, -torch.inf)
        # The first reply token has the same position number whatever the width of the prompts.
        return columns + self.config.max_prompt - prompt_width, visible

    def empty_cache(self, batch: int, columns: int) -> Cache:
        """Room for keys and values of `columns` columns; what is not filled yet is not read."""
        shape = (batch, self.config.n_heads, columns, self.config.width // self.config.n_heads)
        return [
            (self.embed.weight.new_empty(shape), self.embed.weight.new_empty(shape))
            for _ in self.blocks
        ]


def language_model(config: ModelConfig) -> Transformer:
    """A policy with random weights."""
    return Transformer(config, VOCAB_SIZE)


def scalar_model(
    config: ModelConfig, trunk_from: Transformer | None = None, heads: int = 1
) -> Transformer:
    """A reward or value model; with `trunk_from` its trunk starts as a copy of that model's."""
    model = Transformer(config, heads)
    if trunk_from is not None:
        model.to(trunk_from.embed.weight.device)
        weights = {k: v for k, v in trunk_from.state_dict().items() if not k.startswith("head.")}
        model.load_state_dict(weights, strict=False)
    return model


@cache
def _never_said(device: torch.device) -> Tensor:
    """(V,) −10⁹ at <pad> and <reply>, else 0."""
    with torch.inference_mode(False):  # a constant for every mode
        words = torch.zeros(VOCAB_SIZE, device=device)
        words[[PAD, REPLY]] = -1e9
        return words


def next_token_logits(model: Transformer, hidden: Tensor, temperature: float = 1.0) -> Tensor:
    """(…, D) → (…, V); <pad> and <reply> are never said."""
    # The hidden state and the bias are divided, not the logits: those are V/D times as many.
    bias = model.head.bias / temperature + _never_said(hidden.device)
    return F.linear(hidden / temperature, model.head.weight, bias)


def response_logits(
    model: Transformer, prompts: Tensor, responses: Tensor, temperature: float = 1.0
) -> Tensor:
    """Logits (B, T, V) with which each response token was, or would be, chosen."""
    return next_token_logits(model, model.before_each_token(prompts, responses), temperature)


def gather_logprobs(logits: Tensor, responses: Tensor) -> Tensor:
    """Log-probabilities (B, T), in nats, of the tokens `responses` (B, T); logits (B, T, V)."""
    return logits.log_softmax(-1).gather(-1, responses[..., None])[..., 0]


def values_of(model: Transformer, prompts: Tensor, responses: Tensor) -> Tensor:
    """Values (B, T): what the critic expects before each response token is chosen."""
    return model.head(model.before_each_token(prompts, responses))[..., 0]


def reward_of(model: Transformer, prompts: Tensor, responses: Tensor, mask: Tensor) -> Tensor:
    """Rewards (B,), read at the last response token (its mask (B, T) says which)."""
    last = prompts.shape[1] - 1 + mask.sum(1).long()
    row = torch.arange(len(last), device=last.device)
    tokens = torch.cat([prompts, responses], 1)
    layout = model.as_rows(tokens, prompts.shape[1])
    hidden = model.trunk(tokens, *layout, read=lambda x: x[row, last][:, None])
    return model.head(hidden)[:, 0, 0]
