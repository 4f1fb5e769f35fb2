"""The clipped ratio, for the tests of the grader."""

import numpy as np


def _ref_clip_ratio(logp, old_logp, eps):
    ### BEGIN SOLUTION
    return np.clip(np.exp(np.asarray(logp) - np.asarray(old_logp)), 1 - eps, 1 + eps)
    ### END SOLUTION


clip_ratio = _ref_clip_ratio
