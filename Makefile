# Every target is the only command needed on a machine with Python 3.11 or newer and make: it makes
# its own .venv from the versions in constraints.txt, and nothing outside this folder.
#
# Written for GNU make 3.81 (macOS) and newer.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
SHELL := /bin/sh

PORT ?= 3000
# What `datalake` and `make dev` share: Dagster's records on this machine.
DAGSTER_HOME ?= $(CURDIR)/.datalake/dagster
SCREENSHOTS ?= $(CURDIR)/screenshots

# The newest Python that the constraints are known to hold on. A name on the path may have no
# interpreter behind it (pyenv's shims), so each candidate is run, and asked for venv as well
# (Debian packs it apart). Another one: make PYTHON=/path/to/python3.12 …
usable = -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
PYTHON ?= $(shell for name in python3.13 python3.12 python3.11 python3; do \
	"$$name" $(usable) && echo "$$name" && break; done)

VENV := .venv
BIN := $(VENV)/bin
# What was installed: everything that runs; that and what checks it; that and the browser's driver.
RUNTIME := $(VENV)/.runtime
DEV := $(VENV)/.dev
UI := $(VENV)/.ui

# What an installation is made from; when one of them changes, it is made again.
MADE_FROM := pyproject.toml setup.py datalake_assets/sources/_pages.c constraints.txt

PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
INSTALL := $(PIP) install -qq -c constraints.txt

.PHONY: help
help: ## Show these targets
	@awk 'BEGIN { FS = ":.*## "; print "make TARGET, where TARGET is one of" } \
		/^[a-z0-9-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- use -----------------------------------------------------------------------------------------

.PHONY: demo
demo: $(RUNTIME) ## Collect a few sessions of every symbol into a local lake; no key needed
	@DAGSTER_HOME="$(DAGSTER_HOME)" $(BIN)/datalake demo

# With Dagster's records beside that lake: those of `make dev` are about another one.
.PHONY: demo-s3
demo-s3: $(DEV) ## The same into a bucket, of an S3 server (SeaweedFS) that ends with the demo
	@DAGSTER_HOME="$(CURDIR)/.datalake/s3/dagster" $(BIN)/python -m datalake_assets_tests.seaweedfs \
		--data .datalake/s3 -- $(BIN)/datalake demo

.PHONY: dev
dev: $(RUNTIME) ## Open Dagster's UI, with its daemon, on PORT (3000)
	@DAGSTER_HOME="$(DAGSTER_HOME)" $(BIN)/datalake dev --port "$(PORT)" || { \
		[ $$? -ne 2 ] || echo "Another port: make dev PORT=3001" >&2; exit 1; }

# `deploy/` without containers. Each part that dies is started again, as a container would be.
.PHONY: stack
stack: $(DEV) ## Dagster as it is deployed, on PORT (3000): Postgres, S3, code server, daemon, UI
	@$(BIN)/python -m datalake_assets_tests.stack --data .datalake/stack --port "$(PORT)"

# The function runs by the Python that built it.
.PHONY: lambda
lambda: LAMBDA_PYTHON ?= $(BIN)/python
lambda: $(BIN)/python ## Build the Lambda function into build/lambda: a folder, a zip, and its size
	@"$(LAMBDA_PYTHON)" deploy/lambda/build.py --out build/lambda

# --- develop -------------------------------------------------------------------------------------

.PHONY: test
test: $(DEV) ## Run the tests: no network, no keys (one file: make test ARGS="path -k word")
	@$(BIN)/python -m pytest $(ARGS)

.PHONY: test-ui
test-ui: $(UI) ## Click through `make dev` in Chromium; pictures go to screenshots/
	@SCREENSHOTS="$(SCREENSHOTS)" $(BIN)/python -m pytest -n 0 -m ui datalake_assets_tests/ui $(ARGS)

.PHONY: test-stack
test-stack: $(DEV) ## Drive `make stack` and kill parts of it; a few minutes, needs Postgres
	@$(BIN)/python -m pytest -n 0 -m stack -o faulthandler_timeout=900 \
		datalake_assets_tests/test_stack.py $(ARGS)

# Each in an environment of its own: zipline and NautilusTrader need an older pandas than the rest.
TOOLS := zipline nautilus qlib
PACKAGES_zipline := -e '.[zipline]'
PACKAGES_nautilus := -e '.[nautilus]'
PACKAGES_qlib := -e . pyqlib
.PHONY: test-tools
test-tools: $(TOOLS:%=$(VENV)/tools-%/.installed) ## Run zipline, NautilusTrader and qlib on exports; the first time asks the network
	@for tool in $(TOOLS); do echo "→ $$tool" && \
		$(VENV)/tools-$$tool/bin/python -m pytest -n 0 -m tools  \
			datalake_assets_tests/exporters/test_with_$$tool.py $(ARGS) || exit 1; done

.PHONY: check
check: lint types layers definitions docs test ## Everything that CI runs: lint, types, layers, definitions, docs, tests

.PHONY: lint
lint: $(DEV) ## Style and likely bugs (ruff)
	@echo "→ lint"
	@$(BIN)/python -m ruff check --quiet .
	@$(BIN)/python -m ruff format --check --quiet . || { \
		echo "Not formatted: 'make fix' does it. The files:"; \
		$(BIN)/python -m ruff format --check . || exit 1; }

.PHONY: types
types: $(DEV) ## Types, strictly (mypy)
	@echo "→ types"
	@$(BIN)/python -m mypy

.PHONY: layers
layers: $(DEV) ## Which module may import which (import-linter)
	@echo "→ layers"
	@$(BIN)/lint-imports --no-logo

# With nothing in the environment: loading must need no key, no setting, no home and no network.
.PHONY: definitions
definitions: $(DEV) ## Load the definitions as Dagster does, in an empty environment
	@echo "→ definitions"
	@home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT && \
		env -i HOME="$$home" $(BIN)/python -W ignore::FutureWarning -m dagster \
			definitions validate -w workspace.yaml --log-level warning

# Every warning is an error: a link that leads nowhere, a page that no other leads to. The notebook is
# executed when one of its cells has changed.
.PHONY: docs
docs: $(DEV) ## Build the documentation into docs/_build/html; no network
	@echo "→ docs"
	@$(BIN)/python -m sphinx -b html -W --keep-going -q -d docs/_build/doctrees docs docs/_build/html

.PHONY: pictures
pictures: $(UI) ## Make the pictures of the README anew, into docs/pictures, in Chromium
	@SCREENSHOTS="$(SCREENSHOTS)" $(BIN)/python -m pytest -q -n 0 -m ui \
		datalake_assets_tests/ui/test_pictures.py
	@$(BIN)/python -m datalake_assets_tests.ui.pictures "$(SCREENSHOTS)"

# In an environment of its own: what builds and checks is no part of what is built.
.PHONY: dist
dist: BUILD := $(VENV)/build
dist: $(BIN)/python ## Build the wheel and the source archive into dist/, and check them (asks the network)
	@[ -x "$(BUILD)/bin/twine" ] || { $(BIN)/python -m venv "$(BUILD)" && \
		"$(BUILD)/bin/python" -m pip install -qq --disable-pip-version-check build twine; }
	@rm -rf dist build/lib build/bdist.*
	@"$(BUILD)/bin/python" -m build --outdir dist . >/dev/null
	@"$(BUILD)/bin/twine" check --strict dist/*

.PHONY: test-wheel
test-wheel: $(DEV) ## Install the wheel alone, and run the demo and the UI from it (asks the network)
	@$(BIN)/python -m pytest -n 0 -m wheel -o faulthandler_timeout=900 \
		datalake_assets_tests/test_wheel.py $(ARGS)

.PHONY: audit
audit: AUDIT := $(VENV)/audit
audit: $(BIN)/python ## Known vulnerabilities of what constraints.txt pins (pip-audit; asks the network)
	@[ -x "$(AUDIT)/bin/pip-audit" ] || { $(BIN)/python -m venv "$(AUDIT)" && \
		"$(AUDIT)/bin/python" -m pip install -qq --disable-pip-version-check pip-audit; }
	@"$(AUDIT)/bin/pip-audit" --requirement constraints.txt --disable-pip --no-deps $(ARGS)

.PHONY: fix
fix: $(DEV) ## Format, and mend what ruff can mend
	@$(BIN)/python -m ruff check --fix --quiet . || true
	@$(BIN)/python -m ruff format .

.PHONY: clean
clean: ## Remove .venv, caches and builds; never .datalake, where the lake is
	@rm -rf $(VENV) build dist docs/_build docs/_generated *.egg-info screenshots .hypothesis .import_linter_cache .mypy_cache \
		.pytest_cache .ruff_cache datalake_assets/sources/_pages*.so
	@find datalake_assets datalake_assets_tests -type d -name __pycache__ -prune -exec rm -rf {} +
	@if [ -d .datalake ]; then \
		echo "Kept .datalake: the lake and Dagster's records. To lose them: rm -r .datalake"; fi

# On the oldest Python that is supported: a version that dropped it must not get in.
.PHONY: lock
lock: LOCK_PYTHON ?= python3.11
lock: ## Renew constraints.txt: the newest versions within pyproject.toml's ranges
	@"$(LOCK_PYTHON)" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' || { \
		echo "The versions are chosen on Python 3.11: make lock LOCK_PYTHON=/path/to/python3.11" >&2; \
		exit 1; }
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
		echo "→ choosing the newest versions" && \
		"$(LOCK_PYTHON)" -m venv "$$scratch/venv" && \
		"$$scratch/venv/bin/python" -m pip install -qq --disable-pip-version-check -e '.[ui,kubernetes]' && \
		{ sed -n '/^#/p' constraints.txt && "$$scratch/venv/bin/python" -m pip freeze \
			--disable-pip-version-check --all --exclude pip --exclude us-equity-datalake \
			| awk -F== '{ gsub(/[_.]/, "-", $$1); print tolower($$1) "==" $$2 }' \
			| LC_ALL=C sort; } > "$$scratch/constraints.txt" && \
		cp "$$scratch/constraints.txt" constraints.txt && \
		echo "constraints.txt is renewed; 'make check' tells whether it holds"

# --- what the targets need -----------------------------------------------------------------------

# A venv whose Python has vanished (an upgrade of the system) is made anew, and so are its stamps.
$(BIN)/python:
	@[ -n "$(PYTHON)" ] || { \
		echo "No Python 3.11 or newer with venv was found under the names python3.13, python3.12,"; \
		echo "python3.11 and python3. Install one (Debian, Ubuntu: apt install python3 python3-venv;"; \
		echo "macOS: brew install python), or name one: make PYTHON=/path/to/python3"; exit 1; } >&2
	@"$(PYTHON)" $(usable) || { \
		echo "PYTHON=$(PYTHON) is not Python 3.11 or newer with venv." >&2; exit 1; }
	@echo "→ making $(VENV) with $$("$(PYTHON)" --version)"
	@"$(PYTHON)" -m venv --clear $(VENV)

$(VENV)/tools-%/.installed: $(MADE_FROM) constraints-tools.txt $(BIN)/python
	@echo "→ installing $* in an environment of its own (once; some minutes)"
	@[ -x "$(@D)/bin/python" ] || $(BIN)/python -m venv "$(@D)"
	@"$(@D)/bin/python" -m pip install -qq --disable-pip-version-check --no-input \
		-c constraints-tools.txt $(PACKAGES_$*) pytest pytest-xdist hypothesis
	@touch $@

$(RUNTIME): $(MADE_FROM) $(BIN)/python
	@echo "→ installing what runs (once; a minute or two)"
	@$(INSTALL) -e .
	@touch $@

$(DEV): $(MADE_FROM) $(BIN)/python
	@echo "→ installing what runs and what checks it (once; two minutes or so)"
	@$(INSTALL) -e '.[dev]'
	@touch $(RUNTIME) $@

$(UI): $(MADE_FROM) $(BIN)/python
	@echo "→ installing what runs, what checks it and the browser's driver (once; two minutes or so)"
	@$(INSTALL) -e '.[ui]'
	@touch $(RUNTIME) $(DEV) $@
