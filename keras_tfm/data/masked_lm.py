"""Text to batches for BERT's pretraining: masked tokens and, if asked for, next-sentence pairs."""

from collections.abc import Iterable
from pathlib import Path

import tensorflow as tf

from keras_tfm.arguments import as_integer
from keras_tfm.data.epochs import epochs_of_batches, shuffled
from keras_tfm.data.sentence_rows import PairRows, SingleRows
from keras_tfm.data.token_masking import TokenMasker
from keras_tfm.tokenizers import WordPieceTokenizer


def masked_lm_dataset(
    texts_or_files: str | Path | Iterable[str | Path] | tf.data.Dataset,
    tokenizer: WordPieceTokenizer,
    sequence_length: int,
    batch_size: int,
    next_sentence: bool = True,
    mask_rate: float = 0.15,
    whole_word: bool = False,
    shuffle: bool = True,
    seed: int = 0,
    dynamic: bool = True,
    initial_epoch: int = 0,
    repeat: bool = False,
) -> tf.data.Dataset:
    """Batches for `fit` with a model that has the outputs "masked_lm" and, if asked for, "next_sentence".

    The text is tokenized here and now, and its ids stay in memory. Everything else is drawn in `tf.data`, anew in each
    epoch, as (seed, epoch, batch size) decide and nothing else.

    With `next_sentence`, documents are divided into chunks of whole sentences that fill a row, and each row is [CLS] a
    [SEP] b [SEP]: a chunk is cut between two sentences, at random, and with probability 1/2 its second part is replaced
    by text from a random place in another document, as long as the part that it replaces if that document goes on
    for so long. A sentence ends at a line end, or at . ! ? before white space; a document without a second sentence is
    cut between words. Without `next_sentence`, each row is [CLS] text [SEP]: as many whole sentences as fit, over the
    ends of documents, which a [SEP] marks, as in RoBERTa.

    Special tokens, [UNK] among them, are never chosen. How many tokens are: see `TokenMasker`.

    Args:
        texts_or_files: a document as a `str`, a file (UTF-8, one document) as a `pathlib.Path`, an iterable of these,
            or a tf.data.Dataset of scalar strings or of dicts with a scalar string "text". `text.split("\\n\\n")`
            makes documents of a text that has empty lines between them.
        tokenizer: `WordPieceTokenizer` with [PAD], [CLS], [SEP] and [MASK].
        sequence_length: int, T, at least 8.
        batch_size: int, B. The last batch of an epoch may have fewer rows.
        next_sentence: bool, pairs and their label.
        mask_rate: float between 0 and 1.
        whole_word: bool, hide words, not single pieces; each with probability `mask_rate`, whatever its length.
        shuffle: bool, a new order of chunks in each epoch; else that of the text.
        seed: int.
        dynamic: bool, draw anew in each epoch; False gives the same batches each time, for validation.
        initial_epoch: int, the epoch to begin with, to resume a run.
        repeat: bool, all epochs one after another without end; `fit` then needs `steps_per_epoch`.

    Returns:
        tf.data.Dataset of known cardinality, prefetched, of (inputs, labels, sample weights):

        - inputs: dict of `token_ids` int32 (B, T), `segment_ids` int32 (B, T), `padding_mask` bool (B, T) and
          `mask_positions` int32 (B, M), where M = ceil(`mask_rate` * (T - 2)), or T - 3 for pairs, and 7 more with
          `whole_word`; unused ones are 0.
        - labels: dict of "masked_lm" int32 (B, M), the ids that were at `mask_positions`, and "next_sentence"
          int32 (B,): 0 = the second part is next, 1 = it is random.
        - sample weights: dict of float32 with the same keys: 1, or 0 at unused `mask_positions`. Keras' losses divide
          by B * M all the same; the loss reduction "mean_with_sample_weight" divides by the sum of weights.

    Raises:
        ValueError: if a number is out of range, there is no text, no document for pairs (there must be two), or the
            vocabulary lacks a special token.
        TypeError: if an argument is of another type.

    Example:
        >>> documents = ["the cat sat. the hat sat.", "a bat sat. the cat sat on it."] * 9
        >>> tokenizer = keras_tfm.tokenizers.WordPieceTokenizer.train(documents, vocabulary_size=30)
        >>> dataset = masked_lm_dataset(documents, tokenizer, sequence_length=16, batch_size=4)
        >>> inputs, labels, weights = next(iter(dataset))
        >>> inputs["token_ids"].shape, labels["masked_lm"].shape, labels["next_sentence"].shape
        (TensorShape([4, 16]), TensorShape([4, 2]), TensorShape([4]))

    Reference:
        Devlin et al. 2019, "BERT", section 3.1, https://arxiv.org/abs/1810.04805; without pairs and with masks drawn
        anew: Liu et al. 2019, "RoBERTa", section 4, https://arxiv.org/abs/1907.11692
    """
    if not isinstance(tokenizer, WordPieceTokenizer):
        raise TypeError(
            "`tokenizer` must be a WordPieceTokenizer. "
            f"Received: {str(tokenizer)[:60]} of type {type(tokenizer).__name__}."
        )
    sequence_length = as_integer("sequence_length", sequence_length, least=8)
    batch_size = as_integer("batch_size", batch_size, least=1)
    seed = as_integer("seed", seed, least=0)
    initial_epoch = as_integer("initial_epoch", initial_epoch, least=0)
    special_length = 3 if next_sentence else 2
    mask = TokenMasker(tokenizer, mask_rate, whole_word, sequence_length - special_length)
    make_rows = (PairRows if next_sentence else SingleRows)(texts_or_files, tokenizer, sequence_length)
    num_rows = make_rows.num_rows
    whole_batches = num_rows % batch_size == 0  # so that B is a static dimension

    def choose(epoch: tf.Tensor) -> tf.data.Dataset:
        order = shuffled(num_rows, seed, epoch) if shuffle else tf.range(num_rows, dtype=tf.int64)
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size, drop_remainder=whole_batches)

    def make_batch(epoch: tf.Tensor, step: tf.Tensor, chosen: tf.Tensor) -> tuple[dict, dict, dict]:
        key = tf.stack([tf.constant(seed, tf.int64), epoch])
        key = tf.random.fold_in(key, step, alg="philox")
        row_key, mask_key = tf.unstack(tf.random.split(key, 2, alg="philox"), num=2)
        inputs, labels, weights = make_rows(chosen, row_key)
        token_ids, positions, ids, mask_weights = mask(inputs["token_ids"], mask_key)
        inputs = inputs | {"token_ids": token_ids, "mask_positions": positions}
        return inputs, {"masked_lm": ids} | labels, {"masked_lm": mask_weights} | weights

    num_batches = -(-num_rows // batch_size)
    return epochs_of_batches(choose, make_batch, num_batches, initial_epoch, repeat, new_each=dynamic)
