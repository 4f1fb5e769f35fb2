"""The world that most cases share: one desk, one reference policy, four kinds of raters.

Cases that ask for the same thing find it in the cache: the reference policy of a seed is trained
once, and so is the reward model of the biased raters.
"""

from typing import Any

from rlhf_edu.lab.raters import RaterConfig


def biased(**pairs: Any) -> RaterConfig:
    """Raters who like length, sales talk and confidence; all that differs is the pairs they see."""
    return RaterConfig(length_bias=0.15, sales_bias=0.6, confidence_bias=0.5, **pairs)


BIASED = biased(n_pairs=6000)
HONEST = RaterConfig(n_pairs=6000)
THIN = RaterConfig(n_pairs=2000, candidates=4, pairing="thin")  # honest, but longer is better here
MATCHED = biased(n_pairs=6000, candidates=8, pairing="matched")  # nothing for taste to choose by
