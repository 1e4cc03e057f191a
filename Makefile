# One command each: set up and run the main job, set up and run the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MARK := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
TESTS := $(BIN)/python -m pytest -n auto --dist loadgroup

.PHONY: demo test test-slow test-newest lint types check install lock compile-gate clean

install: $(MARK)

# Exactly what was tested: every file is checked against its hash (tools/lock.py; docs/interop.md).
# torch without CUDA where pip finds that build, else PyPI's with what it needs besides.
LOCKED := $(PIP) install --quiet --no-deps --only-binary :all: --require-hashes
$(MARK): pyproject.toml requirements.lock requirements-cpu.lock requirements-cuda.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(LOCKED) -r requirements-cpu.lock 2> /dev/null || true
	$(LOCKED) -r requirements.lock
	$(PIP) check > /dev/null || $(LOCKED) -r requirements-cuda.lock
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	$(PIP) check
	touch $(MARK)

demo: install
	$(BIN)/mom demo $(DEMO)

# Lint, types and all tests but those that take minutes.
test: check
	$(TESTS) -m "not slow"

# Several processes, long runs, every command of the documentation.
test-slow: install
	$(TESTS) -m slow

check: lint types

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install
	$(BIN)/mypy

# The tests that touch other people's interfaces, with the newest versions that pyproject.toml
# allows of everything but torch, in an environment of their own.
NEWEST := .venv-newest
INTERFACES := tests/interop tests/cli tests/training tests/modalities/image/test_autoencoder.py \
	tests/generation/diffusion tests/ops/test_triton_scan.py tests/ops/test_triton_conv.py \
	tests/ops/test_compile_gate.py
VERSIONS := torch|transformers|tokenizers|huggingface_hub|peft|accelerate|diffusers|lightning|triton|numpy|safetensors|pyarrow

test-newest:
	rm -rf $(NEWEST)
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check \
		$$(grep -o '^torch==[0-9.]*' requirements.lock)
	$(NEWEST)/bin/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	$(NEWEST)/bin/python -m pip list --disable-pip-version-check | grep -E "^($(VERSIONS)) "
	$(NEWEST)/bin/python -m pytest -n auto --dist loadgroup -m "not slow" $(INTERFACES)

# Renew requirements.lock; when, says docs/interop.md.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	.venv-lock/bin/python tools/lock.py

# The GPU kernels, compiled without a GPU on this Triton and on torch 2.11's: registers, shuffles.
compile-gate: install
	$(BIN)/python -m pytest -q tests/ops/test_compile_gate.py

clean:
	rm -rf .venv .venv-newest .venv-lock build dist src/*.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache
