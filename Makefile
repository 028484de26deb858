# make demo   environment, then a small BEVFusion trained and evaluated on the CPU
# make test   environment, then the tests
# make lint   ruff and codespell, as pyproject.toml sets them
# All on the CPU, where it was timed and its scores were measured. `make test CUDA_VISIBLE_DEVICES=0` also tests on a GPU.
PYTHON ?= python3
VENV ?= .venv
export CUDA_VISIBLE_DEVICES ?=

.PHONY: env demo test lint-env lint

env:
	@$(PYTHON) tools/setup_env.py --venv $(VENV)

demo: env
	@$(VENV)/bin/python tools/demo.py

test: env
	@$(VENV)/bin/python -m pytest -m "not slow"

lint-env:
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check -r requirements/lint.txt

lint: lint-env
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m codespell_lib
