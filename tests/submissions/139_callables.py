# right, as a callable object and a partial
# FAIR q1=4..4 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch

import functools


class Clip:
    def __call__(self, logp, old_logp, eps):
        return np.clip(np.exp(logp - old_logp), 1 - eps, 1 + eps)


def _kl(beta, logp, ref_logp):
    return beta * (np.exp(ref_logp - logp) - (ref_logp - logp) - 1)

# %% q1
clip_ratio = Clip()

# %% q2
def kl_penalty(logp, ref_logp, beta):
    return functools.partial(_kl, beta)(logp, ref_logp)

# %% q3
def pg_loss(logprobs, advantages, mask):
    return -(logprobs * advantages.detach() * mask).sum() / mask.sum()
