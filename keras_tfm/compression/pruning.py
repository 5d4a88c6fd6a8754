"""Which weights matter, and weights that are zero and stay so while a model is trained."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_tfm.layers import Projection
from keras_tfm.layers.composite import parts_of


def projections_in(model: keras.layers.Layer) -> dict[str, Projection]:
    """path -> projection, of those in the model whose kernel is in floats.

    Raises:
        ValueError: if a kernel is rounded, or has adapters.
    """
    found = {path: part for path, part, _ in parts_of(model) if isinstance(part, Projection)}
    for path, part in found.items():
        if not part.is_in_floats or part.adapters:
            raise ValueError(
                f"A model must have its weights in floats, without adapters, to be pruned. Received: {path}, which has "
                "not. Merge and `remove` adapters, and round afterwards."
            )
    return found


def magnitudes(model: keras.Model) -> dict[str, np.ndarray]:
    """How much each weight matters if the large ones do: its square.

    Returns:
        dict from a projection's path to float32 (inputs, units).

    Example:
        >>> model = ktfm.models.build_llama("nano", vocabulary_size=512, num_layers=1)
        >>> small = ktfm.compression.pruned(model, heads=0.5, scores=ktfm.compression.magnitudes(model))

    Reference:
        Han et al. 2015, "Learning both Weights and Connections for Efficient Neural Networks",
        https://arxiv.org/abs/1506.02626
    """
    return {path: np.square(ops.convert_to_numpy(x.kernel)) for path, x in projections_in(model).items()}


class Movement(keras.callbacks.Callback):
    """Adds up in `fit` how much each weight moves away from zero: those that move towards it do not matter.

    The sum of weight times step, which for plain gradient descent is the paper's - learning rate * weight * gradient;
    other optimizers' steps count as they are made. Weights are kept twice meanwhile.

    Attributes:
        scores: as `magnitudes` gives them, of either sign.

    Example:
        >>> movement = Movement()
        >>> history = model.fit(dataset, callbacks=[movement])
        >>> small = ktfm.compression.pruned(model, feed_forward=0.5, scores=movement.scores)

    Reference:
        Sanh et al. 2020, "Movement Pruning", section 3, https://arxiv.org/abs/2005.07683
    """

    def __init__(self) -> None:
        super().__init__()
        self.scores: dict[str, np.ndarray] = {}
        self._kernels: dict[str, np.ndarray] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        self._kernels = self._read()
        if not self.scores:
            self.scores = {path: np.zeros_like(kernel) for path, kernel in self._kernels.items()}

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        kernels = self._read()
        for path, kernel in kernels.items():
            self.scores[path] += self._kernels[path] * (kernel - self._kernels[path])
        self._kernels = kernels

    def on_train_end(self, logs: Any = None) -> None:
        self._kernels = {}

    def _read(self):
        return {path: ops.convert_to_numpy(x.kernel) for path, x in projections_in(self.model).items()}


class KeepZeros(keras.callbacks.Callback):
    """Sets the same weights to zero after each step of `fit`; `zero_weights` makes it.

    Args:
        masks: a projection's path -> bool (inputs, units), True = the weight stays.
    """

    def __init__(self, masks: Mapping[str, np.ndarray]):
        super().__init__()
        self.masks = masks

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.apply(self.model)

    def apply(self, model: keras.Model) -> None:
        """Sets the weights of a model to zero."""
        projections = projections_in(model)
        for path, mask in self.masks.items():
            kernel = projections[path].kernel
            kernel.assign(ops.where(mask, kernel, ops.zeros_like(kernel)))


def zero_weights(model: keras.Model, sparsity: float, scores: Mapping[str, np.ndarray] | None = None) -> KeepZeros:
    """Sets the weights of all projections that matter least to zero, in place.

    The model is as large and as fast as before; its files shrink when they are packed. `pruned` takes whole heads and
    units away.

    Args:
        model: with weights in floats.
        sparsity: float in [0, 1), the share of the weights, over all projections.
        scores: as `magnitudes` or `Movement` give them. Default: `magnitudes`.

    Returns:
        A callback that keeps them zero while `fit` trains the others.

    Raises:
        ValueError: for a sparsity outside of [0, 1), or scores of other weights.

    Example:
        >>> history = model.fit(dataset, callbacks=[zero_weights(model, 0.5)])
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"`sparsity` must be in [0, 1). Received: sparsity={sparsity}.")
    scores = checked_scores(model, scores)
    values = np.concatenate([x.ravel() for x in scores.values()])
    count = int(sparsity * values.size)
    border = np.partition(values, count)[count]
    callback = KeepZeros({path: x >= border for path, x in scores.items()})
    callback.apply(model)
    return callback


def checked_scores(model: keras.Model, scores: Mapping[str, np.ndarray] | None) -> Mapping[str, np.ndarray]:
    """The scores, or by default `magnitudes`.

    Raises:
        ValueError: if they are not those of the model's weights.
    """
    shapes = {path: tuple(x.kernel.shape) for path, x in projections_in(model).items()}
    if scores is None:
        return magnitudes(model)
    given = {path: np.shape(x) for path, x in scores.items()}
    if given != shapes:
        path = next(path for path in {**shapes, **given} if given.get(path) != shapes.get(path))
        raise ValueError(
            f"`scores` must be those of the model's weights. Received for {path}: {given.get(path)}, where the kernel "
            f"is {shapes.get(path)}."
        )
    return scores
