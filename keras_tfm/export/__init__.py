"""Models outside of Python: SavedModels with named signatures."""

from keras_tfm.export.pipeline import export_pipeline
from keras_tfm.export.saved_model import export_text_generator

__all__ = ["export_pipeline", "export_text_generator"]


def __dir__() -> list[str]:
    return __all__
