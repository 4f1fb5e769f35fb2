# right, with seeds, default dtype and gradient mode changed in every call
# FAIR q1=4..4 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch

import random
import warnings

# %% q1
def clip_ratio(logp, old_logp, eps):
    np.log(np.zeros(1))
    warnings.warn("the next call must not raise")
    warnings.simplefilter("error")
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    np.seterr(all="raise")
    torch.set_printoptions(precision=1)
    return np.clip(np.exp(np.asarray(logp) - np.asarray(old_logp)), 1 - eps, 1 + eps)

# %% q2
def kl_penalty(logp, ref_logp, beta):
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float16)
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3
def pg_loss(logprobs, advantages, mask):
    torch.use_deterministic_algorithms(True)
    torch.set_default_dtype(torch.float64)
    return -(logprobs * advantages.detach() * mask).sum() / mask.sum()
