"""Encoders with their tokenizers: strings in, labels, entities, answers and vectors out, in Python and exported."""

from keras_tfm.pipelines.entity_recognition import Entity, EntityRecognition
from keras_tfm.pipelines.question_answering import Answer, QuestionAnswering
from keras_tfm.pipelines.sentence_embedding import SentenceEmbedding
from keras_tfm.pipelines.text_classification import Classification, TextClassification
from keras_tfm.pipelines.text_pipeline import TextPipeline
from keras_tfm.pipelines.text_regression import TextRegression

__all__ = [
    "Answer",
    "Classification",
    "Entity",
    "EntityRecognition",
    "QuestionAnswering",
    "SentenceEmbedding",
    "TextClassification",
    "TextPipeline",
    "TextRegression",
]


def __dir__() -> list[str]:
    return __all__
