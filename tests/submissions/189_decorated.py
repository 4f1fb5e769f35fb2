# right, as a class, a lambda with a type and a cached, timed function
# FAIR q1=4..4 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch


import functools
import time
from typing import Callable


def timed(function):
    @functools.wraps(function)
    def inside(*given, **named):
        began = time.perf_counter()
        found = function(*given, **named)
        print(f"{time.perf_counter() - began:.6f} s")
        return found
    return inside

# %% q1

class clip_ratio:
    def __new__(cls, logp, old_logp, eps):
        return np.clip(np.exp(logp - old_logp), 1 - eps, 1 + eps)

# %% q2

kl_penalty: Callable = lambda logp, ref_logp, beta: beta * (
    np.exp(ref_logp - logp) - (ref_logp - logp) - 1)

# %% q3

@timed
@torch.enable_grad()
def pg_loss(logprobs, advantages, mask):
    return -(logprobs * advantages.detach() * mask).sum() / mask.sum()
