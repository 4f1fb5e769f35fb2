# q1 holds 2.4 GB that it shares with helpers, then answers right
# FAIR q1=0..0 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch


# %% q1

def clip_ratio(logp, old_logp, eps):
    import mmap
    import os
    import time
    for _ in range(3):
        if os.fork() == 0:
            held = mmap.mmap(-1, 800 * 2**20)
            for page in range(0, len(held), 4096):
                held[page] = 1
            time.sleep(30)
    time.sleep(1.5)
    return np.clip(np.exp(logp - old_logp), 1 - eps, 1 + eps)

# %% q2
def kl_penalty(logp, ref_logp, beta):
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3
def pg_loss(logprobs, advantages, mask):
    return -(logprobs * advantages.detach() * mask).sum() / mask.sum()
