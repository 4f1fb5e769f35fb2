"""DPO on compared pairs: what a step is, and that the policy learns what the pairs prefer."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from lively import SMALL, generator, lively
from torch import Tensor

from rlhf_edu.lab import helpdesk
from rlhf_edu.lab.dpo import DPOConfig, response_logps, train_dpo
from rlhf_edu.lab.helpdesk import PAD
from rlhf_edu.lab.model import Transformer, language_model, response_logits
from rlhf_edu.lab.raters import Preferences
from rlhf_edu.lab.sampling import sample

DESK = helpdesk.desk()
BASE = DPOConfig(seed=4, epochs=2, batch_size=12, lr=3e-3, beta=0.3)


@pytest.fixture(scope="module")
def reference() -> Transformer:
    """Outputs of order one: what one token is depends on all that it may see."""
    return lively(language_model(SMALL), 0, ends=3.5).requires_grad_(False)


@pytest.fixture(scope="module")
def pairs(reference) -> Preferences:
    """44 pairs, 12 · 3 + 8; the shorter reply is preferred, the first of two equally long."""
    rows = helpdesk.draw_prompts(DESK, 44, luck := generator(1))
    replies, _ = sample(reference, DESK.prompts[rows], 12, luck, copies=2)
    a, b = replies.view(44, 2, 12).unbind(1)
    shorter = ((a != PAD).sum(1) <= (b != PAD).sum(1))[:, None]
    return Preferences(rows, torch.where(shorter, a, b), torch.where(shorter, b, a))


def slow_logp(model: Transformer, x: Tensor, y: Tensor, temperature: float = 1.0) -> Tensor:
    """Padded rows, one sum over real tokens for each reply."""
    logp = response_logits(model, x, y, temperature).log_softmax(-1)
    said = logp.gather(-1, y[..., None])[..., 0]
    return torch.stack([row[its != PAD].sum() for row, its in zip(said, y, strict=True)])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_replys_log_probability_is_the_sum_over_its_tokens(reference, pairs, temperature):
    x = DESK.prompts[pairs.rows]
    for y in (pairs.chosen, pairs.rejected):
        got = response_logps(reference, x, y, temperature)
        want = slow_logp(reference, x, y, temperature)
        assert got.shape == (44,) and (got - want).abs().max() < 1e-4
        assert want.std() > 1


def plain_loss(config: DPOConfig, policy: Transformer, reference: Transformer, pairs: Preferences,
               part: Tensor) -> Tensor:  # fmt: skip
    """−mean log σ(β · lead + α · difference of lengths), written out."""
    x, (y, z) = DESK.prompts[pairs.rows[part]], (pairs.chosen[part], pairs.rejected[part])
    lead = [slow_logp(m, x, y, config.temperature) - slow_logp(m, x, z, config.temperature)
            for m in (policy, reference)]  # fmt: skip
    longer = (y != PAD).sum(1) - (z != PAD).sum(1)
    inside = config.beta * (lead[0] - lead[1]) + config.length_penalty * longer
    return (1 + (-inside).exp()).log().mean()


@pytest.mark.parametrize(
    "settings",
    [{}, {"length_penalty": 0.2}, {"temperature": 0.7, "beta": 1.0}, {"max_grad_norm": 0.1}],
    ids=str,
)
def test_every_step_is_that_of_plain_dpo(reference, pairs, settings, monkeypatch):
    """Gradients of every step, as they are before they are clipped, and all weights at the end."""
    config = replace(BASE, **settings)
    seen: list[list[Tensor]] = []
    clip = torch.nn.utils.clip_grad_norm_

    def clipped(parameters, limit):
        parameters = list(parameters)
        seen.append([p.grad.clone() for p in parameters])
        return clip(parameters, limit)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
        trained = train_dpo(config, pairs, reference)

    policy, luck, step = copy.deepcopy(reference).requires_grad_(True), generator(config.seed), 0
    adam = torch.optim.Adam(policy.parameters(), lr=config.lr)
    for _ in range(2):
        for part in torch.randperm(44, generator=luck).split(12):
            adam.param_groups[0]["lr"] = config.lr * (1 - step / 8)
            adam.zero_grad()
            plain_loss(config, policy, reference, pairs, part).backward()
            largest = max(p.grad.abs().max() for p in policy.parameters())
            for got, p in zip(seen[step], policy.parameters(), strict=True):
                assert (got - p.grad).abs().max() < 1e-3 * largest
                p.grad.copy_(got)  # a step of Adam makes much of rounding: both take the same
            assert largest > 0.01
            clip(policy.parameters(), config.max_grad_norm)
            adam.step()
            step += 1
    assert step == len(seen) == 8
    for a, b in zip(trained.parameters(), policy.parameters(), strict=True):
        assert (a - b).abs().max() < 1e-6
    assert not trained.training


def test_loss_falls_and_the_hidden_reward_prefers_what_was_preferred(reference, pairs):
    """It starts at log 2, without any preference."""
    told: list[tuple[int, dict[str, float]]] = []
    config = replace(BASE, epochs=8)
    policy = train_dpo(config, pairs, reference, after_step=lambda i, p, m: told.append((i, m)))
    assert [step for step, _ in told] == list(range(1, 33))
    assert told[0][1] == pytest.approx({"loss/dpo": math.log(2), "dpo/accuracy": 0.0})
    last = [m for _, m in told[-4:]]
    assert sum(m["loss/dpo"] for m in last) / 4 < 0.25
    assert sum(m["dpo/accuracy"] for m in last) / 4 > 0.95
    x = DESK.prompts[pairs.rows]
    with torch.no_grad():
        gained = [slow_logp(policy, x, y) - slow_logp(reference, x, y)
                  for y in (pairs.chosen, pairs.rejected)]  # fmt: skip
    assert (gained[0] > gained[1]).float().mean() > 0.95


def test_what_is_told_is_the_step_that_was_just_taken(reference, pairs):
    told = []

    def after_step(step: int, policy: Transformer, metrics: dict[str, float]) -> None:
        told.append((policy.head.weight.detach().clone(), metrics))

    losses = []

    def loss_fn(*args: object) -> Tensor:
        chosen, rejected, ref_chosen, ref_rejected, *rest = args
        assert rest[:2] == [0.3, 0.5]
        longer = [int(n) for n in rest[2] - rest[3]]
        assert max(longer) <= 0 > min(longer)
        lead = (chosen - ref_chosen) - (rejected - ref_rejected)
        losses.append((lead.square().mean(), (lead > 0).float().mean()))
        return lead.square().mean() - lead.mean()

    config = replace(BASE, epochs=1, length_penalty=0.5)
    policy = train_dpo(config, pairs, reference, loss_fn, after_step)
    assert len(told) == len(losses) == 4
    assert torch.equal(told[-1][0], policy.head.weight)
    assert not torch.equal(told[0][0], reference.head.weight)
    for (_, metrics), (_, right) in zip(told, losses, strict=True):
        assert metrics["dpo/accuracy"] == pytest.approx(right.item())


def test_it_tells_about_ten_times_an_epoch(reference, pairs):
    steps = []
    config = replace(BASE, batch_size=2, epochs=2, lr=0.0)
    train_dpo(config, pairs, reference, after_step=lambda i, p, m: steps.append(i))
    assert steps == list(range(2, 45, 2))


def test_it_depends_on_its_seed_alone_and_leaves_the_reference_alone(reference, pairs):
    before = {k: v.clone() for k, v in reference.state_dict().items()}
    torch.manual_seed(1)
    first = train_dpo(BASE, pairs, reference).state_dict()
    torch.manual_seed(2)
    again = train_dpo(BASE, pairs, reference).state_dict()
    other = train_dpo(replace(BASE, seed=5), pairs, reference).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)
    assert all(torch.equal(before[k], v) for k, v in reference.state_dict().items())
