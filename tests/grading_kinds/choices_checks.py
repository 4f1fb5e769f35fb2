"""A quiz: a choice, a number of each student's own, an ordering."""

import torch

KIND = "quiz"


def questions(generator):
    x = round(0.9 * float(torch.rand(1, generator=generator)) + 1, 2)  # 2 has 2x = x²
    return [
        {"id": "direction", "ask": "Which KL is the penalty?", "points": 2, "answer": "b",
         "options": {"a": ("reference ‖ policy", "that is the forward one"),
                     "b": ("policy ‖ reference", "yes: samples come from the policy")}},
        {"id": "twice", "ask": f"Twice {x}?", "answer": 2 * x, "tolerance": 0.01,
         "explanation": "two times", "slips": {"that is its square": x * x}},
        {"id": "order", "ask": "Stages in order", "items": ["ppo", "sft", "reward model"],
         "answer": ["sft", "reward model", "ppo"], "explanation": "imitate, judge, optimise"},
    ]
