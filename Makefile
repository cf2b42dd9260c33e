# Every target makes ready what it needs; none asks for another to be called first.
.DEFAULT_GOAL := help
.PHONY: help setup run demo test check format bench lock
export PYTHON ?= python3
export PORT ?= 8000
export PYTHONUNBUFFERED := 1
python := .venv/bin/python

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## Virtual environment, pinned packages, native libraries, database and its tables.
	@bin/setup
	@$(python) manage.py prepare --verbosity 0

run: ## The site on http://127.0.0.1:8000 with its jobs, until Ctrl-C. PORT=8100 chooses another port.
	@bin/run

demo: ## Bill a month of real usage on an empty database, from the files to the mails, and print the figures.
	@bin/setup
	@$(python) -m config.database sh -c '$(python) manage.py prepare --verbosity 0 && $(python) manage.py demo'

test: ## Every test, those in a real browser included. TESTS="-k ledger" chooses.
	@bin/setup dev
	@$(python) -m config.database --test $(python) -m pytest --numprocesses auto --dist loadgroup $(TESTS)

check: ## What can be said without running it: lint, format, types, directions of imports, templates, migrations.
	@bin/setup dev
	@$(python) -m config.database --test bin/check

format: ## Bring code and templates into shape.
	@bin/setup dev
	@$(python) -m ruff check --fix-only --quiet .
	@$(python) -m ruff format --quiet .

bench: ## Measure, one JSON object a line.
	@bin/setup dev
	@$(python) -m config.database $(python) -m benchmarks

lock: ## Compile the pinned requirements anew.
	@bin/lock
