"""A text is written of a text: in Python, as a stream, and by a SavedModel that needs TensorFlow alone."""

import json

import numpy as np
import pytest
import tensorflow as tf

from keras_tfm.export.saved_model import ServedTextGenerator
from keras_tfm.export.writing import write_saved_model
from keras_tfm.generation import TextGenerator, TextToText
from keras_tfm.samplers import BeamSampler, GreedySampler
from tests.export.stock_server import STOCK_SERVER, ask_stock_server
from tests.generation.lively_seq2seq import lively_seq2seq

TEXTS = ["ROMEO:", "", "soft light"]
PREFIX = "yonder "


@pytest.fixture(scope="module")
def model(tiny_tokenizer):
    return lively_seq2seq(vocabulary_size=tiny_tokenizer.vocabulary_size)


@pytest.fixture(scope="module")
def writer(model, tiny_tokenizer):
    sampler = BeamSampler(num_beams=2)
    return TextToText(model, tiny_tokenizer, sampler=sampler, prefix=PREFIX, last_token_id=40, banned_token_ids=(7,))


@pytest.mark.usefixtures("without_xla")
def test_sources_have_their_prefix_and_end_and_texts_are_streamed_whole(model, tiny_tokenizer):
    end = tiny_tokenizer.end_of_text_id
    writer = TextToText(model, tiny_tokenizer, prefix=PREFIX)
    sources = [[*tiny_tokenizer.encode(PREFIX + text), end] for text in TEXTS]
    assert writer.encode(TEXTS) == sources
    assert writer.prompt_rows(tf.constant(TEXTS)).to_list() == sources
    expected = model.generate(sources, max_new_tokens=8, stop_token_ids=(end,))
    ids = [row[:length].tolist() for row, length in zip(expected.token_ids, expected.num_tokens, strict=True)]
    texts = tiny_tokenizer.decode(ids, skip_special_tokens=True)
    assert writer(TEXTS, 8) == texts
    assert writer(TEXTS[0], 8) == texts[0]
    pieces = ["", "", ""]
    for row, piece in writer.stream(TEXTS, 8, tokens_per_piece=3):
        pieces[row] += piece
    assert pieces == texts
    cut = TextToText(model, tiny_tokenizer, prefix=PREFIX, max_source_tokens=4)
    with pytest.warns(UserWarning, match=r"Sources of up to \d+ tokens were cut to `max_source_tokens`=4"):
        assert cut.encode(TEXTS) == [[*source[:-1][:3], end] for source in sources]


def test_what_is_forced_and_banned_holds_for_each_length(writer, model):
    for length in (3, 5):
        options = writer.options(max_new_tokens=length, sampler=GreedySampler())
        assert [processor.max_new_tokens for processor in options.sampler.processors[1:]] == [length]
        assert options.sampler.processors[0].token_ids == (7,)


CLIENT = (
    STOCK_SERVER
    + """
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # it takes longer than all else here
served = tf.saved_model.load(sys.argv[1]).signatures
texts = tf.constant(json.loads(sys.argv[2]))
settings = {"prompts": texts, "max_new_tokens": tf.constant(6), "seed": tf.constant(0)}
answers = [served["serving_default"](texts), served["generate"](**settings)]
piece = served["prefill"](**settings)
while not all(piece["finish_reason"].numpy()):
    states = {key: tensor for key, tensor in piece.items() if key.startswith("state_")}
    piece = served["decode_step"](num_tokens=tf.constant(3), **states)
print(json.dumps([[text.decode() for text in answer["text"].numpy()] for answer in (*answers, piece)]))
"""
)


@pytest.mark.slow
@pytest.mark.usefixtures("without_xla")
def test_a_saved_model_of_strings_writes_with_beams_what_python_writes(writer, model, tmp_path):
    expected = writer.generate(TEXTS, 6).texts
    assert len(set(expected)) > 1
    shorter = writer.generate(TEXTS, 4).texts
    options = writer.options(max_new_tokens=4)
    module = ServedTextGenerator(writer, options, {"max_new_tokens": 4, "seed": 0})
    write_saved_model(module, module.signatures(), tmp_path / "1")
    answers = ask_stock_server(CLIENT, tmp_path / "1", json.dumps(TEXTS))
    assert answers == [list(shorter), list(expected), list(expected)]
    served = tf.saved_model.load(str(tmp_path / "1")).signatures
    inputs = {"encoder_token_ids": np.array([[3, 4, 5]], "int32"), "decoder_token_ids": np.array([[0, 8]], "int32")}
    logits = served["logits"](**{name: tf.constant(ids) for name, ids in inputs.items()})["logits"]
    np.testing.assert_allclose(logits, model(inputs), atol=2e-5)


def test_other_models_and_vocabularies_are_refused(writer, model, tiny_writer, tiny_tokenizer):
    with pytest.raises(TypeError, match="`model` must be a `Seq2SeqLM`.*Received: .*CausalLM"):
        TextToText(tiny_writer.model, tiny_tokenizer)
    with pytest.raises(TypeError, match="`model` must be a `CausalLM`.*`Seq2SeqLM` needs `TextToText`"):
        TextGenerator(model, tiny_tokenizer)
    with pytest.raises(ValueError, match="tokenizer of 300 tokens and a model of 29"):
        TextToText(lively_seq2seq(), tiny_tokenizer)
    with pytest.raises(TypeError, match="`prefix` must be one str"):
        TextToText(model, tiny_tokenizer, prefix=["a"])
    with pytest.raises(TypeError, match="A session goes on with a text"):
        writer.session("a")
