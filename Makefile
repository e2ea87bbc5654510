# `make demo` and `make test` are the two commands of the README; both set up .venv first, once.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup docs study demo demo-flow test test-portable test-triton lint torture gpu-report

help:  # this list
	@sed -n 's/^\([a-z-]*\):[^#]*# \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: .venv/ready  # .venv with the package, its extensions and the tools

.venv/ready: pyproject.toml setup.py $(wildcard csrc/* csrc/cuda/*)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

demo: setup  # the whole method on 1,797 handwritten digits, in minutes on two CPU cores
	$(BIN)/python -m robustok.train

demo-flow: setup  # the same with latents for tokens: a continuous tokenizer and a flow generator
	$(BIN)/python -m robustok.train --config configs/digits-flow.yaml

test: setup  # the tests
	OMP_NUM_THREADS=1 $(BIN)/pytest tests bench -n auto --dist worksteal

# torch, oneDNN, MKL and NumPy's OpenBLAS as they compute on x86 without AVX-512, and in their plainest code; on other
# processors these change nothing. What torch.compile has stored was compiled for the processor as it is.
AVX2 := TORCHINDUCTOR_FORCE_DISABLE_CACHES=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2 OPENBLAS_CORETYPE=Haswell
PLAIN := TORCHINDUCTOR_FORCE_DISABLE_CACHES=1 ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Nehalem

test-portable: setup  # the tests as weaker processors compute them, with one thread and with four
	$(AVX2) OMP_NUM_THREADS=4 $(BIN)/pytest tests -n auto --dist worksteal
	$(PLAIN) OMP_NUM_THREADS=1 $(BIN)/pytest tests -n auto --dist worksteal

.venv/triton-3.6: | setup
	$(BIN)/pip install --quiet --no-deps --target $@ triton==3.6.0

test-triton: .venv/triton-3.6  # the GPU kernels compiled by Triton 3.6, which torch 2.11 comes with
	PYTHONPATH=.venv/triton-3.6 $(BIN)/pytest tests/ops/test_triton_compile.py

lint: setup  # style, formatting, and types of the public surface
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: setup  # the documentation as a site in site/; warnings are errors
	$(BIN)/pip install --quiet --editable ".[docs]"
	$(BIN)/python docs/configuration.py > docs/configuration.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

torture: setup  # what takes too long for every commit
	$(BIN)/pytest tests -m torture
	$(BIN)/python -m tests.survival.torture --output $(or $(OUTPUT),bench/results/latest)

gpu-report: setup  # tests and benchmarks that need a GPU, in slices of at most eight minutes; goes on where it was stopped
	$(BIN)/python bench/report.py --output $(or $(OUTPUT),bench/results/gpu) $(SLICES)

study: setup  # the study on emoji: an hour or more on two cores; goes on where it was stopped
	test -d data/emoji || $(BIN)/python -m robustok.fetch_data emoji
	$(BIN)/python -m robustok.study --output $(or $(OUTPUT),docs/study)
