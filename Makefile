# On a fresh machine `make demo` and `make test` are each the only command needed.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name) 2>/dev/null)))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E)
# Tests wait for one another's processes more than they work.
WORKERS := $(shell n=$$(nproc); echo $$((n < 3 ? 3 : n > 4 ? 4 : n)))
KILLS ?= 5000
CASES ?= 1000000
SOAK_S ?= 600
SOAK_ROUNDS ?= 6
UV := $(VENV)/lock/bin/uv
TRAIN := $(VENV)/.train
DEV := $(VENV)/.dev
RABBITMQ := $(VENV)/rabbitmq
PROMTOOL := $(VENV)/promtool
CHROMIUM := $(VENV)/chromium
SWIFT := $(VENV)/swift
AGE := $(VENV)/age
STRACE := $(VENV)/strace
GUIDED := $(VENV)/guided

# COVERAGE=1 counts which lines the tests run, in every process that they start, which takes longer.
COVER := $(if $(COVERAGE),--cov --cov-report=term:skip-covered)

.PHONY: help demo picture pictures test test-gpu lint format bench soak mutants guided fresh install uninstall lock clean

help: ## say what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(TRAIN) ## install, then train on real photographs while the daemon is killed
	$(BIN)/python etc/demo/demo.py

picture: $(TRAIN) ## draw a run of the demo for the README
	$(BIN)/python etc/demo/demo.py | sed "s#$(CURDIR)/##g" | $(BIN)/python etc/demo/picture.py docs/demo.svg

pictures: $(TRAIN) $(CHROMIUM) ## draw `status`, `top` and a report of a training for docs/ (minutes)
	$(BIN)/python etc/pictures/pictures.py docs
	$(BIN)/python etc/pictures/report.py docs/report.png

test: $(DEV) $(RABBITMQ) $(PROMTOOL) $(CHROMIUM) $(SWIFT) $(AGE) $(STRACE) ## install, lint, then run every test that needs no GPU
	@$(MAKE) --no-print-directory lint
	@echo "skipped here: tests/gpu (needs an NVIDIA GPU: make test-gpu), the hours-long soak (make soak)"
	@[ "$$(id -u)" = 0 ] || echo "skipped without root: tests/systemd (sudo $(BIN)/python -m pytest tests/systemd)"
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(COVER)

test-gpu: $(DEV) ## the tests for a machine with an NVIDIA GPU
	$(BIN)/python -m pytest tests/gpu -m gpu

lint: $(DEV) ## ruff and mypy, strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV) ## put every file into ruff's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV) ## the figures of docs/performance.md
	$(BIN)/python -m benchmarks

soak: $(DEV) $(STRACE) $(RABBITMQ) ## everything at once (SOAK_S=600 seconds, SOAK_ROUNDS=6 times), then random kills, power cuts, a death at every durable step, hostile input and simulated queues (KILLS=5000): hours; AZAION_SEED=N replays one
	AZAION_SOAK_S=$(SOAK_S) AZAION_SOAK_ROUNDS=$(SOAK_ROUNDS) AZAION_KILLS=$(KILLS) AZAION_SWEEP=1 AZAION_FUZZ=1000000 AZAION_SIMULATIONS=10000 AZAION_POWER=20 \
	  $(BIN)/python -m pytest tests/soak tests/faults tests/powerloss tests/unit/test_{simulation,health,alerts}.py -s -k "random or power or simulation or storm or every_step or anything" --override-ini timeout=0

mutants: $(DEV) $(STRACE) ## break each promise on purpose, one after the other, and see that the tests notice (some minutes)
	AZAION_MUTANTS=all $(BIN)/python -m pytest tests/mutants --override-ini timeout=0

guided: $(DEV) $(GUIDED) ## what comes from the broker, made up by a fuzzer that sees which branches it reaches: CASES=1000000
	PYTHONPATH=$(GUIDED) $(BIN)/python -m tests.faults.guided --runs $(CASES)

fresh: $(DEV) ## make a server of a fresh Debian by the words of docs/deployment.md, and train on it (sudo, debootstrap, the network; minutes)
	$(SUDO) env AZAION_FRESH=1 $(BIN)/python -m pytest tests/systemd/test_fresh.py -s

install: ## make a server of this machine, as root; again to upgrade it (ENV=FILE, INSTALL="--environment DIR"); see docs/deployment.md
	@PYTHONPATH=. $(PYTHON) -B -m supervisor.ctl install . $(if $(ENV),--env-file $(abspath $(ENV))) $(INSTALL)

uninstall: ## take units and releases off this machine, as root; the data stay
	@PYTHONPATH=. $(PYTHON) -B -m supervisor.ctl uninstall

include etc/ci/ci.mk

lock: $(UV) ## make the locks anew from pyproject.toml
	bash requirements/lock.sh $(UV)

clean: ## remove the virtual environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage* htmlcov

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "azaion: no Python found; install Python 3.11 to 3.13 and try again" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "azaion: $(PYTHON) is $$($(PYTHON) -V); Python 3.11 to 3.13 is needed: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo "azaion: $(PYTHON) has no ensurepip; on Debian: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The order matters: the lock (with hashes) first, then torch, whose build depends on the machine, then our own package.
define install
	$(PIP) install --require-hashes --no-deps -r requirements/build.lock -r requirements/$(1).lock
	$(PIP) install -r requirements/torch.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $(2)
endef

$(TRAIN): requirements/build.lock requirements/train.lock requirements/torch.txt pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) (a few minutes, 2 GB)"
	$(call install,train,$@)

$(DEV): requirements/build.lock requirements/dev.lock requirements/torch.txt pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) (a few minutes, 2 GB)"
	$(call install,dev,$@)
	@touch $(TRAIN)

# Absent where the machine has one of its own, or where none can be had: then the script says so.
$(RABBITMQ): | $(BIN)/python
	@bash tests/rabbitmq.sh $@

$(PROMTOOL): | $(BIN)/python
	@bash tests/promtool.sh $@

$(CHROMIUM): | $(BIN)/python
	@bash tests/chromium.sh $@

$(SWIFT): | $(BIN)/python
	@bash tests/swift.sh $@

$(AGE): | $(BIN)/python
	@bash tests/age.sh $@

$(STRACE): | $(BIN)/python
	@bash tests/strace.sh $@

$(GUIDED): requirements/guided.lock | $(BIN)/python
	$(PIP) install --require-hashes --no-deps --target $@ -r requirements/guided.lock
	@touch $@

$(UV): | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip --quiet install uv
