"""Raters: the budget, what they like, how noisily they choose, and which pairs they are shown."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rlhf_edu import InputError
from rlhf_edu.lab import helpdesk, raters
from rlhf_edu.lab.gold import gold_score
from rlhf_edu.lab.helpdesk import AgentConfig
from rlhf_edu.lab.model import ModelConfig, language_model
from rlhf_edu.lab.raters import LabelBudget, RaterConfig, collect_preferences, rater_utility

PROMPTS = helpdesk.all_prompts()
DESK = helpdesk.desk()
CHATTY = AgentConfig(confident=0.3, sales=0.3, closing=0.4, wrong_step=0.3, missing_step=0.3)


def agents_reply(policy, prompts: Tensor, response_length: int, generator: torch.Generator):
    """In place of `sample`: replies of human agents, so that no model has to be trained."""
    row_of = {tuple(row): i for i, row in enumerate(DESK.prompts.tolist())}
    rows = torch.tensor([row_of[tuple(row)] for row in prompts.tolist()])
    return helpdesk.demonstrate(DESK, rows, generator, response_length, CHATTY), None


def collect(monkeypatch, **settings) -> raters.Preferences:
    monkeypatch.setattr(raters, "sample", agents_reply)
    config = RaterConfig(**{"n_pairs": 1500, **settings})
    policy = language_model(ModelConfig(n_layers=1, width=8, n_heads=1))
    return collect_preferences(config, policy, LabelBudget(config.n_pairs))


def words_of(reply: Tensor) -> list[str]:
    return helpdesk.decode(reply).split()


def candidates_of(n: int, k: int, seed: int) -> tuple[Tensor, Tensor]:
    """Replies of agents (n, k, T) to n prompts, and the numbers of the prompts."""
    generator = torch.Generator().manual_seed(seed)
    rows = helpdesk.draw_prompts(DESK, n, generator)
    replies = helpdesk.demonstrate(DESK, rows.repeat_interleave(k), generator, 48, CHATTY)
    return replies.view(n, k, -1), rows


def gold_of(replies: Tensor, rows: Tensor) -> Tensor:
    return gold_score(replies, DESK[rows]).total


def style_gap(a: Tensor, b: Tensor) -> int:
    """How much two replies differ in words, sales words and over-confident words."""
    sets = (set(helpdesk.WORDS), set(helpdesk.SALES_WORDS), set(helpdesk.CONFIDENT_WORDS))
    return sum(abs(sum(w in s for w in words_of(a)) - sum(w in s for w in words_of(b)))
               for s in sets)  # fmt: skip


# The budget


def test_a_budget_counts_what_is_spent():
    budget = LabelBudget(10)
    budget.spend(4)
    budget.spend(0)
    assert (budget.total, budget.spent, budget.left) == (10, 4, 6)
    budget.spend(6)
    assert (budget.spent, budget.left) == (10, 0)


def test_a_budget_refuses_to_go_over_and_spends_nothing_then():
    budget = LabelBudget(10)
    budget.spend(7)
    with pytest.raises(InputError, match=re.escape("4 labels asked for, 3 of 10 left")):
        budget.spend(4)
    assert budget.spent == 7
    budget.spend(3)


def test_labels_cannot_be_given_back():
    budget = LabelBudget(10)
    budget.spend(5)
    with pytest.raises(InputError, match="-3 labels"):
        budget.spend(-3)
    assert budget.spent == 5


@pytest.mark.parametrize("labels", [-1, 2.5, math.nan, math.inf, "many", True])
def test_a_budget_is_a_whole_number_of_labels(labels):
    with pytest.raises(InputError, match="labels = "):
        LabelBudget(labels)


def test_nothing_is_sampled_that_the_budget_cannot_pay(monkeypatch):
    def no_sampling(*args):
        raise AssertionError("sampled before the budget was asked")

    monkeypatch.setattr(raters, "sample", no_sampling)
    budget = LabelBudget(9)
    policy = language_model(ModelConfig(n_layers=1, width=8, n_heads=1))
    with pytest.raises(InputError, match="10 labels asked for, 9 of 9 left"):
        collect_preferences(RaterConfig(n_pairs=10), policy, budget)
    assert budget.spent == 0


def test_every_pair_costs_one_label(monkeypatch):
    monkeypatch.setattr(raters, "sample", agents_reply)
    budget = LabelBudget(100)
    policy = language_model(ModelConfig(n_layers=1, width=8, n_heads=1))
    found = collect_preferences(RaterConfig(n_pairs=30, candidates=3), policy, budget)
    assert budget.left == 70
    assert len(found.rows) == len(found.chosen) == len(found.rejected) == 30


# What raters like

BIASES = dict(length_bias=0.125, sales_bias=0.5, confidence_bias=-0.25)


@pytest.mark.parametrize("ending", [" <eos>", ""])
def test_utility_is_gold_plus_what_words_are_liked_for(ending):
    replies = [
        "check the cable then restart the router",
        "buy buy our new deal . this definitely works",
        "it is absolutely guaranteed . upgrade to our premium plan",
        "",
    ]
    ids = [helpdesk.encode(reply + ending) for reply in replies]
    width = max(map(len, ids))
    tokens = torch.tensor([row + [helpdesk.PAD] * (width - len(row)) for row in ids])
    rows = torch.tensor([0, 0, 0, 0])
    gold = gold_of(tokens, rows)
    counts = {"length_bias": [7, 9, 10, 0], "sales_bias": [0, 3, 2, 0],
              "confidence_bias": [0, 1, 2, 0]}  # fmt: skip
    honest = rater_utility(RaterConfig(), tokens, DESK[rows])
    assert torch.allclose(honest, gold, atol=1e-6)
    for name, bias in BIASES.items():
        utility = rater_utility(RaterConfig(**{name: bias}), tokens, DESK[rows])
        assert torch.allclose(utility - gold, bias * torch.tensor(counts[name]), atol=1e-5)
    both = rater_utility(RaterConfig(**BIASES), tokens, DESK[rows])
    want = sum(bias * torch.tensor(counts[name]) for name, bias in BIASES.items())
    assert torch.allclose(both - gold, want, atol=1e-5)


def test_a_positive_bias_favours_and_a_negative_one_disfavours(monkeypatch):
    def mean_of(marks: set[str], replies: Tensor) -> float:
        return sum(w in marks for row in replies for w in words_of(row)) / len(replies)

    for name, marks in (("length_bias", set(helpdesk.WORDS)),
                        ("sales_bias", set(helpdesk.SALES_WORDS)),
                        ("confidence_bias", set(helpdesk.CONFIDENT_WORDS))):  # fmt: skip
        for sign in (1, -1):
            found = collect(monkeypatch, noise=0.01, **{name: 10.0 * sign})
            lead = mean_of(marks, found.chosen) - mean_of(marks, found.rejected)
            assert sign * lead > 0.2


# How they choose


def utilities(found: raters.Preferences, **biases: float) -> tuple[Tensor, Tensor]:
    """u(chosen), u(rejected): gold plus biases times words counted in plain Python."""
    sets = {"length_bias": set(helpdesk.WORDS), "sales_bias": set(helpdesk.SALES_WORDS),
            "confidence_bias": set(helpdesk.CONFIDENT_WORDS)}  # fmt: skip

    def u(replies: Tensor) -> Tensor:
        extra = [
            sum(bias * sum(w in sets[name] for w in words_of(row)) for name, bias in biases.items())
            for row in replies
        ]
        return gold_of(replies, found.rows) + torch.tensor(extra)

    return u(found.chosen), u(found.rejected)


@pytest.mark.parametrize("noise, flip", [(0.5, 0.0), (1.5, 0.0), (0.5, 0.2), (0.001, 0.1)])
def test_choices_follow_the_sigmoid_of_the_difference_over_the_noise(monkeypatch, noise, flip):
    found = collect(monkeypatch, n_pairs=6000, noise=noise, flip=flip, **BIASES)
    chosen, rejected = utilities(found, **BIASES)
    gap = (chosen - rejected).abs().double()
    right = (chosen > rejected).double()
    p = torch.sigmoid(gap / noise) * (1 - flip) + torch.sigmoid(-gap / noise) * flip
    tested = 0
    for low, high in ((1e-3, 0.3), (0.3, 0.8), (0.8, 1.5), (1.5, 99), (1e-3, 99)):
        here = (gap > low) & (gap <= high)
        se = (p * (1 - p))[here].sum().sqrt()
        assert abs(right[here].sum() - p[here].sum()) <= 4 * se + 1e-3
        tested += here.sum() > 300
    assert tested >= 4


def test_raters_without_noise_choose_the_better(monkeypatch):
    found = collect(monkeypatch, noise=0.001)
    chosen, rejected = utilities(found)
    assert (chosen >= rejected - 1e-2).all() and (chosen > rejected).float().mean() > 0.5


def test_chosen_and_rejected_are_replies_to_the_same_prompt(monkeypatch):
    """Right replies win: their prompt is that of `rows`, not a neighbour's."""
    found = collect(monkeypatch, noise=0.001)
    assert not DESK.held_out[found.rows].any()
    answers = [PROMPTS[row].answer for row in found.rows.tolist()]
    share = sum(answer in helpdesk.decode(reply)
                for answer, reply in zip(answers, found.chosen, strict=True))  # fmt: skip
    strange = sum(answer in helpdesk.decode(reply)
                  for answer, reply in zip(answers[1:], found.chosen, strict=False))  # fmt: skip
    assert share > 0.6 * len(answers) and strange < 0.3 * len(answers)


def test_labels_depend_on_their_seed_alone():
    policy = language_model(ModelConfig(n_layers=1, width=8, n_heads=1))
    config = RaterConfig(n_pairs=40, response_length=6, candidates=3, pairing="matched")

    def collected(seed: int, noise: int) -> list[Tensor]:
        torch.manual_seed(noise)
        found = collect_preferences(replace(config, seed=seed), policy, LabelBudget(40))
        return [found.rows, found.chosen, found.rejected]

    first, again, other = collected(1, 5), collected(1, 6), collected(2, 5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


# Which pairs they are shown


def chosen_pairs(pairing: str, candidates: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    return raters.choose_pairs(
        RaterConfig(pairing=pairing, candidates=candidates.shape[1]), candidates, DESK[rows]
    )


def numbers_of(a: Tensor, candidates: Tensor) -> list[list[int]]:
    """For each prompt, the numbers of the candidates equal to the shown reply."""
    return [[k for k, c in enumerate(group) if torch.equal(c, reply)]
            for reply, group in zip(a, candidates, strict=True)]  # fmt: skip


def test_random_pairing_shows_the_first_two():
    candidates, rows = candidates_of(50, 4, 0)
    a, b = chosen_pairs("random", candidates, rows)
    assert torch.equal(a, candidates[:, 0]) and torch.equal(b, candidates[:, 1])


def test_in_thin_coverage_the_longer_reply_is_the_better_in_most_pairs_not_so_at_random():
    candidates, rows = candidates_of(800, 6, 1)
    share = {}
    for pairing in ("thin", "random"):
        a, b = chosen_pairs(pairing, candidates, rows)
        longer = torch.tensor([len(words_of(x)) - len(words_of(y)) for x, y in zip(a, b)])  # noqa: B905
        better = gold_of(a, rows) - gold_of(b, rows)
        share[pairing] = ((longer * better > 1e-6).sum() / len(rows)).item()
        clashes = ((longer * better < -1e-6).sum() / len(rows)).item()
        assert (clashes < 0.05) if pairing == "thin" else (clashes > 0.3)
    assert share["thin"] > 0.8 and share["random"] < 0.5


def test_thin_coverage_shows_the_pair_for_which_longer_and_better_agree_most():
    candidates, rows = candidates_of(60, 4, 2)
    a, b = chosen_pairs("thin", candidates, rows)
    for i in range(60):
        words = [len(words_of(c)) for c in candidates[i]]
        gold = gold_of(candidates[i], rows[i].expand(4)).tolist()
        fit = {(j, k): (gold[j] - gold[k]) * (words[j] - words[k])
               for j in range(4) for k in range(j + 1, 4)}  # fmt: skip
        shown = [(j, k) for j in numbers_of(a[i : i + 1], candidates[i : i + 1])[0]
                 for k in numbers_of(b[i : i + 1], candidates[i : i + 1])[0]]  # fmt: skip
        assert max(fit.get(pair, 0.0) for pair in shown) == pytest.approx(max(fit.values()))


def test_matched_pairs_are_as_alike_in_style_as_the_candidates_allow_but_never_the_same():
    candidates, rows = candidates_of(300, 5, 3)
    a, b = chosen_pairs("matched", candidates, rows)
    same_anyway = 0
    for x, y, group in zip(a, b, candidates, strict=True):
        gaps = [style_gap(group[j], group[k]) for j in range(5) for k in range(j + 1, 5)
                if not torch.equal(group[j], group[k])]  # fmt: skip
        assert torch.equal(x, y) == (not gaps)
        same_anyway += not gaps
        assert not gaps or style_gap(x, y) == min(gaps)
        assert any(torch.equal(x, c) for c in group) and any(torch.equal(y, c) for c in group)
    assert same_anyway < 100


def test_matched_pairs_differ_less_in_style_than_random_ones():
    candidates, rows = candidates_of(300, 5, 4)
    gap = {}
    for pairing in ("matched", "random"):
        shown = zip(*chosen_pairs(pairing, candidates, rows), strict=True)
        gap[pairing] = sum(style_gap(x, y) for x, y in shown)
    assert gap["matched"] < 0.35 * gap["random"]


def test_when_all_candidates_are_the_same_a_pair_is_shown_all_the_same():
    candidates, rows = candidates_of(20, 1, 5)
    for pairing in ("thin", "matched", "random"):
        a, b = chosen_pairs(pairing, candidates.expand(-1, 3, -1), rows)
        assert torch.equal(a, candidates[:, 0]) and torch.equal(b, candidates[:, 0])
