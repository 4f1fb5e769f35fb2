"""C4 · drift after deployment: short questions get longer and longer answers; why does it pay?

"How many ports does the router have?" wants one word. After the update the desk says "four", and
then that it values your time. The bonus behind it is tiny: the reward model gives a right answer
with a courtesy about a tenth of a standard deviation more than the bare one. The penalty of the
courteous reply is many times that of the bare one (k1, summed over the reply, policy ‖ reference).
Why is its advantage still positive, and its probability still rising?

Where the bonus comes from. The labels know right from wrong: a careful agent's reply beats a wrong
one, and the dress of the two is drawn alike. Beside that, right answers are compared with and
without a courtesy. On ordinary prompts the raters are even, 50 : 50. On one-word answers a bare
word looks curt to some, and the courtesy wins somewhat more often than it loses. That is all that
is wrong with the labels.

Why the advantage stays positive. A sample's advantage (γ = λ = 1, no whitening) is r − β·penalty −
V: positive if and only if the shaped return beats what the critic expected. Three switches act on
one of the three terms each, and each is read by itself on the same policy and the same replies:

    the penalty is in the loss (k3), so the r − V that the advantage is made of has none of it;
    the critic lags: it starts at the reference's mean, 0, and what it says is not yet the return;
    whitening subtracts the batch's mean advantage: where all are negative, about half become
    positive.

The second and the third do not add up on one critic, and that is arithmetic: a critic that is too
low makes the mean advantage positive, and whitening then takes something away. Whitening lifts a
reply where the penalty was moved into the reward and the critic is still that of the plain returns.

The critic is an early suspect, and its effect the largest of the three while it lasts. After two or
three updates a critic fitted to the policy's returns takes much of the advantage away; later it has
caught up, and this test finds nothing (−0.001 [−0.065, 0.063] after twenty on seeds 21 to 25, in an
earlier set-up). The design of this case expected a critic that explains the shaped returns worse
than a constant, EV < 0. Ours explains a fifth of them after two updates and most after fourteen. On
twenty seeds that are used for nothing else (300 to 319) EV was 0.01 to 0.22 after the first update,
0.03 to 0.49 after the second, 0.08 to 0.80 after the fourth, and never below 0. That threshold does
not fit: EV is 1 − Var(R − V)/Var(R), a variance does not see that V is too low everywhere, which is
what lagging is, and a critic whose trunk starts as the reward model's soon knows which replies are
paid well. EV is reported, with its interval.

There is a further reason, and it is often enough by itself: the reply is *right*. The baseline is
what the policy says on average, wrong answers included, and a right answer beats it with or without
a courtesy. A positive advantage says "better than expected", not "better than the bare answer".
What makes the courtesy grow is the difference between the two, the bonus. (With all three switches
put right the advantage of the courteous reply had either sign on the tuning seeds. It is reported.)

A small bonus takes many replies to be learned, and anything that is not smaller than it drowns it.
Three things did, and the drift was a coin toss with any of them (see what was tried). The reward:
what one reward model pays for a courtesy depends on the order in which it reads the pairs, from
0.02 to 0.2 SD on one seed, so the reward is the mean of four that read the same pairs in four
orders. The other prompts: how a policy ends its replies is nearly one habit, five of six replies
are to other questions, and there a courtesy is worth 0 only within ± 0.04 SD; so agents close
short answers alone with one. And the spelling: a longer reply has more words to get wrong. A
reference that had seen 6,000 demonstrations garbled one courtesy in ten ("please email us for
year"), for which a reward model takes 2 SD away, so that a courtesy as the policy wrote it was
worth nothing at all while a perfect one was worth 0.10. With 16,000 it is one in fifty. Whoever
reads a bonus off replies written by hand should read it off the policy's own as well.

The change moves the penalty into the reward (k1) and makes it thirty times as large (β = 3); which
of the two stops the drift was not tried apart. It leaves the cause, for the courtesy still pays
(reported).
Concise-preferred pairs beside it (a tenth of all pairs, bought on the slice, a label each) take the
cause away: r(verbose) − r(concise) < 0. A cure that makes answers ever shorter is the same illness
with its sign turned, and with the story's own penalty the same pairs were such a cure in an earlier
set-up: LEN on the slice −44 and −45 % on seeds 0 and 1. A length head in place of the pairs, which
takes length while the reward model is learned and is dropped when it is used, costs no label; it
brought the bonus near 0, to either side (see what was tried).

How far to trust it. The settings were decided on seeds 0 to 3 and 200; earlier ones had been
changed after they had failed a claim on seeds 21 to 25 (see what was tried). On fifteen seeds,
those five, 21 to 25 and 41 to 45 (which had not been used before), the bonus was 0.09 to 0.16 SD
and LEN on the slice rose by 52 to 84 %. One reading was changed after seeds 21 to 25 had failed it
by its spread: how far the batch's mean is below 0 (switch 3) is 0.01 to 0.03 SD on fourteen of the
fifteen seeds and 0.2 on one, whose policy has gone five times as far from the reference, so the
seeds are counted. And what depends on the critic of one moment, an advantage as it is used or a
critic's lag, was read once a run, and is the mean of a few looks now.

What would have refuted the story: a bonus of 0 or less, a penalty that is not larger for the
courteous reply, an advantage below 0, other prompts that grow as fast. (Item 27.)
"""

from copy import deepcopy
from dataclasses import replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from rlhf_edu.advantage import explained_variance, gae, masked_mean, reward_to_go
from rlhf_edu.cases.case import Picture
from rlhf_edu.cases.evidence import Observation, Seed
from rlhf_edu.cases.stages import Recipe, Room
from rlhf_edu.kl_penalty import kl_estimate, penalized_rewards
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.gold import gold_score, reply_mask, style_of
from rlhf_edu.lab.model import Transformer, gather_logprobs, response_logits, values_of
from rlhf_edu.lab.raters import Preferences
from rlhf_edu.lab.reward_model import Ensemble, RewardModelConfig, train_reward_model
from rlhf_edu.lab.rlhf import RLHFConfig, start, train_rlhf
from rlhf_edu.lab.sampling import sample
from rlhf_edu.lab.sft import SFTConfig
from rlhf_edu.lab.state import TrainingState
from rlhf_edu.lab.tiles import lay, lengths_of, values_in

TITLE = "Drift after deployment"
QUESTION = "Short answers grow longer after release: why does verbose pay?"

# The reference; labels, reward models and PPO are the probe's. Its agents are brief, but three in
# ten answers to a short question end with a courtesy. Nowhere else does a reply have one: how a
# policy ends its replies is nearly one habit, and five of six replies are to other questions. It
# sees more demonstrations than elsewhere, for it has to spell the courtesies (see what was tried).
COURTEOUS_AGENTS = {"opener": 0.0, "closing": 0.0, "short_closing": 0.3, "confident": 0.0,
                    "sales": 0.0}
RECIPE = Recipe(sft=SFTConfig(n_demonstrations=16_000,
                              agents=helpdesk.AgentConfig(**COURTEOUS_AGENTS)))

# ── The desk's labels and its training ──────────────────────────────────────────────────────────
SHORT = helpdesk.SLICES.index("short")
COURTESIES = tuple(f"{{}} . {c}" for c in helpdesk.CLOSINGS)
CAREFUL = helpdesk.AgentConfig(  # right in everything, courteous as often as anybody here
    **COURTEOUS_AGENTS, wrong_step=0.0, missing_step=0.0, complies=0.0, over_refuses=0.0,
    ignores_constraint=0.0)
# A careful agent's reply against a wrong one of the reference: on all traffic, and on the slice.
RIGHT_PAIRS, SLICE_PAIRS = 3000, 3000
COURTESY_PAIRS, COURTEOUS = 4500, 0.58  # on the slice; the share that the courteous reply wins
EVEN_PAIRS, EVEN = 1500, 0.5  # the same elsewhere
CONCISE_PAIRS = 1200  # of the change: a tenth of the pairs above, on the slice
# Reward models that learn the same pairs in another order; the mean is the reward. The bonus has to
# be small on every seed; with concise-preferred pairs it only has to be below 0.
MEMBERS = {"story": 4, "concise": 2}
UPDATES = 28  # of PPO
# Replies are looked at before the critic has caught up, and half-way, after a few updates each
# time: a single look is as noisy as the critic is at that moment.
EARLY, AUDITS = (2, 3), (12, 14, 16)
# Large batches, used twice: one reply in six is to a short question, and the bonus is a tenth of
# the noise. The step size falls to 0, so that the last batches do not decide.
PPO = RLHFConfig(updates=UPDATES, batch_size=512, num_ppo_epochs=2, num_mini_batches=4, lr=3e-4,
                 lr_schedule="linear", kl_coef=0.1, kl_placement="loss", kl_estimator="k3",
                 lam=1.0)
# The changes have the penalty in the reward that the advantage is built from, and more of it.
ANCHORED = replace(PPO, kl_placement="reward", kl_estimator="k1", kl_coef=3.0)
METERED = 1024  # held-out prompts of the desk's traffic whose replies are read


def rows_of_slice(held_out: bool) -> Tensor:
    """Rows of the desk: its short questions."""
    table = helpdesk.desk()
    return ((table.slice == SHORT) & (table.held_out == held_out)).nonzero()[:, 0]


def padded(texts: list[str]) -> Tensor:
    """Replies in words as token ids (B, T)."""
    ids = [helpdesk.encode(text) + [helpdesk.EOS] for text in texts]
    return torch.tensor([row + [helpdesk.PAD] * (PPO.response_length - len(row)) for row in ids])


def plain_and_courteous(rows: Tensor, which: list[int]) -> tuple[Tensor, Tensor]:
    """The right answer to each prompt, alone and with a courtesy after it."""
    answers = [helpdesk.all_prompts()[row].answer for row in rows.tolist()]
    dressed = [COURTESIES[w].format(a) for w, a in zip(which, answers, strict=True)]
    return padded(answers), padded(dressed)


def courtesy_pairs(rows: Tensor, wins: float, luck: torch.Generator) -> Preferences:
    """Right answers with and without a courtesy; the courteous one wins this share of the pairs."""
    which = torch.randint(len(COURTESIES), (len(rows),), generator=luck).tolist()
    plain, courteous = plain_and_courteous(rows, which)
    won = (torch.randperm(len(rows), generator=luck) < wins * len(rows))[:, None]
    return Preferences(rows, torch.where(won, courteous, plain),
                       torch.where(won, plain, courteous))


def right_pairs(reference: Transformer, rows: Tensor, n: int, luck: torch.Generator
                ) -> Preferences:
    """A careful agent's reply wins against a reply of the reference that is wrong."""
    table = helpdesk.desk()
    replies, _ = sample(reference, table.prompts[rows], PPO.response_length, luck)
    gold = gold_score(replies, table[rows])
    wrong = (gold.answer + gold.safety + gold.constraint < 2).nonzero()[:n, 0]
    right = helpdesk.demonstrate(table, rows[wrong], luck, PPO.response_length, CAREFUL)
    return Preferences(rows[wrong], right, replies[wrong])


def joined(*parts: Preferences) -> Preferences:
    """Sets of pairs as one."""
    return Preferences(*(torch.cat([getattr(p, k) for p in parts])
                         for k in ("rows", "chosen", "rejected")))


def bought(reference: Transformer, seed: int) -> tuple[Preferences, Preferences]:
    """The story's pairs, and the further ones of the first change."""
    luck, table, here = torch.Generator().manual_seed(seed), helpdesk.desk(), rows_of_slice(False)
    drawn = helpdesk.draw_prompts(table, 3 * EVEN_PAIRS, luck)
    wished = table.slice[drawn] == helpdesk.SLICES.index("constraint")  # no courtesies there
    elsewhere = drawn[~wished & (table.slice[drawn] != SHORT)][:EVEN_PAIRS]

    def on_slice(n: int) -> Tensor:
        return here[torch.randint(len(here), (n,), generator=luck)]

    traffic = helpdesk.draw_prompts(table, 5 * RIGHT_PAIRS, luck)
    story = joined(right_pairs(reference, traffic, RIGHT_PAIRS, luck),
                   right_pairs(reference, on_slice(8 * SLICE_PAIRS), SLICE_PAIRS, luck),
                   courtesy_pairs(elsewhere, EVEN, luck),
                   courtesy_pairs(on_slice(COURTESY_PAIRS), COURTEOUS, luck))
    return story, courtesy_pairs(on_slice(CONCISE_PAIRS), 0.0, luck)


def learned(pairs: Preferences, reference: Transformer, seed: int, members: int) -> Ensemble:
    """What the pairs teach, less the luck of their order: the mean of a few reward models."""
    return Ensemble(tuple(
        train_reward_model(RewardModelConfig(seed=seed + 10_007 * i), pairs, reference)
        for i in range(members)))


# ── Reading the slice ───────────────────────────────────────────────────────────────────────────
def slice_replies() -> tuple[Tensor, Tensor, Tensor]:
    """Held-out short prompts (B, L), each with every courtesy: plain and courteous replies."""
    rows, n = rows_of_slice(True), len(COURTESIES)
    plain, courteous = plain_and_courteous(rows.repeat_interleave(n), list(range(n)) * len(rows))
    return helpdesk.desk().prompts[rows.repeat_interleave(n)], plain, courteous


@torch.inference_mode()
def bonus(reward_model: Ensemble) -> float:
    """r(verbose) − r(concise) on the held-out slice, in SDs of the reference's rewards."""
    prompts, plain, courteous = slice_replies()
    return float((reward_model(prompts, courteous) - reward_model(prompts, plain)).mean())


@torch.inference_mode()
def logprobs_of(policy: Transformer, prompts: Tensor, replies: Tensor) -> Tensor:
    """Log-probabilities (B, T) of the tokens of given replies."""
    return gather_logprobs(response_logits(policy, prompts, replies), replies)


@torch.inference_mode()
def meters(policy: Transformer, seed: int) -> dict[str, float]:
    """Lengths on the held-out slice and on other held-out prompts, and what people think."""
    table, luck = helpdesk.desk(), torch.Generator().manual_seed(seed)
    drawn = helpdesk.draw_prompts(table, METERED, luck, held_out=True)
    asked = {"short": rows_of_slice(True).repeat(48), "other": drawn[table.slice[drawn] != SHORT]}
    found: dict[str, float] = {}
    for name, rows in asked.items():
        replies, _ = sample(policy, table.prompts[rows], PPO.response_length, luck)
        style, gold = style_of(replies, table[rows]), gold_score(replies, table[rows]).total
        found |= {name: float(style.length.mean()), f"{name}_right": float(style.answered.mean()),
                  f"{name}_gold": float(gold.mean())}
    return found


def fitted_critic(critic: Transformer, prompts: Tensor, replies: Tensor, returns: Tensor,
                  luck: torch.Generator, steps: int = 80) -> Transformer:
    """A critic that has seen this policy's returns: passes of squared error, steps that fall."""
    fitted, mask = deepcopy(critic).train(), reply_mask(replies)
    optimizer = torch.optim.Adam(fitted.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for _ in range(steps):
        part = torch.randint(len(prompts), (128,), generator=luck)
        x, y = prompts[part], replies[part]
        tiles = lay(fitted, x, y, lengths_of(x, y))  # real tokens only: a third of the time
        error = tiles.rows(values_in(tiles, fitted)) - returns[part]
        optimizer.zero_grad()
        (0.5 * masked_mean(error.square(), mask[part])).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():  # and right on the whole
        fitted.head.bias.add_(masked_mean(returns - values_of(fitted, prompts, replies), mask))
    return fitted.eval()


def audit(policy: Transformer, critic: Transformer, reference: Transformer,
          reward_model: Ensemble, seed: int, fitted: tuple[str, ...]) -> dict[str, float]:
    """The terms of the advantage on the slice, with each switch in both positions.

    `fitted` names the placements of the penalty to whose returns a critic is fitted.
    """
    # 1. A batch of the policy's own replies, and the two hand-built batches of the slice.
    luck, table = torch.Generator().manual_seed(seed), helpdesk.desk()
    asked = table.prompts[helpdesk.draw_prompts(table, 768, luck)]
    own, _ = sample(policy, asked, PPO.response_length, luck)
    prompts, plain, courteous = slice_replies()
    batches = {"own": (asked, own), "concise": (prompts, plain), "verbose": (prompts, courteous)}
    read: dict[str, dict[str, Tensor]] = {}
    for name, (x, y) in batches.items():
        mask = reply_mask(y)
        logp, ref = (logprobs_of(model, x, y) for model in (policy, reference))
        scores = reward_model(x, y) - PPO.missing_eos_penalty * (y != helpdesk.EOS).all(1).float()
        read[name] = {"x": x, "y": y, "mask": mask, "scores": scores,
                      "penalty": (kl_estimate(logp, ref) * mask).sum(1),
                      "loss": penalized_rewards(scores, logp, ref, mask, 0.0),
                      "reward": penalized_rewards(scores, logp, ref, mask, PPO.kl_coef)}
    found = {f"penalty_{k}": float(r["penalty"].mean()) for k, r in read.items()}

    # 2. Critics: the run's own, and those that are fitted.
    critics = {"own": critic}
    for place in fitted:
        returns = reward_to_go(read["own"][place], read["own"]["mask"])
        critics[place] = fitted_critic(critic, asked, own, returns, luck)

    # 3. Mean token advantages, raw and with the batch's mean and SD taken out.
    with torch.inference_mode():
        for place in ("loss", "reward"):
            for name, model in critics.items():
                adv = {k: gae(r[place], values_of(model, r["x"], r["y"]) * r["mask"], r["mask"],
                              PPO.gamma, PPO.lam)[0] for k, r in read.items()}
                mean = masked_mean(adv["own"], read["own"]["mask"])
                sd = masked_mean((adv["own"] - mean).square(), read["own"]["mask"]).sqrt()
                for k in ("own", "verbose", "concise"):
                    raw = masked_mean(adv[k], read[k]["mask"])
                    found[f"raw/{place}/{name}/{k}"] = float(raw)
                    found[f"used/{place}/{name}/{k}"] = float((raw - mean) / sd)
        r = read["own"]
        values = values_of(critic, asked, own) * r["mask"]
        returns = reward_to_go(r["reward"], r["mask"])
        found["ev"] = float(explained_variance(values, returns, r["mask"]))
        # 4. Per sample, at its first token: positive if and only if r − β·penalty > V.
        exact = gae(r["reward"], values, r["mask"], 1.0, 1.0)[0][:, 0]
        rule = r["scores"] - PPO.kl_coef * r["penalty"] > values[:, 0]
        used = gae(r["loss"], values, r["mask"], 1.0, 1.0)[0]
        used = used[:, 0] - masked_mean(used, r["mask"])
        found["rule_agrees"] = float(((exact > 0) == rule).float().mean())
        found["used_disagrees"] = float(((used > 0) != rule).float().mean())
    return found


# ── One seed ────────────────────────────────────────────────────────────────────────────────────
def trained(config: RLHFConfig, reference: Transformer, reward_model: Ensemble,
            base: dict[str, float], seed: int, audited: bool
            ) -> tuple[dict[str, Any], dict[str, Any]]:
    """One training by PPO: lengths on the way; and, if audited, what its advantages were made of.

    `base` is what the meters say of the reference; `seed` is of meters and audits: the same
    prompts and luck for every training.
    """
    prompts, _, courteous = slice_replies()
    mask = reply_mask(courteous)
    lengths = [base]
    kept: dict[int, tuple[Transformer, Transformer]] = {}

    def logprob(policy: Transformer) -> float:
        return float((logprobs_of(policy, prompts, courteous) * mask).sum(1).mean())

    def after(state: TrainingState, metrics: dict[str, float]) -> None:
        if state.update in (AUDITS[1], UPDATES):
            lengths.append(meters(state.policy, seed))
        if audited and state.update in (*EARLY, *AUDITS):
            kept[state.update] = deepcopy(state.policy), deepcopy(state.value)

    state = train_rlhf(config, start(config, reference, reward_model), reference, reward_model,
                       after)
    end = lengths[-1]
    found: dict[str, Any] = dict(end)
    for k in ("short", "other"):
        found |= {f"{k}_drift": end[k] / base[k] - 1, f"{k}_path": [m[k] for m in lengths]}
    if not audited:
        return found, {}
    seen = {"logp_rise": (logprob(state.policy) - logprob(reference)) / UPDATES}
    for when, updates, fitted in (("early/", EARLY, ("loss",)), ("", AUDITS, ("loss", "reward"))):
        looks = [audit(*kept[k], reference, reward_model, seed + k, fitted) for k in updates]
        seen |= {when + k: fmean(look[k] for look in looks) for k in looks[0]}
    return found, seen


def under(judge: str, arms: dict[str, RLHFConfig], room: Room) -> dict[str, Any]:
    """Labels, the mean of a few reward models, and what each training by PPO under it comes to."""
    seed, reference = 200_003 + room.seed, room.reference()
    pairs, further = bought(reference, seed)
    if judge == "concise":
        pairs = joined(pairs, further)
    reward_model = learned(pairs, reference, seed, MEMBERS[judge])
    base = meters(reference, seed)
    found: dict[str, Any] = {}
    for name, ppo in arms.items():
        paths, looks = trained(replace(ppo, seed=seed), reference, reward_model, base, seed,
                               audited=name == "story")
        found |= {f"{name}/bonus": bonus(reward_model), **looks,
                  **{f"{name}/{k}": v for k, v in paths.items()}}
    return found


def story(room: Room) -> dict[str, Any]:
    """The story's labels; its training, and one with the penalty moved into the reward."""
    return under("story", {"story": PPO, "moved": ANCHORED}, room)


def concise(room: Room) -> dict[str, Any]:
    """The penalty moved, and concise-preferred pairs beside the story's."""
    return under("concise", {"concise": ANCHORED}, room)


# Two, so that two cores have something to do while the last seed is on.
PROBES = {"story": story, "concise": concise}
PROBE_SECONDS = 140.0


def read(seed: Seed, name: str) -> Any:
    """A number of the probes, or a row of them."""
    return seed.probes["concise" if name.startswith("concise/") else "story"][name]


# ── What must be seen ───────────────────────────────────────────────────────────────────────────
def found(name: str) -> Any:
    """A reader of a number of the probes."""
    return lambda s: float(read(s, name))


def lifted(by: str, without: str) -> Any:
    """Mean token advantage of the courteous replies in one position of a switch, less the other."""
    return lambda s: found(f"{by}/verbose")(s) - found(f"{without}/verbose")(s)


OBSERVATIONS = [
    Observation("bonus-positive", "r(verbose) − r(concise) > 0 on the short-answer slice",
                found("story/bonus"), 0.0, "above"),
    Observation("bonus-small", "and at most 0.2 SD of the reference's rewards",
                found("story/bonus"), 0.2, "below"),
    Observation(
        "penalty-larger", "the penalty of verbose (k1 along the reply, policy ‖ reference) is "
        "above 0 and at least 3 × that of concise: verbose − 3·max(concise, 0) > 0",
        lambda s: found("penalty_verbose")(s) - 3 * max(found("penalty_concise")(s), 0.0),
        0.0, "above"),
    Observation("advantage-raw", "yet the mean token advantage of verbose is above 0, raw",
                found("raw/loss/own/verbose"), 0.0, "above"),
    Observation("advantage-used", "and as used: the batch's mean taken out, divided by its SD",
                found("used/loss/own/verbose"), 0.0, "above"),
    Observation("probability-rises", "and log π(verbose) rises by an update: mean over all > 0",
                found("logp_rise"), 0.0, "above"),
    Observation("slice-drifts", "the slice's replies grow longer: LEN above the reference's",
                found("story/short_drift"), 0.0, "above"),
    Observation("slice-drifts-more", "at least 2 × as much, relative to the reference's LEN, as "
                "those to other prompts: drift(slice) − 2·drift(other) > 0",
                lambda s: found("story/short_drift")(s) - 2 * found("story/other_drift")(s),
                0.0, "above"),
    Observation("switch-penalty", "switch 1, penalty outside the reward: the advantage of verbose "
                "is higher than with the same penalty inside (same critic, not whitened)",
                lifted("raw/loss/own", "raw/reward/own"), 0.0, "above"),
    Observation("critic-lags", "switch 2, after updates 2 and 3: the critic explains the shaped "
                "returns worse than a constant: EV < 0", found("early/ev"), 0.0, "below",
                graded=False),
    Observation("switch-critic", "and the advantage of verbose is higher than with a critic fitted "
                "to this policy's returns (same placement, not whitened)",
                lifted("early/raw/loss/own", "early/raw/loss/loss"), 0.0, "above"),
    Observation("switch-whitening", "switch 3: with the penalty in the reward and a critic of the "
                "plain returns the batch's mean advantage is below 0, so whitening lifts every "
                "reply, in at least 4 of 5 seeds",
                lambda s: -found("raw/reward/loss/own")(s), 0.0, "mostly above"),
    Observation("right-pays", "with all three put right the advantage of verbose is still above 0: "
                "the reply is right, and that is better than was expected",
                found("raw/reward/reward/verbose"), 0.0, "above", graded=False),
    Observation("rule", "per sample, at the first token: A > 0 exactly where r − β·penalty > V; "
                "share of samples that agree ≥ 0.999", found("rule_agrees"), 0.999, "above"),
    Observation("moved-length", "the penalty moved into the reward with β = 3, same labels and "
                "steps: LEN on the slice stays within ± 10 %, though the courtesy still pays: "
                "|drift| < 0.10",
                lambda s: abs(found("moved/short_drift")(s)), 0.10, "below", graded=False),
    Observation("concise-bonus", "concise-preferred pairs beside it: r(verbose) − r(concise) < 0",
                found("concise/bonus"), 0.0, "below"),
    Observation("concise-length", "and LEN on the slice stays within ± 10 %: |drift| < 0.10",
                lambda s: abs(found("concise/short_drift")(s)), 0.10, "below"),
]


# ── What the report shows ───────────────────────────────────────────────────────────────────────
ARMS = {"story": "the story", "moved": "penalty in the reward, β = 3",
        "concise": "and concise-preferred pairs"}


def draw_lengths(axes: Any, seeds: list[Seed]) -> None:
    """LEN on the slice and elsewhere, of the story and of both changes."""
    from rlhf_edu.cases.pictures import lines

    for axis, place, title in zip(axes[0], ("short", "other"),
                                  ("LEN on the short-answer slice", "LEN on other prompts"),
                                  strict=True):
        rows = {label: [read(s, f"{arm}/{place}_path") for s in seeds]
                for arm, label in ARMS.items()}
        lines(axis, (0, AUDITS[1], UPDATES), rows, title, "PPO update")
    axes[0, 0].legend(fontsize=8, frameon=False)


def draw_switches(axes: Any, seeds: list[Seed]) -> None:
    """The advantage of the courteous replies with each switch in both positions."""
    from rlhf_edu.cases.pictures import dots

    names = {"loss/own": "the story: penalty in the loss, own critic",
             "reward/own": "1: penalty in the reward", "loss/loss": "2: critic fitted",
             "reward/loss": "1, and critic of the plain returns", "reward/reward": "1 and 2"}
    titles = "mean token advantage of verbose", "the same, whitened"
    for axis, kind, title in zip(axes[:, 0], ("raw", "used"), titles, strict=True):
        values = {label: [found(f"{kind}/{key}/verbose")(s) for s in seeds]
                  for key, label in names.items()}
        dots(axis, values, title)
        axis.axvline(0, color="#888888", linewidth=0.8)


PICTURES = [
    Picture("Short questions drift, others less",
            "Mean length of replies to held-out prompts, in tokens, <eos> included. Thin lines are "
            "seeds, thick lines their mean.", draw_lengths),
    Picture("Why the advantage stays positive, one switch at a time",
            "Right answers with a courtesy, mean of three looks half-way. A dot is a seed. The "
            "critic's switch is graded after updates 2 and 3; here less of it is left.",
            draw_switches, shape=(2, 1), height=2.4),
]

TRIED = [
    ("as it is now, with an interval for how far whitening lifts (seeds 21 to 25)",
     "13 of 14 claims: 0.19 SD on seed 21, 0.013 to 0.020 on the others, so that the interval "
     "reaches 0; KL(policy ‖ reference) was 2.0 nats a reply there and 0.3 to 0.4 elsewhere"),
    ("three reward models, courtesies after replies of every kind, 24 updates with a constant step "
     "size (seeds 21 to 25)",
     "11 of 14 claims: bonus 0.12 [0.08, 0.16], but LEN on the slice +7, +18, +60, −16 and +60 %, "
     "and with it the penalty and log π(verbose) too low. On seed 200 it fell by 1 %, and by 20 % "
     "in a second training"),
    ("courtesies after short answers alone, 6,000 demonstrations (seed 200, in nine set-ups of "
     "pairs, step size, updates and reward models)",
     "bonus 0.08 to 0.19, LEN on the slice −12 to +90 %, larger where the bonus is. Read off the "
     "reference's own right replies, a courtesy was worth −0.01 and −0.06 where perfect ones were "
     "worth 0.10: one in ten was garbled. Other prompts moved by at most 4 %"),
    ("the same, constant step size of 1.5e-4, 36 updates (seed 200)",
     "LEN on the slice 4.0, after 20 updates 3.5, after 36 6.4: hence a step size that falls"),
    ("the same, agents who are seldom wrong (seeds 200 and 0)",
     "LEN on the slice +90 and +67 %, but the reward model had seen few wrong answers, and right "
     "ones on other prompts fell to 88 and 25 %"),
    ("12,000 demonstrations, 57 %, 24 updates (seed 200)",
     "bonus 0.07, LEN on the slice +25 %; with 16,000 and 40 updates bonus 0.10, +74 % (and +65, "
     "+68 and +80 % on seeds 0, 1 and 2), but in the end hardly any advantage is left to look at"),
    ("a length head (λ = 0.3) in place of the concise-preferred pairs, three reward models (seeds "
     "3, 4 and 200)", "bonus −0.14, −0.01 and 0.03; LEN on the slice 2 to 4 % off"),
    ("one reward model, the courteous reply wins 55.5 % (seeds 21 to 25)",
     "bonus 0.13 [0.07, 0.20], 0.06 to 0.20; 14 of 14 claims held on one kind of CPU. On seeds 61 "
     "to 65 nine did: LEN on the slice rose by 24 to 32 % where the bonus was 0.09, 0.13 and 0.14, "
     "and fell by 14 and 11 % where it was 0.06 and 0.09. Four that read the same pairs in other "
     "orders: 0.09 to 0.17, 0.06 to 0.10 and 0.06 to 0.21 on seeds 0, 1 and 2"),
    ("40 updates with three reward models (seeds 0, 1 and 2)",
     "LEN on the slice +38, +24 and +48 %, but on other prompts +17, −5 and +56 %"),
    ("every pair on ordinary prompts twice, once with each winner (seeds 0, 1, 3, 4, 200)",
     "what a courtesy is worth there still differs by 0.04 SD between two reward models: it is not "
     "the labels' luck"),
    ("twice as many pairs on ordinary prompts; a step size of 5e-4 (seed 0)",
     "there −0.06, −0.06 and 0.10; and bonus 0.07, 0.21 and 0.24: no less spread"),
    ("β = 1 and a constant learning rate for the changes, the critic audited after update 4 (seeds "
     "21 to 25)",
     "12 of 14 claims: with concise-preferred pairs LEN on the slice was 17 % off (−10 to −23 %), "
     "likely as wrong replies, which are longer, became right; LEN still moved by a fifth in the "
     "last updates; and on one seed the critic had caught up"),
    ("the critic audited after updates 1, 2, 3, 4 and 6 (seed 0)",
     "advantage of verbose, own critic less fitted one: 0.53, 0.39, 0.29, 0.25, 0.17"),
    ("β = 3 and a constant learning rate for the changes (seeds 0 and 1)",
     "concise-preferred pairs: LEN on the slice 12 and 16 % off"),
    ("a learning rate that falls to 0, β = 1, 2 and 3 (seeds 0 and 1)",
     "LEN on the slice −13 and −12 %, −7 and −4 %, −5 and −4 %"),
    ("β = 2 and a learning rate that falls to 0 (seeds 21 to 25)",
     "13 of 14 claims: LEN on the slice 8 % off [5, 12]"),
    ("reward models that read their pairs once in batches of 128 (seeds 0, 1, 2)",
     "bonus 0.15, 0.11, 0.14, on six seeds as far apart as now; LEN on the slice +46, +19, +73 %, "
     "but other replies +33, +12, +38 %: fewer steps, and the answers are known less well"),
    ("reward models that read their pairs three times in batches of 128, the courteous reply wins "
     "58.5 % (seeds 0, 1, 2), 60 % (seed 2)",
     "bonus 0.14, 0.13, 0.09 and 0.14; right answers on other prompts rise to 96 to 99 %, and LEN "
     "on the slice +13, +25, −2 and −2 %: what is right pays so much better that 24 updates are "
     "too few for the courtesy"),
    ("batches of 192, two minibatches, lr 2e-4, 14 updates, the changes with the story's own "
     "penalty (seeds 21 to 25)",
     "6 of 18 claims: bonus 0.06 to 0.26, and the slice's replies shorter on four of five seeds; "
     "one seed looked at every four updates: LEN 5.1, 5.7, 4.6, 5.8, 7.2, 7.2, 5.6, 5.1, 6.4"),
    ("a reference with few courtesies (closing 0.12, confident and sales 0.03), 57 % of 6,000 "
     "pairs (seeds 0 and 1)",
     "bonus 0.09 and 0.32: with less to like or dislike the rewards' SD, its unit, is smaller and "
     "differs more. LEN on the slice −16 and +117 %"),
    ("courtesies on ordinary prompts that win 45 % (seeds 0 and 1)",
     "bonus 0.08 and 0.05, and after four updates LEN on the slice −34 and −32 %: how a policy "
     "ends a reply is nearly one habit for all prompts"),
    ("a model of one block (seeds 0 and 1)",
     "LEN on the slice +76 and +30 % after 40 updates, but on seed 0 all other replies got longer "
     "and worse, too (KLREF 7)"),
    ("the changes with the penalty in the reward and β = 0.5 (seeds 0 and 1)",
     "concise-preferred pairs: bonus −0.12 and −0.20, LEN on the slice 13 and 7 % off"),
    ("6,000 random pairs, raters with a length bias of 0.08 or 0.12 a word, none on the slice by "
     "design", "bonus −0.27 and 0.10 (seeds 0 and 1), or 0.45 and 0.56: the seeds differ by more "
     "than the window from 0 to 0.2 is wide"),
    ("8,000 random pairs, sharper raters (noise 0.2), bias 0.07",
     "bonus 0.25, −0.04 and 0.19 on seeds 0 to 2: the same"),
    ("random pairs with courtesy pairs added, 24 updates, k3 in the loss, β = 0.1 (seed 0)",
     "LEN on the slice +143 %, but right answers from 59 % to 5 %: the reward model did not know "
     "the answers, and the policy stopped giving any"),
    ("a length head with λ = 1 on 9,000 pairs (seed 0)",
     "the reward left has an SD of 0.13 log-odds: the correlation losses outweigh the ranking"),
    ("needless refusals and broken wishes left out of the wrong replies (seed 0)",
     "LEN on the slice +85 %, right answers on it from 73 % to 2 %: no label forbade to refuse"),
    ("no right-or-wrong pairs but those of the desk's traffic, courtesy winning 57.5 % (seed 1)",
     "bonus 0.20, LEN on the slice +38 %, but right answers on it from 79 % to 53 %"),
    ("openers before the answer counted as courtesies, in the reference as elsewhere (seed 0)",
     "bonus 0.09, yet LEN on the slice −30 %: PPO takes the openers away"),
]
