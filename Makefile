# Two commands matter to a newcomer: `make demo` and `make test`. Both set up what they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.situs-setup

.PHONY: setup demo test lint bench docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e '.[demo,dev]'
	# nnU-Net's network asks for packages that pull torchvision; its U-Net needs none of them.
	$(BIN)/pip install -q -c constraints.txt --no-deps 'dynamic-network-architectures>=0.4'
	touch $(STAMP)

demo: setup
	$(BIN)/situs demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest

docs: setup
	$(BIN)/pip install -q -c constraints.txt 'mkdocs>=1.6,<2'
	$(BIN)/mkdocs build --strict

bench: setup
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
