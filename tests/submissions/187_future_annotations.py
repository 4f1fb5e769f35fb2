# right, with annotations that are never evaluated
# FAIR q1=4..4 q2=4..4 q3=4..4
# %% preamble
from __future__ import annotations

import numpy as np
import torch


# %% q1
def clip_ratio(logp, old_logp, eps: Nowhere) -> Imagined[int]:
    return np.clip(np.exp(np.asarray(logp) - np.asarray(old_logp)), 1 - eps, 1 + eps)

# %% q2
def kl_penalty(logp, ref_logp, beta):
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3
def pg_loss(logprobs, advantages, mask: torch.Tensor | Mask):
    return -(logprobs * advantages.detach() * mask).sum() / mask.sum()
