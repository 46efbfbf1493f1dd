# The two commands of the README are `make run` and `make test`.

.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
# A Python of at least 3.12, which dnsimple 8.x needs; an older pip would quietly take dnsimple 2.x instead.
# Tests wait for processes and clocks more than they work.
AT_ONCE ?= 2
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.14; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && { echo "$$p"; break; }; done)

.PHONY: help run test check lint types imports security audit fuzz format docs reference lock chaos simulation bench screenshots clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(VENV)/.run ## Start the service; without a DNSIMPLE_API_TOKEN, with a simulated DNSimple and a demo
	@exec $(BIN)/python -m launcher

test: $(VENV)/.dev ## Run all tests, several at a time; `make test AT_ONCE=0` one after the other
	$(BIN)/python -m pytest -n $(AT_ONCE) --dist worksteal

check: lint types imports ## Lint, types and import directions

lint: $(VENV)/.dev ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## Check types
	$(BIN)/mypy

imports: $(VENV)/.dev ## Check that imports point one way
	$(BIN)/lint-imports

security: $(VENV)/.dev ## Look for careless code with bandit (exceptions: pyproject.toml)
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml app simulator migrations config.py wsgi.py gunicorn.conf.py

audit: $(VENV)/.dev ## Ask PyPI for known vulnerabilities of what is pinned; skipped where it cannot be reached
	@.ci/audit $(BIN)/python

fuzz: $(VENV)/.dev ## Some 20,000 made-up inputs for everything that reads what strangers send
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-3500} $(BIN)/python -m pytest tests/unit/test_fuzz.py --hypothesis-show-statistics --timeout 3600

format: $(VENV)/.dev ## Put the code into its usual form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev ## Build the documentation's site into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet -b html -d docs/_build/trees docs docs/_build/html

reference: $(VENV)/.dev ## Make docs/reference/ from the code, and the pictures of the documentation
	$(BIN)/python -m tools.reference
	$(BIN)/python -m tools.pictures

lock: $(VENV)/.dev ## Compile requirements*.in into requirements*.txt, every version and hash pinned
	$(BIN)/python -m pip install --quiet uv
	for f in requirements requirements-dev; do $(BIN)/uv pip compile --quiet --universal --python-version 3.12 \
		--generate-hashes --no-emit-index-url --no-header $$f.in --output-file $$f.txt; done

chaos: $(VENV)/.dev ## Kill processes at 1,000 instants while everything else goes wrong too: half an hour
	$(BIN)/python -m tests.chaos --write docs/chaos.md

simulation: $(VENV)/.dev ## A year of 1,000 certificates while much goes wrong, with the clocks moved ahead
	nice $(BIN)/python -m tests.simulation

bench: $(VENV)/.dev ## Measure, and write docs/benchmarks.md
	$(BIN)/python -m benchmarks

screenshots: $(VENV)/.dev ## Make the pictures of the documentation (needs Debian's chromium)
	$(BIN)/python -m tests.browser.screenshots

clean: ## Remove the environment and caches; your data in var/ stays
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.12 or later is needed: install it, or say where it is: make PYTHON=/path/to/python3.13 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt | $(VENV)/bin/python
	@echo "Installing the pinned requirements into $(VENV)/ ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.run
	@echo "Installing the development tools ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@
