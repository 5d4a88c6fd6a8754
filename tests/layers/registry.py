"""Every layer of the library, with the options that change what it computes, and arguments to call it with."""

from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

from keras_tfm import layers, ops

B, T, S, D = 2, 5, 3, 8


class Case(NamedTuple):
    """make(**layer kwargs) -> layer; inputs: call argument -> array, the first one positional."""

    make: Callable
    inputs: dict
    output_dtype: str | None = None  # if it does not follow the dtype policy


def numbers(*shape):
    return np.random.default_rng(len(shape) + shape[-1]).normal(size=shape).astype("float32")


X = numbers(B, T, D)
CONTEXT = numbers(B, S, D - 2)
MASK = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]], bool)
CONTEXT_MASK = np.array([[1, 1, 0], [1, 1, 1]], bool)
POSITIONS = np.array([[0, 1, 2, 3, 4], [-1, -1, 0, 1, 2]], "int32")
IDS = np.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]], "int32")
BIAS = numbers(B, 4, T, T)
DOCUMENTS = np.array([[0, 0, 1, 1, 1], [0, 0, 0, 0, 4]], "int32")
WHO = np.random.default_rng(7).random((B, T, T)) < 0.7


def _self(**options):
    return lambda **kwargs: layers.MultiHeadSelfAttention(4, **options, **kwargs)


def _cross(**options):
    return lambda **kwargs: layers.MultiHeadCrossAttention(4, **options, **kwargs)


def _block(attention=None, norm=None, cross=False, **options):
    def make(**kwargs):
        part = {"dtype": kwargs.get("dtype")}
        return layers.TransformerBlock(
            layers.MultiHeadSelfAttention(4, causal=True, **(attention or {}), **part),
            layers.FeedForward(12, activation="gelu", **part),
            norm=norm(**part) if norm else None,
            cross_attention=layers.MultiHeadCrossAttention(2, **part) if cross else None,
            **options,
            **kwargs,
        )

    return make


def _parallel(**options):
    def make(**kwargs):
        part = {"dtype": kwargs.get("dtype")}
        return layers.ParallelTransformerBlock(
            layers.MultiHeadSelfAttention(4, causal=True, **part), layers.FeedForward(12, **part), **options, **kwargs
        )

    return make


def _stack(position_bias=None, final_norm=False, num_blocks=2, **options):
    def make(**kwargs):
        part = {"dtype": kwargs.get("dtype")}
        return layers.TransformerStack(
            [_block(**options)(**part) for _ in range(num_blocks)],
            position_bias=position_bias(**part) if position_bias else None,
            final_norm=keras.layers.RMSNormalization(**part) if final_norm else None,
            **kwargs,
        )

    return make


def _embedding(position=None, **options):
    return lambda **kwargs: layers.TokenEmbedding(
        11, D, position=position(dtype=kwargs.get("dtype")) if position else None, **options, **kwargs
    )


CASES = {
    "self_attention": Case(_self(), {"x": X}),
    "self_attention_masked": Case(_self(), {"x": X, "mask": MASK}),
    "self_attention_causal": Case(_self(causal=True, window=2), {"x": X, "mask": MASK}),
    "self_attention_positions": Case(_self(causal=True), {"x": X, "positions": POSITIONS}),
    "self_attention_rotary": Case(_self(rotary=layers.RotaryEmbedding(max_wavelength=100.0)), {"x": X}),
    "self_attention_partial_rotary": Case(
        _self(head_dim=6, rotary=layers.RotaryEmbedding(rotary_dim=4, interleaved=True)), {"x": X, "mask": MASK}
    ),
    "self_attention_grouped": Case(_self(num_key_value_heads=2, use_bias=False), {"x": X}),
    "self_attention_no_output_bias": Case(_self(output_use_bias=False), {"x": X}),
    "self_attention_multi_query": Case(_self(num_key_value_heads=1, scale=1.0, head_dim=3), {"x": X}),
    "self_attention_attention_mask": Case(_self(dropout=0.3), {"x": X, "attention_mask": WHO}),
    "self_attention_bias": Case(_self(), {"x": X, "attention_bias": BIAS}),
    "self_attention_initializers": Case(
        _self(kernel_initializer="he_normal", output_kernel_initializer=keras.initializers.RandomNormal(stddev=0.3)),
        {"x": X},
    ),
    "self_attention_parts": Case(
        lambda **kwargs: layers.MultiHeadSelfAttention(
            4,
            causal=True,
            query_key_norm=keras.layers.RMSNormalization(**kwargs),
            sink=layers.AttentionSink(4, initializer="random_normal"),
            output_gate=layers.OutputGate(**kwargs),
            logit_cap=5.0,
            **kwargs,
        ),
        {"x": X, "mask": MASK},
    ),
    "self_attention_documents": Case(_self(causal=True), {"x": X, "document_ids": DOCUMENTS, "mask": MASK}),
    "self_attention_lean": Case(_self(causal=True, method="lean"), {"x": X, "mask": MASK}),
    "attention_sink": Case(
        lambda **kwargs: layers.AttentionSink(4, initializer="random_normal", **kwargs), {"scores": BIAS}
    ),
    "output_gate": Case(
        lambda **kwargs: layers.OutputGate(use_bias=True, activation="tanh", **kwargs),
        {"attended": numbers(B, T, 6), "x": X},
    ),
    "cross_attention": Case(_cross(), {"x": X, "context": CONTEXT}),
    "cross_attention_masked": Case(
        _cross(
            query_kernel_initializer="random_normal",
            num_key_value_heads=2,
            head_dim=5,
            use_bias=False,
            scale=0.5,
            dropout=0.1,
        ),
        {"x": X, "context": CONTEXT, "context_mask": CONTEXT_MASK},
    ),
    "feed_forward": Case(lambda **kwargs: layers.FeedForward(12, **kwargs), {"x": X}),
    "feed_forward_gelu": Case(
        lambda **kwargs: layers.FeedForward(
            12, activation=ops.gelu_tanh, use_bias=False, output_kernel_initializer="zeros", **kwargs
        ),
        {"x": X},
    ),
    "gated_feed_forward": Case(lambda **kwargs: layers.GatedFeedForward(12, **kwargs), {"x": X}),
    "gated_feed_forward_bias": Case(
        lambda **kwargs: layers.GatedFeedForward(12, activation="gelu", use_bias=True, **kwargs), {"x": X}
    ),
    "rotary": Case(
        lambda **kwargs: layers.RotaryEmbedding(interleaved=True, **kwargs),
        {"x": numbers(B, 3, T, D), "positions": POSITIONS},
    ),
    "rotary_scaled": Case(
        lambda **kwargs: layers.RotaryEmbedding(scaling=layers.DynamicNtkScaling(2.0, 3), **kwargs),
        {"x": numbers(B, 3, T, D), "positions": POSITIONS},
    ),
    "position_embedding": Case(lambda **kwargs: layers.PositionEmbedding(9, D, **kwargs), {"positions": POSITIONS}),
    "position_embedding_normal": Case(
        lambda **kwargs: layers.PositionEmbedding(9, D, embeddings_initializer="random_normal", **kwargs),
        {"positions": POSITIONS},
    ),
    "sinusoidal": Case(
        lambda **kwargs: layers.SinusoidalEmbedding(D, max_wavelength=50.0, **kwargs), {"positions": POSITIONS}
    ),
    "sinusoidal_concatenated": Case(
        lambda **kwargs: layers.SinusoidalEmbedding(D, interleaved=False, **kwargs), {"positions": POSITIONS}
    ),
    "alibi": Case(lambda **kwargs: layers.AlibiBias(6, **kwargs), {"positions": POSITIONS}, "float32"),
    "relative": Case(lambda **kwargs: layers.RelativePositionBias(4, **kwargs), {"positions": POSITIONS}),
    "relative_causal": Case(
        lambda **kwargs: layers.RelativePositionBias(
            3, num_buckets=6, max_distance=10, bidirectional=False, embeddings_initializer="random_normal", **kwargs
        ),
        {"positions": POSITIONS},
    ),
    "token_positions": Case(
        lambda **kwargs: layers.TokenPositions(**kwargs), {"token_ids": IDS, "padding_mask": MASK}, "int32"
    ),
    "token_embedding": Case(_embedding(), {"inputs": IDS}),
    "token_embedding_learned": Case(
        _embedding(
            lambda **kwargs: layers.PositionEmbedding(9, D, **kwargs),
            dropout=0.2,
            embeddings_initializer="random_normal",
        ),
        {"inputs": IDS, "positions": POSITIONS},
    ),
    "token_embedding_sinusoidal": Case(
        _embedding(lambda **kwargs: layers.SinusoidalEmbedding(D, **kwargs), scale=3.0), {"inputs": IDS}
    ),
    "token_embedding_shared": Case(
        lambda **kwargs: layers.TokenEmbedding(
            11,
            D,
            logit_scale=0.5,
            logit_bias=True,
            table=layers.TokenEmbedding(11, D, embeddings_initializer="random_normal", **kwargs).embedding,
            **kwargs,
        ),
        {"inputs": IDS},
    ),
    "token_embedding_bert": Case(
        lambda **kwargs: layers.TokenEmbedding(
            11,
            D,
            position=layers.PositionEmbedding(9, D, **kwargs),
            num_segments=3,
            norm=keras.layers.LayerNormalization(epsilon=1e-12, **kwargs),
            embeddings_initializer="random_normal",
            **kwargs,
        ),
        {"inputs": IDS, "positions": POSITIONS, "segment_ids": np.array([[0, 1, 2, 1, 0], [0, 0, 1, 1, 1]], "int32")},
    ),
    "masked_lm_head": Case(
        lambda **kwargs: layers.MaskedLMHead(layers.TokenEmbedding(11, D, **kwargs), **kwargs),
        {"x": X, "mask_positions": np.array([[0, 3], [4, 1]], "int32")},
    ),
    "masked_lm_head_everywhere": Case(
        lambda **kwargs: layers.MaskedLMHead(
            layers.TokenEmbedding(11, D, **kwargs),
            activation="relu",
            norm=keras.layers.RMSNormalization(**kwargs),
            kernel_initializer="he_normal",
            **kwargs,
        ),
        {"x": X},
    ),
    "first_token_pooling": Case(lambda **kwargs: layers.FirstTokenPooling(**kwargs), {"x": X, "positions": POSITIONS}),
    "mean_pooling": Case(lambda **kwargs: layers.MeanPooling(**kwargs), {"x": X, "positions": POSITIONS}),
    "block_pre": Case(_block(), {"x": X}),
    "block_post": Case(_block(norm_placement="post", dropout=0.1), {"x": X, "mask": MASK}),
    "block_sandwich": Case(
        _block(norm_placement="sandwich", norm=keras.layers.RMSNormalization), {"x": X, "mask": MASK}
    ),
    "block_grouped_rotary": Case(
        _block({"rotary": layers.RotaryEmbedding(), "num_key_value_heads": 2}), {"x": X, "mask": MASK}
    ),
    "block_cross_attention": Case(_block(cross=True), {"x": X, "context": CONTEXT, "context_mask": CONTEXT_MASK}),
    "block_scaled": Case(
        _block(
            residual_scale=layers.LayerScale(keras.initializers.Constant(0.5)),
            stochastic_depth=0.3,
            dropout=0.1,
            remat=True,
        ),
        {"x": X},
    ),
    "parallel_block": Case(_parallel(), {"x": X, "mask": MASK}),
    "parallel_block_shared": Case(
        _parallel(shared_norm=True, dropout=0.1, stochastic_depth=0.2, residual_scale=layers.LayerScale()), {"x": X}
    ),
    "ia3": Case(lambda **kwargs: layers.Ia3(X.shape[-1], **kwargs), {"x": X}),
    "virtual_tokens": Case(lambda **kwargs: layers.VirtualTokens(3, 8, **kwargs), {"token_ids": IDS}),
    "bottleneck": Case(lambda **kwargs: layers.Bottleneck(X.shape[-1], 2, **kwargs), {"y": X}),
    "lora": Case(lambda **kwargs: layers.Lora(8, rank=2, **kwargs), {"x": X}),
    "layer_scale": Case(lambda **kwargs: layers.LayerScale("random_normal", **kwargs), {"x": X}),
    "stack": Case(_stack(), {"x": X}),
    "stack_documents": Case(_stack(), {"x": X, "document_ids": DOCUMENTS}),
    "stack_alibi": Case(
        _stack(lambda **kwargs: layers.AlibiBias(4, **kwargs), final_norm=True), {"x": X, "mask": MASK}
    ),
    "stack_relative": Case(
        _stack(lambda **kwargs: layers.RelativePositionBias(4, num_buckets=8, max_distance=16, **kwargs)),
        {"x": X, "positions": POSITIONS},
    ),
    "stack_cross_attention": Case(_stack(cross=True), {"x": X, "context": CONTEXT}),
}
