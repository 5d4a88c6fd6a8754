"""Text that is damaged, and how it was: what T5 and BART are pretrained on."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import tensorflow as tf

from keras_tfm.arguments import as_integer, check_in_vocabulary, number_of, require, token_ids_of
from keras_tfm.data.documents import tokenize_documents
from keras_tfm.data.epochs import epochs_of_batches, shuffled
from keras_tfm.data.text_pairs import shifted_right
from keras_tfm.tokenizers import Tokenizer

_SENTENCE_ENDS = (".", "!", "?", "\n", "\u3002", "\uff01", "\uff1f")


def span_corruption_dataset(
    texts_or_files: str | Path | Iterable[str | Path] | tf.data.Dataset,
    tokenizer: Tokenizer,
    sequence_length: int,
    batch_size: int,
    sentinel_ids: Sequence[int],
    start_token_id: int = 0,
    noise_density: float = 0.15,
    mean_span_length: float = 3.0,
    shuffle: bool = True,
    seed: int = 0,
    dynamic: bool = True,
    initial_epoch: int = 0,
    repeat: bool = False,
) -> tf.data.Dataset:
    """Batches to pretrain a `Seq2SeqLM` as T5 was: spans of the text are taken out, and to be written.

    The source has a sentinel in the place of each span, a different one each; the target has each sentinel and what
    stood there: "Thank you <0> me to your party <1> week." and "<0> for inviting <1> last". Both end with the end of
    text. As in T5's code, a row begins with text and ends with a span, so the target has no last sentinel.

    The text is tokenized here and now, and its ids stay in memory. All documents stand in one row, which is cut into
    windows, so that there is no padding. Spans are drawn in `tf.data`, anew in each epoch, as (seed, epoch, batch size)
    decide and nothing else.

    Args:
        texts_or_files: see `pack`.
        tokenizer: a tokenizer with an `end_of_text_id`.
        sequence_length: int, S, of the source. The windows are as many tokens as fit when spans have become sentinels:
            568 for T5's 512, with a target of 114.
        batch_size: int, B. The last batch of an epoch may have fewer rows.
        sentinel_ids: ids of the tokens that stand for the first span, the second, and so on: of T5
            `range(32099, 31999, -1)`.
        start_token_id: int, what the decoder reads first: the model's `start_token_id`.
        noise_density: float between 0 and 1, tokens that are taken out.
        mean_span_length: float, at least 1. How many spans there are follows from it; their lengths are random.
        shuffle: bool, a new order of windows in each epoch; else that of the text.
        seed: int.
        dynamic: bool, draw anew in each epoch; False gives the same batches each time, for validation.
        initial_epoch: int, the epoch to begin with, to resume a run.
        repeat: bool, all epochs one after another without end; `fit` then needs `steps_per_epoch`.

    Returns:
        tf.data.Dataset of known cardinality, prefetched, of (inputs, labels): a dict as that of `text_pair_dataset`,
        in which nothing is padded, and int32 (B, T). The tokens after the last whole window are in no window.

    Raises:
        ValueError: if a number is out of range or an id of the vocabulary, there are fewer sentinels than spans, no end
            of text, or too little text for one window.
        TypeError: if an argument is of another type.

    Example:
        >>> tokenizer = keras_tfm.tokenizers.CharacterTokenizer("abc", ["<|endoftext|>", "<0>", "<1>"])
        >>> dataset = span_corruption_dataset("abcabcabcabc", tokenizer, 12, 1, sentinel_ids=(1, 2))
        >>> inputs, labels = next(iter(dataset))
        >>> tokenizer.decode(inputs["encoder_token_ids"]), tokenizer.decode(labels)
        (['abcabcabca<0><|endoftext|>'], ['<0>bc<|endoftext|>'])

    Reference:
        Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", section
        3.1.4, https://arxiv.org/abs/1910.10683; its code: `random_spans_noise_mask` in
        https://github.com/google-research/text-to-text-transfer-transformer/blob/main/t5/data/preprocessors.py
    """
    sequence_length = as_integer("sequence_length", sequence_length, least=4)
    damage = SpanCorruption(sequence_length, _end_of(tokenizer), sentinel_ids, noise_density, mean_span_length)
    check_in_vocabulary(tokenizer.vocabulary_size, sentinel_ids=max(damage.sentinel_ids))
    options = (batch_size, shuffle, seed, dynamic, initial_epoch, repeat)
    return _damaged(texts_or_files, tokenizer, damage, start_token_id, *options)


def denoising_dataset(
    texts_or_files: str | Path | Iterable[str | Path] | tf.data.Dataset,
    tokenizer: Tokenizer,
    sequence_length: int,
    batch_size: int,
    mask_token_id: int,
    start_token_id: int,
    mask_rate: float = 0.3,
    mean_span_length: float = 3.0,
    permute_sentences: bool = True,
    shuffle: bool = True,
    seed: int = 0,
    dynamic: bool = True,
    initial_epoch: int = 0,
    repeat: bool = False,
) -> tf.data.Dataset:
    """Batches to pretrain a `Seq2SeqLM` as BART was: sentences change places, spans become one mask each.

    The source is the damaged text, the target the whole text as it was. Both stand between what the tokenizer puts
    around texts (BART's "<s>" and "</s>"), and end with the end of text in any case. Lengths of spans are drawn from a
    Poisson distribution, where a span of length 0 puts a mask in. No two masks are neighbours.

    The text is tokenized here and now, and its ids stay in memory. All documents, each with its end of text, stand in
    one row, which is cut into windows, so that targets are not padded. The rest is drawn in `tf.data`, anew in each
    epoch, as (seed, epoch, batch size) decide and nothing else.

    Args:
        texts_or_files: see `pack`.
        tokenizer: a tokenizer with an `end_of_text_id` and `token_bytes`, by which sentences are found: one ends with a
            token that ends with . ! ? or a line end, or is the end of text.
        sequence_length: int, T, of source and target.
        batch_size: int, B. The last batch of an epoch may have fewer rows.
        mask_token_id: int, the token that stands for a span.
        start_token_id: int, what the decoder reads first: the model's `start_token_id`, of BART the end of text.
        mask_rate: float between 0 and 1, tokens that are hidden.
        mean_span_length: float, at least 1, the mean of the Poisson distribution.
        permute_sentences: bool, put the sentences of each row in random order.
        shuffle, seed, dynamic, initial_epoch, repeat: see `span_corruption_dataset`.

    Returns:
        tf.data.Dataset of known cardinality, prefetched, of (inputs, labels): a dict as that of `text_pair_dataset`,
        (B, T) each, in which only sources are padded, and int32 (B, T).

    Raises:
        ValueError: if a number is out of range or an id of the vocabulary, there is no end of text, or too little text
            for one window.
        TypeError: if an argument is of another type.

    Example:
        >>> special_tokens = ["<pad>", "<|endoftext|>", "<mask>"]
        >>> tokenizer = keras_tfm.tokenizers.CharacterTokenizer("abcd.", special_tokens)
        >>> dataset = denoising_dataset("abcd.dcba.b", tokenizer, 13, 1, mask_token_id=2, start_token_id=1, seed=7)
        >>> inputs, labels = next(iter(dataset))
        >>> tokenizer.decode(inputs["encoder_token_ids"])
        ['dcb<mask><|endoftext|><mask>bcd.<|endoftext|><pad><pad>']
        >>> tokenizer.decode(labels)
        ['abcd.dcba.b<|endoftext|><|endoftext|>']

    Reference:
        Lewis et al. 2020, "BART", section 2.2, https://arxiv.org/abs/1910.13461
    """
    sequence_length = as_integer("sequence_length", sequence_length, least=1)
    damage = TextInfilling(sequence_length, tokenizer, mask_token_id, mask_rate, mean_span_length, permute_sentences)
    options = (batch_size, shuffle, seed, dynamic, initial_epoch, repeat)
    return _damaged(texts_or_files, tokenizer, damage, start_token_id, *options)


class SpanCorruption:
    """Takes spans out of rows and puts sentinels in their places, in the graph.

    Args:
        sequence_length, sentinel_ids, noise_density, mean_span_length: see `span_corruption_dataset`.
        end_of_text_id: int.

    Attributes:
        num_tokens: int, W, tokens of a row, of which `num_noise` are taken out in `num_spans` spans.
        sentinel_ids: tuple of int, as given.
        documents_end: bool, whether an end of text stands between documents.

    Call arguments:
        token_ids: int32 (B, W).
        key: int64 (2,), decides the draw.

    Returns:
        sources int32 (B, S), the mask of their real tokens, bool (B, S), and targets int32 (B, T).
    """

    documents_end = False

    def __init__(
        self,
        sequence_length: int,
        end_of_text_id: int,
        sentinel_ids: Sequence[int],
        noise_density: float,
        mean_span_length: float,
    ):
        self._density = _rate("noise_density", noise_density)
        self._mean = _mean_length(mean_span_length)
        self._end = end_of_text_id
        self.num_tokens = 2
        while self._source_length(self.num_tokens + 1) <= sequence_length:
            self.num_tokens += 1
        self.num_noise, self.num_spans = self._counts(self.num_tokens)
        self.sentinel_ids = token_ids_of("sentinel_ids", sentinel_ids)
        require(
            len(self.sentinel_ids) >= self.num_spans,
            f"`sentinel_ids` must be {self.num_spans} or more, one for each span of a row of "
            f"`sequence_length={sequence_length}`",
            sentinel_ids=f"{len(self.sentinel_ids)} of them",
        )
        with tf.device("CPU:0"):
            self._sentinels = tf.constant(self.sentinel_ids[: self.num_spans], tf.int32)

    def _counts(self, num_tokens: int) -> tuple[int, int]:
        """How many of so many tokens are taken out, and in how many spans, as T5 has it."""
        num_noise = min(max(round(num_tokens * self._density), 1), num_tokens - 1)
        return num_noise, min(max(round(num_noise / self._mean), 1), num_tokens - num_noise)

    def _source_length(self, num_tokens: int) -> int:
        num_noise, num_spans = self._counts(num_tokens)
        return num_tokens - num_noise + num_spans + 1

    def __call__(self, token_ids: tf.Tensor, key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        is_noise = self._choose(tf.shape(token_ids)[0], key)  # (B, W)
        source = self._with_sentinels(token_ids, is_noise, self.num_tokens - self.num_noise)
        return source, tf.ones_like(source, tf.bool), self._with_sentinels(token_ids, ~is_noise, self.num_noise)

    def _choose(self, num_rows: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """bool (B, W), the tokens that are taken out: text, a span, text, a span, and so on."""
        keys = tf.unstack(tf.random.split(key, 2, alg="philox"), num=2)
        spans = _parts(self.num_noise, self.num_spans, num_rows, keys[0])  # (B, spans)
        texts = _parts(self.num_tokens - self.num_noise, self.num_spans, num_rows, keys[1])
        ends = tf.cumsum(spans + texts, axis=1)  # (B, spans)
        places = tf.range(self.num_tokens)[None, :, None]
        return tf.reduce_any((places < ends[:, None]) & (places >= (ends - spans)[:, None]), axis=2)

    def _with_sentinels(self, token_ids: tf.Tensor, is_left_out: tf.Tensor, num_kept: int) -> tf.Tensor:
        """The rows with a sentinel in the place of each stretch that is left out, and their end."""
        after = tf.pad(is_left_out, [[0, 0], [1, 0]])[:, :-1]
        is_first = is_left_out & ~after
        number = tf.cumsum(tf.cast(is_first, tf.int32), axis=1, exclusive=True)
        sentinels = tf.gather(self._sentinels, tf.minimum(number, self.num_spans - 1))
        kept = tf.boolean_mask(tf.where(is_first, sentinels, token_ids), is_first | ~is_left_out)
        rows = tf.reshape(kept, [-1, num_kept + self.num_spans])
        return tf.pad(rows, [[0, 0], [0, 1]], constant_values=self._end)


def _parts(total: int, num_parts: int, num_rows: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
    """int32 (B, parts): a number divided into parts of 1 or more, each division as likely as any other."""
    scores = tf.random.stateless_uniform([num_rows, total - 1], key, alg="philox")
    cuts = tf.sort(tf.argsort(scores, axis=1, stable=True)[:, : num_parts - 1], axis=1) + 1  # (B, parts - 1)
    bounds = tf.pad(tf.pad(cuts, [[0, 0], [1, 0]]), [[0, 0], [0, 1]], constant_values=total)  # (B, parts + 1)
    return bounds[:, 1:] - bounds[:, :-1]


class TextInfilling:
    """Puts the sentences of rows in another order and masks in the places of spans, in the graph.

    Args:
        sequence_length, tokenizer, mask_token_id, mask_rate, mean_span_length, permute_sentences: see
            `denoising_dataset`.

    Attributes:
        num_tokens: int, W, tokens of a row, of which `num_hidden` are hidden in as many spans as it takes, and
            `num_kept`, K, are not.
        documents_end: bool, whether an end of text stands between documents.

    Call arguments:
        token_ids: int32 (B, W).
        key: int64 (2,), decides the draw.

    Returns:
        sources int32 (B, T), the mask of their real tokens, bool (B, T), and targets int32 (B, T).
    """

    documents_end = True

    def __init__(
        self,
        sequence_length: int,
        tokenizer: Tokenizer,
        mask_token_id: int,
        mask_rate: float,
        mean_span_length: float,
        permute_sentences: bool,
    ):
        end_id = _end_of(tokenizer)
        self._begin = [tokenizer.token_to_id(token) for token in tokenizer.begin_tokens]
        self._ending = tokenizer.ending_ids
        self._mask = as_integer("mask_token_id", mask_token_id, least=0)
        check_in_vocabulary(tokenizer.vocabulary_size, mask_token_id=self._mask)
        self._mean = _mean_length(mean_span_length)
        self._permute = permute_sentences
        self.num_tokens = sequence_length - len(self._begin) - len(self._ending)
        require(
            self.num_tokens >= 2,
            "`sequence_length` must be at least 2 more than the tokens that the tokenizer puts around a text",
            sequence_length=sequence_length,
        )
        self.num_hidden = min(max(round(self.num_tokens * _rate("mask_rate", mask_rate)), 1), self.num_tokens - 1)
        self.num_kept = self.num_tokens - self.num_hidden
        ends = tuple(end.encode() for end in _SENTENCE_ENDS)
        is_end = [tokenizer.token_bytes(i).rstrip(b" ").endswith(ends) for i in range(tokenizer.vocabulary_size)]
        is_end[end_id] = True
        with tf.device("CPU:0"):
            self._ends_sentence = tf.constant(is_end)

    def __call__(self, token_ids: tf.Tensor, key: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        order_key, length_key, place_key = tf.unstack(tf.random.split(key, 3, alg="philox"), num=3)
        shown = self._permuted(token_ids, order_key) if self._permute else token_ids
        source = self._framed(self._with_masks(shown, self._lengths(tf.shape(token_ids)[0], length_key), place_key))
        width = len(self._begin) + self.num_tokens + len(self._ending)
        mask = tf.sequence_mask(source.row_lengths(), width)
        return source.to_tensor(0, shape=[None, width]), mask, self._framed(token_ids)

    def _permuted(self, token_ids: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """The sentences of each row (B, W) in random order."""
        is_end = tf.gather(self._ends_sentence, token_ids)
        is_end &= ~tf.pad(is_end[:, 1:], [[0, 0], [0, 1]])  # of "?!" the last
        sentence = tf.cumsum(tf.cast(is_end, tf.int32), axis=1, exclusive=True)  # (B, W)
        scores = tf.random.stateless_uniform(tf.shape(token_ids), key, alg="philox")  # of sentence 0, 1, ...
        order = tf.argsort(tf.gather(scores, sentence, batch_dims=1), axis=1, stable=True)
        return tf.gather(token_ids, order, batch_dims=1)

    def _lengths(self, num_rows: tf.Tensor, key: tf.Tensor) -> tf.Tensor:
        """int32 (B, M), the lengths of spans as they are drawn, until `num_hidden` are hidden; then -1 for none."""
        # No more spans than could hide one token each, or than there are places that are not neighbours.
        most = min(self.num_hidden, self.num_kept + 1)
        draws = tf.random.stateless_poisson([num_rows, most - 1], key, self._mean, tf.int32)
        draws = tf.pad(draws, [[0, 0], [0, 1]], constant_values=self.num_hidden)  # the last one takes what is left
        room = self.num_hidden - tf.cumsum(draws, axis=1, exclusive=True)
        return tf.where(room > 0, tf.minimum(draws, room), -1)

    def _with_masks(self, token_ids: tf.Tensor, lengths: tf.Tensor, key: tf.Tensor) -> tf.RaggedTensor:
        """The rows (B, W) with a mask in the place of each span.

        There are K + 1 gaps before, between and after the K tokens that are kept; spans go into different ones.
        """
        num_rows, num_gaps = tf.shape(token_ids)[0], self.num_kept + 1
        scores = tf.random.stateless_uniform([num_rows, num_gaps], key, alg="philox")
        span = tf.argsort(tf.argsort(scores, axis=1, stable=True), axis=1)  # (B, K + 1), which one would stand there
        length = tf.gather(tf.pad(lengths, [[0, 0], [0, num_gaps]], constant_values=-1), span, batch_dims=1)

        place = tf.range(num_gaps) + tf.cumsum(tf.maximum(length, 0), axis=1)  # of the token that follows the gap
        kept = tf.gather(token_ids, tf.minimum(place, self.num_tokens - 1), batch_dims=1)  # (B, K + 1)
        follows = tf.broadcast_to(tf.range(num_gaps) < self.num_kept, tf.shape(kept))
        values = tf.stack([tf.fill(tf.shape(kept), self._mask), kept], axis=2)  # (B, K + 1, 2)
        is_there = tf.stack([length >= 0, follows], axis=2)
        values, is_there = (tf.reshape(x, [num_rows, 2 * num_gaps]) for x in (values, is_there))
        return tf.ragged.boolean_mask(values, is_there)

    def _framed(self, rows: tf.Tensor | tf.RaggedTensor) -> tf.Tensor | tf.RaggedTensor:
        """Rows between the tokens that begin and end a text."""
        num_rows = tf.shape(rows)[0] if isinstance(rows, tf.Tensor) else rows.nrows(tf.int32)
        begin, ending = (tf.tile(tf.constant([ids], tf.int32), [num_rows, 1]) for ids in (self._begin, self._ending))
        return tf.concat([begin, rows, ending], axis=1)


def _damaged(
    texts_or_files,
    tokenizer: Tokenizer,
    damage: SpanCorruption | TextInfilling,
    start_token_id: int,
    batch_size: int,
    shuffle: bool,
    seed: int,
    dynamic: bool,
    initial_epoch: int,
    repeat: bool,
) -> tf.data.Dataset:
    """Windows of the text, damaged anew in each epoch."""
    batch_size = as_integer("batch_size", batch_size, least=1)
    start_token_id = as_integer("start_token_id", start_token_id, least=0)
    check_in_vocabulary(tokenizer.vocabulary_size, start_token_id=start_token_id)
    seed = as_integer("seed", seed, least=0)
    initial_epoch = as_integer("initial_epoch", initial_epoch, least=0)

    def tokenize(documents: list) -> tf.RaggedTensor:
        rows = tokenizer(documents, add_special_tokens=False)
        ends = tf.fill([len(documents), int(damage.documents_end)], tf.cast(tokenizer.end_of_text_id, rows.dtype))
        return tf.concat([rows, ends], axis=1)

    token_ids, _ = tokenize_documents(texts_or_files, tokenize)
    num_rows = len(token_ids) // damage.num_tokens
    if not num_rows:
        raise ValueError(
            f"There must be {damage.num_tokens} tokens or more, for one row of this `sequence_length`. "
            f"Received: {len(token_ids)} tokens. A `str` is text; a file is a `pathlib.Path`."
        )
    whole_batches = num_rows % batch_size == 0  # so that B is a static dimension
    with tf.device("CPU:0"):
        windows = tf.constant(token_ids[: num_rows * damage.num_tokens].reshape(num_rows, damage.num_tokens))

    def choose(epoch: tf.Tensor) -> tf.data.Dataset:
        order = shuffled(num_rows, seed, epoch) if shuffle else tf.range(num_rows, dtype=tf.int64)
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size, drop_remainder=whole_batches)

    def make_batch(epoch: tf.Tensor, step: tf.Tensor, chosen: tf.Tensor) -> tuple[dict, tf.Tensor]:
        key = tf.random.fold_in(tf.stack([tf.constant(seed, tf.int64), epoch]), step, alg="philox")
        source, mask, labels = damage(tf.gather(windows, chosen), key)
        inputs = {
            "encoder_token_ids": source,
            "encoder_padding_mask": mask,
            "decoder_token_ids": shifted_right(labels, start_token_id),
            "decoder_padding_mask": tf.ones_like(labels, tf.bool),
        }
        return inputs, labels

    num_batches = -(-num_rows // batch_size)
    return epochs_of_batches(choose, make_batch, num_batches, initial_epoch, repeat, new_each=dynamic)


def _end_of(tokenizer: Tokenizer) -> int:
    end = getattr(tokenizer, "end_of_text_id", None)
    if end is None:
        raise ValueError(
            "`tokenizer` must have an end of text, which ends what is written. "
            f"Received: {str(tokenizer)[:60]} with end_of_text_id=None."
        )
    return end


def _rate(name: str, value: float) -> float:
    rate = number_of(name, value)
    require(0 < rate < 1, f"`{name}` must be between 0 and 1", **{name: value})
    return rate


def _mean_length(value: float) -> float:
    mean = number_of("mean_span_length", value)
    require(mean >= 1, "`mean_span_length` must be at least 1", mean_span_length=value)
    return mean
