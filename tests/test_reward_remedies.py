"""What helps a reward model that learned the wrong thing: a length head, centring, several models.

By hand, and on synthetic pairs of which it is known what is length and what is quality.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from rlhf_edu.lab import helpdesk, reward_model
from rlhf_edu.lab.gold import reply_mask
from rlhf_edu.lab.helpdesk import EOS, PAD
from rlhf_edu.lab.model import ModelConfig, Transformer, language_model, reward_of, scalar_model
from rlhf_edu.lab.raters import Preferences
from rlhf_edu.lab.reward_model import (
    COMBINE,
    Ensemble,
    RewardModel,
    RewardModelConfig,
    length_head_loss,
    train_reward_model,
)
from rlhf_edu.ranking_loss import pairwise_ranking_loss

TINY = ModelConfig(n_layers=1, width=24, n_heads=2)
DESK = helpdesk.desk()
CONFIG = RewardModelConfig(epochs=4, batch_size=50, lr=5e-3, gauge_replies=50, response_length=12)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Several reward models that speak with one voice


def member(values: list[float], sd: float) -> RewardModel:
    """Stands for a reward model: it gives these rewards, whatever it reads."""

    class Given:
        model = SimpleNamespace(name=sd)

        def __call__(self, prompts: Tensor, responses: Tensor) -> Tensor:
            return torch.tensor(values)

    given = Given()
    given.sd = sd
    return given


MEMBERS = (member([1.0, -2.0, 0.5], 1.0), member([2.0, 4.0, 0.5], 2.0),
           member([6.0, -2.0, 0.5], 6.0))  # fmt: skip


@pytest.mark.parametrize(
    "combine, want",
    [
        ("mean", [3.0, 0.0, 0.5]),
        ("min", [1.0, -2.0, 0.5]),
        ("mean - variance", [3 - (4 + 1 + 9) / 3, 0 - (4 + 16 + 4) / 3, 0.5]),
    ],
)
def test_an_ensemble_by_hand(combine, want):
    ensemble = Ensemble(MEMBERS, combine)
    nothing = torch.zeros(3, 1)
    assert ensemble(nothing, nothing).tolist() == pytest.approx(want)
    assert ensemble.sd == 3 and ensemble.model is MEMBERS[0].model
    assert COMBINE.keys() == {"mean", "min", "mean - variance"}


def test_an_ensemble_of_one_is_that_one():
    for combine in COMBINE:
        alone = Ensemble(MEMBERS[:1], combine)
        assert alone(torch.zeros(3, 1), torch.zeros(3, 1)).tolist() == [1.0, -2.0, 0.5]
        assert alone.sd == 1
    assert Ensemble(MEMBERS).combine == "mean"


# A length head


def test_the_length_heads_loss_by_hand():
    numbers = np.random.default_rng(0)
    heads, lengths = numbers.normal(size=(9, 2, 2)), numbers.integers(1, 20, (9, 2))
    weights = numbers.normal(size=(2, 7))
    difference = lengths[:, 0] - lengths[:, 1]
    quality, length = ((heads[:, 0] - heads[:, 1])[:, i] for i in (0, 1))
    cosine = weights[0] @ weights[1] / np.sqrt((weights[0] @ weights[0])
                                               * (weights[1] @ weights[1]))  # fmt: skip
    rho = [np.corrcoef(r, difference)[0, 1] for r in (quality, length)]
    assert min(map(abs, [*rho, cosine])) > 0.02
    for sign in (1, -1):  # a correlation either way is taken out of quality; length must rise
        turned = torch.tensor(weights) * torch.tensor([[1.0], [sign]])
        got = length_head_loss(torch.tensor(heads) * torch.tensor([sign, 1.0]),
                               torch.tensor(lengths), turned)  # fmt: skip
        assert got.item() == pytest.approx(abs(rho[0]) - rho[1] + abs(cosine))
    best = torch.stack([torch.zeros(9, 2), torch.tensor(lengths).float()], 2)
    best[[0, 1], 0, 0] = torch.tensor([1.0, -1.0])  # no more than an accident of length
    assert length_head_loss(best, torch.tensor(lengths), torch.eye(2)) < -0.6


GOOD, BAD, FILLER = 20, 21, 22


def synthetic(n: int, seed: int) -> tuple[Preferences, Tensor, Tensor]:
    """Pairs whose preference is length plus quality: u = 1.5 for the good word + 0.3 a token.

    Which word it is and how long the reply is have nothing to do with each other. The pairs, and
    for (chosen, rejected) whether the word is the good one and how many tokens there are.
    """
    luck = generator(seed)
    rows = helpdesk.draw_prompts(DESK, n, luck)
    good = torch.randint(0, 2, (n, 2), generator=luck)
    length = torch.randint(2, 12, (n, 2), generator=luck)
    replies = torch.full((n, 2, 12), FILLER)
    replies[..., 0] = torch.where(good > 0, GOOD, BAD)
    replies.scatter_(2, length[..., None] - 1, EOS)
    replies[torch.arange(12) >= length[..., None]] = PAD
    utility = 1.5 * good + 0.3 * length
    first = torch.rand(n, generator=luck) < torch.sigmoid(2 * (utility[:, 0] - utility[:, 1]))
    order = torch.where(first[:, None], torch.tensor([0, 1]), torch.tensor([1, 0]))
    replies = replies.gather(1, order[..., None].expand(-1, -1, 12))
    pairs = Preferences(rows, *replies.unbind(1))
    return pairs, good.gather(1, order), length.gather(1, order)


@pytest.fixture(scope="module")
def reference() -> Transformer:
    torch.manual_seed(0)
    return language_model(TINY).eval()


def correlations(model: RewardModel) -> tuple[float, float]:
    """Of differences of reward, within pairs it never saw, with those of length and of quality."""
    pairs, good, length = synthetic(600, 99)
    x = DESK.prompts[pairs.rows]
    lead = (model(x, pairs.chosen) - model(x, pairs.rejected)).numpy()
    return tuple(float(np.corrcoef(lead, (of[:, 0] - of[:, 1]).numpy())[0, 1])
                 for of in (length, good))  # fmt: skip


def test_a_length_head_takes_length_out_of_the_reward_and_nothing_else(reference):
    pairs, good, length = synthetic(900, 1)
    apart = np.corrcoef((good[:, 0] - good[:, 1]).numpy(), (length[:, 0] - length[:, 1]).numpy())
    assert abs(apart[0, 1]) < 0.4
    length_of_one, quality_of_one = correlations(train_reward_model(CONFIG, pairs, reference))
    both = train_reward_model(replace(CONFIG, length_head=0.3, epochs=8, lr=1e-2), pairs, reference)
    length_left, quality_left = correlations(both)
    assert length_of_one > 0.5 and quality_of_one > 0.3
    assert abs(length_left) < 0.2 and quality_left > 0.7


class Watched:
    """A training whose losses and models are kept."""

    def __init__(self, monkeypatch, reference: Transformer, pairs: Preferences, **settings):
        self.models: list[Transformer] = []
        self.ranked: list[tuple[Tensor, Tensor]] = []
        self.logged: list[float] = []
        self.length_losses: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

        def made(*args, **kwargs) -> Transformer:
            self.models.append(scalar_model(*args, **kwargs))
            return self.models[-1]

        def rank(chosen: Tensor, rejected: Tensor) -> Tensor:
            self.ranked.append((chosen.detach(), rejected.detach()))
            return pairwise_ranking_loss(chosen, rejected)

        def of_length(heads: Tensor, lengths: Tensor, weights: Tensor) -> Tensor:
            loss = length_head_loss(heads, lengths, weights)
            self.length_losses.append((heads.detach(), lengths, weights.detach().clone(),
                                       loss.detach()))  # fmt: skip
            return loss

        with monkeypatch.context() as patch:
            patch.setattr(reward_model, "scalar_model", made)
            patch.setattr(reward_model, "length_head_loss", of_length)
            self.config = replace(CONFIG, epochs=1, batch_size=30, **settings)
            self.trained = train_reward_model(
                self.config, pairs, reference, rank,
                lambda step, metrics: self.logged.append(metrics["loss/reward_model"]))  # fmt: skip


def test_with_a_length_head_the_sum_is_ranked_and_one_head_is_kept(monkeypatch, reference):
    pairs, _, length = synthetic(100, 2)
    ran = Watched(monkeypatch, reference, pairs, length_head=0.7)
    order = torch.randperm(100, generator=generator(ran.config.seed)).split(30)
    two, one = ran.models
    assert len(ran.length_losses) == len(ran.ranked) == 4 == len(ran.logged)
    for (heads, lengths, _, loss), ranked, told, part in zip(
            ran.length_losses, ran.ranked, ran.logged, order, strict=True):  # fmt: skip
        assert torch.equal(lengths.long(), length[part])
        for i in (0, 1):
            assert torch.allclose(heads[:, i].sum(1), ranked[i])
        want = pairwise_ranking_loss(*ranked) + 0.7 * loss
        assert told == pytest.approx(want.item(), abs=1e-6)
    assert ran.trained.model is one and one.head.out_features == 1
    assert torch.equal(one.head.weight, two.head.weight[:1])
    assert torch.equal(one.head.bias, two.head.bias[:1])
    x, y = DESK.prompts[pairs.rows], pairs.chosen
    both = torch.stack([reward_of(head, x, y, reply_mask(y)) for head in (one, first_head(two))])
    assert torch.allclose(both[0], both[1], atol=1e-6) and both[0].std() > 1e-3
    gauged = (both[0] - ran.trained.mean) / ran.trained.sd
    assert torch.allclose(ran.trained(x, y), gauged.detach(), atol=1e-4)


def first_head(two: Transformer) -> Transformer:
    """The model that says what the first head of another says; everything copied by name."""
    alone = Transformer(two.config, 1)
    alone.load_state_dict({k: v[:1] if k.startswith("head.") else v
                           for k, v in two.state_dict().items()})  # fmt: skip
    return alone


def test_pairs_of_equal_lengths_leave_a_length_head_nothing_to_do(monkeypatch, reference):
    """Matched pairs are such, and so is a last batch of one pair."""
    pairs, _, _ = synthetic(61, 3)  # 30 + 30 + 1
    ran = Watched(monkeypatch, reference, pairs, length_head=0.7)
    assert all(map(math.isfinite, ran.logged)) and math.isfinite(ran.trained.mean)


# Centring


def test_centring_adds_the_square_of_the_sum_of_a_pair(monkeypatch, reference):
    pairs, _, _ = synthetic(100, 4)
    plain, centred = (Watched(monkeypatch, reference, pairs, centring=c) for c in (0.0, 0.3))
    for ran, weight in ((plain, 0.0), (centred, 0.3)):
        assert len(ran.models) == 1 and not ran.length_losses
        for (chosen, rejected), told in zip(ran.ranked, ran.logged, strict=True):
            squares = [(c + r) ** 2 for c, r in zip(chosen.tolist(), rejected.tolist(),
                                                    strict=True)]  # fmt: skip
            want = pairwise_ranking_loss(chosen, rejected).item() + weight * sum(squares) / len(
                squares)
            assert told == pytest.approx(want, abs=1e-6)
    assert max(squares) > 1e-3
