"""The process in which a student's file runs: locked in first, then the file, then the calls.

It holds neither solutions nor tolerances: there is nothing here to be read. Calls come in and
answers go out as messages (see wire.py); `python worker.py FOLDER` reads them from files in FOLDER,
for systems on which a zygote cannot fork it. `answer` is also what the checker calls to have the
right answers, so both sides differentiate alike.
Beside this file nothing of the package is to be found in there, but isolation.py and wire.py.
"""

import __future__

import contextlib
import ctypes
import importlib.abc
import io
import os
import sys
import tempfile
import traceback
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any

if __name__ == "__main__":  # the checker says where torch is: in a user's own folder, perhaps
    sys.path += [place for place in sys.argv[2:] if place not in sys.path]

import numpy as np
import torch

if __package__:
    from rlhf_edu.grading import isolation, wire
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import isolation  # type: ignore[import-not-found,no-redef]
    import wire  # type: ignore[import-not-found,no-redef]

    sys.path.pop(0)

KEEPCAPS, DAC_READ_SEARCH = 8, 2
FUTURES = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)


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
    level, uid = job["level"], job["uid"]
    os.setsid()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # should memory run out, this is the process to end
    if uid and level != "weak":
        # Limits do not bind root. Of root's powers one is kept, to read what only root may (the
        # Python in somebody's home): Landlock says what that is.
        libc = ctypes.CDLL(None)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        libc.prctl(KEEPCAPS, 1, 0, 0, 0)
        os.setresuid(uid, uid, uid)
        header, held = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        libc.capget(header, held)
        # In a container root may be without it; to keep what one has not is refused as a whole.
        keep = held[1] & 1 << DAC_READ_SEARCH if isolation.landlock_abi() else 0
        if libc.capset(header, (ctypes.c_uint32 * 6)(keep, keep, 0, 0, 0, 0)):
            raise OSError("the powers of root cannot be given up")
    isolation.die_with_parent()
    isolation.limit(int(job["cpu_seconds"]))
    if level == "weak":
        return
    if isolation.landlock_abi():
        isolation.landlock([*job["readable"], job["folder"]], [scratch, "/dev/null"])
    isolation.refuse_calls(signals=isolation.landlock_abi() < 6)


def usual_habits() -> None:
    """Put back what a file may have changed for good: no habit of an honest one costs a mark."""
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    np.seterr(all="warn")
    warnings.simplefilter("default")
    sys.setrecursionlimit(max(1000, sys.getrecursionlimit()))


def describe_error(error: BaseException, job: dict[str, Any]) -> dict[str, Any]:
    """Type, message and the last line in the student's file of what was raised there."""
    line: int | None = None
    part: str | None = None
    if isinstance(error, SyntaxError) and error.filename in job["compiled"]:
        line, part = error.lineno, error.filename
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename in job["compiled"]:
            line, part = frame.lineno, frame.filename
    lines = job["compiled"].get(part, "").split("\n")
    described = {
        "type": type(error).__name__[:100], "message": "", "line": line,
        "text": lines[line - 1].strip()[:200] if line and line <= len(lines) else None,
        "place": "its cell" if job["file"].endswith(".ipynb") else "your file"}
    with contextlib.suppress(BaseException):  # a message may be code of the student's
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        described["message"] = str(message)[:1000]
    return described


def answer(function: Callable[..., Any], arguments: dict[str, Any],
           gradient_of: list[str]) -> dict[str, Any]:
    """Call the function, and differentiate what it returns with respect to `gradient_of`.

    A single number is differentiated, and an input it does not depend on has gradient zero. With
    no gradient at all, "gradients" is None. Each input is a copy made inside the graph, so that
    code which changes its inputs in place still gets its gradient; that it did is noted.
    """
    given = {name: wire.copy(value) for name, value in arguments.items()}
    leaves = {name: given[name].requires_grad_() for name in gradient_of}
    given |= {name: leaf.clone() for name, leaf in leaves.items()}
    value = function(**given)
    changed = [name for name, value in arguments.items()
               if wire.as_bytes(given[name]) != wire.as_bytes(value)]
    gradients = None
    if leaves and isinstance(value, torch.Tensor) and value.requires_grad and value.numel() == 1:
        total = torch.Tensor.sum(value)
        found = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
        gradients = dict(zip(leaves, found, strict=True))
    return {"value": value, "gradients": gradients, "changed": changed}


def be_worker(job: dict[str, Any], scratch: str, calls: int, answers: int) -> None:
    """The life of a worker, once it is locked in: read the student's file, answer calls."""
    os.chdir(scratch)
    beside = os.path.join(job["folder"], os.path.dirname(job["file"]))
    for name in os.listdir(beside):  # data files are found where a student's own Python finds them
        with contextlib.suppress(OSError):
            os.symlink(os.path.join(beside, name), name)
    tempfile.tempdir = os.environ["TMPDIR"] = os.environ["HOME"] = scratch
    file = job["file"]

    def say(header: dict[str, Any], blobs: list[bytes]) -> None:
        wire.send(answers, header, blobs)

    for ours in ("isolation", "wire", "worker"):  # a helper of the student may be called so
        sys.modules.pop(ours, None)
    sys.meta_path.insert(0, Forbidden())
    # Last: helpers beside the file are found, torch stays torch.
    sys.path += [os.path.dirname(os.path.join(job["folder"], file)), job["folder"]]
    sys.argv = [file]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # what was printed before a crash is kept
    module = types.ModuleType("your_code")
    module.__file__ = os.path.join(job["folder"], file)
    sys.modules["your_code"] = module  # dataclasses look their module up here
    names: dict[str, Any] = module.__dict__
    # A file, or the parts of one that belong to the question: each compiled under its own name, so
    # that an error is found again.
    job["compiled"] = {f"{file}:{i}" if i else file: part for i, part in enumerate(job["parts"])}
    flags, broken = 0, None
    for name, part in job["compiled"].items():
        try:
            code = compile(part, name, "exec", flags, dont_inherit=True)
            flags |= code.co_flags & FUTURES
            exec(code, names)
        except BaseException as error:  # also SystemExit: a student's file may call exit()
            broken = broken or describe_error(error, job)
            if not file.endswith(".ipynb"):  # in a notebook the cells below can still be run
                break
    function = names.get(job["function"])
    if broken and not (file.endswith(".ipynb") and callable(function)):
        say({"error": broken}, [])
        return
    if not callable(function):
        say({"missing": True}, [])
        return
    say({"loaded": True}, [])
    while True:
        try:
            header, raw = wire.receive(calls)
        except wire.WireError:  # there are no more
            return
        arguments = wire.rebuild(header["arguments"], raw)
        blobs: list[bytes] = []
        try:
            usual_habits()
            found = answer(function, arguments, job["gradient_of"])
            found |= {what: wire.describe(found[what], blobs) for what in ("value", "gradients")}
        except BaseException as error:
            found, blobs = {"error": describe_error(error, job)}, []
        with contextlib.suppress(Exception):  # it may have been closed, or be anything by now
            sys.stdout.flush()
        say(found, blobs)


def main(folder: str) -> None:
    """A worker that nobody forked: the job and its calls are a file, and so are the answers."""
    scratch = os.path.join(folder, "scratch")
    with open(os.path.join(folder, "calls"), "rb", buffering=0) as calls:
        with open(os.path.join(folder, "answers"), "wb", buffering=0) as answers:
            job, _ = wire.receive(calls.fileno())
            be_worker(job, scratch, calls.fileno(), answers.fileno())


if __name__ == "__main__":
    main(sys.argv[1])
