"""How long one PPO iteration takes: beside TRL, against the bound of its matrix products, and why.

    python benchmarks/iteration.py --json FILE    against TRL and the bound
    python benchmarks/iteration.py --growth       how time grows with batch, length, width, ...
    python benchmarks/iteration.py --seeds 5      five seeds: one after another, in turns, stacked
    python benchmarks/iteration.py --profile      where an iteration's time goes, in words
    ... --device auto|cpu|cuda    auto takes a GPU where there is one; --profile is of the CPU
    ... --compile                 ours compiled (RLHF_EDU_COMPILE=1), in the first of these four

Each side runs in a process of its own and they take turns, so a slow moment of the machine hits
both; medians of `--rounds` turns are compared. A turn is two iterations, of which the second
counts: in training the caches hold one's own numbers, after the other side's turn they do not.
TRL 1.12.0 gets an environment of its own in benchmarks/.trl, made at the first call. Everything is
32-bit, and eager without --compile. An iteration: 256 responses of up to 32 tokens, 4 epochs of 4
minibatches, policy and separate critic, reference, reward model.

- full length: no reply ends before 32 tokens, so both sides have the same work.
- desk lengths: replies end where the desk's own end; TRL computes its padding, we do not.
- bound: floating-point operations of the matrix products that the update needs, real tokens only,
  over the rate of torch's plain 32-bit matrix product on the GPU or on all cores, measured between
  the turns.

Results go to benchmarks/results/iteration.json, or with --json to FILE. Those of further machines
are kept beside it as iteration-NAME.json, and the README shows them as well.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from first_case import chosen_device, known_of, peak_memory_gb

from rlhf_edu.lab import helpdesk, rlhf
from rlhf_edu.lab.machine import all_cores, settle, side_by_side, small_products
from rlhf_edu.lab.machine import available_cores as cores
from rlhf_edu.lab.model import (
    ModelConfig,
    Transformer,
    gather_logprobs,
    language_model,
    scalar_model,
)
from rlhf_edu.lab.reward_model import RewardModel
from rlhf_edu.lab.rlhf import RLHFConfig
from rlhf_edu.lab.tiles import Tiles, lay, lengths_of, logits_in

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "iteration.json"
TRL = "trl==1.12.0"
NEVER = -1e4  # added to the logit of <eos>: replies of full length
# A step size at which the replies stay the reference's for as long as we measure.
SETUP = RLHFConfig(updates=10**6, batch_size=256, num_mini_batches=4, num_ppo_epochs=4, lr=1e-8,
                   response_length=32)


# ── What the update needs ───────────────────────────────────────────────────────────────────────
def needed_flops(config: ModelConfig, setup: RLHFConfig, lengths: torch.Tensor) -> float:
    """Floating-point operations of the matrix products of one update on replies of these lengths.

    `lengths` (B, 2): tokens of prompts and replies. A multiplication and an addition are two; a
    backward pass is two forward passes. The last block owes an output only where a reply token is
    predicted, and attention only looks back.
    """
    D, V, layers = config.width, helpdesk.VOCAB_SIZE, config.n_layers
    p, t = lengths[:, 0].double(), lengths[:, 1].double()
    n = p + t - 1  # tokens that are read; the last reply token predicts nothing
    looked_at = n * (n + 1) / 2
    block = 12 * D * D * n + 2 * D * looked_at
    last_block = 2 * D * D * n + 10 * D * D * t + 2 * D * (looked_at - p * (p - 1) / 2)
    trunk = (layers - 1) * block + last_block
    both = 2 * trunk + t * D * (V + 1)  # policy and critic with their heads, in multiplications
    return float(2 * 3 * setup.num_ppo_epochs * both.sum())


def matmul_rate(device: str) -> float:
    """Operations a second of torch's plain 32-bit matrix product of 2048 by 2048, on all cores."""
    x, seconds = torch.rand(2048, 2048, device=device), []
    with all_cores(), small_products():  # the plain product is the one of small products
        for _ in range(4):
            began = now(device)
            x @ x
            seconds.append(now(device) - began)
    return 2 * 2048**3 / min(seconds)


def now(device: str) -> float:
    """Seconds; on a GPU after all that was asked of it is done."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


# ── Our side, as a process that answers ─────────────────────────────────────────────────────────
class Clock:
    """Seconds of each stage of an iteration, read off the functions that end it."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.marks: list[tuple[str, float]] = []
        for name, stage in (("sample", "sampling"), ("side_by_side", "scoring"),
                            ("Rollout", "advantages")):
            setattr(rlhf, name, self.marking(getattr(rlhf, name), stage))

    def marking(self, fn: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def marked(*args: Any, **kwargs: Any) -> Any:
            result = fn(*args, **kwargs)
            if all(done != stage for done, _ in self.marks):
                self.mark(stage)
            return result
        return marked

    def mark(self, stage: str) -> None:
        self.marks.append((stage, now(self.device)))

    def stages(self) -> dict[str, float]:
        """Seconds of each stage since the mark before it; the marks are then forgotten."""
        found = {name: then - before for (_, before), (name, then)
                 in zip(self.marks, self.marks[1:], strict=False)}
        found["seconds"] = self.marks[-1][1] - self.marks[0][1]
        self.marks = []
        return found


def models(given: dict[str, Any], full: bool) -> tuple[Transformer, RewardModel]:
    """Reference and reward model; with `full` one that never ends a reply."""
    config = ModelConfig(**given["model"])
    reference, reward = language_model(config), scalar_model(config)
    reference.load_state_dict(given["policy"])
    reward.load_state_dict(given["reward"])
    if full:
        reference.head.bias.data[helpdesk.EOS] = NEVER
    reference.to(given["device"]), reward.to(given["device"])
    return reference.requires_grad_(False), RewardModel(reward.requires_grad_(False), 0.0, 1.0)


def iterations(given: dict[str, Any], full: bool, wait: Callable[[], bool],
               tell: Callable[[dict[str, Any]], None]) -> None:
    """Train; before each iteration `wait` for leave, after it `tell` its seconds and lengths."""
    reference, reward_model = models(given, full)
    setup = RLHFConfig(**given["setup"])
    state, clock = rlhf.start(setup, reference, reward_model), Clock(given["device"])
    seen: list[torch.Tensor] = []  # prompts and responses of the batch

    def lengths_of(prompts: torch.Tensor, responses: torch.Tensor) -> torch.Tensor | None:
        if len(responses) == setup.batch_size:  # of the whole batch, not of a part of it
            seen[:] = prompts, responses
        return real_lengths_of(prompts, responses)

    real_lengths_of, rlhf.lengths_of = rlhf.lengths_of, lengths_of

    def after_update(state: Any, metrics: dict[str, float]) -> None:
        clock.mark("update")
        lengths = real_lengths_of(*(x.cpu() for x in seen))
        assert lengths is not None  # they are on the host
        tell(clock.stages() | {"tokens": int(lengths[:, 1].sum()),
                               "needed_flops": needed_flops(reference.config, setup, lengths),
                               "peak_memory_gb": peak_memory_gb(given["device"])})
        if not wait():
            raise KeyboardInterrupt
        clock.mark("start")

    clock.mark("start")
    try:
        rlhf.train_rlhf(setup, state, reference, reward_model, after_update)
    except KeyboardInterrupt:
        pass


def answer(file: str, full: bool) -> None:
    """One iteration for each line on stdin, as benchmarks/trl_worker.py does; the first is free."""
    settle()
    given = torch.load(file, weights_only=True)
    first = []

    def tell(found: dict[str, Any]) -> None:
        print(json.dumps(found if first else {"ready": True}), flush=True)
        first.append(found)

    iterations(given, full, lambda: bool(sys.stdin.readline()), tell)


# ── Taking turns ────────────────────────────────────────────────────────────────────────────────
class Side:
    """A process that is asked for one iteration at a time."""

    def __init__(self, command: list[str], log: Path):
        self.log = log
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=log.open("w"), text=True)
        self.read()  # ready

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended:\n{self.log.read_text()[-3000:]}")
        return dict(json.loads(line))

    def iterate(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.read()

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def trl_python() -> str:
    """The interpreter of TRL's own environment, which the first call makes."""
    home = HERE / ".trl"
    python = home / "bin" / "python"
    wanted = [TRL, f"torch=={torch.__version__.split('+')[0]}"]
    done = home / "installed"
    if not done.exists() or done.read_text() != " ".join(wanted):
        print(f"making an environment with {TRL} in {home} …", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True,
                       stdout=sys.stderr)
        done.write_text(" ".join(wanted))
    return str(python)


def make_input(file: str, seed: int, device: str) -> None:
    """A reference as the cases have it, a reward model with a random head, and prompts."""
    from rlhf_edu.lab.sft import SFTConfig, train_sft

    torch.manual_seed(seed)
    config = ModelConfig()
    reference = train_sft(SFTConfig(seed=seed), config, torch.device("cpu"))
    reward = scalar_model(config, trunk_from=reference)
    torch.nn.init.normal_(reward.head.weight, std=0.1)
    rows = helpdesk.draw_prompts(helpdesk.desk(), 40 * SETUP.batch_size,
                                 torch.Generator().manual_seed(seed))
    shared = {name: getattr(SETUP, name) for name in (
        "batch_size", "num_ppo_epochs", "num_mini_batches", "response_length", "lr", "kl_coef")}
    torch.save({"policy": reference.state_dict(), "value": reward.state_dict(),
                "reward": reward.state_dict(), "prompts": helpdesk.desk().prompts[rows],
                "model": asdict(config), "setup": asdict(replace(SETUP, seed=seed)),
                **asdict(config), "vocab": helpdesk.VOCAB_SIZE, "threads": cores(),
                "device": device, **shared}, file)


def full_length(file: str) -> str:
    """The same input with a policy that never ends a reply."""
    given = torch.load(file, weights_only=True)
    given["policy"] = dict(given["policy"])
    given["policy"]["head.bias"] = given["policy"]["head.bias"].clone()
    given["policy"]["head.bias"][helpdesk.EOS] = NEVER
    torch.save(given, file + ".full")
    return file + ".full"


def compare(rounds: int, seed: int, device: str) -> dict[str, Any]:
    """Both sides at both lengths in turns; medians, ratios, bound."""
    with tempfile.TemporaryDirectory() as folder:
        settle()
        file, here = f"{folder}/input.pt", Path(folder)
        make_input(file, seed, device)
        worker, us = str(HERE / "trl_worker.py"), [sys.executable, __file__, "--answer"]
        sides = {
            ("ours", "full_length"): Side([*us, file, "--full"], here / "a"),
            ("trl", "full_length"): Side([trl_python(), worker, full_length(file)], here / "b"),
            ("ours", "desk_lengths"): Side([*us, file], here / "c"),
            ("trl", "desk_lengths"): Side([trl_python(), worker, file, "--stop-at-eos"],
                                          here / "d"),
        }
        turns: dict[tuple[str, str], list[dict[str, Any]]] = {name: [] for name in sides}
        rates = []
        for i in range(rounds):
            for name, side in sides.items():
                side.iterate()  # not counted
                turns[name].append(side.iterate())
            rates.append(matmul_rate(device))
            print(f"round {i + 1} of {rounds}: " + ", ".join(
                f"{who} {what.replace('_', ' ')} {turns[who, what][-1]['seconds']:.2f} s"
                for who, what in sides), file=sys.stderr)
        for side in sides.values():
            side.end()

    def middle(name: tuple[str, str], key: str) -> float:
        return median(turn[key] for turn in turns[name])

    found: dict[str, Any] = {"seconds": {}, "rounds": rounds, "seed": seed}
    for what in ("full_length", "desk_lengths"):
        ours, theirs = ("ours", what), ("trl", what)
        found[f"{what}_vs_trl"] = middle(theirs, "seconds") / middle(ours, "seconds")
        found[f"{what}_vs_trl_without_its_garbage_collections"] = median(
            turn["seconds"] - turn["gc_seconds"] for turn in turns[theirs]
        ) / middle(ours, "seconds")
        found["seconds"][what] = {
            "trl": middle(theirs, "seconds"), "ours": middle(ours, "seconds"),
            **{stage: middle(ours, stage)
               for stage in ("sampling", "scoring", "advantages", "update")}}
        share = [turn["needed_flops"] / rate / turn["update"]
                 for turn, rate in zip(turns[ours], rates, strict=True)]
        key = "update_share_of_bound"
        found[key if what == "full_length" else f"{key}_desk_lengths"] = median(share)
        found[f"{what}_peak_memory_gb"] = max(turn["peak_memory_gb"] for turn in turns[ours])
        found[f"{what}_tokens_a_second"] = {
            "sampling": median(t["tokens"] / t["sampling"] for t in turns[ours]),
            "training": median(4 * t["tokens"] / t["update"] for t in turns[ours])}
    found["matmul_gflops"] = median(rates) / 1e9
    return found


# ── Growth ──────────────────────────────────────────────────────────────────────────────────────
def growth(rounds: int, device: str) -> dict[str, Any]:
    """Seconds of an iteration as one size grows, all else as it is, and the exponent of growth."""
    settle()
    found: dict[str, Any] = {}
    sizes = {"batch": [64, 256, 1024, 4096], "response_length": [16, 32, 64, 128],
             "width": [32, 64, 128, 256, 512], "epochs": [1, 2, 4, 8]}
    for name, values in sizes.items():
        seconds = []
        for value in values:
            setup = SETUP if name != "batch" else replace(
                SETUP, batch_size=value, num_mini_batches=max(1, value // 64))
            setup = replace(setup, num_ppo_epochs=value) if name == "epochs" else setup
            model = ModelConfig(max_response=128)
            model = replace(model, width=value) if name == "width" else model
            if name == "response_length":
                setup = replace(setup, response_length=value)
            seconds.append(plain_seconds(model, setup, rounds, device))
            print(f"{name} {value}: {seconds[-1]:.3f} s", file=sys.stderr)
        slope = exponent(values[-3:], seconds[-3:])
        found[name] = {"values": values, "seconds": seconds, "exponent": slope}
        print(f"time grows as {name}^{slope:.2f}", file=sys.stderr)
    values = [1, 4, 16, 32]
    seconds = [many_seeds(n, rounds, device)["seconds"]["two at a time"] for n in values]
    found["seeds"] = {"values": values, "seconds": seconds,
                      "exponent": exponent(values[-3:], seconds[-3:])}
    print(f"a minibatch's gradients grow as seeds^{found['seeds']['exponent']:.2f}",
          file=sys.stderr)
    return found


def exponent(values: list[int], seconds: list[float]) -> float:
    """Slope of log seconds over log values, by least squares."""
    x, y = torch.tensor(values).double().log(), torch.tensor(seconds).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def plain_seconds(model: ModelConfig, setup: RLHFConfig, rounds: int, device: str) -> float:
    """Median seconds of an iteration of full-length replies with random weights."""
    torch.manual_seed(0)
    reference = language_model(model).to(device).requires_grad_(False)
    reference.head.bias.data[helpdesk.EOS] = NEVER
    reward_model = RewardModel(scalar_model(model, reference).requires_grad_(False), 0.0, 1.0)
    times = [now(device)]
    rlhf.train_rlhf(replace(setup, updates=rounds + 1), rlhf.start(setup, reference, reward_model),
                    reference, reward_model, lambda *_: times.append(now(device)))
    return median(b - a for a, b in zip(times[1:], times[2:], strict=False))


# ── Many seeds at once ──────────────────────────────────────────────────────────────────────────
class Learn(torch.nn.Module):
    """A policy with its loss on one minibatch, as one module: what `torch.func` can stack."""

    def __init__(self, policy: Transformer):
        super().__init__()
        self.policy = policy

    def forward(self, b: Tiles, said: torch.Tensor) -> torch.Tensor:
        return -gather_logprobs(logits_in(b, self.policy), said).mean()


def many_seeds(seeds: int, rounds: int, device: str) -> dict[str, Any]:
    """Gradients of `seeds` policies on a minibatch of 64: one after another, in turns, stacked.

    Stacked, all weights are in one tensor with a leading dimension and every operation is done once
    for all seeds (torch.func.vmap). All policies read the same minibatch, the best case for it.
    """
    settle()
    torch.manual_seed(0)
    learners = [Learn(language_model(ModelConfig()).to(device)) for _ in range(seeds)]
    rows = helpdesk.draw_prompts(helpdesk.desk(), 64, torch.Generator().manual_seed(0))
    prompts = helpdesk.desk().prompts[rows]
    responses = helpdesk.demonstrate(helpdesk.desk(), rows, torch.Generator().manual_seed(1), 32)
    prompts, responses = prompts.to(device), responses.to(device)
    tiles = lay(learners[0].policy, prompts, responses, lengths_of(prompts, responses))
    said = tiles.flat(responses)
    stacked, _ = torch.func.stack_module_state(learners)  # type: ignore[arg-type]

    def one(learner: Learn) -> None:
        learner.zero_grad()
        learner(tiles, said).backward()

    def all_stacked() -> None:
        for weights in stacked.values():
            weights.grad = None
        torch.func.vmap(lambda weights: torch.func.functional_call(
            learners[0], weights, (tiles, said)))(stacked).sum().backward()

    def threaded(n: int) -> Callable[[], None]:
        def run() -> None:
            torch.set_num_threads(n)
            all_stacked()
            torch.set_num_threads(1)
        return run

    ways: dict[str, Callable[[], Any]] = {
        "one seed": lambda: one(learners[0]),
        "one after another": lambda: [one(learner) for learner in learners],
        "two at a time": lambda: side_by_side(*(partial(one, learner) for learner in learners)),
        "stacked, one thread": all_stacked,
        f"stacked, {cores()} threads": threaded(cores())}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 2):
        for name, way in ways.items():
            began = now(device)
            way()
            seconds[name].append(now(device) - began)
    ways["one after another"]()
    all_stacked()
    worst = max(float((stacked[name].grad[i] - weight.grad).abs().max() / weight.grad.abs().max())
                for i, learner in enumerate(learners)
                for name, weight in learner.named_parameters())
    found = {name: median(times[2:]) for name, times in seconds.items()}
    best = min(found["stacked, one thread"], found[f"stacked, {cores()} threads"])
    verdict = "wins." if best < 0.8 * found["two at a time"] else (
        "does not win clearly: it saves calls, not arithmetic, and one model's arithmetic already "
        "fills a core, while its tensors leave the cache earlier. So a case runs its seeds in "
        "processes, one a core.")
    in_turns, stack = (x / found["one seed"] for x in (found["two at a time"], best))
    print(f"{seeds} seeds take {in_turns:.1f} times one seed two at a time, {stack:.1f} times "
          f"stacked. Stacking {verdict}")
    return {"seconds": found, "largest_relative_gradient_difference": worst}


# ── Where the time goes ─────────────────────────────────────────────────────────────────────────
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"),
    "moving numbers about": ("aten::copy_", "aten::cat", "aten::index", "aten::index_select",
                             "aten::index_copy_", "aten::gather", "aten::fill_", "aten::add_"),
    "softmax and its gradient": ("aten::_softmax", "aten::_softmax_backward_data",
                                 "aten::_log_softmax", "aten::_log_softmax_backward_data"),
    "normalisation": ("aten::native_layer_norm", "aten::native_layer_norm_backward"),
    "activation": ("aten::clamp_min", "aten::threshold_backward"),
    "Adam": ("aten::_fused_adam_", "Optimizer.step#Adam.step"),
}


def profile(seed: int) -> str:
    """Where an iteration's time went, in words."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        settle(cores=1)  # one thread: shares of the whole then add up
        make_input(f"{folder}/input.pt", seed, "cpu")
        given = torch.load(f"{folder}/input.pt", weights_only=True)
        for full, name in ((True, "replies of full length"), (False, "the desk's own lengths")):
            turns: list[dict[str, Any]] = []
            real = {name: getattr(rlhf, name) for name in (
                "sample", "side_by_side", "Rollout", "lengths_of")}
            with torch.profiler.profile() as trace:
                iterations(given, full, lambda turns=turns: len(turns) < 4, turns.append)
            for attribute, value in real.items():
                setattr(rlhf, attribute, value)
            whole = median(turn["seconds"] for turn in turns)
            shares = {stage: median(turn[stage] for turn in turns) / whole
                      for stage in ("sampling", "scoring", "advantages", "update")}
            spent = {event.key: event.self_cpu_time_total for event in trace.key_averages()}
            total = sum(spent.values())
            kinds = {kind: sum(spent.get(key, 0) for key in keys) / total
                     for kind, keys in KINDS.items()}
            kinds["everything else"] = 1 - sum(kinds.values())
            lines += [
                f"On {name} an iteration takes {whole:.2f} s on one core while it is watched: "
                + ", ".join(f"{share:.0%} {stage}" for stage, share in shares.items()) + ".",
                "By kind of work: " + ", ".join(
                    f"{share:.0%} {kind}" for kind, share in
                    sorted(kinds.items(), key=lambda item: -item[1])) + "."]
    return "\n".join(lines)


# ── Results ─────────────────────────────────────────────────────────────────────────────────────
def keep(found: dict[str, Any], file: Path, device: str) -> None:
    """Add what was measured, with machine, versions and date, to what is known."""
    known = known_of(file, device)
    known["environment"]["trl"] = TRL
    known |= found
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(known, indent=2) + "\n")


def picture(found: dict[str, Any], file: Path) -> None:
    """The results to look at: both sides' seconds, and how ours grow."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    bars, lines = figure.subplots(1, 2, width_ratios=[1, 1.2])
    if "seconds" in found:
        names = [f"{who}\n{what.replace('_', ' ')}" for what in found["seconds"]
                 for who in ("TRL 1.12", "ours")]
        for i, (what, spent) in enumerate(found["seconds"].items()):
            bars.bar(2 * i, spent["trl"], color="0.7")
            bottom = 0.0
            for stage, colour in zip(("sampling", "scoring", "advantages", "update"),
                                     ("C0", "C2", "C3", "C1"), strict=True):
                bars.bar(2 * i + 1, spent[stage], bottom=bottom, color=colour,
                         label=stage if i == 0 else None)
                bottom += spent[stage]
            bars.annotate(f"{found[what + '_vs_trl']:.1f} times as fast",
                          (2 * i + 1, bottom), ha="center", va="bottom")
        bars.set_xticks(range(len(names)), names)
        bars.set_ylabel("seconds an iteration")
        bars.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    for name, grown in found.get("growth", {}).items():
        if name == "seeds":  # measured on one minibatch, not on an iteration
            continue
        lines.loglog(grown["values"], grown["seconds"], "o-",
                     label=f"{name.replace('_', ' ')}: exponent {grown['exponent']:.2f}")
    lines.set_xlabel("size (all others as in the iteration on the left)")
    lines.set_ylabel("seconds an iteration, full length")
    if "growth" in found:
        lines.legend(frameon=False)
    for axes in (bars, lines):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)


def main() -> None:
    """Measure what was asked for, print it and write it down."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the results go")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each side")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--seeds", type=int, help="this many seeds at once")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--answer", help=argparse.SUPPRESS)
    parser.add_argument("--full", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--compile", action="store_true", help="compile our side")
    options = parser.parse_args()
    rounds, seed = options.rounds, options.seed
    if options.answer:
        answer(options.answer, options.full)
        return
    if options.compile and (options.growth or options.seeds or options.profile):
        parser.error("--compile is for the comparison with TRL: leave out --growth, --seeds and "
                     "--profile, or --compile")
    if options.compile:
        os.environ["RLHF_EDU_COMPILE"] = "1"
    device = chosen_device(parser, options.device)
    if options.profile:
        print(profile(seed))
        return
    if options.seeds:
        found = {"many_seeds": many_seeds(options.seeds, rounds, device)}
    else:
        found = {"growth": growth(3, device)} if options.growth else compare(rounds, seed, device)
    keep(found, options.json, device)
    if options.json == RESULTS:
        picture(json.loads(RESULTS.read_text()), RESULTS.with_suffix(".png"))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
