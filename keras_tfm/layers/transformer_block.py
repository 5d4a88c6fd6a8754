"""Transformer blocks: attention and feed-forward around a residual stream, one after the other or in parallel."""

from typing import Any

import keras

from keras_tfm.layers.cache import BlockCache
from keras_tfm.layers.composite import Composite, as_layer, build_part, serialize, set_template
from keras_tfm.layers.residual import Residual
from keras_tfm.layers.stateless import rematerialized
from keras_tfm.types import Config, LayerLike, Shape, Tensor


class _Block(Composite):
    """What blocks share: the two sublayers, the templates of norms and scales, the cache and rematerialization.

    Subclasses make a `Residual` for each sublayer and define `_read`.
    """

    def __init__(
        self,
        self_attention: LayerLike,
        feed_forward: LayerLike,
        norm: LayerLike,
        dropout: float,
        stochastic_depth: float,
        residual_scale: LayerLike,
        remat: bool,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.self_attention = as_layer(self_attention, "self_attention", "MultiHeadSelfAttention(num_heads=8)")
        self.feed_forward = as_layer(feed_forward, "feed_forward", "FeedForward(256)")
        norm = keras.layers.LayerNormalization(dtype=self.dtype_policy) if norm is None else norm
        set_template(self, "norm", as_layer(norm, "norm", "keras.layers.LayerNormalization()"))
        self.dropout = dropout
        self.stochastic_depth = stochastic_depth
        set_template(self, "residual_scale", as_layer(residual_scale, "residual_scale", "LayerScale()", optional=True))
        self.remat = remat
        self.supports_masking = True

    def _residual(self, name, norm, placement="pre"):
        return Residual(
            norm,
            placement,
            self.residual_scale,
            self.dropout,
            self.stochastic_depth,
            dtype=self.dtype_policy,
            name=f"{name}_residual",
        )

    def init_cache(
        self, batch_size: int | Tensor, max_sequence_length: int | Tensor, dtype: str | None = None
    ) -> BlockCache:
        """An empty cache for the self-attention."""
        return BlockCache(self_attention=self.self_attention.init_cache(batch_size, max_sequence_length, dtype))

    def _run(self, x, attends, cache, training, **contexts):
        """`_read`, rematerialized in training if asked for: y (B, T, D), or with a cache the pair (y, new cache).

        attends: keyword arguments of the self-attention. contexts: those of the cross-attention.
        """
        if self.remat and training and cache is None:
            arguments = {"x": x, "attends": attends, **contexts}
            return rematerialized(self, lambda **given: self._read(**given, training=training)[0], arguments)
        y, memory = self._read(x, attends, **contexts, cache=cache, training=training)
        return y if cache is None else (y, memory)

    def _attend(self, x, attends, cache, training):
        """The self-attention: the pair (y (B, T, D), new cache or None)."""
        memory = None if cache is None else cache.self_attention
        y = self.self_attention(x, **attends, cache=memory, training=training)
        if cache is None:
            return y, None
        y, memory = y
        return y, cache._replace(self_attention=memory)

    def compute_output_shape(self, x_shape: Shape, context_shape: Shape | None = None) -> Shape:
        return x_shape

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "self_attention": serialize(self.self_attention),
            "feed_forward": serialize(self.feed_forward),
            "norm": serialize(self.norm),
            "dropout": self.dropout,
            "stochastic_depth": self.stochastic_depth,
            "residual_scale": serialize(self.residual_scale),
            "remat": self.remat,
        }


@keras.saving.register_keras_serializable(package="keras_tfm")
class TransformerBlock(_Block):
    """Residual sublayers in a row, each normalized: one class for GPT, BERT, Llama and T5 blocks.

    Args:
        self_attention: `MultiHeadSelfAttention`, or any layer with its call arguments.
        feed_forward: `FeedForward`, `GatedFeedForward`, or any layer of one tensor.
        norm: a norm layer as a template, cloned for each place. Default: `keras.layers.LayerNormalization()`.
        norm_placement: "pre": x + f(norm(x)), GPT-2 and Llama; "post": norm(x + f(x)), the paper and BERT;
            "sandwich": x + norm(f(norm(x))), Gemma 2.
        cross_attention: `MultiHeadCrossAttention` between the two, or None.
        dropout: float, rate of the dropout before each residual sum.
        stochastic_depth: float, rate at which a sublayer's whole answer is left out, row by row, in training.
        residual_scale: `LayerScale` as a template, cloned for each sublayer, or None.
        remat: bool, in training keep only the block's input and compute the rest again in the backward pass: less
            memory for about a third more time.

    Call arguments:
        x: float (B, T, D).
        mask, positions, attention_mask, attention_bias, document_ids: for the self-attention; see there.
        context: float (B, S, C), context_mask: bool (B, S), for the cross-attention.
        cache: `BlockCache`, or None.
        training: bool.

    Returns:
        float (B, T, D); with a cache the pair (y, new cache).

    Raises:
        ValueError: for an unknown placement, or a context without a cross-attention.

    Caching:
        Pure; the given cache is not modified.

    Example:
        >>> block = TransformerBlock(MultiHeadSelfAttention(num_heads=8, causal=True), FeedForward(256))
        >>> block(np.ones((2, 5, 64), "float32")).shape
        (2, 5, 64)

    Reference:
        Vaswani et al. 2017, section 3.1, https://arxiv.org/abs/1706.03762; Xiong et al. 2020, "On Layer Normalization
        in the Transformer Architecture" (pre), https://arxiv.org/abs/2002.04745
    """

    def __init__(
        self,
        self_attention: LayerLike,
        feed_forward: LayerLike,
        norm: LayerLike | None = None,
        norm_placement: str = "pre",
        cross_attention: LayerLike | None = None,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        residual_scale: LayerLike | None = None,
        remat: bool = False,
        **kwargs: Any,
    ):
        super().__init__(self_attention, feed_forward, norm, dropout, stochastic_depth, residual_scale, remat, **kwargs)
        self.cross_attention = as_layer(
            cross_attention, "cross_attention", "MultiHeadCrossAttention(num_heads=8)", optional=True
        )
        self.norm_placement = norm_placement
        self.attention_wrap = self._residual("attention", self.norm, norm_placement)
        has_context = self.cross_attention is not None
        self.context_wrap: Any = self._residual("context", self.norm, norm_placement) if has_context else None
        self.feed_forward_wrap = self._residual("feed_forward", self.norm, norm_placement)

    def build(self, x_shape: Shape, context_shape: Shape | None = None) -> None:
        build_part(self.self_attention, x_shape)
        build_part(self.attention_wrap, x_shape)
        if self.cross_attention is not None:
            build_part(self.cross_attention, x_shape, context_shape or x_shape)
            build_part(self.context_wrap, x_shape)
        build_part(self.feed_forward, x_shape)
        build_part(self.feed_forward_wrap, x_shape)

    def init_cache(
        self,
        batch_size: int | Tensor,
        max_sequence_length: int | Tensor,
        dtype: str | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
    ) -> BlockCache:
        """An empty cache for the self-attention, and the keys and values of a context, if one is given.

        Args:
            batch_size, max_sequence_length, dtype: as in the self-attention.
            context: float (P, S, C), of which `batch_size` is a multiple: the rows of a prompt share one. Or None.
            context_mask: bool (P, S), True = a real token.
        """
        cache = super().init_cache(batch_size, max_sequence_length, dtype)
        if context is None:
            return cache
        return cache._replace(cross_attention=self.cross_attention.remember(context, context_mask, dtype))

    def call(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        attention_mask: Tensor | None = None,
        attention_bias: Any = None,
        document_ids: Tensor | None = None,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        cache: Any = None,
        training: bool | None = None,
    ) -> Tensor | tuple:
        if context is not None and self.cross_attention is None:
            raise ValueError(
                "`context` needs a `cross_attention`. "
                f"Received: context of shape {tuple(context.shape)} and cross_attention=None."
            )
        attends = {
            "mask": mask,
            "positions": positions,
            "attention_mask": attention_mask,
            "attention_bias": attention_bias,
            "document_ids": document_ids,
        }
        return self._run(x, attends, cache, training, context=context, context_mask=context_mask)

    def _read(self, x, attends, context, context_mask, cache=None, training=None):
        """The pair (y (B, T, D), new cache or None)."""
        y, cache = self._attend(self.attention_wrap.before(x), attends, cache, training)
        x = self.attention_wrap.after(x, y, training)
        if self.cross_attention is not None:
            remembered = cache.cross_attention if cache is not None and cache.cross_attention else None
            y = self.cross_attention(
                self.context_wrap.before(x),
                context=context if remembered is None else None,
                context_mask=context_mask if remembered is None else None,
                cache=remembered,
                training=training,
            )
            x = self.context_wrap.after(x, y, training)
        return self.feed_forward_wrap.after(x, self.feed_forward(self.feed_forward_wrap.before(x)), training), cache

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "norm_placement": self.norm_placement,
            "cross_attention": serialize(self.cross_attention),
        }


@keras.saving.register_keras_serializable(package="keras_tfm")
class ParallelTransformerBlock(_Block):
    """x + attention(norm(x)) + feed_forward(norm(x)): both sublayers at once, rather than one after the other.

    GPT-J and Falcon use one norm for both; GPT-NeoX and Pythia have one for each.

    Args:
        self_attention: `MultiHeadSelfAttention`, or any layer with its call arguments.
        feed_forward: `FeedForward`, `GatedFeedForward`, or any layer of one tensor.
        norm: a norm layer as a template. Default: `keras.layers.LayerNormalization()`.
        shared_norm: bool, one norm for both sublayers.
        dropout, stochastic_depth, residual_scale, remat: as in `TransformerBlock`.

    Call arguments:
        x: float (B, T, D).
        mask, positions, attention_mask, attention_bias, document_ids: for the self-attention; see there.
        cache: `BlockCache`, or None.
        training: bool.

    Returns:
        float (B, T, D); with a cache the pair (y, new cache).

    Caching:
        Pure; the given cache is not modified.

    Example:
        >>> block = ParallelTransformerBlock(MultiHeadSelfAttention(num_heads=8, causal=True), FeedForward(256))
        >>> block(np.ones((2, 5, 64), "float32")).shape
        (2, 5, 64)

    Reference:
        Wang and Komatsuzaki 2021, GPT-J, https://github.com/kingoflolz/mesh-transformer-jax; Black et al. 2022,
        "GPT-NeoX-20B", section 2.1, https://arxiv.org/abs/2204.06745
    """

    def __init__(
        self,
        self_attention: LayerLike,
        feed_forward: LayerLike,
        norm: LayerLike | None = None,
        shared_norm: bool = False,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        residual_scale: LayerLike | None = None,
        remat: bool = False,
        **kwargs: Any,
    ):
        super().__init__(self_attention, feed_forward, norm, dropout, stochastic_depth, residual_scale, remat, **kwargs)
        self.shared_norm = shared_norm
        self.attention_wrap = self._residual("attention", self.norm)
        self.feed_forward_wrap = self._residual("feed_forward", None if shared_norm else self.norm)

    def build(self, x_shape: Shape) -> None:
        for part in (self.self_attention, self.attention_wrap, self.feed_forward, self.feed_forward_wrap):
            build_part(part, x_shape)

    def call(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        attention_mask: Tensor | None = None,
        attention_bias: Any = None,
        document_ids: Tensor | None = None,
        cache: Any = None,
        training: bool | None = None,
    ) -> Tensor | tuple:
        attends = {
            "mask": mask,
            "positions": positions,
            "attention_mask": attention_mask,
            "attention_bias": attention_bias,
            "document_ids": document_ids,
        }
        return self._run(x, attends, cache, training)

    def _read(self, x, attends, cache=None, training=None):
        """The pair (y (B, T, D), new cache or None)."""
        normalized = self.attention_wrap.before(x)
        y, cache = self._attend(normalized, attends, cache, training)
        z = self.feed_forward(normalized if self.shared_norm else self.feed_forward_wrap.before(x))
        x = self.attention_wrap.after(x, y, training)
        return self.feed_forward_wrap.after(x, z, training), cache

    def get_config(self) -> Config:
        return {**super().get_config(), "shared_norm": self.shared_norm}
