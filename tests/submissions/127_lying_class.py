# returns an object that says it is an array
# FAIR q1=0..0 q2=4..4 q3=0..0
# %% preamble
import numpy as np
import torch

class Pretender:
    __class__ = np.ndarray
    shape, dtype, ndim, size = (4,), np.dtype("float64"), 1, 4

    def __eq__(self, other):
        return True

    def __array__(self, *a, **k):
        return np.full(4, 12345.0)

    def item(self):
        return 0.0

# %% q1
def clip_ratio(logp, old_logp, eps):
    return Pretender()

# %% q2
def kl_penalty(logp, ref_logp, beta):
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3
def pg_loss(logprobs, advantages, mask):
    return Pretender()
