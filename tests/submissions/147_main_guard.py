# right, with a main guard that reads a file, trains and exits
# FAIR q1=4..4 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch

import sys


def main():
    print(open("data/that/nobody/has.csv").read())
    while True:
        pass


if __name__ == "__main__":
    main()
    sys.exit(0)

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
