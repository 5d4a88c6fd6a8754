"""A model's hidden states and attention where `keras.distillation` finds them: as outputs of layers of its graph."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
from keras import ops

from keras_tfm.arguments import as_integer
from keras_tfm.layers import TransformerStack
from keras_tfm.layers.composite import parts_of
from keras_tfm.layers.observation import observation
from keras_tfm.types import Tensor


def with_hidden_states(
    model: keras.Model,
    hidden_dim: int | None = None,
    states: Iterable[int] | None = None,
    inputs: Iterable[str] | None = None,
    attention: Iterable[int] = (),
) -> keras.Model:
    """The same model, with the same weights, whose graph has what each block returns as the output of a layer.

    `keras.distillation.FeatureDistillation` compares such layers by name: "hidden_0" is the embedding, "hidden_1" what
    the first block returns, and so on. What a student learns through it, the student has learned. States of another
    width are projected to `hidden_dim` by a dense layer that is trained with it, and belongs to none of both. Padding
    has states of 0, so that it counts as equal. "attention_1" has the weights (B, N, T, S) of the first block's
    self-attention, before dropout, if they are asked for: (T, S) for each head take memory that is not taken else.

    Args:
        model: with one `TransformerStack`, such as `CausalLM`, `Bert` or `TextClassifier`.
        hidden_dim: int, the teacher's width, for a student of another.
        states: numbers of those that are shown. Default: all. A projection that nothing is compared with cannot be
            trained, and Keras warns of it.
        inputs: names of what the data have, such as ("token_ids",) where they are ids alone. Default: all but
            "document_ids".
        attention: numbers of blocks, from 1, whose attention weights are shown too. TensorFlow only.

    Returns:
        `keras.Model`, to train with and not to save.

    Raises:
        ValueError: for a model of no or several stacks, or with virtual tokens; for states, blocks or inputs that it
            has not. NotImplementedError: for attention on another backend than TensorFlow.

    Example:
        >>> teacher = build_bert("tiny", vocabulary_size=64, num_layers=4, hidden_dim=32)
        >>> student = build_bert("tiny", vocabulary_size=64, num_layers=2, hidden_dim=16)
        >>> shown = with_hidden_states(teacher), with_hidden_states(student, hidden_dim=32, states=[0, 2])
        >>> shown[1].get_layer("hidden_2").output.shape
        (None, None, 32)

    Reference:
        Jiao et al. 2020, "TinyBERT", section 3.2, https://arxiv.org/abs/1909.10351; Sanh et al. 2019, "DistilBERT",
        https://arxiv.org/abs/1910.01108
    """
    stacks = [(path, part) for path, part, _ in parts_of(model) if isinstance(part, TransformerStack)]
    if len(stacks) != 1 or getattr(model, "num_virtual_tokens", False):
        raise ValueError(
            "`model` must have one `TransformerStack` and no virtual tokens. Received: "
            f"{model.name!r} with {len(stacks)} stacks."
        )
    known = {x.name: x for x in model.inputs}
    names = [name for name in known if name != "document_ids"] if inputs is None else list(inputs)
    if not set(model.required_inputs) <= set(names) <= set(known):
        raise ValueError(
            f"`inputs` must be of {list(known)}, {list(model.required_inputs)} among them. Received: inputs={names}."
        )
    given = {name: known[name] for name in names}
    tensors = list(given.values())
    path, stack = stacks[0]
    all_states = range(len(stack.blocks) + 1)
    shown = set(all_states if states is None else states)
    if not shown <= set(all_states):
        raise ValueError(f"`states` must be from 0 to {len(stack.blocks)}. Received: states={sorted(shown)}.")
    watched = set(attention)
    if not watched <= set(all_states) - {0}:
        raise ValueError(f"`attention` must be from 1 to {len(stack.blocks)}. Received: attention={sorted(watched)}.")
    if watched and keras.backend.backend() != "tensorflow":
        raise NotImplementedError("`attention` needs the backend TensorFlow: others train in a stateless scope.")
    cut = _CutStack(stack, shown, watched, None if hidden_dim is None else as_integer("hidden_dim", hidden_dim, 1))
    with _in_place_of_stack(model, path.split("."), cut):
        outputs = model._forward(**model._complete(given))
    return keras.Model(tensors if tensors[1:] else tensors[0], _First()(outputs, cut.states), name=model.name)


@contextlib.contextmanager
def _in_place_of_stack(model, path: list[str], cut: "_CutStack") -> Iterator[None]:
    """In this scope the `_forward` of a model calls this one, and those of the models inside of it, in one graph."""
    name, *rest = path
    part = getattr(model, name)
    with _in_place_of_stack(part, rest, cut) if rest else contextlib.nullcontext():
        vars(model)[name] = _Inner(part) if rest else cut
        try:
            yield
        finally:
            vars(model)[name] = part


class _Inner:
    """A model inside of another one, which is called as if it were a function of the outer graph."""

    def __init__(self, model):
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, inputs: dict[str, Tensor]) -> Any:
        return self._model._forward(**self._model._complete(inputs))


class _CutStack:
    """A `TransformerStack` as a function: each of its blocks in a stack of its own, and after it a layer that shows."""

    def __init__(self, stack: TransformerStack, shown: set[int], watched: set[int], hidden_dim: int | None):
        self._stack, self._shown, self._watched, self._hidden_dim = stack, shown, watched, hidden_dim
        self.states: list[Tensor] = []

    def __call__(self, x: Tensor, positions: Tensor, **arguments: Any) -> Tensor:
        self._show(0, x, positions)
        options = {"position_bias": self._stack.position_bias, "dtype": self._stack.dtype_policy}
        for i, block in enumerate(self._stack.blocks):
            one = TransformerStack([block], name=f"block_{i}", **options)
            if i + 1 in self._watched:
                x, weights = _Watched(one, name=f"watched_{i}", dtype=one.dtype_policy)(x, positions, **arguments)
                self.states.append(keras.layers.Identity(dtype="float32", name=f"attention_{i + 1}")(weights))
            else:
                x = one(x, positions=positions, **arguments)
            self._show(i + 1, x, positions)
        return x if self._stack.final_norm is None else self._stack.final_norm(x)

    def _show(self, i, x, positions):
        if i in self._shown:
            width = None if self._hidden_dim in (None, x.shape[-1]) else self._hidden_dim
            self.states.append(_Shown(width, name=f"hidden_{i}")(x, positions))


class _Watched(keras.layers.Layer):
    """A stack of one block that also returns the weights (B, N, T, T) of its self-attention."""

    def __init__(self, stack: TransformerStack, **kwargs: Any):
        super().__init__(**kwargs)
        self.stack = stack

    def build(self, x_shape: Any, positions_shape: Any = None, **other_shapes: Any) -> None:
        self.built = True  # its block was built by the model

    def call(self, x: Tensor, positions: Tensor, training: bool | None = None, **arguments: Any) -> tuple:
        with observation(keep=lambda tensor: ops.cast(tensor, "float32")) as records:
            y = self.stack(x, positions=positions, training=training, **arguments)
        if len(records[0].attention_weights) != 1:
            raise ValueError(
                "`attention` must be of blocks with one self-attention of this library. "
                f"Received: {self.stack.blocks[0]!r:.80} with {len(records[0].attention_weights)}."
            )
        return y, records[0].attention_weights[0]

    def compute_output_spec(self, x: Any, positions: Any, **arguments: Any) -> tuple:
        batch, length, _ = x.shape
        weights = keras.KerasTensor((batch, None, length, length), "float32")
        return keras.KerasTensor(x.shape, self.compute_dtype), weights


class _Shown(keras.layers.Layer):
    """States (B, T, D) in float32, projected if a width is given; 0 at padding."""

    def __init__(self, width: int | None, **kwargs: Any):
        super().__init__(dtype="float32", **kwargs)
        self.projection = None if width is None else keras.layers.Dense(width, use_bias=False, dtype="float32")

    def build(self, x_shape: Any, positions_shape: Any) -> None:
        if self.projection is not None:
            self.projection.build(x_shape)

    def call(self, x: Tensor, positions: Tensor) -> Tensor:
        x = x if self.projection is None else self.projection(x)
        return ops.where(positions[..., None] >= 0, x, 0.0)


class _First(keras.layers.Layer):
    """The first of its inputs: the others are in the graph with it."""

    def call(self, outputs: Any, states: list[Tensor]) -> Any:
        return outputs
