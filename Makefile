# Everything runs in .venv; only Python 3.10+ and make are required.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-dev
CHOSEN = $(if $(filter undefined,$(origin BROKERS)),,--brokers '$(BROKERS)')

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format schemas generate screenshots image-context lock clean

help: ## Show this help
	@grep -hE '^[a-z%-]+:.*?## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

install: $(INSTALLED) ## Create .venv and install everything into it

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or later is needed: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25' # older ones resolve for minutes

$(VENV)/.installed%: requirements%.txt requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

demo: $(VENV)/.installed-demo ## Clear a million messages on an embedded broker, undo it, skip them
	$(BIN)/python -m demo

test: $(INSTALLED) ## Run the tests; what the machine lacks is skipped with its reason
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## Let ruff format the code
	$(BIN)/ruff format .

bench-%: $(INSTALLED) ## Benchmark: engine, kafka, pulsar, pubsub, eventhubs, iggy side by side; fanout by a model
	$(BIN)/python -m bench.$* $(BENCH_ARGS)

schemas: $(INSTALLED) ## Write the JSON Schemas in docs/schema from the models
	$(BIN)/python -m tools.schemas

generate: $(INSTALLED) ## Write every list of systems from the registry
	$(BIN)/python -m tools.generate

screenshots: $(INSTALLED) ## Record docs/screenshot.svg, the README's picture, from a real run
	$(BIN)/python -m tools.screenshots

bundle-%: $(INSTALLED) ## gcp, azure: a function bundle in dist/; BROKERS=kafka,pulsar for these alone
	$(BIN)/python -m tools.bundle $* $(CHOSEN)

image-context: $(INSTALLED) ## Docker build context of the job in dist/; BROKERS as above, CLOUDS=aws
	$(BIN)/python -m tools.bundle image $(CHOSEN) $(if $(filter undefined,$(origin CLOUDS)),,--clouds '$(CLOUDS)')

lock: $(INSTALLED) ## Renew functions/requirements.lock, the versions in the bundles
	$(BIN)/python -m tools.bundle lock

clean: ## Remove .venv, dist and caches
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
