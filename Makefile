# make lab: JupyterLab on the start notebook.  make test: everything that CI runs.  See CONTRIBUTING.md.
# make fetch NAMES="english sms-spam" and make bench NAMES="index probes" do some of what they do without NAMES.
# The first of these that is at least 3.11; `make PYTHON=...` names another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BROWSER ?= 1
PORT ?= 8888

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

JAVASCRIPT := widgets tests/widgets

# JupyterLab asks on its first start whether it may fetch news: a lecture need not begin with that.
LAB_SETTINGS := {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}

.PHONY: install lab fetch test check bench notebooks lint format

install: $(STAMP)

# torch goes first and alone: this takes the CPU build where one lies ready.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "saekit needs Python 3.11 or newer: make PYTHON=/path/to/python" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "Creating $(VENV)" && "$(PYTHON)" -m venv $(VENV); }
	@echo "Installing the pinned packages into $(VENV); the first time takes a few minutes"
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@$(PIP) -c constraints.txt -e ".[dev]"
	@mkdir -p $(VENV)/share/jupyter/lab/settings && echo '$(LAB_SETTINGS)' > $(VENV)/share/jupyter/lab/settings/overrides.json
	@touch $@

lab: install
	@$(BIN)/python -m jupyterlab --port=$(PORT) --allow-root --ServerApp.root_dir="$(CURDIR)" --LabApp.news_url= \
	  --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb $(if $(filter 0,$(BROWSER)),--no-browser)

fetch: install
	@$(BIN)/python -W ignore -m saekit.fetch $(NAMES)

test: install
	@$(BIN)/python -m tests

check: lint
	@$(BIN)/python -m tests quick

bench: install
	@$(BIN)/python -m tests.benchmarks $(NAMES)

notebooks: fetch
	@$(BIN)/python notebooks/execute.py

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/ty check --python $(VENV)
	@$(BIN)/oxlint --quiet $(JAVASCRIPT)
	@$(BIN)/oxfmt --check $(JAVASCRIPT)

format: install
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/oxlint --quiet --fix $(JAVASCRIPT)
	@$(BIN)/oxfmt $(JAVASCRIPT)
