"""Advantages without a critic: an answer is compared with the other answers to its prompt.

    rloo       A_i = R_i − mean of the others                    Ahmadian et al. 2024
    grpo       A_i = (R_i − mean) / SD, a token counts 1/|o_i|   Shao et al. 2024
    dr-grpo    A_i = R_i − mean, every token counts the same     Liu et al. 2025

R_i is the whole reward of response i, the KL penalty included where it is in the reward, and every
token of a response gets the same advantage. GRPO's 1/|o_i| is written into the advantages: the
losses of this package are means over all tokens of a batch, so a token of response i is weighted by
(mean length) / |o_i|, which gives each *response* the same weight.
A checker of right answers, the reward that such groups were made for, stands below.
Shapes: B responses, the G answers to a prompt one after another; T response tokens.
"""

import torch
from torch import Tensor

from rlhf_edu.advantage import grpo_advantage, reward_to_go, rloo_advantage
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.gold import gold_score
from rlhf_edu.lab.model import Transformer

KINDS = ("rloo", "grpo", "dr-grpo")


def group_advantages(
    rewards: Tensor,
    values: Tensor,
    mask: Tensor,
    gamma: float,
    lam: float,
    kind: str,
    group_size: int,
) -> tuple[Tensor, Tensor]:
    """Advantages and returns (B, T), in the place of `gae`: `values` and λ are not used.

    The returns are for a critic that may be trained beside it, to be looked at.
    """
    scores = (rewards * mask).sum(1).view(-1, group_size)
    each = {
        "rloo": lambda: rloo_advantage(scores),
        "grpo": lambda: grpo_advantage(scores),
        "dr-grpo": lambda: grpo_advantage(scores, divide_by_sd=False),
    }[kind]().flatten()
    if kind == "grpo":
        lengths = mask.sum(1)
        each = each * lengths.mean() / lengths
    return torch.where(mask.bool(), each[:, None], 0.0), reward_to_go(rewards, mask, gamma)


class RightAnswer:
    """A checker in the place of a reward model: 1 if every right unit is there and no other.

    Prompts (B, L) of the desk and responses (B, T) → (B,). `model` is what a critic may start from.
    """

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.rows = {tuple(x): i for i, x in enumerate(helpdesk.desk().prompts.tolist())}

    def asked(self, prompts: Tensor) -> helpdesk.Desk:
        """What the desk knows of these prompts (B, L)."""
        rows = torch.tensor([self.rows[tuple(x)] for x in prompts.tolist()])
        return helpdesk.desk()[rows].to(prompts.device)

    def __call__(self, prompts: Tensor, responses: Tensor) -> Tensor:
        return (gold_score(responses, self.asked(prompts)).answer > 2 - 1e-6).float()
