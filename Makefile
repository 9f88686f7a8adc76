# Needs python3 (3.11 or newer, with venv) and nothing else: everything is installed into .venv from uv.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTED ?=

.PHONY: help up test test-fast check lint bench golden clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(READY)  ## NATS, Postgres, Redis and all services on this machine; Ctrl-C stops them
	@$(BIN)/quotebus up

# Each service that a test starts reads its compiled modules, also where the shell forbids to keep any: that halves its start.
test: $(READY)  ## all tests, against real servers
	@PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder

test-fast: $(READY)  ## the tests that need no server, in less than a minute
	@$(BIN)/pytest -n auto -m "not slow" $(foreach room,connected promises quotebus/embedded quotebus/simulate,--ignore tests/$(room))

check: lint $(if $(TESTED),,test)  ## lint and test (TESTED=1: the tests have run already)

lint: $(READY)  ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(READY)  ## the measurements of docs/performance.md
	@$(BIN)/python -m bench

golden: $(READY)  ## write the JSON Schemas and examples of contracts/golden again
	@$(BIN)/python -m tests.contracts.golden

clean:  ## remove the environment and every cache
	@rm -rf $(VENV) .*_cache .hypothesis dist

$(READY): pyproject.toml uv.lock
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "make: $(PYTHON) is missing, older than 3.11, or without venv: install Python 3.11+ (Debian: apt install python3-venv), or name one: make PYTHON=python3.12 …" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@UV_PROJECT_ENVIRONMENT=$(VENV) $(BIN)/uv sync --quiet --frozen --all-extras --inexact
	@touch $@
