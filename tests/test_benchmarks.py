"""Contenders of the benchmarks, at tiny sizes, do what they say: nothing here is timed, and no table depends on it."""

import json

import keras
import pytest

from benchmarks import attention, encode, generate, harness, loss, seq2seq, train
from tests.generation.plain_graphs import plain_graphs_in_fit_too

GENERATION = {"shape": "tiny", "batch": 2, "beams": 1, "new_tokens": 4}
LOSS = {"vocabulary_size": 100, "num_tokens": 64, "width": 16}
TRAINING = {"shape": "tiny", "precision": "float32", "steps": 2, "batch": 2, "length": 16}


@pytest.mark.parametrize(
    ("make", "case"),
    [
        (attention.CONTENDERS["keras_tfm_lean"], {"length": 64, "memory_gib": 1}),
        (encode.CONTENDERS["keras_tfm_int8"], {"shape": "tiny", "work": "forward", "rows": "ragged", "batch": 2}),
        (generate.CONTENDERS["keras_tfm_w8a8"], {**GENERATION, "prompt_length": 8}),
        (loss.CONTENDERS["keras"], LOSS),
        (loss.CONTENDERS["keras_tfm_chunked"], LOSS),
        (seq2seq.CONTENDERS["keras_tfm"], {**GENERATION, "source_length": 8}),
        (train.CONTENDERS["keras_tfm"], TRAINING),
    ],
)
def test_a_contender_answers_every_request(make, case):
    service = harness.Service(make)
    try:
        with plain_graphs_in_fit_too():
            answers = [service.answer({"command": name, "case": case}) for name in ("prepare", "run", "stop")]
    finally:
        keras.config.set_dtype_policy("float32")
    assert not [answer for answer in answers if set(answer) & set(harness.NO_RUNS)]
    assert json.loads(json.dumps(answers)) == answers
    prepared, run, ended = answers
    assert prepared["first_call_seconds"] > 0
    assert run["tokens"] > 0
    assert ended["peak_memory_mb"] > 0


def test_a_contender_that_cannot_start_says_why():
    def make(case):
        raise harness.LeftOut(f"{case['length']} is too long")

    assert harness.Service(make).answer({"command": "prepare", "case": {"length": 7}}) == {"left_out": "7 is too long"}
