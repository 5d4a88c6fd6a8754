"""How good are translations, and summaries? By the libraries that papers report."""

import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from keras_tfm.arguments import as_integer, require
from keras_tfm.optional import required


class TextScore(NamedTuple):
    """A number, 0 to 100, the more the better, and what was measured how: the signature to report beside it."""

    value: float
    signature: str


def translation_scores(expected: Sequence[str | Sequence[str]], found: Sequence[str]) -> dict[str, TextScore]:
    """BLEU and chrF of whole texts, by sacrebleu with its defaults: case and all, on plain text.

    Args:
        expected: for each text the right translation, or several of them, for each text as many.
        found: what was written, without special tokens.

    Returns:
        dict of "bleu" and "chrf".

    Raises:
        ValueError: for no texts, another number of them on the two sides, or of right ones for each.
        TypeError: for texts that are no strings.
        ImportError: without sacrebleu (`pip install ".[evaluation]"`).

    Example:
        >>> scores = translation_scores(["Dios es amor."], ["Dios es amor."])
        >>> scores["chrf"].value, scores["chrf"].signature
        (100.0, 'nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0')

    Reference:
        Post 2018, "A Call for Clarity in Reporting BLEU Scores", https://arxiv.org/abs/1804.08771; Popović 2015,
        "chrF: character n-gram F-score for automatic MT evaluation", https://aclanthology.org/W15-3049
    """
    metrics = required("sacrebleu.metrics", "evaluation", "Scores of translations")
    right = list(zip(*_checked(expected, found), strict=True))  # the first ones of all texts, the second ones, ...
    scores = {}
    for name, metric in (("bleu", metrics.BLEU()), ("chrf", metrics.CHRF())):
        value = metric.corpus_score(list(found), right).score
        scores[name] = TextScore(value, metric.get_signature().format())
    return scores


def summary_scores(expected: Sequence[str | Sequence[str]], found: Sequence[str]) -> dict[str, TextScore]:
    """ROUGE-1, ROUGE-2 and ROUGE-L, the F-measure, by rouge-score with stemming: means over texts.

    Args:
        expected: for each text the right summary, or several of them, of which the best counts.
        found: what was written, without special tokens. Its rules are for English.

    Returns:
        dict of "rouge1", "rouge2" and "rougeL", 0 to 100.

    Raises:
        ValueError: for no texts, another number of them on the two sides, or of right ones for each.
        TypeError: for texts that are no strings.
        ImportError: without rouge-score (`pip install ".[evaluation]"`).

    Example:
        >>> summary_scores(["the cat sat"], ["a cat sat"])["rouge2"].value
        50.0

    Reference:
        Lin 2004, "ROUGE", https://aclanthology.org/W04-1013
    """
    names = ("rouge1", "rouge2", "rougeL")
    scorer = required("rouge_score.rouge_scorer", "evaluation", "Scores of summaries").RougeScorer(names, True)
    signature = f"rouge-score {importlib.metadata.version('rouge-score')}|stemmer:yes|F"
    rows = [scorer.score_multi(right, text) for right, text in zip(_checked(expected, found), found, strict=True)]
    return {name: TextScore(100 * sum(row[name].fmeasure for row in rows) / len(rows), signature) for name in names}


def _checked(expected: Sequence[str | Sequence[str]], found: Sequence[str]) -> list[list[str]]:
    """The right texts for each text that was found."""
    for name, texts in (("expected", expected), ("found", found)):
        if isinstance(texts, str) or not hasattr(texts, "__len__"):
            raise TypeError(f"`{name}` must be a list of texts. Received: {texts!r}.")
    right = [[one] if isinstance(one, str) else list(one) for one in expected]
    for name, texts in (("expected", [text for row in right for text in row]), ("found", found)):
        for text in texts:
            if not isinstance(text, str):
                raise TypeError(f"`{name}` must be strings. Received: {text!r} of type {type(text).__name__}.")
    if not right or len(right) != len(found):
        raise ValueError(f"There must be as many texts on both sides. Received: {len(right)} and {len(found)}.")
    counts = sorted({len(row) for row in right})
    require(counts[0] and len(counts) == 1, "Each text must have as many right ones", numbers=counts)
    return right


class TextScoring(keras.callbacks.Callback):
    """Writes texts at the end of each epoch, and puts their scores into the logs: `val_bleu`, `val_chrf`, ...

    They are in the `History` of `fit`, and callbacks that stand after this one see them.

    Args:
        write: sources, a list of str -> what is written, a list of str, with the model as it is then.
        sources: N strings; some tens do, since each epoch waits for them.
        expected: N strings, or N lists of as many, what should be written.
        scores: (expected, found) -> dict of `TextScore`: `translation_scores`, `summary_scores`, or your own.
        every_epochs: int, score each so many epochs.
        num_shown: int, the first so many texts are printed each time.

    Raises:
        ValueError: for no sources, another number of them on the two sides, or numbers out of range; TypeError: for
            texts that are no strings; both before training. ImportError: without what `scores` needs, likewise.

    Example:
        >>> scoring = TextScoring(translate, ["God is love."], ["Dios es amor."])
        >>> model.fit(dataset, epochs=9, callbacks=[scoring, keras.callbacks.EarlyStopping("val_chrf", mode="max")])
    """

    def __init__(
        self,
        write: Callable[[list[str]], list[str]],
        sources: Sequence[str],
        expected: Sequence[str | Sequence[str]],
        scores: Callable[[Any, Any], Mapping[str, TextScore]] = translation_scores,
        every_epochs: int = 1,
        num_shown: int = 0,
    ):
        super().__init__()
        if not callable(write):
            raise TypeError(f"`write` must be a function from texts to texts. Received: {write!r}.")
        self.write = write
        self.sources, self.expected = list(sources), list(expected)
        self.scores = scores
        self.every_epochs = as_integer("every_epochs", every_epochs, least=1)
        self.num_shown = as_integer("num_shown", num_shown, least=0)
        scores(self.expected, self.sources)  # whether they fit, and the package is there, is better known now

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self.every_epochs:
            return
        found = self.write(self.sources)
        values = {f"val_{name}": score.value for name, score in self.scores(self.expected, found).items()}
        if logs is not None:
            logs.update(values)
        rows = list(zip(self.sources, self.expected, found, strict=True))[: self.num_shown]
        for source, right, text in rows:
            print(f"\n  {source}\n  = {right}\n  > {text}", flush=True)
