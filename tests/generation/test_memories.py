"""The loop knows memories by their protocol alone: a recurrent one, which cannot forget, goes through everything."""

import numpy as np
import pytest
import tensorflow as tf

from keras_tfm.generation import TextGenerator
from keras_tfm.layers import BlockCache, ContextCache, KVCache
from keras_tfm.ops.decoding_state import DecodingState
from keras_tfm.samplers import BeamSampler, PromptLookup, RandomSampler, SpeculativeSampler
from tests.generation.eagerly import generate_eagerly
from tests.generation.lively import Uncached, slow_greedy
from tests.generation.recurrent import recurrent_model

pytestmark = pytest.mark.usefixtures("without_xla")
PROMPTS = [[1, 2, 3], [5], [7, 8, 9, 10, 11]]
SAMPLERS = {"random": RandomSampler(seed=3), "beam": BeamSampler(num_beams=3)}


@pytest.fixture(scope="module")
def model():
    return recurrent_model()


@pytest.fixture(scope="module")
def writer(tiny_tokenizer):
    return TextGenerator(recurrent_model(vocabulary_size=tiny_tokenizer.vocabulary_size), tiny_tokenizer)


def test_a_recurrent_memory_writes_what_full_passes_write(model):
    answer = model.generate(PROMPTS, max_new_tokens=6)
    assert answer.token_ids.tolist() == [slow_greedy(model, prompt, 6) for prompt in PROMPTS]


@pytest.mark.parametrize(
    "name", ["beam", *(pytest.param(name, marks=pytest.mark.slow) for name in SAMPLERS if name != "beam")]
)
def test_every_kind_of_search_takes_its_rows(model, name):
    options = {"max_new_tokens": 6, "sampler": SAMPLERS[name], "stop_token_ids": (26, 4)}
    expected = generate_eagerly(Uncached(model), PROMPTS, **options)
    assert model.generate(PROMPTS, **options).token_ids.tolist() == expected.token_ids.tolist()


def test_speculation_which_takes_guesses_back_is_refused(model):
    with pytest.raises(ValueError, match=r"must be able to forget them. Received: .*`can_forget` is False"):
        model.generate(PROMPTS, max_new_tokens=3, sampler=SpeculativeSampler(drafter=PromptLookup()))


@pytest.mark.slow
def test_a_session_goes_on_and_reads_again_only_what_cannot_be_forgotten(writer):
    session = writer.session("ROMEO:")
    for turn in (" But", ""):
        prompt = session.token_ids.tolist() + writer.tokenizer.encode(turn)
        session(turn, max_new_tokens=4)
        alone = writer.model.generate([prompt], max_new_tokens=4)
        assert session.token_ids.tolist() == prompt + alone.token_ids[0].tolist()
    session = writer.session("ROMEO:")
    session(" But", max_new_tokens=3)
    assert session.num_remembered == len(session.token_ids) - 1  # the newest token is read by the next call
    ids = [session.token_ids.tolist() + writer.tokenizer.encode(turn) for turn in (" a", " the")]
    expected = writer.model.generate(ids, max_new_tokens=4)
    assert session([" a", " the"], max_new_tokens=4) == [writer.tokenizer.decode(row) for row in expected.token_ids]


@pytest.mark.slow
def test_streams_and_saved_models_write_the_same(writer, tmp_path):
    expected = writer("ROMEO:", 6)
    assert "".join(writer.stream("ROMEO:", 6, tokens_per_piece=2)) == expected
    writer.export(tmp_path / "1", max_new_tokens=6)
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"]
    assert served(prompts=tf.constant(["ROMEO:"]))["text"].numpy()[0].decode() == expected


def test_what_rows_of_a_prompt_share_is_not_reordered():
    own = KVCache.empty(4, 3, 1, 2, "float32")._replace(positions=np.arange(12, dtype="int32").reshape(4, 3))
    context = ContextCache(
        np.ones((2, 1, 5, 2), "float32"), np.ones((2, 1, 5, 2), "float32"), np.zeros((2, 5), "int32")
    )
    state = DecodingState(np.array([1, 2, 3, 4], "int32"), (BlockCache(own, context),))
    after = state.reorder(np.array([1, 1, 2, 2], "int32"))
    assert after.memories[0].cross_attention is context
    assert np.asarray(after.num_tokens).tolist() == [2, 2, 3, 3]
    assert np.asarray(after.memories[0].self_attention.positions)[:, 0].tolist() == [3, 3, 6, 6]
