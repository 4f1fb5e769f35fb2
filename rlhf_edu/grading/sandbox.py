"""The checker's end of a worker: starts a zygote on the best rung there is, asks, and closes.

Whatever happens in there, an answer comes back here as numbers or as words that say why there are
none. When `ask` returns, nothing that the student's code has started is alive any more. One sandbox
serves many submissions, one after another, where Landlock keeps a worker from its zygote; elsewhere
`renew` starts a fresh one for each.
Only Linux has what a zygote needs. On other systems each question gets a Python of its own, which
is slower, and what the student's code leaves running there is not found.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
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
    seconds: float = 10.0  # of computing, for one call
    load_seconds: float = 20.0  # the same for the file itself, its imports included
    chances: int = 3  # workers that may be lost before the other calls are not made
    most_printed: int = 10**12  # bytes; what is beyond the first 4 kB is thrown away


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
    """A place on one rung of the ladder where students' code is run."""

    def __init__(self, level: str, hidden: list[Path], slot: int = 0) -> None:
        """`hidden` must not be readable in there."""
        self.level, self.slot = level, slot
        self.libraries = [str(Path(module.__file__ or "").parents[1]) for module in (torch, np)]
        self.readable = isolation.readable_places(
            self.libraries, [str(HERE.parent), *map(str, hidden)]) if isolation.FORKS else []
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def ask(self, question: Question) -> Asked:
        """All answers to one question; if the zygote is lost, the missing ones say so."""
        job = {
            "level": self.level, "readable": self.readable,
            "uid": FIRST_WORKER + self.slot if isolation.FORKS and os.geteuid() == 0 else 0,
            "files": [[name, len(content)] for name, content in question.files.items()],
            "calls": len(question.calls),
            "cpu_seconds": 2 * (question.load_seconds + len(question.calls) * question.seconds)
            + 10,
        } | {name: getattr(question, name) for name in (
            "file", "parts", "function", "gradient_of", "seconds", "load_seconds", "chances",
            "most_printed")}
        return (self._ask_zygote if isolation.FORKS else self._ask_alone)(question, job)

    def _ask_zygote(self, question: Question, job: dict[str, Any]) -> Asked:
        n = len(question.calls)
        answers: list[dict[str, Any]] = []
        failed: dict[str, Any] | None = None
        deadline = time.monotonic() + 5 * (question.load_seconds + n * question.seconds) + 60
        try:
            commands, replies = self._pipes()
            wire.send(commands, job, list(question.files.values()), deadline)
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

    def _ask_alone(self, question: Question, job: dict[str, Any]) -> Asked:
        """The same without a zygote: files in place of pipes, a new Python in place of a fork."""
        answers: list[dict[str, Any]] = []
        printed, lost = "", 0
        while len(answers) < len(question.calls):
            if lost == question.chances:
                answers.append({"stopped": wire.NOT_CALLED})
                continue
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
                folder = Path(name)
                (folder / "scratch").mkdir()
                for file, content in question.files.items():
                    (folder / "files" / file).parent.mkdir(parents=True, exist_ok=True)
                    (folder / "files" / file).write_bytes(content)
                with (folder / "calls").open("wb") as calls:
                    calls.write(wire.message(job | {"folder": str(folder / "files")}, []))
                    for call in question.calls[len(answers):]:
                        blobs: list[bytes] = []
                        tree = wire.describe(call, blobs)
                        calls.write(wire.message({"arguments": tree}, blobs))
                (folder / "answers").touch()
                stopped = self._run_alone(question, folder)
                with (folder / "printed").open("rb") as said:
                    printed += said.read(4097).decode(errors="replace")
                heard = list(self._messages(folder / "answers"))
            first = heard.pop(0)[0] if heard else {"stopped": stopped}
            if "loaded" not in first and not answers:
                return Asked([], printed, self._read(first, memoryview(b"")))
            if "loaded" not in first:
                heard, stopped = [], "could not be loaded again"
            answers += [self._read(header, raw) for header, raw in heard]
            if len(answers) < len(question.calls):
                answers.append({"stopped": stopped})
                lost += 1
        return Asked(answers[:len(question.calls)], printed[:8192])

    def _run_alone(self, question: Question, folder: Path) -> str:
        """Run worker.py until it ends by itself or must be stopped; how it ended, in words."""
        threads = {name: value for name, value in isolation.ENVIRONMENT.items() if value == "1"}
        with (folder / "printed").open("wb") as printed:
            process = subprocess.Popen(
                [sys.executable, "-I", "-X", "utf8", "-u", str(HERE / "worker.py"), str(folder),
                 *self.libraries], stdin=subprocess.DEVNULL, stdout=printed,
                stderr=subprocess.STDOUT, cwd=folder / "scratch", env=os.environ | threads)
        heard, seconds = 0, START_SECONDS + question.load_seconds
        deadline = time.monotonic() + seconds
        try:
            while process.poll() is None:
                if (size := (folder / "answers").stat().st_size) > heard:
                    heard, seconds = size, question.seconds
                    deadline = time.monotonic() + seconds
                if time.monotonic() > deadline:
                    return (f"was still running after {seconds:g} seconds: is there a loop "
                            "without end?")
                if (folder / "printed").stat().st_size > min(question.most_printed, 10**9):
                    megabytes = min(question.most_printed, 10**9) // 1_000_000
                    return f"printed more than {megabytes} MB: is there a loop without end?"
                time.sleep(0.02)
            return isolation.how_it_ended(process.returncode)
        finally:
            process.kill()
            process.wait()

    def _messages(self, file: Path) -> Iterator[tuple[dict[str, Any], memoryview]]:
        """The whole messages in a file; a last one without its end was cut off."""
        with file.open("rb", buffering=0) as messages, contextlib.suppress(wire.WireError):
            while True:
                yield wire.receive(messages.fileno())

    def _read(self, header: dict[str, Any], raw: memoryview) -> dict[str, Any]:
        """An answer as far as it can be believed to be one."""
        if "value" not in header:
            error = header.get("error")
            if isinstance(error, dict):
                words = {name: str(error.get(name) or "")[:1000]
                         for name in ("type", "message", "text", "place")}
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
        changed = [str(name)[:100] for name in changed[:20]] if isinstance(changed, list) else []
        return {"value": value, "gradients": gradients if isinstance(gradients, dict) else None,
                "changed": changed}

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
                     for name in ("zygote", "worker", "isolation", "wire")}
            command = isolation.bubblewrap(
                [sys.executable, "-I", "/grading/zygote.py", *self.libraries], self.readable, files)
            environment = None
        else:
            command = [sys.executable, "-I", str(HERE / "zygote.py"), *self.libraries]
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
        if isolation.FORKS and isolation.zygote_in_reach():
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


