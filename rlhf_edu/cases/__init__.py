"""Case studies: experiments in the laboratory, each a file of data and the few lines of its own.

This file does not import torch, so that `rlhf-edu cases` answers at once.
"""

CASES: dict[str, str] = {
    "conflicting-signals": "reward up, people less pleased, KL up although penalised: why?",
}
"""The name of each case study, as `rlhf-edu run` takes it, and what it is about in one line."""
