# make avatar   sets everything up and makes an avatar; PROMPT="a man in a red shirt", PHOTOS=./anna, ARGS="seed=3"
# make test     sets up what is missing and runs the tests that take seconds
# make test-floor  the prior's tests with the lowest versions that pyproject.toml allows, in an environment of their own
# make judges   sets up the environment of suite=judges' networks, .venv-judges (Python 3.9 to 3.12)
# make docs     writes the documentation into site/; make gallery remakes its images
# make gpu-check   checks and times all of it on a GPU, set up or not; OUT=folder, PYTHON=python3, ARGS="--parts steps"
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
FLOOR := .venv-floor
JUDGES := .venv-judges
INSTALLED_DEV := $(VENV)/.installed-dev
DEFAULT_PROMPT := a woman with blonde hair in a green shirt and black trousers, white shoes

# Prompt and photos travel through the environment, unexpanded: they may hold quotes, dollars, anything.
ifdef PROMPT
export AVATAR_GS_PROMPT := $(value PROMPT)
else ifndef PHOTOS
export AVATAR_GS_PROMPT := $(DEFAULT_PROMPT)
else
export AVATAR_GS_PROMPT :=
endif
ifdef PHOTOS
export AVATAR_GS_PHOTOS := $(value PHOTOS)
PHOTOS_SETTING := "photos=$$AVATAR_GS_PHOTOS"
endif
export OMP_WAIT_POLICY ?= PASSIVE
export NUMBA_CACHE_DIR ?= $(CURDIR)/.cache/numba
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# An older checkout's or another program's modules must not be found before the installed ones.
unexport PYTHONPATH

.DEFAULT_GOAL := avatar
.PHONY: avatar setup setup-dev test test-all test-floor judges check format docs gallery gpu-check clean

avatar: $(INSTALLED)
	@$(BIN)/avatar-gs "prompt=$$AVATAR_GS_PROMPT" $(PHOTOS_SETTING) $(ARGS)

setup: $(INSTALLED)
setup-dev: $(INSTALLED_DEV)

test: $(INSTALLED_DEV)
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-all: $(INSTALLED_DEV)
	$(BIN)/python -m pytest $(ARGS)

# without the options of pyproject.toml: the lowest jaxtyping checks shapes while the program runs, but not in pytest
test-floor: $(FLOOR)/.installed
	$(FLOOR)/bin/python -m pytest -m "not slow" -o addopts="--import-mode=importlib --strict-markers" \
	  tests/prior tests/identity/test_embedding.py $(ARGS)

judges: $(JUDGES)/.installed

check: $(INSTALLED_DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/python tests/audit.py

format: $(INSTALLED_DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED_DEV)
	$(BIN)/python docs/generate_settings.py
	$(BIN)/python -m mkdocs build --strict --quiet --config-file docs/mkdocs.yml
	@echo "open site/index.html"

gallery: $(INSTALLED)
	$(BIN)/python docs/gallery.py

# Without .venv the packages are those of $(PYTHON) and of the caller's PYTHONPATH.
OUT ?= outputs/gpu-check
gpu-check:
	@PYTHONPATH="$(PYTHONPATH)" $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) tests/gpu_check --out "$(OUT)" $(ARGS)

clean:
	rm -rf build dist .cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is missing or older than 3.11; give another: make PYTHON=python3.12 …" >&2; exit 1; }
	@echo "Setting up in $(VENV) (once; some GB with torch, a few minutes)"
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "error: $(PYTHON) -m venv failed; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }

$(INSTALLED): pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --editable .
	@touch $@

$(FLOOR)/.installed: pyproject.toml tests/constraints-floor.txt
	$(PYTHON) -m venv $(FLOOR)
	$(FLOOR)/bin/python -m pip install --constraint tests/constraints-floor.txt --editable ".[test]"
	@touch $@

# MediaPipe's own requirements are left out: see requirements.txt
$(JUDGES)/.installed: avatar_gs/lab/judges/requirements.txt
	$(PYTHON) -m venv $(JUDGES)
	$(JUDGES)/bin/python -m pip install --no-deps mediapipe==0.10.14
	$(JUDGES)/bin/python -m pip install --requirement avatar_gs/lab/judges/requirements.txt
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(BIN)/python -m pip install --editable ".[test,dev,cluster]"
	@touch $@
