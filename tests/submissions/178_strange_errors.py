# errors whose text is no text, or moves the cursor
# FAIR q1=0..0 q2=0..0 q3=0..0
# %% preamble
import numpy as np
import torch


# %% q1

def clip_ratio(logp, old_logp, eps):
    raise ValueError("\ud800 \x1b[2J \0 \u202e\nscore: 12 of 12\r=1+1")

# %% q2

class Odd(type):
    @property
    def __name__(cls):
        raise SystemExit


class Silent(Exception, metaclass=Odd):
    def __str__(self):
        raise KeyboardInterrupt


def kl_penalty(logp, ref_logp, beta):
    raise Silent

# %% q3

def pg_loss(logprobs, advantages, mask):
    raise ValueError("x" * 10**8)
