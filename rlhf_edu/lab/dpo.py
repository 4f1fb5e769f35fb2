"""Direct preference optimisation: the policy learns from compared pairs, without a reward model.

    r(x, y) = β · (log π(y|x) − log π_ref(y|x))         the reward that is hidden in the policy
    loss    = − mean log σ( r(x, chosen) − r(x, rejected) )

No sampling, no critic, no reward model: one pass over the pairs, a log-probability of each reply
under the policy and under the frozen reference. (Rafailov et al. 2023; with a length penalty, Park
et al. 2024.)
Shapes: N pairs, B responses, T response tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.gold import reply_mask
from rlhf_edu.lab.model import Transformer, gather_logprobs, language_model
from rlhf_edu.lab.raters import Preferences
from rlhf_edu.lab.record import check_range
from rlhf_edu.lab.tiles import lay, lengths_of, logits_in
from rlhf_edu.preference_optimization import dpo_loss


@dataclass(frozen=True)
class DPOConfig:
    """Training of a policy on pairs."""

    seed: int = 0  # of the order
    epochs: int = 1  # passes over the pairs
    batch_size: int = 64  # pairs a step
    lr: float = 3e-4  # Adam's step size, falling linearly to 0
    max_grad_norm: float = 1.0  # gradients are scaled down to this norm
    beta: float = 0.1  # β: how dear it is to leave the reference
    length_penalty: float = 0.0  # α of the length-regularised form, a token; 0: plain DPO
    response_length: int = 32  # longest response of its examinations, in tokens
    temperature: float = 1.0  # of every log-probability, and of the examinations

    def __post_init__(self) -> None:
        check_range(
            self,
            seed=(0, 2**31),
            epochs=(1, 1000),
            batch_size=(1, 10**6),
            lr=(0, 1),
            max_grad_norm=(0, 1e6),
            beta=(1e-6, 1e6),
            length_penalty=(0, 1e6),
            response_length=(1, 10**4),
            temperature=(1e-3, 1e3),
        )


def response_logps(
    model: Transformer, prompts: Tensor, responses: Tensor, temperature: float = 1.0
) -> Tensor:
    """log Pr(response | prompt) (B,), summed over its tokens up to and including <eos>."""
    tiles = lay(model, prompts, responses, lengths_of(prompts, responses))
    logits = logits_in(tiles, model, temperature)
    logprobs = tiles.rows(gather_logprobs(logits, tiles.flat(responses)))
    return (logprobs * reply_mask(responses)).sum(1)


def train_dpo(
    config: DPOConfig,
    preferences: Preferences,
    reference: Transformer,
    loss_fn: Callable[..., Tensor] = dpo_loss,
    after_step: Callable[[int, Transformer, dict[str, float]], None] = lambda i, policy, m: None,
) -> Transformer:
    """A policy that starts as the reference; `after_step` is told about ten times an epoch."""
    # 1. The policy is a copy of the reference.
    device = reference.embed.weight.device
    generator = torch.Generator().manual_seed(config.seed)
    policy = language_model(reference.config).to(device)
    policy.load_state_dict(reference.state_dict())
    prompts = helpdesk.desk().to(device).prompts
    pairs = torch.stack([preferences.chosen, preferences.rejected], 1)  # (N, 2, T)

    # 2. Adam, with a step size that falls to zero.
    steps = config.epochs * -(-len(pairs) // config.batch_size)
    optimizer = torch.optim.Adam(policy.parameters(), lr=config.lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)

    # 3. Passes over the pairs: both replies of a pair go through both models together.
    step = 0
    for _ in range(config.epochs):
        for batch in torch.randperm(len(pairs), generator=generator).split(config.batch_size):
            x = prompts[preferences.rows[batch]].repeat_interleave(2, 0)
            y = pairs[batch].flatten(0, 1)
            lengths = reply_mask(y).sum(1).view(-1, 2)
            optimizer.zero_grad()
            now = response_logps(policy, x, y, config.temperature).view(-1, 2)
            with torch.no_grad():
                ref = response_logps(reference, x, y, config.temperature).view(-1, 2)
            loss = loss_fn(now[:, 0], now[:, 1], ref[:, 0], ref[:, 1], config.beta,
                           config.length_penalty, lengths[:, 0], lengths[:, 1])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), config.max_grad_norm)
            optimizer.step()
            schedule.step()
            step += 1
            if step % max(1, steps // (10 * config.epochs)) == 0:
                lead = ((now - ref)[:, 0] - (now - ref)[:, 1]).detach()
                after_step(step, policy, {"loss/dpo": float(loss.detach()),
                                          "dpo/accuracy": float((lead > 0).float().mean())})
    return policy.eval()
