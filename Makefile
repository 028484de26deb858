# make demo   environment, then a small BEVFusion trained and evaluated on the CPU
# make test   environment, then the tests
# make gpu    the tests that need a GPU, then what a step costs on it: docs/gpu.md (10 minutes, no data, the torch of $(PYTHON))
# make lint   environment (mypy reads the types of its torch and numpy), then ruff, codespell and mypy, as pyproject.toml sets them
# make docs   the site of docs/, in site/; a warning or a broken link is an error
# The first two on the CPU, where they were timed and the scores measured. `make test CUDA_VISIBLE_DEVICES=0` also tests on a GPU.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
export CUDA_VISIBLE_DEVICES ?=

.PHONY: env demo test gpu lint-env lint docs-env docs

env:
	@$(PYTHON) tools/setup_env.py --venv $(VENV)

demo: env
	@$(VENV)/bin/python tools/demo.py

test: env  # each file of tests on one core; more at a time with JOBS=8
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(VENV)/bin/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile

# The GPUs that the caller's CUDA_VISIBLE_DEVICES names, else all. The folders named are those with such tests: others need packages
# that requirements/gpu-check.txt does not bring.
GPU_TESTS = tests/gpu tests/test_benchmarks tests/test_doctor/test_memory tests/test_engine/test_accumulation tests/test_engine/test_schedules \
            tests/test_models/test_head
gpu:
	@$(if $(CUDA_VISIBLE_DEVICES),,env -u CUDA_VISIBLE_DEVICES) $(PYTHON) -m pytest -m gpu $(GPU_TESTS); tests=$$?; \
	$(if $(CUDA_VISIBLE_DEVICES),,env -u CUDA_VISIBLE_DEVICES) PYTHONPATH=. $(PYTHON) benchmarks/gpu.py && exit $$tests

lint-env:
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check -r requirements/lint.txt

lint: env lint-env
	@$(VENV)/bin/python -m ruff check .
	@$(VENV)/bin/python -m ruff format --check --quiet .
	@$(VENV)/bin/python -m codespell_lib
	@$(VENV)/bin/python -m mypy

docs-env:
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check -r requirements/docs.txt

docs: docs-env  # not with -q: it does not count the warnings that it hides
	@NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build
