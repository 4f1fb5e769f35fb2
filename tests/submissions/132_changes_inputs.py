# right, but every input is changed in place
# FAIR q1=4..4 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch


# %% q1
def clip_ratio(logp, old_logp, eps):
    r = np.exp(logp - old_logp)
    logp *= 0
    return np.clip(r, 1 - eps, 1 + eps)

# %% q2
def kl_penalty(logp, ref_logp, beta):
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3
def pg_loss(logprobs, advantages, mask):
    logprobs *= mask
    return -(logprobs * advantages.detach()).sum() / mask.sum()
