"""Small models in which what one token is depends on all that it may see, and the desk's prompts.

A fresh model has weights near 0: all its outputs are nearly alike, and a test of them would pass
whatever the code did. These have weights, and so outputs, of order one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.helpdesk import EOS, PAD
from rlhf_edu.lab.model import ModelConfig, Transformer

SMALL = ModelConfig(n_layers=3, width=16, n_heads=4)  # a first, a last and one between them
PROMPTS = helpdesk.desk().prompts[torch.randperm(777, generator=torch.Generator().manual_seed(3))]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lively(model: Transformer, seed: int, ends: float = 0.0) -> Transformer:
    """The model with weights of order one; `ends` raises the logit of <eos>."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                # Drawn in 32 bits, so that models of 32 and of 64 bits get the same weights.
                draw = torch.randn(weight.shape, generator=generator(seed), dtype=torch.float32)
                weight.copy_(0.5 * draw)
            seed += 1
        if ends:
            model.head.bias[EOS] += ends
    return model.eval()


def unpadded(row: Tensor) -> list[int]:
    """The tokens of a prompt or of a reply."""
    return [token for token in row.tolist() if token != PAD]
