"""Which part of which weight lies on which device: one table for all families, for `keras.distribution` on JAX."""

import math
import re

import keras
from keras import backend

from keras_tfm.arguments import require

AXIS = "model"  # of the mesh, along which weights are cut
# The end of a variable's path -> its axes. Projections that make heads, or the wide states of a feed-forward block, are
# cut by what they make; those that lead back to the residual stream by what they read: so one sum over the devices ends
# each. What meets the vocabulary is cut by tokens. All else (norms, positions, biases of scores, adapters) is on all.
_TABLE = {
    r"(query|key|value|intermediate|gate|head)/kernel": (None, AXIS),
    r"(query|key|value|intermediate|gate|head)/bias": (AXIS,),
    r"output/kernel": (AXIS, None),
    r"tokens/embeddings": (AXIS, None),
    r"logit_bias": (AXIS,),
}


def layout_map(model: keras.Model, mesh: keras.distribution.DeviceMesh | None = None) -> keras.distribution.LayoutMap:
    """How the weights of a model lie on several devices, for `keras.distribution.ModelParallel`; on JAX.

    Attention is cut by heads, feed-forward blocks by their width, token tables and heads by the vocabulary. A weight
    whose size the devices do not divide, such as GPT-2's table of 50,257 tokens, lies on each of them whole, and those
    of its kind with it. What is made or loaded while the distribution holds is cut from the beginning: no device ever
    has all of it.

    Args:
        model: of the builders or of `checkpoints`, or one with our layers. Its sizes are read; it may be empty
            (`checkpoints.open(...).empty_model()`), and stays where it is.
        mesh: with an axis "model", along which weights are cut; a batch is cut along the first axis. Default: all
            devices in one row, ("batch", "model") of shape (1, n).

    Returns:
        `keras.distribution.LayoutMap`; more entries may be added.

    Raises:
        RuntimeError: on another backend than JAX, the only one for which Keras cuts weights.
        ValueError: for a mesh without an axis "model", or a model none of whose weights is known here.

    Example:
        >>> checkpoint = ktfm.checkpoints.open("HuggingFaceTB/SmolLM2-135M")
        >>> mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"))
        >>> layouts = ktfm.training.layout_map(checkpoint.empty_model(), mesh)
        >>> keras.distribution.set_distribution(keras.distribution.ModelParallel(layout_map=layouts))
        >>> model = checkpoint.model()  # `fit` and `generate` as ever

    Reference:
        Shoeybi et al. 2019, "Megatron-LM", section 3, https://arxiv.org/abs/1909.08053
    """
    if backend.backend() != "jax":
        raise RuntimeError(
            f"`layout_map` must run on the backend JAX. Received: {backend.backend()}. Start the process with "
            "KERAS_BACKEND=jax in its environment; on TensorFlow `workers` trains on several machines."
        )
    if mesh is None:
        devices = keras.distribution.list_devices()
        mesh = keras.distribution.DeviceMesh((1, len(devices)), ("batch", AXIS), devices)
    require(AXIS in mesh.axis_names, f'`mesh` must have an axis "{AXIS}"', axis_names=mesh.axis_names)
    num_parts = mesh.shape[mesh.axis_names.index(AXIS)]
    layouts, found = keras.distribution.LayoutMap(mesh), False
    for end, axes in _TABLE.items():
        pattern = f"(.*/)?{end}"
        sizes = [
            variable.shape[axes.index(AXIS)] for variable in model.variables if re.fullmatch(pattern, variable.path)
        ]
        found = found or bool(sizes)
        if sizes and math.gcd(*sizes) % num_parts == 0:
            layouts[pattern] = axes
    if not found:
        raise ValueError(
            f"`model` must have weights of this library's layers. Received: {model.name!r}, a {type(model).__name__}, "
            "with none that is known. Make a `keras.distribution.LayoutMap` of its variables' paths."
        )
    return layouts
