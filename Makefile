PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two processes, whole files, the longest first (conftest.py): what waits for workers overlaps with what computes.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: install quickstart quickstart-classification test test-all lint benchmark

install: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[weights,dev]'
	touch $(STAMP)

quickstart: $(STAMP)
	$(BIN)/fedkvasir run scenarios/quickstart.yaml

quickstart-classification: $(STAMP)
	$(BIN)/fedkvasir run scenarios/quickstart-classification.yaml

test: $(STAMP)
	$(BIN)/pytest $(PARALLEL)

test-all: $(STAMP)
	$(BIN)/pytest $(PARALLEL) -m ''

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(STAMP)
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/gpu_check.py
