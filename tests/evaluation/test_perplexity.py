"""Perplexity of long texts: each token counts once, after as many tokens as the stride leaves it."""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_tfm.evaluation import TextPerplexity, perplexity
from keras_tfm.generation import TextGenerator, TextToText
from keras_tfm.models import build_llama, build_transformer
from tests.huggingface import gpt2_pair

_windows = sys.modules["keras_tfm.evaluation.perplexity"]._windows
TEXT = "But, soft! what light through yonder window breaks?\nArise, fair sun!"


@pytest.fixture(scope="module")
def pair(tiny_tokenizer):
    """(Hugging Face's GPT-2, our writer) with the same random weights and 16 positions."""
    theirs, ours = gpt2_pair(vocabulary_size=tiny_tokenizer.vocabulary_size)
    return theirs, TextGenerator(ours, tiny_tokenizer)


def strided_loop(model, ids, length, stride):
    """(sum of log-probabilities, number of tokens), as the guide of transformers does it, its means made sums."""
    total, count, end_before = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + length, len(ids))
        window = torch.tensor([ids[begin:end]])
        labels = window.clone()
        labels[:, : -(end - end_before)] = -100
        with torch.no_grad():
            loss = model(window, labels=labels).loss
        number = int((labels[:, 1:] != -100).sum())  # labels are shifted by one within
        total, count, end_before = total - float(loss) * number, count + number, end
        if end == len(ids):
            break
    return total, count


@pytest.mark.parametrize(("length", "stride"), [(16, 8), (16, 15), (7, 3)])
def test_it_is_that_of_the_strided_loop_of_transformers(pair, length, stride):
    theirs, writer = pair
    found = perplexity(writer, TEXT, sequence_length=length, stride=stride, batch_size=64)
    ids = [writer.tokenizer.end_of_text_id, *writer.tokenizer.encode(TEXT)]
    total, count = strided_loop(theirs, ids, length, stride)
    assert found.num_tokens == count == len(ids) - 1
    assert found.log_likelihood == pytest.approx(total, rel=1e-5)  # sums of float32 in another order
    assert found.per_token == pytest.approx(math.exp(-total / count), rel=1e-5)


def test_defaults_are_the_models_positions_and_half_of_them(pair):
    _, writer = pair
    assert perplexity(writer, TEXT) == perplexity(writer, TEXT, sequence_length=16, stride=8)
    assert perplexity(writer, TEXT).log_likelihood == pytest.approx(
        perplexity(writer, TEXT, batch_size=1).log_likelihood, rel=1e-6
    )


def test_without_learned_positions_the_default_is_what_the_checkpoint_notes(tiny_tokenizer):
    sizes = {"vocabulary_size": 300, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 8}
    model = build_llama(num_key_value_heads=2, **sizes)
    writer = TextGenerator(model, tiny_tokenizer)
    assert model.noted_sequence_length is None
    assert perplexity(writer, TEXT) == perplexity(writer, TEXT, sequence_length=1024)
    model.checkpoint = {"notes": {"max_position_embeddings": 8}}
    assert perplexity(writer, TEXT) == perplexity(writer, TEXT, sequence_length=8) != perplexity(writer, TEXT, 1024)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 40), st.integers(2, 12), st.data())
def test_every_token_but_the_first_is_predicted_once(number, length, data):
    stride = data.draw(st.integers(1, length - 1))
    predicted = []
    for ids, count in _windows(list(range(number)), length, stride):
        assert count < len(ids) <= length
        assert min(ids[-count:]) == 1 or len(ids) - count >= length - stride
        predicted += ids[-count:]
    assert predicted == list(range(1, number))


def test_words_bytes_and_bits_are_of_the_texts_not_of_the_tokens(pair):
    _, writer = pair
    texts = ["the sun is fair", "", "yonder \n sün"]
    found = perplexity(writer, texts)
    assert (found.num_words, found.num_bytes) == (6, 15 + 13)
    apart = [perplexity(writer, text) for text in texts if text]
    assert found.log_likelihood == pytest.approx(sum(one.log_likelihood for one in apart), rel=1e-5)
    assert found.num_tokens == sum(one.num_tokens for one in apart)
    known = TextPerplexity(log_likelihood=-6 * math.log(2), num_tokens=3, num_words=2, num_bytes=12)
    assert [known.per_token, known.per_word, known.per_byte] == pytest.approx([4, 8, math.sqrt(2)])
    assert known.bits_per_byte == pytest.approx(0.5)
    assert TextPerplexity(-6000.0, 3, 2, 12).per_word == TextPerplexity(-1.0, 3, 0, 12).per_word == math.inf


def test_what_cannot_be_measured_is_refused(pair, tiny_tokenizer):
    _, writer = pair
    for options, said in (
        ({"sequence_length": 17}, r"`sequence_length` must be at most the 16 positions .* sequence_length=17"),
        ({"sequence_length": 1}, "`sequence_length` must be an integer of at least 2"),
        ({"stride": 16}, "`stride` must be less than `sequence_length`.* stride=16, sequence_length=16"),
        ({"stride": 0}, "`stride` must be an integer of at least 1"),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1"),
    ):
        with pytest.raises(ValueError, match=said):
            perplexity(writer, TEXT, **options)
    with pytest.raises(ValueError, match=r"`texts` must hold tokens to predict. Received: texts=\[''\]"):
        perplexity(writer, "")
    with pytest.raises(TypeError, match="`texts` must"):
        perplexity(writer, [b"bytes"])
    translator = build_transformer("tiny", vocabulary_size=300, num_layers=1)
    for other in (writer.model, TextToText(translator, tiny_tokenizer)):
        with pytest.raises(TypeError, match="`writer` must be a `TextGenerator` of a causal language model"):
            perplexity(other, TEXT)
