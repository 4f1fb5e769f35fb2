"""Settings of the process, and models at the same time: nothing may change but the speed."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lively import PROMPTS, SMALL, generator, lively
from torch import Tensor

from rlhf_edu import InputError
from rlhf_edu.lab import helpdesk, machine, rlhf, sampling, tiles
from rlhf_edu.lab.machine import (
    all_cores,
    compilable,
    medium_is_exact,
    settle,
    side_by_side,
    small_products,
)
from rlhf_edu.lab.model import ModelConfig, Transformer, language_model, scalar_model
from rlhf_edu.lab.reward_model import RewardModel

PRECISIONS = ["highest", "high", "medium"]
PATIENCE = 30  # seconds after which a thread that waits for another gives up


@pytest.fixture(autouse=True)
def told(monkeypatch) -> Iterator[list[tuple[int, int]]]:
    """Settings are put back after each test; the C library is told nothing, and what it would
    have been told is kept: (name, value)."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    told: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda name, value: told.append((name, value)))
    monkeypatch.setattr(machine, "_pool", None)
    monkeypatch.setattr(machine, "_cores", 1)
    monkeypatch.setattr(machine, "ctypes", SimpleNamespace(CDLL=lambda name: library))
    yield told
    if machine._pool is not None:
        machine._pool.shutdown()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision(precision)


@pytest.fixture(params=[1, 2], ids=["one core", "two cores"])
def cores(request) -> int:
    settle(request.param)
    return request.param


# Settings


def test_one_thread_an_operation_and_as_many_tasks_as_cores(monkeypatch):
    torch.set_num_threads(2)
    settle(3)
    assert torch.get_num_threads() == 1
    meet = threading.Barrier(3, timeout=PATIENCE)
    side_by_side(meet.wait, meet.wait, meet.wait)
    settle(1)
    main = threading.get_ident()
    assert side_by_side(threading.get_ident, threading.get_ident) == [main, main]


def test_the_matrix_products_of_every_task_use_one_thread():
    """They ask OpenMP, which keeps a number for each thread; torch's own number does not show it.

    Once we saw the products of the second task take two threads, in the way of the first.
    """
    try:
        openmp_threads = ctypes.CDLL(None).omp_get_max_threads
    except (AttributeError, TypeError, OSError):
        pytest.skip("torch's OpenMP cannot be asked on this system")
    meet, seen = threading.Barrier(2, timeout=PATIENCE), []
    plain = threading.Thread(target=lambda: seen.append(openmp_threads()))
    plain.start(), plain.join()
    if seen == [1]:
        pytest.skip("OpenMP gives every thread one")
    settle(2)

    def task() -> int:
        meet.wait()  # so that the two are two threads
        return int(openmp_threads())

    assert side_by_side(task, task) == [1, 1]


@pytest.mark.parametrize("allowed", [{5}, {0, 3}])
def test_only_cores_that_this_process_may_use_are_used(monkeypatch, allowed):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: allowed, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    settle()
    first, *others = side_by_side(*[threading.get_ident] * 50)
    assert first == threading.get_ident(), "the first task is the caller's own"
    assert len({first, *others}) <= len(allowed)
    meet = threading.Barrier(len(allowed), timeout=PATIENCE)
    side_by_side(*[meet.wait] * len(allowed))


@pytest.mark.parametrize("count, alone", [(1, True), (None, True), (2, False)])
def test_where_nobody_says_what_a_process_may_use_all_cores_are_used(monkeypatch, count, alone):
    """Like that on macOS and Windows."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: count)
    settle()
    meet = threading.Barrier(1 if alone else 2, timeout=PATIENCE)
    first, second = side_by_side(*[lambda: (meet.wait(), threading.get_ident())[1]] * 2)
    assert (first == second) == alone


def test_glibc_is_told_to_keep_freed_memory(monkeypatch, told):
    """By the numbers of its malloc.h; 32 MiB is the largest threshold that it takes."""
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    settle(1)
    M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
    assert set(told) == {(M_MMAP_THRESHOLD, 32 * 2**20), (M_TRIM_THRESHOLD, 2**30),
                         (M_TOP_PAD, 64 * 2**20)}  # fmt: skip


@pytest.mark.parametrize("library", [("", ""), ("musl", "1.2")])
def test_where_glibc_is_not_there_nothing_is_told_to_anybody(monkeypatch, told, library):
    monkeypatch.setattr(platform, "libc_ver", lambda: library)
    monkeypatch.setattr(machine.ctypes, "CDLL", lambda name: pytest.fail("was looked for"))
    settle(2)
    assert told == [] and torch.get_num_threads() == 1
    assert side_by_side(lambda: 1, lambda: 2) == [1, 2]


# Precision


def rounds_to_16_bits(monkeypatch, while_precision_is: str) -> None:
    """A CPU whose products keep 16 bits, as some do, where this precision is asked for."""
    exact = torch.Tensor.__matmul__

    def product(a: Tensor, b: Tensor) -> Tensor:
        if torch.get_float32_matmul_precision() == while_precision_is and a.dtype == torch.float32:
            return exact(a.bfloat16().float(), b.bfloat16().float())
        return exact(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)


@pytest.mark.parametrize("before", PRECISIONS)
def test_looking_for_exact_products_leaves_the_precision_as_it_was(before):
    torch.set_float32_matmul_precision(before)
    answer = medium_is_exact.__wrapped__()
    assert torch.get_float32_matmul_precision() == before
    assert answer == medium_is_exact()


def test_products_of_16_bits_are_noticed_and_not_used(monkeypatch):
    rounds_to_16_bits(monkeypatch, "medium")
    assert medium_is_exact.__wrapped__() is False
    monkeypatch.setattr(machine, "medium_is_exact", medium_is_exact.__wrapped__)
    monkeypatch.setattr(machine, "cpu_name", lambda: "AMD EPYC 9B14")
    settle(1)
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(
    "cpu, used", [("AMD EPYC 9B14", "medium"), ("Intel(R) Xeon(R) Processor", "highest")])
def test_products_of_32_bits_are_used_where_they_are_faster(monkeypatch, cpu, used):
    rounds_to_16_bits(monkeypatch, "none")
    monkeypatch.setattr(machine, "medium_is_exact", lambda: True)
    monkeypatch.setattr(machine, "cpu_name", lambda: cpu)
    settle(1)
    assert torch.get_float32_matmul_precision() == used


@pytest.mark.parametrize("said, processor, name", [
    ("processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Processor\nmodel\t: 7\n", "",
     "Intel(R) Xeon(R) Processor"),  # Linux
    ("processor\t: 0\nBogoMIPS\t: 50\n", "aarch64", "aarch64"),  # Linux, where ARM says no name
    (None, "Intel64 Family 6 Model 85, GenuineIntel", "Intel64 Family 6 Model 85, GenuineIntel"),
    (None, "", "riscv64")])  # fmt: skip
def test_the_cpu_is_called_what_it_calls_itself(monkeypatch, tmp_path, said, processor, name):
    file = tmp_path / "cpuinfo"
    if said is not None:
        file.write_text(said)
    monkeypatch.setattr(machine, "Path", lambda name: file)
    monkeypatch.setattr(platform, "processor", lambda: processor)
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert machine.cpu_name.__wrapped__() == name


@pytest.mark.parametrize("rows", [1, 3, 64, 700])
def test_after_settling_products_of_every_kind_keep_their_32_bits(rows):
    """Of the sizes that the default model has: layers, attention, and their gradients."""
    settle(1)
    luck = generator(rows)
    x = torch.randn(rows, 64, generator=luck, requires_grad=True)
    heads = torch.randn(rows, 2, 47, 32, generator=luck, requires_grad=True)
    layers = [torch.randn(n, 64, generator=luck, requires_grad=True) for n in (1, 64, 256, 159)]
    inputs = [x, heads, *layers]

    def outputs(x: Tensor, heads: Tensor, *layers: Tensor) -> list[Tensor]:
        bias = [layer.sum(1) for layer in layers]
        through = [torch.nn.functional.linear(x, w, b) for w, b in zip(layers, bias, strict=True)]
        back = through[2] @ layers[2]  # (rows, 256) · (256, 64)
        scores = heads @ heads.mT
        return [*through, back, scores, scores @ heads]

    found, want = outputs(*inputs), outputs(*(t.double() for t in inputs))
    weights = [torch.randn(y.shape, generator=luck) for y in found]
    got = torch.autograd.grad(found, inputs, weights)
    expected = torch.autograd.grad(want, inputs, [w.double() for w in weights])
    for a, b in zip([*found, *got], [*want, *expected], strict=True):
        assert (a - b).abs().max() < 1e-5 * b.abs().max()


@pytest.mark.parametrize("before", PRECISIONS)
def test_small_products_are_plain_ones_and_the_precision_is_put_back(before):
    torch.set_float32_matmul_precision(before)
    with small_products():
        assert torch.get_float32_matmul_precision() == "highest"
    assert torch.get_float32_matmul_precision() == before
    with pytest.raises(KeyError, match="on the way"), small_products():
        raise KeyError("on the way")
    assert torch.get_float32_matmul_precision() == before


def at_each_reading(monkeypatch, setting: Callable[[], Any]) -> list[Any]:
    """A list that grows by the setting whenever a model reads."""
    seen: list[Any] = []
    trunk = Transformer.trunk

    def looking(self, *args, **kwargs):
        seen.append(setting())
        return trunk(self, *args, **kwargs)

    monkeypatch.setattr(Transformer, "trunk", looking)
    return seen


def test_sampling_uses_small_products_for_every_token_and_not_for_the_prompt(monkeypatch):
    model = lively(language_model(SMALL), 0, ends=3.5)
    seen = at_each_reading(monkeypatch, torch.get_float32_matmul_precision)
    torch.set_float32_matmul_precision("medium")
    for _ in range(2):
        seen.clear()
        sampling.sample(model, PROMPTS[:4], 3, generator())
        assert seen[0] == "medium" and len(seen) > 1 and set(seen[1:]) == {"highest"}
        assert torch.get_float32_matmul_precision() == "medium"
    monkeypatch.setattr(Transformer, "trunk", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sampling.sample(model, PROMPTS[:4], 3, generator())
    assert torch.get_float32_matmul_precision() == "medium"


def test_all_cores_are_for_sampling_and_one_thread_an_operation_before_and_after(monkeypatch):
    settle(3)
    assert torch.get_num_threads() == 1
    seen = at_each_reading(monkeypatch, torch.get_num_threads)
    model = lively(language_model(SMALL), 0, ends=3.5)
    sampling.sample(model, PROMPTS[:4], 3, generator())
    assert set(seen) == {3} and torch.get_num_threads() == 1
    with pytest.raises(KeyError, match="on the way"), all_cores():
        raise KeyError("on the way")
    assert torch.get_num_threads() == 1
    torch.set_num_threads(4)  # a program that has set its own number keeps it
    with all_cores():
        assert torch.get_num_threads() == 4


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("full", [True, False], ids=["full length", "own lengths"])
def test_sampling_gives_the_same_bits_on_one_core_and_on_more(full, width):
    model = lively(language_model(ModelConfig(width=width)), 0, ends=-1e4 if full else 4.0)
    prompts = helpdesk.desk().prompts[:300]  # more rows than an operation gives one thread
    found = []
    for cores in (1, 2, 5):
        settle(cores)
        found.append(sampling.sample(model, prompts, 20, generator()))
    assert full == bool((found[0][0] != helpdesk.EOS).all())
    for responses, logprobs in found[1:]:
        assert torch.equal(responses, found[0][0]) and torch.equal(logprobs, found[0][1])


# Side by side


def test_results_come_in_the_order_of_the_tasks_even_if_the_first_is_the_last_to_end():
    settle(2)
    done = threading.Event()

    def first() -> str:
        assert done.wait(PATIENCE), "the second waits for the first"
        return "first"

    def second() -> str:
        done.set()
        return "second"

    assert side_by_side(first, second) == ["first", "second"]


def test_a_caller_who_is_done_takes_what_nobody_has_begun():
    settle(2)
    begun, done = threading.Event(), threading.Event()

    def first() -> None:
        assert begun.wait(PATIENCE)  # by now the only other thread has begun the second

    def second() -> None:
        begun.set()
        assert done.wait(PATIENCE), "the third waits for the second"

    assert side_by_side(first, second, done.set, threading.get_ident) == [
        None, None, None, threading.get_ident()]


def test_as_many_tasks_as_one_likes(cores):
    assert side_by_side(*(lambda i=i: i * i for i in range(20))) == [i * i for i in range(20)]
    assert side_by_side() == []


def test_an_exception_in_a_task_is_raised_and_the_next_tasks_run(cores):
    def fails() -> None:
        raise KeyError("in a task")

    for tasks in ((fails, lambda: 1), (lambda: 1, fails)):
        with pytest.raises(KeyError, match="in a task"):
            side_by_side(*tasks)
        assert side_by_side(lambda: 1, lambda: 2) == [1, 2]


def test_tasks_are_in_inference_mode_if_their_caller_is(cores):
    def tasks() -> list[Callable[[], Tensor]]:
        return [lambda: torch.ones(2) + torch.ones(2)] * 4

    for _ in range(2):  # a thread forgets the mode of its last task
        with torch.inference_mode():
            assert all(x.is_inference() for x in side_by_side(*tasks()))
        assert not any(x.is_inference() for x in side_by_side(*tasks()))


def test_gradients_of_tasks_are_those_of_one_after_the_other(cores):
    weights = [torch.randn(20, 20, generator=generator(i), requires_grad=True) for i in range(2)]
    x = torch.randn(20, generator=generator(2))

    def task(w: Tensor) -> Callable[[], Tensor]:
        def work() -> Tensor:
            loss = (w @ x).square().sum()
            loss.backward()
            return loss.detach()

        return work

    losses = side_by_side(*map(task, weights))
    for w, loss in zip(weights, losses, strict=True):
        assert loss == (w @ x).square().sum()
        assert torch.allclose(w.grad, 2 * torch.outer(w.detach() @ x, x), atol=1e-4)


# Training

TRAIN = """
import hashlib, json, threading
import torch
from rlhf_edu.lab import machine, rlhf
from rlhf_edu.lab.evaluate import ExamConfig, make_exam
from rlhf_edu.lab.model import ModelConfig, language_model, scalar_model
from rlhf_edu.lab.reward_model import RewardModel

torch.manual_seed(0)
model = ModelConfig()
reference, reward = language_model(model), scalar_model(model)
with torch.no_grad():
    for p in [*reference.parameters(), *reward.parameters()]:
        p.add_(0.1 * torch.randn(p.shape))
    reference.head.bias[1] += 3
config = rlhf.RLHFConfig(updates=2, batch_size=32, num_ppo_epochs=2, num_mini_batches=2, lr=1e-3)

def run(cores):
    machine.settle(cores)
    threads, metrics = set(), []

    def scored(prompts, responses):
        threads.add((threading.get_ident(), torch.get_num_threads()))
        return RewardModel(reward, 0.1, 1.5)(prompts, responses)

    state = rlhf.start(config, reference, RewardModel(reward, 0.1, 1.5))
    rlhf.train_rlhf(config, state, reference, scored, lambda s, m: metrics.append(m))
    digest = hashlib.sha256(state.weights.detach().numpy().tobytes()).hexdigest()
    gauged = RewardModel(reward, 0.1, 1.5)
    exam = make_exam(ExamConfig(samples=2), 16, reference, gauged, 16)(state.policy)
    moved = (state.policy.head.weight - reference.head.weight).abs().max().item()
    return {"weights": digest, "metrics": metrics, "moved": moved, "exam": json.dumps(exam),
            "alone": {t for t, _ in threads} == {threading.get_ident()},
            "threads": sorted({n for _, n in threads})}

print(json.dumps([run(cores) for cores in (1, 2, 3)]))
"""


@pytest.mark.parametrize("threads", ["1", None], ids=["one OpenMP thread", "OpenMP as it likes"])
def test_training_gives_the_same_bits_on_one_core_and_on_more(threads):
    """In a process of its own, settled for good."""
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    if threads:
        environment["OMP_NUM_THREADS"] = threads
    done = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True,
                          env=environment)  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two, three = json.loads(done.stdout)
    assert one["weights"] == two["weights"] == three["weights"]
    assert one["metrics"] == two["metrics"] == three["metrics"]
    assert one["exam"] == two["exam"] == three["exam"]
    assert one["moved"] > 1e-3 and len(one["metrics"]) == 2
    assert one["alone"] and not two["alone"] and not three["alone"]
    assert one["threads"] == two["threads"] == three["threads"] == [1]


# Compiled models


def test_nothing_is_compiled_unless_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: pytest.fail("was compiled"))
    for value in (None, "", "0"):
        monkeypatch.delenv("RLHF_EDU_COMPILE", raising=False)
        if value is not None:
            monkeypatch.setenv("RLHF_EDU_COMPILE", value)
        assert compilable(lambda x: x + 1)(1) == 2 and not machine.compiling()


def test_a_compiled_function_is_compiled_once_and_other_tasks_wait_for_it(monkeypatch):
    asked = []

    def compile(fn, mode):  # what torch.compile is to this project
        asked.append(mode)
        return lambda x: 10 * fn(x)

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setenv("RLHF_EDU_COMPILE", "1")
    fn = compilable(lambda x: x + 1)
    assert [fn(1), fn(2)] == [20, 30]
    assert asked == ["reduce-overhead"], "on a GPU: CUDA graphs"
    settle(3)
    main = threading.get_ident()
    assert side_by_side(*[threading.get_ident] * 3) == [main] * 3


def test_a_wish_to_compile_that_cannot_be_met_is_refused_in_words(monkeypatch):
    monkeypatch.setenv("RLHF_EDU_COMPILE", "yes")
    with pytest.raises(InputError, match="RLHF_EDU_COMPILE=yes: allowed are 0, and 1"):
        machine.compiling()
    monkeypatch.setenv("RLHF_EDU_COMPILE", "1")

    def compile(fn):  # as torch does it: the error comes with the first call
        return lambda x: 1 / 0

    monkeypatch.setattr(torch, "compile", compile)
    with pytest.raises(InputError, match=r"for cpu it needs a C\+\+ compiler.*division by zero"):
        machine.check_compiler("cpu")
    monkeypatch.setattr(torch, "compile", lambda fn: fn)
    machine.check_compiler("cpu")
    monkeypatch.setenv("RLHF_EDU_COMPILE", "0")
    monkeypatch.setattr(torch, "compile", compile)
    machine.check_compiler("cpu")


def test_compiled_models_sample_and_learn_the_same(monkeypatch):
    """What torch.compile captures of the models, run by torch itself: no part is left to Python,
    no variant is one too many, and the numbers are those of the uncompiled models."""
    numbers = torch._dynamo.utils.counters
    small = ModelConfig(n_layers=2, width=16, n_heads=2)
    reference = lively(language_model(small), 0, ends=3.0)
    scored = RewardModel(lively(scalar_model(small), 1), 0.1, 1.5)
    config = rlhf.RLHFConfig(updates=2, batch_size=16, num_ppo_epochs=2, num_mini_batches=2,
                             response_length=6)  # fmt: skip

    def run() -> tuple[Tensor, list[dict[str, float]]]:
        state, metrics = rlhf.start(config, reference, scored), []
        rlhf.train_rlhf(config, state, reference, scored, lambda s, m: metrics.append(m))
        return state.weights.detach().clone(), metrics

    weights, metrics = run()
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda fn, mode: compile(fn, backend="aot_eager"))
    for module, name in ((tiles, "before_each_token"), (sampling, "one_more")):
        monkeypatch.setattr(module, name, compilable(getattr(module, name).__wrapped__))
    monkeypatch.setenv("RLHF_EDU_COMPILE", "1")
    monkeypatch.setattr(torch._dynamo.config, "fail_on_cache_limit_hit", True)
    torch._dynamo.reset()
    numbers.clear()
    again, metrics_again = run()
    torch._dynamo.reset()
    assert numbers["stats"]["unique_graphs"] >= 4 and not numbers["graph_break"]
    moved = (weights - rlhf.start(config, reference, scored).weights).abs().max()
    assert moved > 1e-3 and (again - weights).abs().max() < 1e-2 * moved
    for one, other in zip(metrics, metrics_again, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_beside_a_gpu_nothing_is_allowed_to_round(monkeypatch):
    before, threads = torch.get_float32_matmul_precision(), torch.get_num_threads()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(machine, "medium_is_exact", lambda: True)
    monkeypatch.setattr(machine, "cpu_name", lambda: "AMD EPYC 9B14")
    try:
        machine.settle(1)
        assert torch.get_float32_matmul_precision() == "highest"
    finally:
        torch.set_float32_matmul_precision(before)
        torch.set_num_threads(threads)
