# right, with a progress bar, logging, warnings and debugging prints
# FAIR q1=4..4 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch

import logging
import warnings

logging.basicConfig(level=logging.DEBUG)
warnings.warn("deprecated", DeprecationWarning)
try:
    from tqdm import tqdm
    for _ in tqdm(range(3)):
        pass
except ImportError:
    pass
print("shape:", np.zeros(3).shape)

# %% q1
def clip_ratio(logp, old_logp, eps):
    return np.clip(np.exp(np.asarray(logp) - np.asarray(old_logp)), 1 - eps, 1 + eps)

# %% q2
def kl_penalty(logp, ref_logp, beta):
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3
def pg_loss(logprobs, advantages, mask):
    return -(logprobs * advantages.detach() * mask).sum() / mask.sum()
