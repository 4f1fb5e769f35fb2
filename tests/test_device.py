"""The same code on a GPU: nothing in the loops waits for the device, and no tensor is left behind.

torch's "meta" device stands in for a GPU. A tensor there has a shape and no numbers, so whatever
would make the host wait for a number raises an error, and so does mixing it with a tensor that was
forgotten on the CPU.
"""

import pytest
import torch

from rlhf_edu.lab import helpdesk, rlhf
from rlhf_edu.lab.model import ModelConfig, language_model, scalar_model
from rlhf_edu.lab.reward_model import RewardModel
from rlhf_edu.lab.sampling import sample

SMALL = ModelConfig(n_layers=1, width=8, n_heads=2)


@pytest.fixture
def reference():
    return language_model(SMALL).to("meta")


def test_sampling_never_waits_for_the_device(reference):
    prompts = helpdesk.desk().to("meta").prompts[torch.arange(4)]
    responses, logprobs = sample(reference, prompts, 6, torch.Generator())
    assert responses.device.type == logprobs.device.type == "meta"


@pytest.mark.parametrize("placement", ["reward", "loss"])
def test_an_update_waits_for_the_lengths_and_for_the_metrics_and_for_nothing_else(
    reference, placement, monkeypatch
):
    waits = []

    def lengths_of(prompts, responses):
        waits.append("lengths")
        return torch.tensor([[9, 5]] * len(prompts))

    def update_metrics(rollout, steps, last_epoch):
        waits.append("metrics")
        with pytest.raises(NotImplementedError, match="meta"):  # it does ask the device
            real_update_metrics(rollout, steps, last_epoch)
        return {"objective/kl": 0.0}

    real_update_metrics = rlhf.measure.update_metrics
    monkeypatch.setattr(rlhf, "lengths_of", lengths_of)
    monkeypatch.setattr(rlhf.measure, "update_metrics", update_metrics)
    config = rlhf.RLHFConfig(updates=2, batch_size=8, num_mini_batches=2, kl_placement=placement,
                             response_length=6)
    reward_model = RewardModel(scalar_model(SMALL).to("meta"), 0.0, 1.0)
    state = rlhf.start(config, reference, reward_model)
    rlhf.train_rlhf(config, state, reference, reward_model)
    assert waits == ["lengths", "metrics"] * 2
