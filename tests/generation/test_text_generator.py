"""Strings in, strings out; streamed pieces are whole characters."""

import keras
import numpy as np
import pytest

import keras_tfm as ktfm
from keras_tfm.generation.runner import GenerationRunner
from keras_tfm.samplers import RandomSampler, Temperature
from keras_tfm.tokenizers import ChatText
from tests.generation.scripted import ScriptedModel, one_hot_script


class ScriptedWriter(ScriptedModel):
    """A scripted model with the runner that `TextGenerator` asks."""

    def __init__(self, script):
        super().__init__(script)
        self.generation_runner = GenerationRunner(self)


def scripted_writer(tokenizer, text, end=True):
    """A writer that says `text`, whatever the prompt."""
    token_ids = tokenizer.encode(text) + [tokenizer.end_of_text_id] * end
    model = ScriptedWriter(one_hot_script(token_ids, tokenizer.vocabulary_size))
    return ktfm.generation.TextGenerator(model, tokenizer)


def test_a_string_gives_a_string_and_a_list_a_list(tiny_writer):
    text = tiny_writer("ROMEO:", max_new_tokens=8, seed=1)
    assert isinstance(text, str)
    assert tiny_writer(["ROMEO:"], max_new_tokens=8, seed=1) == [text]


def test_text_ends_before_the_end_of_text_token(tiny_tokenizer):
    writer = scripted_writer(tiny_tokenizer, "to be")
    assert writer("x", max_new_tokens=40) == "to be"
    assert writer(["x", ""], max_new_tokens=40) == ["to be", "to be"]


def test_an_empty_prompt_is_the_start_of_a_text(tiny_writer):
    end_of_text = "<|endoftext|>"
    assert tiny_writer("", max_new_tokens=8, seed=1) == tiny_writer(end_of_text, max_new_tokens=8, seed=1)


@pytest.mark.parametrize("tokens_per_piece", [None, 1, 3, 64])
def test_pieces_together_are_the_whole_text(tiny_writer, tokens_per_piece):
    whole = tiny_writer("ROMEO:", max_new_tokens=20, seed=3)
    pieces = list(tiny_writer.stream("ROMEO:", max_new_tokens=20, seed=3, tokens_per_piece=tokens_per_piece))
    assert "".join(pieces) == whole


@pytest.mark.parametrize("tokens_per_piece", [1, 2, 5])
def test_a_character_of_several_tokens_comes_whole(tiny_tokenizer, tokens_per_piece):
    text = "né 👩‍🚀 日本"
    pieces = list(scripted_writer(tiny_tokenizer, text).stream("", 64, tokens_per_piece=tokens_per_piece))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)
    assert len(pieces) > 1


def test_a_character_that_is_never_finished_becomes_a_replacement(tiny_tokenizer):
    token_ids = tiny_tokenizer.encode("a👩")[:-1]
    model = ScriptedWriter(one_hot_script(token_ids, tiny_tokenizer.vocabulary_size))
    writer = ktfm.generation.TextGenerator(model, tiny_tokenizer)
    assert "".join(writer.stream("", len(token_ids))) == writer("", len(token_ids)) == "a\ufffd"


def test_row_texts_depend_on_their_own_prompt_seed_and_place(tiny_writer):
    alone = tiny_writer(["ROMEO:"], max_new_tokens=12, seed=3)
    together = tiny_writer(["ROMEO:", "JULIET: but soft, what light", ""], max_new_tokens=12, seed=3)
    assert together[0] == alone[0]


def test_a_model_that_cannot_write_is_refused_at_once(tiny_tokenizer):
    model = keras.Sequential([keras.layers.Embedding(tiny_tokenizer.vocabulary_size, 4), keras.layers.Dense(300)])
    with pytest.raises(TypeError, match="`model` must be a `CausalLM`, as .*Received: .* of type Sequential"):
        ktfm.generation.TextGenerator(model, tiny_tokenizer)


def test_another_vocabulary_raises_and_shows_both_sizes(tiny_tokenizer):
    model = ScriptedWriter(np.zeros((1, 7)))
    with pytest.raises(ValueError, match=f"a tokenizer of {tiny_tokenizer.vocabulary_size} tokens and a model of 7"):
        ktfm.generation.TextGenerator(model, tiny_tokenizer)


def test_special_tokens_that_the_model_has_no_place_for_are_warned_of_and_refused_in_prompts(tiny_writer):
    size = tiny_writer.tokenizer.vocabulary_size
    tokens = {**tiny_writer.tokenizer.vocabulary, "[PAD]": size}
    larger = tiny_writer.tokenizer.changed(vocabulary=tokens, special_tokens=["<|endoftext|>", "[PAD]"])
    with pytest.warns(UserWarning, match=r"no place for special tokens of the tokenizer: \['\[PAD\]'\]"):
        writer = ktfm.generation.TextGenerator(tiny_writer.model, larger, "random")
    assert writer("But", max_new_tokens=4, seed=1) == tiny_writer("But", max_new_tokens=4, seed=1)
    with pytest.raises(ValueError, match=rf"must be in \[0, {size}\).*{size}"):
        writer("But[PAD]", max_new_tokens=4)


def test_texts_begin_as_the_tokenizer_says_and_chats_as_their_template_says(tiny_writer):
    framed = tiny_writer.tokenizer.changed(begin_tokens=["<|endoftext|>"], end_tokens=["<|endoftext|>"])
    writer, plain = ktfm.generation.TextGenerator(tiny_writer.model, framed), tiny_writer.tokenizer
    but = plain.encode("But")
    assert writer.encode(["But", "<|endoftext|>But", "", ChatText("But")]) == [[0, *but], [0, *but], [0], but]
    assert writer.start_token_id == 0
    session, empty = writer.session("But"), writer.session()
    for one in (session, empty):
        one("soft", max_new_tokens=2)
        assert one.token_ids.tolist().count(0) == 1
        assert one.token_ids[0] == 0
    assert session.token_ids.tolist()[: 1 + len(but)] == [0, *but]


def test_an_unknown_sampler_raises(tiny_writer):
    with pytest.raises(ValueError, match="'beem'"):
        ktfm.generation.TextGenerator(tiny_writer.model, tiny_writer.tokenizer, "beem")


def test_a_prompt_that_does_not_fit_raises(tiny_writer):
    with pytest.raises(ValueError, match="max_new_tokens=40"):
        tiny_writer("word " * 60, max_new_tokens=40)


def test_the_samplers_seed_is_the_default(tiny_writer):
    sampler = RandomSampler([Temperature(1.0)], seed=11)
    writer = ktfm.generation.TextGenerator(tiny_writer.model, tiny_writer.tokenizer, sampler)
    assert writer("a", max_new_tokens=10) == writer("a", max_new_tokens=10) == writer("a", max_new_tokens=10, seed=11)


@pytest.mark.parametrize("stop_strings", ["the", ["the"], ("the",), np.array(["the"])])
def test_one_stop_string_is_one_string(tiny_writer, stop_strings):
    assert tiny_writer.options(stop_strings=stop_strings).stop_strings.strings == ("the",)


@pytest.mark.parametrize("stop_strings", [None, (), []])
def test_no_stop_strings_are_none(tiny_writer, stop_strings):
    assert tiny_writer.options(stop_strings=stop_strings).stop_strings is None


def test_one_negative_prompt_is_one_prompt(tiny_writer):
    options = tiny_writer.options(negative_prompts="the", guidance_scale=1.5)
    assert options.negative_token_ids == [tiny_writer.tokenizer.encode("the")]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda writer: writer(b"abc"), TypeError, "`prompts` must be a str"),
        (lambda writer: writer(None), TypeError, "`prompts` must be a str"),
        (lambda writer: writer(["a", 5]), TypeError, "`prompts` must be a str"),
        (lambda writer: list(writer.stream(5)), TypeError, "`prompts` must be a str"),
        (lambda writer: list(writer.stream("a", tokens_per_piece=0)), ValueError, "`tokens_per_piece` must be"),
        (lambda writer: writer("a", negative_prompts=b"a"), TypeError, "`negative_prompts` must be a str"),
        (lambda writer: writer("a", stop_strings=5), TypeError, "`stop_strings` must be a str"),
        (lambda writer: writer("a", stop_strings=[["a"]]), TypeError, "`stop_strings` must be a str"),
        (lambda writer: writer("a", stop_strings=""), ValueError, "must not be empty"),
        (lambda writer: writer("a", stop_token_ids=5), ValueError, "`stop_token_ids` must hold ids"),
        (lambda writer: writer("a", num_return_sequences=2.0), ValueError, "`num_return_sequences` must be an integer"),
        (lambda writer: writer.session(["a", "b"]), TypeError, "`text` must be one str"),
        (lambda writer: list(writer.session().stream(["a", "b"])), TypeError, "`prompt` must be one str"),
        (lambda writer: list(writer.session().stream("a", tokens_per_piece=0)), ValueError, "`tokens_per_piece` must"),
        (lambda writer: type(writer)(writer.model, writer.tokenizer, stop_token_ids=5), ValueError, "`stop_token_ids`"),
        (lambda writer: type(writer)(writer.model.stack, writer.tokenizer), TypeError, "`model` must be a `CausalLM`"),
    ],
)
def test_what_is_wrong_is_refused_by_name_before_any_work(tiny_writer, call, error, message):
    with pytest.raises(error, match=message):
        call(tiny_writer)
