# Ganglion: everything a person types. `make help` lists it. Needs make and Python >= 3.11, nothing else.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
.SUFFIXES:

# The first Python on the path that is new enough and can make environments; PYTHON=/path/to/python names another.
ifndef PYTHON
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$p" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
endif

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
LOCKED := $(VENV)/.locked
INSTALLED := $(VENV)/.installed
DOCS_LOCKED := .venv-docs/.locked
PIP := -m pip --disable-pip-version-check --quiet install

FOR ?= 40s
CUT ?= gw1@10s-25s
REPORT ?= run-report.json
SEEDS ?= 1..50
# Further arguments of `make run` and `make test`, as in: make test ARGS='-k window -x'
ARGS ?=

.PHONY: help setup run test chaos soak check format docs bench lock errors changelog clean distclean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 14

setup: $(INSTALLED) ## make .venv with exactly the locked packages, and Ganglion itself

# The lock changed: start over, so that the environment holds the lock and nothing else.
$(LOCKED): requirements/lock.txt
	@$(if $(PYTHON),,echo "no Python >= 3.11 with venv and ensurepip was found on the path"; \
		echo "next: install one (Debian, Ubuntu: also its python3-venv), or name it: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.12"; exit 1)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is older than 3.11 or does not run; next: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.12"; exit 1; }
	@echo "setting up $(VENV) with $$("$(PYTHON)" --version)"
	"$(PYTHON)" -m venv --clear $(VENV)
	$(PY) $(PIP) --require-hashes -r requirements/lock.txt
	@touch $@

$(INSTALLED): $(LOCKED) pyproject.toml
	$(PY) $(PIP) --no-deps --no-build-isolation -e .
	@touch $@

run: $(INSTALLED) ## protect a feeder across four tiers, with gw1's uplink cut in the middle: FOR= CUT= REPORT= ARGS=
	$(BIN)/ganglion run examples/feeder --for $(FOR) --cut $(CUT) --report $(REPORT) $(ARGS)

# What takes processors runs beside each other; what runs in real time, alone.
test: $(INSTALLED) ## all tests, under fifteen minutes on two cores: ARGS='-k window -x', ARGS='-m "not integration" -n 2'
ifeq ($(strip $(ARGS)),)
	$(PY) -m pytest -m "not integration" -n 2
	$(PY) -m pytest -m integration
else
	$(PY) -m pytest $(ARGS)
endif

chaos: $(INSTALLED) ## break real servers and agents in every way and print what became of each reading: ARGS='"cut 20" --seed 7'
	$(PY) -m tests.chaos $(ARGS)

soak: $(INSTALLED) ## play many deterministic worlds: SEEDS=1..50 SCENARIOS='storm my.toml'
	$(BIN)/ganglion sim run $(or $(SCENARIOS),$$($(BIN)/ganglion sim list)) --seeds $(SEEDS)

check: $(INSTALLED) ## format, lint, types, import rules, house rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PY) -m pytest -q tests/test_house.py

format: $(INSTALLED) ## let ruff format and fix what it safely can
	$(BIN)/ruff check --fix --exit-zero --quiet .
	$(BIN)/ruff format .

errors: $(INSTALLED) ## say which lines docs/reference/errors.md lacks or has too many
	$(PY) tests/house_rules.py errors

$(DOCS_LOCKED): requirements/docs-lock.txt $(INSTALLED)
	$(PY) -m venv --clear .venv-docs
	.venv-docs/bin/python $(PIP) --require-hashes -r requirements/docs-lock.txt
	@touch $@

docs: $(DOCS_LOCKED) ## build the documentation into site/
	PYTHONPATH=src .venv-docs/bin/zensical build --clean

bench: ## run one benchmark: NAME=... [QUICK=1] [JSON=FILE]
	@test -n "$(NAME)" && test -f "benchmarks/$(NAME)/run.py" || { \
		if [ -n "$(NAME)" ]; then echo "there is no benchmark \"$(NAME)\" (no benchmarks/$(NAME)/run.py)"; \
		else echo "which benchmark?"; fi; \
		known=$$(for f in benchmarks/*/run.py; do [ -f "$$f" ] && basename "$$(dirname "$$f")"; done | xargs || true); \
		echo "known: $${known:-none yet}"; echo "next: make bench NAME=<one of these> [QUICK=1] [JSON=FILE]"; exit 2; }
	@$(MAKE) --no-print-directory $(INSTALLED)
	$(PY) benchmarks/$(NAME)/run.py $(if $(QUICK),--quick) $(if $(JSON),--json "$(JSON)") $(ARGS)

# The only user of uv. A release has to be a week old: most poisoned packages are found sooner.
UV_COMPILE := .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--exclude-newer "1 week"
lock: ## resolve the dependencies anew into requirements/*.txt: ARGS=--upgrade takes newer releases
	@$(if $(PYTHON),,echo "no Python >= 3.11 with venv was found; next: make lock PYTHON=/path/to/python3.12"; exit 1)
	test -x .venv-lock/bin/uv || { "$(PYTHON)" -m venv .venv-lock && .venv-lock/bin/python $(PIP) uv; }
	$(UV_COMPILE) pyproject.toml --extra dev --extra device --extra emulator --extra examples --extra models -o requirements/lock.txt $(ARGS)
	$(UV_COMPILE) --group docs -o requirements/docs-lock.txt $(ARGS)

changelog: $(INSTALLED) ## show what the next release's notes say so far
	$(BIN)/towncrier build --draft

clean: ## remove what tests, runs and builds left
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist site run-report.json
	find src tests examples benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## also the environments
	rm -rf $(VENV) .venv-docs .venv-lock
