# Everything that is needed to begin: Python 3.10 or later (with venv) and make.
#   make demo       set up, quantize the example network, show the result
#   make test       set up, then lint, types and tests
#   make test-gpu   set up, then the tests that need a CUDA device
#   make clean      remove results and caches (.venv stays)

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
CACHES := .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: help setup check test test-gpu demo clean

help:
	@sed -n 's/^#   //p' Makefile

setup: $(READY)

# A half-made .venv (no pip in it) is thrown away; a good one is only brought up to date.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "error: $(PYTHON) is missing or older than Python 3.10" >&2; \
	  echo "  mend: install Python 3.10 or later, or name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make a virtual environment (venv or ensurepip is missing)" >&2; \
	  echo "  mend: install it, on Debian and Ubuntu with: apt-get install python3-venv" >&2; exit 1; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || { rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	$(RUN) -m pip install --no-input --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

check: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

# A worker a core, each with one thread: two workers' threads on one core wait for each other.
test: check
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --dist loadfile

# Where torch sees no GPU they are skipped, and the summary says so.
test-gpu: setup
	$(RUN) -m pytest -m gpu

demo: setup
	$(VENV)/bin/edgeq build examples/digits/digits_bn.onnx --target jetson-orin --preset unit --effort quick \
	  --eval examples/digits/heldout.zip --out out/demo --overwrite

clean:
	rm -rf out build dist $(CACHES)
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
