# make demo   environment, then a small BEVFusion trained and evaluated on the CPU
# make test   environment, then the tests
# All on the CPU: the environment's mmcv has no CUDA operators. `make test CUDA_VISIBLE_DEVICES=0` tries a GPU nevertheless.
PYTHON ?= python3
VENV ?= .venv
export CUDA_VISIBLE_DEVICES ?=

.PHONY: env demo test

env:
	@$(PYTHON) tools/setup_env.py --venv $(VENV)

demo: env
	@$(VENV)/bin/python tools/demo.py

test: env
	@$(VENV)/bin/python -m pytest -m "not slow"
