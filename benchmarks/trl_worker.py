"""One PPO iteration of TRL at a time, on models of the package's architecture and weights.

    python trl_worker.py FILE                  replies of full length (TRL's stop_token None)
    python trl_worker.py FILE --stop-at-eos    replies end at <eos> (TRL's stop_token "eos")
    python trl_worker.py FILE --check          are both sides the same function? then exit

Runs in a virtual environment of its own with trl==1.12.0 and without rlhf_edu; needs no network.
After set-up and one warm-up iteration it prints {"ready": true, …}. Then it answers each line on
stdin with one iteration and one line of JSON, until stdin ends. Everything else goes to stderr.

    seconds           one batch: read, generate, score, advantages, all epochs, log, clean up
    gc_seconds        of these, in full garbage collections: TRL asks for two an iteration, whose
                      price is that of the imported libraries, whatever the size of the models
    tokens            response tokens up to and including the first <eos>
    learned_tokens    response tokens in TRL's loss: `tokens` with --stop-at-eos, else all
    columns           response tokens generated in every row, and read in each later pass; fewer
                      than response_length when with --stop-at-eos all rows have ended earlier
    optimizer_steps   steps that the optimiser was really asked to do

FILE is a torch.save of one dict of tensors and numbers:

    policy, value, reward    state_dict of an rlhf_edu Transformer; the reference is `policy` too
    prompts                  (P, L) token ids, left-padded with 0, P ≥ batch_size
    n_layers, width, n_heads, vocab, max_prompt, max_response              sizes of all four models
    batch_size, num_ppo_epochs, num_mini_batches, response_length, lr, kl_coef, threads
    device                   cpu or cuda
    check_tokens             (B, S) token ids without padding                  only for --check
    expected_logits          (B, R, V) of the policy in the last R ≤ S columns, <pad> and <reply>
                             −1e9                                              only for --check

What differs from the package:
- TRL numbers positions from the first token that is not padding, the package so that every reply
  begins at position max_prompt. So behind left padding the two see other position vectors, which
  costs the same; without padding, and in prompts of max_prompt columns, they are one function.
- A GPT-2 scalar head has no bias. The bias of `value` and `reward` is ignored: 0 in a fresh critic,
  a constant in a score.
- TRL's PPO does not clip gradients: a little less work. Its optimiser is the default of its
  TrainingArguments, a fused AdamW, here without weight decay.
"""

import argparse
import gc
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # a notice that the API may change
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    PrinterCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

PAD, EOS, REPLY = 0, 1, 2  # as in rlhf_edu.lab.helpdesk

Weights = dict[str, Tensor]

# ── The package's models as GPT-2 ─────────────────────────────────────────────────────────────────
OUTSIDE_BLOCKS = {"wte": "embed", "wpe": "position", "ln_f": "norm"}
# GPT-2's module: the package's, stacked in this order.
IN_BLOCK = {
    "ln_1": ("norm1",),
    "ln_2": ("norm2",),
    "attn.c_attn": ("query", "key_value"),
    "attn.c_proj": ("out",),
    "mlp.c_fc": ("up",),
    "mlp.c_proj": ("down",),
}


def gpt2_config(sizes: dict[str, Any]) -> GPT2Config:
    """The package's architecture in GPT-2's words."""
    return GPT2Config(
        vocab_size=sizes["vocab"],
        n_positions=sizes["max_prompt"] + sizes["max_response"],
        n_embd=sizes["width"],
        n_layer=sizes["n_layers"],
        n_head=sizes["n_heads"],
        activation_function="relu",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        layer_norm_epsilon=1e-5,
        tie_word_embeddings=False,
        num_labels=1,
        bos_token_id=None,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )


def gpt2_trunk(config: GPT2Config, weights: Weights) -> Weights:
    """Everything but the head, under GPT-2's names. Its Conv1D is a transposed nn.Linear."""
    found = {
        f"transformer.{theirs}.{name.rpartition('.')[2]}": weights[name]
        for theirs, ours in OUTSIDE_BLOCKS.items()
        for name in weights
        if name.startswith(f"{ours}.")
    }
    for i in range(config.n_layer):
        for theirs, ours in IN_BLOCK.items():
            for kind in ("weight", "bias"):
                stacked = torch.cat([weights[f"blocks.{i}.{module}.{kind}"] for module in ours])
                # 2 dimensions: the matrix of an nn.Linear, whose first one is the output
                found[f"transformer.h.{i}.{theirs}.{kind}"] = (
                    stacked.t() if stacked.dim() == 2 else stacked
                )
    return found


def language_model(config: GPT2Config, weights: Weights) -> GPT2LMHeadModel:
    """A policy. Its head gets a bias, which also keeps <pad> and <reply> from ever being said."""
    model = GPT2LMHeadModel(config)
    model.lm_head = nn.Linear(config.n_embd, config.vocab_size)  # GPT-2's own has no bias
    bias = weights["head.bias"].clone()
    bias[[PAD, REPLY]] = -1e9  # they get no gradient either: their probability is 0
    head = {"lm_head.weight": weights["head.weight"], "lm_head.bias": bias}
    model.load_state_dict(gpt2_trunk(config, weights) | head)
    return model


def scalar_model(config: GPT2Config, weights: Weights) -> GPT2ForSequenceClassification:
    """A reward or value model, without the bias of its head."""
    model = GPT2ForSequenceClassification(config)
    model.load_state_dict(gpt2_trunk(config, weights) | {"score.weight": weights["head.weight"]})
    return model


def max_logit_difference(given: dict[str, Any]) -> float:
    """Between the package's policy and this one, read as TRL reads it."""
    policy = language_model(gpt2_config(given), given["policy"]).eval()
    with torch.inference_mode():
        logits = ppo_trainer.forward(policy, given["check_tokens"], PAD).logits
    expected = given["expected_logits"]
    return float((logits[:, -expected.shape[1] :] - expected).abs().max())


# ── One iteration at a time ───────────────────────────────────────────────────────────────────────
class EndOfInput(Exception):
    """Stdin has ended. PPOTrainer.train has no way out of its loop but an exception."""


class Stopwatch:
    """Stands between TRL and its data: an iteration lasts from one request for a batch to the next.

    So the time holds all that TRL does in an iteration, and waiting for stdin is no part of it.
    """

    def __init__(self, batches: Iterable[Any], ready: dict[str, Any], send: Any):
        self.batches, self.ready, self.send = batches, ready, send
        self.optimizer_steps = 0
        self.gc_seconds = self.gc_began = 0.0
        self.responses = torch.empty(0)

    def __iter__(self) -> Iterator[Any]:
        batches = self.endless()
        yield next(batches)  # warm-up
        self.send({"ready": True, **self.ready})
        for _ in iter(sys.stdin.readline, ""):
            self.optimizer_steps, self.gc_seconds = 0, 0.0
            began = now()
            yield next(batches)
            seconds = now() - began
            self.send({"seconds": seconds, "gc_seconds": self.gc_seconds, **self.counts()})
        raise EndOfInput

    def endless(self) -> Iterator[Any]:
        """Batches of one pass through the prompts after the other."""
        while True:
            yield from self.batches

    def count_step(self, *_: Any) -> None:
        """Called after each optimiser step."""
        self.optimizer_steps += 1

    def time_gc(self, phase: str, info: dict[str, int]) -> None:
        """Called before and after each garbage collection."""
        if info["generation"] < 2:
            return
        if phase == "start":
            self.gc_began = time.perf_counter()
        else:
            self.gc_seconds += time.perf_counter() - self.gc_began

    def listen(self) -> None:
        """Keep the responses that TRL generates, to be counted when the clock stands still."""
        generate = ppo_trainer.batch_generation

        def heard(model: nn.Module, queries: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
            rows, logits = generate(model, queries, *rest)
            self.responses = rows[:, queries.shape[1] :]
            return rows, logits

        ppo_trainer.batch_generation = heard

    def counts(self) -> dict[str, int]:
        """What the iteration worked on."""
        is_eos = self.responses == EOS
        said = self.responses != PAD
        return {
            "tokens": int((said & (is_eos.cumsum(1) - is_eos.long() == 0)).sum()),
            "learned_tokens": int(said.sum()),  # <pad> is never said: it is TRL's, after the end
            "columns": self.responses.shape[1],
            "optimizer_steps": self.optimizer_steps,
        }


def now() -> float:
    """Seconds; on a GPU after all that was asked of it is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def word_tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """The least that TRL accepts: token i is the word "i". It is only asked to pad."""
    words = models.WordLevel({str(i): i for i in range(vocab)}, unk_token=str(PAD))
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words),
        pad_token=str(PAD),
        eos_token=str(EOS),
        padding_side="left",
    )


def make_trainer(
    given: dict[str, Any], stop_at_eos: bool, rollout_batch: int | None, folder: str
) -> PPOTrainer:
    """TRL's trainer with the package's settings, and nothing on that only costs time."""
    batch_size = given["batch_size"]
    if len(given["prompts"]) < batch_size:
        raise SystemExit(f"prompts: {len(given['prompts'])} rows, allowed is {batch_size} or more")
    config = gpt2_config(given)
    # As a user would: rows without padding. TRL pads each batch to its own longest prompt.
    prompts = [row[row != PAD].tolist() for row in given["prompts"]]
    args = PPOConfig(
        output_dir=folder,
        # A batch is batch_size rows, a minibatch is a num_mini_batches-th of it and goes through
        # the models in one piece: num_ppo_epochs · num_mini_batches optimiser steps an iteration.
        per_device_train_batch_size=batch_size,
        gradient_accumulation_steps=1,
        num_ppo_epochs=given["num_ppo_epochs"],
        num_mini_batches=given["num_mini_batches"],
        local_rollout_forward_batch_size=rollout_batch or batch_size,
        total_episodes=batch_size * 10**6,  # more than anybody asks for
        response_length=given["response_length"],
        stop_token="eos" if stop_at_eos else None,
        # As in RLHFConfig; cliprange, cliprange_value, vf_coef, gamma and lam are TRL's defaults
        # and the same numbers there.
        temperature=1.0,
        missing_eos_penalty=1.0,
        kl_coef=given["kl_coef"],
        learning_rate=given["lr"],
        lr_scheduler_type="constant",
        bf16=False,
        fp16=False,
        gradient_checkpointing=False,
        use_cpu=given["device"] == "cpu",
        num_sample_generations=0,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = PPOTrainer(
        args=args,
        processing_class=word_tokenizer(given["vocab"]),
        model=language_model(config, given["policy"]),
        ref_model=language_model(config, given["policy"]),
        reward_model=scalar_model(config, given["reward"]),
        value_model=scalar_model(config, given["value"]),
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def main() -> None:
    """Check, or iterate for as long as somebody asks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--stop-at-eos", action="store_true", help="replies end at <eos>")
    parser.add_argument("--check", action="store_true", help="compare logits, then exit")
    parser.add_argument("--rollout-batch", type=int, metavar="ROWS",
                        help="rows generated and scored at once (default: all; TRL's own: 64)")
    options = parser.parse_args()

    answers = os.fdopen(os.dup(1), "w")  # stdout is for the protocol: whatever others print,
    os.dup2(2, 1)  # also from C, goes to stderr

    def send(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    given = torch.load(options.file, weights_only=True)
    torch.set_num_threads(given["threads"])
    if options.check:
        send({"max_logit_difference": max_logit_difference(given)})
        return

    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(given, options.stop_at_eos, options.rollout_batch, folder)
        packages = ("trl", "transformers", "accelerate", "torch")
        watch = Stopwatch(trainer.dataloader, {
            "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
            "device": str(trainer.accelerator.device),
            "threads": torch.get_num_threads(),
            "attention": trainer.policy_model.config._attn_implementation,
            "optimizer": type(trainer.optimizer.optimizer).__name__,
            "rollout_batch": trainer.args.local_rollout_forward_batch_size,
        }, send)
        watch.listen()
        trainer.optimizer.optimizer.register_step_post_hook(watch.count_step)
        gc.callbacks.append(watch.time_gc)
        trainer.dataloader = watch
        try:
            trainer.train()
        except EndOfInput:
            pass


if __name__ == "__main__":
    main()
