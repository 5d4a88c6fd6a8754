"""Training by several processes, each with a copy of the model and its share of each batch."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_tfm import compat
from keras_tfm.data.epochs import position_of
from keras_tfm.optional import require_tensorflow
from keras_tfm.types import Tensor


@dataclasses.dataclass(frozen=True)
class Workers:
    """The processes that train one model.

    Args:
        index: int, this process' number; 0 is the chief.
        count: int, how many there are.
    """

    index: int
    count: int

    @property
    def is_chief(self) -> bool:
        """Whether this process writes files; the others have the same weights."""
        return self.index == 0


@contextlib.contextmanager
def workers() -> Iterator[Workers]:
    """Build and compile a model in this scope, and `fit` trains it with all processes that TF_CONFIG names.

    Each process runs the same program with the same data and batch size: `batch_size` is that of all workers together.
    Each worker takes its equal share of the rows of each batch, so an epoch sees each row once, and weights, losses and
    metrics are those of one process with the whole batch. Without TF_CONFIG, or if it names one worker, nothing is
    different from ordinary training.

    TF_CONFIG is what Kubeflow, SageMaker and Slurm's launchers set, before the program starts:
    `{"cluster": {"worker": ["host0:port", "host1:port"]}, "task": {"type": "worker", "index": 0}}`; the first worker,
    or a "chief" beside them, is the chief. Enter the scope before TensorFlow has computed anything.

    Files are written by `Checkpointer` on the chief alone; other callbacks that write are for the chief:
    `callbacks=[...] if them.is_chief else []`. Three things are each worker's own, as in Keras under every strategy:
    dropout draws the same masks on each, `clipnorm` and its kin cut a worker's gradient before all are summed, and the
    loss reduction "mean_with_sample_weight" divides by the weights of a worker's rows.

    If a worker dies, the others end with `tf.errors.UnavailableError`; start all again, and `Checkpointer` goes on.

    Yields:
        Workers.

    Raises:
        ValueError: if TF_CONFIG cannot work; in `fit`, before training, if workers do not divide the batches, or for
            `jit_compile=True` without GPUs.

    Example:
        >>> with keras_tfm.training.workers() as them:
        ...     model = keras_tfm.models.build_gpt("nano")
        ...     model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> model.fit(packed.dataset(64), epochs=2, verbose=them.is_chief)
    """
    require_tensorflow("Several workers")
    them = _from_config(os.environ.get("TF_CONFIG", ""))
    if them.count == 1:
        yield them
        return
    with _Strategy(them).scope():
        yield them


def worker_of(model: keras.Model) -> Workers:
    """Which of the workers that train a model this process is."""
    strategy = model.distribute_strategy
    return strategy.workers if isinstance(strategy, _Strategy) else Workers(0, 1)


def said_by_all(model: keras.Model, text: str) -> list[str]:
    """What each worker says at this moment, in their order; all of them must ask. No text may have a line break."""
    strategy = model.distribute_strategy
    if not isinstance(strategy, _Strategy):
        return [text]
    letters = tf.constant(list(f"{text}\n".encode()), tf.int32)
    return bytes(strategy.gather(letters, axis=0).numpy().tolist()).decode().splitlines()


class _Strategy(tf.distribute.MultiWorkerMirroredStrategy):
    """TensorFlow's strategy, which cuts batches by rows and reduces what Keras gives it."""

    def __init__(self, them: Workers):
        self.workers = them
        super().__init__()

    def experimental_distribute_dataset(self, dataset: tf.data.Dataset, options: Any = None) -> Any:
        """The rows of this worker; TensorFlow would give whole batches to each."""
        dataset = _own_rows(dataset, self.workers)
        return self.distribute_datasets_from_function(lambda _: dataset, options)

    def run(self, fn: Any, *arguments: Any, **named: Any) -> Any:
        """A step on each worker."""
        if compat.is_jit_compiled(fn) and not tf.config.list_logical_devices("GPU"):
            raise ValueError(
                "`jit_compile` must be False for several workers without GPUs: XLA cannot exchange gradients there. "
                "Received: jit_compile=True. Pass `jit_compile=False` to `compile`."
            )
        return super().run(fn, *arguments, **named)

    def reduce(self, reduce_op: Any, value: Any, axis: int | None = None) -> Any:
        """What Keras 3.15 asks for in `fit` and means otherwise.

        It has metrics, which are scalars, reduced over their axis 0; and a batch of which it wants the shapes.
        """
        local = keras.tree.map_structure(lambda values: getattr(values, "values", (values,))[0], value)
        is_scalar = not keras.tree.is_nested(local) and local.shape.rank == 0
        if axis is None and not is_scalar:
            return local
        return super().reduce(reduce_op, value, None if is_scalar else axis)


def _own_rows(dataset: tf.data.Dataset, them: Workers) -> tf.data.Dataset:
    """The rows of one worker in each batch: a dataset of all rows is read by each, one in shards gives them itself."""
    position = position_of(dataset)
    if position is not None and position.shard is not None:
        if position.shard != (them.index, them.count) or dataset.cardinality() != tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "A stream in shards must be endless, and have those of the workers: `shard_index=them.index, "
                f"num_shards=them.count`. Received: shard {position.shard} for worker {them.index} of {them.count}, "
                f"{'endless' if dataset.cardinality() == tf.data.INFINITE_CARDINALITY else 'with an end'}."
            )
        return dataset
    for size in (position.sizes() if position is not None else None) or ():
        _check_divides(size, them.count)

    def own(*batch: Any) -> Any:
        def take(values: Tensor) -> Tensor:
            rows = values.shape[0] if values.shape[0] is not None else tf.shape(values)[0]
            if isinstance(rows, int):
                _check_divides(rows, them.count)
            else:
                message = f"{them.count} workers must divide the rows of each batch. Received rows:"
                tf.debugging.Assert(rows % them.count == 0, [message, rows])
            share = rows // them.count
            return values[them.index * share : (them.index + 1) * share]

        taken = keras.tree.map_structure(lambda values: None if values is None else take(values), batch)
        return taken if len(taken) > 1 else taken[0]

    return dataset.map(own)


def _check_divides(rows: int, count: int) -> None:
    if rows % count:
        raise ValueError(
            f"The {count} workers must divide the rows of each batch. Received: {rows} rows. Choose another "
            "`batch_size`, or `drop_partial_batch=True`."
        )


def _from_config(text: str) -> Workers:
    """The workers that TF_CONFIG names, and which of them this is."""
    if not text.strip():
        return Workers(0, 1)
    example = '{"cluster": {"worker": ["host0:port", "host1:port"]}, "task": {"type": "worker", "index": 0}}'
    rule = f"TF_CONFIG must be of the form {example}"
    try:
        config = json.loads(text)
        cluster, task = config.get("cluster") or {}, config.get("task") or {}
        addresses = {kind: list(cluster[kind]) for kind in cluster}
        kind, index = task.get("type", "worker"), int(task.get("index", 0))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{rule}. Received: {text!r:.200}, which gives {error}.") from error
    if not addresses:
        return Workers(0, 1)
    others = sorted(set(addresses) - {"chief", "worker"})
    if others:
        raise ValueError(f"{rule}: workers train here, and nobody else. Received: {others} beside them.")
    everybody = [*addresses.get("chief", []), *addresses.get("worker", [])]
    if len(addresses.get("chief", [])) > 1 or len(set(everybody)) < len(everybody):
        raise ValueError(f"{rule}, with one chief at most and each address once. Received: {addresses}.")
    without_port = [address for address in everybody if not str(address).rpartition(":")[2].isdigit()]
    if without_port:
        raise ValueError(f"{rule}. Received: {without_port} without a port.")
    if kind not in addresses or not 0 <= index < len(addresses[kind]):
        raise ValueError(f"{rule}, with a task that is in the cluster. Received: the task {kind} {index}.")
    return Workers(index + (len(addresses.get("chief", [])) if kind == "worker" else 0), len(everybody))
