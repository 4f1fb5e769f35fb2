"""A companion to the RLHF chapters of "Foundations of Large Language Models" (Xiao & Zhu).

Concept modules hold the formulas, `rlhf_edu.lab` trains tiny models with them, `rlhf_edu.cases`
are experiments in that laboratory, and the command `rlhf-edu` runs them. This file does not
import torch, so that `rlhf-edu --help` answers at once.
"""

__version__ = "0.1.0"


class InputError(ValueError):
    """An error for people: the message says what was given, what is allowed, and what to do.

    The command line prints it as one line and ends with exit code 2.
    """
