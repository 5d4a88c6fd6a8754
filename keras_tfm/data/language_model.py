"""Text to batches of token ids and the ids that come next, packed without padding between documents."""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_tfm.arguments import as_integer
from keras_tfm.data.documents import tokenize_documents
from keras_tfm.data.epochs import epochs_of_batches, shuffled

_REMAINDERS = ("drop", "pad")


def language_model_dataset(
    texts_or_files: str | Path | Iterable[str | Path] | tf.data.Dataset,
    tokenizer: Callable[[list], tf.RaggedTensor],
    sequence_length: int,
    batch_size: int,
    shuffle: bool = True,
    seed: int = 0,
    remainder: str = "drop",
    drop_partial_batch: bool = False,
    initial_epoch: int = 0,
    repeat: bool = False,
) -> tf.data.Dataset:
    """Batches of token ids and next ids from text, for `fit`: `pack` and then `PackedTokens.dataset`.

    The text is tokenized here and now, and its ids stay in memory (4 bytes each). Call the two steps yourself to read
    the account of tokens, or to try several batch sizes.

    Args:
        texts_or_files: see `pack`.
        tokenizer: see `pack`.
        sequence_length: int, T.
        batch_size: int, B.
        shuffle: see `PackedTokens.dataset`; so the arguments below, but for `remainder`.
        seed: int.
        remainder: "drop" or "pad", see `pack`.
        drop_partial_batch: bool.
        initial_epoch: int.
        repeat: bool.

    Returns:
        tf.data.Dataset of (token_ids, next_ids), int32 (B, T) each; with `remainder="pad"` of (token_ids, next_ids,
        sample_weight), the last float32 (B, T).

    Raises:
        ValueError, TypeError, FileNotFoundError: see `pack` and `PackedTokens.dataset`.

    Example:
        >>> text = "the cat, the hat, the bat. " * 9
        >>> tokenizer = keras_tfm.tokenizers.BytePairTokenizer.train(text, vocabulary_size=264)
        >>> dataset = language_model_dataset(text, tokenizer, sequence_length=8, batch_size=4)
        >>> token_ids, next_ids = next(iter(dataset))
        >>> bool(tf.reduce_all(token_ids[:, 1:] == next_ids[:, :-1]))
        True
    """
    packed = pack(texts_or_files, tokenizer, sequence_length, remainder)
    return packed.dataset(batch_size, shuffle, seed, drop_partial_batch, initial_epoch, repeat)


def pack(
    texts_or_files: str | Path | Iterable[str | Path] | tf.data.Dataset,
    tokenizer: Callable[[list], tf.RaggedTensor],
    sequence_length: int,
    remainder: str = "drop",
) -> "PackedTokens":
    """Tokenizes documents, puts them in one row and marks out windows of `sequence_length` + 1 tokens.

    Each document is followed by the tokenizer's end-of-text token, if it has one; empty documents are left out. Windows
    share one token with the next, so that each token but the first is predicted once. A model sees across the border of
    documents within a window.

    Args:
        texts_or_files: a document as a `str`, a file (UTF-8, one document) as a `pathlib.Path`, an iterable of these,
            or a tf.data.Dataset of scalar strings or of dicts with a scalar string "text", as `tfds.load` gives it.
        tokenizer: maps a list of n strings to an integer RaggedTensor (n, tokens); it may have an `end_of_text_id`.
            Usually a `keras_tfm.tokenizers.Tokenizer`, such as `BytePairTokenizer`.
        sequence_length: int, T, the number of predictions in a window.
        remainder: "drop" leaves out the tokens after the last whole window, fewer than `sequence_length`; "pad" fills a
            last window with id 0 and gives these predictions a sample weight of 0.

    Returns:
        PackedTokens.

    Raises:
        ValueError: if `sequence_length` < 1, `remainder` is not known, there is no text, or too little for one window.
        TypeError: if texts, files or the tokenizer are of another type.
        FileNotFoundError: if a `Path` is no file.

    Example:
        >>> tokenizer = keras_tfm.tokenizers.BytePairTokenizer.train("bytes only", vocabulary_size=257)
        >>> packed = pack(["a document", "another"], tokenizer, sequence_length=4)
        >>> packed.num_tokens, packed.num_sequences, packed.num_dropped_tokens
        (19, 4, 2)
    """
    sequence_length = as_integer("sequence_length", sequence_length, least=1)
    if remainder not in _REMAINDERS:
        raise ValueError(f'`remainder` must be "drop" or "pad". Received: remainder={remainder!r}.')
    token_ids, num_documents = tokenize_documents(texts_or_files, tokenizer)
    token_ids.flags.writeable = False
    packed = PackedTokens(token_ids, num_documents, sequence_length, remainder)
    if not packed.num_sequences:
        advice = "Pass more text." if remainder == "pad" else 'Pass more text, or `remainder="pad"`.'
        raise ValueError(
            f"There must be {2 if remainder == 'pad' else sequence_length + 1} tokens or more for `sequence_length="
            f"{sequence_length}` and `remainder={remainder!r}`. Received: {packed.num_tokens} tokens. {advice} "
            "A `str` is text; a file is a `pathlib.Path`."
        )
    return packed


@dataclasses.dataclass(frozen=True, eq=False)
class PackedTokens:
    """The tokens of a text in one row, and an account of what becomes of them; made by `pack`.

    Each token but the first is predicted once, or dropped:
    `num_tokens == 1 + num_sequences * sequence_length - num_padded_tokens + num_dropped_tokens`.

    Args:
        token_ids: int32 array (num_tokens,).
        num_documents: int, documents that are not empty.
        sequence_length: int, T.
        remainder: "drop" or "pad", what to do with the tokens after the last whole window.
    """

    token_ids: np.ndarray = dataclasses.field(repr=False)
    num_documents: int
    sequence_length: int
    remainder: str = "drop"

    @property
    def num_tokens(self) -> int:
        """All tokens, those that end documents included."""
        return len(self.token_ids)

    @property
    def num_sequences(self) -> int:
        """Windows, a padded one included."""
        predictions = self.num_tokens - 1
        return (
            predictions // self.sequence_length if self.remainder == "drop" else -(-predictions // self.sequence_length)
        )

    @property
    def num_dropped_tokens(self) -> int:
        """Tokens at the end that are in no window: 0 to `sequence_length` - 1, and 0 with `remainder="pad"`."""
        return max(0, self.num_tokens - 1 - self.num_sequences * self.sequence_length)

    @property
    def num_padded_tokens(self) -> int:
        """Predictions without a token: 0 to `sequence_length` - 1, and 0 with `remainder="drop"`."""
        return max(0, self.num_sequences * self.sequence_length + 1 - self.num_tokens)

    def num_batches(self, batch_size: int, drop_partial_batch: bool = False) -> int:
        """Batches in one epoch: the `steps_per_epoch` that goes with `dataset(..., repeat=True)`."""
        whole, rest = divmod(self.num_sequences, as_integer("batch_size", batch_size, least=1))
        return whole + (rest > 0 and not drop_partial_batch)

    def dataset(
        self,
        batch_size: int,
        shuffle: bool = True,
        seed: int = 0,
        drop_partial_batch: bool = False,
        initial_epoch: int = 0,
        repeat: bool = False,
    ) -> tf.data.Dataset:
        """The windows in batches, in an order that (seed, epoch) decides and nothing else.

        Without `repeat`, the dataset counts epochs as it is read: one has passed once its last batch was taken. So
        `fit` sees a new order in each epoch, while looking at a few batches, as Keras does before training, changes
        nothing (unless one batch is the whole epoch). With `repeat` it is one fixed sequence, with no memory. Pass
        `shuffle=False` to `fit`: that argument is for arrays, and Keras 3.15 warns of its default.

        To go on with a run that was stopped, in a new process, as if it had not been, use `training.Checkpointer`; or:

        - After whole epochs: pass the same `initial_epoch` here and to `fit`.
        - After k batches of an epoch: use `repeat=True` with `steps_per_epoch` from the start, and go on with
          `dataset(..., initial_epoch=epoch, repeat=True).skip(k)`.

        Args:
            batch_size: int, B.
            shuffle: bool, a new order of windows in each epoch; else that of the text.
            seed: int, decides the orders.
            drop_partial_batch: bool, leave out the last batch of an epoch if it has fewer than B windows. With
                `shuffle`, other windows are left out in each epoch. Useful where each new shape is compiled anew.
            initial_epoch: int, the epoch to begin with.
            repeat: bool, all epochs from `initial_epoch` on, one after another without end; `fit` then needs
                `steps_per_epoch`, for which any number will do.

        Returns:
            tf.data.Dataset of known cardinality, prefetched, of (token_ids, next_ids), int32 (B, T) each; with
            `remainder="pad"` of (token_ids, next_ids, sample_weight), the last float32 (B, T): 1, or 0 where padded.
            Keras' losses divide by B * T all the same; the loss reduction "mean_with_sample_weight" divides by the sum
            of weights.

        Raises:
            ValueError: if `batch_size` < 1, `seed` or `initial_epoch` < 0, or no batch is left.
            ValueError: if one of the numbers is no integer.

        Example:
            >>> steps = packed.num_batches(batch_size=16)
            >>> model.fit(packed.dataset(16, repeat=True), steps_per_epoch=steps, epochs=5, shuffle=False)
            >>> # It was killed in epoch 3 after batch 100: load the checkpoint, end this epoch, then the others.
            >>> rest = packed.dataset(16, initial_epoch=3, repeat=True).skip(100)
            >>> model.fit(rest, steps_per_epoch=steps - 100, initial_epoch=3, epochs=4, shuffle=False)
            >>> rest = packed.dataset(16, initial_epoch=4, repeat=True)
            >>> model.fit(rest, steps_per_epoch=steps, initial_epoch=4, epochs=5, shuffle=False)
        """
        batch_size = as_integer("batch_size", batch_size, least=1)
        num_batches = self.num_batches(batch_size, drop_partial_batch)
        if not num_batches:
            raise ValueError(
                "`batch_size` must be at most the number of windows with `drop_partial_batch=True`. "
                f"Received: batch_size={batch_size} and {self.num_sequences} windows."
            )
        seed = as_integer("seed", seed, least=0)
        initial_epoch = as_integer("initial_epoch", initial_epoch, least=0)
        whole_batches = drop_partial_batch or self.num_sequences % batch_size == 0  # so that B is a static dimension
        windows = self._windows()

        def sequences(epoch: tf.Tensor) -> tf.data.Dataset:
            order = (
                shuffled(self.num_sequences, seed, epoch) if shuffle else tf.range(self.num_sequences, dtype=tf.int64)
            )
            return tf.data.Dataset.from_tensor_slices(order).batch(batch_size, drop_remainder=whole_batches)

        return epochs_of_batches(
            sequences,
            lambda _epoch, _step, chosen: windows(chosen),
            num_batches,
            initial_epoch,
            repeat,
            new_each=shuffle,
        )

    def _windows(self) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
        """A function from numbers of sequences (B,) to what a model is given."""
        num_tokens, sequence_length, with_weight = self.num_tokens, self.sequence_length, self.remainder == "pad"
        with tf.device("CPU:0"):
            token_ids = tf.constant(np.pad(self.token_ids, (0, self.num_padded_tokens)))

        def windows(sequences: tf.Tensor) -> tuple[tf.Tensor, ...]:
            places = sequences[:, None] * sequence_length + tf.range(sequence_length + 1, dtype=tf.int64)  # (B, T + 1)
            ids = tf.gather(token_ids, places)
            pair = ids[:, :-1], ids[:, 1:]
            return (*pair, tf.cast(places[:, 1:] < num_tokens, tf.float32)) if with_weight else pair

        return windows


def with_document_ids(end_of_text_id: int) -> Callable:
    """A function for `dataset.map` that lets a model keep the documents of a packed row apart.

    It turns (token_ids, next_ids, ...) into ({"token_ids", "document_ids"}, next_ids, ...). Each row counts its
    documents from 0; an end-of-text token belongs to the document that it ends. With them `CausalLM` restarts positions
    at each document and lets no token look into another one.

    Args:
        end_of_text_id: int, the token that ends documents; a tokenizer's `end_of_text_id`.

    Returns:
        A function of int32 (B, T) tensors.

    Raises:
        ValueError: for an id that is no integer, such as the None of a tokenizer without an end-of-text token.

    Example:
        >>> dataset = language_model_dataset(files, tokenizer, sequence_length=256, batch_size=16)
        >>> model.fit(dataset.map(with_document_ids(tokenizer.end_of_text_id)), shuffle=False)

    Reference:
        Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination", https://arxiv.org/abs/2107.02027
    """
    end_of_text_id = as_integer("end_of_text_id", end_of_text_id, note=": that of the tokenizer's end-of-text token")

    def add(token_ids: tf.Tensor, *others: tf.Tensor) -> tuple:
        ends = tf.cast(token_ids == end_of_text_id, tf.int32)
        return {"token_ids": token_ids, "document_ids": tf.cumsum(ends, axis=-1, exclusive=True)}, *others

    return add
