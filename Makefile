# Greenfly.  `make help` lists the targets.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format lock bench matrix clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(STAMP) ## create .venv from the committed lock

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Greenfly needs Python 3.11 or newer; set PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## migrate a made-up application's data from Redis into Dragonfly, and prove it
	$(BIN)/greenfly demo

test: setup ## run the whole test suite
	$(BIN)/python -m pytest -n auto --dist loadfile

check: setup ## types, lint and format
	$(BIN)/mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: setup ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup ## measure copy and verify beside MIGRATE (a million keys); the write pause: python -m benchmarks.cutover
	$(BIN)/python -m benchmarks.copy_verify

matrix: setup ## write docs/matrix.md: every kind between all of SERVERS='PATH …' (default: those on PATH)
	$(BIN)/python -m tests.matrix $(addprefix --server ,$(SERVERS)) --out docs/matrix.md

lock: ## make requirements.lock anew from pyproject.toml (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --group dev \
	  --extra postgres --extra tracing --extra dask --custom-compile-command "make lock" --upgrade --quiet pyproject.toml -o requirements.lock

clean: ## remove what the demo and the tools left here
	rm -rf .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
