# `make run` and `make test` need git, make and Python 3.11 or newer; everything else goes into .venv.
PYTHON ?= python3
CORES ?= all
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: run test test-interop lint format clean help

run: $(VENV)/.installed  ## install, fetch weights and data, run the default suite
	saelib fetch
	snakemake --cores $(CORES)
	@echo "The page: file://$(CURDIR)/results/report.html"

test: $(VENV)/.installed-dev  ## install and run the tests
	pytest

test-interop: $(VENV)/.installed-dev  ## install SAELens, dictionary_learning and sparsify apart, compare outputs with them
	python -m benchmarks.peers
	pytest -m interop

lint: $(VENV)/.installed-dev  ## ruff, pyright, snakefmt and snakemake's own linter
	ruff check .
	ruff format --check .
	pyright
	snakefmt --check --line-length 120 Snakefile rules
	snakemake --lint

format: $(VENV)/.installed-dev  ## put the code into its form
	ruff format .
	ruff check --fix .
	snakefmt --line-length 120 Snakefile rules

clean:  ## remove the environments and the results (never the cache of downloads)
	rm -rf $(VENV) .peers results .snakemake

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "saelib needs Python 3.11 or newer; 'make run PYTHON=python3.12' names another one"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# constraints.txt pins what was tested together; torch first among them, so that no other wheel of it is fetched.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.installed
