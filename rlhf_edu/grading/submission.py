"""What a student handed in, read without trusting it: no link is followed, nothing is run.

A submission is a folder, or one file. A question NAME is answered by NAME.py, by the cells tagged
NAME of a notebook, by the section `# %% NAME` of a file that answers several, or, where answers are
data and not code, by NAME.json. What cannot be read is said in a line; the rest is graded.
"""

import importlib.util
import io
import json
import os
import re
import stat
import tokenize
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_FILE, MAX_ALL, MAX_FILES = 5 * 2**20, 40 * 2**20, 500  # bytes, bytes, files
MAX_CODE = 2**20  # characters of the code of one question
TOO_MANY = (f"more files were left out: {MAX_FILES} files and {MAX_ALL // 2**20} MB in all are "
            "allowed")
# Neither a link is followed, should the file become one, nor a pipe waited for.
READ = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
# Not the start of a line of Python, such as `% count` and `!= x` below a bracket.
MAGIC = re.compile(r"^([ \t]*)((?:%%?[A-Za-z]|!(?!=)|\?|[\w.]+\?).*)$", re.M)
FOREIGN = re.compile(r"\s*%%(?!time|capture|prun)")
SECTION = re.compile(r"^# %%[ \t]*(\w*)[^\n]*$", re.M)


@dataclass(frozen=True)
class Submission:
    """The files of a submission that can be read, and a line for each that cannot."""

    files: dict[str, bytes]  # by path inside the folder
    complaints: list[str]


def read_submission(given: Path, follow: bool = True) -> Submission:
    """Read a folder or a file, whatever is in it; it may be a link itself if we `follow` it."""
    try:
        if given.is_symlink() and not follow:
            return Submission({}, [f"{given.name!r} was left out: it is a link"])
        if not given.exists():
            return Submission({}, [f"there is no {given.name!r}"])
        if given.is_file():
            return read_files(given.parent, [given])
        return read_files(given, files_in(given))
    except OSError as error:
        return Submission({}, [f"{given.name!r} cannot be read: {error.strerror}"])


def files_in(folder: Path) -> list[Path]:
    """The files of a folder and below, those next to its root first; links among them.

    What programs leave behind (hidden files, notebooks' checkpoints, macOS' resource forks) is not
    the student's work.
    """
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith((".", "__pycache__", "__MACOSX"))]
        links = [f for f in folders if os.path.islink(os.path.join(where, f))]
        found += [Path(where, name) for name in [*names, *links] if not name.startswith(".")]
    return sorted(found, key=lambda path: (len(path.parts), path))


def read_files(root: Path, paths: Iterable[Path]) -> Submission:
    """Read these files of a folder; what is too large, a link or no plain file is left out."""
    files: dict[str, bytes] = {}
    complaints, too_many = [], 0
    for path in paths:
        complaint = _read(path, path.relative_to(root).as_posix(), files)
        if complaint == TOO_MANY:
            too_many += 1
        elif complaint:
            complaints.append(complaint)
    if too_many:
        complaints.append(f"{too_many} {TOO_MANY}")
    return Submission(files, complaints)


def _read(path: Path, name: str, files: dict[str, bytes]) -> str | None:
    """Add one file; or say why not."""
    shown = name.encode(errors="replace").decode()
    try:
        if path.is_symlink():
            return f"{shown!r} was left out: it is a link"
        fd = os.open(path, READ)
    except OSError as error:
        return f"{shown!r} was left out: it cannot be opened ({error.strerror})"
    with os.fdopen(fd, "rb") as file:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            return f"{shown!r} was left out: it is no plain file"
        if about.st_size > MAX_FILE:
            return (f"{shown!r} was left out: it has {about.st_size / 2**20:.0f} MB, "
                    f"{MAX_FILE // 2**20} are allowed")
        if len(files) >= MAX_FILES or sum(map(len, files.values())) + about.st_size > MAX_ALL:
            return TOO_MANY
        files[name] = file.read(MAX_FILE + 1)
    return None


# ── The code that answers a question ────────────────────────────────────────────────────────────
@dataclass(frozen=True)
class Code:
    """The text that answers a question, in parts that are run in order; or why there is none."""

    file: str
    parts: list[str]
    problem: str = ""


def find_code(submission: Submission, name: str, function: str, all_names: list[str]) -> Code:
    """Where a question is answered: its own file, a notebook, a section, any file that fits."""
    # As they were read: those at the top first.
    own = [path for path in submission.files if Path(path).name == f"{name}.py"]
    notebooks = [path for path in submission.files if path.endswith(".ipynb")]
    scripts = [path for path in submission.files if path.endswith(".py")]
    named = re.escape(function)
    defines = re.compile(rf"^[ \t]*(?:async )?(?:def|class) +{named}\b|^[ \t]*{named}[ \t]*[:=]|"
                         rf"^[ \t]*from .*\bas +{named}\b", re.M)
    problem = ""
    for path in (*own, *scripts, *notebooks):
        text = as_text(submission.files[path])
        if text is None:
            problem = problem or f"{path!r} is not a text file in UTF-8"
            continue
        if path.endswith(".ipynb"):
            parts = notebook_parts(text, name, all_names)
            if parts is None:
                problem = problem or f"{path!r} is not a notebook"
                continue
        else:
            parts = script_parts(text, name, all_names)
        if path in own or any(defines.search(part) for part in parts):
            if not any(part.strip() for part in parts):
                return Code(path, [], f"{path!r} is empty")
            if sum(map(len, parts)) > MAX_CODE:
                return Code(path, [], f"{path!r} holds more than {MAX_CODE // 2**20} MB of code: "
                                      "put data into files of their own")
            return Code(path, parts)
    return Code(f"{name}.py", [], problem or f"no file answers this question: expected {name}.py "
                                             f"with a function {function}")


def as_text(content: bytes) -> str | None:
    """The text of a file as Python would read it, or None for what is no text."""
    try:
        says = tokenize.detect_encoding(io.BytesIO(content).readline)[0]
        if says.lower() in ("punycode", "idna"):  # of domain names: hours for a long file
            return None
        text = importlib.util.decode_source(content)  # UTF-8, or what its first lines say
    except (ValueError, LookupError, SyntaxError):
        return None
    return None if "\0" in text else text.removeprefix("\ufeff")


def script_parts(text: str, name: str, all_names: list[str]) -> list[str]:
    """A script as it is; of one in sections, what does not belong to another question.

    Each part stands behind as many empty lines as it had lines above it, so that errors name the
    line of the file. So one question's broken section does not break the others.
    """
    marks = [mark for mark in SECTION.finditer(text) if mark[1] in all_names]
    if not marks:
        return [text]
    starts = sorted({0, *(mark.start() for mark in SECTION.finditer(text))})
    parts = []
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        mark = SECTION.match(text, start)
        label = mark[1] if mark else ""
        if label == name or label not in all_names:
            parts.append("\n" * text.count("\n", 0, start) + text[start:end])
    return parts


def notebook_parts(text: str, name: str, all_names: list[str]) -> list[str] | None:
    """The code cells of a notebook, less those that are tagged for other questions.

    Lines that only a notebook understands (%time, !ls, ?f, f?) become comments, and so do cells in
    another language (%%bash). None if it is no notebook.
    """
    try:
        cells = json.loads(text)["cells"]
        code = [(set(cell.get("metadata", {}).get("tags") or []), "".join(cell["source"]))
                for cell in cells if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    others = set(all_names) - {name}
    return [MAGIC.sub(r"\1pass  # \2", "" if FOREIGN.match(source) else source)
            for tags, source in code if name in tags or not tags & others]


def find_answers(submission: Submission, name: str) -> tuple[dict[str, Any], str]:
    """The content of NAME.json and an empty problem; or nothing, and why."""
    found = [path for path in submission.files if Path(path).name == f"{name}.json"]
    if not found:
        return {}, f"no file answers this question: expected {name}.json"
    text = as_text(submission.files[found[0]])
    try:
        content = json.loads(text or "")
    except (ValueError, RecursionError):
        return {}, f"{name}.json is not JSON"
    if not isinstance(content, dict):
        return {}, f"{name}.json holds no answers: expected {{\"question\": answer, ...}}"
    return content, ""
