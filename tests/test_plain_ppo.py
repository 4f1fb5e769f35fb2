"""train_rlhf, step by step, against the plain PPO of plain_ppo.py.

In 32 bits rounding is all that may differ, and Adam divides by the gradient's size, so where a
gradient is rounding and nothing else (the bias of keys has none) it makes a whole step of it. Hence
the comparison of every step and of all weights is in 64 bits, where a mistake cannot hide.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from lively import SMALL, generator, lively
from plain_ppo import Batch, Plain, plain_ppo
from torch import Tensor

from rlhf_edu.lab import helpdesk, rlhf
from rlhf_edu.lab import reward_model as reward_model_module
from rlhf_edu.lab.helpdesk import PAD
from rlhf_edu.lab.model import Transformer, language_model, response_logits, scalar_model
from rlhf_edu.lab.reward_model import RewardModel
from rlhf_edu.lab.rlhf import RLHFConfig, train_rlhf
from rlhf_edu.lab.sampling import sample
from rlhf_edu.ppo_clip import clipped_surrogate_loss

DESK = helpdesk.desk()
# Two updates of 2 · 3 steps; ranges so narrow that they are left on the way; uneven minibatches.
BASE = RLHFConfig(seed=6, updates=2, batch_size=14, num_ppo_epochs=2, num_mini_batches=3, lr=0.01,
                  kl_coef=0.3, cliprange=0.1, cliprange_value=0.05, vf_coef=0.7, gamma=0.95,
                  response_length=10)  # fmt: skip
PENALTIES = [("reward", "k1"), ("reward", "k3"), ("loss", "k2"), ("loss", "k3")]


@pytest.fixture
def in_64_bits() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def frozen_models() -> tuple[Transformer, RewardModel]:
    """A reference and a reward model, in torch's default precision."""
    reference = lively(language_model(SMALL), 0, ends=3.5)
    return reference, RewardModel(lively(scalar_model(SMALL), 50), mean=0.3, sd=1.7)


def norm_of(gradients: list[Tensor]) -> Tensor:
    return torch.stack([g.norm() for g in gradients]).norm()


class Both:
    """train_rlhf and plain_ppo from the same start, on the same replies.

    `as_on_a_gpu`: lengths are not asked for, so every row is a tile of its own with its padding.
    """

    def __init__(self, config: RLHFConfig, monkeypatch: pytest.MonkeyPatch, as_on_a_gpu: bool):
        reference, reward_model = frozen_models()
        self.state = rlhf.start(config, reference, reward_model)
        critic = copy.deepcopy(self.state.value)
        self.gradients: list[list[Tensor]] = []
        self.metrics: list[dict[str, float]] = []
        asked: list[tuple[Tensor, Tensor]] = []

        def sampled(policy, prompts, length, luck, temperature, every_logprob, copies):
            every_logprob.fill_(-1.0 if as_on_a_gpu else torch.nan)  # where no reply is: unread
            responses, logprobs = sample(policy, prompts, length, luck, temperature, every_logprob,
                                         copies)  # fmt: skip
            assert copies == config.group_size
            asked.append((prompts, responses))
            return responses, logprobs

        def clip(*args, **kwargs):
            models = (self.state.policy, self.state.value)
            self.gradients.append([p.grad.clone() for m in models for p in m.parameters()])
            return clip_grad_norm(*args, **kwargs)

        clip_grad_norm = torch.nn.utils.clip_grad_norm_
        with monkeypatch.context() as patch:
            patch.setattr(rlhf, "sample", sampled)
            if as_on_a_gpu:
                for module in (rlhf, reward_model_module):
                    patch.setattr(module, "lengths_of", lambda prompts, responses: None)
            patch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
            train_rlhf(config, self.state, reference, reward_model,
                       lambda state, metrics: self.metrics.append(metrics))  # fmt: skip

        # Every random number again, in the order in which the run drew them.
        luck, batches = generator(config.seed), list[Batch]()
        for prompts, responses in asked:
            rows = helpdesk.draw_prompts(DESK, config.batch_size // config.group_size, luck)
            assert torch.equal(DESK.prompts[rows], prompts)
            prompts = torch.stack([prompts] * config.group_size, 1).flatten(0, 1)
            torch.rand(config.batch_size, config.response_length, generator=luck)
            n_passes = config.num_ppo_epochs if not config.target_kl else 1
            orders = [torch.randperm(config.batch_size, generator=luck) for _ in range(n_passes)]
            batches.append((prompts, responses, orders))
        assert len(batches) == config.updates

        self.policy, self.critic = copy.deepcopy(reference), critic
        if config.critic_init == "reward model":
            self.critic = copy.deepcopy(reward_model.model)
            torch.nn.init.zeros_(self.critic.head.weight)
            torch.nn.init.zeros_(self.critic.head.bias)
        self.plain: Plain = plain_ppo(config, self.policy, self.critic, reference, reward_model,
                                      batches)  # fmt: skip


@pytest.fixture
def both(monkeypatch) -> Callable[..., Both]:
    def run(as_on_a_gpu: bool = False, **settings) -> Both:
        return Both(replace(BASE, **settings), monkeypatch, as_on_a_gpu)

    return run


CASES: dict[str, dict] = {
    **{f"{kind} in the {place}, {'whitened' if white else 'as it is'}": {
        "kl_placement": place, "kl_estimator": kind, "whiten_advantages": white,
        "whiten_rewards": white} for place, kind in PENALTIES for white in (True, False)},
    **{f"{kind} in the {place}, as on a GPU": {
        "kl_placement": place, "kl_estimator": kind, "as_on_a_gpu": True}
        for place, kind in PENALTIES},
    "temperature 0.7": {"temperature": 0.7},
    "a reply that is cut off costs much": {"missing_eos_penalty": 5.0},
    "beta that adapts": {"kl_target": 0.02, "kl_horizon": 30.0},
    "beta that adapts in the loss": {"kl_target": 0.02, "kl_horizon": 30.0, "kl_placement": "loss",
                                     "kl_estimator": "k2"},
    "step size that falls": {"lr_schedule": "linear"},
    "gradients clipped hard": {"max_grad_norm": 0.05},
    "gradients never clipped": {"max_grad_norm": 1e6},
    "stopped after one pass": {"target_kl": 1e-6, "num_ppo_epochs": 4},
    "one minibatch": {"num_mini_batches": 1, "num_ppo_epochs": 4},
    "a row a minibatch": {"num_mini_batches": 14, "num_ppo_epochs": 1},
    "replies of one token": {"response_length": 1},
    "clipped above alone, as printed": {"clip": "upper"},
    "clipped later above than below": {"cliprange_high": 0.3},
    "a reward model that nobody centred": {"reward_offset": 4.0},
    "a critic that starts from nothing": {"critic_init": "random"},
    **{f"{kind} in groups of {size}": {
        "advantage": kind, "group_size": size, "whiten_advantages": white}
        for kind, size, white in (("rloo", 2, False), ("grpo", 7, False), ("dr-grpo", 7, False),
                                  ("rloo", 7, True), ("grpo", 2, True))},
    "critic beside groups": {"group_size": 7},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_every_step_and_all_weights_are_those_of_plain_ppo(both, in_64_bits, name):
    """Gradients to 10⁻⁹ of the largest (or of 1), weights to 10⁻⁸ after steps of size 0.01."""
    ran = both(**CASES[name])
    assert len(ran.gradients) == len(ran.plain.gradients) >= 6
    for got, want in zip(ran.gradients, ran.plain.gradients, strict=True):
        largest = max(1.0, *(g.abs().max() for g in want))
        for a, b in zip(got, want, strict=True):
            assert (a - b).abs().max() <= 1e-9 * largest
    for mine, plain in ((ran.state.policy, ran.policy), (ran.state.value, ran.critic)):
        for (key, a), b in zip(mine.named_parameters(), plain.parameters(), strict=True):
            assert a.dtype == torch.float64 and (a - b).abs().max() <= 1e-8, key
    for got, want in zip(ran.metrics, ran.plain.metrics, strict=True):
        for key, value in want.items():
            assert got[key] == pytest.approx(value, rel=1e-8, abs=1e-10), key


def test_what_plain_ppo_is_compared_on_is_felt(both, in_64_bits):
    """In the base case all of it happens: clips of both kinds, long gradients, a KL, a moved β."""
    ran = both(kl_target=0.02, kl_horizon=30.0)
    first, second = ran.metrics
    assert min(first[f"{who}/clipfrac_avg"] for who in ("policy", "val")) > 0.05
    norms = [norm_of(g).item() for g in ran.gradients]
    assert min(norms) < 1 < max(norms), "some are clipped, some are not"
    assert second["objective/kl_exact"] > 0.02 and abs(second["objective/kl"]) > 0.02
    assert second["objective/kl_coef"] < 0.3
    reference, _ = frozen_models()
    moved = [(a - b).abs().max() for a, b in zip(ran.policy.parameters(), reference.parameters(),
                                                 strict=True)]  # fmt: skip
    assert min(moved) > 1e-9 and sum(x > 0.03 for x in moved) > 20
    critics_embedding = ran.gradients[-1][len(list(ran.policy.parameters()))]
    assert critics_embedding.abs().max() > 1e-3


@pytest.mark.parametrize("white", [True, False], ids=["whitened", "as it is"])
@pytest.mark.parametrize("place, kind", PENALTIES)
def test_in_32_bits_gradients_of_the_first_minibatch_are_those_of_plain_ppo(
    both, place, kind, white
):
    ran = both(kl_placement=place, kl_estimator=kind, whiten_advantages=white, whiten_rewards=white)
    got, want = ran.gradients[0], ran.plain.gradients[0]
    largest = max(g.abs().max() for g in want)
    assert largest > 0.01
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.float32 and (a - b).abs().max() <= 1e-5 * largest


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_what_sampling_says_of_the_old_policy_is_what_a_forward_pass_says(temperature, monkeypatch):
    """In 32 bits, for every update: π_old is the policy as it was when the batch was sampled."""
    config = replace(BASE, updates=3, batch_size=48, num_mini_batches=1, num_ppo_epochs=1,
                     response_length=24, temperature=temperature)  # fmt: skip
    reference, reward_model = frozen_models()
    before: list[tuple[Transformer, Tensor, Tensor]] = []
    used: list[tuple[Tensor, Tensor]] = []
    metrics: list[dict[str, float]] = []

    def sampled(policy: Transformer, prompts: Tensor, *args, **settings):
        responses, logprobs = sample(policy, prompts, *args, **settings)
        before.append((copy.deepcopy(policy), prompts, responses))
        return responses, logprobs

    def policy_loss(logprobs: Tensor, old_logprobs: Tensor, gain: Tensor, mask: Tensor, *rest):
        used.append((old_logprobs, mask))
        return clipped_surrogate_loss(logprobs, old_logprobs, gain, mask, *rest)

    monkeypatch.setattr(rlhf, "sample", sampled)
    train_rlhf(config, rlhf.start(config, reference, reward_model), reference, reward_model,
               lambda state, found: metrics.append(found), policy_loss=policy_loss)  # fmt: skip

    luck = generator(config.seed)
    for (old_policy, x, y), (old_logprobs, mask), found in zip(before, used, metrics, strict=True):
        helpdesk.draw_prompts(DESK, 48, luck)
        torch.rand(48, 24, generator=luck)
        order = torch.randperm(48, generator=luck)
        with torch.no_grad():
            p, q = (response_logits(model, x, y, temperature).log_softmax(-1)
                    for model in (old_policy, reference))  # fmt: skip
        on = y != PAD
        assert torch.equal(mask, on[order].float()) and on.sum() > 60
        want = p.gather(-1, y[..., None])[..., 0]
        largest = want[on].abs().max()
        assert (old_logprobs - want[order])[on[order]].abs().max() < 1e-5 * largest < 2e-4
        assert (old_logprobs[~on[order]] == 0).all()
        exact = ((p.exp() * (p - q)).sum(-1) * on).sum(1).mean().item()
        assert found["objective/kl_exact"] == pytest.approx(exact, abs=5e-5)
    assert metrics[-1]["objective/kl_exact"] > 0.02
