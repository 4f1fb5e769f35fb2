# meta, sparse and endless values where numbers are expected
# FAIR q1=0..0 q2=0..0 q3=0..0
# %% preamble
import numpy as np
import torch


# %% q1

def clip_ratio(logp, old_logp, eps):
    nested = []
    nested.append(nested)
    return nested

# %% q2

def kl_penalty(logp, ref_logp, beta):
    return torch.eye(3).to_sparse()

# %% q3

def pg_loss(logprobs, advantages, mask):
    return torch.zeros((), device="meta")
