"""Multi-head attention: over the sequence itself, and over a context."""

from typing import Any

import keras
from keras import ops

from keras_tfm import ops as tfm_ops
from keras_tfm.arguments import check_positive, check_rank, check_rate
from keras_tfm.layers.cache import ContextCache, KVCache, RollingKVCache
from keras_tfm.layers.composite import Composite, as_layer, build_part, clone, serialize, set_template
from keras_tfm.layers.observation import is_observed, show_weights
from keras_tfm.layers.weights import Projection
from keras_tfm.ops.attention import check_method
from keras_tfm.ops.tensors import batch_size, size
from keras_tfm.types import Config, InitializerLike, LayerLike, Shape, Tensor


class _MultiHeadAttention(Composite):
    """What self- and cross-attention share: the four projections, and attending."""

    reads_context = False  # whether keys and values are those of another sequence

    def __init__(
        self,
        num_heads: int,
        head_dim: int | None = None,
        num_key_value_heads: int | None = None,
        scale: float | None = None,
        logit_cap: float | None = None,
        use_bias: bool = True,
        output_use_bias: bool | None = None,
        query_key_norm: LayerLike | None = None,
        sink: LayerLike | None = None,
        output_gate: LayerLike | None = None,
        dropout: float = 0.0,
        method: str = "auto",
        kernel_initializer: InitializerLike = "glorot_uniform",
        output_kernel_initializer: InitializerLike | None = None,
        query_kernel_initializer: InitializerLike | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        num_key_value_heads = num_heads if num_key_value_heads is None else num_key_value_heads
        check_positive(num_heads=num_heads, num_key_value_heads=num_key_value_heads)
        if head_dim is not None:
            check_positive(head_dim=head_dim)
        check_rate(dropout=dropout)
        check_method(method)
        if logit_cap is not None and logit_cap <= 0:
            raise ValueError(f"`logit_cap` must be positive. Received: logit_cap={logit_cap}.")
        if num_heads % num_key_value_heads:
            raise ValueError(
                f"`num_heads` must be a multiple of `num_key_value_heads`. "
                f"Received: num_heads={num_heads}, num_key_value_heads={num_key_value_heads}."
            )
        self.num_heads = num_heads
        self.head_dim: Any = head_dim  # an int at the latest when the layer is built
        self.num_key_value_heads = num_key_value_heads
        self.scale = scale
        self.logit_cap = logit_cap
        self.use_bias = use_bias
        self.output_use_bias = use_bias if output_use_bias is None else output_use_bias
        query_key_norm = as_layer(query_key_norm, "query_key_norm", "keras.layers.RMSNormalization()", optional=True)
        set_template(self, "query_key_norm", query_key_norm)
        self.sink = as_layer(sink, "sink", f"AttentionSink({num_heads})", optional=True)
        if self.sink is not None and self.sink.num_heads != num_heads:
            raise ValueError(
                "`sink` must have a score for each head. "
                f"Received: num_heads={num_heads} and a sink of {self.sink.num_heads} heads."
            )
        self.output_gate = as_layer(output_gate, "output_gate", "OutputGate()", optional=True)
        self.dropout = dropout
        self.method = method
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.output_kernel_initializer = keras.initializers.get(output_kernel_initializer or kernel_initializer)
        self.query_kernel_initializer = keras.initializers.get(query_kernel_initializer or kernel_initializer)
        self.supports_masking = True
        self.query_norm, self.key_norm = clone(self.query_key_norm), clone(self.query_key_norm)
        # Drawn once a call: the weights that a seed drops are the same in the forward and the backward pass.
        self.seed_generator = keras.random.SeedGenerator() if dropout else None

    def _build_projections(self, x_shape, context_shape):
        hidden_dim = x_shape[-1]
        if self.head_dim is None:
            if hidden_dim % self.num_heads:
                raise ValueError(
                    f"The width of `x` must be a multiple of `num_heads` unless `head_dim` is given. "
                    f"Received: width={hidden_dim}, num_heads={self.num_heads}."
                )
            self.head_dim = hidden_dim // self.num_heads
        num_queries, num_keys = self.num_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        self.query_dense = self._dense("query", num_queries, x_shape, self.use_bias, self.query_kernel_initializer)
        self.key_dense = self._dense("key", num_keys, context_shape, self.use_bias)
        self.value_dense = self._dense("value", num_keys, context_shape, self.use_bias)
        attended_shape = (*x_shape[:-1], num_queries)
        self.output_dense = self._dense(
            "output", hidden_dim, attended_shape, self.output_use_bias, self.output_kernel_initializer
        )
        if self.query_key_norm is not None:
            build_part(self.query_norm, (None, self.num_heads, None, self.head_dim))
            build_part(self.key_norm, (None, self.num_key_value_heads, None, self.head_dim))
        if self.sink is not None:
            build_part(self.sink)
        if self.output_gate is not None:
            build_part(self.output_gate, attended_shape, x_shape)

    def _dense(self, name, units, input_shape, use_bias, kernel_initializer=None):
        dense = Projection(
            units,
            use_bias=use_bias,
            kernel_initializer=clone(kernel_initializer or self.kernel_initializer),
            dtype=self.dtype_policy,
            name=name,
        )
        dense.build(input_shape)
        return dense

    def _split_heads(self, x, length):
        """(B, T, N*H) -> (B, N, T, H), whatever the number of heads."""
        x = ops.reshape(x, (batch_size(x), length, x.shape[-1] // self.head_dim, self.head_dim))  # (B, T, N, H)
        return ops.transpose(x, (0, 2, 1, 3))

    def _queries(self, x):
        """(B, N, T, H), normalized."""
        query = self._split_heads(self.query_dense(x), size(x, 1))
        return self._shaped_by(self.query_norm, query)

    def _keys_and_values(self, x):
        """A pair of (B, K, S, H), the keys normalized."""
        length = size(x, 1)
        key, value = (self._split_heads(dense(x), length) for dense in (self.key_dense, self.value_dense))
        return self._shaped_by(self.key_norm, key), value

    def _shaped_by(self, part, x, **arguments):
        """What a norm or a rotary embedding makes of queries or keys; it may compute in another precision than this."""
        return x if part is None else ops.cast(part(x, **arguments), self.compute_dtype)

    def _attend(self, x, query, memory, visible, bias, training, return_attention_scores, method):
        """Attends, gates and projects back: (y (B, T, D), scores (B, N, T, S) or None)."""
        dropout = None
        if training and self.seed_generator is not None:
            dropout = tfm_ops.AttentionDropout(self.dropout, self.seed_generator.next())
        key, value = memory.read(query.dtype)
        if is_observed():
            return_attention_scores, method = True, "plain"
        y = tfm_ops.scaled_dot_product_attention(
            query,
            key,
            value,
            visible,
            bias=bias,
            scale=self.scale,
            logit_cap=self.logit_cap,
            sink=None if self.sink is None else ops.cast(self.sink.scores, "float32"),
            dropout=dropout,
            method=method,
            return_attention_scores=return_attention_scores,
        )
        y, scores = y if return_attention_scores else (y, None)
        show_weights(scores, self.reads_context)
        y = ops.transpose(y, (0, 2, 1, 3))  # (B, T, N, H)
        y = ops.reshape(y, (batch_size(y), size(y, 1), self.num_heads * self.head_dim))  # (B, T, N * H)
        if self.output_gate is not None:
            y = self.output_gate(y, x=x)
        return self.output_dense(y), scores

    def compute_output_shape(self, x_shape: Shape, context_shape: Shape | None = None) -> Shape:
        return x_shape

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
            "num_key_value_heads": self.num_key_value_heads,
            "scale": self.scale,
            "logit_cap": self.logit_cap,
            "use_bias": self.use_bias,
            "output_use_bias": self.output_use_bias,
            "query_key_norm": serialize(self.query_key_norm),
            "sink": serialize(self.sink),
            "output_gate": serialize(self.output_gate),
            "dropout": self.dropout,
            "method": self.method,
            "kernel_initializer": serialize(self.kernel_initializer),
            "output_kernel_initializer": serialize(self.output_kernel_initializer),
            "query_kernel_initializer": serialize(self.query_kernel_initializer),
        }


@keras.saving.register_keras_serializable(package="keras_tfm")
class MultiHeadSelfAttention(_MultiHeadAttention):
    """Every position of a sequence gathers from the others: project, position, remember, attend, project.

    Multi-head (the default), grouped-query (`num_key_value_heads` < `num_heads`) and multi-query (1) attention are one
    path. `num_heads=1` is the textbook self-attention. It differs from the paper in that scores and softmax are
    float32 whatever the dtype, and that a position which may see nothing gets exactly 0 before the output projection.

    Args:
        num_heads: int, query heads N.
        head_dim: int, width H of one head. Default: width of `x` / `num_heads`.
        num_key_value_heads: int, key and value heads K, a divisor of N. Default: N.
        rotary: `RotaryEmbedding` applied to queries and keys, or None.
        causal: bool, hide the future.
        window: int, a position sees only keys fewer than `window` positions away. Default: no limit.
        scale: float, factor on the scores. Default: 1 / sqrt(H).
        logit_cap: float, scores become cap * tanh(scores / cap) (Gemma 2), or None.
        use_bias: bool, biases in the projections.
        output_use_bias: bool, a bias in the output projection. Default: `use_bias` (Qwen 2 has none there).
        query_key_norm: a norm layer, copied for queries and for keys and applied to each head before `rotary`
            (Qwen 3), or None.
        sink: `AttentionSink`, a place for a head's attention to go where nothing matters (gpt-oss), or None.
        output_gate: `OutputGate`, computed from `x`, on what the heads gathered, or None.
        dropout: float, rate at which attention weights are dropped in training.
        method: "auto", "plain" or "lean"; see `keras_tfm.ops.scaled_dot_product_attention`. "auto" needs memory that
            grows with T + S, not T x S, from 2^20 scores a head on.
        kernel_initializer: for the projections.
        output_kernel_initializer: for the output projection. Default: `kernel_initializer`.
        query_kernel_initializer: for the projection of queries. Default: `kernel_initializer`. Without a `scale` of
            1 / sqrt(H), smaller ones keep the first scores in bounds (T5).

    Call arguments:
        x: float (B, T, D).
        mask: bool (B, T), True = a real token. Keras fills it in from an upstream layer if `x` is the only tensor.
        positions: int32 (B, T), -1 = padding. Default: made from `mask`, going on after the cache.
        attention_mask: bool (B, T, S) or (B, N, T, S), True = may look; in addition to the other masks.
        attention_bias: added to the scores: float (B or 1, N or 1, T, S), or a rule such as `AlibiBias` makes.
        document_ids: int32 (B, T), for rows packed with several documents: a token sees its own document only, and
            positions start anew where the number changes. Not together with `cache`.
        cache: `KVCache`, or None.
        return_attention_scores: bool, also return the attention weights.
        training: bool.

    Returns:
        float (B, T, D). With a cache the pair (y, new cache); with `return_attention_scores` the weights, float32
        (B, N, T, S), are appended.

    Raises:
        ValueError: for head counts that do not divide, widths that do not fit, masks of another shape.
        TypeError: for a float mask.

    Masking:
        Padding is not looked at, on either side. S counts the remembered positions and the new ones.

    Caching:
        Pure; the given cache is not modified. Any number of tokens may be appended at any time.

    Example:
        >>> x = keras.Input((None, 64))
        >>> y = MultiHeadSelfAttention(num_heads=8, causal=True, rotary=RotaryEmbedding())(x)
        >>> model = keras.Model(x, y)

    Reference:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.2, https://arxiv.org/abs/1706.03762;
        Shazeer 2019 (multi-query), https://arxiv.org/abs/1911.02150; Ainslie et al. 2023 (grouped-query),
        https://arxiv.org/abs/2305.13245
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int | None = None,
        num_key_value_heads: int | None = None,
        rotary: LayerLike | None = None,
        causal: bool = False,
        window: int | None = None,
        scale: float | None = None,
        logit_cap: float | None = None,
        use_bias: bool = True,
        output_use_bias: bool | None = None,
        query_key_norm: LayerLike | None = None,
        sink: LayerLike | None = None,
        output_gate: LayerLike | None = None,
        dropout: float = 0.0,
        method: str = "auto",
        kernel_initializer: InitializerLike = "glorot_uniform",
        output_kernel_initializer: InitializerLike | None = None,
        query_kernel_initializer: InitializerLike | None = None,
        **kwargs: Any,
    ):
        super().__init__(
            num_heads,
            head_dim,
            num_key_value_heads,
            scale,
            logit_cap,
            use_bias,
            output_use_bias,
            query_key_norm,
            sink,
            output_gate,
            dropout,
            method,
            kernel_initializer,
            output_kernel_initializer,
            query_kernel_initializer,
            **kwargs,
        )
        if window is not None:
            check_positive(window=window)
        self.rotary = as_layer(rotary, "rotary", "RotaryEmbedding()", optional=True)
        self.causal = causal
        self.window = window

    def build(self, x_shape: Shape) -> None:
        self._build_projections(x_shape, x_shape)

    def init_cache(
        self, batch_size: int | Tensor, max_sequence_length: int | Tensor, dtype: str | None = None
    ) -> KVCache | RollingKVCache:
        """An empty cache for this layer; the layer must be built. With a window its size has the window's bound.

        Args:
            batch_size, max_sequence_length: int, or int32 () where traced.
            dtype: "int8" for a quarter of the memory and rounded keys and values. Default: the compute dtype.
        """
        num_heads, head_dim = self.num_key_value_heads, self.head_dim
        dtype = dtype or self.compute_dtype
        if self.causal and self.window is not None:
            return RollingKVCache.empty(batch_size, max_sequence_length, num_heads, head_dim, dtype, self.window)
        return KVCache.empty(batch_size, max_sequence_length, num_heads, head_dim, dtype)

    def call(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        attention_mask: Tensor | None = None,
        attention_bias: Any = None,
        document_ids: Tensor | None = None,
        cache: Any = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Tensor | tuple:
        _check_documents(document_ids, cache)
        if positions is None:
            positions = _positions_of(x, mask, cache, document_ids)  # (B, T), -1 = padding
        query, (key, value) = self._queries(x), self._keys_and_values(x)  # (B, N|K|K, T, H)
        query, key = (self._shaped_by(self.rotary, part, positions=positions) for part in (query, key))
        memory = KVCache.of(key, value, positions) if cache is None else cache.append(key, value, positions)
        visible = tfm_ops.Visibility(
            positions, memory.positions, self.causal, self.window, attention_mask, document_ids, document_ids
        )
        # A prefill of unknown length comes in pieces of `LONGEST_APPEND` at most: the plain method needs little memory
        # then, and a third of the lean one's time to trace and compile.
        is_prefill = cache is not None and x.shape[1] is None and self.method == "auto"
        method = "plain" if is_prefill else self.method
        y, scores = self._attend(x, query, memory, visible, attention_bias, training, return_attention_scores, method)
        outputs = (y,) if cache is None else (y, memory)
        if return_attention_scores:
            outputs = (*outputs, scores)
        return outputs if len(outputs) > 1 else y

    def get_config(self) -> Config:
        return {
            **super().get_config(),
            "rotary": serialize(self.rotary),
            "causal": self.causal,
            "window": self.window,
        }


@keras.saving.register_keras_serializable(package="keras_tfm")
class MultiHeadCrossAttention(_MultiHeadAttention):
    """Every position of a sequence gathers from a context, for example a decoder from the encoder's output.

    Args:
        num_heads, head_dim, num_key_value_heads, scale, logit_cap, use_bias, output_use_bias: as in
            `MultiHeadSelfAttention`.
        query_key_norm, sink, output_gate, dropout, method: likewise.
        kernel_initializer, output_kernel_initializer, query_kernel_initializer: likewise.

    Call arguments:
        x: float (B, T, D).
        context: float (B, S, C), or None if `cache` is given.
        context_mask: bool (B, S), True = a real token; Keras fills it in from an upstream layer.
        cache: `ContextCache` made by `remember`, instead of `context`.
        return_attention_scores: bool, also return the attention weights.
        training: bool.

    Returns:
        float (B, T, D); with `return_attention_scores` the pair (y, weights (B, N, T, S)).

    Raises:
        ValueError: unless exactly one of `context` and `cache` is given.

    Caching:
        `remember(context, context_mask)` projects the context once; the cache never changes.

    Example:
        >>> x, context = keras.Input((None, 64)), keras.Input((None, 32))
        >>> y = MultiHeadCrossAttention(num_heads=4)(x, context=context)

    Reference:
        Vaswani et al. 2017, "Attention Is All You Need", section 3.2.3, https://arxiv.org/abs/1706.03762
    """

    reads_context = True

    def build(self, x_shape: Shape, context_shape: Shape | None = None) -> None:
        self._build_projections(x_shape, context_shape or x_shape)

    def remember(self, context: Tensor, context_mask: Tensor | None = None, dtype: str | None = None) -> ContextCache:
        """Projects the context to keys and values; the layer must be built.

        Args:
            context: float (B, S, C).
            context_mask: bool (B, S), True = a real token.
            dtype: "int8" for a quarter of the memory and rounded keys and values. Default: the compute dtype.
        """
        context = ops.cast(context, self.compute_dtype)
        positions = _positions_of(context, context_mask, name="context_mask")
        key, value = self._keys_and_values(context)
        return ContextCache.of(key, value, positions, dtype)

    def call(
        self,
        x: Tensor,
        context: Tensor | None = None,
        context_mask: Tensor | None = None,
        cache: Any = None,
        return_attention_scores: bool = False,
        training: bool | None = None,
    ) -> Tensor | tuple:
        check_rank(x, 3, "x", "(B, T, D)")
        if (context is None) == (cache is None):
            raise ValueError(
                "Exactly one of `context` and `cache` must be given. "
                f"Received: context={'None' if context is None else 'a tensor'}, "
                f"cache={'None' if cache is None else 'a ContextCache'}."
            )
        memory = self.remember(context, context_mask) if cache is None else cache
        by_prompts = x if cache is None else _by_prompts(x, memory)
        everywhere = ops.zeros_like(by_prompts[..., 0], dtype="int32")  # all queries see all real keys
        visible = tfm_ops.Visibility(everywhere, memory.positions)
        # As in self-attention: queries of unknown number that go with a cache are few.
        is_piece = cache is not None and by_prompts.shape[1] is None and self.method == "auto"
        method = "plain" if is_piece else self.method
        y, scores = self._attend(
            by_prompts, self._queries(by_prompts), memory, visible, None, training, return_attention_scores, method
        )
        if by_prompts is not x:
            y, scores = _by_rows(y, scores, x)
        return (y, scores) if return_attention_scores else y


def _by_prompts(x, memory):
    """Queries (R, T, D) of W = R / B rows a prompt as (B, W * T, D): they know no order, so one context serves all."""
    num_rows, num_prompts = x.shape[0], memory.positions.shape[0]
    if num_rows is not None and num_rows == num_prompts:
        return x
    return ops.reshape(x, (size(memory.positions, 0), -1, x.shape[2]))  # (B, W * T, D)


def _by_rows(y, scores, x):
    """The answers (B, W * T, D) and perhaps scores (B, N, W * T, S) for the rows of x (R, T, D) again."""
    length = size(x, 1)
    y = ops.reshape(y, (batch_size(x), length, y.shape[2]))  # (R, T, D)
    if scores is not None:
        num_heads, num_keys = scores.shape[1], size(scores, 3)
        scores = ops.reshape(scores, (size(scores, 0), num_heads, -1, length, num_keys))  # (B, N, W, T, S)
        scores = ops.transpose(scores, (0, 2, 1, 3, 4))  # (B, W, N, T, S)
        scores = ops.reshape(scores, (batch_size(x), num_heads, length, num_keys))  # (R, N, T, S)
    return y, scores


def _positions_of(x, mask, cache=None, document_ids=None, name="mask"):
    """int32 (B, T): positions of the real tokens of `x`, going on after the cache, anew for each document."""
    check_rank(x, 3, "x", "(B, T, D)")
    if mask is None:
        mask = ops.ones_like(x[..., 0], dtype="bool")  # not `ones`: sizes may be unknown
    else:
        mask = tfm_ops.padding_mask(mask, x.shape[:2], name)
    num_tokens = None if cache is None else ops.max(cache.positions, axis=1) + 1
    return tfm_ops.next_positions(mask, num_tokens, document_ids)


def _check_documents(document_ids, cache) -> None:
    if document_ids is None:
        return
    check_rank(document_ids, 2, "document_ids", "(B, T)")
    if cache is not None:
        raise ValueError(
            "`document_ids` and `cache` must not be given together: a cache holds one document a row. "
            f"Received: document_ids of shape {tuple(document_ids.shape)}, and a cache."
        )
