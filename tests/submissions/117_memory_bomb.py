# q1 takes all the memory it can get
# FAIR q1=0..0 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch


# %% q1
def clip_ratio(logp, old_logp, eps):
    held = []
    while True:
        held.append(bytearray(2**27))

# %% q2
def kl_penalty(logp, ref_logp, beta):
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3
def pg_loss(logprobs, advantages, mask):
    return -(logprobs * advantages.detach() * mask).sum() / mask.sum()
