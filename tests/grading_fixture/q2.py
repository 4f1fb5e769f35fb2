"""The KL penalty, for the tests of the grader."""

import numpy as np


def _ref_kl_penalty(logp, ref_logp, beta):
    ### BEGIN SOLUTION
    d = np.asarray(ref_logp) - np.asarray(logp)
    return beta * (np.exp(d) - d - 1)
    ### END SOLUTION


kl_penalty = _ref_kl_penalty
