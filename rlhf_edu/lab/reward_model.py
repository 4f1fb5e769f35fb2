"""Stage two: a reward model learns from compared pairs, by ranking.

    loss(φ) = − mean log σ( r_φ(x, chosen) − r_φ(x, rejected) )

Only differences are learned, so a reward has no zero of its own, and its unit is a log-odds. Before
it is used it gets a stated *gauge*: minus the reference policy's mean, over the reference policy's
SD, on training prompts. A reward of +1 then means "one SD above what the reference usually gets".
Shapes: N pairs, B responses, T response tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_edu import InputError
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.model import Transformer, scalar_model
from rlhf_edu.lab.raters import Preferences
from rlhf_edu.lab.record import check_range
from rlhf_edu.lab.sampling import sample
from rlhf_edu.lab.tiles import lay, lengths_of, rewards_in
from rlhf_edu.ranking_loss import pairwise_ranking_loss


@dataclass(frozen=True)
class RewardModelConfig:
    """Training of the reward model."""

    seed: int = 0  # of the order and of the gauge's replies
    epochs: int = 1  # passes over the pairs
    batch_size: int = 64  # pairs a step
    lr: float = 1e-3  # Adam's step size, falling linearly to 0
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm
    gauge_replies: int = 1024  # replies of the reference that fix zero and unit
    response_length: int = 32  # longest reply, in tokens

    def __post_init__(self) -> None:
        check_range(
            self,
            seed=(0, 2**31),
            epochs=(1, 1000),
            batch_size=(1, 10**6),
            lr=(0, 1),
            max_grad_norm=(0, 1e6),
            gauge_replies=(2, 10**6),
            response_length=(1, 48),
        )


@dataclass(frozen=True)
class RewardModel:
    """A trained reward model and its gauge: reward = (raw − mean) / sd."""

    model: Transformer
    mean: float  # of the reference policy's raw rewards
    sd: float  # of the same

    @torch.inference_mode()
    def __call__(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """Rewards (B,) in the gauge, for prompts (B, L) and padded replies (B, T)."""
        tiles = lay(self.model, prompts, responses, lengths_of(prompts, responses), last=True)
        raw = rewards_in(tiles, self.model)
        return (raw - self.mean) / self.sd


def train_reward_model(
    config: RewardModelConfig,
    preferences: Preferences,
    reference: Transformer,
    loss_fn: Callable[[Tensor, Tensor], Tensor] = pairwise_ranking_loss,
    log: Callable[[int, dict[str, float]], None] = lambda step, metrics: None,
) -> RewardModel:
    """A reward model whose trunk starts as the reference's; `loss_fn` takes (chosen, rejected)."""
    # 1. The model, and the lengths by which pairs are grouped.
    device = reference.embed.weight.device
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    model = scalar_model(reference.config, trunk_from=reference).train()
    prompts = helpdesk.desk().to(device).prompts
    pairs = torch.stack([preferences.chosen, preferences.rejected], 1)  # (N, 2, T)

    # 2. Adam, with a step size that falls to zero.
    steps = config.epochs * -(-len(pairs) // config.batch_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)

    # 3. Passes over the pairs: both replies of a pair go through the model together.
    step = 0
    for _ in range(config.epochs):
        for batch in torch.randperm(len(pairs), generator=generator).split(config.batch_size):
            x = prompts[preferences.rows[batch]].repeat_interleave(2, 0)
            y = pairs[batch].flatten(0, 1)
            tiles = lay(model, x, y, lengths_of(x, y), last=True)
            chosen, rejected = rewards_in(tiles, model).view(-1, 2).unbind(1)
            loss = loss_fn(chosen, rejected)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            schedule.step()
            step += 1
            if step % max(1, steps // (10 * config.epochs)) == 0:
                lr = float(schedule.get_last_lr()[0])
                log(step, {"loss/reward_model": float(loss.detach()), "lr": lr})

    # 4. The gauge: mean and SD of the reference's own replies to training prompts.
    rows = helpdesk.draw_prompts(helpdesk.desk(), config.gauge_replies, generator)
    replies, _ = sample(reference, prompts[rows], config.response_length, generator)
    raw = RewardModel(model.eval(), mean=0.0, sd=1.0)(prompts[rows], replies)
    if bool((raw == raw[0]).all()):
        raise InputError(
            "the reward model gives every reply of the reference the same reward, so it has no "
            "unit: train it on more pairs, or with a larger lr"
        )
    return RewardModel(model, float(raw.mean()), float(raw.std()))
