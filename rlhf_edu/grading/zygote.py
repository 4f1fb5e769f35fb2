"""The process from which workers are forked: torch is imported once, before any student's code.

    checker  ⇄  zygote  ⇄  worker (one a question: forked, locked in, then the student's file)

Started as a plain script, `python -I zygote.py`, with the checker at its standard input and output.
It hands each call to the worker and the answer back, ends a worker that takes too long or too much
memory, replaces one that died, and, when a question is done, ends everything that the student's
code has started. It knows neither solutions nor tolerances: there is nothing here to be read.

The worker sees the student's folder (read-only), Python, and a folder of its own for scratch files.
Its standard output is read as it comes; the first 4 kB are kept, the rest is thrown away.
Left out: more than one question at a time; a checker starts as many zygotes as it wants.
"""

import contextlib
import ctypes
import importlib.abc
import os
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import isolation  # type: ignore[import-not-found]  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import wire  # type: ignore[import-not-found]  # noqa: E402

sys.path.pop(0)

PRINTED = 4096  # bytes of what a student's code prints that are kept
REPLACED = 2  # workers that a question may use up before its other calls are not made
KEEPCAPS, DAC_READ_SEARCH = 8, 2


# ── In the worker ───────────────────────────────────────────────────────────────────────────────
class Forbidden(importlib.abc.MetaPathFinder):
    """The package holds the answers to most exercises, so it is not to be had here."""

    def find_spec(self, name: str, path: Sequence[str] | None = None,
                  target: types.ModuleType | None = None) -> None:
        """Refuse rlhf_edu with a message for people; leave all else to others."""
        if name.partition(".")[0] == "rlhf_edu":
            raise ImportError(f"{name} is not there while your code is graded: the exercise is to "
                              "write it yourself")


def lock_in(job: dict[str, Any], scratch: str) -> None:
    """Give up every right that the question does not need."""
    os.chdir(scratch)
    tempfile.tempdir = os.environ["TMPDIR"] = os.environ["HOME"] = scratch
    level, uid = job["level"], job["uid"]
    os.setsid()
    isolation.die_with_parent()
    if uid and level != "weak":
        # Limits do not bind root. Of root's powers one is kept, to read what only root may (the
        # Python in somebody's home): Landlock says what that is.
        libc = ctypes.CDLL(None)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        libc.prctl(KEEPCAPS, 1, 0, 0, 0)
        os.setresuid(uid, uid, uid)
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        keep = 1 << DAC_READ_SEARCH if isolation.landlock_abi() else 0
        libc.capset(header, (ctypes.c_uint32 * 6)(keep, keep, 0, 0, 0, 0))
    isolation.limit(int(job["cpu_seconds"]))
    if level != "weak" and isolation.landlock_abi():
        isolation.landlock([*job["readable"], job["folder"]], [scratch, "/dev/null"])


def usual_habits() -> None:
    """Put back what a file may have changed for good: no habit of an honest one costs a mark."""
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    np.seterr(all="warn")
    warnings.simplefilter("default")
    sys.setrecursionlimit(1000)


def describe_error(error: BaseException, file: str) -> dict[str, Any]:
    """Type, message and the last line in the student's file of what was raised there."""
    line, text = None, None
    if isinstance(error, SyntaxError) and error.filename == file:
        line, text = error.lineno, error.text
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == file:
            line, text = frame.lineno, frame.line
    with contextlib.suppress(BaseException):  # a message may be code of the student's
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        return {"type": type(error).__name__[:100], "message": str(message)[:1000], "line": line,
                "text": str(text).strip()[:200] if text else None}
    return {"type": type(error).__name__[:100], "message": "", "line": line, "text": None}


def as_bytes(value: Any) -> bytes:
    """A value as it would travel: equal bytes, equal values."""
    blobs: list[bytes] = []
    return bytes(wire.message(wire.describe(value, blobs), blobs))


def answer(function: Callable[..., Any], arguments: dict[str, Any], gradient_of: list[str],
           blobs: list[bytes]) -> dict[str, Any]:
    """Call the function, and differentiate what it returns with respect to `gradient_of`.

    A single number is differentiated, and an input it does not depend on has gradient zero. With
    no gradient at all, "gradients" is None. Each input is a copy made inside the graph, so that
    code which changes its inputs in place still gets its gradient; that it did is noted.
    """
    leaves = {name: arguments[name].clone().requires_grad_() for name in gradient_of}
    given = arguments | {name: leaf.clone() for name, leaf in leaves.items()}
    before = {name: as_bytes(v) for name, v in given.items()}
    value = function(**given)
    changed = [name for name, v in given.items() if as_bytes(v) != before[name]]
    gradients = None
    if leaves and isinstance(value, torch.Tensor) and value.requires_grad and value.numel() == 1:
        total = torch.Tensor.sum(value)
        found = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
        gradients = dict(zip(leaves, found, strict=True))
    return {"value": wire.describe(value, blobs), "gradients": wire.describe(gradients, blobs),
            "changed": changed}


def be_worker(job: dict[str, Any], scratch: str, calls: int, answers: int) -> None:
    """The life of a worker: lock itself in, read the student's file, answer calls."""
    lock_in(job, scratch)
    file = job["file"]

    def say(header: dict[str, Any], blobs: list[bytes]) -> None:
        wire.send(answers, header, blobs)

    sys.meta_path.insert(0, Forbidden())
    sys.path.append(job["folder"])  # last: helpers beside the file are found, torch stays torch
    sys.argv = [file]
    module = types.ModuleType("student")
    module.__file__ = file
    sys.modules["student"] = module  # dataclasses look their module up here
    names: dict[str, Any] = module.__dict__
    try:
        for part in job["parts"]:  # a file, or the parts of one that belong to the question
            exec(compile(part, file, "exec"), names)
    except BaseException as error:  # also SystemExit: a student's file may call exit()
        say({"error": describe_error(error, file)}, [])
        return
    function = names.get(job["function"])
    if not callable(function):
        say({"missing": True}, [])
        return
    say({"loaded": True}, [])
    while True:
        header, raw = wire.receive(calls)
        arguments = wire.rebuild(header["arguments"], raw)
        blobs: list[bytes] = []
        try:
            usual_habits()
            found = answer(function, arguments, job["gradient_of"], blobs)
            sys.stdout.flush()
        except BaseException as error:
            found, blobs = {"error": describe_error(error, file)}, []
        say(found, blobs)


# ── In the zygote ───────────────────────────────────────────────────────────────────────────────
class Worker:
    """A forked worker: its process, the pipes to it, and what it prints."""

    def __init__(self, job: dict[str, Any], scratch: str, printed: bytearray) -> None:
        to_worker, from_worker, output = os.pipe(), os.pipe(), os.pipe()
        self.job, self.printed = job, printed
        self.calls, self.answers, self.output = to_worker[1], from_worker[0], output[0]
        self.pid = os.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                null = os.open("/dev/null", os.O_RDWR)
                os.dup2(null, 0)
                os.dup2(output[1], 1)
                os.dup2(output[1], 2)
                # High numbers, and everything else closed: the checker's pipe among it.
                calls, answers = 200, 201
                os.dup2(to_worker[0], calls)
                os.dup2(from_worker[1], answers)
                os.closerange(3, calls)
                os.closerange(answers + 1, 4096)
                be_worker(job, scratch, calls, answers)
                sys.stdout.flush()
            os._exit(0)
        for fd in (to_worker[0], from_worker[1], output[1]):
            os.close(fd)
        os.set_blocking(self.output, False)

    def hear(self, seconds: float) -> tuple[dict[str, Any], memoryview] | str:
        """The next message of the worker; or why there is none, in words."""
        deadline, looked = time.monotonic() + seconds, 0.0
        while True:
            now = time.monotonic()
            if now > deadline:
                return f"was still running after {seconds:g} seconds: is there a loop without end?"
            if now - looked > 0.2:
                looked = now
                if isolation.memory_below() > 1.5 * isolation.MEMORY:
                    return f"took more than {isolation.MEMORY // 2**30} GB of memory"
            ready, _, _ = select.select([self.answers, self.output], [], [], 0.05)
            if self.output in ready:
                self._drain()
            if self.answers not in ready:
                continue
            try:
                # What is read in bits and pieces must come quickly: a worker could stop half-way.
                return wire.receive(self.answers, min(deadline, time.monotonic() + 10))
            except TimeoutError:
                return "stopped in the middle of an answer"
            except wire.WireError:
                return self._how_it_ended()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            part = os.read(self.output, 65536)
            self.printed += part[: max(0, PRINTED + 1 - len(self.printed))]

    def _how_it_ended(self) -> str:
        self._drain()
        with contextlib.suppress(ChildProcessError):
            for _ in range(20):
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    code = os.waitstatus_to_exitcode(status)
                    if code == -signal.SIGXCPU or code == -signal.SIGKILL:
                        return "used up its time, or its memory"
                    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with code {code}"
                    return f"ended its Python process {how}"
                time.sleep(0.05)
        return "sent something that is no answer"

    def end(self) -> None:
        """Kill the worker and all that it has started."""
        for _ in range(4):
            self._drain()
        isolation.end_all()
        for fd in (self.calls, self.answers, self.output):
            os.close(fd)


def write_files(folder: str, files: list[tuple[str, int]], content: memoryview) -> None:
    """What was handed in, for the worker to read."""
    for name, size in files:
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content[:size])
        content = content[size:]
    for where, _, _ in os.walk(folder):
        os.chmod(where, 0o755)


def question(job: dict[str, Any], content: memoryview, calls: list[tuple[Any, bytes]],
             reply: Callable[[dict[str, Any], memoryview | bytes], None]) -> None:
    """All calls of one question, an answer to each, and at the end what was printed."""
    printed, worker, lost = bytearray(), None, 0
    job["folder"] = tempfile.mkdtemp()
    write_files(job["folder"], job["files"], content)
    for arguments, raw in calls:
        if lost > REPLACED:
            reply({"answer": {"stopped": "was not called: it had run into trouble before"}}, b"")
            continue
        if worker is None:
            scratch = tempfile.mkdtemp()
            if job["uid"]:
                os.chown(scratch, job["uid"], job["uid"])
            worker = Worker(job, scratch, printed)
            heard = worker.hear(job["load_seconds"])
            if isinstance(heard, str) or "loaded" not in heard[0]:
                worker.end()
                shutil.rmtree(scratch, ignore_errors=True)
                worker = None
                reply({"failed": {"stopped": heard} if isinstance(heard, str) else heard[0]}, b"")
                break
        try:
            wire.send(worker.calls, {"arguments": arguments}, [raw], time.monotonic() + 10)
            heard = worker.hear(job["seconds"])
        except (wire.WireError, TimeoutError):
            heard = "did not take its input"
        if isinstance(heard, str):
            reply({"answer": {"stopped": heard}}, b"")
            worker.end()
            shutil.rmtree(scratch, ignore_errors=True)
            worker, lost = None, lost + 1
        else:
            reply({"answer": heard[0]}, heard[1])
    if worker is not None:
        worker.end()
        shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(job["folder"], ignore_errors=True)
    reply({"done": True, "printed": printed.decode(errors="replace")}, b"")


def main() -> None:
    """Questions from the checker, one after another, until it hangs up."""
    torch.set_num_threads(1)
    isolation.become_subreaper()
    isolation.die_with_parent()
    commands, replies = os.dup(0), os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    wire.send(replies, {"ready": True}, [])
    while True:
        try:
            job, content = wire.receive(commands)
            calls = []
            for _ in range(job["calls"]):
                header, raw = wire.receive(commands)
                calls.append((header["arguments"], bytes(raw)))
        except wire.WireError:
            return
        question(job, content, calls, lambda header, raw: wire.send(replies, header, [bytes(raw)]))


if __name__ == "__main__":
    main()
