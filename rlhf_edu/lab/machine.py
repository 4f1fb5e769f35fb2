"""How the laboratory uses a machine: settings of the process, two models at a time, compilation.

A model this small is not slow because of its arithmetic. Much of the time goes into fetching fresh
memory, into a matrix product that uses half of the CPU's width, and into threads that wait for each
other inside every small operation. On two cores of an AMD EPYC with torch 2.13 an iteration of
benchmarks/iteration.py takes 0.55 s with the settings below and 0.78 s without (full length), 0.33
and 0.51 s on the desk's own lengths; on an Intel Xeon 0.66 and 0.72 s, 0.34 and 0.38 s. Beside a
busy program the difference is larger: threads that wait for each other then wait for it, too.
"""

import ctypes
import os
import platform
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import Any

import torch

from rlhf_edu import InputError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # names and values of glibc's mallopt


def settle(cores: int | None = None) -> None:
    """Set this process up for small models on a CPU, using `cores` of it (None: all it may use).

    Results stay those of 32-bit arithmetic, and do not depend on the number of cores (see
    `all_cores` for the one exception).
    """
    global _pool, _cores
    # One thread an operation, two models at a time: threads inside operations this small wait for
    # each other. Buys a quarter of an iteration on the desk's own lengths, little at full length.
    # The number is each thread's own: without the initializer the pool's would use all cores, and
    # full-length iterations take a twentieth longer.
    torch.set_num_threads(1)
    _cores = cores = cores or available_cores()
    _pool = ThreadPoolExecutor(cores - 1, initializer=torch.set_num_threads,
                               initargs=(1,)) if cores > 1 else None
    # Keep freed memory: fresh pages cost more than the arithmetic on them. Buys a tenth to a fifth.
    if platform.libc_ver()[0] == "glibc":
        allocator = ctypes.CDLL(None)
        allocator.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        allocator.mallopt(M_TRIM_THRESHOLD, 2**30)
        allocator.mallopt(M_TOP_PAD, 64 * 2**20)
    # The other matrix product of torch (oneDNN) is twice as fast on CPUs that torch's first choice
    # (MKL, which is Intel's) does not know well; buys a quarter there. On Intel's own the first
    # choice buys a tenth. The other one may round to 16 bits, where a CPU has the means: there it
    # is not used, nor beside a GPU, which takes the same setting as leave to round.
    other = "Intel" not in cpu_name() and medium_is_exact() and not torch.cuda.is_available()
    torch.set_float32_matmul_precision("medium" if other else "highest")


_pool: ThreadPoolExecutor | None = None  # of models that are computed beside another
_cores = 1  # what `settle` was given


def available_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@cache
def cpu_name() -> str:
    """What this CPU calls itself; another kind rounds sums differently, and training amplifies it.

    Its architecture where it does not say.
    """
    said = Path("/proc/cpuinfo")  # on Linux, where platform.processor() is often empty
    text = said.read_text(errors="replace") if said.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model[1].strip() if model else platform.processor() or platform.machine()


@contextmanager
def small_products() -> Iterator[None]:
    """For work on one token a row: there the plain matrix product is the faster one."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def all_cores() -> Iterator[None]:
    """For work that has nothing beside it: all of `settle`'s cores in every operation.

    Buys a quarter of the sampling. On the CPUs that we tried sums stay the same to the bit up to a
    width of 128; in wider models products may be summed in another order.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(max(before, _cores))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rounded(n: int, step: int) -> int:
    """n, or a little more for oneDNN: it prepares for every new shape, so it gets few of them.

    MKL does not, and without what makes up the numbers a step takes a tenth less.
    """
    if torch.get_float32_matmul_precision() == "highest":
        return n
    step *= -(-n // (16 * step))
    return -(-n // step) * step


@cache
def medium_is_exact() -> bool:
    """Whether matrix products of "medium" precision keep all of their 32 bits on this CPU."""
    before = torch.get_float32_matmul_precision()
    x = torch.rand(256, 256, generator=torch.Generator().manual_seed(0))
    torch.set_float32_matmul_precision("medium")
    error = (x @ x - (x.double() @ x.double())).abs().max()  # 1e-5 in 32 bits, 0.1 in 16
    torch.set_float32_matmul_precision(before)
    return bool(error < 1e-3)


def side_by_side(*tasks: Callable[[], Any]) -> list[Any]:
    """What the tasks return, computed at the same time if `settle` was given cores.

    One after the other if models are compiled: a GPU's graph is recorded while nothing else runs.
    The first is computed by the caller's own thread: what it works on stays in that core's cache.
    So is, after it, each that no other thread has begun.
    """
    if _pool is None or compiling():
        return [task() for task in tasks]
    inference = torch.is_inference_mode_enabled()  # known to one thread at a time

    def work(task: Callable[[], Any]) -> Any:
        with torch.inference_mode(inference):
            return task()

    others = {i: _pool.submit(work, task) for i, task in enumerate(tasks) if i}
    own = {i: task() for i, task in enumerate(tasks) if i not in others or others[i].cancel()}
    return [own[i] if i in own else others[i].result() for i in range(len(tasks))]


def compiling() -> bool:
    """Whether RLHF_EDU_COMPILE=1 asks for compiled models; InputError if it says something else."""
    asked = os.environ.get("RLHF_EDU_COMPILE") or "0"
    if asked not in ("0", "1"):
        raise InputError(f"RLHF_EDU_COMPILE={asked}: allowed are 0, and 1 to compile the models")
    return asked == "1"


def check_compiler(device: str) -> None:
    """Raise InputError if models are to be compiled and nothing can be compiled for the device."""
    if not compiling():
        return
    try:
        torch.compile(torch.sin)(torch.ones(16, device=device))
    except Exception as error:
        what = "Triton and a C compiler" if device == "cuda" else "a C++ compiler, $CXX or g++"
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(
            f"RLHF_EDU_COMPILE=1: torch.compile does not work here; for {device} it needs {what}. "
            f"Install that, or unset RLHF_EDU_COMPILE. torch says: {said}"
        ) from error


def compilable(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn`; with RLHF_EDU_COMPILE=1 what torch.compile makes of it, on a GPU CUDA graphs.

    It is for a GPU, which does an operation on a model this small in less time than Python takes to
    ask for it; it has been tried on CPUs only. On one core it buys a tenth of an iteration, after a
    minute of compiling. Sums are rounded in another order: numbers agree as those of two kinds of
    CPU do. A graph writes its result where it wrote the last: who calls `fn` again has to be done
    with that, as the heads are, which are not compiled.
    """

    @cache
    def compiled() -> Callable[..., Any]:
        # A variant for each of: with and without gradients, of a policy, a critic, a reward model …
        torch._dynamo.config.cache_size_limit = 64
        return torch.compile(fn, mode="reduce-overhead")

    @wraps(fn)
    def either(*args: Any, **kwargs: Any) -> Any:
        return (compiled() if compiling() else fn)(*args, **kwargs)

    return either
