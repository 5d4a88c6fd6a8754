"""Models that only read, with kernels as processors multiply them fast: chosen by what a few texts lose."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_tfm import compat
from keras_tfm.layers.composite import forget_compiled, parts_of
from keras_tfm.layers.inference_kernels import Bfloat16Kernel, Int8Kernel, ObservedKernel, kernel_from_config
from keras_tfm.layers.weights import Projection, RoundedWeight, projections_within, refuse_rounded
from keras_tfm.types import Config

LARGEST_ERROR = 0.025  # of the outputs, to their deviation: 96 % of MiniLM's nearest neighbours stay the same
_TEXTS = 8  # the longest of those given, by which the errors of outputs are measured, one product after the other


def quantize(model: keras.Model, dtype: str, calibration: Any, largest_error: float) -> None:
    """See `TokenModel.quantize_for_inference`."""
    if dtype not in ("int8", "bfloat16"):
        raise ValueError(f'`dtype` must be "int8" or "bfloat16". Received: dtype={dtype!r}.')
    projections = projections_within(model)
    for projection in projections:
        _check(projection)
    kernels: dict[Projection, Int8Kernel] = {}
    if dtype == "int8":
        kernels = _int8_kernels(model, projections, rows_of(calibration), largest_error)
    for projection in projections:
        projection.to_inference(kernels.get(projection) or Bfloat16Kernel.of(_kernel_of(projection)))
    for layer in compat.all_layers(model):
        forget_compiled(layer)


def _int8_kernels(model, projections, rows, largest_error) -> dict[Projection, Int8Kernel]:
    """Kernels in 8 bits for those projections that together lose at most `largest_error` on the rows.

    What products lose adds up in squares. Those go that lose most for the work that they save.
    """
    observed = observed_kernels(model, projections, rows)
    kernels = {projection: kernel.rounded() for projection, kernel in observed.items()}
    if largest_error >= 1:
        return kernels
    rows = sorted(rows, key=lambda row: row["token_ids"].shape[1])[-_TEXTS:]
    exact = _outputs(model, rows)
    size = np.maximum(np.square(exact - exact.mean()).sum(), 1e-30)
    losses = {}
    for projection, kernel in kernels.items():
        with _held({projection: kernel}):
            losses[projection] = np.square(_outputs(model, rows) - exact).sum() / size
    total = sum(losses.values())
    for projection in sorted(losses, key=lambda one: losses[one] / np.prod(one.kernel.shape), reverse=True):
        if total > largest_error**2:
            total -= losses[projection]
            del kernels[projection]
    return kernels


def observed_kernels(
    model: keras.Model, projections: Sequence[Projection], rows: Sequence[dict[str, np.ndarray]]
) -> dict[Projection, ObservedKernel]:
    """The projections' kernels, which have seen what these are multiplied with while the model reads the rows."""
    observed = {projection: ObservedKernel(_kernel_of(projection)) for projection in projections}
    with _held(observed):
        for row in rows:
            model(row, training=False)
    return observed


def check_are_not_kept(model: keras.Model) -> None:
    """Raises if an operation in a graph has kept a weight, and would go on with it whatever the variables hold."""
    for layer in compat.all_layers(model):
        if isinstance(layer, RoundedWeight):
            layer.check_is_not_kept()


def settings_of(model: keras.Model) -> dict[str, Config]:
    """Paths of the projections with kernels for inference, with the kernels' configs; inner models have their own."""
    settings: dict[str, Config] = {}
    inner: list[str] = []
    for path, part, _ in parts_of(model):
        if isinstance(part, keras.Model):
            inner.append(f"{path}.")
        kernel = getattr(part, "inference_kernel", None)
        if kernel is not None and not path.startswith(tuple(inner)):
            settings[path] = kernel.config()
    return settings


def restore(model: keras.Model, settings: dict[str, Config]) -> None:
    """Gives the projections kernels as `settings_of` another model says, to be filled by loading."""
    parts = {path: part for path, part, _ in parts_of(model)}
    for path, config in settings.items():
        if parts[path].inference_kernel is None:
            parts[path].to_inference(kernel_from_config(config, *parts[path].kernel.shape))


def _check(projection: Projection) -> None:
    refuse_rounded(projection, projection.quantization_mode or projection.rounded_by())
    if any(adapter.is_active for adapter in projection.adapters):
        raise ValueError(
            "Adapters must be merged before a model is quantized for inference. "
            f"Received: {projection.name!r} with {len(projection.adapters)}. Call `keras_tfm.adapters.merge` first."
        )


def _kernel_of(projection: Projection) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(ops.cast(projection.kernel, "float32")))


@contextlib.contextmanager
def _held(kernels: Mapping[Projection, Any]) -> Iterator[None]:
    """In this scope the projections have these kernels for inference, beside their own."""
    try:
        for projection, kernel in kernels.items():
            projection.inference_kernel = kernel
        yield
    finally:
        for projection in kernels:
            projection.inference_kernel = None


def _outputs(model, rows) -> np.ndarray:
    """float32 (N,): all that the model gives, of one text after the other, so that none is cut or padded."""
    outputs = [x for row in rows for x in tree.flatten(model(row, training=False))]
    return np.concatenate([np.ravel(ops.convert_to_numpy(ops.cast(x, "float32"))) for x in outputs])


def rows_of(calibration: Any) -> list[dict[str, np.ndarray]]:
    """The texts of a calibration one by one, without padding.

    Args:
        calibration: inputs of the model, or a list of such, or a list of token ids of texts of any lengths.

    Raises:
        ValueError: if there are none, or if they are no inputs of a model that reads ids.
    """
    rows = [] if calibration is None else [row for batch in _batches(calibration) for row in _rows(batch)]
    if not rows:
        raise ValueError(
            "`calibration` must hold inputs of the model for some texts of the kind that it is to read: 32 do. "
            f"Received: calibration={calibration!r:.80}."
        )
    return rows


def _batches(calibration) -> list:
    if not isinstance(calibration, list | tuple):
        return [calibration]
    return [np.asarray(one)[None] if not isinstance(one, dict) and np.ndim(one) == 1 else one for one in calibration]


def _rows(batch) -> Iterator[dict[str, np.ndarray]]:
    batch = batch if isinstance(batch, dict) else {"token_ids": batch}
    arrays = {name: np.asarray(ops.convert_to_numpy(x)) for name, x in batch.items()}
    texts = [name.removesuffix("token_ids") for name in arrays if name.endswith("token_ids")]
    if not texts:
        raise ValueError(
            "`calibration` must hold inputs of a model that reads `token_ids`. "
            f"Received: {sorted(arrays)}. Quantize the model's `encoder` instead."
        )
    masks = {
        text: arrays.pop(f"{text}padding_mask", np.ones(arrays[f"{text}token_ids"].shape, "bool")).astype("bool")
        for text in texts
    }
    for i in range(len(masks[texts[0]])):
        row = {name: x[i : i + 1] for name, x in arrays.items()}
        for text, mask in masks.items():
            for name in (f"{text}token_ids", f"{text}segment_ids"):
                if name in row:
                    row[name] = row[name][:, mask[i]]
        if all(row[f"{text}token_ids"].size for text in texts):
            yield row
