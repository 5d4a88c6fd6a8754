"""Transformer layers, each usable alone in any Keras model."""

from keras_tfm.layers.adapter import Bottleneck, Ia3, VirtualTokens
from keras_tfm.layers.attention import MultiHeadCrossAttention, MultiHeadSelfAttention
from keras_tfm.layers.attention_parts import AttentionSink, OutputGate
from keras_tfm.layers.cache import BlockCache, ContextCache, Int8Array, KVCache, RollingKVCache
from keras_tfm.layers.embeddings import PositionEmbedding, SinusoidalEmbedding, TokenEmbedding, TokenPositions
from keras_tfm.layers.feed_forward import FeedForward, GatedFeedForward
from keras_tfm.layers.lora import Lora
from keras_tfm.layers.masked_lm_head import MaskedLMHead
from keras_tfm.layers.pooling import FirstTokenPooling, MeanPooling
from keras_tfm.layers.position_bias import AlibiBias, RelativePositionBias
from keras_tfm.layers.residual import LayerScale
from keras_tfm.layers.rotary import RotaryEmbedding
from keras_tfm.layers.rotary_scaling import (
    DynamicNtkScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RotaryScaling,
    YarnScaling,
    get_rotary_scaling,
)
from keras_tfm.layers.transformer_block import ParallelTransformerBlock, TransformerBlock
from keras_tfm.layers.transformer_stack import TransformerStack
from keras_tfm.layers.weights import Projection

__all__ = [
    "AlibiBias",
    "AttentionSink",
    "BlockCache",
    "Bottleneck",
    "ContextCache",
    "DynamicNtkScaling",
    "FeedForward",
    "FirstTokenPooling",
    "GatedFeedForward",
    "Ia3",
    "Int8Array",
    "KVCache",
    "LayerScale",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "Lora",
    "MaskedLMHead",
    "MeanPooling",
    "MultiHeadCrossAttention",
    "MultiHeadSelfAttention",
    "OutputGate",
    "ParallelTransformerBlock",
    "PositionEmbedding",
    "Projection",
    "RelativePositionBias",
    "RollingKVCache",
    "RotaryEmbedding",
    "RotaryScaling",
    "SinusoidalEmbedding",
    "TokenEmbedding",
    "TokenPositions",
    "TransformerBlock",
    "TransformerStack",
    "VirtualTokens",
    "YarnScaling",
    "get_rotary_scaling",
]


def __dir__() -> list[str]:
    return __all__
