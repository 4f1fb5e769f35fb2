"""Quiz of chapter 8, conflicting signals: an explanation belongs to every option."""

from typing import Any

import torch

KIND = "quiz"
POINTS = 6
MINUTES = 10
ITEMS = [25, 42, 43, 50]


def questions(generator: torch.Generator) -> list[dict[str, Any]]:
    """Six questions; the numbers of the last two are each student's own."""
    u, v = torch.rand(2, generator=generator).tolist()
    # Apart, so that the KL is not near 0; and p + q is not near 1, where both directions are equal.
    p, q = round(0.75 + 0.2 * u, 2), round(0.3 + 0.2 * v, 2)
    beta = round(0.05 + 0.2 * float(torch.rand(1, generator=generator)), 2)
    log = torch.log(torch.tensor([p, q, 1 - p, 1 - q], dtype=torch.float64)).tolist()
    exact = p * (log[0] - log[1]) + (1 - p) * (log[2] - log[3])
    return [
        {"id": "k1-in-loss", "points": 1, "answer": "c",
         "ask": "The penalty stands in the loss as β·(log π_θ − log π_ref) on samples of the "
                "policy. What is its expected gradient at the first step?",
         "options": {
             "a": ("the gradient of KL(policy ‖ reference)",
                   "That is k2's. k1's value is right on average, its gradient is not."),
             "b": ("the gradient of KL(reference ‖ policy)", "That is k3's."),
             "c": ("zero", "Yes: E[∇ log π] = 0, and π_ref is a constant that is not in it."),
             "d": ("the gradient of the entropy",
                   "The entropy's gradient weighs ∇ log π by −log π; here the weight is 1.")}},
        {"id": "beta", "points": 1, "answer": "b",
         "ask": "The penalty is in the reward, with k1. What does a larger β change?",
         "options": {
             "a": ("how fast the KL climbs in the first updates, and nothing else",
                   "At the start the penalty is 0 for every reply, so β hardly matters there."),
             "b": ("where the KL settles",
                   "Yes: the best policy is π_ref·exp(r/β)/Z, which β moves."),
             "c": ("the size of each PPO step",
                   "That is limited by the clip and the learning rate.")}},
        {"id": "small-steps", "points": 1, "answer": "a",
         "ask": "KL to π_old is small in every update, KL to π_ref grows all the time. Is that a "
                "contradiction?",
         "options": {
             "a": ("no", "Right: the clip looks at π_old, which moves along; small steps add up."),
             "b": ("yes, one of the two is measured wrongly",
                   "They are distances to two policies; only the second stands still.")}},
        {"id": "stages", "points": 1, "items": ["PPO", "reward model", "fine-tuning", "labels"],
         "answer": ["fine-tuning", "labels", "reward model", "PPO"],
         "ask": "In which order does the story train and buy?",
         "explanation": "The reference answers first; its replies are compared; the comparisons "
                        "train the reward model; PPO climbs its score."},
        {"id": "kl", "points": 1, "answer": exact, "tolerance": 2e-3,
         "ask": f"The policy says yes with probability {p}, the reference with {q}. What is "
                "KL(policy ‖ reference), in nats?",
         "slips": {"That is KL(reference ‖ policy): the weights come from the policy.":
                   q * (log[1] - log[0]) + (1 - q) * (log[3] - log[2])},
         "explanation": "Σ π·(log π − log π_ref) over both answers."},
        {"id": "penalty", "points": 1, "answer": -beta * (log[0] - log[1]), "tolerance": 2e-3,
         "ask": f"It said yes. With k1 in the reward and β = {beta}, what does the penalty add to "
                "the reward of this token?",
         "slips": {"The sign is turned: a token that the policy likes more than the reference "
                   "does costs.": beta * (log[0] - log[1])},
         "explanation": "−β·(log π − log π_ref) of the token that was said."},
    ]
