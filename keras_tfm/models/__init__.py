"""Task models, and the builders that wire them."""

from keras_tfm.models.bart import build_bart
from keras_tfm.models.bert import Bert, build_bert
from keras_tfm.models.bert_pretrainer import BertPretrainer
from keras_tfm.models.bloom import build_bloom
from keras_tfm.models.causal_lm import CausalLM
from keras_tfm.models.gemma import build_gemma2
from keras_tfm.models.gpt import build_gpt
from keras_tfm.models.gpt_neox import build_gpt_neox
from keras_tfm.models.inspection import Inspection, StackRecord, inspect
from keras_tfm.models.language_model import LanguageModel
from keras_tfm.models.llama import build_llama
from keras_tfm.models.marian import build_marian
from keras_tfm.models.masked_lm import MaskedLM
from keras_tfm.models.sentence_encoder import SentenceEncoder
from keras_tfm.models.sentence_pairs import SentencePairRanker, SentencePairRegressor
from keras_tfm.models.seq2seq_lm import Seq2SeqLM
from keras_tfm.models.span_classifier import SpanClassifier
from keras_tfm.models.t5 import build_t5
from keras_tfm.models.text_classifier import TextClassifier
from keras_tfm.models.text_regressor import TextRegressor
from keras_tfm.models.token_classifier import TokenClassifier
from keras_tfm.models.token_model import TokenModel
from keras_tfm.models.transformer import build_transformer

__all__ = [
    "Bert",
    "BertPretrainer",
    "CausalLM",
    "Inspection",
    "LanguageModel",
    "MaskedLM",
    "SentenceEncoder",
    "SentencePairRanker",
    "SentencePairRegressor",
    "Seq2SeqLM",
    "SpanClassifier",
    "StackRecord",
    "TextClassifier",
    "TextRegressor",
    "TokenClassifier",
    "TokenModel",
    "build_bart",
    "build_bert",
    "build_bloom",
    "build_gemma2",
    "build_gpt",
    "build_gpt_neox",
    "build_llama",
    "build_marian",
    "build_t5",
    "build_transformer",
    "inspect",
]


def __dir__() -> list[str]:
    return __all__
