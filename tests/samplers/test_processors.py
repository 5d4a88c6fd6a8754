"""Processors on a 4-word vocabulary with results worked out by hand, and against Hugging Face on random logits."""

import math

import numpy as np
import pytest
import tensorflow as tf
import torch
import transformers

from keras_tfm import samplers

# Probabilities 0.5, 0.25, 0.15, 0.1.
PROBABILITIES = np.array([[0.5, 0.25, 0.15, 0.1]], "float32")
LOGITS = np.log(PROBABILITIES)
NO_TOKENS = np.full((1, 3), -1, "int32")


def kept(processor, logits=LOGITS, tokens=NO_TOKENS):
    """Which tokens a processor leaves, as a list of ids."""
    processed = np.asarray(processor(tf.constant(logits), tf.constant(tokens), 0))
    return [int(token) for token in np.flatnonzero(processed[0] > samplers.BANNED / 2)]


def test_temperature_divides_the_logits():
    processed = samplers.Temperature(0.5)(tf.constant(LOGITS), NO_TOKENS, 0)
    np.testing.assert_allclose(processed, LOGITS * 2, rtol=1e-6)


def test_temperature_zero_leaves_the_first_of_the_best_tokens():
    assert kept(samplers.Temperature(0), np.array([[1.0, 3.0, 3.0, 2.0]], "float32")) == [1]


@pytest.mark.parametrize(
    ("k", "expected"), [(0, [0, 1, 2, 3]), (1, [0]), (2, [0, 1]), (3, [0, 1, 2]), (9, [0, 1, 2, 3])]
)
def test_top_k_keeps_the_k_best(k, expected):
    assert kept(samplers.TopK(k)) == expected


def test_top_k_keeps_ties_with_the_last():
    assert kept(samplers.TopK(2), np.array([[5.0, 1.0, 1.0, 0.0]], "float32")) == [0, 1, 2]


def test_top_k_counts_negative_and_banned_logits_in_order():
    assert kept(samplers.TopK(2), np.array([[-5.0, -1.0, samplers.BANNED, -2.0]], "float32")) == [1, 3]


@pytest.mark.parametrize(
    ("p", "expected"), [(0.4, [0]), (0.5, [0]), (0.6, [0, 1]), (0.76, [0, 1, 2]), (1.0, [0, 1, 2, 3])]
)
def test_top_p_keeps_the_fewest_that_reach_p(p, expected):
    assert kept(samplers.TopP(p)) == expected


@pytest.mark.parametrize(("p", "expected"), [(0.0, [0, 1, 2, 3]), (0.25, [0, 1, 2]), (0.4, [0, 1]), (1.0, [0])])
def test_min_p_compares_with_the_best(p, expected):
    assert kept(samplers.MinP(p)) == expected


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits_of_seen_tokens():
    logits = np.array([[2.0, -2.0, 4.0, 1.0]], "float32")
    tokens = np.array([[0, -1, 1, 0]], "int32")
    processed = samplers.RepetitionPenalty(2.0)(tf.constant(logits), tf.constant(tokens), 0)
    np.testing.assert_allclose(processed, [[1.0, -4.0, 4.0, 1.0]])


def test_repetition_penalty_looks_at_each_row_by_itself():
    logits = np.ones((2, 4), "float32")
    processed = samplers.RepetitionPenalty(2.0)(tf.constant(logits), tf.constant([[0, 3], [-1, -1]]), 0)
    np.testing.assert_allclose(processed, [[0.5, 1, 1, 0.5], [1, 1, 1, 1]])


def test_banned_tokens_never_come():
    assert kept(samplers.BanTokens((0, 3))) == [1, 2]


@pytest.mark.parametrize(
    ("mass", "expected"),
    # Surprises 0.69, 1.39, 1.90, 2.30; the expected one is 1.208: tokens in order of distance 1, 0, 2, 3.
    [(0.2, [1]), (0.3, [0, 1]), (0.8, [0, 1, 2]), (1.0, [0, 1, 2, 3])],
)
def test_typical_keeps_what_surprises_as_much_as_expected(mass, expected):
    assert kept(samplers.Typical(mass)) == expected


@pytest.mark.parametrize(("epsilon", "expected"), [(0.0, [0, 1, 2, 3]), (0.12, [0, 1, 2]), (0.9, [0])])
def test_epsilon_cutoff_keeps_the_best_token_at_least(epsilon, expected):
    assert kept(samplers.EpsilonCutoff(epsilon)) == expected


def test_eta_cutoff_is_milder_where_the_model_is_unsure():
    # exp(-entropy) = 0.299: sqrt(0.2) * 0.299 = 0.134 is less than 0.2.
    assert kept(samplers.EtaCutoff(0.2)) == [0, 1, 2]
    assert kept(samplers.EpsilonCutoff(0.2)) == [0, 1]


SEEN = np.array([[0, -1, 2, 0, -1]], "int32")


def test_presence_penalty_counts_a_token_once_and_frequency_penalty_each_time():
    once = samplers.PresencePenalty(0.5)(tf.zeros((1, 4)), tf.constant(SEEN), 0)
    np.testing.assert_allclose(once, [[-0.5, 0, -0.5, 0]])
    each = samplers.FrequencyPenalty(0.5)(tf.zeros((1, 4)), tf.constant(SEEN), 0)
    np.testing.assert_allclose(each, [[-1.0, 0, -0.5, 0]])


@pytest.mark.parametrize(
    ("n", "tokens", "expected"),
    [
        (1, [[0, 1, -1, 1]], [2, 3]),
        (2, [[0, 1, 2, 0]], [0, 2, 3]),  # 0 was followed by 1
        (2, [[-1, 0, 1, -1, -1, 0, -1]], [0, 2, 3]),  # gaps are none
        (3, [[0, 1, 2, 0, 1]], [0, 1, 3]),  # 0 1 was followed by 2
        (3, [[0, 1, 2, 3, 1]], [0, 1, 2, 3]),
        (3, [[0, -1, -1, -1]], [0, 1, 2, 3]),
    ],
)
def test_no_repeat_ngram_bans_what_would_repeat(n, tokens, expected):
    assert kept(samplers.NoRepeatNgram(n), tokens=np.array(tokens, "int32")) == expected


def test_length_decay_lifts_the_end_more_and_more():
    decay, logits = samplers.ExponentialLengthDecay(2, 2.0, (3,)), tf.constant([[1.0, 1.0, 1.0, -1.0]])
    for step, end in ((0, -1.0), (2, -1.0), (3, 0.0), (4, 2.0)):
        np.testing.assert_allclose(decay(logits, NO_TOKENS, step), [[1, 1, 1, end]])


def test_sequence_bias_and_banned_sequences_act_after_the_other_tokens_of_the_sequence():
    bias = samplers.SequenceBias({(0, 1): 2.0, (3,): -1.0})
    for tokens, expected in (([[2, 0, -1]], [0, 2, 0, -1]), ([[0, 2, -1]], [0, 0, 0, -1]), ([[-1] * 3], [0, 0, 0, -1])):
        np.testing.assert_allclose(bias(tf.zeros((1, 4)), tf.constant(tokens), 0), [expected])
    ban = samplers.BanSequences(((2, 0, 1), (3,)))
    assert kept(ban, tokens=np.array([[2, -1, 0]], "int32")) == [0, 2]
    assert kept(ban, tokens=np.array([[0, 2, -1]], "int32")) == [0, 1, 2]


def at(step, processor):
    return kept(lambda logits, tokens, _: processor(logits, tokens, step))


def test_tokens_are_banned_or_forced_at_their_step_only():
    assert [at(step, samplers.BanTokensAtBegin((0,))) for step in (0, 1)] == [[1, 2, 3], [0, 1, 2, 3]]
    assert [at(step, samplers.ForceFirstToken(2)) for step in (0, 1)] == [[2], [0, 1, 2, 3]]
    assert [at(step, samplers.ForceLastToken(1, 3)) for step in (1, 2)] == [[0, 1, 2, 3], [1]]
    assert [at(step, samplers.MinNewTokens(2, (0, 3))) for step in (1, 2)] == [[1, 2], [0, 1, 2, 3]]


def test_min_length_counts_prompt_and_new_tokens():
    assert kept(samplers.MinLength(3, (0,)), tokens=np.array([[1, -1, 1]], "int32")) == [1, 2, 3]
    assert kept(samplers.MinLength(3, (0,)), tokens=np.array([[1, 2, 1]], "int32")) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("processor", "peer"),
    [
        (samplers.Temperature(0.7), transformers.TemperatureLogitsWarper(0.7)),
        (samplers.TopK(5), transformers.TopKLogitsWarper(5)),
        (samplers.TopP(0.8), transformers.TopPLogitsWarper(0.8)),
        (samplers.MinP(0.1), transformers.MinPLogitsWarper(0.1)),
        (samplers.RepetitionPenalty(1.3), transformers.RepetitionPenaltyLogitsProcessor(1.3)),
        (samplers.Typical(0.7), transformers.TypicalLogitsWarper(0.7)),
        (samplers.EpsilonCutoff(0.02), transformers.EpsilonLogitsWarper(0.02)),
        (samplers.EtaCutoff(0.02), transformers.EtaLogitsWarper(0.02)),
        (samplers.NoRepeatNgram(2), transformers.NoRepeatNGramLogitsProcessor(2)),
        (
            samplers.SequenceBias({(7,): -2.0, (3, 4): 5.0}),
            transformers.SequenceBiasLogitsProcessor({(7,): -2.0, (3, 4): 5.0}),
        ),
        (samplers.BanSequences(((5,), (3, 4))), transformers.NoBadWordsLogitsProcessor([[5], [3, 4]], eos_token_id=0)),
        (samplers.BanTokens((3, 9)), transformers.SuppressTokensLogitsProcessor([3, 9])),
        (samplers.MinLength(20, (1, 2)), transformers.MinLengthLogitsProcessor(20, [1, 2])),
        (samplers.ExponentialLengthDecay(1, 1.5, (4,)), transformers.ExponentialDecayLengthPenalty((1, 1.5), 4, 9)),
    ],
    ids=lambda part: type(part).__name__,
)
def test_equals_hugging_face_on_random_logits(processor, peer):
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(8, 50), scale=3).astype("float32")
    tokens = generator.integers(0, 50, (8, 12)).astype("int32")
    tokens[:, -1] = 3  # so that sequences begin, and pairs repeat
    tokens[:4, 3:5] = 3, 4
    compiled = tf.function(lambda logits, tokens: processor(logits, tokens, 3), jit_compile=True)
    ours = np.asarray(compiled(tf.constant(logits), tf.constant(tokens)))
    theirs = peer(torch.tensor(tokens, dtype=torch.long), torch.tensor(logits)).numpy()
    np.testing.assert_array_equal(ours < samplers.BANNED / 2, np.isneginf(theirs))
    # 1e-6: one float32 division or multiplication.
    np.testing.assert_allclose(
        np.where(np.isneginf(theirs), 0, ours), np.where(np.isneginf(theirs), 0, theirs), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.Temperature(-1.0), "temperature=-1.0"),
        (lambda: samplers.TopK(-2), "k=-2"),
        (lambda: samplers.TopK(1.5), "k=1.5"),
        (lambda: samplers.TopP(0.0), "p=0.0"),
        (lambda: samplers.TopP(1.1), "p=1.1"),
        (lambda: samplers.MinP(2), "p=2"),
        (lambda: samplers.RepetitionPenalty(0), "penalty=0"),
        (lambda: samplers.BanTokens(()), r"token_ids=\(\)"),
        (lambda: samplers.BanTokens((-1,)), r"token_ids=\(-1,\)"),
        (lambda: samplers.TopP(math.nan), "p=nan"),
        (lambda: samplers.Typical(0.0), "p=0.0"),
        (lambda: samplers.EpsilonCutoff(1.0), "epsilon=1.0"),
        (lambda: samplers.EtaCutoff(-0.1), "epsilon=-0.1"),
        (lambda: samplers.NoRepeatNgram(0), "n=0"),
        (lambda: samplers.SequenceBias({}), "biases={}"),
        (lambda: samplers.BanSequences(()), r"sequences=\(\)"),
        (lambda: samplers.BanSequences(((),)), r"sequences=\(\)"),
        (lambda: samplers.ForceFirstToken(-1), "token_id=-1"),
        (lambda: samplers.ForceLastToken(1, 0), "max_new_tokens=0"),
        (lambda: samplers.MinNewTokens(-1, (0,)), "min_new_tokens=-1"),
        (lambda: samplers.MinLength(3, ()), r"stop_token_ids=\(\)"),
        (lambda: samplers.ExponentialLengthDecay(0, 0.5, (1,)), "factor=0.5"),
    ],
)
def test_impossible_numbers_raise_and_are_shown(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_sizes_are_what_an_index_may_be():
    for number in (np.int64(3), np.int32(3), np.uint8(3)):
        made = (
            samplers.TopK(number).k,
            samplers.NoRepeatNgram(number).n,
            samplers.BeamSampler(num_beams=number).num_beams,
        )
        assert made == (3, 3, 3)
        assert samplers.ContrastiveSampler(top_k=number).top_k == 3
        assert samplers.DiverseBeamSampler(num_beams=6, num_groups=number).num_groups == 3
        assert samplers.MinNewTokens(number, np.array([5])) == samplers.MinNewTokens(3, (5,))
        assert samplers.GreedySampler(seed=number).seed == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: samplers.TopK(2.5), "`k` .* Received: k=2.5"),
        (lambda: samplers.TopK(True), "k=True"),
        (lambda: samplers.BeamSampler(num_beams="4"), "num_beams='4'"),
        (lambda: samplers.GreedySampler(seed="a"), "`seed` must be an integer .* seed='a'"),
        (lambda: samplers.BanTokens(5), "`token_ids` must hold ids, as in .* token_ids=5"),
        (lambda: samplers.BanTokens("5"), "token_ids='5'"),
        (lambda: samplers.BanTokens((1.5,)), r"token_ids=\(1.5,\)"),
        (lambda: samplers.BanSequences((5, 6)), r"`sequences` must hold sequences of ids.* sequences=\(5, 6\)"),
        (lambda: samplers.BanSequences(5), "`sequences` must hold sequences"),
        (lambda: samplers.PresencePenalty(float("nan")), "`penalty` must be a finite number"),
        (lambda: samplers.PresencePenalty(float("inf")), "penalty=inf"),
        (lambda: samplers.FrequencyPenalty(None), "penalty=None"),
        (lambda: samplers.Temperature(float("inf")), "temperature=inf"),
        (lambda: samplers.SequenceBias({(1,): float("nan")}), "biases=nan"),
    ],
)
def test_what_is_no_such_number_raises_and_names_the_argument(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_nucleus_is_not_widened_by_rounding():
    logits = np.log(np.array([[0.3, 0.1, 0.1, 0.5]], "float32"))
    kept = np.asarray(samplers.TopP(0.8)(tf.constant(logits), None, None)) > samplers.BANNED
    assert kept.tolist() == [[True, False, False, True]]
