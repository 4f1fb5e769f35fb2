"""The grader: fair to the honest, closed to the rest.

tests/submissions/ holds hostile, broken and merely unlucky submissions to the assignment in
tests/grading_fixture/. The line `# FAIR q1=lo..hi …` of each says which points are fair.
"""

import csv
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch

from rlhf_edu import InputError
from rlhf_edu.cli import main
from rlhf_edu.grading import bank, classroom, isolation, kinds, wire
from rlhf_edu.grading.assignment import SOLUTIONS, load_assignment
from rlhf_edu.grading.bank import right_answer
from rlhf_edu.grading.classroom import late_score
from rlhf_edu.grading.grade import grade_submission, new_sandbox
from rlhf_edu.grading.report import terminal, write_html
from rlhf_edu.grading.sandbox import Question
from rlhf_edu.grading.submission import Submission, as_text, find_code, read_submission

HERE = Path(__file__).parent
FIXTURE, KINDS_FIXTURE = HERE / "grading_fixture", HERE / "grading_kinds"
SUBMISSIONS = sorted((HERE / "submissions").glob("*.py"))
LEVEL = isolation.probe()
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
WRAP = pytest.mark.skipif(LEVEL != "bubblewrap", reason="bubblewrap is not installed, or may not "
                                                        "make namespaces here")
LOCK = pytest.mark.skipif(isolation.landlock_abi() == 0, reason="this kernel has no Landlock")

pytestmark = LINUX


@pytest.fixture(scope="module")
def tasks():
    return load_assignment(FIXTURE)


@pytest.fixture(scope="module", params=[pytest.param("bubblewrap", marks=WRAP),
                                        pytest.param("landlock", marks=LOCK)])
def sandbox(request, tasks):
    with new_sandbox(request.param, tasks, slot=7) as box:
        yield box


@pytest.fixture(scope="module")
def best(tasks):
    """One sandbox on the best rung there is, for tests that are not about the rung."""
    with new_sandbox(LEVEL, tasks, slot=8) as box:
        yield box


def grade_path(path, *rest):
    return grade_submission(read_submission(path), *rest)


def scores(report):
    return {q["name"]: q["score"] for q in report["questions"]}


# ── Hostile, broken, unlucky ────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("file", SUBMISSIONS, ids=lambda path: path.stem)
def test_a_submission_gets_what_is_fair(file, sandbox, tasks):
    fair = re.findall(r"(q\d)=(\d)\.\.(\d)", file.read_text(encoding="utf-8").splitlines()[1])
    assert fair
    got = scores(grade_path(file, tasks, 5, sandbox, "somebody"))
    for question, low, high in fair:
        assert int(low) <= got[question] <= int(high), (question, got)


def test_there_are_the_shared_submissions_and_thirty_more():
    assert len(SUBMISSIONS) >= 22 + 30


def test_nothing_of_a_student_is_alive_after_grading(sandbox, tasks, tmp_path):
    mark = f"left-behind-{os.getpid()}"
    (tmp_path / "q1.py").write_text(f"""
import os, subprocess, sys, time
def clip_ratio(logp, old_logp, eps):
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execv(sys.executable, [{mark!r}, "-c", "import time; time.sleep(60)"])
            os._exit(0)
    time.sleep(0.3)
    return logp
""")
    grade_path(tmp_path, tasks[:1], 5, sandbox)
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{entry}/cmdline").read_bytes()
        except OSError:
            continue
        assert mark.encode() not in command


def test_a_checker_that_is_killed_leaves_nothing_of_a_student(sandbox, tmp_path):
    mark = f"left-alone-{os.getpid()}-{sandbox.level}"
    code = f"""
import os, sys, time
if os.fork() == 0:
    os.setsid()
    os.execv(sys.executable, [{mark!r}, "-c", "import time; time.sleep(60)"])
time.sleep(60)
"""
    checker = subprocess.Popen([sys.executable, "-c", (
        "from rlhf_edu.grading.sandbox import Question, Sandbox\n"
        f"box = Sandbox({sandbox.level!r}, [], 9)\n"
        f"box.ask(Question('x.py', {{}}, [{code!r}], 'f', [{{}}], load_seconds=60.0))\n")])

    def alive():
        return [pid for pid in filter(str.isdigit, os.listdir("/proc"))
                if mark.encode() in command_of(pid)[:100]]

    deadline = time.monotonic() + 60
    while not alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive()
    checker.kill()
    checker.wait()
    deadline = time.monotonic() + 10
    while alive() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive()


@LOCK
def test_a_question_whose_process_is_killed_leaves_nothing_and_the_next_is_answered(tmp_path):
    mark = f"left-over-{os.getpid()}"
    code = f"""
import os, sys, time
def f():
    if os.fork() == 0:
        os.setsid()
        os.execv(sys.executable, [{mark!r}, "-c", "import time; time.sleep(60)"])
    time.sleep(60)
"""

    def alive():
        return [pid for pid in filter(str.isdigit, os.listdir("/proc"))
                if command_of(pid).startswith(mark.encode())]

    def children(pid):
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()

    with new_sandbox("landlock", [], slot=5) as box:
        assert box.ask(Question("x.py", {}, ["f = abs"], "f", [{}])).answers
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(box.ask, Question("x.py", {}, [code], "f", [{}], seconds=60.0))
            deadline = time.monotonic() + 30
            while not alive() and time.monotonic() < deadline:
                time.sleep(0.05)
            (of_question,) = children(box.process.pid)
            os.kill(int(of_question), signal.SIGKILL)
            assert asked.result().answers == [{"stopped": "ended the process that was to run it"}]
        assert not alive()
        code = "def f():\n    return 7\n"
        assert box.ask(Question("x.py", {}, [code], "f", [{}])).answers[0]["value"] == 7


def test_a_file_that_ends_its_process_each_time_is_not_called_for_ever(sandbox):
    code = "import os\ndef f(x):\n    os._exit(x)\n"
    asked = sandbox.ask(Question("x.py", {}, [code], "f", [{"x": i} for i in range(5)]))
    assert [a["stopped"] for a in asked.answers] == [
        *(f"ended its Python process with exit code {i}" for i in range(3)), *[wire.NOT_CALLED] * 2]


def command_of(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize("name", ["175_half_an_answer", "172_shared_memory"])
def test_memory_is_counted_wherever_it_is(name, best, tasks):
    report = grade_path(HERE / f"submissions/{name}.py", tasks[:1], 5, best)
    message = report["questions"][0]["tests"][0]["message"]
    assert message == "your code took more than 1 GB of memory"


@pytest.mark.parametrize("code, words", [
    ("while True: pass", "was still running after 1 seconds: is there a loop without end?"),
    ("time.sleep(60)", "had not answered after 4 seconds: does it wait for something?"),
    ("[os.fork() or (bytearray(2**29 * 3 // 2), time.sleep(60)) for _ in range(4)]; time.sleep(60)",
     "took more than 1 GB of memory")])
def test_what_never_answers_is_ended_while_it_is_waited_for(code, words, best):
    began = time.monotonic()
    code = f"import os, time\ndef f():\n    {code}\n"
    asked = best.ask(Question("x.py", {}, [code], "f", [{}], seconds=1.0))
    assert asked.answers == [{"stopped": words}] and time.monotonic() - began < 15


def test_where_a_zygote_is_within_reach_each_student_gets_another(tasks, monkeypatch):
    with new_sandbox(LEVEL, tasks, slot=4) as box:
        seen = set()
        for reach in (False, False, True):
            monkeypatch.setattr(isolation, "zygote_in_reach", lambda reach=reach: reach)
            grade_path(HERE / "submissions/00_correct.py", tasks[:1], 5, box)
            seen.add(box.process.pid)
    assert len(seen) == 2


def test_the_package_is_not_readable_where_it_is_installed(monkeypatch):
    installed = Path(torch.__file__).parent  # as if it were this folder of the libraries
    monkeypatch.setattr("rlhf_edu.grading.sandbox.HERE", installed / "nn")
    places = new_sandbox("landlock", []).readable
    assert str(installed.parent / "numpy") in places
    assert not [p for p in map(Path, places) if p == installed or installed in p.parents
                or p in installed.parents]


def test_no_folder_of_a_student_is_left(sandbox, tasks):
    before = set(os.listdir("/tmp"))
    grade_path(HERE / "submissions/177_deep_folders.py", tasks[:1], 5, sandbox)
    left = [name for name in set(os.listdir("/tmp")) - before if name.startswith("tmp")]
    assert not left


def test_there_is_no_way_out_by_a_socket_or_shared_memory(sandbox, tmp_path):
    path, heard = tmp_path / "bus", socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    bus = socket.socket(socket.AF_UNIX)
    bus.bind(str(path))
    bus.listen()
    heard.bind(("127.0.0.1", 0))
    for place in (path, *path.parents[:3]):  # root's worker is another user
        if place.stat().st_uid == os.geteuid() and place != Path("/tmp"):
            place.chmod(0o777)
    code = """
import ctypes, mmap, os, socket
def f(path, port):
    said = []
    def attempt(what, call):
        try:
            if call() not in (False, -1):
                said.append(what)
        except OSError:
            pass
    libc = ctypes.CDLL(None)
    attempt("unix", lambda: socket.socket(socket.AF_UNIX).connect(path))
    attempt("udp", lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port)))
    attempt("memfd", lambda: os.memfd_create("x"))
    attempt("shm", lambda: libc.shmget(0x5eed, 4096, 0o1600))
    attempt("keys", lambda: libc.syscall(248, b"user", b"a", b"b", 1, -5))
    attempt("limits", lambda: libc.prlimit(os.getppid(), 1, None, None) == 0)
    attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, 5))
    attempt("signal", lambda: os.kill(os.getppid(), 0))
    return " ".join(said)
"""
    asked = sandbox.ask(Question("x.py", {}, [code], "f", [
        {"path": str(path), "port": heard.getsockname()[1]}]))
    assert asked.answers[0]["value"] == ""
    heard.setblocking(False)
    with pytest.raises(BlockingIOError):
        heard.recv(10)


def test_a_worker_has_its_limits_and_nothing_of_its_parents(sandbox, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_GRADER", "1")
    code = """
import os, resource
def f():
    names = ("NPROC", "FSIZE", "AS", "NOFILE", "CPU", "CORE")
    limits = {name: list(resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))) for name in names}
    powers = []
    for who in ("self", os.getppid()):
        with open(f"/proc/{who}/status") as file:
            powers += [int(line.split()[1], 16) for line in file if line[:7] == "CapEff:"]
    with open("/proc/net/dev") as file:
        devices = sorted(line.split(":")[0].strip() for line in file if ":" in line)
    with open("/proc/self/oom_score_adj") as file:
        first_to_go = int(file.read())
    return {"limits": limits, "environment": sorted(os.environ), "devices": devices,
            "powers": powers, "files": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
            "processes": sum(p.isdigit() for p in os.listdir("/proc")), "first": first_to_go}
"""
    with new_sandbox(sandbox.level, [], slot=6) as box:
        asked = box.ask(Question("x.py", {}, [code], "f", [{}], seconds=3.0, load_seconds=7.0))
    found = asked.answers[0]["value"]
    limits, root = found["limits"], os.geteuid() == 0
    assert all(soft == hard > -1 for soft, hard in limits.values())
    assert limits["CPU"][0] == 30 and limits["CORE"][0] == 0
    assert limits["FSIZE"][0] == isolation.FILE_SIZE and limits["NOFILE"][0] == isolation.OPEN_FILES
    assert isolation.PROCESSES <= limits["NPROC"][0] < isolation.PROCESSES + 20 or not root
    assert isolation.MEMORY < limits["AS"][0] < isolation.MEMORY + 16 * 2**30
    assert not [name for name in found["environment"] if "SECRET" in name]
    only_to_read = 1 << 2  # DAC_READ_SEARCH
    assert found["powers"][0] in (0, only_to_read)
    assert {200, 201} <= set(found["files"]) and len(found["files"]) == 6  # and the listing's own
    assert found["first"] == 1000
    if sandbox.level == "bubblewrap":
        assert found["devices"] == ["lo"] and found["processes"] < 10
        assert bin(found["powers"][1]).count("1") <= 6


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("setpriv"),
                    reason="needs root, and setpriv")
@pytest.mark.parametrize("missing", ["", "dac_read_search"])
def test_no_power_of_root_is_left_to_a_worker(missing, tmp_path):
    """Also in a container, whose root has fewer powers to begin with."""
    code = ("from rlhf_edu.grading import worker\n"
            f"job = {{'level': 'landlock', 'uid': 60005, 'folder': {str(tmp_path)!r},\n"
            "       'readable': ['/proc'], 'cpu_seconds': 10}\n"
            f"worker.lock_in(job, {str(tmp_path)!r})\n"
            "with open('/proc/self/status') as file:\n"
            "    print(*[int(line.split()[1], 16) for line in file if line.startswith('CapPrm')])")
    words = ["setpriv", f"--bounding-set=-{missing}", f"--inh-caps=-{missing}"] if missing else []
    done = subprocess.run([*words, sys.executable, "-c", code], capture_output=True, text=True)
    kept = 0 if missing or not isolation.landlock_abi() else 1 << 2  # DAC_READ_SEARCH
    assert done.stdout.split() == [str(kept)], done.stderr


@WRAP
def test_bubblewrap_alone_keeps_what_is_readable_from_being_written(tmp_path):
    places = isolation.readable_places([str(tmp_path)], [])
    command = isolation.bubblewrap(["/usr/bin/touch", str(tmp_path / "x")], places, {})
    assert subprocess.run(command, capture_output=True).returncode != 0
    assert not (tmp_path / "x").exists()


@LOCK
def test_landlock_alone_keeps_connections_and_signals_in():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        code = ("import os, socket; from rlhf_edu.grading import isolation\n"
                "isolation.landlock(['/'], [])\n"
                "def attempt(what, call):\n"
                "    try:\n        call()\n        print(what)\n"
                "    except OSError:\n        pass\n"
                "attempt('connected', lambda: socket.create_connection(('127.0.0.1', "
                f"{server.getsockname()[1]})))\n"
                "attempt('signalled', lambda: os.kill(os.getppid(), 0))\n"
                "attempt('wrote', lambda: open('/tmp/x-landlock', 'w'))\n"
                "attempt('read', lambda: open('/etc/passwd'))\n")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    abi = isolation.landlock_abi()
    may = (["connected"] if abi < 4 else []) + (["signalled"] if abi < 6 else []) + ["read"]
    assert done.stdout.split() == may, done


def test_what_is_hidden_is_left_out_of_what_may_be_read(tmp_path):
    for name in ("a/x", "b/secret/x", "b/open/x"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "b/link").symlink_to(tmp_path / "b/secret")
    hidden = str(tmp_path / "b/secret")
    for also in ([str(tmp_path)], [str(tmp_path / "b")], [hidden], [str(tmp_path / "b/link")],
                 [f"{hidden}/x"]):
        places = isolation.readable_places(also, [hidden])
        assert not [p for p in places if hidden.startswith(p) or p.startswith(hidden)], also
    assert {str(tmp_path / "a"), str(tmp_path / "b/open")} <= set(
        isolation.readable_places([str(tmp_path)], [hidden]))


def test_where_landlock_lets_signals_out_a_filter_keeps_them_in():
    code = ("import os, signal; from rlhf_edu.grading import isolation\n"
            "isolation.refuse_calls(signals=True)\n"
            "for who in (os.getppid(), -1, 0):\n"
            "    try:\n        os.kill(who, 0); print('sent to', who)\n"
            "    except PermissionError:\n        pass\n"
            "os.kill(os.getpid(), 0); print('sent to itself')\n")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "sent to itself\n", done


@pytest.mark.parametrize("root, landlock, known, reach", [
    (True, 7, True, False), (True, 0, True, True), (False, 7, True, False),
    (False, 0, True, True), (False, 7, False, True)])
def test_a_zygote_within_reach_is_not_used_again(root, landlock, known, reach, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    monkeypatch.setattr(isolation, "landlock_abi", lambda: landlock)
    monkeypatch.setattr(isolation, "seccomp_known", lambda: known)
    assert isolation.zygote_in_reach() is reach


def test_what_must_not_be_read_cannot_be(sandbox, tasks):
    code = """
import os
def look(paths):
    found = []
    for path in paths:
        try:
            (os.listdir if os.path.isdir(path) else open)(path)
            found.append(path)
        except OSError:
            pass
    return " ".join(found)
"""
    root = HERE.parent
    paths = [str(root / "solutions"), str(root / "rlhf_edu"), str(root / ".git"),
             str(FIXTURE), str(root / "tests"), "/etc/passwd", "/root", str(Path.home()),
             str(root / "rlhf_edu/policy_gradient.py"), "/etc/shadow"]
    asked = sandbox.ask(Question("x.py", {}, [code], "look", [{"paths": paths}]))
    assert asked.answers[0]["value"] == ""


def test_a_file_of_its_own_may_be_written_and_nothing_else(sandbox):
    code = """
def write(paths):
    said = []
    for path in paths:
        try:
            with open(path, "w") as file:
                file.write("x")
            said.append(path)
        except OSError:
            pass
    return " ".join(said)
"""
    asked = sandbox.ask(Question("x.py", {}, [code], "write",
                                 [{"paths": ["mine.txt", "/usr/x", "/etc/x", "/var/tmp/x"]}]))
    assert asked.answers[0]["value"] == "mine.txt"


def test_helpers_beside_the_file_and_data_files_are_found(best, tasks, tmp_path):
    (tmp_path / "helper.py").write_text("import numpy as np\n\ndef ratio(a, b):\n    "
                                        "return np.exp(a - b)\n")
    (tmp_path / "q1.py").write_text("import numpy as np\nfrom helper import ratio\n\n\n"
                                    "def clip_ratio(logp, old_logp, eps):\n"
                                    "    return np.clip(ratio(logp, old_logp), 1 - eps, 1 + eps)\n")
    assert scores(grade_path(tmp_path, tasks[:1], 5, best)) == {"q1": 4}


def test_a_helper_may_be_called_like_a_file_of_the_grader(best, tasks, tmp_path):
    for name in ("wire", "worker", "isolation", "zygote", "your_helper"):
        (tmp_path / f"{name}.py").write_text("import numpy as np\nHERE = True\n")
    (tmp_path / "q1.py").write_text(
        "import wire, worker, isolation, zygote, your_helper\nassert wire.HERE\nnp = wire.np\n"
        "def clip_ratio(logp, old_logp, eps):\n"
        "    return np.clip(np.exp(logp - old_logp), 1 - eps, 1 + eps)\n")
    assert scores(grade_path(tmp_path, tasks[:1], 5, best)) == {"q1": 4}


@pytest.mark.parametrize("name, want", [("131_dataclass_helpers", {"q1": 4, "q2": 4}),
                                        ("10_infinite_loop", {"q1": 0, "q2": 4})])
def test_without_fork_the_grade_is_the_same(name, want, tasks, monkeypatch):
    monkeypatch.setattr(isolation, "FORKS", False)
    with new_sandbox("weak", tasks) as box:
        got = scores(grade_path(HERE / f"submissions/{name}.py", tasks[:2], 5, box))
    assert got == want


RIGHT = (HERE / "submissions/00_correct.py").read_text()
WRONG = "def clip_ratio(*given, **named):\n    return 1\nkl_penalty = clip_ratio\n"


@pytest.mark.parametrize("files", [
    {".ipynb_checkpoints/a-checkpoint.py": WRONG, ".git/a.py": WRONG, "a.py": RIGHT},
    {"__MACOSX/a.py": WRONG, "__pycache__/a.py": WRONG, "b.py": RIGHT},
    {"old/a.py": WRONG, "z.py": RIGHT}, {"old/q1.py": WRONG, "old/q2.py": WRONG, "q1.py": RIGHT,
                                         "week 3/more/q2.py": WRONG, "q2.py": RIGHT},
    {f".git/{i}": "x" for i in range(600)} | {"a.py": RIGHT},
    {"hw 1/q1.py": "from .helper import *\n".replace(".", ""), "hw 1/helper.py": RIGHT,
     "q2.py": RIGHT},
    {"hw/q1.py": "open('data/x.txt').close()\n" + RIGHT, "hw/data/x.txt": "1",
     "q2.py": "import pathlib\npathlib.Path(__file__).with_name('y').read_text()\n" + RIGHT,
     "y": "2"},
    {"a.py": "from helper import one as clip_ratio\nfrom helper import two as kl_penalty\n",
     "helper.py": RIGHT.replace("def clip_ratio", "def one").replace("def kl_penalty", "def two")},
    {"random.py": RIGHT, "torch.py": WRONG.replace("kl_penalty", "x").replace("clip_ratio", "y")},
])
def test_what_is_found_in_a_folder_is_what_its_student_would_run(files, best, tasks, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    report = grade_path(tmp_path, tasks[:2], 5, best)
    assert scores(report) == {"q1": 4, "q2": 4} and not report["complaints"]


def test_importing_the_package_says_to_write_it(best):
    code = "def f():\n    import rlhf_edu.ppo_clip\n"
    error = best.ask(Question("x.py", {}, [code], "f", [{}])).answers[0]["error"]
    assert error["type"] == "ImportError" and "write it yourself" in error["message"]


def test_the_clock_of_a_busy_machine_costs_nothing(best):
    code = "import time\ndef f(seconds):\n    time.sleep(seconds)\n    return 1\n"
    asked = best.ask(Question("x.py", {}, [code], "f", [{"seconds": 1.0}, {"seconds": 60.0}],
                              seconds=0.5))
    assert asked.answers[0]["value"] == 1
    assert asked.answers[1]["stopped"].startswith("had not answered after 2 seconds")


# ── Words for students ──────────────────────────────────────────────────────────────────────────
def graded(best, tasks, tmp_path, name, text):
    (tmp_path / f"{name}.py").write_text(text)
    task = [t for t in tasks if t.name == name]
    return grade_path(tmp_path, task, 5, best)["questions"][0]


def test_a_public_test_shows_numbers_and_a_hidden_one_its_category(best, tasks, tmp_path):
    q = graded(best, tasks, tmp_path, "q2", "def kl_penalty(logp, ref_logp, beta):\n"
                                            "    return beta * (logp - ref_logp)\n")
    public, hidden = q["tests"][1], q["tests"][2]
    assert "got" in public["message"] and "expected" in public["message"]
    assert hidden["message"] == "your values differ from the right ones"
    assert public["hint"] == hidden["hint"] == "Your values equal k1 for k3."


def test_an_error_names_its_line_and_text(best, tasks, tmp_path):
    q = graded(best, tasks, tmp_path, "q2", "def kl_penalty(logp, ref_logp, beta):\n"
                                            "    wrong = logp + []['x']\n")
    assert "TypeError" in q["tests"][0]["message"]
    assert "line 2 of your file" in q["tests"][0]["message"]


def test_changing_inputs_is_a_note_and_not_a_loss(best, tasks, tmp_path):
    q = graded(best, tasks, tmp_path, "q1", "import numpy as np\n\n"
               "def clip_ratio(logp, old_logp, eps):\n    logp -= old_logp\n"
               "    return np.clip(np.exp(logp), 1 - eps, 1 + eps)\n")
    assert q["score"] == 4 and "logp" in q["note"]


def test_a_gradient_that_is_wrong_is_told_from_a_value_that_is(best, tasks, tmp_path):
    q = graded(best, tasks, tmp_path, "q3", "def pg_loss(logprobs, advantages, mask):\n"
               "    return -(logprobs * advantages * mask).sum() / mask.sum()\n")
    assert q["score"] == 0
    assert q["tests"][2]["message"] == "the value is right, a gradient is not"
    assert q["tests"][2]["hint"].startswith("Your gradients are those of the loss with advantages")


def test_printed_output_is_kept_apart_and_short(best, tasks, tmp_path):
    q = graded(best, tasks, tmp_path, "q1", "print('hello ' * 10000)\n\n"
                                            "def clip_ratio(logp, old_logp, eps):\n    return 1\n")
    assert q["printed"].startswith("hello") and len(q["printed"]) <= 4097


def test_an_error_in_a_notebook_names_the_line_of_its_cell(best, tasks, tmp_path):
    (tmp_path / "homework.ipynb").write_text(notebook(
        ([], "import numpy as np\nx = 1\ny = 2\n"),
        (["q1"], "def clip_ratio(logp, old_logp, eps):\n    return logp + []['x']")))
    q = grade_path(tmp_path, tasks[:1], 5, best)["questions"][0]
    assert "(line 2 of its cell: return logp + []['x'])" in q["tests"][0]["message"]


def test_a_notebook_may_hold_what_only_a_notebook_understands(best, tasks, tmp_path):
    (tmp_path / "homework.ipynb").write_text(notebook(
        ([], "%matplotlib inline\n!pip list\n?open\nimport numpy as np\nnp.clip?\nnp.exp??"),
        ([], "%%bash\nls | wc -l; echo \"it's\""), ([], "%%time\nEPS = 1"), ([], "\n%%html\n<b>"),
        ([], "if True:\n    %timeit EPS\n    !ls"), ([], "open('nowhere.csv')"), ([], "1 +"),
        ([], "said = ('%d'\n        % 3)\nassert said == '3'"),
        (["q1"], "def clip_ratio(logp, old_logp, eps):\n"
                 "    same = (eps\n            != eps)\n"
                 "    return np.clip(np.exp(logp - old_logp), EPS - eps, EPS + eps + same)")))
    assert scores(grade_path(tmp_path, tasks[:1], 5, best)) == {"q1": 4}


# ── An instructor's own assignment ──────────────────────────────────────────────────────────────
@pytest.fixture
def assignment(tmp_path, best):
    """Grade the text of a student's file for a question with this solution and these checks."""
    def grade(solution, student, checks="", inputs="{'x': torch.tensor([1.0, 4.0])}"):
        folder = tmp_path / "assignment"
        folder.mkdir(exist_ok=True)
        (folder / "mine.py").write_text("import numpy as np\nimport torch\n" + solution)
        (folder / "mine_checks.py").write_text(
            f"import torch\nFUNCTION = 'f'\n{checks}\n"
            f"def tests(generator):\n    return [('one', 1, {inputs}, 'public')]\n")
        (tmp_path / "mine.py").write_text("import numpy as np\nimport torch\n" + student)
        report = grade_path(tmp_path / "mine.py", load_assignment(folder), 5, best)
        return report["questions"][0]["tests"][0]
    return grade


@pytest.mark.parametrize("right, also, wrong, words", [
    ("x, 2 * x", "(x, x + x)", "x, x", "value[1]: 2 of 2 entries are wrong; first at [0]"),
    ("x, 2 * x", "tuple([x, x * 2])", "x", "returned a torch.Tensor, expected tuple"),
    ("x, 2 * x", "x, x + x", "x, x, x", "returned 3 values, expected 2"),
    ("{'a': x}", "dict(a=x)", "{'b': x}", "returned the keys b, expected a"),
    ("float(x.sum())", "x.sum()", "4", "got 4, expected 5"),
    ("float(x.sum())", "np.float64(5)", "'5'", "returned str, expected a number"),
    ("np.mean([1, 2])", "1.5", "None", "returned NoneType, expected a number: is a `return`"),
    ("int(x[1])", "4.0", "True", "returned bool, expected a number"),
    ("'sft'", "'s' + 'ft'", "'ppo'", "got 'ppo', expected 'sft'"),
    ("bool(x[0] > 0)", "(x > 0).all()", "1", "returned int, expected bool"),
    ("x > 2", "x.gt(2)", "x > 0", "got True, expected False"),
    ("x.long() * 2**60", "x.long() << 60", "x.long() * 2**60 + 1", "2 of 2 entries"),
    ("x / 0 - x / 0", "x * float('nan')", "x", "got 1, expected nan"),
    ("None", "print(x)", "0", "returned int, expected NoneType"),
    ("x", "x + 0", "x.numpy()", "returned a numpy array, expected a torch.Tensor"),
    ("x.numpy()", "np.array([1, 4], 'float32')", "x", "returned a torch.Tensor, expected a numpy"),
])
def test_a_function_may_return_whatever_travels(assignment, right, also, wrong, words):
    text = "def f(x):\n    return {}\n"
    assert assignment(text.format(right), text.format(also))["score"] == 1
    got = assignment(text.format(right), text.format(wrong))
    assert got["score"] == 0 and words in got["message"]


SAME = "def f(x):\n    return x\n"


@pytest.mark.parametrize("solution, checks, inputs, words", [
    ("x = (", "", "{}", "cannot be run: SyntaxError"),
    ("g = 3", "", "{}", "mine.py has no function f"),
    (SAME, "del FUNCTION", "{}", "mine_checks.py has no FUNCTION: a question of kind 'implement'"),
    (SAME, "KIND = 'riddle'", "{}", "allowed are implement, quiz"),
    (SAME, "", "{'x': {1, 2}}", "in the test 'one' x is of type set; allowed are tensors"),
    (SAME, "", "{'y': 1}", "mine: the solution raised TypeError"),
    (SAME, "WRONG = {'half': lambda x: x / []}", "{'x': 1}", "the wrong variant 'half' raised"),
])
def test_what_is_wrong_with_an_assignment_is_said(assignment, solution, checks, inputs, words):
    with pytest.raises(InputError, match=re.escape(words)):
        assignment(solution, SAME, checks, inputs)


def test_an_assignment_without_a_solution_says_so(tmp_path):
    (tmp_path / "q_checks.py").write_text("FUNCTION = 'f'\ntests = lambda g: []\n")
    with pytest.raises(InputError, match="no q.py: the solution goes there"):
        load_assignment(tmp_path)


def test_a_solution_that_changes_its_inputs_spoils_nothing(assignment):
    text = "def f(x):\n    x += 1\n    return x\n"
    assert assignment(text, text)["score"] == 1


# ── The same seed, the same grade ───────────────────────────────────────────────────────────────
def test_the_same_seed_gives_the_same_inputs_and_another_others(tasks):
    def drawn(seed, student):
        return tasks[0].checks["tests"](tasks[0].generator(seed, student))[2][2]["logp"].tolist()

    assert drawn(5, "s") == drawn(5, "s")
    assert drawn(5, "s") != drawn(6, "s") and drawn(5, "s") != drawn(5, "another")


def test_the_same_seed_gives_the_same_report_byte_for_byte(tmp_path):
    # A wrong answer that prints what it is given, so that the report holds the hidden inputs.
    (tmp_path / "q1.py").write_text("def clip_ratio(logp, old_logp, eps):\n    print(logp)\n"
                                    "    return {'b': logp, 'a': {1, 2}}\n")
    for seed, name in (("5", "one.json"), ("5", "two.json"), ("6", "other.json")):
        command = ["grade", str(tmp_path), "--assignment", str(FIXTURE), "--exercise", "q1",
                   "--seed", seed, "--json", str(tmp_path / name)]
        if name == "one.json":  # in another process, where hashes are others
            subprocess.run([sys.executable, "-m", "rlhf_edu", *command], check=True,
                           stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONHASHSEED": "7"})
        else:
            assert main(command) == 0
    one, two, other = ((tmp_path / f"{n}.json").read_bytes() for n in ("one", "two", "other"))
    assert one == two and b"-0.9" in one
    assert other.replace(b'"seed": 6', b'"seed": 5') != one


def test_a_right_answer_has_full_marks_on_many_seeds(best, tasks):
    file = HERE / "submissions/100_torch_correct.py"
    for seed in range(1000, 1020):
        assert grade_path(file, tasks, seed, best)["score"] == 12


def test_a_bank_is_killed_to_the_last_answer(capsys):
    assert bank.main(FIXTURE, seeds=3) == 0
    assert capsys.readouterr().out.count("3 of 3") == 3
    assert bank.main(KINDS_FIXTURE, seeds=1) == 0
    assert capsys.readouterr().out.count("1 of 1") == 4


def test_the_packages_own_questions_have_banks_of_eight_and_more(capsys):
    assert bank.main(SOLUTIONS, seeds=10) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == len(load_assignment(SOLUTIONS))
    for line in lines:
        name, *_, wrong, killed, named = line.split()
        assert (int(wrong) >= 8, killed, named) == (True, "100.0%", "100.0%"), line


@pytest.mark.parametrize("old, new, words", [
    ("np.clip(np.exp(old - new), 1 - e, 1 + e)", "np.clip(np.exp(new - old), 1 - e, 1 + e)",
     "SURVIVED: the ratio inverted"),
    ("np.clip(np.exp(old - new), 1 - e, 1 + e)", "np.exp(new - old)",
     "not named: the ratio without the clip"),
    ("np.exp(np.asarray(logp)", "np.exp(np.random.rand() + np.asarray(logp)",
     "the right answer lost marks"),
])
def test_what_a_bank_does_not_kill_is_said(old, new, words, tmp_path, capsys):
    for file in ("q1.py", "q1_checks.py"):
        (tmp_path / file).write_text((FIXTURE / file).read_text().replace(old, new))
    assert bank.main(tmp_path, seeds=2) == 1
    assert words in capsys.readouterr().out


# ── Bad input ───────────────────────────────────────────────────────────────────────────────────
BAD = {
    "empty file": ({"q1.py": b""}, "is empty"),
    "binary": ({"q1.py": bytes(range(256)) * 10}, "not a text file"),
    "syntax": ({"q1.py": b"def clip_ratio(:\n"}, "could not be loaded"),
    "nothing": ({}, "no file answers this question"),
    "no function": ({"q1.py": b"x = 1\n"}, "no function called clip_ratio"),
    "no notebook": ({"q1.ipynb": b"{}"}, "is not a notebook"),
    "a notebook without the function": ({"q1.ipynb": b'{"cells": []}'},
                                        "no file answers this question"),
    "no Python": ({"q1.docx": b"PK\x03\x04", "q1.txt": b"def clip_ratio(): pass"},
                  "no file answers this question"),
    "too much code": ({"q1.py": b"x = [" + b"1, " * 2**20 + b"]\ndef clip_ratio(): pass"},
                      "more than 1 MB of code"),
    "prose": ({"q1.py": b"Dear professor, my dog ate it.\n"}, "could not be loaded: SyntaxError"),
    "another encoding": ({"q1.py": "x = 'Größe'".encode("utf-16")}, "not a text file"),
    "too large": ({"q1.py": b"#" * (50 * 2**20)}, "no file answers"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_gets_a_clear_line(what, best, tasks, tmp_path):
    files, words = BAD[what]
    folder = tmp_path / "Anna Ångström (2)"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    report = grade_path(folder, tasks[:1], 5, best)
    assert report["score"] == 0
    assert words in report["questions"][0]["tests"][0]["message"]


def test_what_is_too_large_is_said(tmp_path):
    (tmp_path / "q1.py").write_bytes(b"#" * (50 * 2**20))
    assert "50 MB" in read_submission(tmp_path).complaints[0]


def test_no_more_files_are_read_than_are_allowed(tmp_path, monkeypatch):
    monkeypatch.setattr("rlhf_edu.grading.submission.MAX_FILES", 5)
    for i in range(8):
        (tmp_path / f"{i}.py").write_text("x")
    found = read_submission(tmp_path)
    assert len(found.files) == 5 and found.complaints[0].startswith("3 more files were left out")


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    folder = tmp_path / "student"
    folder.mkdir()
    (folder / "q1.py").symlink_to(FIXTURE / "q1.py")
    (folder / "more").symlink_to(FIXTURE, target_is_directory=True)
    found = read_submission(folder)
    assert not found.files
    assert found.complaints == ["'more' was left out: it is a link", "'q1.py' was left out: it is "
                                "a link"]


def test_what_programs_leave_behind_is_not_the_students_work(best, tasks, tmp_path):
    right = (HERE / "submissions/00_correct.py").read_text()
    for place in (".ipynb_checkpoints/q1.py", "__MACOSX/q1.py", "__pycache__/q1.py",
                  ".git/q1.py", "._q1.py"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text("raise RuntimeError('an old version')\n")
    (tmp_path / "work").mkdir()
    (tmp_path / "work/q1.py").write_text(right)
    assert list(read_submission(tmp_path).files) == ["work/q1.py"]
    assert scores(grade_path(tmp_path, tasks[:1], 5, best)) == {"q1": 4}


def test_a_whole_environment_does_not_hide_the_answer(tmp_path):
    (tmp_path / "env").mkdir()
    for i in range(600):
        (tmp_path / f"env/{i}.py").write_text("")
    (tmp_path / "q1.py").write_text("x = 1")
    found = read_submission(tmp_path)
    assert found.files["q1.py"] == b"x = 1" and len(found.complaints) == 1
    assert found.complaints[0].startswith("101 more files were left out")


def test_a_file_may_say_its_encoding(best, tasks, tmp_path):
    text = "# -*- coding: latin-1 -*-\nimport numpy as np\nGRÖSSE = 'groß'\n" \
           "def clip_ratio(logp, old_logp, eps):\n    assert len(GRÖSSE) == 4\n" \
           "    return np.clip(np.exp(logp - old_logp), 1 - eps, 1 + eps)\n"
    (tmp_path / "q1.py").write_bytes(text.replace("\n", "\r\n").encode("latin-1"))
    assert scores(grade_path(tmp_path, tasks[:1], 5, best)) == {"q1": 4}


def test_a_pipe_does_not_stop_the_grader(tmp_path):
    os.mkfifo(tmp_path / "q1.py")
    assert "no plain file" in read_submission(tmp_path).complaints[0]


def test_names_with_spaces_and_letters_of_other_alphabets(best, tasks, tmp_path):
    folder = tmp_path / "Løsning av Олег — 2"
    folder.mkdir()
    shutil.copy(HERE / "submissions/00_correct.py", folder / "min løsning 😀.py")
    assert scores(grade_path(folder, tasks[:2], 5, best)) == {"q1": 4, "q2": 4}


def notebook(*cells):
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [
        {"cell_type": "code", "metadata": {"tags": tags}, "source": source, "outputs": [],
         "execution_count": None} for tags, source in cells]})


def test_a_notebook_answers_by_its_tagged_cells(best, tasks, tmp_path):
    (tmp_path / "homework.ipynb").write_text(notebook(
        ([], "%matplotlib inline\n!pip list\nimport numpy as np"),
        (["q1"], ["def clip_ratio(logp, old_logp, eps):\n",
                  "    return np.clip(np.exp(logp - old_logp), 1 - eps, 1 + eps)"]),
        (["q2"], "while True:\n    pass")))
    got = grade_path(tmp_path, tasks[:2], 5, best)
    assert scores(got) == {"q1": 4, "q2": 0}


def test_a_notebook_without_tags_answers_by_whatever_runs(best, tasks, tmp_path):
    (tmp_path / "homework.ipynb").write_text(notebook(
        (None, "import numpy as np"), ([], "files = !ls"),
        ([], "def clip_ratio(logp, old_logp, eps):\n"
             "    return np.clip(np.exp(logp - old_logp), 1 - eps, 1 + eps)"),
        ([], "raise RuntimeError('broken')"), ([], "%%bash\nrm -rf /"),
        ([], "def kl_penalty(logp, ref_logp, beta):\n    d = ref_logp - logp\n"
             "    return beta * (np.exp(d) - d - 1)"), ([], "exit()")))
    assert scores(grade_path(tmp_path, tasks[:2], 5, best)) == {"q1": 4, "q2": 4}


def test_a_notebook_whose_function_is_never_made_says_why(best, tasks, tmp_path):
    (tmp_path / "homework.ipynb").write_text(notebook(
        ([], "import nothing_of_that_name"), ([], "if missing:\n    def clip_ratio(): pass")))
    q = grade_path(tmp_path, tasks[:1], 5, best)["questions"][0]
    assert "could not be loaded: ModuleNotFoundError" in q["tests"][0]["message"]


def test_a_broken_section_names_the_line_of_the_whole_file(tasks, tmp_path):
    (tmp_path / "all.py").write_text("x = 1\n# %% q1\ndef clip_ratio():\n    pass\n# %% q2\nboom\n")
    code = find_code(read_submission(tmp_path), "q2", "clip_ratio", ["q1", "q2"])
    assert code.parts == [] or "boom" in code.parts[-1]
    code = find_code(read_submission(tmp_path), "q1", "clip_ratio", ["q1", "q2"])
    assert code.parts[1].splitlines()[2] == "def clip_ratio():"
    assert "boom" not in "".join(code.parts)


# ── The wire ────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("value", [
    None, True, -3, 2.5, float("inf"), "text", [1, (2.0, "x")], {"a": torch.arange(6).view(2, 3)},
    torch.tensor(1.5, dtype=torch.bfloat16), torch.zeros(0, 3), np.ones((2, 0), dtype=np.float32),
    np.float64(2.0), torch.tensor([True, False]), np.arange(12).reshape(3, 4).T])
def test_a_value_comes_back_as_it_was(value):
    blobs = []
    tree = json.loads(json.dumps(wire.describe(value, blobs)))
    back = wire.rebuild(tree, memoryview(b"".join(blobs)))

    def same(a, b):
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
        if isinstance(a, list | tuple):
            return type(a) is type(b) and all(map(same, a, b))
        if isinstance(a, torch.Tensor):
            return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        if isinstance(a, np.ndarray | np.generic):
            return np.shape(a) == b.shape and a.dtype == b.dtype and bool(np.all(a == b))
        return a == b and type(a) is type(b)

    assert same(value, back)


@pytest.mark.parametrize("tree", [
    None, 7, {}, {"kind": "torch"}, {"kind": "torch", "dtype": "float32", "shape": [2], "bytes": 4},
    {"kind": "torch", "dtype": "object", "shape": [1], "bytes": 4},
    {"kind": "numpy", "dtype": "float32", "shape": [-1], "bytes": 4},
    {"kind": "numpy", "dtype": "float32", "shape": [2**40, 2**40], "bytes": 4},
    {"kind": "list", "items": 3}, {"kind": "float", "value": "import os"},
    {"kind": "int", "value": "3"}, {"kind": "int", "value": 10**30},
    {"kind": "bool", "value": 1}])
def test_what_is_no_value_is_refused(tree):
    with pytest.raises(wire.WireError):
        wire.rebuild(tree, memoryview(b"\0" * 4))


@pytest.mark.parametrize("tree", [
    {"kind": "int", "value": 2**63}, {"kind": "int", "value": -(2**63)},
    {"kind": "int", "value": True}, {"kind": "str", "value": 1}, {"kind": "bool", "value": 1}])
def test_a_number_that_is_none_is_refused(tree):
    with pytest.raises(wire.WireError):
        wire.rebuild(tree, memoryview(b""))


def test_a_truth_value_has_one_byte_that_means_it():
    tree = {"kind": "torch", "dtype": "bool", "shape": [3], "bytes": 3}
    assert wire.rebuild(tree, memoryview(b"\2\0\1")).view(torch.uint8).tolist() == [1, 0, 1]


def test_no_message_is_longer_than_is_allowed(monkeypatch):
    for sizes in ((2**32 - 1, 0), (2, 2**32 - 1)):
        ours, theirs = os.pipe()
        os.write(theirs, struct.pack("!II", *sizes) + b"{}")
        with pytest.raises(wire.WireError, match="too long"):
            wire.receive(ours, time.monotonic() + 5)
        os.close(ours)
        os.close(theirs)
    monkeypatch.setattr(wire, "MAX_BYTES", 8)
    assert wire.describe([np.zeros(1), np.zeros(1)], [])["items"][1]["kind"] == "other"


def test_bytes_that_belong_to_nothing_are_refused():
    with pytest.raises(wire.WireError):
        wire.rebuild({"kind": "none"}, memoryview(b"x"))


@pytest.mark.parametrize("codec", ["punycode", "PunyCode", "idna", "rot13", "undefined", "x" * 99])
def test_an_encoding_that_is_none_for_files_stops_nobody(codec, tmp_path):
    began = time.monotonic()
    assert as_text(f"# coding: {codec}\n-".encode() + b"zb." * 10**6) is None
    assert time.monotonic() - began < 5


# ── The other kinds ─────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def answers(tmp_path, best):
    def give(name, **content):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        tasks = load_assignment(KINDS_FIXTURE, (name,))
        return grade_path(tmp_path, tasks, 5, best, "s")["questions"][0]
    return give


def test_a_quiz_explains_every_answer_wrong_ones_included(answers):
    made = load_assignment(KINDS_FIXTURE, ("choices",))[0]
    number = made.checks["questions"](made.generator(5, "s"))[1]
    right = answers("choices", direction="b", twice=number["answer"],
                    order=["sft", "reward model", "ppo"])
    assert right["score"] == right["max_score"] == 4
    wrong = answers("choices", direction="a", twice=number["slips"]["that is its square"],
                    order=["ppo", "sft", "reward model"])
    assert wrong["score"] == 0
    assert [t["message"] for t in wrong["tests"]] == [
        "that is the forward one", "that is its square", "imitate, judge, optimise"]


@pytest.mark.parametrize("away, points", [(0.009, 1), (-0.009, 1), (0.011, 0), (-0.011, 0)])
def test_a_number_is_right_within_its_tolerance(answers, away, points):
    task = load_assignment(KINDS_FIXTURE, ("choices",))[0]
    number = task.checks["questions"](task.generator(5, "s"))[1]
    assert answers("choices", twice=number["answer"] + away)["score"] == points


def test_no_two_questions_have_the_same_numbers(tasks):
    drawn = {float(torch.rand(1, generator=task.generator(5, "s"))) for task in tasks}
    assert len(drawn) == len(tasks)


@pytest.mark.parametrize("given", ["x", None, True, [1], float("nan"), {"a": 1}, "b" * 10])
def test_a_quiz_takes_any_answer_without_breaking(answers, given):
    q = answers("choices", direction=given, twice=given, order=given)
    assert q["score"] == 0


HOSTILE = ['["x"]', '{"a": 1}', "1" + "0" * 400, "1" * 4000, "1" * 5000, "[" * 900 + "]" * 900,
           "[" * 3000 + "]" * 3000, "1e400", "NaN", '"\\ud800"', '"' + "x" * 10**6 + '"', "true",
           "null", '[["sft"], "ppo", 1]', '{"mechanism": ["x"], "direction": {}}']


@pytest.mark.parametrize("name, keys", [
    ("choices", ("direction", "twice", "order")), ("fault", ("cause", "metric", "update")),
    ("change", ("beta", "placement")), ("essay", ("claims", "prose"))])
def test_no_answer_stops_the_grader_or_fills_its_report(name, keys, best, tmp_path):
    task = load_assignment(KINDS_FIXTURE, (name,))
    for value in HOSTILE:
        (tmp_path / f"{name}.json").write_text(
            "{" + ", ".join(f'"{key}": {value}' for key in keys) + "}")
        report = grade_path(tmp_path, task, 5, best, "s")
        text = json.dumps(report, ensure_ascii=False)
        assert report["score"] == 0 and len(text) < 60_000
        text.encode()


def test_a_diagnosis_is_a_cause_and_where_the_evidence_is(answers):
    task = load_assignment(KINDS_FIXTURE, ("fault",))[0]
    made = task.checks["log"](task.generator(5, "s"))
    metric = next(iter(made["evidence"]))
    assert answers("fault", cause=made["cause"], metric=metric, update=7)["score"] == 4
    first, last = made["evidence"][metric]
    for update in (1, first - 1, last + 1, True, str(first)):
        assert answers("fault", cause=made["cause"], metric=metric, update=update)["score"] == 3
    assert answers("fault", cause="bad luck", metric="lr", update="x")["score"] == 0


def test_an_intervention_is_run_on_hidden_seeds(answers):
    q = answers("change", beta=0.4)
    assert q["score"] == 10 and "on the worst seed" in q["tests"][0]["message"]
    assert answers("change", beta=0.0)["score"] == pytest.approx(4 * 0.84, abs=0.1)


@pytest.mark.parametrize("config, words", [
    ({"beta": 7}, "from 0.0 to 1.0"), ({"lr": 1}, "may not be changed"),
    ({"beta": True}, "allowed is a number"), ({"placement": "moon"}, "allowed are 'reward'"),
    ({"beta": float("nan")}, "allowed is a number"), ({"beta": "__import__('os')"}, "a number")])
def test_a_configuration_that_is_not_allowed_is_not_run(answers, config, words):
    q = answers("change", **config)
    assert q["score"] == 0 and words in q["tests"][0]["message"]


def test_no_more_may_be_changed_than_is_allowed():
    allowed = {"beta": (0.0, 1.0), "placement": ["loss", "reward"], "most changes": 1}
    assert not kinds.not_allowed({"beta": 0.5}, allowed)
    assert "2 fields are changed, 1 may be" in kinds.not_allowed(
        {"beta": 0.5, "placement": "loss"}, allowed)


def test_an_experiment_that_takes_too_long_is_stopped(tmp_path):
    task = load_assignment(KINDS_FIXTURE, ("change",))[0]
    quick = replace(task, checks=task.checks | {"SECONDS": 3.0})
    began = time.monotonic()
    found, why = kinds.in_time(quick, {"beta": 0.4, "placement": "loss"}, [1])
    assert not found and "more than 3 seconds" in why and time.monotonic() - began < 10


def test_claims_are_checked_and_prose_goes_to_a_human(answers):
    q = answers("essay", claims={"mechanism": "the reward model", "direction": "down"},
                prose="They liked length.")
    assert [t["score"] for t in q["tests"]] == [3, 0]
    assert q["marking sheet"]["prose"] == "They liked length."
    assert q["marking sheet"]["rubric"]


# ── The commands ────────────────────────────────────────────────────────────────────────────────
def test_grade_writes_every_report(tmp_path, capsys):
    target = {name: tmp_path / name for name in ("r.json", "g.json", "r.html")}
    code = main(["grade", str(HERE / "submissions/02_wrong.py"), "--assignment", str(FIXTURE),
                 "--seed", "3", "--json", str(target["r.json"]), "--gradescope",
                 str(target["g.json"]), "--html", str(target["r.html"]), "--exercise", "q1", "q2"])
    assert code == 0 and "score: 0 of 8" in capsys.readouterr().out
    assert json.loads(target["r.json"].read_text())["finished"] is True
    gradescope = json.loads(target["g.json"].read_text())
    assert gradescope["score"] == 0 and {t["status"] for t in gradescope["tests"]} == {"failed"}
    assert "0 of 8 points" in target["r.html"].read_text()


@pytest.mark.parametrize("columns", [80, 100])
def test_the_report_fits_the_terminal(columns, best, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    task = load_assignment(SOLUTIONS, ("clipped_surrogate",))[0]
    text = right_answer(task, 1)[1].replace("    ratio =", "    advantages *= 1.5\n    ratio =")
    text = text.replace("torch.clamp(ratio, 1 - cliprange, 1 + high)",
                        "torch.exp(torch.clamp(ratio.log(), -cliprange, high))")
    submission = Submission({"clipped_surrogate.py": text.encode()}, ["a remark " * 20])
    said = terminal(grade_submission(submission, [task], 5, best))
    assert columns - 20 < max(map(len, said.splitlines())) <= columns


def test_a_page_shows_what_a_student_wrote_as_text(best, tasks, tmp_path):
    code = "import numpy as np\nprint('<script>alert(1)</script>')\n" \
           "def clip_ratio(logp, old_logp, eps):\n    raise ValueError('<b>&</b>')\n"
    report = grade_submission(Submission({"q1.py": code.encode()}, ["<i>"]), tasks[:1], 5, best,
                              "<u>")
    write_html(tmp_path / "x.html", report)
    page = (tmp_path / "x.html").read_text()
    assert "&lt;script&gt;" in page and "ValueError: &lt;b&gt;&amp;" in page
    assert not re.search("<script|<b>|<i>|<u>", page)


def test_prose_gets_a_marking_sheet_and_no_score(answers, tmp_path, best):
    task = load_assignment(KINDS_FIXTURE, ("essay",))[0]
    handed_in = json.dumps({"claims": {"direction": "up"}, "prose": "They liked length."})
    report = grade_submission(Submission({"essay.json": handed_in.encode()}, []), [task], 5, best)
    write_html(tmp_path / "x.html", report)
    page = (tmp_path / "x.html").read_text()
    for words in ("They liked length.", "☐ gives a number", "The raters liked length."):
        assert words in page
    assert report["score"] == 1 and "for a person to mark" in terminal(report)


@pytest.mark.parametrize("arguments, words", [
    (["/nowhere"], "no folder /nowhere"),
    (["{here}", "--assignment", "/nowhere"], "an assignment is a folder"),
    (["{here}", "--assignment", "{here}"], "holds no assignment"),
    (["{here}", "--exercise", "q9", "--assignment", "{fixture}"], "no question is called 'q9'"),
    (["{here}", "--json", "/nowhere/x.json"], "make it first"),
])
def test_what_cannot_be_graded_is_explained(arguments, words, tmp_path, capsys):
    said = [a.format(here=tmp_path, fixture=FIXTURE) for a in arguments]
    assert main(["grade", *said]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_a_grade_that_did_not_finish_says_so_in_every_report(monkeypatch, tmp_path):
    def fails(*given):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr("rlhf_edu.grading.grade.grade_submission", fails)
    for name in ("r.json", "g.json", "r.html"):
        (tmp_path / name).write_text('{"score": 8, "finished": true}')  # of an earlier run
    with pytest.raises(RuntimeError):
        main(["grade", str(HERE / "submissions/00_correct.py"), "--assignment", str(FIXTURE),
              "--json", str(tmp_path / "r.json"), "--gradescope", str(tmp_path / "g.json"),
              "--html", str(tmp_path / "r.html")])
    report, upload = (json.loads((tmp_path / name).read_text()) for name in ("r.json", "g.json"))
    assert report["finished"] is False and report["score"] == upload["score"] == 0
    assert "grading did not finish" in upload["output"]
    assert "grading did not finish" in (tmp_path / "r.html").read_text()


def test_the_weak_rung_is_refused_unless_it_is_wanted(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(isolation, "probe", lambda: "weak")
    command = ["grade", str(HERE / "submissions/00_correct.py"), "--assignment", str(FIXTURE),
               "--exercise", "q1"]
    assert main(command) == 2
    assert "--allow-weak" in capsys.readouterr().err
    assert main([*command, "--allow-weak"]) == 0
    assert "not safe against a hostile student" in capsys.readouterr().out


# ── A class ─────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def class_folder(tmp_path):
    folder = tmp_path / "class"
    folder.mkdir()
    (folder / "linked").symlink_to(FIXTURE, target_is_directory=True)
    (folder / "большой.zip").write_bytes(b"PK" * 25 * 2**20)
    (folder / "wait.py").mkdir()
    os.mkfifo(folder / "wait.py/q1.py")
    for i, name in enumerate(("00_correct", "02_wrong", "18_os_exit_import", "23_syntax_error")):
        (folder / f"student {i}").mkdir()
        shutil.copy(HERE / f"submissions/{name}.py", folder / f"student {i}" / "homework.py")
    (folder / "loose.py").write_bytes((HERE / "submissions/00_correct.py").read_bytes())
    (folder / "nobody").mkdir()
    return folder


def run_class(folder, target, *options):
    return main(["grade-class", str(folder), "--csv", str(target), "--assignment", str(FIXTURE),
                 "--exercise", "q1", "q2", *options])


def test_a_class_is_graded_whatever_is_in_it(class_folder, tmp_path, capsys):
    target = tmp_path / "scores.csv"
    assert run_class(class_folder, target, "--seed", "4") == 0
    rows = {row["student"]: row for row in csv.DictReader(target.open())}
    assert {name: float(row["score"]) for name, row in rows.items()} == {
        "student 0": 8, "student 1": 0, "student 2": 0, "student 3": 4, "loose.py": 8, "nobody": 0,
        "linked": 0, "большой.zip": 0, "wait.py": 0}
    assert "it is a link" in rows["linked"]["complaints"]
    assert "it has 50 MB, 5 are allowed" in rows["большой.zip"]["complaints"]
    assert "it is no plain file" in rows["wait.py"]["complaints"]
    assert len(list(csv.DictReader((tmp_path / "scores-tests.csv").open()))) == 9 * 8
    page = (tmp_path / "scores.html").read_text()
    assert "9 submissions, mean 28%" in page and "33%</td><td>identical" in page
    links = re.findall("href='([^']*)'", page)
    assert len(links) == 9 and all((tmp_path / unquote(link)).is_file() for link in links)


def test_one_students_disaster_is_not_anothers(class_folder, tmp_path, monkeypatch):
    real = classroom.grade_submission

    def sometimes(submission, *rest):
        if rest[-1] == "student 1":
            raise RuntimeError("a bug of ours")
        return real(submission, *rest)

    monkeypatch.setattr(classroom, "grade_submission", sometimes)
    assert run_class(class_folder, tmp_path / "scores.csv") == 0
    rows = {row["student"]: row for row in csv.DictReader((tmp_path / "scores.csv").open())}
    assert "a bug of ours" in rows["student 1"]["complaints"]
    assert float(rows["student 0"]["score"]) == 8


def test_a_class_that_was_killed_goes_on_with_the_same_grades(class_folder, tmp_path, monkeypatch):
    target = tmp_path / "scores.csv"
    command = [sys.executable, "-m", "rlhf_edu", "grade-class", str(class_folder), "--csv",
               str(target), "--assignment", str(FIXTURE), "--exercise", "q1", "q2", "--jobs", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    reports = tmp_path / "scores-reports"
    deadline = time.monotonic() + 120
    while len(list(reports.glob("*-*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {p.name: p.stat().st_mtime_ns for p in reports.glob("*-*.json")}
    seed = json.loads((reports / "seed.json").read_text())["seed"]
    assert len(done) >= 2 and not target.exists()
    assert run_class(class_folder, target) == 0
    assert json.loads((reports / "seed.json").read_text())["seed"] == seed
    for name in list(done)[:2]:
        assert (reports / name).stat().st_mtime_ns == done[name]  # it was not graded again


def test_a_report_that_lies_about_its_submission_is_not_believed(class_folder, tmp_path):
    target = tmp_path / "scores.csv"
    run_class(class_folder, target, "--seed", "4")
    report = next((tmp_path / "scores-reports").glob("student_1-*.json"))
    forged = json.loads(report.read_text()) | {"score": 8, "key": "0" * 24}
    report.write_text(json.dumps(forged))
    run_class(class_folder, target, "--seed", "4")
    rows = {row["student"]: row for row in csv.DictReader(target.open())}
    assert float(rows["student 1"]["score"]) == 0


def test_no_name_and_no_message_stops_a_class_or_its_reader(tmp_path, capsys):
    folder = tmp_path / "class"
    names = [b"M\xfcller", b"M\xe4ller", b"=1+1 \x1b[2J", "Оле́г".encode()]
    for name in names:
        place = os.path.join(os.fsencode(folder), name)
        os.makedirs(place)
        shutil.copy(HERE / "submissions/178_strange_errors.py", os.path.join(place, b"a.py"))
    shutil.copy(HERE / "submissions/00_correct.py", folder / "good.py")
    (folder / "gone").symlink_to("nowhere")
    assert run_class(folder, tmp_path / "s.csv", "--seed", "4", "--due", "2020-01-01") == 0
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert len(rows) == 6 and sum(float(row["score"]) for row in rows) == 8
    assert len(list((tmp_path / "s-reports").glob("*-*.html"))) == 6
    assert main(["grade", str(HERE / "submissions/178_strange_errors.py"), "--assignment",
                 str(FIXTURE), "--exercise", "q1", "--html", str(tmp_path / "s-x.html")]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("score")] == ["score: 0 of 4"]
    texts = [said, *(p.read_text() for p in [*tmp_path.glob("s*.*"), *tmp_path.glob("s-*/*.*")])]
    for text in texts:
        assert not re.search("[\x00-\x08\x0e-\x1f\x7f-\x9f\u202a-\u202e]", text)


def test_a_report_that_is_no_report_is_made_again(class_folder, tmp_path):
    run_class(class_folder, tmp_path / "s.csv", "--seed", "4")
    good = next((tmp_path / "s-reports").glob("student_0-*.json"))
    for broken in ("", "[]", "{}", '{"finished": true}', "{" * 10):
        good.write_text(broken)
        assert run_class(class_folder, tmp_path / "s.csv", "--seed", "4") == 0
        rows = {row["student"]: row for row in csv.DictReader((tmp_path / "s.csv").open())}
        assert float(rows["student 0"]["score"]) == 8 and not rows["student 0"]["complaints"]


def test_a_kept_report_counts_for_the_same_work_alone(class_folder, tmp_path, monkeypatch):
    assignment = shutil.copytree(FIXTURE, tmp_path / "assignment")
    for place in class_folder.iterdir():
        if place.is_symlink() or place.is_file():
            place.unlink()
        else:
            shutil.rmtree(place)
    shutil.copy(HERE / "submissions/00_correct.py", class_folder / "loose.py")
    graded = []
    real = classroom.grade_submission
    monkeypatch.setattr(classroom, "grade_submission",
                        lambda *given: graded.append(given[2]) or real(*given))

    def run(seed):
        graded.clear()
        assert main(["grade-class", str(class_folder), "--csv", str(tmp_path / "s.csv"), "--seed",
                     seed, "--assignment", str(assignment), "--exercise", "q1", "q2"]) == 0
        return list(graded)

    assert run("4") == [4] and run("4") == []
    assert run("5") == [5]  # another seed
    with (assignment / "q1_checks.py").open("a") as file:
        file.write("SECONDS = 3.0\n")
    assert run("5") == [5]  # another assignment
    with (class_folder / "loose.py").open("a") as file:
        file.write("# more\n")
    assert run("5") == [5]  # another submission
    report = next((tmp_path / "s-reports").glob("loose*.json"))
    report.write_text(json.dumps(json.loads(report.read_text()) | {"finished": False}))
    assert run("5") == [5]  # one that did not finish
    monkeypatch.setattr(classroom, "choose_level", lambda allow_weak: "weak")
    assert run("5") == ([5] if LEVEL != "weak" else [])  # another isolation


def test_what_a_computer_leaves_in_a_folder_makes_nobody_late(tmp_path):
    (tmp_path / "a/__pycache__").mkdir(parents=True)
    for name, when in (("q1.py", 1000), ("x/y.py", 2000), (".DS_Store", 9000),
                       ("__pycache__/q1.pyc", 9000), (".git/index", 9000)):
        (tmp_path / "a" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "a" / name).touch()
        os.utime(tmp_path / "a" / name, (when, when))
    assert classroom.newest(tmp_path / "a") == 2000
    assert classroom.newest(tmp_path / "a/q1.py") == 1000
    assert classroom.newest(tmp_path / "nowhere") == 0


def test_nobody_gets_the_score_of_another_by_a_name(tmp_path):
    book = tmp_path / "canvas.csv"
    book.write_text("Student,ID,SIS Login ID\n    Points Possible,,\nanna,7,mallory\nAnna,8,anna\n"
                    "J,9,j\nJohn,10,j.doe\nOlga,11,x\n")
    found = {name: {"score_after_late_policy": score}
             for name, score in (("anna", 8.0), ("j.doe", 5.0), ("11.ipynb", 12345678.5))}
    classroom.fill_canvas(book, tmp_path / "filled.csv", found)
    rows = list(csv.DictReader((tmp_path / "filled.csv").open()))
    assert [r["rlhf_edu"] for r in rows] == ["", "", "8", "", "5", "12345678.5"]


def test_canvas_gets_a_column(class_folder, tmp_path):
    book = tmp_path / "canvas.csv"
    book.write_text("Student,ID,SIS Login ID\nZero,1,student 0\nOne,2,student 1\nGone,3,gone\n")
    run_class(class_folder, tmp_path / "scores.csv", "--canvas", str(book))
    rows = list(csv.DictReader((tmp_path / "scores-canvas.csv").open()))
    assert [row["rlhf_edu"] for row in rows] == ["8", "0", ""]


@pytest.mark.parametrize("late, left", [(0, 10), (3600, 10), (3601, 9), (86_400, 9),
                                        (86_401, 8), (30 * 86_400, 0)])
def test_the_late_policy(late, left):
    assert late_score(10, 1000 + late, 1000) == left


@pytest.mark.parametrize("start", "=+-@\t\r")
def test_a_cell_of_a_spreadsheet_starts_with_no_sign_of_a_formula(start, tmp_path):
    classroom.write_csv(tmp_path / "x.csv", [[f"{start}1+1"]])
    with (tmp_path / "x.csv").open(newline="") as file:
        assert next(csv.reader(file)) == [f"'{start}1+1"]


def test_a_spreadsheet_runs_nothing_that_a_student_wrote(tmp_path):
    classroom.write_csv(tmp_path / "x.csv", [["=cmd()", "+1", "plain", 3]])
    assert next(csv.reader((tmp_path / "x.csv").open())) == ["'=cmd()", "'+1", "plain", "3"]


# ── Handouts ────────────────────────────────────────────────────────────────────────────────────
def test_a_handout_asks_what_is_graded_and_holds_no_answer(tmp_path, capsys, best):
    command = ["export", "handout", str(tmp_path), "--assignment", str(KINDS_FIXTURE),
               "--seed", "5", "--student", "s"]
    assert main(command) == 0
    tasks = {task.name: task for task in load_assignment(KINDS_FIXTURE)}
    number = tasks["choices"].checks["questions"](tasks["choices"].generator(5, "s"))[1]
    quiz = (tmp_path / "choices.md").read_text()
    assert number["ask"] in quiz and "  b) policy ‖ reference" in quiz
    assert "samples come" not in quiz
    log = tasks["fault"].checks["log"](tasks["fault"].generator(5, "s"))
    rows = [json.loads(line) for line in (tmp_path / "fault.jsonl").read_text().splitlines()]
    assert rows == log["rows"] and "dead critic" in (tmp_path / "fault.md").read_text()
    assert "beta: a number from 0.0 to 1.0" in (tmp_path / "change.md").read_text()
    assert "gives a number" in (tmp_path / "essay.md").read_text()
    # An empty form is no answer, and one that was filled in is not overwritten.
    assert grade_path(tmp_path, [tasks["choices"], tasks["essay"]], 5, best, "s")["score"] == 0
    form = json.loads((tmp_path / "choices.json").read_text())
    assert set(form) == {"direction", "twice", "order"} and not any(form.values())
    (tmp_path / "choices.json").write_text(json.dumps(form | {"direction": "b"}))
    assert main(command) == 0 and f"kept {tmp_path / 'choices.json'}" in capsys.readouterr().out
    assert grade_path(tmp_path, [tasks["choices"]], 5, best, "s")["score"] == 2


def test_a_handout_of_code_is_the_stub(tmp_path):
    assert main(["export", "handout", str(tmp_path), "--exercise", "clipped_surrogate"]) == 0
    stub = (HERE.parent / "exercises/clipped_surrogate.py").read_text().partition("\n")[2]
    assert (tmp_path / "clipped_surrogate.py").read_text() == stub


# ── Exports ─────────────────────────────────────────────────────────────────────────────────────
def test_the_gradescope_zip_grades_by_itself(tmp_path):
    root = tmp_path / "autograder"
    (root / "submission").mkdir(parents=True)
    (root / "venv/bin").mkdir(parents=True)
    (root / "venv/bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (root / "venv/bin/python").chmod(0o755)
    shutil.copy(HERE / "submissions/23_syntax_error.py", root / "submission/homework.py")
    archive = tmp_path / "autograder.zip"
    assert main(["export", "gradescope", str(archive), "--assignment", str(FIXTURE),
                 "--exercise", "q1", "q2"]) == 0
    shutil.unpack_archive(archive, root / "source")
    script = (root / "source/run_autograder").read_text().replace("/autograder", str(root))
    subprocess.run(["bash", "-c", script], check=True, stdout=subprocess.DEVNULL)
    result = json.loads((root / "results/results.json").read_text())
    assert result["score"] == 4 and len(result["tests"]) == 8


def test_the_gradescope_zip_is_the_same_from_the_same_files(tmp_path):
    for name in ("a.zip", "b.zip"):
        main(["export", "gradescope", str(tmp_path / name), "--assignment", str(FIXTURE)])
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_nbgrader_takes_the_source_notebooks(tmp_path):
    pytest.importorskip("nbgrader")
    assert main(["export", "nbgrader", str(tmp_path), "--assignment", str(FIXTURE),
                 "--exercise", "q3"]) == 0
    (tmp_path / "nbgrader_config.py").write_text(
        'c = get_config()\nc.CourseDirectory.course_id = "x"\n')

    def nbgrader(*words):
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        done = subprocess.run([sys.executable, "-m", "nbgrader", *words], cwd=tmp_path, text=True,
                              capture_output=True, env=os.environ | {"PATH": path})
        assert done.returncode == 0, done.stderr[-2000:]

    nbgrader("generate_assignment", "q3")
    released = (tmp_path / "release/q3/q3.ipynb").read_text()
    assert "advantages.detach()" not in released and "HIDDEN TESTS" not in released
    source = (tmp_path / "source/q3/q3.ipynb").read_text()
    for student, text in (("good", source), ("bad", source.replace("return -(", "return (", 1))):
        folder = tmp_path / f"submitted/{student}/q3"
        folder.mkdir(parents=True)
        (folder / "q3.ipynb").write_text(text)
    nbgrader("autograde", "q3")
    nbgrader("export")
    grades = {r["student_id"]: float(r["score"])
              for r in csv.DictReader((tmp_path / "grades.csv").open())}
    assert grades == {"good": 4, "bad": 0}


# ── The quiz ────────────────────────────────────────────────────────────────────────────────────
def test_the_quiz_asks_and_explains(monkeypatch, capsys):
    typed = iter(["a", "b", "a", "3 4 2 1", "0", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    assert main(["quiz", "8"]) == 1
    said = capsys.readouterr().out
    assert "3 of 6 right." in said and "That is k2's" in said


def test_every_option_of_every_quiz_has_an_explanation():
    for task in load_assignment(SOLUTIONS):
        if task.kind == "quiz":
            for q in task.checks["questions"](task.generator(1, "")):
                assert all(words for _, words in q.get("options", {}).values())
                assert "options" in q or q["explanation"]
                assert kinds.judge_answer(q, q["answer"])[0]


def test_a_quiz_that_is_not_there(capsys):
    assert main(["quiz", "99"]) == 2
    assert "no quiz of chapter '99'" in capsys.readouterr().err
