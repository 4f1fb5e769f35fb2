"""The house rules: imports go down only, torch is imported late, and the front page is true."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rlhf_edu
from rlhf_edu.cases import CASES, STUDIES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rlhf_edu"
FILES = sorted(PACKAGE.rglob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")

# What each floor may import from the package. "rlhf_edu" alone is InputError and the version.
MAY_IMPORT = {
    "package": set(),
    "concept": set(),
    "lab": {"package", "concept", "lab"},
    "cases": {"package", "concept", "lab", "cases"},
    "grading": {"package", "concept", "lab", "grading"},
    "cli": {"package", "concept", "lab", "cases", "grading"},
    "main": {"cli"},
}
TOP = {"__init__": "package", "__main__": "main", "cli": "cli"}


def floor(module: str) -> str:
    """The floor of a module of the package, given by its dotted name."""
    parts = module.split(".")[1:]
    if not parts:
        return "package"
    if parts[0] in ("lab", "cases", "grading"):
        return parts[0]
    return TOP.get(parts[0], "concept")


def module_of(file: Path) -> str:
    """rlhf_edu/lab/model.py -> rlhf_edu.lab.model."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def modules_imported(file: Path) -> set[str]:
    """The modules that a file imports, anywhere in it, by full name.

    For `from rlhf_edu import X` and `from rlhf_edu.lab import X` X may be a module of ours.
    """
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: import by full name, not relatively"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                path = ROOT / name.replace(".", "/")
                is_module = path.is_dir() or path.with_suffix(".py").is_file()
                found.add(name if is_module else str(node.module))
    return found


def test_floor_names_every_place() -> None:
    assert floor("rlhf_edu") == "package"
    assert floor("rlhf_edu.ppo_clip") == "concept"
    assert floor("rlhf_edu.lab.model") == "lab"
    assert floor("rlhf_edu.cli") == "cli"
    assert floor("rlhf_edu.__main__") == "main"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_go_down_only(file: Path) -> None:
    here = floor(module_of(file))
    ours = {name for name in modules_imported(file) if name.split(".")[0] == "rlhf_edu"}
    wrong = {name for name in ours if floor(name) not in MAY_IMPORT[here]}
    assert not wrong, f"{module_of(file)} ({here}) must not import {', '.join(sorted(wrong))}"


@pytest.mark.parametrize(
    "file", [f for f in FILES if floor(module_of(f)) == "concept"], ids=module_of
)
def test_concept_modules_import_torch_and_the_standard_library_only(file: Path) -> None:
    allowed = {"torch", *sys.stdlib_module_names}
    wrong = {name for name in modules_imported(file) if name.split(".")[0] not in allowed}
    assert not wrong


def test_no_drawer_for_odd_things() -> None:
    drawers = {"utils", "util", "common", "helpers", "misc"}
    assert not [
        f for f in [*FILES, *(p for p in PACKAGE.rglob("*") if p.is_dir())] if f.stem in drawers
    ]


CASES_FOLDER = PACKAGE / "cases"
CASE_FILES = [
    file
    for folder, names in ((CASES_FOLDER, CASES), (CASES_FOLDER / "studies", STUDIES))
    for file in (folder / f"{name.replace('-', '_')}.py" for name in names)
    if file.exists()
]
SHARED = {f"rlhf_edu.cases.{name}" for name in ("case", "evidence", "pictures", "stages", "world")}


@pytest.mark.parametrize("file", CASE_FILES, ids=module_of)
def test_a_case_imports_the_laboratory_and_what_cases_share_but_no_other_case(file: Path) -> None:
    ours = {name for name in modules_imported(file) if name.startswith("rlhf_edu.cases")}
    assert ours <= SHARED


def test_what_cases_share_imports_no_case() -> None:
    cases = {module_of(file) for file in CASE_FILES}
    for file in (f for f in CASES_FOLDER.rglob("*.py") if f not in CASE_FILES):
        assert not modules_imported(file) & cases, module_of(file)


def test_importing_a_case_imports_nothing_that_draws() -> None:
    """The processes that train import every case's file, and do not need matplotlib."""
    names = ", ".join(map(module_of, CASE_FILES))
    code = f"import {names}, sys; sys.exit('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import rlhf_edu",
        "import rlhf_edu.cases, rlhf_edu.cases.studies",
        "import rlhf_edu.cli",
        "import rlhf_edu.cli; rlhf_edu.cli.main(['cases'])",
        "import rlhf_edu.cli; rlhf_edu.cli.main(['run', 'no-such-case'])",
    ],
)
def test_torch_is_not_imported(code: str) -> None:
    code += "; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


# The front page.


def commands_in(text: str, program: str) -> list[str]:
    """What follows `program` in code spans and code blocks."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    pattern = re.compile(rf"(?:^|[\s\\/]){program}\s+([\w-]+(?:\s+[\w-]+)?)")
    return [match[1] for text in lines + spans for match in pattern.finditer(text)]


def test_readme_begins_with_the_two_commands() -> None:
    first_screen = "\n".join(README.splitlines()[:40])
    for words in ("make demo", "make test", "PowerShell", "-m venv .venv", "pip install -e ."):
        assert words in first_screen


def test_readmes_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    used = {command.split()[0] for command in commands_in(README, "make")}
    assert {"demo", "test", "exercises"} <= used <= targets


def test_readmes_commands_exist() -> None:
    used = [command.split() for command in commands_in(README, "rlhf-edu")]
    assert {words[0] for words in used} == {
        "cases", "run", "check", "quiz", "grade", "grade-class", "export"}
    named = {words[1] for words in used if words[0] == "run" and words[1:]} - {"takes", "NAME"}
    assert set(CASES) <= named <= {*CASES, *STUDIES}


def help_of(command: str) -> str:
    """What `rlhf-edu COMMAND --help` says."""
    words = [sys.executable, "-m", "rlhf_edu", command, "--help"]
    return subprocess.run(words, capture_output=True, text=True, encoding="utf-8").stdout


def test_readmes_options_exist() -> None:
    options = set(re.findall(r"`(--[a-z-]+)", README)) - {"--help"}
    of_run = {"--seeds", "--device", "--out", "--json", "--check", "--fresh", "--resume"}
    of_grade = {"--allow-weak", "--seed"}
    assert of_run | of_grade == options
    for command, its_own in (("run", of_run), ("grade", of_grade | {"--assignment"}),
                             ("grade-class", {"--csv"})):
        said = help_of(command)
        assert all(option in said for option in its_own)


def test_readmes_links_resolve() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [link for link in links if "://" not in link and not (ROOT / link).exists()]
    assert not missing


def test_windows_lines_are_those_of_the_makefile() -> None:
    """Whoever changes how the tests are run must change both."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(r"^test:.*\n((?:\t.*\n)+)", makefile, re.M)
    assert recipe
    for line in recipe[1].splitlines():
        assert line.strip().replace("$(BIN)/", r".venv\Scripts" + "\\") in README
    assert '".[test,dev,notebooks]"' in makefile and '".[test,dev,notebooks]"' in README


def test_versions_agree() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## \[(\d[^]]*)\]", changelog, re.M)
    assert newest and newest[1] == rlhf_edu.__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {rlhf_edu.__version__}\n" in citation
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["version"]' in pyproject
    assert '[tool.hatch.version]\npath = "rlhf_edu/__init__.py"\n' in pyproject
