"""Batches larger than memory: gradients of their parts, one after another, and one update."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_tfm import compat
from keras_tfm.arguments import as_integer
from keras_tfm.optional import require_tensorflow
from keras_tfm.types import Tensor


def accumulate_gradients(model: keras.Model, accumulate_steps: int) -> None:
    """From now on, `fit` takes each batch in so many parts, and updates weights once with the whole batch's gradient.

    Memory is that of one part and one more copy of the gradients. The result is that of the whole batch, up to the last
    digits: sample weights, clipping, loss scaling, learning rates by step and metrics are as if the batch had been
    taken at once, but that Keras counts each call alike in the losses of single outputs. Dropout draws anew for each
    part. Each part goes through the model's own `train_step`, which must
    call `optimizer.apply` once, and under any strategy of `tf.distribute`.

    Parts are of equal size: a batch that `accumulate_steps` does not divide, such as the last of an epoch, is cut into
    the next larger number of parts that does. A loss of the model's own (`compute_loss`, `add_loss`) must be a
    mean over rows.

    Keras' `gradient_accumulation_steps` of optimizers is another thing: it sums over batches of `fit`, each with the
    same share however many rows or weights it has, leaves what an epoch's last batches gave to the next epoch, and
    fails under `tf.distribute.MirroredStrategy`.

    Args:
        model: any keras.Model, before or after `compile`.
        accumulate_steps: int, parts of a batch; 1 undoes it.

    Raises:
        ValueError: if `accumulate_steps` < 1; in `fit`, if outputs carry a Keras mask, by which losses would divide,
            if data are ragged or sparse, if the model has no weights yet, or is compiled with `run_eagerly=True`.

    Example:
        >>> keras_tfm.training.accumulate_gradients(model, accumulate_steps=8)
        >>> model.fit(packed.dataset(batch_size=256))  # memory for 32 rows
    """
    require_tensorflow("Accumulated gradients")
    accumulate_steps = as_integer("accumulate_steps", accumulate_steps, least=1)
    vars(model).pop("train_step", None)
    if accumulate_steps > 1:
        vars(model)["train_step"] = _AccumulatedStep(model, accumulate_steps)
    model.train_function = None  # that of the step before


class _AccumulatedStep:
    """A `train_step` that gives the parts of a batch to the model's own, and the optimizer what they add up to."""

    def __init__(self, model: keras.Model, accumulate_steps: int):
        self.model = model
        self.accumulate_steps = accumulate_steps
        self.own_step: Callable[[Any], dict[str, Tensor]] = model.train_step

    def __call__(self, data: Any) -> dict[str, Tensor]:
        if self.model.run_eagerly:
            raise ValueError("`run_eagerly` must be False for accumulated gradients. Received: run_eagerly=True.")
        if not self.model.built:
            raise ValueError(
                "The model must be built where gradients are accumulated, so that its weights are known. Received: "
                f"{self.model.name}. Call it on a batch before `fit`."
            )
        num_parts = _num_parts(_num_rows(data), self.accumulate_steps)
        _, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        factors = _factors(self.model.loss, sample_weight, num_parts)
        parts = _in_parts(data, num_parts)
        variables = self.model.trainable_variables
        sums = [tf.zeros(variable.shape, _sum_dtype(variable)) for variable in variables]
        seen = _Seen()

        def add_part(part: Tensor, sums: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
            with _scaled_sums(factors), self._collecting(seen):
                seen.logs = self.own_step(
                    keras.tree.map_structure(lambda values: None if values is None else values[part], parts)
                )
            return part + 1, _added(variables, sums, seen)

        _, sums = tf.while_loop(
            lambda part, sums: part < num_parts, add_part, (tf.constant(0), sums), parallel_iterations=1
        )
        gradients = [
            tf.cast(total / tf.cast(num_parts, total.dtype), variable.dtype) if has_gradient else None
            for total, variable, has_gradient in zip(sums, variables, seen.has_gradient, strict=True)
        ]
        self.model.optimizer.apply(gradients, variables)
        logs = self.model.get_metrics_result()
        if set(seen.logs) - set(logs):
            raise ValueError(
                "`train_step` must return what the model's metrics say. Received "
                f"{sorted(set(seen.logs) - set(logs))} beside {sorted(logs)}."
            )
        return logs

    @contextlib.contextmanager
    def _collecting(self, seen: "_Seen") -> Iterator[None]:
        """The gradients that the model's step within gives to the optimizer are noted instead of applied."""
        optimizer, model = self.model.optimizer, self.model
        compute_metrics = model.compute_metrics

        def apply(gradients: Sequence[Tensor | None], trainable_variables: Sequence[Any] | None = None) -> None:
            seen.updates.append((list(gradients), trainable_variables or model.trainable_variables))

        def checked_metrics(x: Any, y: Any, y_pred: Any, *weights: Any, **named: Any) -> dict[str, Tensor]:
            if compat.have_masks(y_pred):
                raise ValueError(
                    "Outputs must carry no Keras mask where gradients are accumulated: a loss would divide by what is "
                    "left of each part. Received a mask. Give `fit` sample weights instead."
                )
            return compute_metrics(x, y, y_pred, *weights, **named)

        seen.updates = []
        vars(optimizer)["apply"], vars(model)["compute_metrics"] = apply, checked_metrics
        try:
            yield
        finally:
            del vars(optimizer)["apply"], vars(model)["compute_metrics"]


class _Seen:
    """What the model's step did while it was traced."""

    logs: dict[str, Tensor]
    updates: list[tuple[list[Tensor | None], Sequence[Any]]]
    has_gradient: list[bool]


def _added(variables: Sequence[Any], sums: Sequence[Tensor], seen: _Seen) -> list[Tensor]:
    """The sums and the gradients of one part."""
    if len(seen.updates) != 1:
        raise ValueError(f"`train_step` must call `optimizer.apply` once. Received: {len(seen.updates)} calls.")
    ((gradients, updated),) = seen.updates
    by_variable = {id(variable): gradient for variable, gradient in zip(updated, gradients, strict=True)}
    seen.has_gradient = [by_variable.get(id(variable)) is not None for variable in variables]
    return [_plus(total, by_variable.get(id(variable))) for total, variable in zip(sums, variables, strict=True)]


def _plus(total: Tensor, gradient: Any) -> Tensor:
    if gradient is None:
        return total
    if isinstance(gradient, tf.IndexedSlices):  # of a table, of which only some rows were read
        return tf.tensor_scatter_nd_add(total, gradient.indices[:, None], tf.cast(gradient.values, total.dtype))
    return total + tf.cast(gradient, total.dtype)


def _sum_dtype(variable: Any) -> str:
    """Halves would lose what small gradients add."""
    return "float32" if variable.dtype in ("float16", "bfloat16") else variable.dtype


def _factors(loss: Any, sample_weight: Any, num_parts: Tensor | int) -> list[tuple[keras.losses.Loss, Tensor]]:
    """Losses that are no means over rows; the mean over parts of their sums times a factor is that of the batch."""
    if isinstance(loss, dict | list | tuple):
        names = list(loss) if isinstance(loss, dict) else range(len(loss))
        factors = [pair for name in names for pair in _factors(loss[name], _of(sample_weight, name), num_parts)]
        if len({id(one) for one, _ in factors}) < len(factors):
            raise ValueError(f"Each output must have a loss object of its own. Received: loss={loss}.")
        return factors
    count = tf.cast(num_parts, "float32")
    match getattr(loss, "reduction", None):
        case "sum":
            return [(loss, count)]
        case "mean_with_sample_weight" if sample_weight is not None:
            replicas = tf.distribute.get_strategy().num_replicas_in_sync  # Keras divides means by them, and sums not
            return [(loss, tf.math.divide_no_nan(count, tf.reduce_sum(tf.cast(sample_weight, "float32")) * replicas))]
    return []


def _of(sample_weight: Any, name: str | int) -> Any:
    """The weights of one output, if they are given by output."""
    if isinstance(sample_weight, dict):
        return sample_weight.get(name)
    return sample_weight[name] if isinstance(sample_weight, list | tuple) and isinstance(name, int) else sample_weight


@contextlib.contextmanager
def _scaled_sums(factors: Sequence[tuple[keras.losses.Loss, Tensor]]) -> Iterator[None]:
    """Within, these losses are sums over what they are given, times their factors."""
    reductions = [loss.reduction for loss, _ in factors]
    for loss, factor in factors:
        loss.reduction, vars(loss)["call"] = "sum", _times(factor, loss.call)
    try:
        yield
    finally:
        for (loss, _), reduction in zip(factors, reductions, strict=True):
            loss.reduction = reduction
            del vars(loss)["call"]


def _times(factor: Tensor, call: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    def scaled(y_true: Any, y_pred: Any) -> Tensor:
        losses = call(y_true, y_pred)
        return losses * tf.cast(factor, losses.dtype)

    return scaled


def _num_rows(data: Any) -> Tensor | int:
    """Rows of a batch, an int if the shape says it."""
    first = next(values for values in keras.tree.flatten(data) if values is not None)
    return first.shape[0] if first.shape[0] is not None else tf.shape(first)[0]


def _num_parts(num_rows: Tensor | int, least: int) -> Tensor | int:
    """The smallest number of parts that divides the rows, of at least so many; as many as rows if they are fewer."""
    if isinstance(num_rows, int):
        return next((count for count in range(least, num_rows) if num_rows % count == 0), num_rows)
    counts = tf.range(tf.minimum(least, num_rows), num_rows + 1)
    return tf.reduce_min(tf.where(num_rows % counts == 0, counts, num_rows))


def _in_parts(batch: Any, num_parts: Tensor | int) -> Any:
    """Tensors (B, ...) as (parts, B / parts, ...)."""

    def cut(values: Any) -> Tensor | None:
        if values is None:
            return None
        if not isinstance(values, tf.Tensor):
            raise ValueError(
                f"Batches must be dense tensors where gradients are accumulated. Received: {type(values).__name__}."
            )
        num_rows = _num_rows(values)
        rows = num_rows // num_parts
        cut = tf.reshape(values, tf.concat([[num_parts, rows], tf.shape(values)[1:]], 0))
        is_known = isinstance(num_parts, int) and isinstance(num_rows, int)
        return tf.ensure_shape(cut, [*((num_parts, rows) if is_known else (None, None)), *values.shape[1:]])

    return keras.tree.map_structure(cut, batch)
