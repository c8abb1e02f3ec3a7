# One target per check, the same on a desk and in CI. Everything lives in .venv; nothing else is touched.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# By a path entry: the package is then found from every folder, also from beside the checkout.
EDITABLE := --config-settings editable_mode=compat
TEST_PROCESSES ?= 2

.PHONY: demo test test-slow test-browser lint types bench docs clean

demo: $(VENV)/.base  ## evaluate PecSched, its rivals and ablations on the embedded Azure-like hour; writes the report
	$(BIN)/python scripts/evaluate.py --config-name demo

test: $(VENV)/.dev lint types  ## everything that must hold, in a few minutes
	$(BIN)/python -m pytest -m "not slow and not browser" -n $(TEST_PROCESSES) --dist loadfile

test-slow: $(VENV)/.dev  ## the long checks: many random cases, long simulations, mutations
	$(BIN)/python -m pytest -m slow
	$(BIN)/python scripts/mutation_check.py

test-browser: $(VENV)/.dev  ## the report in headless Chromium; skipped where there is none
	$(BIN)/python -m pytest -m browser tests/browser

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

bench: $(VENV)/.base  ## speed against the bars
	$(BIN)/python scripts/benchmark.py

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "PecGym needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt $(EDITABLE) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt $(EDITABLE) -e ".[dev,calibrate,render]"
	@touch $@ $(VENV)/.base

$(VENV)/.docs: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install -c constraints.txt $(EDITABLE) -e ".[docs]"
	@touch $@ $(VENV)/.base

clean:
	rm -rf $(VENV) build dist results outputs site .pytest_cache .mypy_cache .ruff_cache
