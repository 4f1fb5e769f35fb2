# q1 writes more answers than it was asked for, in pieces, from threads
# FAIR q1=0..0 q2=4..4 q3=4..4
# %% preamble
import numpy as np
import torch


# %% q1

def clip_ratio(logp, old_logp, eps):
    import os
    import struct
    import threading
    head = b'{"value": {"kind": "numpy", "dtype": "float64", "shape": [4], "bytes": 32}}'
    message = struct.pack("!II", len(head), 32) + head + bytes(32)

    def write():
        for i in range(0, len(message), 7):
            os.write(201, message[i:i + 7])

    for _ in range(4):
        threading.Thread(target=write).start()
    return np.full(np.shape(logp), 12345.0)

# %% q2
def kl_penalty(logp, ref_logp, beta):
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)

# %% q3
def pg_loss(logprobs, advantages, mask):
    return -(logprobs * advantages.detach() * mask).sum() / mask.sum()
