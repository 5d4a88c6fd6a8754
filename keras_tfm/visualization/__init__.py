"""Pictures of what a model does."""

from keras_tfm.visualization.loss_curve import plot_loss_curve

__all__ = ["plot_loss_curve"]


def __dir__() -> list[str]:
    return __all__
