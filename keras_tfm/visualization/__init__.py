"""Pictures of what a model does: attention, positions, embeddings, what it would write after each block, losses."""

from keras_tfm.visualization.attention import attention_rollout, plot_attention, plot_heads
from keras_tfm.visualization.attention_page import write_attention_page
from keras_tfm.visualization.embeddings import plot_embeddings, principal_components, t_sne, write_projector
from keras_tfm.visualization.logit_lens import logit_lens, plot_logit_lens
from keras_tfm.visualization.loss_curve import plot_loss_curve
from keras_tfm.visualization.positions import plot_positions

__all__ = [
    "attention_rollout",
    "logit_lens",
    "plot_attention",
    "plot_embeddings",
    "plot_heads",
    "plot_logit_lens",
    "plot_loss_curve",
    "plot_positions",
    "principal_components",
    "t_sne",
    "write_attention_page",
    "write_projector",
]


def __dir__() -> list[str]:
    return __all__
