# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
# PYTHON chooses the interpreter that .venv is made with: make test PYTHON=python3.13
PYTHON ?= python3
# Test files run on two processes; a module stays on one, because its tests share trained networks.
TEST_PROCESSES ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
APPS := $(VENV)/.apps

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test fuzz docs lint bench bench-compare bench-training clean

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# What the tests of examples/ and the page run with, as far as it can be had here; the tests that lack it skip.
$(APPS): tests/get_apps.sh $(READY)
	PYTHON=$(BIN)/python tests/get_apps.sh
	@touch $@

setup: $(READY)  ## Make .venv with everything in it (about 6 GB: PyTorch comes with CUDA).

quickstart: $(READY)  ## Train, export, verify and bench two small networks on drawn faces, in a temporary workspace.
	PYTHON=$(BIN)/python examples/quickstart.sh

test: $(READY) $(APPS)  ## Set up and run the tests.
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile

FUZZ_SECONDS ?= 600
fuzz: $(READY)  ## Search the readers of files and requests for faults, for FUZZ_SECONDS (600).
	OMP_NUM_THREADS=1 FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest fuzz -q -s -p no:cacheprovider

docs: $(READY)  ## Build the documentation site into build/site; a warning is an error.
	$(BIN)/python docs/tools/recipes.py
	$(BIN)/python docs/tools/architecture.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(READY)  ## Check style and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy fer_deploy

bench: $(READY)  ## Run the pytest-benchmark suites and keep the result.
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-autosave

bench-compare: bench  ## Run them again and show ratios to the run kept last.
	$(BIN)/python benchmarks/compare_runs.py

bench-training:  ## Measure the training rate of EfficientNet-B0; the last line is JSON. PYTHON= runs it with an interpreter of yours.
	$(if $(filter command line environment,$(origin PYTHON)),$(PYTHON),$(MAKE) --quiet setup && $(BIN)/python) benchmarks/bench_training.py

clean:  ## Remove .venv and caches; runs, exports and data stay.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist *.egg-info
