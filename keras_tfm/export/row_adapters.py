"""A model of which each row of a batch uses an adapter of its own: what a SavedModel with several adapters runs."""

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_tfm.layers.adapter import rows_with_adapters
from keras_tfm.layers.weights import projections_within
from keras_tfm.ops.decoding_state import DecodingState
from keras_tfm.ops.tensors import take_rows
from keras_tfm.types import Tensor


class AdapterOfRow(NamedTuple):
    """What is remembered of who uses which adapter: int32 (R,), its number, -1 = none.

    It is a `Memory` beside those of the blocks, so that rows keep their adapters wherever they go.
    """

    number: Any

    @property
    def is_shared(self) -> bool:
        """False: beams are reordered."""
        return False

    @property
    def can_forget(self) -> bool:
        """Whether tokens can be taken back: they are none of its business."""
        return True

    def keep(self, num_tokens: Tensor) -> "AdapterOfRow":
        """Itself: tokens do not matter."""
        return self

    def grow(self, num_slots: int) -> "AdapterOfRow":
        """Itself."""
        return self

    def take(self, rows: Tensor) -> "AdapterOfRow":
        """That of these rows."""
        return AdapterOfRow(take_rows(self.number, rows))


class RowAdapters:
    """A language model as `generation.loop` knows it, whose rows have adapters.

    All adapters are computed for all rows, and what belongs to others is left out: that costs time for each adapter,
    and keeps one graph for any mixture of them.

    Args:
        model: `CausalLM` or `Seq2SeqLM` with adapters, which count in full.
        names: of the adapters, by number.

    Raises:
        ValueError: for names that are not there, adapters that are merged, and adapters of the head, which is told
            nothing of rows.
    """

    def __init__(self, model: keras.Model, names: tuple[str, ...]):
        beside = _adapters_of(model)
        if missing := set(names) - {adapter.name for adapter in beside}:
            known = sorted({adapter.name for adapter in beside})
            raise ValueError(
                f"`adapters` must be names of adapters beside projections, {known}. Received: {sorted(missing)}. "
                "Virtual tokens are read by all rows alike."
            )
        if unfit := sorted({x.name for x in beside if x.name in names and (x.merged or x.share != 1.0)}):
            raise ValueError(f"`adapters` must count in full, and not be merged. Received: {unfit}. `use` them.")
        if model.head is not None and _adapters_of(model.head):
            raise ValueError("`adapters` must not be beside the head, which serves all rows alike. Received: one.")
        self._model, self._names = model, names

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def begin(
        self, token_ids: Tensor, padding_mask: Tensor, num_slots: Any, dtype: str | None, number: Tensor
    ) -> tuple[Tensor, Tensor, DecodingState]:
        """As the model's, for rows with adapters of these numbers, int32 (B,)."""
        own = AdapterOfRow(number)
        with self._rows(own):
            token_ids, padding_mask, state = self._model.begin(token_ids, padding_mask, num_slots, dtype)
        return token_ids, padding_mask, state._replace(memories=(own, state.memories))

    def read(self, token_ids: Tensor, state: DecodingState, padding_mask: Tensor | None = None) -> tuple:
        """As the model's."""
        own, memories = state.memories
        with self._rows(own):
            hidden, state = self._model.read(token_ids, state._replace(memories=memories), padding_mask)
        return hidden, state._replace(memories=(own, state.memories))

    def _rows(self, own):
        return rows_with_adapters({name: ops.equal(own.number, i) for i, name in enumerate(self._names)})


def _adapters_of(layer) -> list:
    return [adapter for projection in projections_within(layer) for adapter in projection.adapters]
