# `make help` lists what can be made. Everything runs in .venv, which the first target installs.
SHELL := bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# wheel or system; what was chosen at the last set-up holds until another is asked for.
INSTALLED_MPI := $(shell cat .venv/mpi 2>/dev/null)
WANTED_MPI := $(or $(MPI),$(INSTALLED_MPI),wheel)
export NO_ALBUMENTATIONS_UPDATE := 1
# Threads that spin while another process has the core made a training ten times slower on a busy machine.
export OMP_WAIT_POLICY ?= PASSIVE

# In the files' order, so that the longest (tests/pipeline) do not come last.
PARALLEL := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: .venv/ready  ## create .venv and install the locked requirements (MPI=system: use the cluster's MPI, not the wheel)

# A new environment is made whenever a lock file changes, or another MPI is asked for. `ready` appears only after everything is installed.
.venv/ready: requirements.lock requirements-dev.lock
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet uv
	grep -v -E '$(if $(filter system,$(WANTED_MPI)),^mpich==,^$$)' requirements-dev.lock > .venv/install.txt
	$(BIN)/uv pip install --python $(BIN)/python --quiet --compile-bytecode -r .venv/install.txt
	echo $(WANTED_MPI) > .venv/mpi
	touch $@

ifneq ($(INSTALLED_MPI),$(WANTED_MPI))
.PHONY: .venv/ready
endif

lock: setup  ## make the lock files anew from requirements.txt and requirements-dev.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 requirements.txt -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 -c requirements.lock requirements-dev.txt -o requirements-dev.lock

lint: setup  ## check format and rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: setup  ## apply format and the rules that mend themselves
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: setup  ## the tests, on up to four cores
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-all: setup  ## the tests, the long ones too
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest

test-faults: setup  ## runs that are killed, signalled, doubled, starved: the table of docs/reliability.md
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest tests/faults --timeout 1200

demo: setup  ## the whole chain at a small size on phantoms, or on your copy of CAMUS: make demo CAMUS=/path/to/camus
	PATH="$(CURDIR)/$(BIN):$$PATH" pipelines/demo.sh $(if $(CAMUS),"$(CAMUS)")

replicate: setup  ## the paper's claim on your copy of CAMUS: make replicate CAMUS=/path/to/camus SCALE=cpu64|cpu128|gpu256 (DRY=1: try it)
	PATH="$(CURDIR)/$(BIN):$$PATH" pipelines/replicate.sh $(if $(CAMUS),"$(CAMUS)") $(or $(SCALE),cpu64) $(if $(filter-out 0,$(DRY)),--dry-run)

bench: setup  ## the CPU benchmarks, on two quiet cores under 10 minutes; logs go to benchmarks/results/ (CAMUS=/path too)
	env -u OMP_WAIT_POLICY PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python benchmarks/cpu.py $(if $(CAMUS),--camus_nifti "$(CAMUS)")

docs: setup  ## write docs/cli.md anew
	$(BIN)/python docs/make_cli.py

.PHONY: docs help setup lock lint format test test-all test-faults demo replicate bench
