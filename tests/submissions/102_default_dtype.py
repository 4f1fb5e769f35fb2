# right, after torch.set_default_dtype(float16) and float64
# FAIR q1=4..4 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch

torch.set_default_dtype(torch.float16)
torch.set_default_dtype(torch.float64)

# %% q1
def clip_ratio(logp, old_logp, eps):
    return np.clip(np.exp(np.asarray(logp) - np.asarray(old_logp)), 1 - eps, 1 + eps)

# %% q2
def kl_penalty(logp, ref_logp, beta):
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3
def pg_loss(logprobs, advantages, mask):
    sign = -torch.ones(logprobs.shape)  # of the default dtype
    return (sign * logprobs * advantages.detach() * mask).sum() / mask.sum()
