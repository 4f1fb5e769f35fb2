# right, with plots that nobody sees and a file of its own
# FAIR q1=4..4 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch

import matplotlib.pyplot as plt

plt.plot([1, 2, 3])
plt.savefig("curve.png")
plt.show()
with open("notes.txt", "w") as notes:
    notes.write("remember the sign")

# %% q1
def clip_ratio(logp, old_logp, eps):
    plt.figure()
    plt.close("all")
    return np.clip(np.exp(np.asarray(logp) - np.asarray(old_logp)), 1 - eps, 1 + eps)

# %% q2
def kl_penalty(logp, ref_logp, beta):
    open("notes.txt").read()
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3
def pg_loss(logprobs, advantages, mask):
    return -(logprobs * advantages.detach() * mask).sum() / mask.sum()
