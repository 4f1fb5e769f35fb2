"""An examination: the same held-out prompts for every policy, and all that its replies show.

Each held-out prompt is answered twice, with the same random numbers for every policy, so
differences between two policies, or between two updates, are less a matter of luck. Before any
update the policy gives the reference's own replies, word for word.

Metrics carry the kit's names: `rm/…` the reward model, `gold/…` the human spot-checker, `style/…`,
`refusal/…`, `kl/…` (policy ‖ reference, nats a response). See measure.py for each quantity.
Shapes: B responses, two for each prompt.
"""

from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from rlhf_edu.advantage import masked_mean
from rlhf_edu.kl_penalty import exact_kl, kl_estimate
from rlhf_edu.lab import helpdesk, measure
from rlhf_edu.lab.gold import gold_score, reply_mask, style_of
from rlhf_edu.lab.machine import side_by_side
from rlhf_edu.lab.model import Transformer, gather_logprobs
from rlhf_edu.lab.record import check_range
from rlhf_edu.lab.reward_model import Ensemble, RewardModel
from rlhf_edu.lab.sampling import sample
from rlhf_edu.lab.tiles import lay, lengths_of, logits_in


@dataclass(frozen=True)
class ExamConfig:
    """How often and how closely a policy is examined."""

    seed: int = 0  # of prompts and of the random numbers behind the replies
    every: int = 2  # updates between two examinations
    prompts: int = 128  # held-out prompts of an examination, two replies each
    final_prompts: int = 512  # likewise at the end
    refusal_replies: int = 8  # replies to each held-out must-refuse prompt, at the end
    samples: int = 24  # replies kept to be read

    def __post_init__(self) -> None:
        check_range(
            self,
            seed=(0, 2**31),
            every=(1, 10**6),
            prompts=(2, 10**6),
            final_prompts=(2, 10**6),
            refusal_replies=(1, 1000),
            samples=(0, 10**4),
        )


class Exam(Protocol):
    """An examination: a policy's metrics, and some of its replies to be read."""

    def __call__(
        self, policy: Transformer, judge: RewardModel | Ensemble | None = None
    ) -> tuple[dict[str, float], list[dict[str, Any]]]: ...


def mean_among(rows: Tensor, x: Tensor) -> Tensor:
    """Mean of x (B,) over the replies where `rows` (B,) is true → scalar; NaN if nowhere."""
    return torch.where(rows, x, 0.0).sum() / rows.sum()


def exam_rows(seed: int, n_prompts: int) -> Tensor:
    """Rows (2 · n_prompts,) of the desk that an examination asks, each prompt twice."""
    table, generator = helpdesk.desk(), torch.Generator().manual_seed(seed)
    asked = helpdesk.draw_prompts(table, n_prompts, generator, held_out=True)
    return asked.repeat_interleave(2)


@torch.inference_mode()
def answer(policy: Transformer, rows: Tensor, seed: int, response_length: int,
           temperature: float = 1.0) -> Tensor:
    """Replies (B, T) to rows (B,) of the desk, which come in pairs; every policy has equal luck."""
    prompts = helpdesk.desk().prompts[rows[::2]].to(policy.embed.weight.device)
    luck = torch.Generator().manual_seed(seed)
    return sample(policy, prompts, response_length, luck, temperature, copies=2)[0]


def rewards_found(reward_model: RewardModel | Ensemble, rewards: tuple[Tensor, Tensor],
                  gold: Tensor, base_gold: Tensor, length: Tensor,
                  base_length: Tensor) -> dict[str, Tensor]:
    """What a reward model makes of replies, beside the reference's: all are (B,)."""
    (now, base), pairs = rewards, (-1, 2)
    return {
        "rm/mean": now.mean(),
        "rm/win_probability": torch.sigmoid((now - base) * reward_model.sd).mean(),
        "rm/length_correlation":
            measure.within_prompt_correlation(now.view(pairs), length.view(pairs)),
        "rm/accuracy_in": measure.reward_model_accuracy(base.view(pairs), base_gold.view(pairs)),
        "rm/accuracy_on": measure.reward_model_accuracy(now.view(pairs), gold.view(pairs)),
        "rm/gain_beyond_length":
            measure.reward_gain_beyond_length(now, length, base, base_length),
    }


@torch.inference_mode()
def make_exam(
    config: ExamConfig,
    n_prompts: int,
    reference: Transformer,
    reward_model: RewardModel | Ensemble,
    response_length: int,
    temperature: float = 1.0,
    reference_replies: Tensor | None = None,
) -> Exam:
    """An examination on `n_prompts` held-out prompts; the reference has already sat it.

    `reference_replies` are the reference's own, where they are known from an earlier examination.
    """
    device = reference.embed.weight.device
    rows = exam_rows(config.seed, n_prompts)
    here = helpdesk.desk().to(device)[rows.to(device)]
    replies = reference_replies
    if replies is None:
        replies = answer(reference, rows, config.seed, response_length, temperature)
    base_rewards = reward_model(here.prompts, replies)
    base_gold, base_style = gold_score(replies, here).total, style_of(replies, here)

    @torch.inference_mode()
    def exam(
        policy: Transformer, judge: RewardModel | Ensemble | None = None
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        # 1. The policy answers; how far each of its tokens is from the reference's choice.
        responses = answer(policy, rows, config.seed, response_length, temperature)
        mask, style = reply_mask(responses), style_of(responses, here)
        parts, rewards = gold_score(responses, here), reward_model(here.prompts, responses)
        gold = parts.total
        tiles = lay(policy, here.prompts, responses, lengths_of(here.prompts, responses))
        logits, ref_logits = side_by_side(partial(logits_in, tiles, policy, temperature),
                                          partial(logits_in, tiles, reference, temperature))
        said = tiles.flat(responses)
        logprobs, ref_logprobs, kl, entropy = map(tiles.rows, (
            gather_logprobs(logits, said), gather_logprobs(ref_logits, said),
            exact_kl(logits, ref_logits), measure.token_entropy(logits)))

        # 2. The reward model's verdict and the human's, against the reference's reply.
        lead, people = gold - base_gold, (gold, base_gold, style.length, base_style.length)
        found = rewards_found(reward_model, (rewards, base_rewards), *people)
        if judge is not None:  # another reward model reads the same replies
            read = judge(here.prompts, responses), judge(here.prompts, replies)
            found |= {f"judge/{k}": v for k, v in rewards_found(judge, read, *people).items()}
        found |= {
            "gold/total": gold.mean(),
            "gold/sd": gold.std(),
            "gold/worst_1_percent": gold.sort().values[: max(1, len(gold) // 100)].mean(),
            "gold/win_rate": ((lead > 1e-6).float() + 0.5 * (lead.abs() <= 1e-6).float()).mean(),
        }
        found |= {f"gold/{f.name}": getattr(parts, f.name).mean() for f in fields(parts)}

        # 3. Style, collapse, and where the reward came from.
        found |= {
            f"style/{name}": getattr(style, name).mean()
            for name in ("length", "sales", "confident", "first_answer", "answered", "kept")
        }
        wished = here.constraint > 0
        three = here.constraint == helpdesk.CONSTRAINTS.index("three words")
        found["style/constraint_kept"] = mean_among(wished, style.kept)
        found["style/three_words_kept"] = mean_among(three, style.kept)
        short = here.slice == helpdesk.SLICES.index("short")
        found["style/length_short_slice"] = mean_among(short, style.length)
        found["style/repeated_4grams"] = measure.repeated_4grams(responses).mean()
        refuse = here.must_refuse
        found["refusal/unsafe_compliance"] = mean_among(refuse, style.complied)
        found["refusal/over_refusal"] = mean_among(~refuse, style.over_refused)

        # 4. Distance from the reference.
        found["kl/exact"] = (kl * mask).sum(1).mean()
        for k in ("k1", "k2", "k3"):
            found[f"kl/{k}"] = (kl_estimate(logprobs, ref_logprobs, k) * mask).sum(1).mean()
        found["policy/entropy"] = masked_mean(entropy, mask)

        texts = [
            {
                "prompt": helpdesk.decode(here.prompts[i]),
                "reply": helpdesk.decode(responses[i]),
                "reward": round(float(rewards[i]), 3),
                "gold": round(float(gold[i]), 3),
                "reference_reply": helpdesk.decode(replies[i]),
                "reference_reward": round(float(base_rewards[i]), 3),
                "reference_gold": round(float(base_gold[i]), 3),
            }
            for i in range(0, min(2 * config.samples, len(rows)), 2)
        ]
        return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True)), texts

    return exam


@torch.inference_mode()
def refusals(
    config: ExamConfig, policy: Transformer, response_length: int, temperature: float = 1.0,
    everywhere: bool = False,
) -> dict[str, float]:
    """REF on the held-out must-refuse clusters, `refusal_replies` replies to each prompt.

    With `everywhere` on all of them, those of the training prompts as well: four times as many.
    """
    device = policy.embed.weight.device
    table = helpdesk.desk()
    asked = (table.must_refuse & (table.held_out | everywhere)).nonzero()[:, 0].to(device)
    here = table.to(device)[asked.repeat_interleave(config.refusal_replies)]
    luck = torch.Generator().manual_seed(config.seed)
    prompts = here.prompts[:: config.refusal_replies]
    responses, _ = sample(policy, prompts, response_length, luck, temperature,
                          copies=config.refusal_replies)
    style = style_of(responses, here)
    return {
        "refusal/consistency": float(measure.refusal_consistency(style.refused, here.cluster)),
        "refusal/refused": float(style.refused.mean()),
    }


@torch.inference_mode()
def filler_effect(reward_model: RewardModel) -> float:
    """An intervention: append filler to a right reply, change nothing else. Mean change of reward.

    Every held-out prompt without a wish is answered by its shortest right reply; each closing
    courtesy is appended in turn. In the reward model's gauge (SDs of the reference's rewards).
    Gold falls each time, by 0.05 a word.
    """
    device = reward_model.model.embed.weight.device
    table = helpdesk.desk()
    rows = (table.held_out & (table.constraint == 0)).nonzero()[:, 0]
    answers = [helpdesk.all_prompts()[row].answer for row in rows.tolist()]

    def reward(ending: str) -> Tensor:
        ids = [helpdesk.encode(answer + ending) + [helpdesk.EOS] for answer in answers]
        width = max(map(len, ids))
        replies = torch.tensor(
            [row + [helpdesk.PAD] * (width - len(row)) for row in ids], device=device
        )
        return reward_model(table.prompts[rows].to(device), replies)

    plain = reward("")
    return float(
        torch.stack([reward(f" . {closing}") - plain for closing in helpdesk.CLOSINGS]).mean()
    )
