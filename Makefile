# make run   trains at 95 % sparsity and evaluates;  make test  checks everything;
# make docs  builds the site.
# Relative paths only, so that the checkout may lie in a folder with spaces.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin/python
PIP := $(BIN) -m pip --disable-pip-version-check
RANGE := "ssvi_jax needs Python 3.11 or newer, got " + sys.version.split()[0] + ": choose with make PYTHON=python3.12 ..."

.PHONY: help run test test-system test-versions lint docs wheel clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*##/\t/'
	@printf 'Variables: PYTHON (interpreter of the new %s, now %s), ARGS (added to the run)\n' '$(VENV)' '$(PYTHON)'
	@printf 'Example:   make run ARGS="--preset smoke"\n'

run: $(VENV)/.installed ## install once, then train and evaluate at 95 % sparsity
	$(BIN) experiments/cifar10.py --sparsity 0.95 $(ARGS)

test: lint ## install once, then lint, check types and run the tests
	$(BIN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

test-system: $(VENV)/.installed-dev ## whole systems: faults, several processes, an installation, sanitizers
	$(BIN) -m pytest -n 2 -m system $(ARGS)

lint: $(VENV)/.installed-dev ## style, formatting and types only
	$(BIN) -m ruff check
	$(BIN) -m ruff format --check
	$(BIN) -m pyright --pythonpath $(BIN)

test-versions: $(VENV)/.installed-dev ## quick tests with oldest and newest packages on every Python
	$(BIN) tests/project/versions.py $(ARGS)

wheel: $(VENV)/.installed-dev ## build sdist and wheel, check and use them
	$(BIN) tests/project/wheel.py

docs: $(VENV)/.installed-docs ## build the site in docs/_build/html, execute its pages and check it
	$(BIN) -m sphinx -W --keep-going -j auto -b html docs docs/_build/html $(ARGS)
	$(BIN) docs/check_site.py docs/_build/html
	$(BIN) docs/check_examples.py

clean: ## remove the environment, caches and build products
	rm -rf $(VENV) .versions build dist docs/_build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit($(RANGE))'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --no-compile -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(PIP) install --no-compile -r requirements-dev.txt
	@touch $@

$(VENV)/.installed-docs: pyproject.toml $(VENV)/.installed
	$(PIP) install --no-compile -e '.[docs]'
	@touch $@
