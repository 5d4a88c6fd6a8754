"""The parallel transformer block: attention and feed-forward read the same stream and are added together."""

import keras

from keras_tfm.layers.cache import BlockCache
from keras_tfm.layers.composite import Composite
from keras_tfm.layers.parts import as_layer, build_part, serialize, set_template
from keras_tfm.layers.remat import rematerialized
from keras_tfm.layers.residual import Residual


@keras.saving.register_keras_serializable(package="keras_tfm")
class ParallelTransformerBlock(Composite):
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
        self_attention,
        feed_forward,
        norm=None,
        shared_norm: bool = False,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        residual_scale=None,
        remat: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.self_attention = as_layer(self_attention, "self_attention", "MultiHeadSelfAttention(num_heads=8)")
        self.feed_forward = as_layer(feed_forward, "feed_forward", "FeedForward(256)")
        norm = keras.layers.LayerNormalization(dtype=self.dtype_policy) if norm is None else norm
        set_template(self, "norm", as_layer(norm, "norm", "keras.layers.LayerNormalization()"))
        self.shared_norm = shared_norm
        self.dropout = dropout
        self.stochastic_depth = stochastic_depth
        set_template(self, "residual_scale", as_layer(residual_scale, "residual_scale", "LayerScale()", optional=True))
        self.remat = remat
        self.supports_masking = True

        self.attention_wrap = self._wrap("attention")
        self.feed_forward_wrap = self._wrap("feed_forward")

    def _wrap(self, name):
        return Residual(
            None if self.shared_norm and name == "feed_forward" else self.norm,
            "pre",
            self.residual_scale,
            self.dropout,
            self.stochastic_depth,
            dtype=self.dtype_policy,
            name=f"{name}_residual",
        )

    def build(self, x_shape):
        for part in (self.self_attention, self.attention_wrap, self.feed_forward, self.feed_forward_wrap):
            build_part(part, x_shape)

    def init_cache(self, batch_size, max_length, dtype: str | None = None) -> BlockCache:
        """An empty cache for the self-attention."""
        return BlockCache(self_attention=self.self_attention.init_cache(batch_size, max_length, dtype))

    def call(
        self,
        x,
        mask=None,
        positions=None,
        attention_mask=None,
        attention_bias=None,
        document_ids=None,
        cache=None,
        training=None,
    ):
        attends = {
            "mask": mask,
            "positions": positions,
            "attention_mask": attention_mask,
            "attention_bias": attention_bias,
            "document_ids": document_ids,
        }
        if self.remat and training and cache is None:
            arguments = {"x": x, "attends": attends}
            return rematerialized(self, lambda **given: self._read(**given, training=training)[0], arguments)
        x, memory = self._read(x, attends, cache, training)
        return x if cache is None else (x, memory)

    def _read(self, x, attends, cache=None, training=None):
        """The pair (y (B, T, D), new cache or None); `attends`: keyword arguments of the self-attention."""
        normalized = self.attention_wrap.before(x)
        y = self.self_attention(
            normalized, **attends, cache=None if cache is None else cache.self_attention, training=training
        )
        if cache is not None:
            y, memory = y
            cache = cache._replace(self_attention=memory)
        z = self.feed_forward(normalized if self.shared_norm else self.feed_forward_wrap.before(x))
        x = self.attention_wrap.after(x, y, training)
        return self.feed_forward_wrap.after(x, z, training), cache

    def compute_output_shape(self, x_shape):
        return x_shape

    def get_config(self):
        return {
            **super().get_config(),
            "self_attention": serialize(self.self_attention),
            "feed_forward": serialize(self.feed_forward),
            "norm": serialize(self.norm),
            "shared_norm": self.shared_norm,
            "dropout": self.dropout,
            "stochastic_depth": self.stochastic_depth,
            "residual_scale": serialize(self.residual_scale),
            "remat": self.remat,
        }
