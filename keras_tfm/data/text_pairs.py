"""Texts and what they are to become, such as translations or summaries, for an encoder-decoder."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_tfm.arguments import as_integer, check_in_vocabulary, require
from keras_tfm.data.documents import blocks
from keras_tfm.data.epochs import epochs_of_batches
from keras_tfm.data.labels import check_equally_many, warn_of_cut
from keras_tfm.data.token_rows import batches_by_length, rounded_up
from keras_tfm.tokenizers import Tokenizer


def text_pair_dataset(
    sources: Sequence[str],
    targets: Sequence[str],
    source_tokenizer: Tokenizer,
    target_tokenizer: Tokenizer,
    source_length: int,
    target_length: int,
    batch_size: int,
    start_token_id: int,
    length_buckets: bool = True,
    shuffle: bool = True,
    seed: int = 0,
    initial_epoch: int = 0,
    repeat: bool = False,
) -> tf.data.Dataset:
    """Batches of pairs to train a `Seq2SeqLM` with `fit`, by teacher forcing.

    The decoder reads the start token and all tokens of the right target but the last, and is to say the target's tokens
    one after another, the end of text included. A source ends with the end of text as well, if its tokenizer has one.
    What tokenizers put around texts by themselves stays, as in `TextToText`.

    The texts are tokenized here and now, and their ids stay in memory. Each side of a batch is as wide as its longest
    row, rounded up (to 8, 16, ..., 64, 80, ..., 128, 160, ...) so that there are few shapes; with `shuffle` and
    `length_buckets` a batch holds pairs whose targets, and then sources, are of about the same length.

    Args:
        sources: N strings. An empty one needs a tokenizer that ends texts.
        targets: N strings, each of which belongs to the source of the same place. An empty one is its end alone.
        source_tokenizer: a tokenizer of the library, or your own.
        target_tokenizer: another or the same, with an `end_of_text_id`.
        source_length: int, S, at least 2, the most tokens of a source, its end of text among them. Longer ones
            are cut before it, with a warning.
        target_length: int, T, alike.
        batch_size: int, B. One batch of an epoch may have fewer rows.
        start_token_id: int, what the decoder reads first: the model's `start_token_id`.
        length_buckets: bool, False makes all batches S and T wide, where each new shape is compiled anew.
        shuffle: bool, a new order in each epoch; False keeps that of the texts, for `evaluate` and `predict`.
        seed: int, decides the orders.
        initial_epoch: int, the epoch to begin with, to resume a run.
        repeat: bool, all epochs one after another without end; `fit` then needs `steps_per_epoch`.

    Returns:
        tf.data.Dataset of known cardinality, prefetched, of (inputs, labels, sample weights):

        - inputs: dict of `encoder_token_ids` int32 (B, S'), `encoder_padding_mask` bool (B, S'), `decoder_token_ids`
          int32 (B, T') and `decoder_padding_mask` bool (B, T'), with S' <= S and T' <= T; 0 where padded.
        - labels: int32 (B, T'), the token that follows each of the decoder's; 0 where padded.
        - sample weights: float32 (B, T'), 1, or 0 where padded. Keras' losses divide by B * T' all the same; the loss
          reduction "mean_with_sample_weight" divides by the sum of weights.

    Raises:
        ValueError: if there are no pairs, not as many on both sides, a source has no token, the target's tokenizer has
            no end of text, the start token is none of its tokens, or a number is out of range.
        TypeError: if an argument is of another type.

    Example:
        >>> tokenizer = keras_tfm.tokenizers.CharacterTokenizer("abcd", ["<pad>", "<|endoftext|>"])
        >>> dataset = text_pair_dataset(["ab", "b"], ["cd", "d"], tokenizer, tokenizer, 8, 8, 2, 0, shuffle=False)
        >>> inputs, labels, weights = next(iter(dataset))
        >>> inputs["encoder_token_ids"].numpy()[0].tolist(), inputs["decoder_token_ids"].numpy()[0].tolist()
        ([2, 3, 1, 0, 0, 0, 0, 0], [0, 4, 5, 0, 0, 0, 0, 0])
        >>> labels.numpy()[0].tolist(), weights.numpy()[0].tolist()
        ([4, 5, 1, 0, 0, 0, 0, 0], [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])

    Reference:
        Sutskever et al. 2014, "Sequence to Sequence Learning with Neural Networks", https://arxiv.org/abs/1409.3215
    """
    source_length = as_integer("source_length", source_length, least=2)
    target_length = as_integer("target_length", target_length, least=2)
    start_token_id = as_integer("start_token_id", start_token_id, least=0)
    check_in_vocabulary(target_tokenizer.vocabulary_size, start_token_id=start_token_id)
    initial_epoch = as_integer("initial_epoch", initial_epoch, least=0)
    num_pairs = check_equally_many(sources=sources, targets=targets)
    if target_tokenizer.end_of_text_id is None:
        raise ValueError(
            "`target_tokenizer` must have an end of text, or nothing that is written would ever end. "
            f"Received: {target_tokenizer!r} with end_of_text_id=None."
        )
    source_rows, num_cut = _rows(sources, source_tokenizer, "source_length", source_length)
    warn_of_cut(num_cut, num_pairs, source_length, "sources", "source_length")
    target_rows, num_cut = _rows(targets, target_tokenizer, "target_length", target_length)
    warn_of_cut(num_cut, num_pairs, target_length, "targets", "target_length")
    source_lengths, target_lengths = source_rows.row_lengths().numpy(), target_rows.row_lengths().numpy()
    if not source_lengths.all():
        raise ValueError(
            "Each source must have a token, or `source_tokenizer` an end of text. "
            f"Received: {sources[int(np.argmin(source_lengths))]!r}, source {np.argmin(source_lengths)}."
        )

    source_widths = np.minimum(rounded_up(source_lengths), source_length)
    target_widths = np.minimum(rounded_up(target_lengths), target_length)
    with tf.device("CPU:0"):
        source_rows, target_rows = tf.identity(source_rows), tf.identity(target_rows)
        widths = tf.constant(np.stack([source_widths, target_widths], axis=1), tf.int64)  # (N, 2)
        buckets = widths[:, 1] * (source_length + 1) + widths[:, 0] if length_buckets else tf.zeros_like(widths[:, 0])
    choose, num_batches = batches_by_length(buckets, batch_size, shuffle, seed)

    def make_batch(_epoch: tf.Tensor, _step: tf.Tensor, chosen: tf.Tensor) -> tuple[dict, tf.Tensor, tf.Tensor]:
        most = tf.reduce_max(tf.gather(widths, chosen), axis=0)
        source_width, target_width = tf.unstack(most) if length_buckets else (source_length, target_length)
        encoder_ids, encoder_mask = _padded(source_rows, chosen, source_width)
        labels, decoder_mask = _padded(target_rows, chosen, target_width)
        inputs = {
            "encoder_token_ids": encoder_ids,
            "encoder_padding_mask": encoder_mask,
            "decoder_token_ids": shifted_right(labels, start_token_id, decoder_mask),
            "decoder_padding_mask": decoder_mask,
        }
        return inputs, labels, tf.cast(decoder_mask, tf.float32)

    return epochs_of_batches(choose, make_batch, num_batches, initial_epoch, repeat, new_each=shuffle)


def shifted_right(labels: tf.Tensor, start_token_id: int, mask: tf.Tensor | None = None) -> tf.Tensor:
    """What a decoder reads to say `labels`, int32 (B, T): the start token and all but the last; 0 where padded."""
    start = tf.fill([tf.shape(labels)[0], 1], tf.cast(start_token_id, labels.dtype))
    token_ids = tf.concat([start, labels[:, :-1]], axis=1)
    return token_ids if mask is None else tf.where(mask, token_ids, 0)


def _rows(texts: Sequence[str], tokenizer: Tokenizer, name: str, length: int) -> tuple[tf.RaggedTensor, int]:
    """Token ids (N, tokens), each row with its end of text, and how many texts were cut; `name`: of the length."""
    num_ending = len(tokenizer.ending_ids)
    require(
        length > num_ending, f"`{name}` must be more than the {num_ending} tokens that end a text", **{name: length}
    )
    pieces, num_cut = [], 0
    for block in blocks(iter(texts)):
        rows = tokenizer.whole_rows(block)
        num_cut += int(tf.math.count_nonzero(rows.row_lengths() > length))
        pieces.append(tokenizer.cut_rows(rows, length))
    return tf.concat(pieces, axis=0), num_cut


def _padded(rows: tf.RaggedTensor, chosen: tf.Tensor, width: tf.Tensor | int) -> tuple[tf.Tensor, tf.Tensor]:
    """The ids of some rows, int32 (B, width), and whether there is a token, bool (B, width)."""
    rows = tf.gather(rows, chosen)
    shape = [None, width] if isinstance(width, int) else tf.stack([tf.constant(-1, tf.int64), width])
    return rows.to_tensor(0, shape=shape), tf.sequence_mask(rows.row_lengths(), width)
