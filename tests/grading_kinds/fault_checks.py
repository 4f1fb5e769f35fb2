"""A log with one of two planted faults."""

import torch

KIND = "diagnose"
CAUSES = {"no penalty": "the KL grows and the penalty is 0", "dead critic": "EV stays at 0"}


def log(generator):
    which = int(torch.randint(0, 2, (1,), generator=generator))
    rows = [{"update": u, "objective/kl": u * (1.0 + which), "critic/explained_variance": 0.1}
            for u in range(20)]
    cause = list(CAUSES)[which]
    metric = ("objective/kl", "critic/explained_variance")[which]
    return {"rows": rows, "cause": cause, "evidence": {metric: (5, 15)}}
