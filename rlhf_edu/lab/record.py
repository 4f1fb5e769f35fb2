"""Run folders: what a run leaves behind, so that it can be read, trusted and continued.

    config.json         what was asked for, and the format of this folder
    environment.json    versions, device, threads, date
    metrics.jsonl       one line an update, written as it happens
    samples.jsonl       prompts and replies along the way
    model.safetensors   the weights at the end
    state.safetensors   everything a resumed run needs; gone when the run is finished
    done.json           sizes and digests of the files above; written last

A folder without done.json is an interrupted run, never a whole one. Every file but the two .jsonl
is written to a temporary name and moved into place, so a kill at any moment leaves the old file or
the new one; a .jsonl that was cut off in mid-line loses that line when the run is resumed.
JSON cannot say NaN or infinity: such a number is written as null.
"""

import errno
import hashlib
import json
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rlhf_edu import InputError, __version__
from rlhf_edu.lab.machine import cpu_name

FORMAT = 1  # raised when an older folder can no longer be read


def check_range(config: Any, **allowed: tuple[Any, ...]) -> None:
    """Raise InputError, naming the field, unless each field of a config has an allowed value.

    `allowed` maps a field to (lowest, highest) for a number, to the list of words it may be, or to
    (False, True).
    """
    name = type(config).__name__
    for field, values in allowed.items():
        given = getattr(config, field)
        if isinstance(values[0], str | bool):
            if type(given) is not type(values[0]) or given not in values:
                words = ", ".join(map(str, values))
                raise InputError(f"{name}.{field} = {given!r}: allowed are {words}")
            continue
        whole = next(f.type for f in fields(config) if f.name == field) in (int, "int")
        number = isinstance(given, int if whole else (int, float)) and not isinstance(given, bool)
        if not number or not values[0] <= given <= values[1]:  # NaN is in no range
            kind = "a whole number" if whole else "a number"
            raise InputError(
                f"{name}.{field} = {given!r}: allowed is {kind} from {values[0]} to {values[1]}"
            )


# ── Writing ─────────────────────────────────────────────────────────────────────────────────────
@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Have an error of the disk say which file it is about."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path} cannot be written: no file can be made in that folder") from None
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _write(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: to a temporary name, then moved into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _naming(path):
            temporary.write_bytes(content)
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    _write(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(finite(content), indent=2) + "\n")


def finite(content: Any) -> Any:
    """The same content with None in place of every NaN and infinity."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {name: finite(each) for name, each in content.items()}
    if isinstance(content, list | tuple):
        return [finite(each) for each in content]
    return content


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any] | None = None
) -> None:
    """Write tensors (.safetensors) and JSON `notes` in one file, whole or not at all."""
    on_host = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _write(path, safetensors.torch.save(on_host, {"notes": json.dumps(notes or {})}))


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add one JSON line to a .jsonl file, at once."""
    with _naming(path), path.open("ab") as file:
        file.write(json.dumps(finite(line)).encode() + b"\n")


# ── Reading ─────────────────────────────────────────────────────────────────────────────────────
def read_json(path: Path) -> Any:
    """The content of a JSON file; InputError if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {_MEND}") from None
    except (ValueError, UnicodeDecodeError):
        raise InputError(f"{path} is damaged (not JSON): {_MEND}") from None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Tensors and notes of a .safetensors file; InputError if it is missing or damaged."""
    try:
        with safetensors.safe_open(path, "pt") as file:
            notes = json.loads((file.metadata() or {}).get("notes", "{}"))
        return safetensors.torch.load_file(path), notes
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {_MEND}") from None
    except (safetensors.SafetensorError, ValueError):
        raise InputError(f"{path} is damaged (truncated, or not safetensors): {_MEND}") from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl file; InputError if one of them is damaged. A missing file has none."""
    if not path.exists():
        return []
    lines = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        content = _line(line)
        if content is None:
            raise InputError(f"{path} is damaged in line {number}: {_MEND}")
        lines.append(content)
    return lines


def _line(line: bytes) -> dict[str, Any] | None:
    """The content of one line of a .jsonl file; None if it is cut off or damaged."""
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) and line.endswith(b"\n") else None


_MEND = "run again with --fresh to make it anew, or remove its folder"


# ── A folder's life: begin → (interrupted → continue) → finish ──────────────────────────────────
def begin(folder: Path, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
    """Make a run folder, or enter one that was begun with the same config.

    Raises InputError if the folder is foreign, of another format, or of another config.
    """
    if is_begun(folder):
        check_same(folder, config)
        for cut_off in folder.glob(".*.tmp"):  # a file that was being written at a kill
            cut_off.unlink()
        return
    make_room(folder)
    folder.mkdir(parents=True)
    write_json(folder / "environment.json", environment)
    write_json(folder / "config.json", {"format": FORMAT, **config})


def make_room(folder: Path) -> None:
    """Remove a folder in which no run was begun; InputError if it holds files that are not ours."""
    if not folder.exists():
        return
    strangers = {path.name for path in folder.iterdir() if not path.name.endswith(".tmp")}
    if strangers - {"environment.json"}:  # which is written just before config.json
        raise InputError(
            f"{folder} holds files but no config.json, so it is not a run folder: "
            "choose another --out, or make it anew with --fresh"
        )
    shutil.rmtree(folder)


def check_same(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise InputError unless a begun folder is of this format and this config."""
    found = read_json(folder / "config.json")
    if not isinstance(found, dict) or "format" not in found:
        raise InputError(
            f"{folder} has a config.json that is not of this program: choose another --out"
        )
    if found["format"] != FORMAT:
        raise InputError(
            f"{folder} is a run folder of format {found['format']}, this version reads "
            f"format {FORMAT}: choose another --out, or make it anew with --fresh"
        )
    wanted = json.loads(json.dumps({"format": FORMAT, **config}))
    if found != wanted:
        raise InputError(
            f"{folder} holds a run that differs in {_differences(found, wanted)}: "
            "choose another --out, or make it anew with --fresh"
        )


def _differences(found: Any, wanted: Any) -> str:
    """The fields in which two configs differ, each with both values; three at most.

    A stage's key is a digest of the rest, and says nothing more.
    """

    def differing(a: Any, b: Any, name: str) -> Iterator[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            for field in sorted({*a, *b} - {"key"}):
                yield from differing(a.get(field), b.get(field), f"{name}.{field}".lstrip("."))
        elif a != b:
            yield f"{name} (there {json.dumps(a)}, now {json.dumps(b)})"

    names = list(differing(found, wanted, "")) or ["key"]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def is_begun(folder: Path) -> bool:
    """Was a run begun here?"""
    return (folder / "config.json").exists()


def is_finished(folder: Path) -> bool:
    """Was the run finished? (`verify` says whether its files are still whole.)"""
    return (folder / "done.json").exists()


def finish(folder: Path) -> None:
    """Seal a folder: write done.json with each file's size and digest, drop the resume state."""
    passing = ("state.safetensors", "done.json")
    files = sorted(
        p for p in folder.iterdir() if p.name not in passing and not p.name.endswith(".tmp")
    )
    write_json(
        folder / "done.json",
        {"format": FORMAT, "files": {p.name: [p.stat().st_size, _digest(p)] for p in files}},
    )
    (folder / "state.safetensors").unlink(missing_ok=True)


def verify(folder: Path) -> None:
    """Raise InputError unless every file of a finished folder is as it was when it was sealed."""
    for name, (size, digest) in _sealed(folder).items():
        path = folder / name
        if not path.exists():
            raise InputError(f"{path} is missing: {_MEND}")
        if path.stat().st_size != size or _digest(path) != digest:
            raise InputError(
                f"{path} is damaged ({path.stat().st_size} bytes, {size} when it was "
                f"written): {_MEND}"
            )


def _sealed(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and digest of each file, from done.json."""
    done = read_json(folder / "done.json")
    try:
        return {name: (int(size), str(digest)) for name, (size, digest) in done["files"].items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{folder / 'done.json'} is damaged: {_MEND}") from None


def forget_after(folder: Path, update: int) -> None:
    """Before a run is continued at `update`: drop later lines, and a line that was cut off.

    Raises InputError if metrics.jsonl lacks one of the updates 0 … `update`.
    """
    for name in ("metrics.jsonl", "samples.jsonl"):
        path, end, updates = folder / name, 0, []
        before = path.read_bytes() if path.exists() else b""
        for line in before.splitlines(keepends=True):
            content = _line(line)
            if content is None or content.get("final") or content["update"] > update:
                break
            end += len(line)
            updates.append(content["update"])
        if name == "metrics.jsonl" and updates != list(range(update + 1)):
            raise InputError(
                f"{path} is damaged: it does not hold the updates up to {update}, where the run "
                f"was interrupted: {_MEND}"
            )
        if end < len(before):
            os.truncate(path, end)


def copy_finished(source: Path, target: Path) -> None:
    """Copy a finished folder so that the target is whole or absent; a finished target stays."""
    if is_finished(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        for name in (*_sealed(source), "done.json"):
            with _naming(target / name):
                shutil.copyfile(source / name, temporary / name)
        os.replace(temporary, target)
    except OSError:
        if not is_finished(target):  # else another process was faster, with the same
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; InputError if another one holds it.

    The lock is the operating system's, so it ends with the process, however that ends.
    """
    with (folder / ".lock").open("ab") as file:
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            # Some network disks know no locks: there a folder is held by nobody.
            if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise InputError(
                    f"another run is at work in {folder}: wait until it has ended, "
                    "or choose another --out"
                ) from None
        yield


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def environment(device: torch.device) -> dict[str, Any]:
    """What the numbers of a run depend on besides its config, and when it was made."""
    return {
        "rlhf_edu": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else cpu_name(),
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
