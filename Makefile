# One command each: set up and run the main job, set up and run the tests.
PYTHON ?= python3
# Any torch >= 2.11,<2.14 serves. Preset to the CPU build's version; set TORCH= to keep your own.
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
MARK := $(VENV)/.installed

.PHONY: demo test lint types check install slow compile-gate clean

install: $(MARK)

$(MARK): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $(MARK)

demo: install
	$(BIN)/mom demo $(DEMO)

# Everything that .ci/run runs: lint, types, all tests.
test: check
	$(BIN)/python -m pytest -n auto --dist loadgroup

check: lint types

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# The GPU kernels, compiled without a GPU on this Triton and on torch 2.11's: registers, shuffles.
compile-gate: install
	$(BIN)/python -m pytest -q tests/ops/test_compile_gate.py

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
