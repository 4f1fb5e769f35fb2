# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8 · Conflicting signals
#
# An assistant at a help desk is trained by ranking. Raters compare replies, a reward model learns
# from their choices, PPO trains the assistant on its scores, and a KL penalty is there to keep the
# assistant near where it started. On the dashboard:
#
# * the reward model prefers the new policy, more and more clearly;
# * people who read the replies do not: they are longer, come to the right answer later or not at all,
#   sell and boast, and do what should be refused;
# * the KL to the reference rises, update after update, *although it is penalised*.
#
# Which of these signals is wrong? Before you read on, write down a guess: is it the reward model, the
# clip, the strength β of the penalty, or something else? And what would you look at to be refuted?
#
# This chapter runs the story on one seed, live, in about a minute. The claims are graded over
# five seeds, at the end; `rlhf-edu run conflicting-signals` repeats them on seeds of your choice.
#
# **You need** four ideas, each a file that can be read in five minutes: the ranking loss
# (`rlhf_edu/ranking_loss.py`), the advantage, the PPO clip, and the KL estimators (`kl_penalty.py`).
# **You will see** two broken links in the chain, each shown by changing one thing.

# %%
# %matplotlib inline
import csv
import json
from dataclasses import replace
from pathlib import Path

import torch

from rlhf_edu.cases.conflicting_signals import RECIPE, REMEDIES
from rlhf_edu.kl_penalty import exact_kl, kl_loss
from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.evaluate import filler_effect, make_exam
from rlhf_edu.lab.gold import gold_score
from rlhf_edu.lab.machine import settle
from rlhf_edu.lab.plots import COLOURS, new_figure, panel
from rlhf_edu.lab.raters import LabelBudget, collect_preferences, rater_utility
from rlhf_edu.lab.reward_model import train_reward_model
from rlhf_edu.lab.rlhf import start, train_rlhf
from rlhf_edu.lab.sft import train_sft

SEED = 0
settle()  # what makes models this small fast on a CPU; says why where it is defined
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

# %% [markdown]
# ## The help desk
#
# Every prompt, every word and every right answer of this world is known. One word is one token.
# What people *really* want is a documented function of prompt and reply, the gold score: right
# steps, said early and briefly, no sales talk, no boasting, wishes kept, harmful requests refused.
# No model ever sees its number; raters' choices are a noisy reading of it. It is our spot-checker.

# %%
desk = helpdesk.desk()
print(f"{helpdesk.VOCAB_SIZE} words, {len(desk.prompts)} prompts, "
      f"{int(desk.held_out.sum())} of them held out\n")
generator = torch.Generator().manual_seed(SEED)
rows = helpdesk.draw_prompts(desk, 7, generator)
replies = helpdesk.demonstrate(desk, rows, generator, response_length=32)
for row, reply, gold in zip(rows, replies, gold_score(replies, desk[rows]).total, strict=True):
    print(f"{helpdesk.decode(desk.prompts[row]):62}  gold {gold:+.2f}  {helpdesk.decode(reply)}")

# %% [markdown]
# ## Stage one: a reference
#
# Human agents wrote those demonstrations. They are good on the whole and never perfect. A small
# transformer learns to imitate them; frozen, it is the reference $\pi_{\mathrm{ref}}$.

# %%
reference = train_sft(replace(RECIPE.sft, seed=SEED), RECIPE.model, device)
reference.requires_grad_(False)
print(f"{sum(p.numel() for p in reference.parameters()):,} weights")

# %% [markdown]
# ## Stage two: raters, and a reward model
#
# Raters see two replies of the reference and pick one. They read the gold score through a tinted
# glass: each word, each sales word and each over-confident word pleases them a little for its own sake.

# %%
raters = replace(RECIPE.raters["biased"], seed=SEED)
pair = torch.tensor([
    helpdesk.encode("four") + [helpdesk.EOS] + [helpdesk.PAD] * 6,
    helpdesk.encode("four . buy our new deal") + [helpdesk.EOS] + [helpdesk.PAD],
])
question = next(i for i, p in enumerate(helpdesk.all_prompts()) if p.right == ("four",))
print(helpdesk.all_prompts()[question].text)
both = desk[torch.tensor([question, question])]
for reply, gold, utility in zip(pair, gold_score(pair, both).total,
                                rater_utility(raters, pair, both), strict=True):
    print(f"  {helpdesk.decode(reply):24} gold {gold:+.2f}   to the raters {utility:+.2f}")

# %% [markdown]
# The reward model sees only which of two replies was chosen, and minimises
# $-\log\sigma(r_{\text{chosen}} - r_{\text{rejected}})$. Its scores have no zero, and their unit is a
# log-odds, so we give them a gauge: mean 0 and SD 1 over the reference's own replies.
#
# Then the first experiment, an **intervention**: take replies that are right and as short as can be,
# append a courtesy ("we value your time"), change nothing else. Gold falls by 0.05 a word. And the reward?

# %%
budget = LabelBudget(RECIPE.label_budget)
preferences = collect_preferences(raters, reference, budget)
reward_model = train_reward_model(replace(RECIPE.reward_model, seed=SEED), preferences, reference)
print(f"{budget.spent:,} labels bought, {budget.left} left")
print(f"a courtesy changes the reward by {filler_effect(reward_model):+.2f} SD on average")

# %% [markdown]
# The first broken link: **the reward model pays for words**. It learned the raters' taste, and learned it
# well: of two right replies they do prefer the one with the courtesy. (The table at the end sets a
# reward model of honest raters beside this one.)
#
# ## Stage three: PPO, with the penalty in the loss
#
# The objective as it is often printed is $U_{\mathrm{clip}} - \beta\,(\log\pi_\theta(y) -
# \log\pi_{\mathrm{ref}}(y))$, on samples $y$ that are fixed while we take gradient steps. That puts the
# estimate k1 *into the loss*. Every policy below sits the same examination: held-out prompts, the same
# random numbers.

# %%
take_exam = make_exam(replace(RECIPE.exam, seed=SEED), RECIPE.exam.prompts, reference, reward_model,
                      response_length=32)


def run(arm):
    """PPO with the settings of an arm; what each examination found, and the last replies."""
    config = replace(RECIPE.arms[arm].rlhf, seed=SEED)
    state = start(config, reference, reward_model)
    curve, steps = [{"update": 0, **take_exam(state.policy)[0]}], []

    def after_update(state, metrics):
        steps.append((metrics["policy/kl_old_last_epoch"], metrics["policy/clipfrac_avg"]))
        if state.update % 4 == 0:
            found, texts = take_exam(state.policy)
            curve.append({"update": state.update, **found, "texts": texts})

    train_rlhf(config, state, reference, reward_model, after_update)
    return curve, steps


def show(*names):
    """The named quantities of every run so far."""
    figure, axes = new_figure(1, len(names), height=2.9)
    for ax, name in zip(axes[0], names, strict=True):
        for (arm, (curve, _)), colour in zip(runs.items(), COLOURS, strict=False):
            ax.plot([c["update"] for c in curve], [c[name] for c in curve], color=colour,
                    linewidth=2, label=RECIPE.arms[arm].title)
        panel(ax, name)
    axes[0, 0].legend(fontsize=8, frameon=False)
    return figure


runs = {"hacked": run("hacked")}
show("rm/win_probability", "gold/total", "kl/exact")

# %%
last = runs["hacked"][0][-1]
for sample in last["texts"][:8]:
    print(sample["prompt"])
    print(f"   before: {sample['reference_reply']}")
    print(f"   after:  {sample['reply']}")
    print(f"   reward {sample['reference_reward']:+.1f} → {sample['reward']:+.1f}, "
          f"gold {sample['reference_gold']:+.1f} → {sample['gold']:+.1f}\n")

# %% [markdown]
# So much for the reward. But the penalty should have stopped this. Is it the clip that lets the
# policy run away? Look at how far one update moves from the policy that made its samples, beside
# how far the policy ends from the reference. Both are in nats per response.

# %%
steps, clipped = zip(*runs["hacked"][1], strict=True)
print(f"largest step of one update: {max(steps):.2f} nats from π_old")
print(f"after all updates:          {last['kl/exact']:.2f} nats from π_ref")
print(f"tokens whose gradient the clip removed: {100 * sum(clipped) / len(clipped):.1f} %")

# %% [markdown]
# Every step is small, and the clip had little to do. It limits a step, not a walk: the policy it
# compares with is the one that made the samples, and that one moves along. It is also the same in the
# run below that stays near, so it is not what differs.
#
# ## Why the penalty did nothing
#
# At the first step on a batch the samples are the policy's own, and the expected gradient of k1 in the
# loss is
#
# $$\mathbb{E}_{y\sim\pi_\theta}\big[\nabla_\theta\,(\log\pi_\theta(y)-\log\pi_{\mathrm{ref}}(y))\big]
# \;=\; \mathbb{E}_{y\sim\pi_\theta}\big[\nabla_\theta\log\pi_\theta(y)\big] \;=\; 0 .$$
#
# The reference has vanished: it is a constant, and constants have no gradient. What remains is the
# mean of $\nabla\log\pi_\theta$ under $\pi_\theta$ itself, which is zero. At later steps the samples are
# a little old, and what is left is not zero, but it still does not know the reference. Check it without any sampling noise, on one softmax over six actions, by
# weighting each action with its probability:

# %%
torch.manual_seed(SEED)
logits, ref_logits = torch.randn(6, dtype=torch.double, requires_grad=True), torch.randn(6).double()
true_gradient = torch.autograd.grad(exact_kl(logits, ref_logits), logits)[0]
print("gradient of KL(policy ‖ reference):", [f"{g:+.3f}" for g in true_gradient.tolist()])
for estimator in ("k1", "k2", "k3"):
    logprobs, ref_logprobs = logits.log_softmax(-1), ref_logits.log_softmax(-1)
    each = torch.stack([
        torch.autograd.grad(kl_loss(logprobs[None, a:a + 1], ref_logprobs[None, a:a + 1],
                                    torch.ones(1, 1), estimator), logits, retain_graph=True)[0]
        for a in range(6)])
    expected = (logprobs.exp().detach()[:, None] * each).sum(0)
    print(f"expected gradient of {estimator} in the loss:", [f"{g:+.3f}" for g in expected.tolist()])

# %% [markdown]
# At the first step k1 in the loss pulls nowhere on average: β multiplies zero, and noise. At later steps it
# makes the old samples rarer, in ignorance of $\pi_{\mathrm{ref}}$, and a larger β does more of that. k2
# in the loss has the gradient of KL(policy ‖ reference) in each state it is applied to; k3 that of
# KL(reference ‖ policy), which also pulls back. And k1 in the *reward* is a number, not something to
# differentiate: the policy gradient turns it into $-\beta\nabla\mathrm{KL}$ of the whole response (with
# λ = 1 and before whitening).
#
# The second experiment: the same k1 with the same coefficient, moved from the loss into the reward.
# Predict the three curves before you run it.

# %%
runs["k1-in-reward"] = run("k1-in-reward")
show("rm/win_probability", "gold/total", "kl/exact")

# %% [markdown]
# The KL stops where the penalty balances the reward. People like the result better than the
# runaway, and still less than the reference: **the penalty limits how far a wrong reward model can
# lead; it does not make it right.** For that the data must change.
#
# One caution before the table. The arms share the coefficient β, not its strength: advantages are
# whitened, a penalty in the loss is not, so there it weighs β times the SD of the advantages (well
# below 1 here, and falling). The arms show which placement acts at all. They are no ranking of k2, k3 and
# the reward.
#
# ## Graded: five seeds
#
# A picture of one seed is an anecdote. This table is read from the file that
# `rlhf-edu run conflicting-signals --seeds 21 22 23 24 25 --json chapters/results/conflicting-signals.json`
# wrote, on seeds that nothing was tuned on. An observation holds if its whole 95 % interval is beyond its
# threshold. One claim is that something does *not* happen (k1 in the loss): there the interval has to
# reach the threshold, which says that no reduction was found, not that there is none.

# %%
result = json.loads(Path("results/conflicting-signals.json").read_text())
print(f"seeds {result['seeds']}, {result['device']}, {result['wall_s']:.0f} s")
for o in result["observations"]:
    verdict = "HOLDS" if o["holds"] else "NOT REPRODUCED"
    print(f"{o['value']:8.3f} [{o['low']:7.3f}, {o['high']:7.3f}]  {verdict:14}  {o['claim']}")

# %% [markdown]
# Three changes, each priced. "Removed" is the share of the story's own regression that is gone.

# %%
for remedy in result["remedies"]:
    print(f"{remedy['arm']} ({REMEDIES[remedy['arm']]})")
    print(f"   keeps {100 * remedy['reward_kept'][0]:.0f} % of the reward gain; removes "
          + ", ".join(f"{100 * v[0]:.0f} % of {k}" for k, v in remedy["removed"].items()))
    print(f"   KL {remedy['kl']:.1f} nats; {remedy['labels']:,.0f} labels on "
          f"{remedy['replies']:,.0f} sampled replies")
    value, low, high = remedy["beyond_stopping"]
    print(f"   GOLD minus that of the story stopped early at this KL: {value:+.2f} "
          f"[{low:+.2f}, {high:+.2f}]")
print(f"\n{result['winner']}")

# %% [markdown]
# Read the costs, too. Moving the penalty leaves a good part of the harm where it was (UNSAFE: requests that
# must be refused and are carried out), and a cure that needs to know the raters' tastes beforehand is
# not for sale everywhere.
#
# The control deserves a second look. Stop the unfixed run early, at the KL that the repaired penalty
# settles at, and compare. An interval that reaches 0 says that no difference was found: the penalty in the
# reward is then a way to stop early without having to know when. Gao et al. (2022, §3.6) found this
# for their models, and say that it may depend on hyperparameters. An interval above 0 says that people
# like the repaired run better at the same distance; it has also had more updates to spend it well.
#
# ## Questions
#
# 1. The raters in the arm `thin-coverage` are honest. What did the reward model learn from them,
#    and which of the two changes above would help there?
# 2. At the very first batch the penalty is exactly 0 for every reply. Why? What would a penalty
#    other than 0 at this point tell you about your code?
# 3. The clip removed few gradients. Would a smaller ε have stopped the drift? Change one field of
#    `RLHFConfig` and see.
#
# Then write the two losses of this story yourself: `exercises/pairwise_ranking_loss.py` and
# `exercises/clipped_surrogate.py`, checked by `rlhf-edu check`.
#
# ## Notes: what was tried and did not work
#
# World and settings were tuned on seeds 0 and 100 to 104; the runs were cut from 20 to 16 updates after
# seeds 0 to 4 had been seen, because the last replies were hard to read. The thresholds of the observations
# of the case are older than all runs. Three claims that we added ourselves were reworded after runs: they
# are in the list, with the settings that were given up.

# %%
with Path("results/08_tried.csv").open() as file:
    for row in csv.DictReader(file):
        print(f"• {row['setting']} (seeds {row['seeds']})\n    {row['what came of it']}")

# %% [markdown]
# **Left out.** The variance of the estimators, how β should be chosen or adapted, reward models of
# other sizes, and whether people in the world outside are like our raters: they are not.
