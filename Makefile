# `make run` and `make test` need git, make and Python 3.11 or newer; everything else goes into .venv.
PYTHON ?= python3
CORES ?= all
SLURM_TESTS ?= slurm
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: run test test-interop test-slurm drill env-esm3 lint format clean help

run: $(VENV)/.installed  ## install, fetch weights and data, run the default suite
	saelib fetch
	snakemake --cores $(CORES) --keep-going
	@echo "The page: file://$(CURDIR)/results/report.html"

test: $(VENV)/.installed-dev  ## install and run the tests
	pytest -n logical --maxprocesses 4 --dist loadfile

test-interop: $(VENV)/.installed-dev  ## install SAELens, dictionary_learning and sparsify apart, compare outputs with them
	python -m benchmarks.peers
	pytest -m interop

test-slurm: $(VENV)/.installed-dev  ## the workflow on a Slurm of its own, on this machine (root on Debian or Ubuntu)
	@if scontrol ping >/dev/null 2>&1; then exec pytest tests/slurm -m "$(SLURM_TESTS)"; fi; \
	  tools/slurm/start.sh && { pytest tests/slurm -m "$(SLURM_TESTS)"; code=$$?; tools/slurm/stop.sh; exit $$code; }

drill: $(VENV)/.installed-dev  ## kill, starve and damage runs of a miniature suite, and tally what comes of it (Linux, best as root)
	python -m tools.drill

env-esm3: .envs/esm3/.installed  ## ESM3's environment, whose packages fit beside no others (Python 3.11 or 3.12)

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
	rm -rf $(VENV) .envs .peers results .snakemake

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "saelib needs Python 3.11 or newer; 'make run PYTHON=python3.12' names another one"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# constraints.txt pins what was tested together; torch first among them, so that no other wheel of it is fetched.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[esm2,pipeline,sd3]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.installed

.envs/esm3/.installed: pyproject.toml envs/esm3-constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
	  || { echo "ESM3's packages need Python 3.11 or 3.12; 'make env-esm3 PYTHON=python3.11' names another one"; exit 1; }
	$(PYTHON) -m venv .envs/esm3
	.envs/esm3/bin/python -m pip install --disable-pip-version-check -c envs/esm3-constraints.txt -e '.[esm3]' pytest hypothesis
	touch $@
