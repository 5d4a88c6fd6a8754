"""Text to `tf.data`. `keras_tfm.data.text_corpus` needs tensorflow-datasets and is imported by its full name."""

from keras_tfm.data.document_ids import with_document_ids
from keras_tfm.data.language_model import PackedTokens, language_model_dataset, pack

__all__ = ["PackedTokens", "language_model_dataset", "pack", "with_document_ids"]
