# Two commands do everything on a machine with Python 3.11 or newer and make: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
BUNDLE := build/all-MiniLM-L6-v2

.PHONY: demo test lint format native rust-bert bench families mutants clean

demo: $(VENV)/.demo
	$(BIN)/bertx run recipes/minilm.toml
	$(BIN)/bertx try $(BUNDLE)/onnx/model.onnx "How do I reset my password?" \
	    "I forgot my login and cannot get in." "The bakery opens at seven."

test: $(VENV)/.dev
	$(BIN)/python -m pytest

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/layout.py

# Runners in other languages, into the user's cache: their tests are skipped where they are not built.
native: $(VENV)/.dev
	$(BIN)/bertx build all --verbose

# A bundle in rust-bert, which wants a PyTorch of 2024: downloads and builds that into the user's cache.
rust-bert: $(VENV)/.dev
	$(BIN)/python docs/guides/rust-bert/verify.py

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Figures depend on the machine; each is a ratio to a peer or a limit measured in the same run.
bench: $(VENV)/.dev
	$(BIN)/python tests/bench/bench.py

# Every encoder family instead of the few that `make test` takes through all of the way, in every program that is built.
families: $(VENV)/.dev
	$(BIN)/python -m pytest tests/model/test_families.py --families all
	$(BIN)/python tests/matrix.py --fresh

# Wrong artifacts, each of which must be failed, and right ones that look odd, each of which must pass.
mutants: $(VENV)/.dev
	$(BIN)/python tests/mutants/run.py

clean:
	rm -rf build .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

$(VENV)/.demo: pyproject.toml constraints.txt | $(VENV)
	@echo "installing bertx and PyTorch into $(VENV): some gigabytes, a few minutes"
	$(PIP) --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)
	@echo "installing bertx, PyTorch and the test tools into $(VENV): some gigabytes, a few minutes"
	$(PIP) --editable '.[dev]'
	@touch $@

$(VENV):
	@$(PYTHON) -c 'import sys; sys.exit("bertx needs Python 3.11 or newer: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
