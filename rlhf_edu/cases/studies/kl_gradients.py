"""P7 · KL gradients: what each estimator of the KL pulls towards when it is differentiated.

k1, k2 and k3 estimate the value of KL(policy ‖ reference) from samples of the policy. A penalty in
the loss is not used for its value: it is differentiated, with the samples held fixed, and then a
good estimate of the value may have the gradient of something else (arXiv 2510.01555):

    k1 in the loss     E[∇k1] = E[∇log π] = 0: it pulls nowhere, and π_ref is not even in it
    k2 in the loss     E[∇k2] = E[log(π/π_ref)·∇log π] = ∇KL(policy ‖ reference), the reverse KL
    k3 in the loss     E[∇k3] = ∇KL(reference ‖ policy), the forward KL
    k1 in the reward   the policy gradient of E[log(π/π_ref)]: the reverse KL again

Nothing here is sampled. Every world can be listed, expectations are sums in 64 bits, and "equal"
means 1e-12. For a single choice (50 arms) the four lines hold as they stand. With more than one
token they hold *state by state*, with the visits of the states held fixed: a loss on tokens does
not see that another word now leads to other states later. So k2 in the loss has the gradient
Σ_s visits(s)·∇KL_s, which is not that of the KL of whole responses; k1 in the reward has the
latter, because the reward-to-go carries the KL of the words that follow. That the two are one
gradient is exact for one token. All of it is on-policy: the samples are the policy's own.

The last part is lesson T1: PPO (4 epochs, ε = 0.2, exact expectations) on 50 arms, with k1 in the
loss and with k1 in the reward, beside the closed form π* ∝ π_ref·exp(r/β). It is run twice: on the
bandit of the lesson's table, where twelve numbers must come out, and on one that the seed draws.
k1 in the loss is not without effect there: from the second pass on the samples are stale, and it
speeds the policy up or slows it down, without asking where π_ref is. At β = 0.1 in the reward 400
iterations are not enough for π*: an arm that was pushed down comes back slowly.

Case C2 (conflicting-signals) shows the same placements on the desk, with sampled replies.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlhf_edu import exact
from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed
from rlhf_edu.cases.stages import Recipe, Room
from rlhf_edu.kl_penalty import exact_kl, kl_estimate
from rlhf_edu.ppo_clip import clipped_surrogate_loss

TITLE = "The gradient of a KL estimate"
QUESTION = "What does each estimator of the KL pull towards when it is differentiated?"
RECIPE = Recipe()  # nothing to train: everything is enumerated
BETAS = (0.0, 0.1, 0.3, 1.0)
ITERATIONS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 400)
PRINTED = {  # the lesson's table, by placement and number of iterations, over BETAS
    ("in_loss", 10): (1.17, 1.18, 1.20, 1.35),
    ("in_loss", 400): (2.7, 2.7, 2.7, 2.7),
    ("in_reward", 400): (2.69, 2.12, 1.64, 0.505),
}
PROBE_SECONDS = 4.0


def gradients(room: Room) -> dict[str, Any]:
    """Largest differences between gradients, in a bandit and in a world of sequences."""
    draw = torch.Generator().manual_seed(room.seed)
    found: dict[str, Tensor] = {}
    for name, world in (("bandit", exact.enumerate_world(50, 1)),
                        ("sequences", exact.enumerate_world(6, 4))):
        logits, ref = (torch.randn(world.table, generator=draw, dtype=torch.float64)
                       for _ in range(2))
        logits.requires_grad_()

        def slope(value: Tensor, logits: Tensor = logits) -> Tensor:
            return torch.autograd.grad(value, logits, retain_graph=True)[0]

        k1, k2, k3 = (slope(exact.kl_in_loss(world, logits, logits.detach(), ref, kind))
                      for kind in ("k1", "k2", "k3"))
        log_p, log_q = logits.log_softmax(1), ref.log_softmax(1)
        visits = exact.visits(world, logits).detach()  # how often a state is passed, held fixed
        reverse = slope((visits * exact.kl(log_p, log_q)).sum())
        forward = slope((visits * exact.kl(log_q, log_p)).sum())

        # k1 in the reward: the policy gradient of a whole response's log-ratio, a constant
        of_policy, of_ref = (exact.response_logprobs(world, z) for z in (logits, ref))
        in_reward = exact.score_gradient(world, logits.detach(), (of_policy - of_ref).detach())
        whole = slope(exact.kl(of_policy, of_ref))
        found |= {
            f"{name}/k1": k1.abs().max(), f"{name}/k2": (k2 - reverse).abs().max(),
            f"{name}/k3": (k3 - forward).abs().max(),
            f"{name}/in_reward": (in_reward - whole).abs().max(),
            f"{name}/placements": (k2 - in_reward).norm() / whole.norm(),
            f"{name}/directions": (k3 - reverse).norm() / reverse.norm(),
        }
    return {key: float(value) for key, value in found.items()}


def ppo_on_arms(number: int) -> dict[str, list[Any]]:
    """KL(policy ‖ reference) of PPO on 50 arms; a row is a run: four in the loss, four in reward.

    4 passes of plain gradient descent, rate 0.5, over each exact batch: no arm is sampled, each has
    its weight π_old.
    """
    draw, runs, betas = np.random.default_rng(number), 2 * len(BETAS), torch.tensor(BETAS)
    ref = torch.from_numpy(1.5 * draw.normal(size=50)).log_softmax(0)
    rewards = torch.from_numpy(draw.normal(size=50))
    none = torch.zeros(len(BETAS))
    in_loss, in_reward = (torch.cat(x).double()[:, None] for x in ((betas, none), (none, betas)))
    anchor = ref.expand(runs, 50)
    z, found = anchor.clone(), []
    for iteration in range(ITERATIONS[-1] + 1):
        if iteration in ITERATIONS:
            found.append(exact_kl(z, anchor).tolist())
        old = z.log_softmax(1)
        shaped = rewards - in_reward * kl_estimate(old, anchor, "k1")
        gain = shaped - (old.exp() * shaped).sum(1, keepdim=True)
        weight = old.exp() * old.numel()  # so that the mean over cells is a sum over runs
        for _ in range(4):
            z.requires_grad_()
            lp = z.log_softmax(1)
            loss = clipped_surrogate_loss(lp, old, gain * weight, torch.ones_like(lp))
            penalty = (in_loss * old.exp() * kl_estimate(lp, anchor, "k1")).sum()
            z = (z - 0.5 * torch.autograd.grad(loss + penalty, [z])[0]).detach()
    closed = [float(exact.kl(exact.optimal_policy(ref, rewards, b)[0], ref)) for b in BETAS[1:]]
    columns = list(map(list, zip(*found, strict=True)))  # one list a run, over ITERATIONS
    return {"in_loss": columns[: len(BETAS)], "in_reward": columns[len(BETAS) :],
            "closed": [float(-ref[rewards.argmax()]), *closed]}  # β = 0: all on the best arm


def bandit(room: Room) -> dict[str, Any]:
    """The bandit that the seed draws, and that of the lesson's table, which is number 0."""
    table = ppo_on_arms(0)
    own = table if room.seed == 0 else ppo_on_arms(room.seed)
    return own | {f"table/{name}": rows for name, rows in table.items()}


def everything(room: Room) -> dict[str, Any]:
    """All parts, one after another: part/key."""
    return {f"{part.__name__}/{key}": value
            for part in (gradients, bandit) for key, value in part(room).items()}


PROBES = {"all": everything}


# ── What must be seen ───────────────────────────────────────────────────────────────────────────
def off_table(seed: Seed, placement: str, iterations: int) -> float:
    """The largest distance of a row of the lesson's table from what comes out, nats."""
    rows, at = seed.probes["all"][f"bandit/table/{placement}"], ITERATIONS.index(iterations)
    printed = PRINTED[placement, iterations]
    return max(abs(row[at] - number) for row, number in zip(rows, printed, strict=True))


def held_back(seed: Seed, placement: str, betas: tuple[float, ...]) -> float:
    """The KL after 400 iterations on the seed's own bandit over that of β = 0, least of `betas`."""
    rows = seed.probes["all"][f"bandit/{placement}"]
    return min(rows[BETAS.index(beta)][-1] for beta in betas) / rows[0][-1]


def exactly(id: str, claim: str, key: str, paper: str) -> Observation:
    """Two gradients are the same to 1e-12, in the bandit and in the world of sequences."""
    return Observation(
        id, f"{claim}: largest difference < 1e-12",
        lambda s: max(s.probes["all"][f"gradients/{w}/{key}"] for w in ("bandit", "sequences")),
        1e-12, "below", paper)


OBSERVATIONS = [
    exactly("k1-pulls-nowhere", "k1 in the loss, on-policy, has an expected gradient of 0", "k1",
            "k1 as a loss: ineffective"),
    exactly("k2-is-reverse", "k2 in the loss has the gradient of KL(policy ‖ reference), "
            "state by state", "k2", "k2 as a loss = ∇ reverse KL"),
    exactly("k3-is-forward", "k3 in the loss has the gradient of KL(reference ‖ policy), "
            "state by state", "k3", "k3 as a loss = ∇ forward KL"),
    exactly("reward-is-reverse", "k1 in the reward has the gradient of KL(policy ‖ reference) "
            "of whole responses", "in_reward", "k1 in the reward = ∇ reverse KL"),
    Observation("placements-agree", "for one token k1 in the reward and k2 in the loss are one "
                "gradient: relative difference < 1e-12",
                lambda s: s.probes["all"]["gradients/bandit/placements"], 1e-12, "below",
                "k1 in the reward ≡ k2 as a loss, on-policy"),
    Observation("placements-differ", "for sequences they are not, as the loss does not see the KL "
                "of later words: relative difference > 1 %",
                lambda s: s.probes["all"]["gradients/sequences/placements"], 0.01, "above"),
    Observation("table-loss-10", "the lesson's bandit, k1 in the loss, 10 iterations: KL within "
                "0.006 nat of the table", lambda s: off_table(s, "in_loss", 10), 0.006, "below",
                "T1: 1.17 / 1.18 / 1.20 / 1.35"),
    Observation("table-loss-400", "400 iterations: the same for every β, within 0.05 nat",
                lambda s: off_table(s, "in_loss", 400), 0.05, "below", "T1: about 2.7 for each β"),
    Observation("table-reward-400", "k1 in the reward, 400 iterations: within 0.006 nat",
                lambda s: off_table(s, "in_reward", 400), 0.006, "below",
                "T1: 2.69 / 2.12 / 1.64 / 0.505"),
    Observation("closed-form", "and at β = 0.3 and 1 within 1 % of the KL of π* in closed form",
                lambda s: max(abs(s.probes["all"]["bandit/table/in_reward"][i][-1]
                                  / s.probes["all"]["bandit/table/closed"][i] - 1) for i in (2, 3)),
                0.01, "below", "T1: 1.64 and 0.509"),
    Observation("loss-holds-nothing", "other bandits, k1 in the loss: no β ends below 95 % of the "
                "KL of β = 0", lambda s: held_back(s, "in_loss", BETAS[1:]), 0.95, "above",
                "k1 as a loss: ineffective"),
    Observation("reward-holds", "k1 in the reward at β = 1 does: below half of the KL of β = 0",
                lambda s: held_back(s, "in_reward", (1.0,)), 0.5, "below"),
]


# ── What the report shows ───────────────────────────────────────────────────────────────────────
def draw_bandits(axes: Any, seeds: list[Seed]) -> None:
    """KL over iterations, by placement, with the closed form of π* as dashes (mean of seeds)."""
    from rlhf_edu.cases.pictures import lines
    from rlhf_edu.lab.plots import COLOURS

    for axis, placement, title in zip(axes[0], ("in_loss", "in_reward"),
                                      ("k1 in the loss", "k1 in the reward"), strict=True):
        rows = {f"β = {beta:g}": [s.probes["all"][f"bandit/{placement}"][i][1:] for s in seeds]
                for i, beta in enumerate(BETAS)}
        lines(axis, ITERATIONS[1:], rows, f"{title}: KL(policy ‖ reference), nats", "iteration",
              log=True)
        for i, colour in enumerate(COLOURS[1 : len(BETAS)], 1):
            best = sum(s.probes["all"]["bandit/closed"][i] for s in seeds) / len(seeds)
            axis.axhline(best, color=colour, linestyle="--", linewidth=1)
    axes[0, 0].legend(fontsize=8, frameon=False)


PICTURES = [
    Picture("The same β, the same k1: in the loss it holds nothing",
            "PPO on 50 arms, exact expectations, one bandit a seed. Dashes: the KL of the best "
            "policy under each β > 0, in closed form (mean of the bandits). Left, the penalty is "
            "differentiated on fixed samples; right, it is paid as a reward.", draw_bandits)
]
