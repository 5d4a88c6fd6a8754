"""How good are models? Perplexity of texts; others' benchmarks, for which two modules are imported by their full names.

`keras_tfm.evaluation.lm_eval_model` needs lm_eval and has `LmEvalModel`; `keras_tfm.evaluation.mteb_encoder` needs mteb
and has `MtebEncoder`.
"""

from keras_tfm.evaluation.perplexity import TextPerplexity, perplexity
from keras_tfm.evaluation.token_scores import TokenScores, token_scores

__all__ = ["TextPerplexity", "TokenScores", "perplexity", "token_scores"]


def __dir__() -> list[str]:
    return __all__
