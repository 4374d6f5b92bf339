# Everything runs in .venv; only Python 3.10+ and make are required.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-dev
CHOSEN = $(if $(filter undefined,$(origin BROKERS)),,--brokers '$(BROKERS)')
QUICK := -q --quick -n 6 -p no:anyio
# pip follows every setting of the machine's package index. INSTALLER=uv takes a tenth of its processor time.
INSTALLER ?= pip
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check
INSTALL = $(if $(filter uv,$(INSTALLER)),$(PIP) 'uv>=0.9' && $(BIN)/uv pip install --quiet --python $(BIN)/python,$(PIP))
UNVERSIONED := $(foreach name,docs generated layers scheduling,--ignore tests/test_$(name).py)
LOWEST := .venv-lowest
LOWEST_PYTHON ?= $(BIN)/python
# The contract goes through every operation of a system, and the others use a library in ways of their own.
LIBRARIES := $(filter-out %/test_memory.py %/test_pulsar_lite.py, \
	$(shell grep -ls 'backlog_clearer.testing import .*Contract' tests/brokers/test_*.py)) \
	$(patsubst %,tests/brokers/test_%.py,eventhubs_checkpoints google_tokens kafka_library pulsar_client) \
	tests/functions/test_receipt_stores.py

.DEFAULT_GOAL := help
unexport PYTHONDONTWRITEBYTECODE # each worker, and each process that a test starts, would compile all modules
.PHONY: help install demo test test-quick test-python test-lowest mutate lint format schemas generate \
	module-tables screenshots image-context lock clean

help: ## Show this help
	@grep -hE '^[a-z%-]+:.*?## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

install: $(INSTALLED) ## Create .venv and install everything into it

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or later is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'pip>=25' # older ones resolve for minutes

$(VENV)/.installed%: requirements%.txt requirements.txt requirements-test.txt pyproject.toml | $(BIN)/python
	$(INSTALL) -r $<
	@touch $@

demo: $(VENV)/.installed-demo ## Clear a million messages on an embedded broker, undo it, skip them
	$(BIN)/python -m demo

test: $(INSTALLED) ## Run all tests; what the machine lacks is skipped with its reason
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-quick: $(VENV)/.installed-test ## Run the tests that start no server, in less than a minute
	$(BIN)/python -m pytest $(QUICK) $(PYTEST_ARGS)

test-python: ## test-quick on another Python, in its own folder: PYTHON=python3.13
	$(MAKE) --no-print-directory test-quick QUICK='$(QUICK) $(UNVERSIONED)' PYTHON=$(PYTHON) \
		VENV=.venv-$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# In one run, so that the tests that wait for brokers do it beside those that need none. They mostly wait, and a
# worker that has finished takes over what others have not begun.
test-lowest: $(LOWEST)/.installed ## Run tests with the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/python -m pytest -q -n 4 --dist worksteal $(UNVERSIONED) tests/test_*.py $(LIBRARIES) \
		$(PYTEST_ARGS)

$(LOWEST)/.installed: requirements-dev.txt requirements-test.txt pyproject.toml | $(INSTALLED)
	$(BIN)/uv venv --quiet --clear --no-python-downloads --python $(LOWEST_PYTHON) $(LOWEST)
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --all-extras --no-emit-package backlog-clearer \
		--python $(LOWEST)/bin/python --output-file $(LOWEST)/lowest.txt pyproject.toml
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --constraint $(LOWEST)/lowest.txt \
		-r requirements-dev.txt
	@touch $@

mutate: $(INSTALLED) ## Prove that the contract suite finds faults, each put into the memory adapter
	$(BIN)/python -m tools.mutate

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## Let ruff format the code
	$(BIN)/ruff format .

bench-%: $(INSTALLED) ## Benchmark: engine, kafka, pulsar, pubsub, eventhubs, iggy side by side; fanout by a model; faults
	$(BIN)/python -m bench.$* $(BENCH_ARGS)

schemas: $(INSTALLED) ## Write the JSON Schemas in docs/schema from the models
	$(BIN)/python -m tools.schemas

generate: $(INSTALLED) ## Write every list of systems from the registry
	$(BIN)/python -m tools.generate

module-tables: $(INSTALLED) ## Write the tables of inputs and outputs in the Terraform modules' READMEs
	$(BIN)/python -m tools.module_tables

screenshots: $(INSTALLED) ## Record docs/screenshot.svg, the README's picture, from a real run
	$(BIN)/python -m tools.screenshots

bundle-%: $(INSTALLED) ## gcp, azure: a function bundle in dist/; BROKERS=kafka,pulsar for only these
	$(BIN)/python -m tools.bundle $* $(CHOSEN)

image-context: $(INSTALLED) ## Docker build context of the job in dist/; BROKERS as above, CLOUDS=aws
	$(BIN)/python -m tools.bundle image $(CHOSEN) $(if $(filter undefined,$(origin CLOUDS)),,--clouds '$(CLOUDS)')

lock: $(INSTALLED) ## Renew functions/requirements.lock, the versions in the bundles
	$(BIN)/python -m tools.bundle lock

clean: ## Remove .venv, dist and caches
	rm -rf $(VENV) .venv-* dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
