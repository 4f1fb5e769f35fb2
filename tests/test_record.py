"""Run folders: nothing half-written is ever read as whole, and what is wrong is said in a line."""

import errno
import json
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf_edu import InputError
from rlhf_edu.lab import record

CONFIG = {"stage": "x", "config": {"rlhf": {"lr": 0.5, "updates": 6}, "seed": 3}, "parents": []}
WEIGHTS = {"embed": torch.arange(40.0).view(8, 5), "head": torch.ones(5, dtype=torch.float64)}


def listing(folder: Path) -> list[str]:
    """Names of all files in a folder, hidden ones included."""
    return sorted(path.name for path in folder.iterdir())


def one_line(error: pytest.ExceptionInfo[Any], *said: str | Path) -> str:
    """The message, which must be one line that says all of this."""
    message = str(error.value)
    assert "\n" not in message
    for words in said:
        assert str(words) in message, message
    return message


def finished(folder: Path) -> Path:
    """A finished run folder like those of a case."""
    record.begin(folder, CONFIG, {"torch": "2"})
    for update in range(3):
        record.append_line(folder / "metrics.jsonl", {"update": update, "loss": 1 / (update + 1)})
    record.write_tensors(folder / "model.safetensors", WEIGHTS, {"sd": 2.0})
    record.finish(folder)
    return folder


# ── Writing ─────────────────────────────────────────────────────────────────────────────────────
WRITERS: dict[str, Callable[[Path, int], None]] = {
    "text": lambda path, n: record.write_text(path, "β" * n),
    "json": lambda path, n: record.write_json(path, {"n": [1] * n}),
    "tensors": lambda path, n: record.write_tensors(path, {"w": torch.ones(n)}),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_write_replaces_the_whole_file(write: Any, tmp_path: Path) -> None:
    path, fresh = tmp_path / "file", tmp_path / "fresh"
    write(path, 1000)
    write(path, 10)
    write(fresh, 10)
    assert path.read_bytes() == fresh.read_bytes()
    assert listing(tmp_path) == ["file", "fresh"]


@pytest.mark.parametrize("failing", ["write_bytes", "replace"])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_write_that_fails_leaves_the_old_file(
    write: Any, failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write(path, 10)
    old = path.read_bytes()
    if failing == "replace":

        def replace(*paths: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "replace", replace)
    else:
        write_bytes = Path.write_bytes

        def write_half(path: Path, content: bytes) -> None:
            write_bytes(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(Path, "write_bytes", write_half)
    for target in (path, tmp_path / "new"):
        with pytest.raises(OSError) as error:
            write(target, 1000)
        assert error.value.errno == errno.ENOSPC and error.value.filename == str(target)
    assert path.read_bytes() == old and listing(tmp_path) == ["file"]


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_an_interrupt_leaves_the_old_file(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*paths: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "file", 10)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_full_disk_leaves_the_old_file(write: Any, small_disk: Path) -> None:
    path = small_disk / "file"
    write(path, 10)
    old = path.read_bytes()
    for target in (path, small_disk / "new"):
        with pytest.raises(OSError) as error:
            write(target, 300_000)
        assert error.value.errno == errno.ENOSPC and error.value.filename == str(target)
    assert path.read_bytes() == old and listing(small_disk) == ["file"]
    write(path, 20)


def test_a_full_disk_stops_a_line(small_disk: Path) -> None:
    path = small_disk / "metrics.jsonl"
    record.append_line(path, {"update": 0})
    with pytest.raises(OSError) as error:
        record.append_line(path, {"update": 1, "text": "x" * 300_000})
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(path)
    record.forget_after(small_disk, 0)
    assert record.read_lines(path) == [{"update": 0}]


def test_a_folder_that_is_gone_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "file"
    for write in (
        lambda: record.write_text(path, "x"),
        lambda: record.write_tensors(path, WEIGHTS),
        lambda: record.append_line(path, {}),
    ):
        with pytest.raises(InputError) as error:
            write()
        one_line(error, path, "cannot be written")


def test_a_line_is_on_disk_at_once_and_has_null_for_what_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    record.append_line(path, {"update": 1, "nan": math.nan, "inf": math.inf, "x": 0.1, "s": "β"})
    nothing = '{"update": 1, "nan": null, "inf": null, "x": 0.1, "s": "\\u03b2"}\n'
    assert path.read_bytes() == nothing.encode()
    record.append_line(path, {"deep": {"list": [1.5, -math.inf]}, "pair": (math.nan, True, None)})
    assert record.read_lines(path)[1] == {"deep": {"list": [1.5, None]}, "pair": [None, True, None]}


def test_json_has_null_for_what_is_not_finite(tmp_path: Path) -> None:
    record.write_json(tmp_path / "a.json", {"a": [math.nan, {"b": -math.inf}], "c": 1e300})

    def strict(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    content = json.loads((tmp_path / "a.json").read_text(), parse_constant=strict)
    assert content == {"a": [None, {"b": None}], "c": 1e300}


# ── Reading ─────────────────────────────────────────────────────────────────────────────────────
def test_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    tensors = {
        "turned": torch.arange(6.0).view(2, 3).T,
        "state": torch.Generator().manual_seed(1).get_state(),
        "learned": torch.nn.Parameter(torch.tensor(1 / 3)),
    }
    notes = {"mean": 1 / 3, "words": "β"}
    record.write_tensors(tmp_path / "a.safetensors", tensors, notes)
    found, read_notes = record.read_tensors(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys() and read_notes == notes
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    record.write_tensors(path, WEIGHTS, {"sd": 2.0})
    return path


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 40, 0.5, 0.9, -8, -1])
def test_truncated_weights_are_refused(length: float, weights: Path) -> None:
    whole = weights.read_bytes()
    cut = int(length * len(whole)) if 0 < length < 1 else int(length)
    weights.write_bytes(whole[:cut])
    with pytest.raises(InputError) as error:
        record.read_tensors(weights)
    one_line(error, weights, "damaged", "--fresh")


def test_weights_with_a_damaged_head_are_refused(weights: Path) -> None:
    whole = weights.read_bytes()
    head = 8 + int.from_bytes(whole[:8], "little")
    for place in range(head):
        weights.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        with pytest.raises(InputError) as error:
            record.read_tensors(weights)
        one_line(error, weights, "damaged")


def test_weights_with_something_behind_them_are_refused(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes() + b"more")
    with pytest.raises(InputError) as error:
        record.read_tensors(weights)
    one_line(error, weights, "damaged")


@pytest.mark.parametrize("read", [record.read_tensors, record.read_json])
def test_a_missing_file_is_named(read: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read(tmp_path / "model.safetensors")
    one_line(error, tmp_path / "model.safetensors", "missing", "--fresh")


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe{}", b"\x80\x81"])
def test_damaged_json_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InputError) as error:
        record.read_json(tmp_path / "config.json")
    one_line(error, tmp_path / "config.json", "damaged", "--fresh")


@pytest.mark.parametrize(
    "second", [b'{"update": 1', b'{"update": 1}', b"\xff\xfe\n", b"5\n", b"null\n", b"\n"]
)
def test_a_damaged_line_is_refused_with_its_number(second: bytes, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"update": 0}\n' + second)
    with pytest.raises(InputError) as error:
        record.read_lines(path)
    one_line(error, path, "line 2", "--fresh")


def test_a_missing_jsonl_has_no_lines(tmp_path: Path) -> None:
    assert record.read_lines(tmp_path / "samples.jsonl") == []


# ── Ranges ──────────────────────────────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Settings:
    updates: int = 4
    lr: float = 0.5
    placement: str = "loss"

    def __post_init__(self) -> None:
        record.check_range(self, updates=(1, 10), lr=(0, 1), placement=("reward", "loss"))


def test_what_is_in_range_is_accepted() -> None:
    for settings in ({"updates": 1}, {"updates": 10}, {"lr": 0}, {"lr": 1}, {"placement": "loss"}):
        Settings(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "field, given, allowed",
    [
        ("updates", 0, "a whole number from 1 to 10"),
        ("updates", 11, "a whole number from 1 to 10"),
        ("updates", 2.0, "a whole number from 1 to 10"),
        ("updates", True, "a whole number from 1 to 10"),
        ("updates", "4", "a whole number from 1 to 10"),
        ("updates", None, "a whole number from 1 to 10"),
        ("lr", -1e-9, "a number from 0 to 1"),
        ("lr", 1.0000001, "a number from 0 to 1"),
        ("lr", math.nan, "a number from 0 to 1"),
        ("lr", math.inf, "a number from 0 to 1"),
        ("lr", "0.5", "a number from 0 to 1"),
        ("lr", False, "a number from 0 to 1"),
        ("placement", "both", "reward, loss"),
        ("placement", 0, "reward, loss"),
    ],
)
def test_what_is_out_of_range_is_named(field: str, given: Any, allowed: str) -> None:
    with pytest.raises(InputError) as error:
        Settings(**{field: given})
    one_line(error, f"Settings.{field} = {given!r}", f"allowed {'are' if ',' in allowed else 'is'}")
    assert str(error.value).endswith(allowed)


# ── A folder's life ─────────────────────────────────────────────────────────────────────────────
def test_a_folder_is_begun_then_finished(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    assert not record.is_begun(folder) and not record.is_finished(folder)
    record.begin(folder, CONFIG, {"torch": "2"})
    assert record.is_begun(folder) and not record.is_finished(folder)
    assert record.read_json(folder / "config.json") == {"format": record.FORMAT, **CONFIG}
    assert record.read_json(folder / "environment.json") == {"torch": "2"}
    record.write_tensors(folder / "state.safetensors", WEIGHTS)
    record.finish(folder)
    assert record.is_finished(folder) and not (folder / "state.safetensors").exists()
    record.verify(folder)


def test_a_folder_without_done_is_interrupted(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    (folder / "done.json").unlink()
    assert record.is_begun(folder) and not record.is_finished(folder)
    with pytest.raises(InputError) as error:
        record.verify(folder)
    one_line(error, folder / "done.json", "missing")


def test_a_begun_folder_is_entered_with_the_same_config_and_loses_nothing(tmp_path: Path) -> None:
    record.begin(tmp_path / "run", CONFIG, {"torch": "2"})
    record.append_line(tmp_path / "run" / "metrics.jsonl", {"update": 0})
    (tmp_path / "run" / ".state.safetensors.99.tmp").write_bytes(b"cut off by a kill")
    record.begin(tmp_path / "run", CONFIG, {"torch": "another"})
    assert listing(tmp_path / "run") == ["config.json", "environment.json", "metrics.jsonl"]
    assert record.read_json(tmp_path / "run" / "environment.json") == {"torch": "2"}


def test_a_kill_before_config_json_does_not_make_a_folder_foreign(tmp_path: Path) -> None:
    (tmp_path / "environment.json").write_text("{}")
    (tmp_path / ".config.json.99.tmp").write_text("{")
    record.begin(tmp_path, CONFIG, {"torch": "2"})
    assert listing(tmp_path) == ["config.json", "environment.json"]
    assert record.read_json(tmp_path / "environment.json") == {"torch": "2"}


def changed(*names: str, to: Any) -> dict[str, Any]:
    """CONFIG with one field changed."""
    config: dict[str, Any] = json.loads(json.dumps(CONFIG))
    inner = config
    for name in names[:-1]:
        inner = inner[name]
    inner[names[-1]] = to
    return config


@pytest.mark.parametrize(
    "wanted, said",
    [
        (changed("config", "rlhf", "lr", to=0.1), "config.rlhf.lr (there 0.5, now 0.1):"),
        (changed("config", "new", to=1), "differs in config.new (there null, now 1):"),
        (changed("parents", to=["a"]), 'differs in parents (there [], now ["a"]):'),
        (changed("stage", to="y") | {"key": "k"}, 'differs in stage (there "x", now "y"):'),
        ({**CONFIG, "key": "k"}, "differs in key:"),
        ({"a": 1, "b": 2, "config": {}, "parents": [], "stage": "x"}, " and 1 more:"),
        ({"a": 1, "b": 2, "config": 3, "parents": [], "stage": "x"}, "config (there"),
    ],
)
def test_a_run_of_another_config_is_refused_naming_the_field(
    wanted: dict[str, Any], said: str, tmp_path: Path
) -> None:
    record.begin(tmp_path, CONFIG, {})
    before = (tmp_path / "config.json").read_bytes()
    for attempt in (record.check_same, lambda folder, config: record.begin(folder, config, {})):
        with pytest.raises(InputError) as error:
            attempt(tmp_path, wanted)
        one_line(error, tmp_path, said, "--fresh")
    assert (tmp_path / "config.json").read_bytes() == before


def test_an_edited_config_is_refused_naming_the_field(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"updates": 6', '"updates": 7'))
    with pytest.raises(InputError) as error:
        record.check_same(folder, CONFIG)
    one_line(error, folder, "config.rlhf.updates (there 7, now 6)")
    with pytest.raises(InputError) as error:
        record.verify(folder)
    one_line(error, folder / "config.json", "damaged", "--fresh")


@pytest.mark.parametrize(
    "content, said",
    [
        ({"format": record.FORMAT + 1, **CONFIG}, f"of format {record.FORMAT + 1}"),
        ({"format": "old"}, "of format old"),
        ({"name": "npm"}, "not of this program"),
        ([1, 2], "not of this program"),
        (None, "not of this program"),
    ],
)
def test_a_folder_of_another_version_or_program_is_refused(
    content: Any, said: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        record.begin(tmp_path, CONFIG, {})
    one_line(error, tmp_path, said, "choose another --out")
    assert json.loads((tmp_path / "config.json").read_text()) == content


@pytest.mark.parametrize("name", ["thesis.tex", "metrics.jsonl", ".hidden"])
def test_a_foreign_folder_is_refused_and_left_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("years of work")
    with pytest.raises(InputError) as error:
        record.begin(tmp_path, CONFIG, {})
    one_line(error, tmp_path, "not a run folder", "choose another --out")
    assert listing(tmp_path) == [name]


# ── Damage to a finished folder ─────────────────────────────────────────────────────────────────
FILES = ("config.json", "environment.json", "metrics.jsonl", "model.safetensors")


def test_a_finished_folder_is_as_it_was(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    record.verify(folder)
    assert listing(folder) == sorted((*FILES, "done.json"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "one byte", "longer"])
def test_every_damage_is_found(name: str, damage: str, tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    path = folder / name
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "one byte":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    else:
        path.write_bytes({"empty": b"", "cut": whole[:-1], "longer": whole + b"{}\n"}[damage])
    with pytest.raises(InputError) as error:
        record.verify(folder)
    one_line(error, path, "missing" if damage == "missing" else "damaged", "--fresh")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "{}", '{"files": []}', '{"files": {"a": 1}}', '{"files": {"a": [1]}}']
    + ['{"files": {"a": ["x", "y"]}}', '{"files": null}'],
)
def test_a_damaged_seal_is_found(content: str, tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    (folder / "done.json").write_text(content)
    with pytest.raises(InputError) as error:
        record.verify(folder)
    one_line(error, folder / "done.json", "damaged", "--fresh")


# ── Going on after an interrupt ─────────────────────────────────────────────────────────────────
def lines(folder: Path, name: str, *written: dict[str, Any]) -> Path:
    for line in written:
        record.append_line(folder / name, line)
    return folder / name


def test_later_lines_are_forgotten(tmp_path: Path) -> None:
    metrics = lines(tmp_path, "metrics.jsonl", *({"update": u, "x": u / 3} for u in range(6)))
    samples = lines(tmp_path, "samples.jsonl", *({"update": u} for u in (0, 0, 2, 2, 4, 4)))
    before = metrics.read_bytes()
    record.forget_after(tmp_path, 3)
    assert [line["update"] for line in record.read_lines(samples)] == [0, 0, 2, 2]
    assert before.startswith(metrics.read_bytes())
    assert [line["update"] for line in record.read_lines(metrics)] == [0, 1, 2, 3]
    record.forget_after(tmp_path, -1)
    assert metrics.read_bytes() == samples.read_bytes() == b""


def test_the_last_examination_is_forgotten(tmp_path: Path) -> None:
    """It is taken again: a kill may have come between its lines and done.json."""
    end = {"update": 1, "final": True}
    metrics = lines(tmp_path, "metrics.jsonl", {"update": 0}, {"update": 1}, end)
    samples = lines(tmp_path, "samples.jsonl", {"update": 0}, end, end)
    record.forget_after(tmp_path, 1)
    assert record.read_lines(metrics) == [{"update": 0}, {"update": 1}]
    assert record.read_lines(samples) == [{"update": 0}]


@pytest.mark.parametrize("rest", [b'{"update": 2', b'{"update": 2}', b"\xff\xff\n", b'"x"\n'])
def test_a_line_that_was_cut_off_is_forgotten(rest: bytes, tmp_path: Path) -> None:
    for name in ("metrics.jsonl", "samples.jsonl"):
        path = lines(tmp_path, name, {"update": 0}, {"update": 1})
        path.write_bytes(path.read_bytes() + rest)
    record.forget_after(tmp_path, 1)
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert record.read_lines(tmp_path / name) == [{"update": 0}, {"update": 1}]


def test_a_line_without_an_update_is_forgotten(tmp_path: Path) -> None:
    path = lines(tmp_path, "metrics.jsonl", {"final": True, "labels": 3})
    record.forget_after(tmp_path, -1)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("content", [None, b"", b'{"update": 0}\n{"upd', b'{"update": 0}\n[]\n'])
def test_a_run_does_not_go_on_over_a_hole(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as error:
        record.forget_after(tmp_path, 4)
    one_line(error, path, "damaged", "up to 4", "--fresh")
    assert content is None or path.read_bytes() == content


def test_forgetting_makes_no_files(tmp_path: Path) -> None:
    record.forget_after(tmp_path, -1)
    assert listing(tmp_path) == []


# ── Copies ──────────────────────────────────────────────────────────────────────────────────────
def test_a_copy_is_whole_and_holds_only_what_was_sealed(tmp_path: Path) -> None:
    source, target = finished(tmp_path / "run"), tmp_path / "deep" / "cache" / "key"
    for passing in ("state.safetensors", ".model.safetensors.99.tmp"):
        (source / passing).write_text("left by a kill")
    record.copy_finished(source, target)
    record.verify(target)
    assert listing(target) == sorted((*FILES, "done.json"))
    for name in listing(target):
        assert (target / name).read_bytes() == (source / name).read_bytes()
    assert listing(target.parent) == ["key"]


@pytest.mark.parametrize("after", range(5))
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_a_copy_that_is_cut_off_is_absent(
    after: int, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = finished(tmp_path / "run"), tmp_path / "cache" / "key"
    copyfile, copied = shutil.copyfile, []

    def cut_off(a: Path, b: Path) -> None:
        if len(copied) == after:
            b.write_bytes(a.read_bytes()[:5])
            raise error
        copied.append(copyfile(a, b))

    monkeypatch.setattr(shutil, "copyfile", cut_off)
    with pytest.raises(type(error)) as raised:
        record.copy_finished(source, target)
    if isinstance(raised.value, OSError):
        assert raised.value.errno == errno.ENOSPC and str(target) in str(raised.value)
    assert listing(target.parent) == []
    monkeypatch.undo()
    record.copy_finished(source, target)
    record.verify(target)


def test_a_copy_on_a_full_disk_is_absent(small_disk: Path, tmp_path: Path) -> None:
    source = finished(tmp_path / "run")
    (small_disk / "filler").write_bytes(b"x" * (200 * 1024 - 8 * 1024))
    with pytest.raises(OSError) as error:
        record.copy_finished(source, small_disk / "key")
    assert error.value.errno == errno.ENOSPC
    assert listing(small_disk) == ["filler"]


def test_a_finished_copy_stays(tmp_path: Path) -> None:
    source, target = finished(tmp_path / "run"), finished(tmp_path / "key")
    (target / "mark").touch()
    record.copy_finished(source, target)
    assert (target / "mark").exists()


def test_two_copies_at_once_are_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = finished(tmp_path / "run"), tmp_path / "cache" / "key"

    def another_was_faster(*paths: Any) -> None:
        shutil.copytree(source, target)
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    monkeypatch.setattr(os, "replace", another_was_faster)
    record.copy_finished(source, target)
    record.verify(target)
    assert listing(target.parent) == ["key"]


# ── One run at a time ───────────────────────────────────────────────────────────────────────────
def test_a_folder_is_held_by_one_run_at_a_time(tmp_path: Path) -> None:
    with record.alone_in(tmp_path):
        with pytest.raises(InputError) as error:
            with record.alone_in(tmp_path):
                raise AssertionError("two runs at work in one folder")
        one_line(error, tmp_path, "another run is at work")
    with record.alone_in(tmp_path):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and kill -9")
def test_a_killed_run_holds_nothing(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with record.alone_in(tmp_path):
            (tmp_path / "held").touch()
            time.sleep(60)
        os._exit(0)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(InputError), record.alone_in(tmp_path):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with record.alone_in(tmp_path):
        pass


def test_a_disk_without_locks_does_not_stop_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fcntl = pytest.importorskip("fcntl", reason="POSIX only")

    def no_locks(*args: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with record.alone_in(tmp_path):
        pass


def test_the_environment_says_what_numbers_depend_on() -> None:
    environment = record.environment(torch.device("cpu"))
    assert environment["torch"] == torch.__version__ and environment["device"] == "cpu"
    assert environment["threads"] == torch.get_num_threads()
    assert {"rlhf_edu", "python", "system", "date"} <= environment.keys()
