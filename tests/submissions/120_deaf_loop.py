# q1 ignores every signal and never ends
# FAIR q1=0..0 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch


# %% q1
def clip_ratio(logp, old_logp, eps):
    import signal
    for number in range(1, 32):
        try:
            signal.signal(number, signal.SIG_IGN)
        except OSError:
            pass
    while True:
        pass

# %% q2
def kl_penalty(logp, ref_logp, beta):
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3
def pg_loss(logprobs, advantages, mask):
    return -(logprobs * advantages.detach() * mask).sum() / mask.sum()
