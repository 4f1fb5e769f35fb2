# q1 holds 3 GB in files that no limit counts, then answers right
# FAIR q1=0..0 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch


# %% q1

def clip_ratio(logp, old_logp, eps):
    import os
    for i in range(50):
        fd = os.memfd_create("x")
        for _ in range(4):
            os.write(fd, bytes(2**24))
    return np.clip(np.exp(logp - old_logp), 1 - eps, 1 + eps)

# %% q2
def kl_penalty(logp, ref_logp, beta):
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3
def pg_loss(logprobs, advantages, mask):
    return -(logprobs * advantages.detach() * mask).sum() / mask.sum()
