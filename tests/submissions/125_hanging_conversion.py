# q1 returns an array subclass whose conversion never ends
# FAIR q1=0..0 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch

class Slow(np.ndarray):
    def __array_finalize__(self, obj):
        pass

    def __array__(self, *a, **k):
        while True:
            pass

    @property
    def dtype(self):
        while True:
            pass

# %% q1
def clip_ratio(logp, old_logp, eps):
    return np.full(np.shape(logp), 12345.0).view(Slow)

# %% q2
def kl_penalty(logp, ref_logp, beta):
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3
def pg_loss(logprobs, advantages, mask):
    return -(logprobs * advantages.detach() * mask).sum() / mask.sum()
