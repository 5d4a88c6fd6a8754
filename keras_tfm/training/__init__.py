"""What Keras lacks for training: runs that go on, rates by layer, warm-up, scores of entities, answers and texts."""

from keras_tfm.training.accumulation import accumulate_gradients
from keras_tfm.training.checkpointer import Checkpointer
from keras_tfm.training.layerwise_adamw import LayerwiseAdamW, layerwise_factors
from keras_tfm.training.layout_map import layout_map
from keras_tfm.training.perplexity import Perplexity
from keras_tfm.training.scores import answer_scores, entity_scores
from keras_tfm.training.text_scores import TextScore, TextScoring, summary_scores, translation_scores
from keras_tfm.training.warmup import WarmupLinearDecay
from keras_tfm.training.workers import Workers, workers

__all__ = [
    "Checkpointer",
    "LayerwiseAdamW",
    "Perplexity",
    "TextScore",
    "TextScoring",
    "WarmupLinearDecay",
    "Workers",
    "accumulate_gradients",
    "answer_scores",
    "entity_scores",
    "layerwise_factors",
    "layout_map",
    "summary_scores",
    "translation_scores",
    "workers",
]


def __dir__() -> list[str]:
    return __all__
