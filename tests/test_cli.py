"""The command line: what is wrong is said in one line, and the exit code says it too."""

import errno
import io
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import rlhf_edu
from rlhf_edu import InputError, cli
from rlhf_edu.cases import CASES, STUDIES


def type_in(*words: str, program: tuple[str, ...] = ("-m", "rlhf_edu")) -> Any:
    """Run the command as a person would."""
    return subprocess.run(
        [sys.executable, *program, *words], capture_output=True, text=True, encoding="utf-8"
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replace the laboratory by a stand-in. Holds what run_case was called with; the stand-in
    returns or raises what is put into `calls.outcome`."""

    class Calls(list[Any]):
        outcome: Any = {"reproduced": True}

    seen = Calls()

    def run_case(*args: Any) -> Any:
        seen.append(args)
        if isinstance(seen.outcome, BaseException):
            raise seen.outcome
        return seen.outcome

    module = types.ModuleType("rlhf_edu.cases.experiment")
    module.run_case = run_case
    monkeypatch.setitem(sys.modules, "rlhf_edu.cases.experiment", module)
    monkeypatch.setattr(rlhf_edu.cases, "experiment", module, raising=False)
    return seen


def one_line(text: str) -> str:
    """The only line of a text, which must be an error of ours."""
    assert text.startswith("rlhf-edu: ") and text.endswith("\n") and text.count("\n") == 1, text
    return text


def test_help() -> None:
    result = type_in("--help")
    assert result.returncode == 0 and not result.stderr
    assert all(command in result.stdout for command in ("cases", "run", "check"))


def test_installed_command_is_the_same_as_the_module() -> None:
    script = ("-c", "from rlhf_edu.cli import main; raise SystemExit(main())")
    for words in (["cases"], ["run", "nonsense"], ["check", "--help"]):
        module, command = type_in(*words), type_in(*words, program=script)
        assert (module.returncode, module.stdout, module.stderr) == (
            command.returncode,
            command.stdout,
            command.stderr,
        )


def test_cases_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cases"]) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [i for i, line in enumerate(lines) if not line.startswith(" ")]
    assert heads == [0, 1 + len(CASES)] and len(lines) == 2 + len(CASES) + len(STUDIES)
    assert all("rlhf-edu run NAME" in lines[i] for i in heads)
    names = [line.strip().partition(":")[0] for line in lines if line.startswith("  ")]
    assert names == [*CASES, *STUDIES]
    assert all(len(line) < 100 for line in lines)


def test_a_study_is_run_by_its_name_too(calls: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "kl-estimators", "--seeds", "1"]) == 0
    assert [(name, seeds) for name, seeds, *_ in calls] == [("kl-estimators", [1])]
    assert cli.main(["run", "kl-estimator"]) == 2
    line = one_line(capsys.readouterr().err)
    assert "did you mean 'kl-estimators'?" in line
    assert all(name in line for name in (*CASES, *STUDIES))


@pytest.mark.parametrize(
    "words, said",
    [
        (["nonsense"], ["'nonsense'", "conflicting-signals"]),
        (["conflicting-signal"], ["did you mean 'conflicting-signals'?"]),
        (["Conflicting-Signals"], ["did you mean 'conflicting-signals'?"]),
        (["conflicting-signals", "--device", "gpu"], ["auto, cpu, cuda", "'gpu'"]),
        (["conflicting-signals", "--seeds", "0", "-1"], ["from 0 to", "given: -1"]),
        (["conflicting-signals", "--seeds", "99999999999"], ["from 0 to", "99999999999"]),
        (["conflicting-signals", "--seeds", "3", "1", "3"], ["seed 3 is given 2 times"]),
        (["conflicting-signals", "--seeds"], ["--seeds needs at least one"]),
        (["conflicting-signals", "--json", "/no/such/a.json"], ["--json", "no folder"]),
        (["conflicting-signals", "--json", os.curdir], ["--json", "folder"]),
        (["conflicting-signals", "--fresh", "--resume"], ["--fresh", "--resume"]),
    ],
)
def test_bad_input_of_run(
    words: list[str], said: list[str], calls: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", *words]) == 2
    line = one_line(capsys.readouterr().err)
    assert all(words in line for words in said)
    assert not calls, "nothing may be trained before the input is known to be good"


def test_bad_input_has_no_traceback_from_outside() -> None:
    result = type_in("run", "nonsense")
    assert result.returncode == 2 and not result.stdout
    one_line(result.stderr)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["run"],
        ["run", "conflicting-signals", "--chek"],
        ["run", "conflicting-signals", "--seeds", "one"],
        ["cases", "more"],
    ],
)
def test_bad_options(words: list[str], calls: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words)
    assert end.value.code == 2 and not calls
    assert "Traceback" not in capsys.readouterr().err


def test_run_passes_everything_on(calls: Any, tmp_path: Path) -> None:
    assert cli.main(["run", "conflicting-signals"]) == 0
    assert calls == [("conflicting-signals", [0, 1, 2, 3, 4], "auto", None, None, False, False)]
    json_file = tmp_path / "a.json"
    options = f"--seeds 7 5 --device cpu --out {tmp_path} --json {json_file} --resume".split()
    assert cli.main(["run", *options, "conflicting-signals"]) == 0
    assert calls[1] == ("conflicting-signals", [7, 5], "cpu", tmp_path, json_file, False, True)
    assert cli.main(["run", "conflicting-signals", "--fresh"]) == 0
    assert calls[2][-2:] == (True, False)


def test_check_says_whether_the_case_is_reproduced(calls: Any) -> None:
    assert cli.main(["run", "conflicting-signals", "--check"]) == 0
    calls.outcome = {"reproduced": False}
    assert cli.main(["run", "conflicting-signals", "--check"]) == 1
    assert cli.main(["run", "conflicting-signals"]) == 0


def test_what_a_person_can_put_right_is_one_line(
    calls: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.outcome = InputError("kl_coef must be 0 or more, given -1")
    assert cli.main(["run", "conflicting-signals"]) == 2
    line = one_line(capsys.readouterr().err)
    assert line == "rlhf-edu: kl_coef must be 0 or more, given -1\n"
    for number in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOTDIR):
        calls.outcome = OSError(number, os.strerror(number), "/some/where")
        assert cli.main(["run", "conflicting-signals"]) == 2
        line = one_line(capsys.readouterr().err)
        assert os.strerror(number) in line and "/some/where" in line


@pytest.mark.parametrize(
    "bug", [ValueError("bug"), FileNotFoundError(errno.ENOENT, "missing", "ours"), KeyError("bug")]
)
def test_a_bug_keeps_its_traceback(calls: Any, bug: Exception) -> None:
    calls.outcome = bug
    with pytest.raises(type(bug)):
        cli.main(["run", "conflicting-signals"])


def test_interrupt(calls: Any, capsys: pytest.CaptureFixture[str]) -> None:
    calls.outcome = KeyboardInterrupt()
    assert cli.main(["run", "conflicting-signals"]) == 130
    assert "what was logged is kept; run again with --resume" in one_line(capsys.readouterr().err)


def test_interrupt_of_another_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "CASES", types.SimpleNamespace(items=interrupted))
    assert cli.main(["cases"]) == 130
    assert one_line(capsys.readouterr().err) == "rlhf-edu: interrupted\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows reports a closed pipe otherwise")
def test_output_may_be_closed_early() -> None:
    # Without this variable Python holds output back, and meets the closed pipe only at the end.
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for words in (["cases"], ["--help"]):
        process = subprocess.Popen(
            [sys.executable, "-m", "rlhf_edu", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=buffered,
        )
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() in (0, 1)


def test_console_without_the_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old console that cannot show a letter shows a question mark, and nothing fails."""
    console = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(console, encoding="ascii"))
    monkeypatch.setattr(cli, "CASES", {"x": "the coefficient β"})
    assert cli.main(["cases"]) == 0
    assert b"x: the coefficient ?".split() == console.getvalue().splitlines()[1].split()
