"""How a SavedModel comes onto the disk: whole, or not at all."""

import os
import pathlib
import shutil

import tensorflow as tf

from keras_tfm import compat


def check_is_free(path: str | os.PathLike) -> pathlib.Path:
    """The path; raises FileExistsError if there is something."""
    path = pathlib.Path(path)
    if path.exists():
        raise FileExistsError(f"`path` must not exist yet. Received: {path}. Delete it or export to a new version.")
    return path


def write_saved_model(module: tf.Module, signatures: dict, path: str | os.PathLike) -> None:
    """Writes a SavedModel beside its place and then renames it.

    Args:
        module: holds all that the signatures need: variables, tables.
        signatures: name -> concrete function.
        path: a folder that does not exist yet; those above it are made.

    Raises:
        FileExistsError: if `path` exists.
    """
    path = check_is_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished.{os.getpid()}")
    try:
        options = compat.save_options_without_gradients()
        tf.saved_model.save(module, str(unfinished), signatures=signatures, options=options)
        os.rename(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
