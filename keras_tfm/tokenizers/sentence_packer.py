"""[CLS] a [SEP] b [SEP]: texts to the inputs of a model as BERT's, in the graph."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_tfm.arguments import as_integer
from keras_tfm.tokenizers.byte_pair import BytePairTokenizer
from keras_tfm.tokenizers.code_points import CharacterPlaces
from keras_tfm.tokenizers.inputs import as_string_tensor
from keras_tfm.tokenizers.word_piece import WordPieceTokenizer
from keras_tfm.tokenizers.word_splitter import replace_invalid_utf8


class SentencePacker(tf.Module):
    """Packs texts, pairs of texts, words, or questions with long contexts into rows of token ids.

    It runs eagerly, in `tf.data`, in `tf.function` and inside a SavedModel, as the tokenizer does. All inputs are dicts
    with the keys that KerasHub uses: `token_ids` int32 (B, T); `segment_ids` int32 (B, T), 1 from the second text to
    the [SEP] that follows it; `padding_mask` bool (B, T), True = a token.

    Args:
        tokenizer: `WordPieceTokenizer` with [PAD], [CLS] and [SEP]; or the `BytePairTokenizer` of a RoBERTa from
            `load_tokenizer`, whose rows are `<s> a </s></s> b </s>`.
        sequence_length: int, T, at least 4; longer texts lose tokens at their end. Default: as long as the longest row
            of the batch, and nothing is lost.

    Call arguments:
        texts: a string, or a list, array or tensor of strings (B,).
        pairs: the second texts, alike. Of a pair that is too long the longer text loses tokens, until both are equally
            long, as with Hugging Face's "longest_first".

    Returns:
        The inputs; with one string (T,) instead of (B, T).

    Raises:
        ValueError: if the vocabulary lacks a special token or `sequence_length` < 4.
        TypeError: if an argument is of another type.

    Example:
        >>> tokenizer = WordPieceTokenizer.train("the cat, the hat, the bat. " * 9, vocabulary_size=23)
        >>> packer = SentencePacker(tokenizer, sequence_length=8)
        >>> packer("The cat", "a hat")["token_ids"].numpy().tolist()  # [CLS] the cat [SEP] a hat [SEP] [PAD]
        [2, 19, 21, 3, 7, 22, 3, 0]

    Reference:
        Devlin et al. 2019, "BERT", section 3, https://arxiv.org/abs/1810.04805
    """

    def __init__(self, tokenizer: WordPieceTokenizer | BytePairTokenizer, sequence_length: int | None = None):
        super().__init__(name="sentence_packer")
        if sequence_length is not None:
            note = ", for a token beside [CLS] and two [SEP], or None"
            sequence_length = as_integer("sequence_length", sequence_length, 4, note)
        self.tokenizer = tokenizer
        self.sequence_length: Any = sequence_length  # int or None
        self._special, self._num_between = _frame(tokenizer)

    def __call__(self, texts: Any, pairs: Any = None) -> dict[str, tf.Tensor]:
        return self._pack_texts(lambda texts: (self.tokenizer(texts, add_special_tokens=False),), texts, pairs)[0]

    def with_offsets(self, texts: Any, pairs: Any = None) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor]:
        """The inputs, and the place in its text of each token.

        Args:
            texts, pairs: as for a call.

        Returns:
            inputs, starts and ends; the last two int32 (B, T), in bytes of UTF-8 of the text or, where `segment_ids` is
            1, of the second text; -1 for [CLS], [SEP] and padding.
        """
        return self._pack_texts(self._with_offsets, texts, pairs)

    def words(self, words: Any) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """The inputs for texts that are divided into words, and the word of each token, to label words.

        Args:
            words: RaggedTensor of strings (B, words), or a list of lists of strings. Each is tokenized by itself, as
                with Hugging Face's `is_split_into_words`, and may give several tokens, or none; in byte-level BPE with
                a space before it, as with `add_prefix_space`.

        Returns:
            inputs and word_ids; the latter int32 (B, T), the number of the word in its row, -1 for [CLS], [SEP] and
            padding. Words that do not fit are left out.

        Raises:
            TypeError: if `words` is no list of lists of strings.
        """
        words = as_word_rows(words)
        texts = words.values
        if isinstance(self.tokenizer, BytePairTokenizer) and not self.tokenizer.add_prefix_space:
            texts = tf.where(tf.strings.regex_full_match(texts, "(?s) .*|"), texts, tf.strings.join([" ", texts]))
        pieces = self.tokenizer(texts, add_special_tokens=False)  # (all words, tokens)
        numbers = tf.ragged.range(words.row_lengths()).values  # of each word in its row
        numbers = pieces.with_values(tf.repeat(tf.cast(numbers, tf.int32), pieces.row_lengths()))
        rows = tuple(words.with_values(values).merge_dims(1, 2) for values in (pieces, numbers))
        return self._pack(*self._cut(rows, None))

    def room(self, num_texts: int) -> int:
        """How many tokens of a row's one or two texts are read: T without the special tokens."""
        return self.sequence_length - 2 - (self._num_between if num_texts > 1 else 0)

    @property
    def question_room(self) -> int:
        """How many tokens of a question `windows` shows: half of what is left beside the special tokens."""
        return self.room(2) // 2

    @property
    def default_stride(self) -> int:
        """A good `stride` for `windows`: a quarter of T, or the most that is possible if that is less."""
        return max(0, min(self.sequence_length // 4, self.room(2) - self.question_room - 1))

    def windows(
        self, questions: Any, contexts: Any, stride: int = 0
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor, tf.Tensor, tf.Tensor]:
        """The inputs for questions about contexts, in as many rows as it takes to show the whole context.

        A question keeps its first `question_room` tokens. Each row holds the question and as much of the context as
        fits; the next row begins `stride` tokens before the end of that.

        Args:
            questions: a string, or a list, array or tensor of strings (B,).
            contexts: alike; each is that of one question.
            stride: int, tokens of a context that a row shares with the row before, less than what
                `question_room` leaves.

        Returns:
            inputs with W rows, at least one for each question, in order; `rows` int32 (W,), the number of the
            question; and starts and ends, int32 (W, T), the place of each token in the bytes of its context, -1 for
            all but the context's tokens.

        Raises:
            ValueError: if `sequence_length` is None, `stride` is too large or negative, or these are not equally many.
            TypeError: if they are no strings.
        """
        if self.sequence_length is None:
            raise ValueError(
                "`sequence_length` must be given to the packer for `windows`. Received: sequence_length=None."
            )
        text_length = self.room(2)
        stride, longest = as_integer("stride", stride, 0), text_length - self.question_room - 1
        if stride > longest:
            raise ValueError(
                f"`stride` must be at most {longest} with `sequence_length={self.sequence_length}`. "
                f"Received: stride={stride}."
            )
        questions, contexts = (
            tf.reshape(as_string_tensor(texts, name), [-1])  # one string is one text
            for name, texts in (("questions", questions), ("contexts", contexts))
        )
        if not questions.shape.is_compatible_with(contexts.shape):
            raise ValueError(
                "`questions` and `contexts` must be equally many. "
                f"Received: {questions.shape[0]} and {contexts.shape[0]}."
            )
        with tf.device("CPU:0"):
            question = self.tokenizer(questions, add_special_tokens=False)[:, : self.question_room]
            context = self._with_offsets(contexts)
            lengths = context[0].row_lengths()
            room = text_length - question.row_lengths()
            step = room - stride
            num_windows = 1 + tf.maximum(-((room - lengths) // step), 0)
            rows = tf.repeat(tf.range(question.nrows()), num_windows)
            begin = tf.ragged.range(num_windows).values * tf.gather(step, rows)  # of each window in its context
            size = tf.minimum(tf.gather(room, rows), tf.gather(lengths, rows) - begin)
            first = tf.gather(question, rows)
            nowhere = first.with_values(tf.fill(tf.shape(first.values), -1))
            second = tuple(_parts(part, rows, begin, size) for part in context)
            inputs, starts, ends = self._pack((first, nowhere, nowhere), second)
            return inputs, tf.cast(rows, tf.int32), starts, ends

    def _with_offsets(self, texts: tf.Tensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        ids, starts, ends = self.tokenizer.tokenize_with_offsets(texts, add_special_tokens=False)
        if isinstance(self.tokenizer, WordPieceTokenizer):
            return ids, starts, ends
        # Of bytes of one character, each has the place of the whole character.
        places = CharacterPlaces.of(replace_invalid_utf8(texts))
        return ids, *map(places.bytes, places.characters(starts, ends))

    def _pack_texts(self, tokenize: Callable[[tf.Tensor], tuple], texts: Any, pairs: Any) -> tuple:
        texts = as_string_tensor(texts)
        pairs = None if pairs is None else as_string_tensor(pairs, "pairs")
        if pairs is not None and not texts.shape.is_compatible_with(pairs.shape):
            raise ValueError(
                "`texts` and `pairs` must be two strings or equally many. "
                f"Received: shapes {texts.shape} and {pairs.shape}."
            )
        if texts.shape.rank == 0:
            packed = self._pack_texts(tokenize, texts[None], None if pairs is None else pairs[None])
            return tf.nest.map_structure(lambda rows: rows[0], packed)
        return self._pack(*self._cut(tokenize(texts), None if pairs is None else tokenize(pairs)))

    def _cut(self, first: tuple, second: tuple | None) -> tuple[tuple, tuple | None]:
        """Ids, and what goes with them, without the tokens that do not fit."""
        if self.sequence_length is None:
            return first, second
        with tf.device("CPU:0"):
            rows = tf.range(first[0].nrows())
            lengths = first[0].row_lengths()
            if second is None:
                lengths = tf.minimum(lengths, self.room(1))
            else:
                lengths, others = longest_first(lengths, second[0].row_lengths(), self.room(2))
                second = tuple(_parts(part, rows, tf.zeros_like(others), others) for part in second)
            return tuple(_parts(part, rows, tf.zeros_like(lengths), lengths) for part in first), second

    def _pack(self, first: tuple, second: tuple | None) -> tuple:
        """The inputs, and what goes with the ids; what fits is there."""
        with tf.device("CPU:0"):
            cls, sep, pad = self._special
            inputs = {"token_ids": self._join(first[0], second and second[0], cls, sep, pad)}
            total = 2 + first[0].row_lengths() + (0 if second is None else self._num_between + second[0].row_lengths())
            places = tf.range(tf.shape(inputs["token_ids"], tf.int64)[1])
            is_token = places < total[:, None]
            is_second = is_token & (places >= 2 + first[0].row_lengths()[:, None])
            inputs |= {"segment_ids": tf.cast(is_second, tf.int32), "padding_mask": is_token}
            others = range(1, len(first))
            return inputs, *(self._join(first[i], second and second[i], -1, -1, -1) for i in others)

    def _join(self, first: tf.RaggedTensor, second: tf.RaggedTensor | None, cls: int, sep: int, pad: int) -> tf.Tensor:
        num_rows = first.nrows(tf.int32)
        cls_column, sep_column = tf.fill([num_rows, 1], cls), tf.fill([num_rows, 1], sep)
        parts = [cls_column, first, sep_column]
        if second is not None:
            parts += [*[sep_column] * (self._num_between - 1), second, sep_column]
        return tf.concat(parts, axis=1).to_tensor(pad, shape=[None, self.sequence_length])


def _frame(tokenizer: Any) -> tuple[tuple[int, int, int], int]:
    """Ids of what is first, between and last in a row, and of padding; how many stand between two texts."""
    if isinstance(tokenizer, WordPieceTokenizer):
        return (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id), 1
    roles = getattr(tokenizer, "checkpoint_roles", {})
    names: list[Any] = [roles.get(f"{role}_token") for role in ("cls", "sep", "pad")]
    if not isinstance(tokenizer, BytePairTokenizer) or None in names or not tokenizer.packs_as_roberta:
        raise TypeError(
            "`tokenizer` must be a WordPieceTokenizer, or the BytePairTokenizer of a RoBERTa with its special tokens, "
            f"as `load_tokenizer` gives it. Received: {str(tokenizer)[:60]} of type {type(tokenizer).__name__}."
        )
    first, between, padding = map(tokenizer.token_to_id, names)
    return (first, between, padding), 2


def longest_first(first: tf.Tensor, second: tf.Tensor, room: int) -> tuple[tf.Tensor, tf.Tensor]:
    """How many tokens of two texts are kept so that both fit, as by the library `tokenizers`.

    Args:
        first, second: int64 (B,), numbers of tokens.
        room: int, how many fit in all.

    Returns:
        int64 (B,) each. Where both are cut they are equally long, or the longer text, the second if there is none,
        keeps one more.
    """
    shorter, longer = tf.minimum(first, second), tf.maximum(first, second)
    fits = first + second <= room
    half = room // 2
    cuts_both = shorter > half
    kept_longer = tf.where(fits, longer, tf.where(cuts_both, tf.cast(room - half, tf.int64), room - shorter))
    kept_shorter = tf.where(fits | ~cuts_both, shorter, tf.cast(half, tf.int64))
    swapped = first > second
    return tf.where(swapped, kept_longer, kept_shorter), tf.where(swapped, kept_shorter, kept_longer)


def as_word_rows(words: Any) -> tf.RaggedTensor:
    """Words as RaggedTensor of strings (B, words)."""
    if not isinstance(words, tf.RaggedTensor):
        try:
            words = tf.ragged.constant(words, tf.string, ragged_rank=1, inner_shape=())
        except (TypeError, ValueError) as error:
            raise TypeError(
                "`words` must be a RaggedTensor of strings (B, words) or a list of lists of strings. "
                f"Received: {str(words)[:60]} of type {type(words).__name__}."
            ) from error
    if words.dtype != tf.string or words.shape.rank != 2 or words.ragged_rank != 1:
        raise TypeError(
            "`words` must be a RaggedTensor of strings (B, words) or a list of lists of strings. "
            f"Received: dtype={words.dtype.name}, shape={words.shape}."
        )
    return words


def _parts(values: tf.RaggedTensor, rows: tf.Tensor, begin: tf.Tensor, size: tf.Tensor) -> tf.RaggedTensor:
    """From row `rows[i]` of `values` the `size[i]` elements from `begin[i]` on."""
    first = tf.gather(values.row_starts(), rows) + begin
    return tf.gather(values.values, tf.ragged.range(first, first + size))
