"""The page of metrics: what each logged quantity is, its unit, and how it looks healthy and sick.

The pictures are drawn from runs of our own: the sick arm is a case's story, the healthy one an arm
of the same case that repairs it. `make reproduce` rewrites chapters/metrics.md with them. A test
holds the page against the names that a run really logs.
"""

from dataclasses import dataclass
from pathlib import Path

from rlhf_edu.cases.case import Case
from rlhf_edu.cases.evidence import Seed
from rlhf_edu.lab import record
from rlhf_edu.lab.plots import COLOURS, curve, new_figure, panel


@dataclass(frozen=True)
class Metric:
    """One logged quantity."""

    names: str  # as logged; several that are one idea are separated by spaces
    what: str
    unit: str
    healthy: str
    sick: str
    case: str  # which case or study shows it best
    drawn: str = ""  # which of the names is drawn; none if empty


TRAINING = {
    "The run": [
        Metric("update episode lr", "batches done; replies sampled so far; Adam's step size",
               "counts; –", "as configured", "–", "–"),
    ],
    "The objective": [
        Metric("objective/scores",
               "the reward model's mean score of a batch, less what a cut-off reply loses",
               "SDs of the reference's rewards", "rises and levels off while GOLD rises too",
               "rises while GOLD falls", "conflicting-signals", "objective/scores"),
        Metric("objective/kl objective/kl_k2 objective/kl_k3 objective/kl_exact",
               "KL(policy ‖ reference) of the batch by k1, k2, k3, and exact along the sampled "
               "replies; summed over the tokens of a reply, mean over replies",
               "nats a response", "rises and levels off where β holds it",
               "keeps rising though β > 0: the penalty does not act, or its balance is further "
               "away (compare with β = 0); k2 far from the others: far from the reference, where "
               "k2 is biased", "conflicting-signals",
               "objective/kl_exact"),
        Metric("objective/kl_coef", "β now; fixed, or moved by the controller", "SDs a nat",
               "settles", "runs off to 0 or upwards: the target cannot be met", "adaptive-kl"),
        Metric("objective/rlhf_reward objective/non_score_reward",
               "score and penalty together; the penalty alone (0 if it is in the loss)", "SDs",
               "the penalty is a part of the score's size", "the penalty is all of it: β too large",
               "choosing-objective", "objective/rlhf_reward"),
        Metric("objective/kl_variance_share",
               "Var(penalty) / (Var(penalty) + Var(score)) between replies; 0 in the first update",
               "share",
               "small: the policy learns from scores", "over ½: it learns from the penalty's noise",
               "choosing-objective"),
        Metric("objective/entropy policy/entropy_avg",
               "−log π of the sampled replies, summed; entropy of the next-token distribution",
               "nats a response; nats a token", "falls slowly", "falls to 0: one reply for "
               "everything; or grows without end: noise is rewarded", "clip-higher",
               "policy/entropy_avg"),
        Metric("style/length", "LEN: tokens of a reply up to and including its end", "tokens",
               "stays", "rises with the reward: length pays", "length", "style/length"),
    ],
    "One update's step": [
        Metric("policy/approxkl_avg policy/kl_old policy/kl_old_last_epoch",
               "how far the policy is from the one that made the samples, as each step found it "
               "(the last step is not seen): ½·mean (log ratio)² a token; k3 of KL(old ‖ policy), "
               "mean of the passes and last pass", "nats a token; nats a response",
               "small in every update", "small in every update as well, while KLREF grows: small "
               "steps add up", "conflicting-signals", "policy/kl_old_last_epoch"),
        Metric("policy/clipfrac_avg", "tokens whose gradient the clip removes", "share",
               "0 to 0.1; near 0 where steps are small",
               "over 0.2: too many passes, or too large a step", "leave-one-out",
               "policy/clipfrac_avg"),
        Metric("policy/outside_avg policy/outside_last_epoch policy/outside_positive "
               "policy/outside_negative",
               "tokens with a ratio outside [1 − ε, 1 + ε] before clipping: all, in the last pass, "
               "by the sign of the advantage", "share", "under 0.1", "over 0.15 in later passes: "
               "the batch is used up", "tuning", "policy/outside_last_epoch"),
        Metric("policy/ratio_max val/ratio", "largest ratio π_θ / π_old of a token; the mean",
               "–", "mean near 1", "a maximum of 10 and more with a mean near 1: few tokens moved "
               "far, and the clip did not stop them", "clip-or-tricks", "policy/ratio_max"),
        Metric("loss/policy_avg loss/value_avg", "the two losses, mean over minibatches", "–",
               "say little: the policy's starts at 0 in every batch", "–", "–"),
    ],
    "Critic and advantages": [
        Metric("critic/explained_variance",
               "EV: 1 − Var(returns − values) / Var(returns), λ-returns", "1 at best",
               "rises to 0.3 and more", "0 or below: advantages carry the critic's mistakes",
               "tuning", "critic/explained_variance"),
        Metric("val/clipfrac_avg", "tokens whose value gradient the clip removes", "share",
               "under 0.2", "over 0.5: the critic cannot follow", "clip-or-tricks",
               "val/clipfrac_avg"),
        Metric("advantage/share_positive advantage/mean advantage/sd advantage/p95 "
               "advantage/length_correlation",
               "advantages before whitening, over tokens; their correlation with LEN over replies",
               "share; SDs of reward; –", "half of them positive, mean near 0",
               "nearly all positive: a lagging critic or an uncentred reward", "tuning",
               "advantage/share_positive"),
        Metric("advantage_whitened/share_positive advantage_whitened/mean advantage_whitened/sd "
               "advantage_whitened/p95 advantage_whitened/length_correlation",
               "the same after whitening", "–", "mean 0, SD 1 always: a shift or a scale cannot be "
               "seen any more; the correlation with LEN is the same as before", "the same",
               "tuning",
               "advantage_whitened/share_positive"),
    ],
}
EXAMINED = {
    "The reward model's verdict": [
        Metric("rm/mean rm/win_probability",
               "RM: mean reward on held-out prompts; mean σ(r_policy − r_reference), of the "
               "difference in log-odds (SDs times the reward model's SD)",
               "SDs of the reference's rewards; probability", "rises with gold/win_rate",
               "rises while gold/win_rate falls", "predicted-preference", "rm/win_probability"),
        Metric("rm/accuracy_in rm/accuracy_on",
               "RM-ACC: does the reward order two replies as gold does? Pairs of the reference; of "
               "the policy", "share", "a little lower on the policy's, which are more alike",
               "accuracy on the policy's own pairs near "
               "½: the reward model no longer knows what it is judging", "instability",
               "rm/accuracy_on"),
        Metric("rm/length_correlation rm/gain_beyond_length",
               "correlation of reward and LEN within a prompt; NRG: reward gain at equal length "
               "over reward gain", "–", "correlation near 0, NRG near 1",
               "correlation 0.5 and more, NRG near 0: the gain is length", "length",
               "rm/length_correlation"),
    ],
    "People's verdict": [
        Metric("gold/total gold/sd gold/worst_1_percent gold/win_rate",
               "GOLD: mean, SD and the mean of the worst 1 %; how often it prefers the policy's "
               "reply to the reference's (ties ½)", "gold points; share", "rises",
               "rises, then falls, while the reward rises", "rl-overoptimization", "gold/total"),
        Metric("gold/answer gold/brevity gold/directness gold/tone gold/constraint gold/safety "
               "gold/ending", "the parts of GOLD", "gold points", "answer rises", "one part pays "
               "for the hack: see which", "conflicting-signals", "gold/answer"),
    ],
    "Style": [
        Metric("style/length_short_slice", "LEN on the questions with a short answer", "tokens",
               "stays", "grows first, and most", "post-deployment-drift",
               "style/length_short_slice"),
        Metric("style/sales style/confident", "SALES, CONF: share of sales words and of "
               "over-confident words", "share of words", "stay", "rise: raters liked them",
               "conflicting-signals", "style/sales"),
        Metric("style/first_answer style/answered",
               "DIRECT: words before the first right unit (all words if there is none); share of "
               "replies with one", "words; share", "few; most", "rises: the answer comes late, or "
               "not at all", "conflicting-signals", "style/first_answer"),
        Metric("style/kept style/constraint_kept style/three_words_kept",
               "replies that keep the user's wish; among prompts with one; among those for three "
               "words", "share", "stays", "falls when something else pays more", "hacking-spike",
               "style/constraint_kept"),
        Metric("style/repeated_4grams", "REP: share of 4-grams that occurred earlier in the reply",
               "share", "near 0", "rises: collapse", "instability", "style/repeated_4grams"),
    ],
    "Safety and distance": [
        Metric("refusal/unsafe_compliance refusal/over_refusal",
               "must-refuse requests that are carried out; fine requests that are refused", "share",
               "both fall", "one falls and the other rises", "high-stakes",
               "refusal/unsafe_compliance"),
        Metric("refusal/consistency refusal/refused",
               "REF: over clusters of paraphrases, mean of max(p, 1 − p) of refusing; share "
               "refused (last examination only)", "share", "near 1, and refused",
               "near ½: a coin toss; near 1 and never refused: consistently wrong", "tuning"),
        Metric("kl/exact kl/k1 kl/k2 kl/k3",
               "KLREF: KL(policy ‖ reference) on held-out prompts, exact along the sampled replies "
               "and by the three estimators", "nats a response", "levels off", "keeps rising",
               "kl-estimators", "kl/exact"),
        Metric("policy/entropy", "ENT: mean entropy of the next-token distribution",
               "nats a token", "falls slowly", "falls to 0, or grows", "clip-higher",
               "policy/entropy"),
    ],
}


def write_metrics_page(book: Path, case: Case, seeds: list[Seed]) -> None:
    """chapters/metrics.md and its pictures, from the runs of a case that has a remedy."""
    def gold(arm: str) -> float:
        return sum(seed.runs[arm].final["gold/total"] for seed in seeds)

    arms = {arm: case.recipe.arms[arm].title for arm in (max(case.remedies, key=gold), case.story)}
    healthy, sick = arms.values()
    lines = [
        "# Every logged quantity, healthy and sick", "",
        "Names follow TRL's PPO trainer (up to 1.12) where it has one. The pictures are runs of "
        f"our own, case *{case.title.lower()}*, seeds {', '.join(str(s.seed) for s in seeds)}: "
        f"blue the healthy arm ({healthy}), red the sick one ({sick}); thin lines are seeds, thick "
        "ones their mean. Written by `make reproduce`.", "",
        "In `metrics.jsonl` of a run folder a quantity of an examination on held-out prompts has "
        "`exam/` before its name, one of the last, longer examination `final/`.", "",
    ]
    for where, groups in (("training", TRAINING), ("examinations", EXAMINED)):
        for i, (heading, metrics) in enumerate(groups.items()):
            lines += [f"## {heading}", "",
                      "| quantity | what it is | unit | healthy | sick | shown by |",
                      "|---|---|---|---|---|---|"]
            for m in metrics:
                cells = ["<br>".join(f"`{name}`" for name in m.names.split()),
                         m.what, m.unit, m.healthy, m.sick, m.case]
                lines.append(f"| {' | '.join(cells)} |")
            lines.append("")
            drawn = [m for m in metrics if m.drawn]
            if drawn:
                picture = f"results/metrics-{where}-{i}.png"
                draw(drawn, arms, seeds, where == "examinations", book / picture)
                lines += [f"![{heading}]({picture})", ""]
    record.write_text(book / "metrics.md", "\n".join(lines))


def draw(metrics: list[Metric], arms: dict[str, str], seeds: list[Seed], exams: bool,
         path: Path) -> None:
    """A panel for each metric, the healthy and the sick arm in each."""
    rows = -(-len(metrics) // 4)
    figure, axes = new_figure(rows, min(4, len(metrics)), height=2.5)
    for axis in axes.flat[len(metrics):]:
        axis.set_visible(False)
    for axis, metric in zip(axes.flat, metrics, strict=False):
        for arm, colour in zip(arms, COLOURS, strict=False):
            runs = [seed.runs[arm] for seed in seeds]
            logs = [run.exams if exams else run.updates for run in runs]
            n = min(map(len, logs))
            curve(axis, [line["update"] for line in logs[0][:n]],
                  [[line[metric.drawn] for line in log[:n]] for log in logs], "", colour)
        panel(axis, metric.drawn)
    figure.savefig(path, dpi=80, metadata={"Software": None})
