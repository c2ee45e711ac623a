# `make run` and `make test` need git, make and Python 3.11 or newer. Everything else is installed into .venv.
PYTHON ?= python3
CORES ?= all
SLURM_TESTS ?= slurm
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: run lab test test-interop test-slurm test-triton drill env-esm3 docs lint format clean help

run: $(VENV)/.installed  ## install, fetch weights and data, run the default suite
	saelib fetch
	snakemake --cores $(CORES) --keep-going
	@echo "The page: file://$(CURDIR)/results/report.html"

lab: $(VENV)/.installed  ## install, run the paper's controlled experiments on synthetic data
	snakemake --configfile configs/lab.yaml --cores $(CORES) --keep-going
	@echo "The page: file://$(CURDIR)/results-lab/report.html"

test: $(VENV)/.installed-dev  ## install and run the tests
	pytest -n logical --maxprocesses 4 --dist loadfile

test-interop: $(VENV)/.installed-dev  ## exchange SAEs with other libraries, train and compare with them (installs them)
	python -m benchmarks.peers
	pytest -m interop

test-slurm: $(VENV)/.installed-dev  ## test the pipeline on a Slurm on this machine (root on Debian or Ubuntu)
	@if scontrol ping >/dev/null 2>&1; then exec pytest tests/slurm -m "$(SLURM_TESTS)"; fi; \
	  tools/slurm/start.sh && { pytest tests/slurm -m "$(SLURM_TESTS)"; code=$$?; tools/slurm/stop.sh; exit $$code; }

test-triton: $(VENV)/.installed-dev  ## test the kernels for GPUs in Triton's interpreter, and compile them (installs Triton, 0.6 GB; Linux)
	pip install -q -c constraints.txt 'triton>=3.6'
	pytest tests/sae/gpu -n logical --maxprocesses 4

drill: $(VENV)/.installed-dev  ## kill, starve and damage runs of a miniature suite (Linux, best as root)
	python -m tools.drill

env-esm3: .envs/esm3/.installed  ## install the environment that ESM3 needs (Python 3.11 or 3.12)

docs: .envs/docs/.installed  ## build the documentation's site into site/
	NO_MKDOCS_2_WARNING=1 .envs/docs/bin/python -m mkdocs build --quiet
	@echo "The site: file://$(CURDIR)/site/index.html"

lint: $(VENV)/.installed-dev  ## run ruff, pyright, snakefmt and Snakemake's own linter
	ruff check .
	ruff format --check .
	pyright
	snakefmt --check --line-length 120 Snakefile rules
	snakemake --lint

format: $(VENV)/.installed-dev  ## format the code
	ruff format .
	ruff check --fix .
	snakefmt --line-length 120 Snakefile rules

clean:  ## remove the environments and the results, but not the download cache
	rm -rf $(VENV) .envs .peers results site .snakemake

help:  ## show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "saelib needs Python 3.11 or newer; 'make run PYTHON=python3.12' uses another one"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# constraints.txt pins the versions that were tested together, torch included, so no other wheel of it is fetched.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[esm2,pipeline,sd3]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/.installed

.envs/esm3/.installed: pyproject.toml envs/esm3-constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
	  || { echo "ESM3's packages need Python 3.11 or 3.12; 'make env-esm3 PYTHON=python3.11' uses another one"; exit 1; }
	$(PYTHON) -m venv .envs/esm3
	.envs/esm3/bin/python -m pip install --disable-pip-version-check -c envs/esm3-constraints.txt -e '.[esm3]' pytest hypothesis
	touch $@

.envs/docs/.installed: envs/docs.txt constraints.txt
	$(PYTHON) -m venv .envs/docs
	.envs/docs/bin/python -m pip install --disable-pip-version-check -q -c constraints.txt -r envs/docs.txt
	touch $@
