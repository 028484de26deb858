# make demo   environment, then a small BEVFusion trained and evaluated on the CPU
# make test   environment, then the tests
PYTHON ?= python3
VENV ?= .venv

.PHONY: env demo test

env:
	@$(PYTHON) tools/setup_env.py --venv $(VENV)

demo: env
	@$(VENV)/bin/python tools/demo.py

test: env
	@$(VENV)/bin/python -m pytest -m "not slow"
