# right, with threads that go on for ever
# FAIR q1=4..4 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch

import threading
import time


def idle():
    while True:
        time.sleep(0.01)


for _ in range(8):
    threading.Thread(target=idle, daemon=True).start()
torch.set_num_threads(2)

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
