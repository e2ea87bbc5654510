# `make demo` and `make test` are the two commands of the README; both set up .venv first, once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint torture gpu-report

setup: .venv/ready

.venv/ready: pyproject.toml setup.py $(wildcard csrc/* csrc/cuda/*)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

demo: setup
	$(BIN)/python -m robustok.train

test: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest tests bench -n auto --dist worksteal

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

torture: setup  # what takes too long for every commit
	$(BIN)/pytest tests -m torture

gpu-report: setup  # tests and benchmarks that need a GPU, in slices of at most eight minutes
	$(BIN)/python bench/report.py --output $(or $(OUTPUT),bench/results/gpu)
