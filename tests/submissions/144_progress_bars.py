# right, with progress bars in every call
# FAIR q1=4..4 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch

from tqdm import tqdm, trange

# %% q1
def clip_ratio(logp, old_logp, eps):
    for step in tqdm(range(2000), desc="rechne …"):
        if step % 500 == 0:
            tqdm.write(f"step {step}")
    for _ in trange(3):
        pass
    return np.clip(np.exp(np.asarray(logp) - np.asarray(old_logp)), 1 - eps, 1 + eps)

# %% q2
def kl_penalty(logp, ref_logp, beta):
    for step in tqdm(range(2000), desc="rechne …"):
        if step % 500 == 0:
            tqdm.write(f"step {step}")
    for _ in trange(3):
        pass
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3
def pg_loss(logprobs, advantages, mask):
    for step in tqdm(range(2000), desc="rechne …"):
        if step % 500 == 0:
            tqdm.write(f"step {step}")
    for _ in trange(3):
        pass
    return -(logprobs * advantages.detach() * mask).sum() / mask.sum()
