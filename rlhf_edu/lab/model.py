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

from dataclasses import dataclass

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
    n_heads: int = 4  # attention heads; divides width
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
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.up = nn.Linear(config.width, 4 * config.width)
        self.down = nn.Linear(4 * config.width, config.width)

    def forward(
        self, x: Tensor, visible: Tensor, cache: tuple[Tensor, Tensor] | None, start: int
    ) -> Tensor:
        """x (B, S, D), visible (B, 1, S, keys), 0 or −∞ → (B, S, D)."""
        B, S, D = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, S, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        if cache is not None:
            cache[0][:, :, start : start + S] = k
            cache[1][:, :, start : start + S] = v
            k, v = cache[0][:, :, : start + S], cache[1][:, :, : start + S]
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=visible)
        x = x + self.out(seen.transpose(1, 2).reshape(B, S, D))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


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
        prompt_width: int,
        cache: Cache | None = None,
        start: int = 0,
        left_padding: Tensor | None = None,
    ) -> Tensor:
        """Hidden states (B, S, D) of `tokens` (B, S), whose first column is column `start`.

        `left_padding` (B,) is the number of hidden columns on the left; counted from the tokens
        when it is not given. With a `cache`, earlier columns are read from it. Raises InputError if
        a prompt or a reply is longer than this model can read.
        """
        replied = start + tokens.shape[1] - prompt_width
        for field, given in (("max_prompt", prompt_width), ("max_response", replied)):
            if given > getattr(self.config, field):
                raise InputError(
                    f"ModelConfig.{field} = {getattr(self.config, field)}: allowed is {given} or "
                    "more, the tokens that this model is given to read"
                )
        columns = torch.arange(start, start + tokens.shape[1], device=tokens.device)
        keys = torch.arange(start + tokens.shape[1], device=tokens.device)
        if left_padding is None:
            left_padding = (tokens[:, :prompt_width] == PAD).sum(1)
        hidden_left = keys < left_padding[:, None]  # (B, keys)
        causal = keys <= columns[:, None]  # (S, keys)
        itself = keys == columns[:, None]  # a padding row sees itself: softmax of nothing is NaN
        hidden = ~(causal & ~hidden_left[:, None] | itself)[:, None]
        visible = torch.zeros(hidden.shape, device=tokens.device).masked_fill(hidden, -torch.inf)
        # The first reply token has the same position number whatever the width of the prompts.
        x = self.embed(tokens) + self.position(columns + self.config.max_prompt - prompt_width)
        for i, block in enumerate(self.blocks):
            x = block(x, visible, None if cache is None else cache[i], start)
        return self.norm(x)

    def before_each_token(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """Hidden states (B, T, D) from which response token t is predicted or valued."""
        L, T = prompts.shape[1], responses.shape[1]
        return self.trunk(torch.cat([prompts, responses[:, :-1]], 1), L)[:, L - 1 : L - 1 + T]

    def empty_cache(self, batch: int, columns: int) -> Cache:
        """Room for keys and values of `columns` columns."""
        shape = (batch, self.config.n_heads, columns, self.config.width // self.config.n_heads)
        return [
            (self.embed.weight.new_zeros(shape), self.embed.weight.new_zeros(shape))
            for _ in self.blocks
        ]


def language_model(config: ModelConfig) -> Transformer:
    """A policy with random weights."""
    return Transformer(config, VOCAB_SIZE)


def scalar_model(config: ModelConfig, trunk_from: Transformer | None = None) -> Transformer:
    """A reward or value model; with `trunk_from` its trunk starts as a copy of that model's."""
    model = Transformer(config, 1)
    if trunk_from is not None:
        model.to(trunk_from.embed.weight.device)
        weights = {k: v for k, v in trunk_from.state_dict().items() if not k.startswith("head.")}
        model.load_state_dict(weights, strict=False)
    return model


def next_token_logits(model: Transformer, hidden: Tensor, temperature: float = 1.0) -> Tensor:
    """(…, D) → (…, V); <pad> and <reply> are never said."""
    logits = model.head(hidden) / temperature
    word = torch.arange(VOCAB_SIZE, device=logits.device)
    return logits.masked_fill((word == PAD) | (word == REPLY), -1e9)


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
    L = prompts.shape[1]
    hidden = model.trunk(torch.cat([prompts, responses], 1), L)
    last = L - 1 + mask.sum(1).long()
    return model.head(hidden[torch.arange(len(last), device=last.device), last])[:, 0]
