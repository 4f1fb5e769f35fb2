"""The process from which workers are forked: torch is imported once, before any student's code.

    checker  ⇄  zygote, forked for each question  ⇄  worker (forked, locked in, then the file)

Started as a plain script, `python -I zygote.py`, with the checker at its standard input and output.
It hands each call to the worker and the answer back, ends a worker that takes too long or too much
memory, replaces one that died, and, when a question is done, ends everything that the student's
code has started. It knows neither solutions nor tolerances: there is nothing here to be read.

The worker sees the student's folder (read-only), Python, and a folder of its own for scratch files.
Its standard output is read as it comes; the first 4 kB are kept, the rest is thrown away.
Left out: more than one question at a time; a checker starts as many zygotes as it wants.
"""

import contextlib
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

# The checker says where torch is: in a user's own folder, perhaps.
sys.path += [place for place in sys.argv[1:] if place not in sys.path]
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import isolation  # type: ignore[import-not-found]  # noqa: E402
import torch  # noqa: E402
import wire  # type: ignore[import-not-found]  # noqa: E402
from worker import be_worker, lock_in  # type: ignore[import-not-found]  # noqa: E402

sys.path.pop(0)

PRINTED = 4096  # bytes of what a student's code prints that are kept
WAIT = 4  # times the seconds of computing that may pass on the clock
TOO_MUCH = f"took more than {isolation.MEMORY // 2**30} GB of memory"


class Worker:
    """A forked worker: its process, the pipes to it, and what it prints."""

    def __init__(self, job: dict[str, Any], scratch: str, printed: bytearray) -> None:
        to_worker, from_worker, output = os.pipe(), os.pipe(), os.pipe()
        self.job, self.printed, self.flood, self.looked = job, printed, 0, 0.0
        self.calls, self.answers, self.output = to_worker[1], from_worker[0], output[0]
        self.pid = os.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
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
                lock_in(job, scratch)
                be_worker(job, scratch, calls, answers)
                sys.stdout.flush()
            os._exit(0)
        for fd in (to_worker[0], from_worker[1], output[1]):
            os.close(fd)
        os.set_blocking(self.output, False)

    def hear(self, seconds: float) -> tuple[dict[str, Any], memoryview] | str:
        """The next message of the worker; or why there is none, in words.

        The limit is on seconds of computing, so that a busy machine costs nobody a mark; one who
        computes nothing has WAIT times as long.
        """
        began, looked, already = time.monotonic(), 0.0, 0.0
        deadline = began + WAIT * seconds
        while True:
            now = time.monotonic()
            if now > deadline:
                return f"had not answered after {WAIT * seconds:g} seconds: does it wait for " \
                       "something?"
            if now - looked > wire.LOOK:
                memory, computed = isolation.used_below()
                already, looked = already if looked else computed, now
                if computed - already > seconds and now - began > seconds:
                    return f"was still running after {seconds:g} seconds: is there a loop " \
                           "without end?"
                if memory > 1.5 * isolation.MEMORY:
                    return TOO_MUCH
                if self.flood > self.job["most_printed"]:
                    megabytes = self.job["most_printed"] // 1_000_000
                    return f"printed more than {megabytes} MB: is there a loop without end?"
            ready, _, _ = select.select([self.answers, self.output], [], [], 0.05)
            if self.output in ready:
                self._drain()
            if self.answers not in ready:
                continue
            try:
                # What is read in bits and pieces must come quickly: a worker could stop half-way.
                return wire.receive(self.answers, min(deadline, time.monotonic() + 10),
                                    self._too_much)
            except wire.Unwanted:
                return TOO_MUCH
            except TimeoutError:
                return "stopped in the middle of an answer"
            except wire.WireError:
                return self._how_it_ended()

    def _too_much(self) -> bool:
        """Whether the worker and all it has started hold more memory than they may."""
        if time.monotonic() < self.looked + wire.LOOK:
            return False
        self.looked = time.monotonic()
        return bool(isolation.used_below()[0] > 1.5 * isolation.MEMORY)

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            part = os.read(self.output, 65536)
            self.flood += len(part)
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
                    return isolation.how_it_ended(code)
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
        if lost == job["chances"]:
            reply({"answer": {"stopped": wire.NOT_CALLED}}, b"")
            continue
        if worker is None:
            scratch = tempfile.mkdtemp()
            if job["uid"]:
                os.chown(scratch, job["uid"], job["uid"])
            worker = Worker(job, scratch, printed)
            heard = worker.hear(job["load_seconds"])
            if isinstance(heard, str) or "loaded" not in heard[0]:
                worker.end()
                isolation.remove(scratch)
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
            isolation.remove(scratch)
            worker, lost = None, lost + 1
        else:
            reply({"answer": heard[0]}, heard[1])
    if worker is not None:
        worker.end()
        isolation.remove(scratch)
    isolation.remove(job["folder"])
    reply({"done": True, "printed": printed.decode(errors="replace")}, b"")


def one_question(commands: int, replies: int) -> None:
    """Read a question and answer it."""
    isolation.end_all_with_parent()
    job, content = wire.receive(commands)
    calls = []
    for _ in range(job["calls"]):
        header, raw = wire.receive(commands)
        calls.append((header["arguments"], bytes(raw)))
    question(job, content, calls, lambda header, raw: wire.send(replies, header, [bytes(raw)]))


def main() -> None:
    """Questions from the checker, one after another, until it hangs up.

    Each is read by a process of its own. What one student handed in never comes into the memory
    that another one's worker is a copy of, and could be searched there.
    """
    torch.set_num_threads(1)
    isolation.end_all_with_parent()
    commands, replies = os.dup(0), os.dup(1)
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    wire.send(replies, {"ready": True}, [])
    while True:
        select.select([commands], [], [])
        pid = os.fork()
        if pid == 0:
            code = 1
            with contextlib.suppress(BaseException):
                one_question(commands, replies)
                code = 0
            os._exit(code)
        ended = os.waitpid(pid, 0)[1]
        isolation.end_all()
        if ended:  # the checker has hung up, or does not know what it can believe
            return


if __name__ == "__main__":
    main()
