"""Models outside of Python: SavedModels with named signatures."""

from keras_tfm.export.saved_model import export_text_generator

__all__ = ["export_text_generator"]
