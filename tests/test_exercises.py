"""The exercises and `rlhf-edu check`: stubs fail, right answers pass in any style, and every
wrong answer is told which slip it is."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from rlhf_edu import ppo_clip, ranking_loss
from rlhf_edu.cli import main
from rlhf_edu.grading import check, isolation, worker
from rlhf_edu.grading import sandbox as sandbox_module
from rlhf_edu.grading.assignment import SOLUTIONS, load
from rlhf_edu.grading.check import ask, exercise_names, judge, load_exercise
from rlhf_edu.grading.generate import EXERCISES, make_stub
from rlhf_edu.grading.judging import Exercise
from rlhf_edu.grading.sandbox import Asked, Sandbox

NAMES = ["clipped_surrogate", "pairwise_ranking_loss"]

Judge = Callable[..., tuple[str, str]]


@pytest.fixture(scope="module")
def exercises() -> dict[str, Exercise]:
    return {name: load_exercise(name) for name in NAMES}


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("weak", []) as box:
        yield box


@pytest.fixture
def judge_text(exercises: dict[str, Exercise], tmp_path: Path, sandbox: Sandbox) -> Judge:
    """Judge the text of a student's file: (verdict, explanation)."""

    def judge_it(name: str, text: str) -> tuple[str, str]:
        file = tmp_path / f"{name}.py"
        file.write_text(text, encoding="utf-8")
        verdict, lines = judge(exercises[name], ask(exercises[name], file, sandbox))
        return verdict, "\n".join(lines)

    return judge_it


@pytest.fixture
def judge_body(judge_text: Judge) -> Judge:
    """Judge the stub with its `raise NotImplementedError` replaced by the lines of a body."""

    def judge_it(name: str, body: str) -> tuple[str, str]:
        stub = (SOLUTIONS / f"{name}.py").read_text(encoding="utf-8")
        stub = make_stub(name, stub).replace("import torch\n", "import torch\n" + PREAMBLE, 1)
        lines = body.strip("\n").splitlines()
        body = "\n".join("    " + line for line in lines)
        return judge_text(name, re.sub(r" +raise NotImplementedError\(.*\)", lambda _: body, stub))

    return judge_it


PREAMBLE = "import torch.nn.functional as F\n"

# Right answers in different styles.

RIGHT = {
    "pairwise_ranking_loss": {
        "softplus": """
z = chosen - rejected - margin
return ((1 - label_smoothing) * F.softplus(-z) + label_smoothing * F.softplus(z)).mean()
""",
        "binary cross-entropy": """
z = chosen - rejected - margin
return F.binary_cross_entropy_with_logits(z, torch.full_like(z, 1 - label_smoothing))
""",
        "softmax over the two choices": """
both = torch.stack([chosen - margin, rejected], dim=1)
logp = both.log_softmax(dim=1)
s = label_smoothing
weights = torch.tensor([1 - s, s])
return -(logp * weights).sum(dim=1).mean()
""",
        "a loop, prints and a helper": """
import warnings
def one(c, r):
    z = c - r - margin
    return -(1 - label_smoothing) * F.logsigmoid(z) - label_smoothing * F.logsigmoid(-z)
print("chosen", chosen)
warnings.warn("just looking")
total = 0
for c, r in zip(chosen, rejected):
    total = total + one(c, r)
return total / len(chosen)
""",
        "in place, and another default dtype": """
torch.set_default_dtype(torch.float64)
chosen -= rejected
chosen -= margin
loss = -((1 - label_smoothing) * F.logsigmoid(chosen) + label_smoothing * F.logsigmoid(-chosen))
torch.set_default_dtype(torch.float32)
return loss.mean()
""",
    },
    "clipped_surrogate": {
        "max of two losses, as PPO code often has it": """
high = cliprange_high if cliprange_high is not None else cliprange
adv = advantages.detach()
ratio = (logprobs - old_logprobs.detach()).exp()
loss1 = -adv * ratio
loss2 = -adv * torch.clamp(ratio, 1.0 - cliprange, 1.0 + high)
return (torch.max(loss1, loss2) * mask).sum() / mask.sum()
""",
        "real tokens picked out first": """
on = mask.bool()
high = cliprange_high if cliprange_high is not None else cliprange
rho = torch.exp(logprobs[on] - old_logprobs[on].detach())
a = advantages[on].detach()
return -torch.min(rho * a, rho.clip(1 - cliprange, 1 + high) * a).mean()
""",
        "cases by the sign of the advantage": """
high = cliprange_high if cliprange_high is not None else cliprange
a = advantages.detach()
rho = torch.exp(logprobs - old_logprobs.detach())
kept = torch.where(a >= 0, rho.clamp(max=1 + high), rho.clamp(min=1 - cliprange))
return -torch.where(mask > 0, kept * a, 0.0).sum() / mask.sum()
""",
        "a loop over tokens": """
high = cliprange_high if cliprange_high is not None else cliprange
with torch.no_grad():
    old, adv = old_logprobs.clone(), advantages.clone()
total, count = 0.0, 0
for b in range(mask.shape[0]):
    for t in range(mask.shape[1]):
        if mask[b, t] == 1:
            rho = torch.exp(logprobs[b, t] - old[b, t])
            clipped = min(max(rho, 1 - cliprange), 1 + high)
            total += min(rho * adv[b, t], clipped * adv[b, t])
            count += 1
return -total / count
""",
    },
}

# Wrong answers, each with the beginning of the slip that must be named.


def pairs(
    z: str = "chosen - rejected - margin",
    s: str = "label_smoothing",
    result: str = "((1 - s) * F.softplus(-z) + s * F.softplus(z)).mean()",
) -> str:
    """A body for pairwise_ranking_loss, by default a right one."""
    return f"z = {z}\ns = {s}\nreturn {result}\n"


def clip(
    high: str = "cliprange if cliprange_high is None else cliprange_high",
    a: str = "advantages.detach()",
    old: str = "old_logprobs.detach()",
    rho: str = "torch.exp(logprobs - old)",
    clipped: str = "rho.clamp(1 - cliprange, 1 + high)",
    token: str = "torch.min(rho * a, clipped * a)",
    result: str = "-(token * mask).sum() / mask.sum()",
) -> str:
    """A body for clipped_surrogate_loss, by default a right one."""
    return (
        f"high = {high}\na = {a}\nold = {old}\nrho = {rho}\nclipped = {clipped}\n"
        f"token = {token}\nreturn {result}\n"
    )


RIGHT["pairwise_ranking_loss"]["the wrong answers with nothing wrong"] = pairs()
RIGHT["clipped_surrogate"]["the wrong answers with nothing wrong"] = clip()

WRONG = {
    "pairwise_ranking_loss": {
        "the loss with chosen and rejected swapped": pairs(z="rejected - chosen - margin"),
        "the loss without the margin": pairs(z="chosen - rejected"),
        "the loss with the margin added": pairs("chosen - rejected + margin"),
        "the loss without label smoothing": pairs(s="0.0"),
        "the loss with the two smoothing weights exchanged": pairs(
            result="(s * F.softplus(-z) + (1 - s) * F.softplus(z)).mean()"
        ),
        "the loss with label smoothing spread over both choices": pairs(s="label_smoothing / 2"),
        "the loss with the margin left out of the opposite choice": pairs(
            result="((1 - s) * F.softplus(-z) + s * F.softplus(chosen - rejected)).mean()"
        ),
        "the loss with the margin subtracted from the opposite choice too": pairs(
            result="((1 - s) * F.softplus(-z) + s * F.softplus(z + 2 * margin)).mean()"
        ),
        "the sum instead of the mean": pairs(
            result="((1 - s) * F.softplus(-z) + s * F.softplus(z)).sum()"
        ),
        "the loss with the opposite sign": pairs(
            result="((1 - s) * F.logsigmoid(z) + s * F.logsigmoid(-z)).mean()"
        ),
        "the loss of the mean difference": pairs(z="chosen.mean() - rejected.mean() - margin"),
        "the mean of minus the probability, with no logarithm": pairs(
            result="-((1 - s) * z.sigmoid() + s * (1 - z.sigmoid())).mean()"
        ),
        "the hinge loss": pairs(result="((1 - s) * F.relu(-z) + s * F.relu(z)).mean()"),
        "the loss of the distance": pairs(z="torch.abs(chosen - rejected) - margin"),
        "the loss with sigmoid and logarithm taken one after the other": pairs(
            result="-((1 - s) * torch.log(torch.sigmoid(z)) "
            "+ (s * torch.log(torch.sigmoid(-z)) if s > 0 else 0)).mean()"
        ),
        "the loss with the gradient of `rejected` cut off": pairs(
            z="chosen - rejected.data - margin"
        ),
    },
    "clipped_surrogate": {
        "the loss with min and max swapped": clip(token="torch.max(rho * a, clipped * a)"),
        "the loss with the clip on one side only, min(rho, 1 + cliprange) * A": clip(
            token="torch.min(rho, clipped) * a"
        ),
        "the loss with the clip on one side only: the lower limit is missing": clip(
            clipped="torch.clamp(rho, max=1 + high)"
        ),
        "the loss with the clip on one side only: the upper limit is missing": clip(
            clipped="torch.clamp(rho, min=1 - cliprange)"
        ),
        "the loss without the clip": clip(token="rho * a"),
        "the loss with the clipped product alone": clip(token="clipped * a"),
        "the loss with the ratio inverted": clip(rho="torch.exp(old - logprobs)"),
        "the loss with the log-ratio in place of the ratio": clip(rho="logprobs - old"),
        "the loss with the ratio of log-probabilities": clip(rho="logprobs / old"),
        "the loss with the log-ratio clipped": clip(
            clipped="torch.exp(torch.clamp(logprobs - old, -cliprange, high))"
        ),
        "the mean over padding too": clip(result="-token.mean()"),
        "the masked sum divided by all B * T places": clip(
            result="-(token * mask).sum() / mask.numel()"
        ),
        "the mean of each answer's own mean": clip(
            result="-torch.stack([t[m > 0].mean() for t, m in zip(token, mask)]).mean()"
        ),
        "the sum instead of the mean": clip(result="-(token * mask).sum()"),
        "the loss with the opposite sign": clip(result="(token * mask).sum() / mask.sum()"),
        "the loss without cliprange_high": clip(high="cliprange"),
        "the loss with cliprange and cliprange_high exchanged": clip(
            clipped="rho.clamp(1 - high, 1 + cliprange)"
        ),
        "the loss with the default range": clip(
            high="0.2 if cliprange_high is None else cliprange_high",
            clipped="rho.clamp(0.8, 1 + high)",
        ),
        "the loss with advantages not detached": clip(a="advantages"),
        "the loss with old_logprobs not detached": clip(old="old_logprobs"),
        "the loss with neither advantages nor old_logprobs detached": clip(
            a="advantages", old="old_logprobs"
        ),
    },
}


def test_there_are_these_exercises() -> None:
    assert exercise_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_generated_stub_is_current(name: str) -> None:
    solution = (SOLUTIONS / f"{name}.py").read_text(encoding="utf-8")
    stub = (EXERCISES / f"{name}.py").read_text(encoding="utf-8")
    assert stub == make_stub(name, solution), (
        f"exercises/{name}.py is not what solutions/{name}.py gives: run `make exercises`"
    )
    assert stub.startswith(f"# Generated from solutions/{name}.py")
    assert "SOLUTION" not in stub


def test_no_exercise_without_a_source() -> None:
    assert sorted(file.stem for file in EXERCISES.glob("*.py")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_statement_is_complete(name: str, exercises: dict[str, Exercise]) -> None:
    stub = (EXERCISES / f"{name}.py").read_text(encoding="utf-8")
    facts = re.search(
        r"^(\d+) points, about \d+ minutes, difficulty [1-5] of 5\. Teaches items [\d, and]+\.$",
        stub,
        re.M,
    )
    assert facts
    tests = load(SOLUTIONS / f"{name}_checks.py")["tests"](torch.Generator())
    assert int(facts[1]) == sum(points for _, points, _ in tests)
    assert re.search(r"Hints.*\n\n1\. .*\n(   .*\n)*2\. .*\n(   .*\n)*3\. ", stub)
    assert re.search(r'raise NotImplementedError\("Task \d: ', stub)


@pytest.mark.parametrize("name", NAMES)
def test_stub_fails_and_is_called_not_yet_written(name: str, judge_text: Judge) -> None:
    stub = (EXERCISES / f"{name}.py").read_text(encoding="utf-8")
    assert judge_text(name, stub)[0] == "not yet written"


@pytest.mark.parametrize("name", NAMES)
def test_solution_passes(name: str, judge_text: Judge) -> None:
    verdict, words = judge_text(name, (SOLUTIONS / f"{name}.py").read_text(encoding="utf-8"))
    assert verdict == "right" and "WRONG" not in words


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "name, function",
    [
        ("pairwise_ranking_loss", ranking_loss.pairwise_ranking_loss),
        ("clipped_surrogate", ppo_clip.clipped_surrogate_loss),
    ],
)
def test_solution_agrees_with_the_package(name: str, function: Callable, seed: int) -> None:
    """On any inputs, not only the public ones; and there every slip is still a slip."""
    exercise = load_exercise(name, seed)
    answers = [worker.answer(function, call, exercise.gradient_of) for call in exercise.calls]
    assert judge(exercise, Asked(answers, ""))[0] == "right"
    for slip, wrong in exercise.slips.items():
        assert judge(exercise, Asked(wrong, ""))[0] == "wrong", slip


@pytest.mark.parametrize("name, style", [(name, style) for name in NAMES for style in RIGHT[name]])
def test_right_answer_passes_in_any_style(name: str, style: str, judge_body: Judge) -> None:
    verdict, words = judge_body(name, RIGHT[name][style])
    assert verdict == "right", words


def full_words(slip: str, exercise: Exercise) -> str:
    """The slip whose words begin with these."""
    (words,) = [words for words in exercise.slips if re.match(re.escape(slip) + r"\b", words)]
    return words


@pytest.mark.parametrize("name, slip", [(name, slip) for name in NAMES for slip in WRONG[name]])
def test_slip_is_named(
    name: str, slip: str, judge_body: Judge, exercises: dict[str, Exercise]
) -> None:
    verdict, lines = judge_body(name, WRONG[name][slip])
    assert verdict == "wrong"
    named = re.findall(r"Your (?:values equal|gradients are those of) (.*)\.$", lines, re.M)
    assert named and set(named) == {full_words(slip, exercises[name])}, lines
    assert re.search(r"(value|gradient with respect to \w+): .*got .*, expected ", lines)


@pytest.mark.parametrize("name", NAMES)
def test_every_slip_has_a_wrong_answer(name: str, exercises: dict[str, Exercise]) -> None:
    bank = {full_words(slip, exercises[name]) for slip in WRONG[name]}
    assert bank == set(exercises[name].slips) and len(bank) >= 8


@pytest.mark.parametrize(
    "body, said",
    [
        ("pass", "returned NoneType, expected a torch.Tensor: is a `return` missing?"),
        ("return 0.5", "returned float, expected a torch.Tensor: no gradient can flow"),
        ("return F.softplus(rejected - chosen)", "returned shape [6], expected []"),
        ("return F.softplus(rejected - chosen).mean().double()", "returned dtype float64"),
        ("return (chosen - chosen).mean() / 0", "value: got nan, expected"),
        (pairs(result="F.softplus(-z).mean() + 0.001"), "value: got "),
        (
            pairs(result="((1 - s) * F.softplus(-z) + s * F.softplus(z)).mean().detach()"),
            "carries no gradient",
        ),
        ("return F.softplus(chosen.detach() * 0 - 1).mean()", "value: got 0.3132617"),
        ("z = chosen @ torch.eye(9)", "your code raised RuntimeError: "),
        ("x = 1\nreturn x / 0", "ZeroDivisionError: division by zero (line "),
        ("x = 1\nreturn x / 0", " of your file: return x / 0)"),
        ("exit()", "your code raised SystemExit"),
        ("return input()", "your code raised "),
        ("def f():\n    return f()\nreturn f()", "RecursionError"),
    ],
)
def test_what_is_wrong_is_said(body: str, said: str, judge_body: Judge) -> None:
    verdict, lines = judge_body("pairwise_ranking_loss", body)
    assert verdict == "wrong" and said in lines, lines


def test_wrong_entries_are_counted_and_the_first_is_shown(judge_body: Judge) -> None:
    body = clip().replace("return ", "loss = ") + "return loss + 0 * old_logprobs.sum() + "
    body += "(logprobs - logprobs.detach())[1].sum()"
    _, lines = judge_body("clipped_surrogate", body)
    assert (
        "gradient with respect to logprobs: 6 of 12 entries are wrong; first at [1, 0]: got"
        in lines
    )


@pytest.mark.parametrize(
    "text, said",
    [
        (
            "def f(:\n",
            "could not be loaded: SyntaxError: invalid syntax (line 1 of your file: def f(:)",
        ),
        ("x = 1\nraise ValueError('no')\n", "loaded: ValueError: no (line 2 of your file"),
        ("import sys\nsys.exit(3)\n", "loaded: SystemExit: 3 (line 2 of your file"),
        ("import no_such_module\n", "ModuleNotFoundError"),
        ("", "your file has no function called pairwise_ranking_loss"),
        ("pairwise_ranking_loss = 3\n", "your file has no function called"),
    ],
)
def test_file_that_cannot_be_used(text: str, said: str, judge_text: Judge) -> None:
    verdict, lines = judge_text("pairwise_ranking_loss", text)
    assert verdict == "wrong" and said in lines, lines


def test_dataclass_and_helper_file(judge_text: Judge, tmp_path: Path) -> None:
    (tmp_path / "my_helper.py").write_text("from torch.nn.functional import softplus\n")
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from my_helper import softplus\n\n@dataclass\nclass Z:\n    z: float\n\n"
        "def pairwise_ranking_loss(chosen, rejected, margin=0.0, label_smoothing=0.0):\n"
        "    z = Z(chosen - rejected - margin).z\n    s = label_smoothing\n"
        "    return ((1 - s) * softplus(-z) + s * softplus(z)).mean()\n\n"
        "if __name__ == '__main__':\n    raise SystemExit\n"
    )
    assert judge_text("pairwise_ranking_loss", text)[0] == "right"


def test_code_that_stops_between_two_tests(exercises: dict[str, Exercise]) -> None:
    exercise = exercises["pairwise_ranking_loss"]
    answers = [*exercise.expected[:2], *3 * [{"stopped": "was still running"}]]
    verdict, lines = judge(exercise, Asked(answers, ""))
    assert verdict == "wrong"
    assert lines == [
        "ok     six pairs",
        "ok     with a margin",
        "WRONG  with label smoothing",
        "       your code was still running",
        "  -    with margin and label smoothing (not run)",
        "  -    scores far apart (not run)",
    ]


# The command itself, with its worker process.


@pytest.fixture(params=["as on Linux", "as elsewhere"])
def check_text(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Callable[[str], tuple[int, str]]:
    """Exit code and output of `rlhf-edu check pairwise_ranking_loss` for the text of a file."""
    if request.param == "as elsewhere":
        monkeypatch.setattr(isolation, "FORKS", False)
        monkeypatch.setattr(sandbox_module, "START_SECONDS", 20.0)
    elif not isolation.FORKS:
        pytest.skip("Linux only")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exercises").mkdir()

    def check_it(text: str) -> tuple[int, str]:
        Path("exercises", "pairwise_ranking_loss.py").write_text(text, encoding="utf-8")
        return main(["check", "pairwise_ranking_loss"]), capsys.readouterr().out

    return check_it


def test_check_of_stubs_and_of_solutions(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(EXERCISES.parent)
    assert main(["check"]) == 1
    assert capsys.readouterr().out.count("not yet written") == 3  # two files and the last line
    assert main(["check", "solutions/pairwise_ranking_loss.py"]) == 0
    assert "1 right." in capsys.readouterr().out


def test_endless_loop_is_stopped(check_text: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "TIME_LIMIT", 2.0)
    code, said = check_text("def pairwise_ranking_loss(**kwargs):\n    while True:\n        pass\n")
    assert code == 1 and "was still running after 2 seconds: is there a loop without end?" in said
    assert said.count("(not run)") == 4


def test_flood_of_output_is_stopped_and_cut(check_text: Callable) -> None:
    code, said = check_text("while True:\n    print('water ' * 1000)\n")
    assert code == 1 and "printed more than 10 MB" in said
    assert "Your code printed:" in said and len(said) < 6_000


def test_end_of_the_process_is_reported(check_text: Callable) -> None:
    text = "import os\ndef pairwise_ranking_loss(**kwargs):\n    print('bye')\n    os._exit(0)\n"
    code, said = check_text(text)
    assert code == 1 and "ended its Python process with exit code 0" in said
    assert "| bye" in said and said.count("(not run)") == 4


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_crash_is_reported(check_text: Callable) -> None:
    code, said = check_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    assert code == 1
    assert "while your file was loaded, your code ended its Python process by SIGSEGV" in said


def test_helpers_beside_the_file_are_found_but_replace_no_library(check_text: Callable) -> None:
    for library in ("torch", "json", "colorsys"):
        Path("exercises", f"{library}.py").write_text("raise ImportError('not this one')\n")
    Path("exercises", "check.py").write_text("from colorsys import rgb_to_hsv\nmine = True\n")
    solution = (SOLUTIONS / "pairwise_ranking_loss.py").read_text(encoding="utf-8")
    code, said = check_text(
        solution.replace("import torch\n", "import torch\nfrom check import mine\n")
    )
    assert code == 0, said


@pytest.mark.parametrize(
    "words, said",
    [
        (["nonsense"], ["'nonsense'", "clipped_surrogate, pairwise_ranking_loss"]),
        (["no/such/file.py"], ["there is no file no/such/file.py"]),
        (["clipped_surrogate"], ["exercises", "clipped_surrogate.py", "folder of the clone"]),
        (["mine.py"], ["mine.py is named after no exercise", "clipped_surrogate.py"]),
        ([], ["there are no exercises in", "folder of the clone"]),
    ],
)
def test_bad_calls(
    words: list[str],
    said: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("x = 1\n")
    assert main(["check", *words]) == 2
    streams = capsys.readouterr()
    assert not streams.out and streams.err.count("\n") == 1
    assert all(part in streams.err.replace(os.sep, "/") for part in said)


def test_without_the_clone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "SOLUTIONS", tmp_path / "gone")
    assert main(["check"]) == 2
    assert "clone the repository" in capsys.readouterr().err


# The generator.


def test_generator_keeps_what_it_replaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlhf_edu.grading import generate

    monkeypatch.setattr(generate, "EXERCISES", tmp_path / "exercises")
    generate.main()
    answer = tmp_path / "exercises" / "clipped_surrogate.py"
    stub = answer.read_text(encoding="utf-8")
    for text in ("my first answer\n", "my second answer\n"):
        answer.write_text(text)
        generate.main()
        assert answer.read_text(encoding="utf-8") == stub
    generate.main()
    kept = sorted(path.read_text() for path in answer.parent.glob("*.bak"))
    assert kept == ["my first answer\n", "my second answer\n"]
    assert capsys.readouterr().out.count("kept the old clipped_surrogate.py") == 2


def test_solution_without_marks_is_refused() -> None:
    with pytest.raises(check.InputError, match="BEGIN SOLUTION"):
        make_stub("x", '"""Task 1: x."""\n')
    with pytest.raises(check.InputError, match="docstring"):
        make_stub("x", "### BEGIN SOLUTION\nx = 1\n### END SOLUTION\n")
