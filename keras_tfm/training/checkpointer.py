"""Runs that are killed and go on as if they had not been."""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import signal
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_tfm import compat
from keras_tfm.arguments import as_integer, number_of, require
from keras_tfm.data.epochs import DataPosition, position_of
from keras_tfm.files import local_path, written_whole
from keras_tfm.optional import require_tensorflow
from keras_tfm.training.workers import said_by_all, worker_of

_FORMAT = 1


class Checkpointer(keras.callbacks.Callback):
    """Saves all that a run is made of while `fit` trains, and goes on from there when the same command runs again.

    A checkpoint has the weights, the optimizer, the seeds of dropout, the metrics so far, the epoch and the place in
    the data. So whatever ends the process, at whatever moment, the run that goes on ends with the very weights and
    epoch's losses of one that was not interrupted, where the machine computes the same sums in the same order.

    Checkpoints are saved after each epoch, and in between as asked. The values are copied between two steps, then a
    thread writes them: a file takes its name when it is complete. On SIGTERM, which schedulers send before they kill,
    the step in progress is ended, a checkpoint is written, and then the process ends as SIGTERM asks; a second SIGTERM
    ends it at once.

    Among several workers (`training.workers`) the chief writes, to a folder that all can read, and the losses of the
    epoch that a run goes on in are those of its steps since. Clocks and signals come to each worker at another step:
    there is no `every_seconds`, and SIGTERM ends a worker, and so all, without a last checkpoint.

    What other callbacks remember is not saved: `EarlyStopping` and `ReduceLROnPlateau` forget the epochs before. For
    them the first steps of an epoch that a run goes on in are there, and take no time. Put this callback last: then
    `CSVLogger` may write an epoch's row twice, but loses none.

    Args:
        folder: where the checkpoints are, "checkpoint-00000500.npz" after 500 steps. `fit` goes on from the newest;
            for a new run, name a new folder.
        data: the tf.data.Dataset that `fit` is given, from `keras_tfm.data` (`epochs_of_batches` for data of your own);
            `map` and `prefetch` may be put on it. With `steps_per_epoch`, it must be a `stream` or one with
            `repeat=True`.
        every_steps: int, save after so many steps.
        every_seconds: float, save when so many seconds have passed.
        keep: int, the newest so many checkpoints stay.

    Raises:
        ValueError: in `fit`, before training, if the checkpoint is one of another model, optimizer or other data.
        ValueError: if a number is out of range, or `data` is made of anything else.

    Example:
        >>> data = packed.dataset(batch_size=16)
        >>> model.fit(data, epochs=5, callbacks=[keras_tfm.training.Checkpointer("run", data, every_steps=500)])
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        data: tf.data.Dataset,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        keep: int = 2,
    ):
        super().__init__()
        require_tensorflow("Checkpoints of runs")
        self.folder = local_path(folder)
        self.data = data
        self.every_steps = None if every_steps is None else as_integer("every_steps", every_steps, least=1)
        self.every_seconds = None if every_seconds is None else number_of("every_seconds", every_seconds)
        holds = self.every_seconds is None or self.every_seconds > 0
        require(holds, "`every_seconds` must be more than 0", every_seconds=every_seconds)
        self.keep = as_integer("keep", keep, least=1)
        self._position = _checked_position(data)
        self._place = _Place(epoch=0, step=0, total=0)
        self._training_metrics: list[np.ndarray] | None = None  # while validation uses the metrics
        self._last_save = (0, 0.0)  # steps in all, time
        self._is_terminated = False
        self._old_handler: Any = None
        self._writer: concurrent.futures.ThreadPoolExecutor
        self._writing: concurrent.futures.Future | None = None

    @property
    def newest(self) -> pathlib.Path | None:
        """The checkpoint that `fit` would go on from; None if there is none."""
        return max(self.folder.glob("checkpoint-*.npz"), default=None)

    # --- what Keras calls --------------------------------------------------------------------------------------------

    def on_train_begin(self, logs: dict | None = None) -> None:
        self._them = worker_of(self.model)
        if self._them.count > 1 and self.every_seconds:
            raise ValueError(
                f"`every_seconds` must be left out with several workers, whose clocks differ. Received: "
                f"every_seconds={self.every_seconds} and {self._them.count} workers. Pass `every_steps`."
            )
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        self._check_steps()
        self._position.seek(self._position.start)
        self._first_batch = next(iter(self.data))
        self._run = {
            "model": _described(_state(self.model)),
            "data": " ".join(self._of_all_shares(_digest(self._first_batch))),
        }
        self._note: str | None = None
        newest = self.newest
        if newest is None:
            self._place = _Place(epoch=-1, step=0, total=0)  # `on_epoch_begin` says which epoch
        else:
            self._restore(newest)
        self._position.seek(self._position.start + self._place.total, self._note)
        self._last_save = self._place.total, time.monotonic()
        self._writer = concurrent.futures.ThreadPoolExecutor(1)
        self._listen()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        if epoch != self._place.epoch:
            self._place = _Place(epoch, 0, self._place.total)
        elif self._place.step:
            self._skip(self._place.step)

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        step = min(batch + 1, self.params["steps"])  # the last execution of several steps may have fewer
        if step <= self._place.step:  # it was skipped
            return
        self._place = _Place(self._place.epoch, step, self._place.total + step - self._place.step)
        total, seconds = self._last_save
        if (self.every_steps and self._place.total - total >= self.every_steps) or (
            self.every_seconds and time.monotonic() - seconds >= self.every_seconds
        ):
            self._save()
        self._end_if_terminated()

    def on_test_begin(self, logs: dict | None = None) -> None:
        self._training_metrics = _values(_metrics(self.model))

    def on_test_batch_end(self, batch: int, logs: dict | None = None) -> None:
        self._end_if_terminated()

    def on_test_end(self, logs: dict | None = None) -> None:
        self._end_if_terminated()  # before the metrics are forgotten
        self._training_metrics = None

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        self._place = _Place(epoch + 1, 0, self._place.total)
        self._save()
        self._end_if_terminated()

    def on_train_end(self, logs: dict | None = None) -> None:
        self._finish_writing()
        self._writer.shutdown()
        compat.set_initial_epoch(self.model, None)
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)
            self._old_handler = None

    # --- saving ------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        metrics = (self._training_metrics or _values(_metrics(self.model))) if self._place.step else []
        self._last_save = self._place.total, time.monotonic()
        note = self._position.note(self._position.start + self._place.total)
        notes = [] if note is None else self._of_all_shares(note)
        if not self._them.is_chief:
            return
        arrays = {f"state_{n}": value for n, value in enumerate(_values(_state(self.model)))}
        arrays.update({f"metric_{n}": value for n, value in enumerate(metrics)})
        described = {"format": _FORMAT, **self._place._asdict(), **self._run, "notes": notes}
        arrays["run"] = np.frombuffer(json.dumps(described).encode(), "uint8")
        self._finish_writing()
        self._writing = self._writer.submit(self._write, arrays, self._place.total)

    def _write(self, arrays: Mapping[str, Any], total: int) -> None:
        with written_whole(self.folder / f"checkpoint-{total:08d}.npz", overwrite=True) as unfinished:
            np.savez(unfinished, **arrays)
        for old in sorted(self.folder.glob("checkpoint-*.npz"))[: -self.keep]:
            old.unlink(missing_ok=True)

    def _finish_writing(self) -> None:
        if self._writing is not None:
            self._writing.result()  # raises what the thread raised, such as a full disk
            self._writing = None

    # --- going on ----------------------------------------------------------------------------------------------------

    def _restore(self, path: pathlib.Path) -> None:
        with np.load(path) as file:
            run = json.loads(bytes(file["run"]))
            self._check_run(path, run)
            for n, variable in enumerate(_state(self.model)):
                _assign(variable, file[f"state_{n}"])
            if notes := run.get("notes"):  # where the data are, of each share
                self._note = notes[self._them.index if len(notes) > 1 else 0]
            self._saved_metrics = [file[name] for name in file.files if name.startswith("metric_")]
        self._place = _Place(run["epoch"], run["step"], run["total"])
        compat.set_initial_epoch(self.model, self._place.epoch)

    def _of_all_shares(self, text: str) -> list[str]:
        """The text, or those of all workers where each has a share of the data."""
        is_shared = self._them.count > 1 and self._position.shard is not None
        return said_by_all(self.model, text) if is_shared else [text]

    def _check_run(self, path: pathlib.Path, run: dict[str, Any]) -> None:
        if run["format"] != _FORMAT:
            raise ValueError(f"{path} must be of format {_FORMAT}. Received: format {run['format']}.")
        if run["model"] != self._run["model"]:
            pairs = zip(run["model"], self._run["model"], strict=False)
            saved, given = next((pair for pair in pairs if pair[0] != pair[1]), ("its end", "more, or its end"))
            raise ValueError(
                f"The model and the optimizer must be those of {path}. Received {len(self._run['model'])} variables, "
                f"{len(run['model'])} are saved; the first difference: {given} for {saved}. Build and compile what was "
                "trained, or name another `folder` for a new run."
            )
        if run["data"] != self._run["data"]:
            raise ValueError(
                f"`data` must be that of {path}, with the same seed and batch size. Received data whose first batch is "
                f"another. Make them as they were made, or name another `folder` for a new run. {path.parent} is left "
                "as it is."
            )

    def _check_steps(self) -> None:
        steps, at_once = self.params["steps"], self.model.steps_per_execution
        is_endless = int(self.data.cardinality()) == tf.data.INFINITE_CARDINALITY
        if steps is None or (not is_endless and (steps != self._position.num_batches or steps % at_once)):
            raise ValueError(
                "`fit` must read all batches of an epoch, in executions of as many steps each. Received: "
                f"steps_per_epoch={steps}, steps_per_execution={at_once} and {self._position.num_batches} batches in "
                "an epoch of `data`. Make `data` with `repeat=True`, and any number of steps will do."
            )

    def _skip(self, num_steps: int) -> None:
        """Has `fit` go through the steps of an epoch that are trained already, and does nothing in them.

        So the numbers of steps are right for all callbacks; the data begin with the batch after these.
        """
        if num_steps % self.model.steps_per_execution:
            raise ValueError(
                f"`steps_per_execution` must divide the {num_steps} steps of the epoch that were trained. Received: "
                f"steps_per_execution={self.model.steps_per_execution}."
            )
        if len(_metrics(self.model)) != len(self._saved_metrics):
            compat.build_metrics(self.model, self._first_batch)
        for variable, value in zip(_metrics(self.model), self._saved_metrics, strict=True):
            # Each of several workers has metrics of its own rows, and the chief's alone are in the checkpoint.
            _assign(variable, value if self._them.count == 1 else np.zeros_like(value))
        logs, train = self.model.get_metrics_result(), self.model.train_function
        left = num_steps // self.model.steps_per_execution

        def skip(iterator: Any) -> dict[str, Any]:
            nonlocal left
            left -= 1
            if not left:
                self.model.train_function = train
            return logs

        self.model.train_function = skip

    # --- SIGTERM -----------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread() or self._them.count > 1:
            return  # Python lets no other thread listen

        def note(number: int, frame: FrameType | None) -> None:
            self._is_terminated = True
            signal.signal(signal.SIGTERM, self._old_handler)

        self._is_terminated = False
        self._old_handler = signal.signal(signal.SIGTERM, note) or signal.SIG_DFL

    def _end_if_terminated(self) -> None:
        if self._is_terminated:
            self._is_terminated = False
            if self._last_save[0] != self._place.total:
                self._save()
            self._finish_writing()
            signal.raise_signal(signal.SIGTERM)  # to whoever listened before
            self._listen()  # they let the process live


class _Place(NamedTuple):
    """Steps that are done: of this epoch, and of the run."""

    epoch: int
    step: int
    total: int


def _checked_position(data: Any) -> DataPosition:
    position = position_of(data) if isinstance(data, tf.data.Dataset) else None
    if position is None or int(data.cardinality()) not in (position.num_batches, tf.data.INFINITE_CARDINALITY):
        raise ValueError(
            "`data` must be a dataset of `keras_tfm.data`, a stream without `num_epochs` among them, with at most "
            "`map`, `prefetch` and options put on it, so that its place can be set. "
            f"Received: {data!r:.120}. Make data of your own with `data.epochs_of_batches`."
        )
    return position


def _state(model: keras.Model) -> list[keras.Variable]:
    """All that training changes but the metrics; seeds are among a model's variables."""
    return [*model.variables, *model.optimizer.variables]


def _metrics(model: keras.Model) -> list[keras.Variable]:
    return [variable for metric in model.metrics for variable in metric.variables]


def _values(variables: list[keras.Variable]) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def _assign(variable: keras.Variable, value: np.ndarray) -> None:
    if value.dtype.kind == "V":  # NumPy's files know no bfloat16
        value = value.view(keras.ops.convert_to_numpy(variable).dtype)
    variable.assign(value)


def _described(variables: list[keras.Variable]) -> list[str]:
    return [f"{variable.dtype} {tuple(variable.shape)}" for variable in variables]


def _digest(batch: Any) -> str:
    """A digest of a batch's structure and values."""
    digest = hashlib.sha256()
    for path, tensor in keras.tree.flatten_with_path(batch):
        values = [] if tensor is None else [tensor]
        values = [tensor.flat_values, *tensor.nested_row_splits] if isinstance(tensor, tf.RaggedTensor) else values
        digest.update(repr(path).encode())
        for value in map(np.asarray, values):
            digest.update(f"{value.dtype} {value.shape}".encode())
            digest.update(repr(value.tolist()).encode() if value.dtype == object else value.tobytes())
    return digest.hexdigest()
