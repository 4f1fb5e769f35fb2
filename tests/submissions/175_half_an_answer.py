# q1 starts an answer and takes memory while it is waited for
# FAIR q1=0..0 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch


# %% q1

def clip_ratio(logp, old_logp, eps):
    import os
    import struct
    import time
    os.write(201, struct.pack("!II", 1000, 0))
    for _ in range(3):
        if os.fork() == 0:
            held = bytearray(800 * 2**20)
            held[::4096] = bytes(len(held) // 4096)
            time.sleep(30)
    time.sleep(30)

# %% q2
def kl_penalty(logp, ref_logp, beta):
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3
def pg_loss(logprobs, advantages, mask):
    return -(logprobs * advantages.detach() * mask).sum() / mask.sum()
