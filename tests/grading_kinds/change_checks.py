"""An experiment on hidden seeds: a parabola with noise."""

import random

KIND = "intervene"
ALLOWED = {"beta": (0.0, 1.0), "placement": ["reward", "loss"], "most changes": 2}
POINTS = {"reward kept": 4, "regressions removed": 6}
SECONDS = 20.0
SEEDS = 3
RIGHT = {"beta": 0.4}


def run(config, seed):
    if config.get("placement") == "loss":
        while True:
            pass
    return 1 - (config["beta"] - 0.4) ** 2 + 0.01 * random.Random(seed).random()


def score(results):
    worst = min(results)
    return {"reward kept": (worst, f"{worst:.3f} on the worst seed"),
            "regressions removed": (sum(r > 0.9 for r in results) / len(results), "above 0.9")}
