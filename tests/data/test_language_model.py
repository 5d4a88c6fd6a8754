"""Packing and its account, the order of windows, and resuming."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_tfm.data import PackedTokens, language_model_dataset, pack
from keras_tfm.tokenizers import BytePairTokenizer


def text_of(rows) -> list[str]:
    return ["".join(map(chr, row)) for row in np.asarray(rows)]


def numbers(count: int, sequence_length: int = 1, remainder: str = "drop") -> PackedTokens:
    """Tokens 0, 1, ..., so that a window of 1 is its own number."""
    return PackedTokens(np.arange(count, dtype=np.int32), 1, sequence_length, remainder)


def order(dataset: tf.data.Dataset) -> list[list[int]]:
    """The first token of each window, batch by batch."""
    return [batch[0][:, 0].numpy().tolist() for batch in dataset]


def flat(lists) -> list:
    return list(itertools.chain.from_iterable(lists))


# ---- packing


def test_documents_are_joined_and_cut_with_every_next_id_predicted_once(characters_with_end):
    packed = pack(["abc", "", "de", "fghijk"], characters_with_end, sequence_length=4)
    assert text_of([packed.token_ids]) == ["abc|de|fghijk|"]
    (token_ids, next_ids), *rest = packed.dataset(batch_size=8, shuffle=False)
    assert text_of(token_ids) == ["abc|", "de|f", "ghij"]
    assert text_of(next_ids) == ["bc|d", "e|fg", "hijk"]
    assert not rest
    assert (packed.num_documents, packed.num_tokens, packed.num_sequences) == (3, 14, 3)
    assert (packed.num_dropped_tokens, packed.num_padded_tokens) == (1, 0)


def test_an_end_that_the_tokenizer_puts_there_is_not_put_there_twice(characters_with_end):
    class Ending:
        end_of_text, end_of_text_id = "|", ord("|")

        def __init__(self, *end_tokens):
            self.end_tokens = end_tokens

        def __call__(self, texts):
            return characters_with_end([text + "".join(self.end_tokens) for text in texts])

    assert pack(["ab", "c"], Ending("|"), 2).token_ids.tolist() == [*b"ab|c|"]
    assert pack(["ab", "c"], Ending("|", "@"), 2).token_ids.tolist() == [*b"ab|@c|@"]
    assert pack(["ab", "c"], Ending("@"), 2).token_ids.tolist() == [*b"ab@|c@|"]


def test_the_last_window_is_padded_without_weight(characters_with_end):
    packed = pack(["abc", "de", "fghijk"], characters_with_end, sequence_length=4, remainder="pad")
    ((token_ids, next_ids, weight),) = packed.dataset(batch_size=8, shuffle=False)
    assert text_of(token_ids) == ["abc|", "de|f", "ghij", "k|\0\0"]
    assert text_of(next_ids) == ["bc|d", "e|fg", "hijk", "|\0\0\0"]
    np.testing.assert_array_equal(weight, [[1] * 4] * 3 + [[1, 0, 0, 0]])
    assert weight.dtype == tf.float32
    assert (packed.num_sequences, packed.num_dropped_tokens, packed.num_padded_tokens) == (4, 0, 3)


def test_without_an_end_of_text_token_documents_are_only_joined(characters):
    assert text_of([pack(["ab", "cd"], characters, 1).token_ids]) == ["abcd"]


@pytest.mark.parametrize("remainder", ["drop", "pad"])
@pytest.mark.parametrize("sequence_length", [1, 2, 5])
def test_the_account_adds_up(sequence_length, remainder):
    for num_tokens in range(sequence_length + 1, 4 * sequence_length + 2):
        packed = numbers(num_tokens, sequence_length, remainder)
        predicted = packed.num_sequences * sequence_length - packed.num_padded_tokens
        assert packed.num_tokens == 1 + predicted + packed.num_dropped_tokens
        assert 0 <= packed.num_dropped_tokens < sequence_length
        assert 0 <= packed.num_padded_tokens < sequence_length
    batches = list(packed.dataset(3, shuffle=True))
    next_ids = np.concatenate([batch[1] for batch in batches])
    weights = np.concatenate([batch[2] for batch in batches]) if remainder == "pad" else np.ones_like(next_ids)
    assert sorted(next_ids[weights == 1]) == list(range(1, 1 + predicted))


def test_next_ids_are_token_ids_shifted(characters):
    text = "".join(map(chr, range(32, 127)))
    for token_ids, next_ids in language_model_dataset(text, characters, sequence_length=7, batch_size=4):
        np.testing.assert_array_equal(token_ids[:, 1:], next_ids[:, :-1])
        np.testing.assert_array_equal(token_ids + 1, next_ids)
        assert token_ids.dtype == next_ids.dtype == tf.int32


def test_many_documents_in_several_blocks_give_what_one_block_gives(characters_with_end, monkeypatch):
    documents = ["x" * length for length in range(30)]
    whole = pack(documents, characters_with_end, 4).token_ids
    monkeypatch.setattr("keras_tfm.data.documents._BLOCK", 50)
    np.testing.assert_array_equal(pack(iter(documents), characters_with_end, 4).token_ids, whole)


def test_the_byte_pair_tokenizer_gives_its_ids_with_the_end_of_text():
    texts = ["The cat sat on the mat. " * 5, "the <|endoftext|> hat 日本"]
    tokenizer = BytePairTokenizer.train(texts, vocabulary_size=270)
    packed = pack(texts, tokenizer, 4)
    assert packed.token_ids.tolist() == flat([*tokenizer.encode(text), tokenizer.end_of_text_id] for text in texts)
    # Tokens around texts are there as well, and the end only once.
    framed = tokenizer.changed(begin_tokens=["<|endoftext|>"], end_tokens=["<|endoftext|>"])
    assert pack(texts, framed, 2).token_ids.tolist() == flat(map(framed.encode, texts))
    assert packed.token_ids.dtype == np.int32


def test_the_docstring_account_is_true():
    packed = pack(["a document", "another"], BytePairTokenizer.train("bytes only", vocabulary_size=257), 4)
    assert (packed.num_tokens, packed.num_sequences, packed.num_dropped_tokens) == (19, 4, 2)


def test_packed_tokens_do_not_change(characters):
    packed = pack("abcdef", characters, 2)
    with pytest.raises(ValueError, match="read-only"):
        packed.token_ids[0] = 1


# ---- where text comes from


def test_all_kinds_of_input_give_the_same_tokens(characters_with_end, tmp_path):
    texts = ["é one\r\n", "two 日本", "three"]
    files = [tmp_path / f"{number}.txt" for number in range(3)]
    for file, text in zip(files, texts, strict=True):
        file.write_bytes(text.encode())
    strings = tf.data.Dataset.from_tensor_slices(texts)
    inputs = {
        "list": texts,
        "generator": (text for text in texts),
        "files": files,
        "mixed": [texts[0], files[1], texts[2]],
        "array": np.array(texts),
        "strings": strings,
        "dicts": strings.map(lambda text: {"text": text, "label": 0}),
    }
    expected = pack(texts, characters_with_end, 4).token_ids.tolist()
    assert text_of([expected]) == ["|".join(texts) + "|"]
    for name, source in inputs.items():
        assert pack(source, characters_with_end, 4).token_ids.tolist() == expected, name
    for source in (texts[0], files[0]):
        assert text_of([pack(source, characters_with_end, 4).token_ids]) == [texts[0] + "|"]


def test_one_large_document_is_tokenized_whole():
    tokenizer = BytePairTokenizer.train("ab abab " * 10, vocabulary_size=260)
    text = "abab " * 400_000
    packed = pack(text, tokenizer, 64)
    assert packed.num_tokens == len(tokenizer(text)) + 1


# ---- batches


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_partial_batch", [True, False])
@pytest.mark.parametrize("batch_size", [3, 4, 20])
def test_cardinality_is_the_number_of_batches(batch_size, drop_partial_batch, shuffle):
    packed = numbers(21)
    dataset = packed.dataset(batch_size, shuffle, drop_partial_batch=drop_partial_batch)
    sizes = [len(batch) for batch in order(dataset)]
    whole, rest = divmod(20, batch_size)
    assert sizes == [batch_size] * whole + [rest] * (rest > 0 and not drop_partial_batch)
    assert len(sizes) == dataset.cardinality() == packed.num_batches(batch_size, drop_partial_batch)
    assert dataset.skip(1).cardinality() == len(sizes) - 1


def test_the_shape_is_static_where_all_batches_are_whole():
    def shape(*arguments, **options):
        return tuple(numbers(21, 2).dataset(*arguments, **options).element_spec[0].shape)

    assert shape(5) == (5, 2)
    assert shape(4) == (None, 2)
    assert shape(4, drop_partial_batch=True) == (4, 2)


# ---- order


def test_without_shuffle_windows_keep_the_order_of_the_text():
    dataset = numbers(8).dataset(3, shuffle=False)
    for _ in range(2):
        assert order(dataset) == [[0, 1, 2], [3, 4, 5], [6]]


def test_each_epoch_has_all_windows_in_a_new_order():
    dataset = numbers(101).dataset(8)
    epochs = [flat(order(dataset)) for _ in range(3)]
    assert all(sorted(epoch) == list(range(100)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, range(100)]}) == 4


def test_the_order_is_that_of_seed_and_epoch_alone():
    packed = numbers(101)
    dataset = packed.dataset(8, seed=5)
    epochs = [order(dataset) for _ in range(3)]
    for epoch in (2, 0, 1):
        assert order(packed.dataset(8, seed=5, initial_epoch=epoch)) == epochs[epoch]
    assert flat(order(packed.dataset(20, seed=5))) == flat(epochs[0])  # whatever the batch size
    assert order(packed.dataset(8, seed=6)) != epochs[0]


def test_the_order_does_not_change_between_versions():
    # A run that is resumed after an update must go on as it would have. If this fails, TensorFlow's
    # `stateless_shuffle` has changed.
    assert order(numbers(11).dataset(10, seed=7, initial_epoch=1)) == [[9, 1, 0, 4, 2, 5, 3, 8, 6, 7]]


def test_looking_at_some_batches_is_no_epoch():
    packed = numbers(41)
    dataset = packed.dataset(8)
    first = order(dataset.take(1))
    assert order(dataset.take(4)) == order(packed.dataset(8))[:4]
    assert order(dataset)[:1] == first  # all 5 batches: an epoch
    assert order(dataset) == order(packed.dataset(8, initial_epoch=1))


def test_two_iterators_of_one_epoch_do_not_disturb_each_other():
    packed = numbers(41)
    dataset = packed.dataset(8)
    pairs = list(zip(dataset, dataset, strict=True))
    assert [first[0].numpy().tolist() for first, _ in pairs] == [second[0].numpy().tolist() for _, second in pairs]
    assert order(dataset) == order(packed.dataset(8, initial_epoch=1))


@pytest.mark.parametrize("shuffle", [True, False])
def test_repeat_is_one_epoch_after_another(shuffle):
    packed = numbers(21)
    epochs = [order(packed.dataset(8, shuffle, initial_epoch=epoch)) for epoch in range(3)]
    endless = packed.dataset(8, shuffle, repeat=True)
    assert endless.cardinality() == tf.data.INFINITE_CARDINALITY
    for _ in range(2):  # it has no memory
        assert order(endless.take(9)) == flat(epochs)
    assert order(endless.skip(4).take(5)) == flat(epochs)[4:]
    resumed = packed.dataset(8, shuffle, initial_epoch=1, repeat=True)
    assert order(resumed.skip(1).take(5)) == flat(epochs)[4:]


def test_a_dataset_made_under_a_distribution_strategy_counts_epochs_too():
    packed = numbers(21)
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        dataset = strategy.experimental_distribute_dataset(packed.dataset(8))
    for epoch in range(2):
        assert order(dataset) == order(packed.dataset(8, initial_epoch=epoch))


class Recorder(keras.Model):
    """Notes the first token of each window that it is trained on."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Embedding(64, 64)
        self.seen = []

    def call(self, token_ids):
        return self.dense(token_ids)

    def train_step(self, data):
        tf.numpy_function(lambda token_ids: self.seen.append(token_ids[:, 0].tolist()), [data[0]], [])
        return super().train_step(data)


def fit(dataset, steps_per_execution=1, **options) -> list[list[int]]:
    model = Recorder()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"], steps_per_execution=steps_per_execution, jit_compile=False)
    model.fit(dataset, shuffle=False, verbose=0, **options)  # `shuffle` is for arrays; Keras warns of its default
    return model.seen


@pytest.mark.parametrize("steps_per_execution", [1, 2])
def test_fit_sees_each_epoch_once_and_resumes_with_initial_epoch(steps_per_execution):
    packed = numbers(33)
    epochs = flat(order(packed.dataset(8, initial_epoch=epoch)) for epoch in range(4))
    assert fit(packed.dataset(8), steps_per_execution, epochs=4) == epochs
    resumed = packed.dataset(8, initial_epoch=2)
    assert fit(resumed, steps_per_execution, epochs=4, initial_epoch=2) == epochs[8:]


def test_fit_resumes_in_the_middle_of_an_epoch():
    packed = numbers(33)  # 4 batches
    epochs = flat(order(packed.dataset(8, initial_epoch=epoch)) for epoch in range(3))
    endless = packed.dataset(8, repeat=True)
    assert fit(endless, steps_per_epoch=4, epochs=3) == epochs
    assert fit(endless, steps_per_epoch=3, epochs=2) == epochs[:6]  # any number of steps
    rest = packed.dataset(8, initial_epoch=1, repeat=True).skip(3)
    assert fit(rest, steps_per_epoch=1, initial_epoch=1, epochs=2) == epochs[7:8]
    assert fit(rest, steps_per_epoch=5, epochs=1) == epochs[7:12]


# ---- errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"sequence_length": 0},
            ValueError,
            "`sequence_length` must be an integer of at least 1. Received: sequence_length=0",
        ),
        ({"sequence_length": 2.5}, ValueError, "`sequence_length` must be an integer.*Received: sequence_length=2.5"),
        ({"sequence_length": 9}, ValueError, "must be 10 tokens or more .* Received: 6 tokens"),
        ({"remainder": "wrap"}, ValueError, "`remainder` must be .* Received: remainder='wrap'"),
        ({"texts_or_files": "a", "remainder": "pad"}, ValueError, "must be 2 tokens or more .* Received: 1 tokens"),
        ({"texts_or_files": ""}, ValueError, "There must be text .* Received: '' of type str"),
        ({"texts_or_files": []}, ValueError, r"There must be text .* Received: \[\] of type list"),
        ({"texts_or_files": b"abc"}, TypeError, "Received: b'abc' of type bytes"),
        ({"texts_or_files": {"train": "abc"}}, TypeError, "Received: {'train': 'abc'} of type dict"),
        ({"texts_or_files": 3}, TypeError, "Received: 3 of type int"),
        ({"texts_or_files": ["abc", 4]}, TypeError, "Each text must be a str .* Received: 4 of type int"),
        ({"tokenizer": "gpt2"}, TypeError, "`tokenizer` must be callable .* Received: 'gpt2' of type str"),
        ({"tokenizer": lambda texts: [[1]]}, TypeError, "`tokenizer` must map .* Received: list of shape None"),
        ({"tokenizer": tf.strings.length}, TypeError, r"Received: EagerTensor of shape \(1,\)"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be an integer of at least 1. Received: batch_size=0"),
        ({"batch_size": "4"}, ValueError, "`batch_size` must be an integer.*Received: batch_size='4'"),
        ({"batch_size": 6, "drop_partial_batch": True}, ValueError, "Received: batch_size=6 and 2 windows"),
        ({"seed": None}, ValueError, "`seed` must be an integer.*Received: seed=None"),
        ({"seed": -1}, ValueError, "`seed` must be an integer of at least 0. Received: seed=-1"),
        (
            {"initial_epoch": -1},
            ValueError,
            "`initial_epoch` must be an integer of at least 0. Received: initial_epoch=-1",
        ),
    ],
)
def test_wrong_arguments_are_refused(options, error, message, characters):
    arguments = {"texts_or_files": "abcdef", "tokenizer": characters, "sequence_length": 2, "batch_size": 1}
    with pytest.raises(error, match=message):
        language_model_dataset(**(arguments | options))


def test_a_missing_file_is_refused(characters, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Each `Path` .* Received: '.*none\.txt'"):
        pack(["text", tmp_path / "none.txt"], characters, 2)
    with pytest.raises(FileNotFoundError, match="must be a file"):
        pack(tmp_path, characters, 2)


def test_a_tf_data_dataset_of_something_else_is_refused(characters):
    dataset = tf.data.Dataset.from_tensor_slices(["ab", "cd"])
    with pytest.raises(TypeError, match=r"Received: element_spec=TensorSpec\(shape=\(None,\), dtype=tf.string"):
        pack(dataset.batch(2), characters, 1)
    with pytest.raises(TypeError, match=r"Received: element_spec=\{'label': TensorSpec"):
        pack(dataset.map(lambda text: {"label": text}), characters, 1)
    with pytest.raises(TypeError, match=r"Received: element_spec=TensorSpec\(shape=\(\), dtype=tf.int64"):
        pack(tf.data.Dataset.range(3), characters, 1)
    with pytest.raises(ValueError, match=r"must end\. Received: one of infinite cardinality"):
        pack(dataset.repeat(), characters, 1)
