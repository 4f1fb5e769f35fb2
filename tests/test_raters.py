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


def agents_reply(policy, prompts: Tensor, response_length: int, generator: torch.Generator,
                 copies: int):  # fmt: skip
    """In place of `sample`: replies of human agents, so that no model has to be trained."""
    row_of = {tuple(row): i for i, row in enumerate(DESK.prompts.tolist())}
    rows = torch.tensor([row_of[tuple(row)] for row in prompts.tolist() for _ in range(copies)])
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


def test_no_label_is_bought_that_the_budget_cannot_pay(monkeypatch):
    monkeypatch.setattr(raters, "sample", agents_reply)
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
    assert budget.spent == 30
    assert len(found.rows) == len(found.chosen) == len(found.rejected) == 30


def test_prompts_without_a_matched_pair_cost_nothing(monkeypatch):
    monkeypatch.setattr(raters, "sample", agents_reply)
    budget = LabelBudget(1000)
    policy = language_model(ModelConfig(n_layers=1, width=8, n_heads=1))
    found = collect_preferences(RaterConfig(n_pairs=300, pairing="matched"), policy, budget)
    assert budget.spent == len(found.rows) == len(found.chosen) == len(found.rejected)
    assert 5 < budget.spent < 150


# What raters like

BIASES = {"length_bias": 0.125, "sales_bias": 0.5, "confidence_bias": -0.25}


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


@pytest.mark.parametrize("pairing", ["random", "thin", "matched"])
def test_chosen_and_rejected_are_replies_to_the_same_prompt(monkeypatch, pairing):
    """Right replies win: their prompt is that of `rows`, not a neighbour's."""
    found = collect(monkeypatch, noise=0.001, pairing=pairing, candidates=4)
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


def chosen_pairs(pairing: str, candidates: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    config = RaterConfig(pairing=pairing, candidates=candidates.shape[1])
    return raters.choose_pairs(config, candidates, DESK[rows])


def pairs_of(group: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(a, b) for k, a in enumerate(group) for b in group[k + 1 :]]


def marks_of(reply: Tensor) -> tuple[int, int, int]:
    """Words, sales words, over-confident words."""
    words = words_of(reply)
    return (len(words), sum(w in helpdesk.SALES_WORDS for w in words),
            sum(w in helpdesk.CONFIDENT_WORDS for w in words))  # fmt: skip


def test_random_pairing_shows_the_first_two():
    candidates, rows = candidates_of(50, 4, 0)
    a, b, shown = chosen_pairs("random", candidates, rows)
    assert torch.equal(a, candidates[:, 0]) and torch.equal(b, candidates[:, 1])
    assert shown.tolist() == [True] * 50


def test_in_thin_coverage_the_longer_reply_is_the_better_in_most_pairs_not_so_at_random():
    candidates, rows = candidates_of(800, 6, 1)
    agree, clash = {}, {}
    for pairing in ("thin", "random"):
        a, b, shown = chosen_pairs(pairing, candidates, rows)
        assert shown.all()
        pairs = zip(a, b, strict=True)
        longer = torch.tensor([len(words_of(x)) - len(words_of(y)) for x, y in pairs])
        better = gold_of(a, rows) - gold_of(b, rows)
        agree[pairing] = (longer * better > 1e-6).float().mean().item()
        clash[pairing] = (longer * better < -1e-6).float().mean().item()
    assert agree["thin"] > 0.8 and clash["thin"] < 0.05
    assert agree["random"] < 0.5 and clash["random"] > 0.3


def test_thin_coverage_shows_the_pair_for_which_longer_and_better_agree_most():
    candidates, rows = candidates_of(60, 4, 2)
    a, b, _ = chosen_pairs("thin", candidates, rows)

    def fitness(x: Tensor, y: Tensor, row: Tensor) -> float:
        gold = gold_of(torch.stack([x, y]), row.expand(2)).tolist()
        return (gold[0] - gold[1]) * (len(words_of(x)) - len(words_of(y)))

    for x, y, group, row in zip(a, b, candidates, rows, strict=True):
        best = max(fitness(*pair, row) for pair in pairs_of(group))
        assert fitness(x, y, row) == pytest.approx(best)
        assert any(torch.equal(x, c) and torch.equal(y, d) for c, d in pairs_of(group))


def test_matched_pairs_are_alike_in_every_mark_but_not_the_same():
    candidates, rows = candidates_of(300, 5, 3)
    a, b, shown = chosen_pairs("matched", candidates, rows)
    for x, y, on, group in zip(a, b, shown.tolist(), candidates, strict=True):
        matched = [(c, d) for c, d in pairs_of(group)
                   if marks_of(c) == marks_of(d) and not torch.equal(c, d)]  # fmt: skip
        assert on == bool(matched)
        if on:
            assert any(torch.equal(x, c) and torch.equal(y, d) for c, d in matched)
    assert 50 < shown.sum() < 250


def test_raters_who_find_no_matched_pair_at_all_say_so(monkeypatch):
    def all_alike(policy, prompts: Tensor, *rest, copies: int):
        return torch.ones(len(prompts) * copies, 4, dtype=torch.long), None

    monkeypatch.setattr(raters, "sample", all_alike)
    budget = LabelBudget(10)
    policy = language_model(ModelConfig(n_layers=1, width=8, n_heads=1))
    with pytest.raises(InputError, match=r"RaterConfig\.n_pairs = 10: no prompt has two different"):
        collect_preferences(RaterConfig(n_pairs=10, pairing="matched"), policy, budget)
    assert budget.spent == 0


def test_random_pairs_are_seldom_alike():
    candidates, rows = candidates_of(300, 5, 4)
    a, b, _ = chosen_pairs("random", candidates, rows)
    alike = sum(marks_of(x) == marks_of(y) for x, y in zip(a, b, strict=True))
    assert alike < 100


def test_when_all_candidates_are_the_same_there_is_no_matched_pair():
    candidates, rows = candidates_of(20, 1, 5)
    for pairing in ("thin", "matched", "random"):
        a, b, shown = chosen_pairs(pairing, candidates.expand(-1, 3, -1), rows)
        assert torch.equal(a, candidates[:, 0]) and torch.equal(b, candidates[:, 0])
        assert shown.tolist() == [pairing != "matched"] * 20
