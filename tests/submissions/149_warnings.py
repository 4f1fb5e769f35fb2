# right, with every kind of warning and 300 kB of text in every call
# FAIR q1=4..4 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch

import logging
import sys
import warnings

logging.getLogger().setLevel("DEBUG")

# %% q1
def clip_ratio(logp, old_logp, eps):
    warnings.warn("numbers", RuntimeWarning)
    logging.error("not an error")
    print("water " * 50_000)
    print("Traceback (most recent call last):", file=sys.stderr)
    np.log(np.zeros(1)) / 0
    return np.clip(np.exp(np.asarray(logp) - np.asarray(old_logp)), 1 - eps, 1 + eps)

# %% q2
def kl_penalty(logp, ref_logp, beta):
    warnings.warn("numbers", RuntimeWarning)
    logging.error("not an error")
    print("water " * 50_000)
    print("Traceback (most recent call last):", file=sys.stderr)
    np.log(np.zeros(1)) / 0
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3
def pg_loss(logprobs, advantages, mask):
    warnings.warn("numbers", RuntimeWarning)
    logging.error("not an error")
    print("water " * 50_000)
    print("Traceback (most recent call last):", file=sys.stderr)
    np.log(np.zeros(1)) / 0
    return -(logprobs * advantages.detach() * mask).sum() / mask.sum()
