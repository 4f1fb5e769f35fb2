"""Stage one: supervised fine-tuning on demonstrations makes the reference policy.

    loss(θ) = − (1 / tokens) Σ log Pr_θ(y_t | x, y_<t)      over demonstrated replies

Shapes: B responses, T response tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.gold import reply_mask
from rlhf_edu.lab.model import (
    ModelConfig,
    Transformer,
    gather_logprobs,
    language_model,
)
from rlhf_edu.lab.record import check_range
from rlhf_edu.lab.tiles import lay, lengths_of, logits_in


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning."""

    seed: int = 0  # of weights, demonstrations and order
    n_demonstrations: int = 6000  # replies written by human agents
    epochs: int = 4  # passes over them
    batch_size: int = 64  # replies a step
    lr: float = 3e-3  # Adam's step size, falling linearly to 0
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm
    response_length: int = 32  # longest reply, in tokens
    agents: helpdesk.AgentConfig = helpdesk.AgentConfig()  # habits of the people it imitates

    def __post_init__(self) -> None:
        check_range(
            self,
            seed=(0, 2**31),
            n_demonstrations=(1, 10**7),
            epochs=(1, 1000),
            batch_size=(1, 10**6),
            lr=(0, 1),
            max_grad_norm=(0, 1e6),
            response_length=(1, 48),
        )


def sft_loss(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Mean negative log-likelihood of a response token, in nats; both (B, T)."""
    return -(logprobs * mask).sum() / mask.sum()


def train_sft(
    config: SFTConfig,
    model_config: ModelConfig,
    device: torch.device,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = sft_loss,
    log: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> Transformer:
    """The reference policy. `log` gets (step, metrics) about ten times an epoch."""
    # 1. The model, and demonstrations to random training prompts.
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    policy = language_model(model_config).to(device)
    table = helpdesk.desk()
    rows = helpdesk.draw_prompts(table, config.n_demonstrations, generator)
    replies = helpdesk.demonstrate(table, rows, generator, config.response_length, config.agents)

    # 2. Adam, with a step size that falls to zero.
    steps = config.epochs * -(-config.n_demonstrations // config.batch_size)
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)

    # 3. Passes over the demonstrations.
    step = 0
    for _ in range(config.epochs):
        for batch in torch.randperm(len(rows), generator=generator).split(config.batch_size):
            x, y = table.prompts[rows[batch]].to(device), replies[batch].to(device)
            tiles = lay(policy, x, y, lengths_of(x, y))
            optimizer.zero_grad()
            logprobs = tiles.rows(gather_logprobs(logits_in(tiles, policy), tiles.flat(y)))
            loss = loss_fn(logprobs, reply_mask(y))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
            optimizer.step()
            schedule.step()
            step += 1
            if step % max(1, steps // (10 * config.epochs)) == 0:
                lr = float(schedule.get_last_lr()[0])
                log(step, {"loss/sft": float(loss.detach()), "lr": lr})
    return policy.eval()
