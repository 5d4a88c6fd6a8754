"""How well does a model predict texts that are longer than what it reads at once?"""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from keras_tfm.arguments import as_integer, require
from keras_tfm.evaluation.token_scores import token_scores
from keras_tfm.generation import TextGenerator
from keras_tfm.generation.prompts import texts_of
from keras_tfm.models import CausalLM


class TextPerplexity(NamedTuple):
    """What a model says of texts. Models with other tokenizers are compared by words or bytes, not by tokens.

    Attributes:
        log_likelihood: float, the natural logarithm of the probability of all texts.
        num_tokens: int, tokens that were predicted. num_words: int, what white space separates. num_bytes: int, of
            UTF-8.
    """

    log_likelihood: float
    num_tokens: int
    num_words: int
    num_bytes: int

    @property
    def per_token(self) -> float:
        """Of how many tokens the model is in doubt, 1 or more."""
        return self._per(self.num_tokens)

    @property
    def per_word(self) -> float:
        """The same of words, as papers report it."""
        return self._per(self.num_words)

    @property
    def per_byte(self) -> float:
        """The same of bytes."""
        return self._per(self.num_bytes)

    @property
    def bits_per_byte(self) -> float:
        """The size of the texts, compressed by the model, to their own; in bits to bytes."""
        return -self.log_likelihood / math.log(2) / self.num_bytes

    def _per(self, number: int) -> float:
        try:
            return math.exp(-self.log_likelihood / number)
        except (OverflowError, ZeroDivisionError):  # words that the model thinks impossible, or no words
            return math.inf


def perplexity(
    writer: TextGenerator,
    texts: str | Iterable[str],
    sequence_length: int | None = None,
    stride: int | None = None,
    batch_size: int = 8,
) -> TextPerplexity:
    """Perplexity of whole texts, each token predicted once.

    A text that is longer than `sequence_length` is read in windows that begin `stride` tokens apart; each window but
    the first predicts only the tokens that no earlier one has. Small strides leave each token more of the text before
    it, and read the text more often: `sequence_length` / `stride` times. `Perplexity` of `keras_tfm.training` is the
    metric for `fit`, over the rows of a dataset.

    Args:
        writer: `TextGenerator`: a causal language model and its tokenizer.
        texts: str, or list of str; none is seen by another. One without tokens counts nothing.
        sequence_length: int, the most tokens that the model reads at once. Default: its learned positions, else
            `max_position_embeddings` of its checkpoint, else 1,024.
        stride: int, less than `sequence_length`. Default: half of it.
        batch_size: int, windows that are read at once.

    Returns:
        `TextPerplexity`. The first token of a text is predicted from the tokenizer's begin token, or else from its end
        of text, as in `TextGenerator`; without either it is not predicted, and `num_tokens` is one less.

    Raises:
        ValueError: for numbers out of their range, and for texts that hold no token to predict. TypeError: for texts
            that are no strings.

    Example:
        >>> writer = ktfm.checkpoints.open("openai-community/gpt2").text_generator()
        >>> found = perplexity(writer, pathlib.Path("novel.txt").read_text(), stride=512)
        >>> found.per_token, found.per_word, found.bits_per_byte

    Reference:
        https://huggingface.co/docs/transformers/perplexity (the strides); Gao et al. 2020, "The Pile",
        https://arxiv.org/abs/2101.00027, section 3.1 (bits per byte)
    """
    model = causal_model_of(writer)
    texts = texts_of("texts", texts)
    sequence_length = length_to_read(model, sequence_length, default=1024)
    stride = as_integer("stride", sequence_length // 2 if stride is None else stride, 1)
    require(
        stride < sequence_length,
        "`stride` must be less than `sequence_length`: the first token of a window is predicted from none",
        stride=stride,
        sequence_length=sequence_length,
    )
    windows = [window for ids in begun_rows(writer, texts) for window in _windows(ids, sequence_length, stride)]
    require(windows, "`texts` must hold tokens to predict", texts=texts[:3])
    rows, counts = zip(*windows, strict=True)
    scores = token_scores(model, rows, counts, batch_size)
    return TextPerplexity(
        log_likelihood=float(sum(one.log_probs.sum(dtype="float64") for one in scores)),
        num_tokens=sum(len(one.log_probs) for one in scores),
        num_words=sum(len(text.split()) for text in texts),
        num_bytes=sum(len(text.encode()) for text in texts),
    )


def causal_model_of(writer: TextGenerator) -> CausalLM:
    """The model of a `TextGenerator`; TypeError for one that writes of sources, or that is none."""
    if not isinstance(writer, TextGenerator) or writer.model.reads_sources:
        raise TypeError(
            "`writer` must be a `TextGenerator` of a causal language model. "
            f"Received: {writer!r:.80} of type {type(writer).__name__}. Make one of the model and its tokenizer."
        )
    return writer.model


def length_to_read(model: CausalLM, sequence_length: int | None, default: int) -> int:
    """The most tokens to read at once: as given, else what the model or its checkpoint notes, else the default."""
    if sequence_length is None:
        return model.noted_sequence_length or default
    longest = model.max_sequence_length
    sequence_length = as_integer("sequence_length", sequence_length, 2)
    require(
        longest is None or sequence_length <= longest,
        f"`sequence_length` must be at most the {longest} positions of the model",
        sequence_length=sequence_length,
    )
    return sequence_length


def begun_rows(writer: TextGenerator, texts: list[str]) -> list[list[int]]:
    """The ids of texts, each after what a text begins with: begin tokens, else the end of the text before it."""
    end = writer.tokenizer.end_of_text_id
    begin = [] if writer.tokenizer.begin_tokens or end is None else [end]
    return [begin + row for row in writer.encode(texts, "texts")]


def _windows(ids: list[int], length: int, stride: int) -> Iterator[tuple[list[int], int]]:
    """(ids of a window, how many at its end are predicted); the first token of all is not."""
    num_predicted = 1
    for start in range(0, len(ids), stride):
        window = ids[start : start + length]
        end = start + len(window)
        if end > num_predicted:
            yield window, end - num_predicted
            num_predicted = end
