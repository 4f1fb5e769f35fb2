"""What travels between the checker and a worker: a header in JSON and the raw bytes of arrays.

    message = length of header, length of bytes (two 4-byte numbers) | header | bytes

A value is described as a tree of what it is made of; its arrays are bytes at the end, never
pickled. What comes back from a worker is only ever taken for numbers: a forged message gains
nothing, for it would have to hold the right ones. Nothing in here trusts the other side: sizes are
bounded, and what does not fit its own description raises WireError.
This file is read by the worker too: torch, numpy and the standard library only.
"""

import json
import math
import os
import select
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

MAX_HEADER, MAX_BYTES, MAX_DEPTH, MAX_ITEMS = 4 * 2**20, 64 * 2**20, 8, 10_000
DTYPES = {str(d).removeprefix("torch."): d for d in (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool)}
LOOK = 0.2  # seconds between two looks at something else while a message is waited for
NOT_CALLED = "was not called: it had run into trouble before"


class WireError(Exception):
    """The other side has gone, or has said something that is not a message."""


class Unwanted(WireError):
    """What was asked meanwhile said to wait no longer."""


# ── Values ──────────────────────────────────────────────────────────────────────────────────────
def describe(value: Any, blobs: list[bytes], depth: int = 0) -> Any:
    """A value as a tree for JSON; the bytes of its arrays are added to `blobs`."""
    if isinstance(value, np.ndarray | np.generic):
        array = np.array(value, copy=True, subok=False, order="C")
        name = str(array.dtype)
        if name not in DTYPES:
            return _other(value, f"a numpy array of dtype {name}")
        return _array("numpy", name, list(array.shape), array.tobytes(), blobs)
    if value is None or isinstance(value, bool | str):
        kind = "none" if value is None else "bool" if isinstance(value, bool) else "str"
        return {"kind": kind, "value": str(value)[:10_000] if kind == "str" else value}
    if isinstance(value, int):
        return {"kind": "int", "value": int(value)} if abs(value) < 2**63 else _other(value)
    if isinstance(value, float):
        return {"kind": "float", "value": repr(float(value))}  # NaN and infinity too
    if isinstance(value, Tensor):
        plain = torch.Tensor.detach(value)
        if type(plain) is not Tensor:
            plain = plain.as_subclass(Tensor)
        name = str(plain.dtype).removeprefix("torch.")
        if name not in DTYPES or plain.layout != torch.strided or plain.is_meta:
            return _other(value, f"a tensor of dtype {name}, {plain.layout}, on {plain.device}")
        plain = plain.cpu().resolve_neg().contiguous()
        raw = plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""
        return _array("torch", name, list(plain.shape), raw, blobs)
    if isinstance(value, tuple | list) and depth < MAX_DEPTH and len(value) <= MAX_ITEMS:
        parts = [describe(each, blobs, depth + 1) for each in value]
        return {"kind": "tuple" if isinstance(value, tuple) else "list", "items": parts}
    if isinstance(value, dict) and depth < MAX_DEPTH and len(value) <= MAX_ITEMS:
        if all(type(key) is str for key in value):
            items = {key: describe(each, blobs, depth + 1) for key, each in value.items()}
            return {"kind": "dict", "items": items}
    return _other(value)


def _other(value: Any, words: str = "") -> dict[str, Any]:
    return {"kind": "other", "type": words or type(value).__name__[:100]}


def _array(library: str, dtype: str, shape: list[int], raw: bytes, blobs: list[bytes]) -> Any:
    if sum(map(len, blobs)) + len(raw) > MAX_BYTES:
        return {"kind": "other", "type": f"an array of more than {MAX_BYTES // 2**20} MB"}
    blobs.append(raw)
    return {"kind": library, "dtype": dtype, "shape": shape, "bytes": len(raw)}


def copy(value: Any) -> Any:
    """A value as it is after travelling."""
    blobs: list[bytes] = []
    tree = describe(value, blobs)
    return rebuild(tree, memoryview(b"".join(blobs)))


def as_bytes(value: Any) -> bytes:
    """A value as it travels: equal bytes, equal values."""
    blobs: list[bytes] = []
    return message(describe(value, blobs), blobs)


def rebuild(tree: Any, raw: memoryview) -> Any:
    """The value that a tree describes; WireError if it is none. Its arrays follow in `raw`."""
    value, rest = _rebuild(tree, raw, 0)
    if len(rest):
        raise WireError("bytes are left over")
    return value


class Other(str):
    """The name of a type that does not travel."""


def _rebuild(tree: Any, raw: memoryview, depth: int) -> tuple[Any, memoryview]:
    if not isinstance(tree, dict) or depth > MAX_DEPTH + 1:
        raise WireError("not a value")
    kind = tree.get("kind")
    value = tree.get("value")
    if kind == "none":
        return None, raw
    if kind == "bool" and isinstance(value, bool):
        return value, raw
    if kind == "str" and isinstance(value, str):
        return value, raw
    if kind == "int" and type(value) is int and abs(value) < 2**63:
        return value, raw
    if kind == "float" and isinstance(value, str) and len(value) < 40:
        try:
            return float(value), raw
        except ValueError:
            raise WireError("not a number") from None
    if kind == "other" and isinstance(tree.get("type"), str):
        return Other(tree["type"][:100]), raw
    if kind in ("torch", "numpy"):
        return _rebuild_array(kind, tree, raw)
    items = tree.get("items")
    if kind in ("tuple", "list") and isinstance(items, list):
        values = []
        for each in items:
            part, raw = _rebuild(each, raw, depth + 1)
            values.append(part)
        return (tuple(values) if kind == "tuple" else values), raw
    if kind == "dict" and isinstance(items, dict):
        parts = {}
        for key, each in items.items():
            parts[key], raw = _rebuild(each, raw, depth + 1)
        return parts, raw
    raise WireError("not a value")


def _rebuild_array(kind: str, tree: dict[str, Any], raw: memoryview) -> tuple[Any, memoryview]:
    dtype, shape, size = DTYPES.get(str(tree.get("dtype"))), tree.get("shape"), tree.get("bytes")
    if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise WireError("not an array")
    if dtype is None or not isinstance(size, int) or not 0 <= size <= len(raw):
        raise WireError("not an array")
    if size != math.prod(shape) * dtype.itemsize:
        raise WireError("an array of another size")
    tensor = torch.frombuffer(bytearray(raw[:size]), dtype=torch.uint8) if size else torch.empty(
        0, dtype=torch.uint8)
    tensor = tensor.view(dtype).reshape(shape)
    if dtype == torch.bool:  # any byte but 0 is true, and 1 afterwards
        tensor = tensor.view(torch.uint8) != 0
    return (tensor.numpy() if kind == "numpy" else tensor), raw[size:]


# ── Messages ────────────────────────────────────────────────────────────────────────────────────
def message(header: dict[str, Any], blobs: list[bytes]) -> bytes:
    """A message as bytes."""
    head, body = json.dumps(header).encode(), b"".join(blobs)
    return struct.pack("!II", len(head), len(body)) + head + body


def send(fd: int, header: dict[str, Any], blobs: list[bytes], deadline: float = math.inf) -> None:
    """Write a message; WireError if the other side is gone or does not read in time."""
    rest = memoryview(message(header, blobs))
    while rest:
        _wait(fd, deadline, write=True)
        try:
            rest = rest[os.write(fd, rest[:65536]):]
        except OSError:
            raise WireError("the other side is gone") from None


def receive(fd: int, deadline: float = math.inf,
            unwanted: Callable[[], bool] | None = None) -> tuple[dict[str, Any], memoryview]:
    """Read a message; WireError if it does not come, is none, or comes too late (TimeoutError).

    While it is waited for, `unwanted` is asked every now and then whether to give up (Unwanted).
    """
    sizes = struct.unpack("!II", _read(fd, 8, deadline, unwanted))
    if sizes[0] > MAX_HEADER or sizes[1] > MAX_BYTES:
        raise WireError("a message that is too long")
    head, body = (_read(fd, size, deadline, unwanted) for size in sizes)
    try:
        header = json.loads(head)
    except (ValueError, RecursionError):
        raise WireError("a header that is not JSON") from None
    if not isinstance(header, dict):
        raise WireError("a header that is none")
    return header, memoryview(body)


def _read(fd: int, size: int, deadline: float, unwanted: Callable[[], bool] | None) -> bytes:
    parts, left = [], size
    while left:
        _wait(fd, deadline, unwanted=unwanted)
        try:
            part = os.read(fd, min(left, 2**20))
        except OSError:
            part = b""
        if not part:
            raise WireError("the other side is gone")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _wait(fd: int, deadline: float, write: bool = False,
          unwanted: Callable[[], bool] | None = None) -> None:
    if deadline == math.inf:
        return
    while True:
        if unwanted is not None and unwanted():
            raise Unwanted
        left = max(0.0, deadline - time.monotonic())
        ready = select.select([] if write else [fd], [fd] if write else [], [],
                              left if unwanted is None else min(left, LOOK))
        if ready[0] or ready[1]:
            return
        if time.monotonic() >= deadline:
            raise TimeoutError
