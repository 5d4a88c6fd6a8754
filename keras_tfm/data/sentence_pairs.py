"""Sentences that belong together, each by itself."""

from collections.abc import Sequence

import tensorflow as tf

from keras_tfm.arguments import as_integer
from keras_tfm.data.epochs import epochs_of_batches, shuffled
from keras_tfm.data.labels import check_equally_many, finite_floats, packer_of, warn_of_cut
from keras_tfm.tokenizers import SentencePacker, WordPieceTokenizer


def sentence_pair_dataset(
    texts: Sequence[str],
    pairs: Sequence[str],
    tokenizer: WordPieceTokenizer,
    sequence_length: int,
    batch_size: int,
    scores: Sequence[float] | None = None,
    shuffle: bool = True,
    seed: int = 0,
) -> tf.data.Dataset:
    """Batches of pairs for a `SentencePairRegressor`, or without scores for a `SentencePairRanker`.

    The texts are tokenized here and now, and their ids stay in memory. Each side of a batch is as wide as its longest
    row. Pairs are not sorted by length: a ranker shall not tell them apart by that.

    Args:
        texts: N strings.
        pairs: N strings, each of which belongs to the text of the same place.
        tokenizer: `WordPieceTokenizer` with [PAD], [CLS] and [SEP].
        sequence_length: int, T, at least 4. Longer texts lose their ends, with a warning.
        batch_size: int, B. A ranker learns more from larger ones. The last batch of an epoch may have fewer rows.
        scores: N floats, the cosine that each pair shall have, or None.
        shuffle: bool, a new order in each epoch.
        seed: int, decides the orders.

    Returns:
        tf.data.Dataset of known cardinality, prefetched, of ({"first": inputs, "second": inputs}, labels): inputs as
        those of `text_label_dataset`, and the scores, float32 (B,), or 0, 1, ..., B - 1, int32.

    Raises:
        ValueError: if there are no pairs, the lists are not equally long, scores are not finite, or a number is out of
            range.
        TypeError: if an argument is of another type.

    Example:
        >>> texts, pairs = ["the cat sat", "a hat"], ["a cat", "the hat"]
        >>> tokenizer = keras_tfm.tokenizers.WordPieceTokenizer.train(texts, vocabulary_size=17)
        >>> inputs, labels = next(iter(sentence_pair_dataset(texts, pairs, tokenizer, 16, batch_size=2)))
        >>> sorted(inputs), labels.numpy().tolist()
        (['first', 'second'], [0, 1])
    """
    batch_size = as_integer("batch_size", batch_size, least=1)
    seed = as_integer("seed", seed, least=0)
    num_pairs = check_equally_many(texts=texts, pairs=pairs, **({} if scores is None else {"scores": scores}))
    packer = packer_of(tokenizer, sequence_length)
    numbers = None if scores is None else tf.constant(finite_floats("scores", scores))
    sides = {}
    for side, sentences in (("first", texts), ("second", pairs)):
        sides[side], num_cut = _rows(packer, list(sentences))
        warn_of_cut(num_cut, num_pairs, sequence_length, "texts")

    def choose(epoch):
        order = shuffled(num_pairs, seed, epoch) if shuffle else tf.range(num_pairs, dtype=tf.int64)
        return tf.data.Dataset.from_tensor_slices(order).batch(batch_size)

    def make_batch(_epoch, _step, chosen):
        inputs = {}
        for side, ids in sides.items():
            rows = tf.gather(ids, chosen)
            token_ids = rows.to_tensor(tokenizer.pad_token_id)
            inputs[side] = {
                "token_ids": token_ids,
                "segment_ids": tf.zeros_like(token_ids),
                "padding_mask": tf.sequence_mask(rows.row_lengths(), tf.shape(token_ids)[1]),
            }
        return inputs, tf.range(tf.size(chosen)) if numbers is None else tf.gather(numbers, chosen)

    return epochs_of_batches(choose, make_batch, -(-num_pairs // batch_size), new_each=shuffle)


def _rows(packer: SentencePacker, texts: list[str]) -> tuple[tf.RaggedTensor, int]:
    """Token ids (N, tokens) with [CLS] and [SEP], and how many texts were cut."""
    lengths = packer.tokenizer(texts, add_special_tokens=False).row_lengths() + 2
    is_cut = lengths > packer.sequence_length
    rows = tf.RaggedTensor.from_tensor(packer(texts)["token_ids"], tf.minimum(lengths, packer.sequence_length))
    return rows, int(tf.math.count_nonzero(is_cut))
