# make serve: set up and serve the bundled model.   make test: set up and pass the tests.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
BENCH_STAMP := .venv/.bench
SOURCES := run_server.py server engine ops compat parrot bench tests models examples
# libgomp's spinning starves processes that share cores.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help setup serve test check fmt lint types clients bench model eval-model clean

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## create .venv and install everything (pinned by constraints.txt)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip==26.3'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --group server --group dev
	@touch $(STAMP)

serve: setup  ## serve the bundled model; flags go in ARGS='--port 8000 ...'
	$(BIN)/python run_server.py $(ARGS)

test: setup  ## run the tests; pytest's flags go in ARGS
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup  ## format check and lint
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)

types: setup  ## mypy, strict
	$(BIN)/mypy

check: lint types clients test  ## all that CI runs

clients: .venv-clients/.installed  ## the clients that tests/clients runs: LangChain, LiteLLM, LlamaIndex, openai (npm)

.venv-clients/.installed: tests/clients/requirements.txt tests/clients/package.json tests/clients/openai.mjs
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps -r tests/clients/requirements.txt
	mkdir -p .venv-clients/node
	cp tests/clients/package.json tests/clients/openai.mjs .venv-clients/node
	if command -v npm > /dev/null; then npm install --silent --no-audit --no-fund --prefix .venv-clients/node; fi
	@touch $@

fmt: setup  ## format and fix what can be fixed
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: setup $(BENCH_STAMP)  ## the ten-minute set of benchmarks; another workload and its flags go in ARGS
	$(BIN)/python -m bench $(or $(ARGS),all --quick)

$(BENCH_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --group bench
	@touch $@

model: setup  ## train the bundled model; a run that was cut goes on where it was
	$(BIN)/python models/parrot-tales/train.py --run build/model $(ARGS)

eval-model: setup  ## the bundled model's table of skills, from held-out worlds, through a server; ARGS='--url http://...'
	$(BIN)/python models/parrot-tales/evaluate.py $(ARGS)

clean:  ## remove what setup and the tools made
	rm -rf .venv .venv-clients .mypy_cache .ruff_cache .pytest_cache .hypothesis
