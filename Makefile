# make demo | test | emulate | bench | bench-full | sanitize | lint | docs | wheel | versions | install | clean.
# Each sets up what it needs.
#
#   PYTHON=python3   use this interpreter's environment as it is, its torch kept, instead of making .venv
#   TORCH='torch==2.11.0'   another torch than that of the environment or of constraints.txt; any pip arguments
#   D2K_BUILD, D2K_CUDA_ARCHS   what is compiled; see README.md
#   ARGS='...'       passed on to the demo, to pytest, to the emulator (--all) or to wheel (any cpu cuda --python 3.12)
#   BASE=revision    bench: compare with that revision instead, and name what became slower

SHELL := /bin/bash
.DEFAULT_GOAL := help

ifdef PYTHON
  PY := $(PYTHON)
  OWN :=
else
  PY := .venv/bin/python
  OWN := --own
endif

STAMP := build/installed
SETTINGS := build/settings
SOURCES := pyproject.toml setup.py constraints.txt CMakeLists.txt $(wildcard scripts/*.py) $(shell find csrc -type f)

.PHONY: help install demo test emulate bench bench-full sanitize lint docs wheel versions clean FORCE

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

install: $(STAMP)

# Rewritten only when they change, so that another environment or another build is installed anew.
$(SETTINGS): FORCE
	@mkdir -p build
	@echo '$(PY) | $(TORCH) | $(D2K_BUILD) | $(D2K_CUDA_ARCHS)' | cmp -s - $@ || \
	  echo '$(PY) | $(TORCH) | $(D2K_BUILD) | $(D2K_CUDA_ARCHS)' > $@

# 3.11 first: the pinned torch is known to install there.
.venv/bin/python:
	@for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	  if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "making .venv with $$python"; $$python -m venv .venv && exit 0; rm -rf .venv; \
	  fi; \
	done; echo "no Python 3.11 or newer that can make a venv; install one, or give PYTHON="; exit 1

$(STAMP): $(SETTINGS) $(SOURCES) $(if $(OWN),.venv/bin/python)
	$(PY) scripts/install.py $(OWN) --torch '$(TORCH)'
	@touch $@

demo: $(STAMP)
	$(PY) -m d2net demo $(ARGS)

test: $(STAMP)
	@$(PY) -m pytest -ra $$($(PY) -c 'import xdist' 2>/dev/null && echo '-n auto --maxprocesses=4 --dist=loadfile') $(ARGS)

emulate: $(STAMP)
	$(PY) tests/gpuemu/emulate.py $(ARGS) || [ $$? = 77 ]

BENCH := $(PY) -m pytest benchmarks -q -o python_files='bench_*.py' -W ignore::DeprecationWarning --benchmark-quiet
# Of a selection, the report and its pictures are not written.
REPORT := $(PY) benchmarks/report.py build/bench.json $(if $(ARGS),--print)

ifdef BASE
bench: $(STAMP)
	$(PY) benchmarks/compare.py '$(BASE)' $(ARGS)
else
bench: $(STAMP)
	$(BENCH) --benchmark-json=build/bench.json $(ARGS); status=$$?; $(REPORT) && exit $$status
	@PYTHONPATH=benchmarks $(PY) benchmarks/conv_table.py
endif

bench-full: $(STAMP)
	$(BENCH) --full --benchmark-json=build/bench.json $(ARGS); status=$$?; $(REPORT) && exit $$status

sanitize: $(STAMP)
	PYTHON=$(PY) scripts/sanitize.sh $(ARGS)

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) scripts/schemas.py

docs: $(STAMP)
	$(PY) scripts/docs.py

wheel: $(STAMP)
	$(PY) scripts/install.py $(OWN) --tools release
	$(PY) scripts/wheels.py $(ARGS)

versions: $(STAMP)
	$(PY) scripts/install.py $(OWN) --tools release
	$(PY) scripts/versions.py $(ARGS)

clean:
	rm -rf build dist *.egg-info d2kernels/_C.*.so d2kernels/_build_info.json
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find d2kernels python tests benchmarks scripts -name __pycache__ -prune -exec rm -rf {} +
