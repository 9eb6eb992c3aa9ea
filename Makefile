# Two commands matter to a newcomer: `make demo` and `make test`. Both set up what they need.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.situs-setup

.PHONY: setup demo test quick lowest coverage fuzz campaign faults lint options bench docs clean

setup: $(STAMP)

# nnU-Net asks for packages that pull torchvision, and for readers of formats that no test has; what
# its U-Net, planner and trainer import is in the extra 'dev'. timm is for Primus, the reference;
# later ones size its 3D positions wrongly.
$(STAMP): export PIP_DISABLE_PIP_VERSION_CHECK = 1
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e '.[demo,dev]'
	$(BIN)/pip install -q -c constraints.txt --no-deps 'dynamic-network-architectures>=0.4.4' \
	    'nnunetv2>=2.6' 'acvl-utils>=0.2.6' 'batchgenerators>=0.25.1' 'batchgeneratorsv2>=0.3.2' \
	    'timm==1.0.15'
	touch $(STAMP)

demo: setup
	$(BIN)/situs demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What options of the command line take from the models of settings; a test says when it is due.
options: setup
	$(BIN)/python tests/support/option_settings.py

# One thread a process: two processes share the cores as they are. A file's tests stay together,
# so that what they share is made once; long files come first (tests/conftest.py), and not those of
# many tests.
SHARED := -n 2 --dist loadfile --no-loadscope-reorder
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest $(SHARED)

# What a change is tried with while it is made: no test of more than two seconds, and no browser.
quick: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest $(SHARED) -m 'not slow and not browser'

# The way from scans to predictions, with the lowest versions that pyproject.toml allows.
LOWEST := $(VENV)-lowest
lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) tests/support/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/pip install -q -c $(LOWEST)/constraints.txt . pytest hypothesis
	$(LOWEST)/bin/pip install -q --force-reinstall --no-deps .
	OMP_NUM_THREADS=1 $(LOWEST)/bin/pytest tests/splits/test_groups.py tests/docs/test_pages.py \
	    -k 'groups or start or readme or patient'

# The floor for everything is in pyproject.toml; what is computed in mm and degrees is run whole.
coverage: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest $(SHARED) --cov --cov-report=term
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/geometry --cov=situs.geometry --cov-fail-under=100

# Property tests with examples that no run has tried before; `make test` tries the same each time.
ROUNDS ?= 5
fuzz: setup
	for round in $$(seq $(ROUNDS)); do \
	  OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m hypothesis --hypothesis-profile=fuzz || exit 1; done

# Damaged NIfTI, NRRD, MetaImage and DICOM: read as other readers read them, or refused. SEED makes
# other files; those that are neither are kept.
FILES ?= 10000
SEED  ?= 0
campaign: setup
	OMP_NUM_THREADS=1 PYTHONPATH=tests/support $(BIN)/python tests/support/campaign.py $(FILES) $(SEED)

# Kills, flipped bits, damaged files and races: 600 bits and 100 kills, 60 and 3 in `make test`.
FAULTS ?= 10
faults: setup
	OMP_NUM_THREADS=1 SITUS_FAULTS=$(FAULTS) $(BIN)/pytest tests/faults tests/test_locks.py

docs: setup
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: setup
	$(BIN)/python -m benchmarks --page docs/performance.md

clean:
	rm -rf $(VENV) $(LOWEST) .mypy_cache .ruff_cache .pytest_cache
