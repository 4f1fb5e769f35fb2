"""Stage two: a reward model learns from compared pairs, by ranking.

    loss(φ) = − mean log σ( r_φ(x, chosen) − r_φ(x, rejected) )

Only differences are learned, so a reward has no zero of its own, and its unit is a log-odds. Before
it is used it gets a stated *gauge*: minus the reference policy's mean, over the reference policy's
SD, on training prompts. A reward of +1 then means "one SD above what the reference usually gets".

Two remedies for a reward model that learned the wrong thing. A *length head* (ODIN, Chen et al.
2024, arXiv 2402.07319): the reward is r_Q + r_L while it is learned, r_L is pushed to follow length
and r_Q not to, and only r_Q is kept. An *ensemble* (Coste et al. 2023, arXiv 2310.02743): several
reward models, and a reply is worth what the most doubtful of them says.
Shapes: N pairs, B responses, T response tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_edu import InputError
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.gold import reply_mask
from rlhf_edu.lab.measure import correlation
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
    length_head: float = 0.0  # λ of ODIN's losses; 0: a single head
    centring: float = 0.0  # η of + η·mean (r_chosen + r_rejected)²
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
            length_head=(0, 1e6),
            centring=(0, 1e6),
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


COMBINE: dict[str, Callable[[Tensor], Tensor]] = {  # rewards (K, B) of K members → (B,)
    "mean": lambda r: r.mean(0),
    "min": lambda r: r.amin(0),  # WCO: the most doubtful member
    "mean - variance": lambda r: r.mean(0) - r.var(0, correction=0),  # UWO with λ = 1
}


@dataclass(frozen=True)
class Ensemble:
    """Several reward models, each in its own gauge, that speak with one voice (see COMBINE)."""

    members: tuple[RewardModel, ...]
    combine: str = "mean"

    @property
    def model(self) -> Transformer:
        """The first member's model: what a critic may start from."""
        return self.members[0].model

    @property
    def sd(self) -> float:
        """Raw units of reward (log-odds) in one unit of the gauge: the members' mean."""
        return sum(member.sd for member in self.members) / len(self.members)

    def __call__(self, prompts: Tensor, responses: Tensor) -> Tensor:
        """Rewards (B,) in the gauge."""
        return COMBINE[self.combine](torch.stack([m(prompts, responses) for m in self.members]))


def length_head_loss(heads: Tensor, lengths: Tensor, weights: Tensor) -> Tensor:
    """|ρ(r_Q, length)| − ρ(r_L, length) + |cos(w_Q, w_L)|: what makes the length head take length.

    `heads` (N, 2, 2): chosen and rejected, each with r_Q and r_L; `lengths` (N, 2); `weights`
    (2, D) of the two heads. Chen et al. 2024 correlate over the replies of a batch. Here the
    differences within pairs are correlated, for ranking is blind to what differs between prompts.
    """
    quality, length = (heads[:, 0] - heads[:, 1]).unbind(1)
    difference = (lengths[:, 0] - lengths[:, 1]).float()
    both = [correlation(r, difference) for r in (quality, length)]
    cosine = torch.nn.functional.cosine_similarity(weights[0], weights[1], dim=0)
    return both[0].abs() - both[1] + cosine.abs()


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
    heads = 2 if config.length_head else 1
    model = scalar_model(reference.config, trunk_from=reference, heads=heads).train()
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
            optimizer.zero_grad()
            each = rewards_in(tiles, model).view(-1, 2, heads)
            chosen, rejected = each.sum(2).unbind(1)
            loss = loss_fn(chosen, rejected)
            if config.centring:
                loss = loss + config.centring * (chosen + rejected).square().mean()
            if config.length_head:
                long = reply_mask(y).sum(1).view(-1, 2)
                loss = loss + config.length_head * length_head_loss(each, long, model.head.weight)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            schedule.step()
            step += 1
            if step % max(1, steps // (10 * config.epochs)) == 0:
                lr = float(schedule.get_last_lr()[0])
                log(step, {"loss/reward_model": float(loss.detach()), "lr": lr})

    if config.length_head:  # r_L is dropped
        kept = scalar_model(reference.config, trunk_from=model)
        kept.head.load_state_dict({k: v[:1] for k, v in model.head.state_dict().items()})
        model = kept

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
