"""C6 · choosing the objective: too little β, too much β, and how much the other settings matter.

The objective of RLHF is E[reward] − β·KL(policy ‖ reference), and its only knob is β. Here the
penalty is k1 in the reward, where it has the gradient of the KL, and β takes six values from 0.01
to 328, equally far apart in log β. Everything else stays. (Items 29 and 42-46; lesson T1.)

Too little: the policy walks on past the point where people like it best. KLREF, exact along the
sampled replies, is several nats, some more ratios are outside 1 ± ε than in the middle (at a very
large β as many are), and GOLD ends below that of the supervised policy that training began with.
Too much: what varies between two replies' shaped rewards is the penalty and not the score, so the
advantages are mostly noise of log π − log π_ref; KLREF stays below a tenth of a nat, and next to
nothing of the reward is gained. Between the two people like the policy better than at either end:
GOLD is an inverted U in log β.

Why there is a middle: this reward model is right about most things. Its raters like sales talk and
certainty, and length a little, but they see a good answer too, and label with little noise. It
reads its 6,000 pairs four times: after one pass some reward models had learned which answer belongs
to which question and when to refuse, and others had not, so that the best β differed from seed to
seed; after four all have. What it is right about is near the reference and is found first; what it
is wrong about is further away. β says how far the policy may go, so it says which of the two it
finds. With the raters of the other cases there is no middle: GOLD falls from the first update. With
milder labels but more noise there is none either, since that reward model lets go of the refusals
(see what was tried).

How much do the other settings matter? At one β the final KLREF is a different one for every
learning rate and every ε, in runs as short as these: β says where the KL would stop, not how fast
it gets there. A controller that starts at the same β and adapts it to a target KL (Ziegler et al.
2019) ends nearer to one place. It does not know how slow a run is: while the KL is below the target
it lowers β further, and a run that arrives late finds little penalty left (wind-up). So the target
is a low one, which every setting passes early, and the run is long enough to come back towards it.
Its learning rate falls, for a large β multiplies the noise of the steps as well: at a constant one
the runs with twice the rate ended at 1.1 to 2.5 nats (see what was tried), now they end at 0.6 to
1.3 and most of the others at 0.3 to 0.7. On two seeds the slowest runs are still on their way back
(1.2 and 1.7). None of the settings ends at the target, 0.15: nearer to one place is not at it. What
is narrower is the spread in nats, not the spread relative to the mean KL, which the controller
lowers as well.

The middle is β = 0.64, for every seed: it was the best of the six on each of seeds 0 to 4, on which
the settings were decided, but for the last: the step size of the sweep was made a little smaller
after seeds 21 to 25 had held every claim, one or two of them by little (see what was tried).

What would have refuted this: a GOLD that only rises, or only falls, with log β; a spread that the
controller leaves as it is.
"""

import statistics
from typing import Any

from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed
from rlhf_edu.cases.pictures import dots, final, lines
from rlhf_edu.cases.stages import Arm, Recipe
from rlhf_edu.lab.evaluate import ExamConfig
from rlhf_edu.lab.raters import RaterConfig
from rlhf_edu.lab.reward_model import RewardModelConfig
from rlhf_edu.lab.rlhf import RLHFConfig
from rlhf_edu.lab.sft import SFTConfig

TITLE = "Choosing the objective"
QUESTION = "Too little β, too much β: what does each look like, and what else moves the KL?"

# ── What is trained, for each seed ──────────────────────────────────────────────────────────────
# Raters who are right about most things: their reward model helps before it is overdone.
KEEN = RaterConfig(n_pairs=6000, length_bias=0.03, sales_bias=0.65, confidence_bias=0.65, noise=0.2)
BETAS = (0.01, 0.08, 0.64, 5.12, 40.96, 327.68)
SMALL, MIDDLE, LARGE = BETAS[0], BETAS[2], BETAS[-1]
LR = 3.5e-4  # of the sensitivity runs, to be halved and doubled
FIXED, TARGET = 0.02, 0.15  # β of the sensitivity runs; nats a response that the adaptive β seeks
SETTINGS = [(lr, clip) for lr in (0.5, 1.0, 2.0) for clip in (0.1, 0.2, 0.3)]
KINDS = ("fixed", "adaptive")


def sweep(beta: float) -> str:
    """The name of the arm with this β."""
    return f"beta-{beta:g}"


def setting(kind: str, lr: float, clip: float) -> str:
    """The name of a run of the sensitivity test."""
    return f"{kind}-lr-{lr:g}-clip-{clip:g}"


def long_run(beta: float) -> RLHFConfig:
    """A run of the sweep over β; the falling learning rate lets the noise of the steps settle."""
    return RLHFConfig(updates=16, batch_size=128, num_mini_batches=2, lr=4e-4,
                      lr_schedule="linear", kl_coef=beta)


def short_run(kind: str, lr: float, clip: float) -> RLHFConfig:
    """A run of the sensitivity test. The horizon lets β move by up to 40 % an update."""
    return RLHFConfig(updates=24, batch_size=48, num_mini_batches=2, lr=lr * LR,
                      lr_schedule="linear", cliprange=clip, kl_coef=FIXED,
                      kl_target=TARGET if kind == "adaptive" else 0.0, kl_horizon=24.0)


RECIPE = Recipe(
    sft=SFTConfig(),
    raters={"keen": KEEN},
    arms={sweep(beta): Arm(f"β = {beta:g}", "keen", long_run(beta)) for beta in BETAS}
    | {
        setting(kind, lr, clip): Arm(
            f"{kind} β, learning rate × {lr:g}, ε = {clip:g}", "keen", short_run(kind, lr, clip))
        for kind in KINDS
        for lr, clip in SETTINGS
    },
    exam=ExamConfig(every=100, prompts=16, final_prompts=384, refusal_replies=1),
    reward_model=RewardModelConfig(epochs=4),
)


# ── What must be seen ───────────────────────────────────────────────────────────────────────────
def end(seed: Seed, beta: float, name: str) -> float:
    """A number of the last examination of a run of the sweep."""
    return float(seed.runs[sweep(beta)].final[name])


def gain(seed: Seed, beta: float) -> float:
    """Reward gain over the reference, in SDs of its rewards."""
    return seed.change(sweep(beta), "rm/mean")


def during(seed: Seed, beta: float, name: str) -> float:
    """Mean over the updates of a run of the sweep."""
    return statistics.fmean(u[name] for u in seed.runs[sweep(beta)].updates)


def curvature(seed: Seed) -> float:
    """GOLD against the number of the step in log β: the square's coefficient, least squares."""
    n = len(BETAS)
    square = [(i - (n - 1) / 2) ** 2 for i in range(n)]  # symmetric, so the slope is no matter
    mean = statistics.fmean(square)
    gold = [end(seed, beta, "gold/total") for beta in BETAS]
    return sum((q - mean) * g for q, g in zip(square, gold, strict=True)) / sum(
        (q - mean) ** 2 for q in square)


def final_kls(seeds: list[Seed], kind: str) -> list[float]:
    """KLREF at the end of every setting and seed of the sensitivity test."""
    return [s.runs[setting(kind, *each)].final["kl/exact"] for s in seeds for each in SETTINGS]


def spread(seeds: list[Seed], kind: str) -> float:
    """SD of the final KLREF over settings and seeds, nats a response."""
    return statistics.stdev(final_kls(seeds, kind))


OBSERVATIONS = [
    Observation("rises-from-small",
                f"GOLD is higher in the middle, β = {MIDDLE:g}, than at β = {SMALL:g}",
                lambda s: end(s, MIDDLE, "gold/total") - end(s, SMALL, "gold/total"),
                0.0, "above"),
    Observation("falls-to-large", f"and higher than at {LARGE:g}",
                lambda s: end(s, MIDDLE, "gold/total") - end(s, LARGE, "gold/total"),
                0.0, "above"),
    Observation("inverted-u",
                "over all six: a parabola through GOLD against log β opens downwards",
                curvature, 0.0, "below"),
    Observation("middle-helps", "in the middle GOLD is above that of SFT",
                lambda s: s.change(sweep(MIDDLE), "gold/total"), 0.0, "above"),
    Observation("small-kl", f"small β: KLREF is at least twice that of β = {MIDDLE:g}",
                lambda s: end(s, SMALL, "kl/exact") / end(s, MIDDLE, "kl/exact"), 2.0, "above"),
    Observation("small-tails",
                f"small β: more of the ratios are outside 1 ± ε than at β = {MIDDLE:g}",
                lambda s: during(s, SMALL, "policy/outside_avg")
                - during(s, MIDDLE, "policy/outside_avg"), 0.0, "above"),
    Observation("small-gold", "small β: GOLD ends below that of SFT",
                lambda s: s.change(sweep(SMALL), "gold/total"), 0.0, "below"),
    Observation("large-kl", "large β: KLREF < 0.1 nat a response",
                lambda s: end(s, LARGE, "kl/exact"), 0.1, "below"),
    Observation("large-gain", "large β: less than 10 % of the largest reward gain",
                lambda s: gain(s, LARGE) / max(gain(s, beta) for beta in BETAS), 0.1, "below"),
    Observation("large-variance",
                "large β: more than half of the shaped reward's variance is the penalty's: "
                "Var(penalty) / (Var(penalty) + Var(score))",
                lambda s: during(s, LARGE, "objective/kl_variance_share"), 0.5, "above"),
    Observation("controller",
                "over learning rate × ε × seeds an adaptive β halves the SD of the final KLREF: "
                "≤ 0.5 of that with a fixed β",
                lambda seeds: spread(seeds, "adaptive") / spread(seeds, "fixed"), 0.5, "below",
                pooled=True),
]


# ── What the report shows ───────────────────────────────────────────────────────────────────────
def draw_sweep(axes: Any, seeds: list[Seed]) -> None:
    """What the policy is like at each β."""
    panels = {
        "GOLD: the human score": lambda s, b: end(s, b, "gold/total"),
        "reward gain, SDs": gain,
        "KLREF: nats a response": lambda s, b: end(s, b, "kl/exact"),
        "share of variance that is the penalty's":
            lambda s, b: during(s, b, "objective/kl_variance_share"),
    }
    for axis, (title, read) in zip(axes.flat, panels.items(), strict=True):
        rows = {"": [[read(s, beta) for beta in BETAS] for s in seeds]}
        lines(axis, BETAS, rows, title, "β", log=True)
    sft = statistics.fmean(s.runs[sweep(MIDDLE)].reference["gold/total"] for s in seeds)
    axes[0, 0].axhline(sft, color="#888888", linewidth=0.8)
    axes[1, 0].set_yscale("log")


def draw_sensitivity(axes: Any, seeds: list[Seed]) -> None:
    """The final KLREF of every setting, with a fixed β and with an adaptive one."""
    for axis, kind in zip(axes.flat, KINDS, strict=True):
        rows = {f"lr × {lr:g}, ε = {clip:g}": final(seeds, setting(kind, lr, clip), "kl/exact")
                for lr, clip in SETTINGS}
        dots(axis, rows, f"{kind} β", "final KLREF, nats a response")
    right = max(axis.get_xlim()[1] for axis in axes.flat)
    for axis in axes.flat:
        axis.set_xlim(0, right)
    axes[0, 1].axvline(TARGET, color="#888888", linewidth=0.8)


PICTURES = [
    Picture(
        "An inverted U in log β",
        "Thin lines are seeds, thick ones their mean. The grey line is GOLD of the supervised "
        "policy. KL(policy ‖ reference) is exact along the sampled replies; the penalty is k1 in "
        "the reward.",
        draw_sweep,
        shape=(2, 2),
    ),
    Picture(
        "What else moves the KL",
        f"Nine settings, one dot a seed. Left: β = {FIXED:g} throughout. Right: it starts there "
        "and is steered towards the target (grey line).",
        draw_sensitivity,
    ),
]
TRIED = [
    ("4,000 pairs, length 0.05, sales 0.5, certainty 0.4, the usual noise of 0.5 (seed 0)",
     "no middle: GOLD falls from the first examination, at β = 0.01 to −0.41 and at 0.2 to 0.27, "
     "for the refusals go first (0.79 → 0.00 and 0.01)"),
    ("honest raters, β = 0.01 (seed 0)",
     "GOLD 0.95 → 1.35 → 0.93 over 12 updates: a peak, but an end that is not below SFT"),
    ("length 0.02, sales and certainty 0.45, noise 0.2; batch 64, learning rate 3e-4 (seed 1)",
     "GOLD 1.09, 1.34, 1.02 at β = 0.01, 0.4, 25 (SFT 1.03): 12 updates do not overdo it"),
    ("batch 64, learning rate 4e-4, 16 updates, β = 31 (seed 0)",
     "KLREF 0.08, and 13 % of the largest gain: the steps' own noise. With 128: 0.03"),
    ("sensitivity with four passes, 12 updates, β = 0.1, target 1.0 (seed 0)",
     "learning rate × 0.5, ε = 0.1: KLREF 1.6 fixed, 2.9 adaptive. β had fallen to 0.003 before "
     "the KL came to the target"),
    ("two passes, 20 updates, β = 0.03, target 1.5, at most 20 % an update (seed 0)",
     "adaptive 1.5 to 6.2 over the nine settings, as wide as fixed: β falls until KLREF is at the "
     "target, and comes back too slowly. A low target is reached before β is gone"),
    ("four passes, 14 updates, β = 0.01, target 0.5, at most 40 % an update (seed 0)",
     "adaptive 3.1 to 4.5 in three settings, fixed 4.6 to 9.5 in two: narrower, far above target"),
    ("the same with β = 0.02 and target 0.3 (seed 0)",
     "adaptive 0.9 to 1.9, and 3.9 where the learning rate is half and ε = 0.3: SD 0.9 against 1.8 "
     "over eight fixed settings. With target 0.15 the 3.9 is 0.6"),
    ("14 updates instead of 20, target 0.15 (seeds 21 to 25)",
     "SD 0.55 against 1.8 with a fixed β, 0.31 of it [−0.02, 0.62], and still falling at the end: "
     "the KL was on its way back. Relative to the mean KL the adaptive spread was 1.2 times the "
     "fixed one"),
    ("20 updates at a constant learning rate",
     "10 of 11 claims on seeds 21 to 25: 0.33 [0.08, 0.52] of the fixed SD. With the learning "
     "rate × 2 the adaptive runs end at 1.1 to 2.5 nats, however large β has grown, the others at "
     "0.3 to 1.2"),
    ("the same with 28 updates (seeds 0 to 4)",
     "× 2: 1.1 to 1.9 nats, while the others reach 0.15: wider, not narrower"),
    ("the middle β fixed beforehand at 0.25 (seeds 21 to 25)",
     "GOLD − SFT 0.09, −0.30, 0.23, 0.11, 0.41: on one seed 0.25 was too little already, and 1.25 "
     "the better middle. It is now decided on the other seeds"),
    ("the ratios' tails at small β against those at large β (seed 0)",
     "0.032 and 0.036 outside: where the penalty's noise is all there is, steps are wide as well. "
     "The claim is now against the middle"),
    ("one pass over the pairs, sales and certainty 0.5, β up to 31, the middle decided on the "
     "other seeds, sensitivity with 64 replies (seeds 61 to 65, on which nothing was tuned)",
     "ten of eleven claims, the controller's among them (0.21 [0.09, 0.33]); short is GOLD in the "
     "middle above that of SFT, 0.17 [−0.02, 0.21], as the best β differs from seed to seed"),
    ("the same (seeds 0 to 4)",
     "the reward model's pair accuracy is 0.74 on seed 1 and 0.66 to 0.69 on the others. On seed 1 "
     "refusals stay, the best β is 0.25 and GOLD at 0.01 is above that of SFT (+0.07); on the "
     "others refusals go (0.87 → 0.03), the best is 1.25 and the change −0.9 to −1.3"),
    ("the same, four passes over the pairs (seeds 0 to 2)",
     "pair accuracy 0.735 to 0.745. After one pass at three times the learning rate it is lower, "
     "after two at the usual one 0.69 to 0.73"),
    ("four passes, sales and certainty 0.8 (seeds 0, 1)",
     "GOLD − SFT −0.41, −0.68 at β = 0.01; 0.25, 0.17 at 1.25: a lower middle than with 0.65"),
    ("four passes, sales and certainty 0.7, length 0.04, 16 updates at 3.5e-4 (seeds 0, 1)",
     "−0.71, −0.43 at β = 0.01; 0.18, 0.18 at 0.64: longer replies eat the middle's gain"),
    ("four passes, sales and certainty 0.65, 12 updates at 5e-4, β up to 31 (seeds 0, 1)",
     "−0.59, −0.51 at β = 0.01; 0.35, 0.24 at 0.6; but KLREF 0.07 at 31. With 16 updates at 4.5e-4 "
     "on seeds 0 to 4: −0.81 (SD 0.29), 0.33 (SD 0.05), and 0.056 at 328 (on seed 200: 0.085)"),
    ("the same, 16 updates at 4.5e-4, β up to 328 (seeds 21 to 25)",
     "11 of 11, but KLREF at 328 is 0.06 [0.03, 0.09], where 0.1 is too much, and the reward gain "
     "there 3 % [−1, 8] of the largest, where 10 % is: a large penalty is noise that moves the "
     "policy, the less the shorter the steps. Hence 4e-4"),
]
