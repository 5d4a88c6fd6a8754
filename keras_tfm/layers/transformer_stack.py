"""Transformer blocks in a row, those that are alike traced once."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras

from keras_tfm.layers.composite import Composite, as_layer, build_part, serialize
from keras_tfm.layers.observation import show_block, show_input, show_output
from keras_tfm.layers.stateless import scope_with, values_of
from keras_tfm.layers.weights import keeps_weights
from keras_tfm.ops.tensors import graph_function, is_tracing
from keras_tfm.structure import Structure
from keras_tfm.types import Config, LayerLike, Shape, Tensor


@keras.saving.register_keras_serializable(package="keras_tfm")
class TransformerStack(Composite):
    """Blocks one after the other, a position bias that they share, and a final norm.

    Args:
        blocks: list of `TransformerBlock`, or of any layers with their call arguments. One object may stand several
            times (ALBERT); in a config an int stands for "as the block of that number".
        position_bias: `AlibiBias` or `RelativePositionBias`, or None. Its one table serves all blocks.
        final_norm: a norm layer, or None. Pre-norm models need one.
        remat: bool, switch on the `remat` of every block: in training only their inputs are kept.

    Call arguments:
        x: float (B, T, D).
        mask, positions, attention_mask, document_ids: as in `MultiHeadSelfAttention`.
        context, context_mask: as in `TransformerBlock`.
        cache: a tuple of memories, one a block, as `init_cache` makes it, or None.
        training: bool.

    Returns:
        float (B, T, D); with a cache the pair (y, new cache).

    Raises:
        ValueError: without blocks, or for a cache of another depth.

    Caching:
        Pure; the given cache is not modified.

    Example:
        >>> blocks = [TransformerBlock(MultiHeadSelfAttention(num_heads=4), FeedForward(256)) for _ in range(3)]
        >>> stack = TransformerStack(blocks, final_norm=keras.layers.LayerNormalization())
        >>> stack(np.ones((2, 5, 64), "float32")).shape
        (2, 5, 64)
    """

    def __init__(
        self,
        blocks: Sequence[LayerLike | int],
        position_bias: LayerLike | None = None,
        final_norm: LayerLike | None = None,
        remat: bool = False,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.blocks = _as_blocks(blocks)
        self.position_bias = as_layer(position_bias, "position_bias", "AlibiBias(num_heads=8)", optional=True)
        self.final_norm = as_layer(final_norm, "final_norm", "keras.layers.LayerNormalization()", optional=True)
        if self.final_norm is not None:
            self.final_norm.supports_masking = True  # Keras' RMSNormalization does not say so, and warns
        self.remat = remat
        if remat:
            for block in self.blocks:
                block.remat = True
        self.supports_masking = True

    def build(self, x_shape: Shape, context_shape: Shape | None = None) -> None:
        if self.position_bias is not None:
            build_part(self.position_bias, x_shape[:-1])
        for block in self.blocks:
            build_part(block, x_shape, *(() if context_shape is None else (context_shape,)))
        if self.final_norm is not None:
            build_part(self.final_norm, x_shape)

    def init_cache(
        self,
        batch_size: int | Tensor,
        max_sequence_length: int | Tensor,
        dtype: str | None = None,
        **context: Tensor | None,
    ) -> tuple:
        """Empty caches of `max_sequence_length` slots, one a block; the stack must be built. `dtype`: see attention.

        Blocks with cross-attention take `context` and `context_mask` as well; see `TransformerBlock.init_cache`.
        """
        return tuple(block.init_cache(batch_size, max_sequence_length, dtype, **context) for block in self.blocks)

    def call(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        attention_mask: Tensor | None = None,
        document_ids: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        cache: Any = None,
        training: bool | None = None,
    ) -> Tensor | tuple:
        if cache is not None and len(cache) != len(self.blocks):
            raise ValueError(
                f"`cache` must hold one memory for each of the {len(self.blocks)} blocks. "
                f"Received: {len(cache)}. Make it with `init_cache`."
            )
        bias = None if self.position_bias is None else self.position_bias.rule()
        contexts = {} if context is None else {"context": context, "context_mask": context_mask}

        def read(block, x, memory=None):
            return block(
                x,
                mask=mask,
                positions=positions,
                attention_mask=attention_mask,
                attention_bias=bias,
                document_ids=document_ids,
                **contexts,
                cache=memory,
                training=training,
            )

        is_decoding = cache is not None and not training
        calls: Sequence[Callable] = [partial(read, block) for block in self.blocks]
        if is_decoding:
            calls = traced_once(self.blocks, read)
        memories = []
        show_input(self.name, x)
        for i, call in enumerate(calls):
            if cache is None:
                x = call(x)
            else:
                x, memory = call(x, cache[i])
                memories.append(memory)
            show_block(x)
        if self.final_norm is not None:
            x = self.final_norm(x)
        show_output(x)
        return x if cache is None else (x, tuple(memories))

    def compute_output_spec(self, x: Tensor, cache: Any = None, **arguments: Any) -> Any:
        # Said, not traced: a functional model of 30 blocks is made in a second rather than in twenty.
        if cache is not None:
            return super().compute_output_spec(x, cache=cache, **arguments)
        return keras.KerasTensor(x.shape, dtype=self.compute_dtype)

    def compute_output_shape(self, x_shape: Shape, context_shape: Shape | None = None) -> Shape:
        return x_shape

    def get_config(self) -> Config:
        first = [self.blocks.index(block) for block in self.blocks]
        return {
            **super().get_config(),
            "blocks": [serialize(block) if first[i] == i else first[i] for i, block in enumerate(self.blocks)],
            "position_bias": serialize(self.position_bias),
            "final_norm": serialize(self.final_norm),
            "remat": self.remat,
        }


def _as_blocks(blocks) -> list:
    if not isinstance(blocks, list | tuple):
        raise TypeError(
            f"`blocks` must be a list of layers, for example of `TransformerBlock`. Received: blocks={blocks!r:.80}."
        )
    if not blocks:
        raise ValueError(f"`blocks` must hold at least one layer. Received: blocks={blocks!r}.")
    layers: list[keras.layers.Layer] = []
    for i, block in enumerate(blocks):
        if type(block) is int and 0 <= block < i:
            layers.append(layers[block])
        else:
            example = "TransformerBlock(MultiHeadSelfAttention(8), FeedForward(256))"
            layers.append(as_layer(block, f"blocks[{i}]", example))
    return layers


def traced_once(layers: list[keras.layers.Layer], call: Callable) -> list[Callable]:
    """`call` for each of the layers, as functions of tensors.

    While TensorFlow traces, layers of the same `Structure` share one graph, which takes their weights as arguments:
    a GPT-2 of 12 blocks is traced in a quarter of the time. A layer that differs in anything but its weights, that
    contains a custom layer, or whose weights operations keep, is traced by itself. Not for training: XLA compiles
    gradients of such a graph in many times the time and memory.

    Args:
        layers: built layers, called for inference.
        call: (layer, *tensors) -> nested tensors; what else it reads must be the same for all layers.

    Returns:
        A function of `*tensors` for each layer.
    """
    if not is_tracing():
        return [partial(call, layer) for layer in layers]
    graphs: dict[Structure, Callable] = {}
    functions: list[Callable] = []
    for layer in layers:
        if keeps_weights(layer):
            functions.append(partial(call, layer))
            continue
        structure = Structure(layer)
        if structure not in graphs:
            graphs[structure] = graph_function(partial(_call_with, layer, structure.variables, call))
        functions.append(partial(graphs[structure], values_of(structure.variables)))
    return functions


def _call_with(layer, variables, call, values, *tensors):
    """The layer's output with these values of its variables."""
    with scope_with(variables, values):
        return call(layer, *tensors)
