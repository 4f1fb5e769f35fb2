"""The checker's end of a worker: starts a zygote on the best rung there is, asks, and closes.

Whatever happens in there, an answer comes back here as numbers or as words that say why there are
none. When `ask` returns, nothing that the student's code has started is alive any more. One sandbox
serves many submissions, one after another, where Landlock keeps a worker from its zygote; elsewhere
`renew` starts a fresh one for each.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from rlhf_edu.grading import isolation, wire

HERE = Path(__file__).parent
START_SECONDS = 60.0  # for Python and torch, on a slow disk
FIRST_WORKER = 60000  # root's workers take a user number of their own, so that limits bind them


@dataclass(frozen=True)
class Question:
    """What a worker is asked: code, a function in it, and calls of that function."""

    file: str  # the name of the student's file, for messages
    files: dict[str, bytes]  # all that was handed in: helpers beside the file
    parts: list[str]  # its text, or the parts of it that belong to this question
    function: str
    calls: list[dict[str, Any]]  # the arguments of each call
    gradient_of: list[str] = field(default_factory=list)
    seconds: float = 10.0  # for one call
    load_seconds: float = 20.0  # for the file itself, its imports included


@dataclass(frozen=True)
class Asked:
    """What came back: an answer for each call, and the beginning of what was printed.

    An answer is {"value", "gradients", "changed"}, {"error"} or {"stopped"}. If the file could not
    be loaded, `failed` says why ({"error"}, {"stopped"} or {"missing"}) and no call was made.
    """

    answers: list[dict[str, Any]]
    printed: str
    failed: dict[str, Any] | None = None


class Sandbox:
    """A zygote on one rung of the ladder."""

    def __init__(self, level: str, hidden: list[Path], slot: int = 0) -> None:
        """`hidden` must not be readable in there."""
        self.level, self.slot = level, slot
        libraries = [str(Path(module.__file__ or "").parents[1]) for module in (torch, np)]
        self.readable = isolation.readable_places(libraries, [str(HERE.parent), *map(str, hidden)])
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def ask(self, question: Question) -> Asked:
        """All answers to one question; if the zygote is lost, the missing ones say so."""
        n, files = len(question.calls), question.files
        answers: list[dict[str, Any]] = []
        failed: dict[str, Any] | None = None
        job = {
            "level": self.level, "uid": FIRST_WORKER + self.slot if os.geteuid() == 0 else 0,
            "readable": self.readable, "files": [[name, len(files[name])] for name in files],
            "file": question.file, "parts": question.parts, "function": question.function,
            "gradient_of": question.gradient_of, "seconds": question.seconds,
            "load_seconds": question.load_seconds, "calls": n,
            "cpu_seconds": 2 * (question.load_seconds + n * question.seconds) + 10,
        }
        deadline = time.monotonic() + 3 * (question.load_seconds + n * question.seconds) + 60
        try:
            commands, replies = self._pipes()
            wire.send(commands, job, list(files.values()), deadline)
            for call in question.calls:
                blobs: list[bytes] = []
                wire.send(commands, {"arguments": wire.describe(call, blobs)}, blobs, deadline)
            while True:
                header, raw = wire.receive(replies, deadline)
                if header.get("done"):
                    if failed is not None and answers:  # it was loaded before, and now is not
                        answers += [{"stopped": "could not be loaded again"}] * (n - len(answers))
                        failed = None
                    return Asked(answers[:n], str(header.get("printed", ""))[:8192], failed)
                if isinstance(header.get("failed"), dict):
                    failed = self._read(header["failed"], memoryview(b""))
                elif isinstance(header.get("answer"), dict):
                    answers.append(self._read(header["answer"], raw))
        except (wire.WireError, TimeoutError):
            self.close()
            lost = {"stopped": "ended the process that was to run it"}
            return Asked(answers + [lost] * (n - len(answers)), "")

    def _read(self, header: dict[str, Any], raw: memoryview) -> dict[str, Any]:
        """An answer as far as it can be believed to be one."""
        if "value" not in header:
            error = header.get("error")
            if isinstance(error, dict):
                words = {k: str(error.get(k) or "")[:1000] for k in ("type", "message", "text")}
                line = error.get("line")
                return {"error": words | {"line": line if isinstance(line, int) else None}}
            if header.get("missing") is True:
                return {"missing": True}
            return {"stopped": str(header.get("stopped", "sent something that is no answer"))[:200]}
        try:
            tree = {"kind": "list", "items": [header["value"], header.get("gradients")]}
            value, gradients = wire.rebuild(tree, raw)
        except (wire.WireError, RuntimeError, TypeError, ValueError):
            return {"stopped": "sent something that is no answer"}
        changed = header.get("changed")
        return {"value": value, "gradients": gradients if isinstance(gradients, dict) else None,
                "changed": [str(c) for c in changed] if isinstance(changed, list) else []}

    def _pipes(self) -> tuple[int, int]:
        """The zygote's input and output; it is started when it is not there."""
        if self.process is None or self.process.poll() is not None:
            self.close()
            self._start()
        assert self.process is not None and self.process.stdin and self.process.stdout
        return self.process.stdin.fileno(), self.process.stdout.fileno()

    def _start(self) -> None:
        if self.level == "bubblewrap":
            files = {str(HERE / f"{name}.py"): f"/grading/{name}.py"
                     for name in ("zygote", "isolation", "wire")}
            command = isolation.bubblewrap(
                [sys.executable, "-I", "/grading/zygote.py"], self.readable, files)
            environment = None
        else:
            command = [sys.executable, "-I", str(HERE / "zygote.py")]
            environment = isolation.ENVIRONMENT
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=environment, cwd="/", start_new_session=True, bufsize=0)
        assert self.process.stdout
        try:
            wire.receive(self.process.stdout.fileno(), time.monotonic() + START_SECONDS)
        except TimeoutError:
            raise wire.WireError("the zygote does not start") from None

    def renew(self) -> None:
        """Before another student's turn: a fresh zygote, where the old one was within reach."""
        if not isolation.landlock_abi():
            self.close()

    def close(self) -> None:
        """End the zygote and everything below it."""
        if self.process is None:
            return
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()
        # Its input is closed: it ends what it has started and then itself. If not, it is killed,
        # and its workers with it (each dies with its parent; in bubblewrap the kernel ends all).
        deadline = time.monotonic() + 5
        while self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        self.process = None


