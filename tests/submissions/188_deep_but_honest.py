# right, by a recursion for which it has raised the limit
# FAIR q1=4..4 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch

import sys

sys.setrecursionlimit(5000)


def total(x, i=0):
    return 0.0 if i == 3000 else total(x, i + 1)

# %% q1
def clip_ratio(logp, old_logp, eps):
    return np.clip(np.exp(np.asarray(logp) - np.asarray(old_logp)), 1 - eps, 1 + eps)

# %% q2
def kl_penalty(logp, ref_logp, beta):
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3

def pg_loss(logprobs, advantages, mask):
    return total(mask) - (logprobs * advantages.detach() * mask).sum() / mask.sum()
