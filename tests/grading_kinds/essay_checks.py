"""Claims against facts, and prose."""

KIND = "explain"
CLAIMS = {"mechanism": ("What broke?", ["the reward model", "the clip"], 3),
          "direction": ("Which way did KL go?", ["up", "down"], 1)}
RUBRIC = ["names the reward model", "gives a number"]
MODEL_ANSWER = "The raters liked length."


def facts(generator):
    return {"mechanism": ("the reward model", "filler raises the reward by 1.0 SD"),
            "direction": ("up", "0 to 12 nats")}
