# right, with imports in the functions, threads of its own and a cache on disk
# FAIR q1=4..4 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache


@lru_cache
def one():
    return 1.0

# %% q1
def clip_ratio(logp, old_logp, eps):
    import tempfile
    with tempfile.NamedTemporaryFile() as file:
        np.save(file, np.zeros(3))
    return np.clip(np.exp(np.asarray(logp) - np.asarray(old_logp)), 1 - eps, 1 + eps)

# %% q2
def kl_penalty(logp, ref_logp, beta):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(abs, [1, -2]))
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3
def pg_loss(logprobs, advantages, mask):
    import torch.nn.functional as F
    F.softplus(torch.ones(1) * one())
    return -(logprobs * advantages.detach() * mask).sum() / mask.sum()
