"""Case studies: experiments in the laboratory, each a file of data and the few lines of its own.

This file does not import torch, so that `rlhf-edu cases` answers at once.
"""

CASES: dict[str, str] = {
    "tuning": "reward +18 %, behaviour worse: which of the settings is it?",
    "conflicting-signals": "reward up, people less pleased, KL up although penalised: why?",
    "hacking-spike": "all quiet at first, then reward and KL jump together: what was found?",
    "post-deployment-drift": "short answers grow longer after release: why does verbose pay?",
    "instability": "reward models grow more accurate, the policies end worse: how?",
    "choosing-objective": "too little β, too much β, and how much the rest of the settings matters",
    "blueprint": "20,000 labels, gates and a stop rule: a release that a reviewer could sign",
    "high-stakes": "SFT, best-of-n, PPO and DPO from the same labels, by their worst replies",
}
"""The name of each case study, as `rlhf-edu run` takes it, and what it is about in one line."""

STUDIES: dict[str, str] = {
    "best-of-n": "P1: gold of the best of n is d(α − βd), d = √KL; fitted small, tested large",
    "rl-overoptimization": "P2: gold of PPO is d(α − β log d), and the proxy leaves it behind",
    "reward-model-scaling": "P3: larger reward models and more labels are over-optimised later",
    "kl-and-early-stopping": "P4: the KL penalty moves along the gold-KL frontier, not beyond it",
    "length": "P5: how much of the reward gain is length, and PPO on length alone",
    "kl-estimators": "P6: k1, k2, k3: bias, noise, and the sign of single samples",
    "kl-gradients": "P7: what each estimator pulls towards when it is differentiated",
    "adaptive-kl": "P8: β that follows a target narrows the spread of the final KL",
    "predicted-preference": "P9: predicted preference keeps rising, the actual one turns",
    "implementation-details": "P10: one detail of PPO for language ablated at a time",
    "dpo-and-ppo": "P11: DPO and PPO meet π* in the exact world; the frontier on the desk",
    "reward-ensembles": "P13: several reward models, and the worst of them decides",
    "shared-bias": "P14: ensembles do not remove a bias that all members share",
    "length-head": "P15: a length head takes the length out of the reward, and no other hack",
    "best-of-n-bound": "P16: log n − (n−1)/n is an upper bound of the KL",
    "clip-or-tricks": "P17: what PPO owes to its clip and what to its other tricks",
    "leave-one-out": "P18: RLOO: the other answers to a prompt instead of a critic",
    "group-advantages": "P19: GRPO's two divisors, and what length has to do with them",
    "clip-higher": "P21: a wider upper clip keeps the entropy",
}
"""The same for the studies of published results, in cases/studies/."""
