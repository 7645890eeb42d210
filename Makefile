# Everything that a clone needs is Python 3.11-3.13 and make: each target installs what it needs into .venv first.

VENV ?= .venv
BIN := $(VENV)/bin
PORT ?= 8000
BUNDLE ?= bundles
DATA ?= data/ifdb_interactive_fiction
BENCH_ITEMS ?= 10000 100000
SOAK_SECONDS ?= 600
NOTEBOOKS := $(wildcard notebooks/*.ipynb)

# The first Python that runs and fits pyproject.toml. A name on the PATH alone proves nothing: version managers leave dead ones.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do $$name -c '$(FITS)' 2>/dev/null && echo $$name && break; done)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help run test faults check bench soak quality notebooks clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /	/' | sort

run: $(BUNDLE)/CURRENT  ## install, train on the example data once, and serve on http://127.0.0.1:8000 (PORT=...)
	@echo
	@echo "Once the server says that it listens, try:"
	@echo "  curl 'http://127.0.0.1:$(PORT)/recommend?user=u00098&n=5'"
	@echo "  curl 'http://127.0.0.1:$(PORT)/recommend?user=u00858&n=5&filter=genre:Horror'"
	@echo "  curl 'http://127.0.0.1:$(PORT)/recommend?recent=op0uw1gn1tjqmjt7&n=5'    (a guest who has looked at Anchorhead)"
	@echo
	@exec $(BIN)/recsys serve --bundle $(BUNDLE) --port $(PORT)

test: $(VENV)/.installed-dev  ## all tests; PYTEST_ARGS="-k name" for some
	$(BIN)/python -m pytest $(PYTEST_ARGS)

faults: $(VENV)/.installed-dev  ## kill and stop what is running while events come in; minutes
	$(BIN)/python -m pytest -o addopts="--import-mode=importlib --strict-markers --strict-config -ra" tests/faults $(PYTEST_ARGS)

check: $(VENV)/.installed-dev  ## lint, format, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev $(BUNDLE)/CURRENT  ## measure answers from the bundle, from one scaled up to 100,000 items, and events
	@$(BIN)/python benchmarks/recommend_latency.py --bundle $(BUNDLE)
	@$(BIN)/python benchmarks/latency_by_size.py --bundle $(BUNDLE) --items $(BENCH_ITEMS)
	@$(BIN)/python benchmarks/event_throughput.py --bundle $(BUNDLE)

soak: $(VENV)/.installed-dev $(BUNDLE)/CURRENT  ## ten minutes of load with events, new items and a swap a minute; SOAK_SECONDS
	@$(BIN)/python benchmarks/soak.py --bundle $(BUNDLE) --seconds $(SOAK_SECONDS)

quality: $(VENV)/.installed-dev  ## run all data sets (data/, QUALITY_DATA) and write docs/quality.md; hours, resumable; QUALITY_ARGS
	@PYTHONPATH=benchmarks:$$PYTHONPATH $(BIN)/python -W ignore -m quality $(QUALITY_ARGS)

notebooks: $(VENV)/.installed-dev  ## run the notebooks; what they show is kept in var/notebooks/
	@mkdir -p var/notebooks
	@test -n "$(NOTEBOOKS)" || echo "notebooks/ has no notebook yet"
	@for notebook in $(NOTEBOOKS); do \
	  $(BIN)/jupyter execute --output="../var/notebooks/{notebook_name}" $$notebook || exit 1; done

clean:  ## remove what builds, tests and tools left; the environment and the bundles stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# Training is wanted once: the rule has no prerequisite that would make an existing bundle look old.
$(BUNDLE)/CURRENT: | $(VENV)/.installed
	@echo "Training on $(DATA) into $(BUNDLE)/ (once; takes minutes)"
	@$(BIN)/recsys train --data $(DATA) --bundle $(BUNDLE)

$(VENV)/.installed: pyproject.toml
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(FITS)' 2>/dev/null || { \
	  echo "Shelftalk needs Python 3.11, 3.12 or 3.13$(if $(PYTHON),; $(PYTHON) is not one of them). Install one, or name it: make PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@echo "Installing Shelftalk into $(VENV) (the first time downloads about half a gigabyte)"
	@$(BIN)/python -m pip install -qq "pip>=25.1"
	@$(BIN)/python -m pip install -qq --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed
	@echo "Installing the development tools into $(VENV)"
	@$(BIN)/python -m pip install -qq --group dev
	@touch $@
