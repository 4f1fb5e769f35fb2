"""Makes exercises/ from solutions/: `python -m rlhf_edu.grading.generate`, or `make exercises`.

A stub is the solution with each part between the marks replaced by NotImplementedError.
"""

import ast
import itertools
import json
import re
import sys

from rlhf_edu import InputError
from rlhf_edu.grading.assignment import SOLUTIONS
from rlhf_edu.grading.check import exercise_names

EXERCISES = SOLUTIONS.parent / "exercises"
MARKED = re.compile(r"^( *)### BEGIN SOLUTION\n.*?^ *### END SOLUTION\n", re.M | re.S)


def make_stub(name: str, solution: str) -> str:
    """The text of exercises/NAME.py, made from the text of solutions/NAME.py."""
    docstring = ast.get_docstring(ast.parse(solution)) or ""
    task = docstring.partition("\n")[0].rstrip(".")
    todo = f"raise NotImplementedError({json.dumps(task, ensure_ascii=False)})\n"
    stub, count = MARKED.subn(lambda match: match[1] + todo, solution)
    if not count or not task:
        raise InputError(
            f"solutions/{name}.py needs a docstring, whose first line names the task, and the "
            "marks ### BEGIN SOLUTION and ### END SOLUTION"
        )
    header = f"# Generated from solutions/{name}.py by `make exercises`. Write your answer here.\n"
    return header + stub


def main() -> None:
    """Write every stub that is not as it should be; what stood in its place is kept beside it."""
    EXERCISES.mkdir(exist_ok=True)
    for name in exercise_names():
        stub = make_stub(name, (SOLUTIONS / f"{name}.py").read_text(encoding="utf-8"))
        file = EXERCISES / f"{name}.py"
        if file.exists() and file.read_text(encoding="utf-8") == stub:
            continue
        if file.exists():  # an older stub, or somebody's answer
            backups = (file.with_suffix(f".py.{i}.bak") for i in itertools.count(1))
            backup = next(path for path in backups if not path.exists())
            file.replace(backup)
            print(f"kept the old {file.name} as {backup.name}")
        file.write_text(stub, encoding="utf-8", newline="\n")
        print(f"wrote exercises/{file.name}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"generate: {error}")
