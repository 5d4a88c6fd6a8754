"""An encoder-decoder and samplers of each kind: rows depend on themselves alone; the way of computing does not show."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from keras_tfm.models import build_bart
from keras_tfm.samplers import BanTokens, BeamSampler, ForceFirstToken, ForceLastToken, GreedySampler, RandomSampler
from tests.generation.eagerly import generate_eagerly
from tests.generation.every_sampler import make_samplers
from tests.generation.lively import VOCABULARY_SIZE, lively
from tests.generation.lively_seq2seq import Uncached, lively_seq2seq, slow_greedy
from tests.generation.plain_graphs import plain_graphs

SOURCES = [[1, 2, 3, 28], [5], [7, 8] * 10]
STOPS = {"stop_token_ids": (26, 4), "stop_sequences": ((24, 18, 7), (1, 1))}
LENGTH = 8
SAMPLERS = make_samplers(draft=lively_seq2seq(seed=9))
FEW = ("random", "beam")
# One of each kind that asks something else of a model: rows as they are, rows in another order, hidden states, and to
# take guesses back. The other samplers ask the same, and `test_every_sampler.py` has them all.
KINDS = (*FEW, "contrastive", "prompt_lookup", "draft_model")
NAMES = [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in KINDS]


@pytest.fixture(scope="module")
def model():
    return lively_seq2seq()


@pytest.fixture
def plainly():
    with plain_graphs():
        yield


def same(one, other, row=slice(None)):
    assert one.token_ids.tolist() == other.token_ids[row].tolist()
    assert list(one.finish_reasons) == list(other.finish_reasons[row])
    np.testing.assert_allclose(one.scores, other.scores[row], atol=1e-5)  # sums of float32 in another order


def test_greedy_is_what_full_passes_write_and_is_traced_once_for_all_sizes(model, plainly):
    answer = model.generate(SOURCES, max_new_tokens=LENGTH)
    assert answer.token_ids.tolist() == [slow_greedy(model, source, LENGTH) for source in SOURCES]
    runner = model.generation_runner
    before = list(runner._compiled)
    for sources, num_new in (([[3] * 40], 3), ([[1]] * 5, 20)):
        answer = model.generate(sources, max_new_tokens=num_new)
        assert answer.token_ids[0].tolist() == slow_greedy(model, sources[0], num_new)
    assert list(runner._compiled) == before


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_sampler_writes_the_same_in_any_batch_in_pieces_and_without_a_cache(model, plainly, name):
    options = {"max_new_tokens": LENGTH, "sampler": SAMPLERS[name], **STOPS}
    together = model.generate(SOURCES, **options)
    assert all((ids[length:] == -1).all() for ids, length in zip(together.token_ids, together.num_tokens, strict=True))
    same(generate_eagerly(Uncached(model), SOURCES, **options), together)
    # Row i's draws belong to i, so a row stands at its own place when its neighbours are others.
    alone = model.generate([[9] * 20, SOURCES[1], [2]], **options)
    assert alone.token_ids[1].tolist() == together.token_ids[1].tolist()
    same(model.generate(SOURCES[0], **options), together, slice(0, 1))
    *_, last = model.generate_steps(SOURCES, tokens_per_piece=3, **options)
    same(last, together)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "beam"])
def test_xla_writes_what_a_plain_graph_writes(name):
    options = {"max_new_tokens": LENGTH, "sampler": SAMPLERS[name], **STOPS}
    with plain_graphs():
        expected = lively_seq2seq().generate(SOURCES, **options)
    same(lively_seq2seq().generate(SOURCES, **options), expected)


@pytest.mark.slow
@hypothesis.given(
    source=st.lists(st.integers(0, VOCABULARY_SIZE - 1), min_size=1, max_size=20),
    others=st.lists(st.lists(st.integers(0, VOCABULARY_SIZE - 1), min_size=1, max_size=40), max_size=4),
    place=st.integers(0, 4),
    is_beam=st.booleans(),
)
@hypothesis.settings(max_examples=20)
def test_padding_and_batch_mates_never_change_a_text(model, source, others, place, is_beam):
    sampler = BeamSampler(num_beams=2) if is_beam else "greedy"
    sources = [*others[:place], source, *others[place:]]
    with plain_graphs():
        alone = model.generate(source, max_new_tokens=6, sampler=sampler, stop_token_ids=(26,))
        together = model.generate(sources, max_new_tokens=6, sampler=sampler, stop_token_ids=(26,))
    row = len(others[:place])
    assert together.token_ids[row].tolist() == alone.token_ids[0].tolist()


def test_guidance_leads_away_from_negative_sources(model):
    negative, scale = [[4, 4, 1], [2]], 2.5
    answer = generate_guided(model, SOURCES[:2], negative, scale)
    for i, (source, other) in enumerate(zip(SOURCES, negative, strict=False)):
        tokens = [model.start_token_id]
        for _ in range(4):
            logs = []
            for ids in (source, other):
                inputs = {"encoder_token_ids": np.array([ids]), "decoder_token_ids": np.array([tokens])}
                logits = np.asarray(model(inputs))[0, -1]
                logs.append(logits - np.log(np.exp(logits).sum()))
            tokens.append(int(np.argmax(logs[1] + scale * (logs[0] - logs[1]))))
        assert answer.token_ids[i].tolist() == tokens[1:]
    plain = generate_guided(model, SOURCES[:2], None, 1.0)
    assert plain.token_ids.tolist() == [slow_greedy(model, source, 4) for source in SOURCES[:2]]


def generate_guided(model, sources, negative, scale):
    with plain_graphs():
        return model.generate(sources, max_new_tokens=4, negative_token_ids=negative, guidance_scale=scale)


def test_several_texts_forced_and_banned_tokens_and_an_8_bit_cache(model):
    forced = (ForceFirstToken(11), ForceLastToken(3, 6), BanTokens((model.start_token_id,)))
    texts = generate_eagerly(
        model, SOURCES, max_new_tokens=6, sampler=RandomSampler(forced, seed=1), num_return_sequences=3
    )
    assert texts.token_ids.shape == (9, 6)
    assert set(texts.token_ids[:, 0]) == {11}
    assert set(texts.token_ids[:, -1]) == {3}
    assert model.start_token_id not in texts.token_ids
    assert len({tuple(row) for row in texts.token_ids.tolist()}) > 3
    greedy = generate_eagerly(model, SOURCES, max_new_tokens=6, sampler=GreedySampler((ForceFirstToken(11),)))
    assert greedy.token_ids.tolist() == [slow_greedy(model, source, 6, first=(11,)) for source in SOURCES]
    rounded = generate_eagerly(model, SOURCES, max_new_tokens=3, cache_dtype="int8", log_probs=True)
    exact = generate_eagerly(model, SOURCES, max_new_tokens=3, log_probs=True)
    np.testing.assert_allclose(rounded.log_probs[:, 0], exact.log_probs[:, 0], atol=0.2)
    assert model.init_state(1, 4, "int8", np.array([[1, 2]])).memories[0].cross_attention.key.values.dtype == "int8"


def test_sources_that_are_empty_too_long_or_of_another_vocabulary_are_refused_before_any_work():
    sizes = {"vocabulary_size": 9, "max_sequence_length": 16, "num_layers": 1, "num_heads": 2}
    model = lively(build_bart(**sizes, hidden_dim=8, intermediate_dim=8))
    for sources, num_new, message in (
        ([[1, 2], []], 2, "Each row of `token_ids` must have at least 1 token.*row 1 without any"),
        ([[1] * 17], 2, "fit the model's 16 positions. Received: a prompt of 17 tokens and max_new_tokens=2"),
        ([[1] * 16], 16, "a prompt of 16 tokens and max_new_tokens=16"),
        ([[9]], 2, r"`token_ids` must be in \[0, 9\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(sources, max_new_tokens=num_new)
    assert generate_eagerly(model, [[1] * 16], max_new_tokens=15).num_tokens.tolist() == [15]
