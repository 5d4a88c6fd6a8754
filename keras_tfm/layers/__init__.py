"""Transformer layers, each usable alone in any Keras model."""

from keras_tfm.layers.attention import MultiHeadCrossAttention, MultiHeadSelfAttention
from keras_tfm.layers.cache import BlockCache, ContextCache, KVCache
from keras_tfm.layers.feed_forward import FeedForward, GatedFeedForward
from keras_tfm.layers.positions import (
    AlibiBias,
    PositionEmbedding,
    RelativePositionBias,
    SinusoidalEmbedding,
    TokenPositions,
)
from keras_tfm.layers.rotary import RotaryEmbedding
from keras_tfm.layers.token_embedding import TokenEmbedding
from keras_tfm.layers.transformer_block import TransformerBlock
from keras_tfm.layers.transformer_stack import TransformerStack

__all__ = [
    "AlibiBias",
    "BlockCache",
    "ContextCache",
    "FeedForward",
    "GatedFeedForward",
    "KVCache",
    "MultiHeadCrossAttention",
    "MultiHeadSelfAttention",
    "PositionEmbedding",
    "RelativePositionBias",
    "RotaryEmbedding",
    "SinusoidalEmbedding",
    "TokenEmbedding",
    "TokenPositions",
    "TransformerBlock",
    "TransformerStack",
]
