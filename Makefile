# Needs GNU make and Python 3.11 or later; everything else is installed into .venv.
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu   takes PyTorch from another index
PYTHON ?= python3
TORCH_INDEX ?=
PYTEST_ARGS ?= -n auto

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --constraint constraints.txt
RUNTIME := $(VENV)/.runtime
TOOLS := $(VENV)/.tools
REFERENCES := $(VENV)/.references
BROWSER := $(VENV)/.browser

.PHONY: demo test check budgets papers slow reference browser fidelity gallery faults fuzz clean

demo: $(RUNTIME)
	$(BIN)/memprof compare --model 1b --rank 256

test: $(TOOLS)
	$(BIN)/pytest $(PYTEST_ARGS)

check: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

budgets: $(RUNTIME)
	$(BIN)/memprof check

papers: $(RUNTIME)
	for paper in approximations galore galore-mini; do $(BIN)/memprof reproduce $$paper -o reports/papers --force || exit 1; done

slow: $(TOOLS)
	$(BIN)/pytest $(PYTEST_ARGS) -m slow

reference: $(REFERENCES)
	$(BIN)/pytest $(PYTEST_ARGS) -m reference

browser: $(BROWSER)
	$(BIN)/pytest -m browser -rs tests/report

fidelity: $(REFERENCES)
	$(BIN)/python -m fidelity -o reports/fidelity

gallery: $(RUNTIME)
	$(BIN)/python -m benchmarks.gallery -o reports/gallery

faults: $(RUNTIME)
	$(BIN)/python -m benchmarks.faults -o reports/reliability

fuzz: $(RUNTIME)
	$(BIN)/python -m benchmarks.fuzz --seconds 120

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# PyTorch goes first and alone, so that another index serves it and nothing else.
$(RUNTIME): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "memprof needs Python 3.11 or later: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) --quiet --editable .
	@touch $@

$(TOOLS): $(RUNTIME)
	$(PIP) --quiet --editable '.[test]'
	@touch $@

$(REFERENCES): $(TOOLS)
	$(PIP) --quiet --editable '.[reference]'
	@touch $@

$(BROWSER): $(TOOLS)
	$(PIP) --quiet --editable '.[browser]'
	@touch $@
