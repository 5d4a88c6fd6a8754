"""What Keras lacks for fine-tuning: rates by layer, warm-up with linear decay, scores of entities and of answers."""

from keras_tfm.training.layerwise_adamw import LayerwiseAdamW, layerwise_factors
from keras_tfm.training.scores import answer_scores, entity_scores
from keras_tfm.training.warmup import WarmupLinearDecay

__all__ = ["LayerwiseAdamW", "WarmupLinearDecay", "answer_scores", "entity_scores", "layerwise_factors"]


def __dir__() -> list[str]:
    return __all__
