"""What `inspect` shows is what the model computed: equal to transformers, under all masks, and changing nothing."""

import keras
import numpy as np
import pytest
import torch

from keras_tfm.checkpoints import load
from keras_tfm.layers import (
    AlibiBias,
    AttentionSink,
    FeedForward,
    MeanPooling,
    MultiHeadCrossAttention,
    MultiHeadSelfAttention,
    TransformerBlock,
    TransformerStack,
)
from keras_tfm.models import TextClassifier, build_bert, inspect
from tests.checkpoints.families import FAMILIES, tiny
from tests.checkpoints.seq2seq_families import tiny_seq2seq
from tests.models import tiny as tiny_models
from tests.models import tiny_seq2seq as tiny_pairs

# float32 in another order of summation; states are of size 5.
TOLERANCE = 1e-5
IDS = np.random.default_rng(0).integers(3, 22, (2, 9)).astype("int32")
MASK = np.arange(9) < np.array([[9], [6]])
# One of each wiring: learned positions, grouped heads, a window, a cap, rotary and parallel blocks, ALiBi.
EACH_WIRING = ("gpt2", "llama3", "mistral", "gemma2", "pythia", "bloom")


def close(ours, theirs, mask=MASK):
    """Equal at real positions (B, T); ours (B, T, D) or weights (B, N, T, S), whose queries are looked at."""
    theirs = theirs.numpy()
    if theirs.ndim == 4:
        ours, theirs = np.moveaxis(ours, 1, 2), np.moveaxis(theirs, 1, 2)
    np.testing.assert_allclose(ours[mask], theirs[mask], atol=TOLERANCE, rtol=TOLERANCE)


def saved_and_loaded(theirs, folder):
    theirs.save_pretrained(folder)
    return load(folder)


def read_by(theirs, **inputs):
    theirs.set_attn_implementation("eager")  # the others give no weights
    with torch.no_grad():
        inputs = {name: torch.tensor(x).long() for name, x in inputs.items()}
        return theirs(**inputs, output_attentions=True, output_hidden_states=True)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in EACH_WIRING else pytest.mark.slow) for name in FAMILIES]
)
def test_decoders_show_the_states_and_weights_of_transformers(name, tmp_path):
    theirs = tiny(name)
    expected = read_by(theirs, input_ids=IDS, attention_mask=MASK)
    inspection = saved_and_loaded(theirs, tmp_path).inspect({"token_ids": IDS, "padding_mask": MASK})
    assert len(inspection.hidden_states) == len(inspection.attention_weights) + 1 == len(expected.hidden_states)
    for ours, hidden in zip(inspection.hidden_states[:-1], expected.hidden_states[:-1], strict=True):
        close(ours, hidden)
    close(inspection.last_hidden_state, expected.hidden_states[-1])  # after the final norm
    for ours, weights in zip(inspection.attention_weights, expected.attentions, strict=True):
        assert ours.dtype == np.float32
        close(ours, weights)
    close(inspection.outputs, expected.logits)
    assert inspection.cross_attention_weights == []


def test_bert_shows_the_states_and_weights_of_transformers(tmp_path):
    import transformers

    torch.manual_seed(0)
    numbers = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 20}
    theirs = transformers.BertModel(transformers.BertConfig(vocab_size=29, initializer_range=0.3, **numbers)).eval()
    expected = read_by(theirs, input_ids=IDS, attention_mask=MASK)
    inspection = saved_and_loaded(theirs, tmp_path).inspect({"token_ids": IDS, "padding_mask": MASK})
    for ours, hidden in zip(inspection.hidden_states, expected.hidden_states, strict=True):
        close(ours, hidden)
    for ours, weights in zip(inspection.attention_weights, expected.attentions, strict=True):
        close(ours, weights)
    np.testing.assert_array_equal(inspection.last_hidden_state, inspection.hidden_states[-1])  # there is no final norm
    np.testing.assert_array_equal(inspection.outputs["sequence_output"], inspection.last_hidden_state)


@pytest.mark.parametrize("name", ["t5", pytest.param("bart", marks=pytest.mark.slow)])
def test_encoder_decoders_show_both_sides_as_transformers_does(name, tmp_path):
    theirs = tiny_seq2seq(name)
    targets = IDS[:, :5]
    expected = read_by(theirs, input_ids=IDS, attention_mask=MASK, decoder_input_ids=targets)
    inputs = {"encoder_token_ids": IDS, "encoder_padding_mask": MASK, "decoder_token_ids": targets}
    inspection = saved_and_loaded(theirs, tmp_path).inspect(inputs)
    everywhere = np.ones(targets.shape, bool)
    for ours, hidden in zip(inspection.encoder.hidden_states[:-1], expected.encoder_hidden_states[:-1], strict=True):
        close(ours, hidden)
    close(inspection.encoder.last_hidden_state, expected.encoder_last_hidden_state)
    for ours, hidden in zip(inspection.hidden_states[:-1], expected.decoder_hidden_states[:-1], strict=True):
        close(ours, hidden, everywhere)
    close(inspection.last_hidden_state, expected.decoder_hidden_states[-1], everywhere)
    for ours, weights in zip(inspection.encoder.attention_weights, expected.encoder_attentions, strict=True):
        close(ours, weights)
    for ours, weights in zip(inspection.attention_weights, expected.decoder_attentions, strict=True):
        close(ours, weights, everywhere)
    for ours, weights in zip(inspection.cross_attention_weights, expected.cross_attentions, strict=True):
        close(ours, weights, everywhere)


@pytest.mark.parametrize("name", ["gpt_alibi", "gemma2"])
def test_looking_changes_nothing(name):
    model = tiny_models.make(name)
    ids = tiny_models.batch()[0]
    before, structure = np.asarray(model(ids)), model.generation_runner.version()
    np.testing.assert_array_equal(model.inspect(ids).outputs, before)
    np.testing.assert_array_equal(model(ids), before)
    assert model.generation_runner.version() == structure  # so that nothing is compiled anew


def test_packed_documents_windows_and_padding_are_seen_in_the_weights():
    model = tiny_models.TINY["llama"](vocabulary_size=29, windows=(3,))
    documents = np.array([[0, 0, 0, 0, 1, 1, 1, 1, 1]] * 2, "int32")
    inputs = {"token_ids": IDS, "padding_mask": MASK, "document_ids": documents}
    places = np.arange(9)
    near = (places[:, None] - places >= 0) & (places[:, None] - places < 3)
    visible = near & (documents[:, :, None] == documents[:, None]) & MASK[:, :, None] & MASK[:, None]
    for weights in model.inspect(inputs).attention_weights:
        assert weights.shape == (2, 4, 9, 9)
        np.testing.assert_array_equal(weights > 0, np.broadcast_to(visible[:, None], weights.shape))
        np.testing.assert_allclose(weights.sum(axis=-1), np.broadcast_to(MASK[:, None], (2, 4, 9)), atol=1e-6)


def test_lean_and_half_precision_models_show_float32_weights():
    ids = tiny_models.batch()[0]
    stack = TransformerStack([TransformerBlock(MultiHeadSelfAttention(2, method="lean", causal=True), FeedForward(8))])
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype("float32")
    expected = stack(x)
    inspection = inspect(stack, x)
    np.testing.assert_allclose(inspection.outputs, expected, atol=1e-6)
    inspection = tiny_models.TINY["llama"](dtype="mixed_bfloat16").inspect(ids)
    arrays = [*inspection.hidden_states, *inspection.attention_weights, inspection.last_hidden_state]
    assert {array.dtype.name for array in arrays} == {"float32"}


def test_stacks_and_attention_in_a_users_own_model_are_found():
    x, context = keras.Input((None, 8)), keras.Input((None, 8))
    attention = [MultiHeadSelfAttention(2, sink=AttentionSink(2, initializer="ones")) for _ in range(2)]
    blocks = [TransformerBlock(layer, FeedForward(8)) for layer in attention]
    y = TransformerStack(blocks, position_bias=AlibiBias(2), name="reader")(x)
    y = MultiHeadCrossAttention(2)(y, context=context)
    inner = keras.Model([x, context], MeanPooling()(y))
    given = [keras.Input((None, 8)), keras.Input((None, 8))]
    model = keras.Model(given, keras.layers.Dense(1)(inner(given)))
    inspection = inspect(model, [np.ones((3, 5, 8), "float32"), np.ones((3, 4, 8), "float32")])
    stack, loose = inspection.stacks
    assert (stack.name, loose.name, loose.hidden_states) == ("reader", "", [])
    assert [state.shape for state in stack.hidden_states] == [(3, 5, 8)] * 3
    assert all(weights.sum(axis=-1).max() < 1 for weights in stack.attention_weights)  # the sink has its share
    assert [weights.shape for weights in loose.cross_attention_weights] == [(3, 2, 5, 4)]
    assert inspection.outputs.shape == (3, 1)


def test_a_model_on_top_of_an_encoder_shows_the_encoders():
    encoder = build_bert(
        vocabulary_size=29, max_sequence_length=16, num_layers=2, num_heads=2, hidden_dim=8, num_segments=0
    )
    inspection = TextClassifier(encoder, ["bad", "good"]).inspect({"token_ids": IDS, "padding_mask": MASK})
    assert [weights.shape for weights in inspection.attention_weights] == [(2, 2, 9, 9)] * 2
    assert inspection.outputs.shape == (2, 2)


def test_what_cannot_be_inspected_is_refused():
    import tensorflow as tf

    with pytest.raises(ValueError, match=r"must have a `TransformerStack`.* Received: <Dense"):
        inspect(keras.layers.Dense(2), np.ones((1, 3), "float32"))

    class Traced(keras.Model):
        def __init__(self):
            super().__init__()
            self.attention = MultiHeadSelfAttention(2)
            self.attention.build((None, None, 8))

        def call(self, x):
            return tf.function(self.attention, autograph=False)(x)

    with pytest.raises(RuntimeError, match=r"computed eagerly.* Take away the `tf.function`"):
        inspect(Traced(), np.ones((1, 3, 8), "float32"))


@pytest.mark.usefixtures("without_xla")
def test_generate_tells_the_weights_of_prompts_and_new_tokens():
    model = tiny_models.make("gpt_rotary")
    options = {"max_new_tokens": 4, "sampler": "random", "seed": 0, "num_return_sequences": 2}
    generation = model.generate([[5, 7], []], **options, attention=True)
    np.testing.assert_array_equal(generation.token_ids, model.generate([[5, 7], []], **options).token_ids)
    assert [weights.shape for weights in generation.inspection.attention_weights] == [(4, 2, 6, 6)] * 2
    row = [0, *generation.token_ids[2]]  # the empty prompt is the start token
    alone = model.inspect([row])
    weights = generation.inspection.attention_weights[1][2, :, :5, :5]
    np.testing.assert_allclose(weights, alone.attention_weights[1][0], atol=1e-6)  # sums of other sizes
    *first, last = model.generate_steps([[5, 7], []], **options, attention=True)
    assert [step.inspection for step in first] == [None] * 3
    assert last.inspection is not None


@pytest.mark.slow
@pytest.mark.usefixtures("without_xla")
def test_an_encoder_decoder_tells_where_in_its_source_it_looked():
    model = tiny_pairs.make("transformer")
    generation = model.generate([[5, 7, 2], [3]], max_new_tokens=3, attention=True)
    (weights,) = generation.inspection.cross_attention_weights
    assert weights.shape == (2, 2, 4, 3)  # the start token and three more, over sources of up to three
    np.testing.assert_allclose(weights[1, :, :, 0], 1.0)  # the only token of the second


@pytest.mark.slow
@pytest.mark.usefixtures("without_xla")
def test_writers_of_text_tell_it(tiny_writer):
    generation = tiny_writer.generate("But, soft!", max_new_tokens=2, seed=0, attention=True)
    length = len(tiny_writer.encode("But, soft!")[0]) + 2
    assert generation.inspection.attention_weights[0].shape == (1, 2, length, length)


def test_sessions_refuse_to_tell_it(tiny_writer):
    with pytest.raises(ValueError, match=r"no attention weights\. Received: attention=True"):
        tiny_writer.session()("But", max_new_tokens=2, attention=True)
