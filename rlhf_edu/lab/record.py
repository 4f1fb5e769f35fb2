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
"""

import hashlib
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf_edu import InputError, __version__

FORMAT = 1  # raised when an older folder can no longer be read


def check_range(config: Any, **allowed: tuple[Any, ...]) -> None:
    """Raise InputError, naming the field, unless each field of a config has an allowed value.

    `allowed` maps a field to (lowest, highest) for a number, or to the list of words it may be.
    """
    name = type(config).__name__
    for field, values in allowed.items():
        given = getattr(config, field)
        if isinstance(values[0], str):
            if given not in values:
                raise InputError(f"{name}.{field} = {given!r}: allowed are {', '.join(values)}")
            continue
        whole = next(f.type for f in fields(config) if f.name == field) in (int, "int")
        number = isinstance(given, int if whole else (int, float)) and not isinstance(given, bool)
        if not number or not math.isfinite(given) or not values[0] <= given <= values[1]:
            kind = "a whole number" if whole else "a number"
            raise InputError(
                f"{name}.{field} = {given!r}: allowed is {kind} from {values[0]} to {values[1]}"
            )


# ── Writing ─────────────────────────────────────────────────────────────────────────────────────
def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: to a temporary name, then moved into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """`write_text` of indented JSON."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any] | None = None
) -> None:
    """Write tensors (.safetensors) and JSON `notes` in one file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(
            {k: v.detach().cpu().contiguous() for k, v in tensors.items()},
            temporary,
            {"notes": json.dumps(notes or {})},
        )
        os.replace(temporary, path)
    except safetensors.SafetensorError as error:  # it wraps the operating system's error
        raise OSError(f"{path}: could not be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Add one JSON line to a .jsonl file, at once; NaN and infinity become null."""
    finite = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(finite) + "\n")


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
        return load_file(path), notes
    except FileNotFoundError:
        raise InputError(f"{path} is missing: {_MEND}") from None
    except (safetensors.SafetensorError, ValueError):
        raise InputError(f"{path} is damaged (truncated, or not safetensors): {_MEND}") from None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a .jsonl file; InputError if one of them is damaged. A missing file has none."""
    if not path.exists():
        return []
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        try:
            if not line.endswith("\n"):
                raise ValueError
            lines.append(json.loads(line))
        except ValueError:
            raise InputError(f"{path} is damaged in line {number}: {_MEND}") from None
    return lines


_MEND = "run again with --fresh to make it anew, or remove its folder"


# ── A folder's life: begin → (interrupted → continue) → finish ──────────────────────────────────
def begin(folder: Path, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
    """Make a run folder, or enter one that was begun with the same config.

    Raises InputError if the folder is foreign, of another format, or of another config.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    if not path.exists():
        if any(not p.name.endswith(".tmp") for p in folder.iterdir()):
            raise InputError(
                f"{folder} holds files but no config.json, so it is not a run folder: "
                "choose another --out"
            )
        write_json(folder / "environment.json", environment)
        write_json(path, {"format": FORMAT, **config})
        return
    check_same(folder, config)


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
        differing = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
        raise InputError(
            f"{folder} holds a run that differs in {', '.join(differing)}: "
            "choose another --out, or make it anew with --fresh"
        )


def is_begun(folder: Path) -> bool:
    """Was a run begun here?"""
    return (folder / "config.json").exists()


def is_finished(folder: Path) -> bool:
    """Was the run finished? (`verify` says whether its files are still whole.)"""
    return (folder / "done.json").exists()


def finish(folder: Path) -> None:
    """Seal a folder: drop the resume state, write done.json with each file's size and digest."""
    (folder / "state.safetensors").unlink(missing_ok=True)
    files = sorted(
        p for p in folder.iterdir() if p.name != "done.json" and not p.name.endswith(".tmp")
    )
    write_json(
        folder / "done.json",
        {"format": FORMAT, "files": {p.name: [p.stat().st_size, _digest(p)] for p in files}},
    )


def verify(folder: Path) -> None:
    """Raise InputError unless every file of a finished folder is as it was when it was sealed."""
    for name, (size, digest) in read_json(folder / "done.json")["files"].items():
        path = folder / name
        if not path.exists():
            raise InputError(f"{path} is missing: {_MEND}")
        if path.stat().st_size != size or _digest(path) != digest:
            raise InputError(
                f"{path} is damaged ({path.stat().st_size} bytes, {size} when it was "
                f"written): {_MEND}"
            )


def forget_after(folder: Path, update: int) -> None:
    """Before a run is continued at `update`: drop later lines, and a line that was cut off."""
    for name in ("metrics.jsonl", "samples.jsonl"):
        path = folder / name
        if path.exists():
            kept = []
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines(
                keepends=True
            ):
                try:
                    if line.endswith("\n") and json.loads(line)["update"] <= update:
                        kept.append(line)
                except (ValueError, KeyError, TypeError):
                    break
            write_text(path, "".join(kept))


def copy_finished(source: Path, target: Path) -> None:
    """Copy a finished folder so that the target is whole or absent."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        shutil.copytree(source, temporary)
        if not target.exists():
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
        else platform.machine(),
        "threads": torch.get_num_threads(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
