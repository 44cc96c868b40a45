# Every target works as the first command on a machine with nothing but Python 3.11 or later.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# On all cores, where pip takes one. Some packages ship templates that are no Python, which compiling them says.
COMPILE := $(BIN)/python -m compileall -q -j 0 $(VENV)/lib > /dev/null || true

.PHONY: help setup demo test lint test-pg15 soak-ledger soak-guardrails soak-scoring soak-recovery soak-drills bench \
	bench-ledger bench-scoring bench-detection bench-recovery gallery clean record-definitions

help: ## show this
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## make .venv and install everything into it
	@echo "ready: $(BIN)/clickledger, next: make demo"

# Only what decides about installed packages is a prerequisite: the second time this takes no time at all.
$(INSTALLED): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then echo "error: expected Python 3.11 or later, found none" >&2; exit 1; fi
	@if [ ! -x $(BIN)/pip ]; then \
		rm -rf $(VENV); \
		$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
			echo "error: $(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; \
	fi
	@echo 'installing into $(VENV), which takes a minute or two' >&2
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e '.[local,dev]'
	@$(COMPILE)
	@touch $@

demo: $(INSTALLED) ## the whole story in a terminal, from a click to a corrected bill
	$(BIN)/clickledger demo

lint: $(INSTALLED) ## ruff, mypy strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Types are checked beside the tests, on a core that these leave idle at first. Files are given out in the order of
# tests/conftest.py, the longest first, not by their number of tests.
test: $(INSTALLED) ## lint, and all tests on a real PostgreSQL and Valkey
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy & types=$$!; $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder; wait $$types

# Debian's folder, or where a pg_config of version 15 says.
PG15 ?= $(firstword $(wildcard /usr/lib/postgresql/15/bin) \
	$(shell pg_config --version 2>/dev/null | grep -q ' 15' && pg_config --bindir))

test-pg15: $(INSTALLED) ## the ledger's tests on PostgreSQL 15; PG15=its folder of programs
	@if [ ! -x "$(PG15)/postgres" ]; then echo "error: expected PostgreSQL 15 programs in PG15=$(PG15), found none; \
	on Debian 12: apt-get install postgresql-15" >&2; exit 1; fi
	CLICKLEDGER_TEST_POSTGRES_BIN=$(PG15) $(BIN)/python -m pytest tests/ledger

record-definitions: $(INSTALLED) ## after a migration: what `audit verify` compares views, functions, triggers with; PG15=its folder
	CLICKLEDGER_RECORD_DEFINITIONS=1 $(BIN)/python -m pytest -q tests/ledger/test_audit_definitions.py -k recorded
	CLICKLEDGER_RECORD_DEFINITIONS=1 CLICKLEDGER_TEST_POSTGRES_BIN=$(PG15) \
		$(BIN)/python -m pytest -q tests/ledger/test_audit_definitions.py -k recorded

soak-ledger: $(INSTALLED) ## a million steps of ledger and oracle (hours), longer races; STEPS=n, CLICKLEDGER_SEED=n
	CLICKLEDGER_SOAK_STEPS=$${STEPS:-1000000} CLICKLEDGER_SOAK_RACES=2000 $(BIN)/python -m pytest -q --timeout=0 \
		tests/ledger/test_state_machine.py tests/ledger/test_log_races.py tests/ledger/test_responders.py

soak-guardrails: $(INSTALLED) ## guardrails on 8 simulated weeks of healthy days, a network a week (half an hour); WEEKS=n, CLICKLEDGER_SOAK_SEEDS=1,2,3
	CLICKLEDGER_SOAK_WEEKS=$${WEEKS:-8} $(BIN)/python -m pytest -q --timeout=0 tests/scoring/test_guardrails_soak.py

soak-scoring: $(INSTALLED) ## recompute == recorded: 100,000 real clicks, CLICKS=1000000 simulated, 4 workers, kills
	CLICKLEDGER_SOAK_CLICKS=$${CLICKS:-1000000} $(BIN)/python -m pytest -q -s --timeout=0 \
		tests/scoring/test_recompute_soak.py

soak-recovery: $(INSTALLED) ## replays of a million clicks under fifty kills (half an hour); CLICKS=n, KILLS=n, CLICKLEDGER_SEED=n
	CLICKLEDGER_SOAK_CLICKS=$${CLICKS:-1000000} CLICKLEDGER_SOAK_KILLS=$${KILLS:-50} \
		$(BIN)/python -m pytest -q -s --timeout=0 tests/recovery/test_chaos.py

soak-drills: $(INSTALLED) ## every drill at a size at which it means something, on ledgers of their own (ten minutes)
	for drill in bad-model threshold-typo late-purchases counter-loss missing-labels; do \
		$(BIN)/clickledger drill $$drill --rate 500 --history $${HISTORY:-100000} --json; done

bench: $(INSTALLED) ## measure, print one table, write benchmarks/latest.json
	$(BIN)/python -m benchmarks

bench-ledger: $(INSTALLED) ## measure the ledger beside raw COPY, a plain table and eventsourcing
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[local,dev,bench]'
	$(BIN)/python -m benchmarks append importing tail eventsourcing reading why publish verify checkpoints partitions campaigns

bench-scoring: $(INSTALLED) ## measure counting by size of call, recomputing, forward passes and training
	$(BIN)/python -m benchmarks counting learning

bench-detection: $(INSTALLED) ## false alarms and delays of detection over six simulated months (tens of minutes)
	$(BIN)/python -m benchmarks.detection

bench-recovery: $(INSTALLED) ## measure replay beside its pipe limit, publications, and live decisions during a replay
	$(BIN)/python -m benchmarks publish replay recovery

gallery: $(INSTALLED) ## the pictures of docs/gallery from simulated traffic (minutes)
	$(BIN)/clickledger model gallery docs/gallery

clean: ## remove what was installed, built and cached; data in .clickledger stays
	@if [ -d .clickledger ] && [ -x $(BIN)/clickledger ]; then $(BIN)/clickledger down || true; fi
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
