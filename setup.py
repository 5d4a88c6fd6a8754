"""Packaging of keras-tfm; tool settings are in pyproject.toml."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "keras_tfm" / "__init__.py").read_text()).group(1)

HUB = ["keras-hub"]
# tensorflow-datasets imports importlib_resources without declaring it (seen in 4.9.10).
DATASETS = ["tensorflow-datasets", "importlib_resources"]
# Hugging Face checkpoints, their downloads and chat templates, and GGUF files.
CHECKPOINTS = ["safetensors", "huggingface_hub", "jinja2", "gguf"]
# Regular expressions and JSON schemas as finite automata.
GRAMMAR = ["outlines-core"]
# SentencePiece models in the graph, and what their pieces are.
SENTENCEPIECE = ["tensorflow-text", "sentencepiece"]
EXAMPLES = ["matplotlib"]
SEARCH = ["faiss-cpu"]
BACKENDS = ["jax", "torch"]
# Tests with real weights want two packages more, which the Makefile installs without their dependencies.
TESTS = [
    "pytest",
    "pytest-xdist",
    "hypothesis",
    "ruff",
    "transformers",
    "scipy",
    *BACKENDS,
    *CHECKPOINTS,
    *GRAMMAR,
    *SENTENCEPIECE,
    *HUB,
    *DATASETS,
    *EXAMPLES,
    *SEARCH,
]

setup(
    name="keras-tfm",
    version=VERSION,
    description="Transformer layers for Keras and TensorFlow: train with fit, write text, serve as a SavedModel",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    py_modules=["keras_tfm_cli"],
    entry_points={"console_scripts": ["keras-tfm = keras_tfm_cli:main"]},
    packages=find_packages(include=["keras_tfm", "keras_tfm.*"]),
    # The lowest versions on which the suite was seen to pass.
    install_requires=["tensorflow>=2.21", "keras>=3.15", "numpy>=2.0", "tokenizers>=0.22"],
    extras_require={
        "hub": HUB,
        "checkpoints": CHECKPOINTS,
        "grammar": GRAMMAR,
        "sentencepiece": SENTENCEPIECE,
        "datasets": DATASETS,
        "examples": EXAMPLES,
        "search": SEARCH,
        "backends": BACKENDS,
        "benchmarks": ["torch", "transformers", "ctranslate2", "tensorflow-text", *HUB],
        "tests": TESTS,
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
