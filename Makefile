# The two commands of the README are `make run` and `make test`.

.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
# Number of test processes; 0 runs the tests in one process, one after the other.
AT_ONCE ?= 2
PYTEST_OPTIONS ?=
PYTEST = $(BIN)/python -m pytest -n $(AT_ONCE) --dist worksteal $(PYTEST_OPTIONS)
# Python 3.12 or later, which dnsimple 8.x requires: with an older one, pip would silently install dnsimple 2.x.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && { echo "$$p"; break; }; done)

.PHONY: help run test test-fast test-all check lint types imports security audit fuzz format docs reference lock chaos mutants simulation bench screenshots clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.run ## Start the service; without DNSIMPLE_API_TOKEN, with a simulated DNSimple and a demo
	@exec $(BIN)/python -m launcher

test: $(VENV)/.dev ## Run all tests in two processes; AT_ONCE=N changes the number
	$(PYTEST)

test-fast: $(VENV)/.dev ## Run the unit tests and the integration tests on SQLite
	$(PYTEST) -m "(unit or integration) and not (postgresql or chaos)"

test-all: $(VENV)/.dev ## Run all tests, those that use a database on SQLite and on PostgreSQL
	$(PYTEST) --all-databases

check: lint types imports ## Check style, types and import directions

lint: $(VENV)/.dev ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## Check types
	$(BIN)/mypy

imports: $(VENV)/.dev ## Check import directions
	$(BIN)/lint-imports

security: $(VENV)/.dev ## Run the security linter bandit (exceptions: pyproject.toml)
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml app simulator migrations config.py wsgi.py gunicorn.conf.py

audit: $(VENV)/.dev ## Check the pinned versions for known vulnerabilities; skipped if PyPI is unreachable
	@.ci/audit $(BIN)/python

fuzz: $(VENV)/.dev ## Run about 20,000 generated inputs through every parser of untrusted data
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-3500} $(BIN)/python -m pytest tests/unit/test_fuzz.py --hypothesis-show-statistics --timeout 3600

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev ## Build the documentation into docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html -d docs/_build/trees docs docs/_build/html

reference: $(VENV)/.dev ## Generate docs/reference/ and the diagrams from the code
	$(BIN)/python -m tools.reference
	$(BIN)/python -m tools.pictures

lock: $(VENV)/.dev ## Compile requirements*.in into requirements*.txt with pinned versions and hashes
	$(BIN)/python -m pip install --quiet uv
	for f in requirements requirements-dev; do $(BIN)/uv pip compile --quiet --universal --python-version 3.12 \
		--generate-hashes --no-emit-index-url --no-header $$f.in --output-file $$f.txt; done

chaos: $(VENV)/.dev ## Kill processes at 1,000 random instants under injected faults (half an hour)
	$(BIN)/python -m tests.chaos --write docs/chaos.md

mutants: $(VENV)/.dev ## Plant a bug for each invariant; the tests must find all of them
	$(BIN)/python -m tests.mutants

simulation: $(VENV)/.dev ## Simulate a year of 1,000 certificates with injected faults
	nice $(BIN)/python -m tests.simulation

bench: $(VENV)/.dev ## Run the benchmarks and write docs/benchmarks.md
	$(BIN)/python -m benchmarks

screenshots: $(VENV)/.dev ## Take the screenshots of the documentation (needs Debian's chromium)
	$(BIN)/python -m tests.browser.screenshots

clean: ## Remove the virtual environment and caches; data in var/ is kept
	rm -rf $(VENV) .coverage .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.12 or later is required. Install it, or give its path: make PYTHON=/path/to/python3.13 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt pyproject.toml | $(VENV)/bin/python
	@echo "Installing the pinned requirements into $(VENV)/ ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	@echo "Installing the development tools ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@
