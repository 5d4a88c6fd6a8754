"""What `import keras_tfm` costs, seen from a fresh process."""

import json

from tests.harness import fresh_process

HEAVY = [
    "datasets",
    "gguf",
    "jax",
    "keras_hub",
    "matplotlib",
    "pandas",
    "safetensors",
    "sentencepiece",
    "sklearn",
    "tensorflow_datasets",
    "tensorflow_text",
    "tokenizers",
    "torch",
    "transformers",
]
SCRIPT = """
import json, sys
import keras, tensorflow
before = sorted(sys.modules)
import keras_tfm
print(json.dumps([before, sorted(sys.modules)]))
"""


def test_import_loads_no_heavy_packages_beyond_those_of_keras():
    before, after = (set(names) for names in json.loads(fresh_process(SCRIPT).splitlines()[-1]))
    assert {"keras_tfm", "keras"} <= after
    assert not (after - before) & set(HEAVY)
    # Keras 3.15 itself loads these four where they are installed; that is not ours to spare. Nothing else of the list.
    assert after & set(HEAVY) <= {"jax", "matplotlib", "pandas", "sklearn"}


def test_everything_in_all_exists():
    import keras_tfm

    for module in (keras_tfm, *(getattr(keras_tfm, name) for name in keras_tfm.__all__)):
        for name in module.__all__:
            assert hasattr(module, name), f"{module.__name__}.{name}"
