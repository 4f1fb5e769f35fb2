"""The isolation ladder: how a student's code is kept from everything but its own question.

    bubblewrap   namespaces of its own for files, processes, network and users; Landlock inside
    landlock     the kernel's file and network rules, limits, and an end to every descendant
    weak         limits and an end to every descendant: not safe against a hostile student

Every rung has rlimits (memory, processes, files, output) and a sub-reaper, so that what a student's
code starts and leaves behind is found and ended. `probe` tries the rungs from the top, for real.
This file is read by the worker too, beside which nothing else of the package is to be found: it
imports the standard library only. Linux alone has the first two rungs.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

with contextlib.suppress(ImportError):  # there is none on Windows
    import resource

# Elsewhere there is no fork, or none that torch survives, and no /proc to look processes up in.
FORKS = sys.platform.startswith("linux")
MEMORY = 2**30  # bytes that one question may use beyond what torch has taken
PROCESSES = 64  # and threads, of one question
FILE_SIZE = 64 * 2**20  # bytes of a file that it writes
OPEN_FILES = 256
ENVIRONMENT = {  # of a worker, and nothing else of the grader's own
    "PATH": "/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
}

# ── Landlock, by system call: the C library has no functions for it ─────────────────────────────
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
BY_ABI = {1: 0x1FFF, 2: 0x3FFF, 3: 0x7FFF, 4: 0x7FFF, 5: 0xFFFF}  # file rights that a kernel knows
READ = EXECUTE | READ_FILE | READ_DIR
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | 0x4000 | 0x8000  # rights that a file can have
TCP, SIGNALS_AND_SOCKETS = 3, 3  # bind and connect; abstract sockets and signals to the outside
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def landlock_abi() -> int:
    """The version of Landlock that this kernel offers; 0 for none."""
    if not FORKS:
        return 0
    return max(0, int(_libc().syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)))


def landlock(readable: list[str], writable: list[str]) -> None:
    """From now on this process and all it starts may read and write these paths, and no others.

    Neither may it open TCP connections, nor signal processes outside, where the kernel can tell.
    """
    abi, libc = landlock_abi(), _libc()
    rights = BY_ABI[min(abi, 5)]
    scopes = SIGNALS_AND_SOCKETS if abi >= 6 else 0
    attr = struct.pack("QQQ", rights, TCP if abi >= 4 else 0, scopes)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = libc.syscall(CREATE_RULESET, attr, ctypes.c_size_t(size), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "Landlock makes no ruleset")
    for paths, allowed in ((readable, READ), (writable, rights)):
        for path in paths:
            try:
                where = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                continue
            if not os.path.isdir(path):
                allowed_here = allowed & OF_FILES & rights
            else:
                allowed_here = allowed & rights
            rule = struct.pack("=Qi", allowed_here, where)
            if libc.syscall(ADD_RULE, ruleset, 1, rule, 0):
                raise OSError(ctypes.get_errno(), f"Landlock takes no rule for {path}")
            os.close(where)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.syscall(RESTRICT_SELF, ruleset, 0):
        raise OSError(ctypes.get_errno(), "Landlock does not restrict this process")
    os.close(ruleset)


# ── Limits, and an end to everything ────────────────────────────────────────────────────────────
def limit(seconds: int) -> None:
    """Limits of memory, processes, files and CPU time for this process and all it starts."""
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    for which, most in (
        (resource.RLIMIT_AS, taken + MEMORY),
        (resource.RLIMIT_NPROC, _tasks_of(os.getuid()) + PROCESSES),
        (resource.RLIMIT_FSIZE, FILE_SIZE),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
    ):
        hard = resource.getrlimit(which)[1]
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(which, (most, most))


def _tasks_of(uid: int) -> int:
    """Processes and threads of a user now: the limit counts them all."""
    count = 0
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and os.stat(f"/proc/{entry}").st_uid == uid:
                count += len(os.listdir(f"/proc/{entry}/task"))
    return count


def become_subreaper() -> None:
    """Descendants whose parent has died become children of this process; it dies with its own."""
    if FORKS:
        _libc().prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent() -> None:
    """This process is killed when the one that started it ends."""
    if FORKS:
        _libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def descendants() -> list[int]:
    """All processes below this one."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError), open(f"/proc/{entry}/stat") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry))
    found, todo = [], [os.getpid()]
    while todo:
        below = parents.get(todo.pop(), [])
        found += below
        todo += below
    return found


def how_it_ended(code: int) -> str:
    """The end of a process in words, from its exit code; a signal is a number below 0."""
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return f"ended its Python process {how}"


def end_all() -> None:
    """Kill everything below this process until nothing is left, and collect it."""
    while True:
        below = descendants()
        for pid in below:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        while True:
            try:
                if os.waitpid(-1, os.WNOHANG)[0] == 0:
                    break
            except ChildProcessError:
                break
        if not below:
            return


def used_below() -> tuple[int, float]:
    """What all processes below this one use: bytes of memory of their own, seconds of computing."""
    total, seconds = 0, 0.0
    page, ticks = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    for pid in descendants():
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/statm") as file:
            resident, shared = map(int, file.read().split()[1:3])
            total += (resident - shared) * page
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/stat") as file:
            # Its own time, and that of its children that have ended.
            times = file.read().rpartition(")")[2].split()[11:15]
            seconds += sum(map(int, times)) / ticks
    return total, seconds


# ── The rungs ───────────────────────────────────────────────────────────────────────────────────
def readable_places(also: list[str], without: list[str]) -> list[str]:
    """What a Python needs to read, and `also`, less what it must not (`without`).

    Landlock allows and never forbids, so a folder with something forbidden in it is allowed entry
    by entry.
    """
    places = {os.path.realpath(p) for p in (
        sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache",
        "/etc/localtime", "/etc/nsswitch.conf", "/dev/urandom", "/dev/zero", "/dev/random",
        "/proc", "/sys/devices/system/cpu", *also)}
    hidden = [os.path.realpath(p) for p in without]
    allowed = []
    while places:
        place = places.pop()
        if any(place == h or place.startswith(h + os.sep) for h in hidden):
            continue
        if any(h.startswith(place + os.sep) for h in hidden):
            with contextlib.suppress(OSError):
                places |= {os.path.join(place, entry) for entry in os.listdir(place)
                           if not os.path.islink(os.path.join(place, entry))}
            continue
        allowed.append(place)
    return sorted(allowed)


def bubblewrap(inside: list[str], readable: list[str], extra: dict[str, str]) -> list[str]:
    """The command that runs `inside` in namespaces of its own.

    `readable` are paths that keep their place, read-only; `extra` are files that get another one.
    Root needs no user namespace, and its worker takes another user's number by itself; for anybody
    else the new namespace is the last one that can be made inside.
    """
    words = [shutil.which("bwrap") or "bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc",
             "--unshare-uts", "--unshare-cgroup-try", "--cap-drop", "ALL", "--new-session",
             "--die-with-parent", "--clearenv", "--hostname", "grader", "--proc", "/proc",
             "--dev", "/dev", "--size", str(4 * FILE_SIZE), "--tmpfs", "/tmp"]
    if os.geteuid() == 0:
        for power in ("SETUID", "SETGID", "KILL", "CHOWN", "DAC_READ_SEARCH", "DAC_OVERRIDE"):
            words += ["--cap-add", f"CAP_{power}"]
    else:
        words += ["--unshare-user", "--disable-userns"]
    for name, value in ENVIRONMENT.items():
        words += ["--setenv", name, value]
    for path in readable:
        if not path.startswith(("/dev/", "/proc")):
            words += ["--ro-bind-try", path, path]
    for link in ("/lib", "/lib64", "/bin"):  # on most systems links into /usr
        if os.path.islink(link):
            words += ["--symlink", os.readlink(link), link]
    for source, target in extra.items():
        words += ["--ro-bind", source, target]
    return [*words, "--chdir", "/tmp", "--", *inside]


def probe() -> str:
    """The highest rung that works here, by trying each."""
    if not FORKS:
        return "weak"
    if shutil.which("bwrap"):
        command = bubblewrap(["/usr/bin/env", "true"], readable_places([], []), {})
        tried = subprocess.run(command, capture_output=True, check=False)
        if tried.returncode == 0:
            return "bubblewrap"
    if landlock_abi() > 0:
        code = "import sys; sys.path.insert(0, sys.argv[1]); import isolation; " \
               "isolation.landlock(['/usr'], []); open('/etc/hostname')"
        tried = subprocess.run([sys.executable, "-I", "-c", code, str(Path(__file__).parent)],
                               capture_output=True, check=False)
        if b"PermissionError" in tried.stderr:
            return "landlock"
    return "weak"
