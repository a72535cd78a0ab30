# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SITE := work/site
export PIP_USE_PEP517 := 1
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export MLFLOW_DISABLE_TELEMETRY := true
export OMP_WAIT_POLICY ?= PASSIVE
test test-fast: export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup demo real-demo test test-fast check docs bench data real prove-main prove-loop prove-speed prove-odd prove-verdicts prove-atlas clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) ## install everything into .venv (nothing to do when nothing changed)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: setup ## learn five simulated generators one after the other, under DVC, Prefect and MLflow
	$(BIN)/lorax demo

test: setup ## run the tests: three files at a time, since many wait for servers; COVERAGE=--cov tells the lines that they reach
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(COVERAGE)

test-fast: setup ## those that are not marked slow
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m "not slow"

check: setup ## lint, formatting, types, floor plan
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/architecture.py --check

docs: $(VENV)/.docs ## build the documentation as work/site/index.html; any warning, such as a link that leads nowhere, fails it
	@rm -rf $(SITE)
	$(BIN)/python -m sphinx --builder html --fresh-env --fail-on-warning --keep-going --quiet --doctree-dir $(SITE)/.doctrees docs $(SITE)
	@echo $(SITE)/index.html

$(VENV)/.docs: $(READY)
	$(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

bench: setup ## measure speed against the published way: about 15 minutes on two quiet cores
	$(BIN)/python benchmarks/attention.py
	$(BIN)/python benchmarks/training_step.py --rounds 3
	$(BIN)/python benchmarks/prediction.py --rounds 3
	$(BIN)/python benchmarks/verdicts.py --branches 1 12 --images 16
	$(BIN)/python benchmarks/verdicts.py --branches 1 12 --model residual
	$(BIN)/python benchmarks/one_pass.py
	$(BIN)/python benchmarks/branch_memory.py
	$(BIN)/python benchmarks/episode.py --whole 2
	$(BIN)/python benchmarks/stream.py
	$(BIN)/python benchmarks/landing.py --images 400
	$(BIN)/python benchmarks/startup.py --tasks 3 --rounds 3
	$(BIN)/python benchmarks/plot.py

data: setup ## make the repository's own data/ again: simulate, land five times; data.dvc comes out the same
	$(BIN)/python scripts/make_data.py

real: setup ## make the stream 'real' in work/real: photographs, and what 15 networks make of them (docs/real.md)
	$(BIN)/python -m scripts.real $(REAL)

real-demo: setup ## the demo on real networks: make a small set of four, learn them one after the other (docs/real.md)
	$(BIN)/python -m scripts.real.demo

prove-main: setup ## the main job's slow proofs (20-30 minutes)
	$(BIN)/python proofs/main.py

prove-loop: setup ## the loop's slow proofs: real servers, workers, kills (three hours or more)
	$(BIN)/python proofs/loop.py

prove-speed: setup ## the published way and ours learn the demo's stream over five seeds (two hours)
	$(BIN)/python -m proofs.speed

prove-odd: setup ## six innocent simulated tasks with the oddities of real copies: the gate must refuse none
	$(BIN)/python -m proofs.odd_stream

prove-atlas: setup ## the atlas's slow proofs: a zoo of LoRAs, exactness, bad files, starts, 10,000 adapters (two hours or more)
	$(BIN)/python -m proofs.atlas

prove-verdicts: setup ## verdicts' slow proofs: calibration, unknown generators, the server under load (an hour or more)
	$(BIN)/python -m proofs.verdicts

clean: ## stop the servers that the demo or this workspace started, and remove work/
	@if [ -x $(BIN)/lorax ]; then \
	  for folder in . work/demo work/real-demo/workspace; do if [ -f $$folder/params.yaml ]; then (cd $$folder && $(abspath $(BIN))/lorax down); fi; done; \
	fi
	rm -rf work
