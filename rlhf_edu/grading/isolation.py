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
import platform
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


# ── System calls that no answer needs, by seccomp ───────────────────────────────────────────────
# What Landlock has no word for: sockets of every kind (a desktop's own bus starts programs for
# whoever asks), memory that belongs to no process, other processes, the kernel's key rings.
PR_SET_SECCOMP, FILTER, ALLOW, REFUSE = 22, 2, 0x7FFF0000, 0x00050001  # refused: EPERM
LOAD, JUMP_EQUAL, JUMP_ABOVE, RETURN = 0x20, 0x15, 0x35, 0x06
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # where they are in what a filter is shown
REFUSED = {  # numbers on x86-64 and on 64-bit ARM
    "socket": (41, 198), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "memfd_create": (319, 279), "memfd_secret": (447, 447),
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "io_uring_setup": (425, 425), "userfaultfd": (323, 282), "bpf": (321, 280),
    "perf_event_open": (298, 241), "open_by_handle_at": (304, 265), "setpriority": (141, 140),
    "ioprio_set": (251, 30),
}
OF_ITSELF = {  # allowed for the process itself, number 0, only
    "prlimit64": (302, 261), "sched_setaffinity": (203, 122), "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
}
SIGNALS = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
}
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def seccomp_known() -> bool:
    """Whether the calls of this machine have the numbers above."""
    return FORKS and platform.machine() in MACHINES and sys.maxsize > 2**32


def refuse_calls(signals: bool) -> None:
    """From now on the calls above fail, here and in all that this process starts.

    With `signals`, so do signals to any other process: for kernels whose Landlock lets them out.
    """
    if not seccomp_known():
        return
    column, architecture = MACHINES[platform.machine()]
    tests = [(JUMP_EQUAL, numbers[column]) for numbers in REFUSED.values()]
    if column == 0:  # the x32 calls, which are the same ones under other numbers
        tests.append((JUMP_ABOVE, 0x40000000))
    selves = [(numbers[column], 0) for numbers in OF_ITSELF.values()]
    if signals:
        selves += [(numbers[column], os.getpid()) for numbers in SIGNALS.values()]
    code = [(LOAD, 0, 0, ARCHITECTURE), (JUMP_EQUAL, 1, 0, architecture), (RETURN, 0, 0, REFUSE),
            (LOAD, 0, 0, NUMBER)]
    for test, number in tests:
        code += [(test, 0, 1, number), (RETURN, 0, 0, REFUSE)]
    for number, itself in selves:
        code += [(JUMP_EQUAL, 0, 4, number), (LOAD, 0, 0, FIRST_ARGUMENT),
                 (JUMP_EQUAL, 0, 1, itself), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
    code.append((RETURN, 0, 0, ALLOW))
    words = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    program = struct.pack("HP", len(code), ctypes.addressof(words))
    libc = _libc()
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(PR_SET_SECCOMP, FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp takes no filter")


def zygote_in_reach() -> bool:
    """Whether a worker could do something to the process that it was forked from."""
    if os.geteuid() == 0:  # its worker is another user
        return landlock_abi() == 0
    return landlock_abi() == 0 or not seccomp_known()


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


def die_with_parent(by: int = signal.SIGKILL) -> None:
    """This process gets a signal when the one that started it ends. A change of user undoes it."""
    if FORKS:
        _libc().prctl(PR_SET_PDEATHSIG, by, 0, 0, 0)


def end_all_with_parent() -> None:
    """When the process that started this one ends, so does this one, with everything below it."""

    def end(*_: object) -> None:
        end_all()
        os._exit(1)

    signal.signal(signal.SIGTERM, end)
    become_subreaper()
    die_with_parent(signal.SIGTERM)


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


def remove(folder: str) -> None:
    """Remove a folder, whatever a student's code has made of it."""
    with contextlib.suppress(RecursionError):  # folders in folders in folders
        shutil.rmtree(folder, ignore_errors=True)
    if os.path.lexists(folder):  # or some that may not be entered
        for command in (["chmod", "-R", "u+rwx", folder], ["rm", "-rf", folder]):
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                           check=False)


def used_below() -> tuple[int, float]:
    """What all processes below this one use: bytes of memory, seconds of computing."""
    total, seconds = 0, 0.0
    ticks = os.sysconf("SC_CLK_TCK")
    for pid in descendants():
        with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status") as file:
            total += 1024 * sum(int(line.split()[1]) for line in file
                                if line.startswith(("RssAnon:", "RssShmem:")))
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
