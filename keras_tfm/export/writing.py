"""How a SavedModel comes onto the disk: whole, or not at all."""

import os
import pathlib
import tempfile
from collections.abc import Sequence

import tensorflow as tf

from keras_tfm import compat
from keras_tfm.export.warmup import write_warmup_requests


def check_is_free(path: str | os.PathLike) -> pathlib.Path:
    """The path; raises FileExistsError if there is something."""
    path = pathlib.Path(path)
    if path.exists():
        raise FileExistsError(f"`path` must not exist yet. Received: {path}. Delete it or export to a new version.")
    return path


def write_saved_model(
    module: tf.Module, signatures: dict, path: str | os.PathLike, warmup_requests: Sequence[bytes] = ()
) -> None:
    """Writes a SavedModel beside its place and then renames it.

    Args:
        module: holds all that the signatures need: variables, tables.
        signatures: name -> concrete function.
        path: a folder that does not exist yet; those above it are made.
        warmup_requests: of `export.warmup`; written beside the model.

    Raises:
        FileExistsError: if `path` exists.
    """
    path = check_is_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own for each writer: threads share their process, and containers the numbers of theirs.
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.unfinished.", dir=path.parent) as folder:
        unfinished = os.path.join(folder, "model")  # since only its owner may read the temporary folder
        options = compat.save_options_without_gradients()
        tf.saved_model.save(module, unfinished, signatures=signatures, options=options)
        if warmup_requests:
            write_warmup_requests(warmup_requests, unfinished)
        try:
            os.rename(unfinished, path)
        except OSError:
            check_is_free(path)  # another writer was faster
            raise
