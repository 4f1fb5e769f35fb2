"""The process in which a student's file runs: it reads calls, makes them, and writes the answers.

Started by check.py as a plain script, `python worker.py FOLDER`, so that whatever the student's
code does to its process (hang, crash, patch torch) happens here and not where answers are judged.
FOLDER/job.json holds {"file", "function", "gradient_of", "calls": [arguments, ...]}; one JSON
line per step goes to FOLDER/answers.jsonl: first {"loaded": true}, then an answer to each call.
An answer is {"value", "gradients"}, or {"error"} when the student's code raised. Tensors travel
as dtype, shape and numbers; neither the expected values nor the wrong variants ever come here.

This file imports torch and the standard library only, and is read as a module by check.py for
`pack` and `unpack`.
"""

import json
import sys
import traceback
import types
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    # Python put this folder first on the path. Off with it before torch is imported, or a file
    # here would stand in for a module of the same name.
    sys.path.pop(0)

import numpy as np
import torch
from torch import Tensor

NUMPY_DTYPES = ("float64", "float32", "float16", "int64", "int32", "bool")
MAX_NUMBERS = 100_000  # a larger result travels as dtype and shape alone


def pack(value: Any) -> dict[str, Any]:
    """A tensor as {"dtype", "shape", "numbers"}; anything else as {"type": its name}.

    A numpy array is packed like a tensor, with "numpy" added.
    """
    if isinstance(value, np.ndarray) and str(value.dtype) in NUMPY_DTYPES:
        return pack(torch.from_numpy(np.array(value))) | {"numpy": True}
    if not isinstance(value, Tensor):
        return {"type": type(value).__name__}
    flat = value.detach().cpu().flatten()
    small = flat.numel() <= MAX_NUMBERS and not flat.is_complex()
    numbers = flat.tolist() if small else None
    dtype = str(value.dtype).removeprefix("torch.")
    return {"dtype": dtype, "shape": list(value.shape), "numbers": numbers}


def unpack(packed: Any) -> Any:
    """The tensor that `pack` described; numbers, strings and None come back as they are."""
    if not isinstance(packed, dict):
        return packed
    dtype = getattr(torch, packed["dtype"])
    return torch.tensor(packed["numbers"], dtype=dtype, device="cpu").reshape(packed["shape"])


def load(file: Path) -> dict[str, Any]:
    """Run a Python file and return its names. Compiled from the source: no stale bytecode."""
    module = types.ModuleType(f"exercise_file_{file.stem}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # dataclasses look their module up here
    exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)
    return module.__dict__


def answer(function: Any, arguments: dict[str, Any], gradient_of: list[str]) -> dict[str, Any]:
    """Call the function and differentiate what it returns with respect to `gradient_of`.

    A single number is differentiated, and an input it does not depend on has gradient zero. With
    no gradient at all, "gradients" is None. Each input is a copy made inside the graph, so that
    code which changes its inputs in place still gets its gradient.
    """
    leaves = {name: arguments[name].clone().requires_grad_() for name in gradient_of}
    with torch.enable_grad():
        value = function(**(arguments | {name: leaf.clone() for name, leaf in leaves.items()}))
        gradients = None
        if isinstance(value, Tensor) and value.requires_grad and value.numel() == 1:
            found = torch.autograd.grad(value.sum(), list(leaves.values()), materialize_grads=True)
            gradients = {name: pack(g) for name, g in zip(leaves, found, strict=True)}
    return {"value": pack(value), "gradients": gradients}


def describe(error: BaseException, file: Path) -> dict[str, Any]:
    """Type, message and the last line in the student's file of what was raised there."""
    line, text = None, None
    if isinstance(error, SyntaxError) and error.filename == str(file):
        line, text = error.lineno, error.text
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == str(file):
            line, text = frame.lineno, frame.line
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    text = text.strip() if text else None
    return {"type": type(error).__name__, "message": message, "line": line, "text": text}


def main(folder: Path) -> None:
    """Do the job in `folder`; every answer is on disk before the next call is made."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    file = Path(job["file"])
    sys.path.append(str(file.parent))  # last: helpers beside the file are found, torch stays torch
    with (folder / "answers.jsonl").open("w", encoding="utf-8") as answers:

        def say(message: dict[str, Any]) -> None:
            answers.write(json.dumps(message) + "\n")
            answers.flush()

        try:
            names = load(file)
        except BaseException as error:  # also SystemExit: a student's file may call exit()
            say({"error": describe(error, file)})
            return
        if not callable(names.get(job["function"])):
            say({"missing": True})
            return
        say({"loaded": True})
        for call in job["calls"]:
            arguments = {name: unpack(packed) for name, packed in call.items()}
            try:
                say(answer(names[job["function"]], arguments, job["gradient_of"]))
            except BaseException as error:
                say({"error": describe(error, file)})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
