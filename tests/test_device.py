"""The same code on a GPU: nothing in the loops waits for the device, and no tensor is left behind.

torch's "meta" device stands in for a GPU. A tensor there has a shape and no numbers, so whatever
would make the host wait for a number raises an error, and so does mixing it with a tensor that was
forgotten on the CPU. Lengths of replies are numbers like any other: they are not asked for.
"""

import pytest
import torch

from rlhf_edu.lab import helpdesk, rlhf
from rlhf_edu.lab.model import ModelConfig, language_model, scalar_model
from rlhf_edu.lab.raters import Preferences
from rlhf_edu.lab.reward_model import RewardModel, RewardModelConfig, train_reward_model
from rlhf_edu.lab.sampling import sample
from rlhf_edu.lab.sft import SFTConfig, train_sft
from rlhf_edu.lab.tiles import lay, lengths_of

SMALL = ModelConfig(n_layers=1, width=8, n_heads=2)
META = torch.device("meta")


@pytest.fixture
def reference():
    return language_model(SMALL).to(META)


class PlainAdam(torch.optim.Adam):
    """torch's fused Adam does not know the meta device; the ordinary one does the same."""

    def __init__(self, *args, fused: bool = False, **settings):
        super().__init__(*args, **settings)


@pytest.fixture(autouse=True)
def adam(monkeypatch):
    monkeypatch.setattr(torch.optim, "Adam", PlainAdam)


def test_sampling_never_waits_for_the_device(reference):
    prompts = helpdesk.desk().to(META).prompts[torch.arange(4)]
    every = torch.empty(8, 6, helpdesk.VOCAB_SIZE, device=META)
    found = sample(reference, prompts, 6, torch.Generator(), every_logprob=every, copies=2)
    assert [x.device for x in found] == [META, META]
    assert found[0].shape == (8, 6)


@pytest.mark.parametrize("last", [False, True])
def test_rows_are_laid_without_waiting_for_their_lengths(reference, last):
    prompts, responses = (torch.full(shape, 5, device=META) for shape in ((3, 9), (3, 4)))
    tiles = lay(reference, prompts, responses, lengths_of(prompts, responses), last)
    assert {x.device for x in vars(tiles).values() if isinstance(x, torch.Tensor)} == {META}
    assert len(tiles.tokens) == 3, "one row a tile"


def test_a_reward_is_given_without_waiting():
    reward_model = RewardModel(scalar_model(SMALL).to(META), 0.0, 1.0)
    prompts, responses = (torch.full(shape, 5, device=META) for shape in ((3, 9), (3, 4)))
    rewards = reward_model(prompts, responses)
    assert rewards.shape == (3,) and rewards.device == META


@pytest.mark.parametrize("placement", ["reward", "loss"])
def test_an_update_waits_for_its_metrics_and_for_nothing_else(reference, placement, monkeypatch):
    waits = []

    def update_metrics(*args):
        waits.append("metrics")
        with pytest.raises(NotImplementedError, match="meta"):  # it does ask the device
            real_update_metrics(*args)
        return {"objective/kl": 0.0}

    real_update_metrics = rlhf.measure.update_metrics
    monkeypatch.setattr(rlhf.measure, "update_metrics", update_metrics)
    config = rlhf.RLHFConfig(updates=2, batch_size=8, num_mini_batches=2, kl_placement=placement,
                             whiten_rewards=True, response_length=6)  # fmt: skip
    reward_model = RewardModel(scalar_model(SMALL).to(META), 0.0, 1.0)
    state = rlhf.start(config, reference, reward_model)
    steps = []
    step = state.optimizer.step
    monkeypatch.setattr(state.optimizer, "step", lambda: steps.append(step()))
    rlhf.train_rlhf(config, state, reference, reward_model)
    assert waits == ["metrics"] * 2 and len(steps) == 2 * 4 * 2
    assert state.update == 2 and state.weights.device == META


def test_an_update_waits_for_a_target_of_the_kl_once_a_pass(reference):
    """That is what it costs: a number decides whether there is another pass."""
    config = rlhf.RLHFConfig(updates=1, batch_size=8, target_kl=1.0, response_length=6)
    reward_model = RewardModel(scalar_model(SMALL).to(META), 0.0, 1.0)
    state = rlhf.start(config, reference, reward_model)
    with pytest.raises(RuntimeError, match="meta"):
        rlhf.train_rlhf(config, state, reference, reward_model)


# With 40 steps an epoch every fourth is logged, and a log is a wait.


def test_fine_tuning_waits_only_to_log():
    calls = []

    def loss_fn(logprobs, mask):
        calls.append(logprobs.device)
        return -(logprobs * mask).sum() / mask.sum()

    config = SFTConfig(n_demonstrations=80, epochs=1, batch_size=2, response_length=6)
    with pytest.raises(RuntimeError, match="meta"):
        train_sft(config, SMALL, META, loss_fn)
    assert calls == [META] * 4


def test_training_a_reward_model_waits_only_to_log(reference):
    calls = []

    def loss_fn(chosen, rejected):
        calls.append(chosen.device)
        return (rejected - chosen).mean()

    rows, replies = torch.zeros(80, dtype=torch.long), torch.full((80, 6), 5, device=META)
    pairs = Preferences(rows.to(META), replies, replies)
    with pytest.raises(RuntimeError, match="meta"):
        train_reward_model(RewardModelConfig(batch_size=2), pairs, reference, loss_fn)
    assert calls == [META] * 4
