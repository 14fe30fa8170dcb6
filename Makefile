# `make help` lists the targets. Each of them makes the environment first where it is missing or out of date.

VENV := .venv
PYTHON := $(VENV)/bin/python
# The interpreter that the environment is made from, once.
BASE_PYTHON ?= python3
# The CPU pins. On a machine with CUDA: make env CONSTRAINTS=
CONSTRAINTS ?= constraints.txt
# Test processes. Each of them computes in one thread: threads that compete for cores are far slower than none.
WORKERS ?= auto
# The real Label Studio, which the tests start; it is no part of fewmask's environment.
LABEL_STUDIO := .venv-label-studio
ONE_THREAD := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env env-locked lock demo test test-quick dist dist-try test-slow test-browser test-label-studio lint audit format bench docs notebooks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

env: $(VENV)/.complete ## make .venv; again only when the dependencies have changed

# The stamp comes last, so that an interrupted installation is taken up again.
$(VENV)/.complete: pyproject.toml constraints.txt
	@$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "fewmask needs Python 3.11 or newer; '$(BASE_PYTHON)' is $$($(BASE_PYTHON) --version 2>&1 | tail -n 1)." >&2; \
	  echo "Name another one: make env BASE_PYTHON=python3.12" >&2; exit 1; }
	$(BASE_PYTHON) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS)) -e ".[dev]"
	@touch $@

env-locked: ## make .venv from requirements.lock: the tested versions, each file checked by its hash
	$(BASE_PYTHON) -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt torch torchvision
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $(VENV)/.complete

# torch and torchvision are left out: the files of one version differ between their builds for CPUs and for CUDA.
lock: env ## write requirements.lock: what .venv has, with the hashes of its files; needs a network
	$(BASE_PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(PYTHON) -m pip freeze --exclude-editable | grep -vE '@|^torch(vision)?=' > .venv-lock/installed.txt
	.venv-lock/bin/uv pip compile --no-deps --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet \
	  --python $(PYTHON) -o requirements.lock .venv-lock/installed.txt

demo: env ## the main job on built-in scenes, in minutes on a laptop
	$(VENV)/bin/fewmask demo

# Pure functions, settings, formats and rules of the source: no training, no server, no browser.
QUICK := acquisition config/test_config.py config/test_register.py data/test_batches.py data/test_reading.py formats \
  losses annotation/test_coco.py views/test_mixing.py views/test_views.py test_architecture.py test_own_loop.py \
  test_package.py test_paths.py test_plugins.py test_pre_commit.py test_strict_yaml.py

test-quick: env ## a part of the tests for the daily loop, in at most 2 minutes
	$(ONE_THREAD) $(PYTHON) -m pytest -m "not slow" -n $(WORKERS) --maxprocesses 4 --dist worksteal \
	  $(QUICK:%=tests/%)

test: env ## the tests, without the slow ones
	$(ONE_THREAD) $(PYTHON) -m pytest -m "not slow" -n $(WORKERS) --maxprocesses 4 --dist worksteal

test-slow: env ## the tests marked slow
	$(ONE_THREAD) $(PYTHON) -m pytest -m "slow and not browser and not label_studio" -n $(WORKERS) --maxprocesses 4 --dist worksteal --durations 5

# Debian's browser is the one that the tests drive; elsewhere they take the one that is there, or say what is missing.
test-browser: env ## the labelling page in a real browser, which root gets from apt where none is there
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || test "$$(id -u)" -ne 0 || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } >/dev/null || true
	$(ONE_THREAD) $(PYTHON) -m pytest -m browser --durations 3

test-label-studio: env $(LABEL_STUDIO)/.complete ## the way to a real Label Studio server and back; it takes 1 GB
	$(ONE_THREAD) LABEL_STUDIO=$(LABEL_STUDIO)/bin/label-studio $(PYTHON) -m pytest -m label_studio --durations 3

$(LABEL_STUDIO)/.complete: tests/label-studio.txt
	$(BASE_PYTHON) -m venv --clear $(LABEL_STUDIO)
	$(LABEL_STUDIO)/bin/python -m pip install --quiet --disable-pip-version-check -r tests/label-studio.txt
	@touch $@

lint: env ## style, format and types
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m mypy

dist: env ## build the sdist and the wheel into dist/, and check what a package index shows of them
	rm -rf dist build
	$(PYTHON) -m build --outdir dist
	$(PYTHON) -m twine check --strict dist/*

dist-try: dist ## install the wheel in an environment of its own and run it
	rm -rf .venv-dist
	$(BASE_PYTHON) -m venv .venv-dist
	.venv-dist/bin/python -m pip install --quiet --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS)) dist/*.whl
	cd .venv-dist && bin/python -c 'import fewmask; print(fewmask.__version__, *dir(fewmask)); fewmask.UniversalSegmenter'
	cd .venv-dist && bin/fewmask demo --help && bin/fewmask recipes list

# It has an environment of its own, so that what it needs is not audited with what it audits.
audit: env ## ask the advisory database about the installed packages; needs a network
	$(BASE_PYTHON) -m venv .venv-audit
	@.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit || { \
	  echo "make audit: pip-audit cannot be installed; the network does not allow it. Nothing was audited." >&2; exit 1; }
	@$(PYTHON) -m pip freeze --exclude-editable | grep -v '@' | sed 's/+[a-z0-9.]*$$//' > .venv-audit/installed.txt
	@.venv-audit/bin/pip-audit --strict --disable-pip --no-deps --progress-spinner off -r .venv-audit/installed.txt || { \
	  echo "make audit: advisories as listed above or, where a package was not found or a connection failed, not all was audited." >&2; exit 1; }

format: env ## rewrite the code in the project's format
	$(PYTHON) -m ruff check --fix
	$(PYTHON) -m ruff format

bench: env ## measure the ratios of benchmarks/ on this machine
	$(PYTHON) benchmarks/run.py

# The references are made from the commands' own help, and from the settings' own source.
docs: env ## build the documentation's site into site/; to read it: python3 -m http.server -d site
	$(VENV)/bin/typer fewmask.cli utils docs --name fewmask --title "Command line" --output docs/reference/cli.md
	$(PYTHON) -m fewmask.config.reference > docs/reference/configuration.md
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

notebooks: env ## write notebooks/ from the tutorials
	$(PYTHON) notebooks/generate.py

clean: ## remove the environments and the caches; runs are left alone
	rm -rf $(VENV) $(LABEL_STUDIO) .venv-audit .venv-dist .venv-lock .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist site docs/reference/cli.md src/fewmask.egg-info
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
