"""Models outside of Python: SavedModels with named signatures."""

from keras_tfm.export.saved_model import export_text_generator
from keras_tfm.export.writing import export_pipeline

__all__ = ["export_pipeline", "export_text_generator"]


def __dir__() -> list[str]:
    return __all__
