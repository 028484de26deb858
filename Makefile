# make demo   environment, then a small BEVFusion trained and evaluated on the CPU
# make test   environment, then the tests
# All on the CPU, where it was timed and its scores were measured. `make test CUDA_VISIBLE_DEVICES=0` also tests on a GPU.
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
