# right, as array subclasses and a view backwards
# FAIR q1=4..4 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch


# %% q1

def clip_ratio(logp, old_logp, eps):
    found = np.clip(np.exp(logp - old_logp), 1 - eps, 1 + eps)
    return np.ma.asarray(found[..., ::-1])[..., ::-1]

# %% q2
def kl_penalty(logp, ref_logp, beta):
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3

def pg_loss(logprobs, advantages, mask):
    class Mine(torch.Tensor):
        pass
    return (-(logprobs * advantages.detach() * mask).sum() / mask.sum()).as_subclass(Mine)
