"""What only a part of the library needs: packages, imported where they are used, and TensorFlow as Keras' backend."""

import importlib
from types import ModuleType

from keras import backend


def required(package: str, extra: str, what: str) -> ModuleType:
    """Imports a package that installing the library alone does not bring.

    Args:
        package: a module, such as "safetensors" or "safetensors.numpy".
        extra: the extra of pyproject.toml that installs it.
        what: what needs it, in the plural, such as "GGUF files".

    Returns:
        The module.

    Raises:
        ImportError: if it cannot be imported, with what to install.

    Example:
        >>> gguf = required("gguf", "checkpoints", "GGUF files")
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{what} need the package {package.partition('.')[0]}. Received: {error}. "
            f'Run this in the folder of the source of keras_tfm: pip install ".[{extra}]"'
        ) from error


def require_tensorflow(what: str, or_jax: bool = False) -> None:
    """Raises a RuntimeError on other backends, for `what` is made of TensorFlow's graphs, or by JAX's compiler."""
    if backend.backend() not in ("tensorflow", "jax" if or_jax else "tensorflow"):
        raise RuntimeError(
            f"{what} must run on the backend TensorFlow{' or JAX' * or_jax}. Received: {backend.backend()}. Save the "
            "model, and load it in a process with KERAS_BACKEND=tensorflow in its environment."
        )
