"""How a SavedModel comes onto the disk: whole, or not at all."""

import os
from collections.abc import Sequence

import tensorflow as tf

from keras_tfm import compat
from keras_tfm.export.warmup import write_warmup_requests
from keras_tfm.files import written_whole


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
    with written_whole(path) as unfinished:
        options = compat.save_options_without_gradients()
        tf.saved_model.save(module, str(unfinished), signatures=signatures, options=options)
        if warmup_requests:
            write_warmup_requests(warmup_requests, str(unfinished))
