# make lab: JupyterLab on the start notebook.  make test: everything that CI runs.  See CONTRIBUTING.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BROWSER ?= 1
PORT ?= 8888

.PHONY: install lab test bench notebooks lint format

install: $(STAMP)

# torch goes first and alone: its pin takes a CPU build, a looser range would bring gigabytes of CUDA.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[lab,dev]"
	touch $(STAMP)

lab: install
	$(BIN)/python -m jupyterlab notebooks/00_start_here.ipynb --port=$(PORT) \
	  $(if $(filter 0,$(BROWSER)),--no-browser) $(if $(filter 0,$(shell id -u)),--allow-root) \
	  --LabApp.news_url= --ServerApp.root_dir=$(CURDIR)

test: install
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tests

bench: install
	$(BIN)/python -m tests.benchmarks

notebooks: install
	$(BIN)/python notebooks/execute.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
