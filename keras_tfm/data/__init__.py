"""Text to `tf.data`. `keras_tfm.data.text_corpus` needs tensorflow-datasets and is imported by its full name."""

from keras_tfm.data.answer_spans import answer_span_dataset
from keras_tfm.data.answers import AnsweredRow, answered_rows, padded_rows
from keras_tfm.data.denoising import denoising_dataset, span_corruption_dataset
from keras_tfm.data.epochs import epochs_of_batches
from keras_tfm.data.instructions import instruction_dataset
from keras_tfm.data.language_model import PackedTokens, language_model_dataset, pack, with_document_ids
from keras_tfm.data.masked_lm import masked_lm_dataset
from keras_tfm.data.packed_texts import PackedTexts, pack_texts
from keras_tfm.data.preferences import judged_dataset, preference_dataset, prompt_dataset
from keras_tfm.data.sentence_pairs import sentence_pair_dataset
from keras_tfm.data.stream import stream
from keras_tfm.data.text_labels import text_label_dataset
from keras_tfm.data.text_pairs import text_pair_dataset
from keras_tfm.data.word_labels import labels_of_first_tokens, word_label_dataset

__all__ = [
    "AnsweredRow",
    "PackedTexts",
    "PackedTokens",
    "answer_span_dataset",
    "answered_rows",
    "denoising_dataset",
    "epochs_of_batches",
    "instruction_dataset",
    "judged_dataset",
    "labels_of_first_tokens",
    "language_model_dataset",
    "masked_lm_dataset",
    "pack",
    "pack_texts",
    "padded_rows",
    "preference_dataset",
    "prompt_dataset",
    "sentence_pair_dataset",
    "span_corruption_dataset",
    "stream",
    "text_label_dataset",
    "text_pair_dataset",
    "with_document_ids",
    "word_label_dataset",
]


def __dir__() -> list[str]:
    return __all__
