"""A session writes what one call with the whole text would write, and reads nothing twice."""

import pytest

from keras_tfm.generation import TextGenerator
from keras_tfm.samplers import BeamSampler, PromptLookup, SpeculativeSampler
from tests.generation.lively import lively_model

pytestmark = pytest.mark.usefixtures("without_xla")

SAMPLERS = {
    "greedy": "greedy",
    "speculative": SpeculativeSampler(drafter=PromptLookup()),
    "beam": BeamSampler(num_beams=2),
}


@pytest.fixture(scope="module")
def writer(tiny_tokenizer):
    return TextGenerator(lively_model(num_layers=1, vocabulary_size=tiny_tokenizer.vocabulary_size), tiny_tokenizer)


@pytest.mark.parametrize(
    "name", ["greedy", *(pytest.param(name, marks=pytest.mark.slow) for name in SAMPLERS if name != "greedy")]
)
def test_turns_equal_one_long_prompt(writer, name):
    sampler = SAMPLERS[name]
    session = writer.session("ROMEO:")
    for turn in (" But", " soft", ""):
        before = session.token_ids.tolist()
        answer = session(turn, max_new_tokens=5, sampler=sampler)
        prompt = before + writer.tokenizer.encode(turn)
        alone = writer.model.generate([prompt], max_new_tokens=5, sampler=sampler)
        assert session.token_ids.tolist() == prompt + alone.token_ids[0, : alone.num_tokens[0]].tolist()
        assert answer == writer.tokenizer.decode(alone.token_ids[0, : alone.num_tokens[0]])
        assert session.num_remembered >= len(prompt) - 1


def test_a_list_goes_on_from_one_place_and_leaves_the_session_there(writer):
    session = writer.session("It is the east")
    session(", and", max_new_tokens=3)
    before = session.token_ids.tolist()
    answers = session([" Juliet", " is"], max_new_tokens=4)
    assert session.token_ids.tolist() == before
    ids = [before + writer.tokenizer.encode(text) for text in (" Juliet", " is")]
    expected = writer.model.generate(ids, max_new_tokens=4).token_ids
    assert answers == [writer.tokenizer.decode(row) for row in expected]


def test_a_prefix_is_read_once_for_a_list(writer):
    session = writer.session("It is the east, and Juliet is the sun")
    session([" a", " b"], max_new_tokens=2)
    assert session.num_remembered == len(session.token_ids)


def test_a_fork_goes_its_own_way(writer):
    session = writer.session("ROMEO:")
    session(" But", max_new_tokens=3)
    fork = session.fork()
    first, second = fork(" soft", max_new_tokens=4), session(" soft", max_new_tokens=4)
    assert first == second
    fork(" light", max_new_tokens=2)
    assert len(fork.token_ids) > len(session.token_ids)


def test_a_stream_goes_on_too(writer):
    one, other = writer.session("ROMEO:"), writer.session("ROMEO:")
    assert "".join(one.stream(" But", max_new_tokens=6)) == other(" But", max_new_tokens=6)
    assert one.text == other.text


def test_a_stream_that_is_closed_leaves_the_session_as_it_was(writer):
    session = writer.session("ROMEO:")
    stream = session.stream(" But", max_new_tokens=6, tokens_per_piece=1)
    next(stream)
    stream.close()
    assert session.text == "ROMEO:"


def test_what_a_session_cannot_do_raises(writer):
    with pytest.raises(ValueError, match="num_return_sequences=2"):
        writer.session("a")("b", num_return_sequences=2)


def test_a_stop_string_is_neither_given_nor_remembered(writer):
    prompt = writer.tokenizer.encode("ROMEO:")
    ids = writer.model.generate([prompt], max_new_tokens=8).token_ids[0]
    whole = writer.tokenizer.decode(ids)
    for start in range(len(whole) - 1):  # wherever it begins, in the middle of a token too
        stop = whole[start : start + 2]
        if not stop.isascii():
            continue
        session = writer.session("ROMEO:")
        answer = session("", max_new_tokens=8, stop_strings=[stop])
        assert answer == whole[: whole.index(stop)]
        assert session.text == "ROMEO:" + answer
        expected = writer.model.generate([session.token_ids.tolist()], max_new_tokens=3).token_ids
        session("", max_new_tokens=3)
        assert session.token_ids[-3:].tolist() == expected[0].tolist()


@pytest.mark.slow
def test_a_session_stays_in_its_own_cache_dtype(writer):
    session, other = writer.session("ROMEO:"), writer.session("ROMEO:")
    first = session(" But", max_new_tokens=3, cache_dtype="int8")
    assert first == other(" But", max_new_tokens=3, cache_dtype="int8")
    assert session(" soft", max_new_tokens=3) == other(" soft", max_new_tokens=3, cache_dtype="int8")
    plain = writer.session("ROMEO:")
    plain(" But", max_new_tokens=3)
    plain(" soft", max_new_tokens=3, cache_dtype="int8")  # reads again, into 8 bits
    assert plain.num_remembered > 0
