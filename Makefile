# make help      what there is

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo doors serve rtx test units quick check pins clean distclean

PYTHON ?= python3
VENV ?= .venv
DEMO_DIR ?= .demo
python := $(VENV)/bin/python

# What is installed follows from these two files, so a stamp with their checksum tells whether the
# environment is up to date. The packages of the demo and of the units are among those of the tests.
checksum := $(shell cat pyproject.toml constraints.txt | sha256sum | cut -c 1-16)
dev := $(VENV)/dev-$(checksum).installed
demo := $(firstword $(wildcard $(dev)) $(VENV)/demo-$(checksum).installed)
units := $(firstword $(wildcard $(dev)) $(VENV)/units-$(checksum).installed)

# numpy's stubs differ between the versions that Python 3.10 to 3.13 get, so types are checked with
# one Python: the one whose stubs mypy reads without an error.
types_python := 3.11

help:
	@echo "make demo       five real vision tasks on one backbone, through the real daemon"
	@echo "make doors      model files of ten PyPI packages, exported, served and compared: minutes"
	@echo "make serve      the daemon with the demo's models, in the foreground"
	@echo "make rtx        builds engines of several models with TensorRT-RTX, which needs no GPU"
	@echo "make test       every check and every test"
	@echo "make units      the tests that start no process and need no torch: two minutes"
	@echo "make quick      every check, and the units that take no second each: a minute"
	@echo "make check      format, lint, types, import rules"
	@echo "make pins       resolve the dependencies anew and rewrite constraints.txt"
	@echo "make clean      remove what the demo and the checks left behind"
	@echo "make distclean  remove the virtual environment too"
	@echo
	@echo "PYTHON=python3.12 chooses the interpreter (3.10 to 3.13), VENV and DEMO_DIR the folders."

demo: $(demo)
	@$(python) -m tools.demo --dir $(DEMO_DIR)

doors: $(dev)
	@$(python) -m tools.bench doors --dir .cache/doors

serve: $(demo)
	@exec $(python) -m tools.demo --dir $(DEMO_DIR) --serve

rtx: $(dev)
	@$(python) -m tools.rtx --packages .rtx --demo $(DEMO_DIR)

test: check
	@echo "==> tests"
	@$(python) -m pytest $(PYTEST_ARGS)

units: $(units)
	@echo "==> tests that start no process and need no torch"
	@$(python) -m pytest --units $(PYTEST_ARGS)

quick: check
	@echo "==> quick tests: no process, no torch, no second each"
	@$(python) -m pytest --units -m "not slow" $(PYTEST_ARGS)

check: $(dev)
	@echo "==> format"
	@$(VENV)/bin/ruff format --check .
	@echo "==> lint"
	@$(VENV)/bin/ruff check .
	@version=$$($(python) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	if [ "$$version" = $(types_python) ]; then \
		echo "==> types"; $(VENV)/bin/mypy; \
	else \
		echo "==> types: left out, they are checked with Python $(types_python) and this is $$version"; \
	fi
	@echo "==> import rules"
	@$(VENV)/bin/lint-imports

pins:
	@tools/pins.sh

clean:
	@rm -rf $(DEMO_DIR) .rtx build dist .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@rm -rf .import_linter_cache *.egg-info
	@find edged export tools tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	@rm -rf $(VENV)

$(VENV)/%-$(checksum).installed:
	@tools/install.sh $(PYTHON) $(VENV) $*
	@rm -f $(VENV)/$*-*.installed
	@touch $@
