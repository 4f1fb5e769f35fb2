# make demo       set up .venv and run the first case study
# make test       set up everything and run all checks: ruff, mypy, tests, notebooks
# make exercises  write exercises/ anew from solutions/
# make chapters   build the notebooks from the .py files beside them, and run them
# make reproduce  run every case and study on fresh seeds, and rewrite what the book shows of them
# make clean      remove .venv, caches and builds; runs and answers stay
#
# Another Python (3.10 or newer): make demo PYTHON=python3.12

VENV := .venv

ifeq ($(OS),Windows_NT)
PYTHON ?= python
BIN := $(VENV)/Scripts
else
PYTHON ?= python3
BIN := $(VENV)/bin
endif

.PHONY: demo test exercises chapters reproduce clean

demo: $(VENV)/installed
	$(BIN)/rlhf-edu run conflicting-signals --resume

test: $(VENV)/installed-for-tests
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest --nbval-lax --nbval-current-env

exercises: $(VENV)/installed
	$(BIN)/python -m rlhf_edu.grading.generate

chapters: $(VENV)/installed-for-tests
	$(BIN)/python -m jupytext --to notebook --execute --run-path chapters chapters/*.py

reproduce: $(VENV)/installed
	$(BIN)/python -m rlhf_edu.cases.reproduce

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# An empty file says that a step is done; a change of pyproject.toml has it done again.

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c "import sys; sys.version_info >= (3, 10) or sys.exit('rlhf-edu needs Python 3.10 or newer, this is ' + sys.version.split()[0] + '; name another one: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --editable .
	touch $@

$(VENV)/installed-for-tests: $(VENV)/installed
	$(BIN)/python -m pip install --editable ".[test,dev,notebooks]"
	touch $@
