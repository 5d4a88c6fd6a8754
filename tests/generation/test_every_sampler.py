"""What holds for every sampler: rows depend on themselves alone, and the way of computing does not show.

`texts.json` holds what TensorFlow writes, and so every backend; to write it anew:
`python -m tests.generation.test_every_sampler`.
"""

import contextlib
import functools
import json
from pathlib import Path

import numpy as np
import pytest
from keras import ops

from tests.generation.eagerly import generate_eagerly
from tests.generation.every_sampler import SAMPLERS
from tests.generation.lively import NO_TIE, Uncached, lively_model
from tests.generation.plain_graphs import plain_graphs

PROMPTS = [[1, 2, 3], [5], [7, 8] * 10]
STOPS = {"stop_token_ids": (26, 4), "stop_sequences": ((24, 18, 7), (1, 1))}
LENGTH = 10
TEXTS = Path(__file__).with_name("texts.json")
WITH_XLA = ("greedy", "random", "beam", "draft_model")
EACH = [
    name if name in WITH_XLA or name == "custom" else pytest.param(name, marks=pytest.mark.slow) for name in SAMPLERS
]


@pytest.fixture(scope="module")
def model():
    return lively_model(num_layers=1)


@pytest.fixture(scope="module")
def together(model):
    """name -> what is written, by XLA for one sampler of each kind."""

    @functools.cache
    def written(name):
        with contextlib.nullcontext() if name in WITH_XLA else plain_graphs():
            return model.generate(PROMPTS, max_new_tokens=LENGTH, sampler=SAMPLERS[name], **STOPS)

    return written


def same(one, other, row=slice(None)):
    assert one.token_ids.tolist() == other.token_ids[row].tolist()
    assert one.num_tokens.tolist() == other.num_tokens[row].tolist()
    assert list(one.finish_reasons) == list(other.finish_reasons[row])
    # 1e-5: sums of float32 logarithms in another order.
    np.testing.assert_allclose(one.scores, other.scores[row], atol=1e-5)


@pytest.mark.parametrize("name", EACH)
def test_texts_are_of_the_vocabulary_and_padded_after_their_end(together, name):
    generation = together(name)
    for ids, length, reason in zip(generation.token_ids, generation.num_tokens, generation.finish_reasons, strict=True):
        assert (ids[:length] >= 0).all()
        assert (ids[length:] == -1).all()
        assert reason in ("stop_token", "stop_sequence", "length", "complete")
        assert (reason == "length") == (length == LENGTH) or reason == "complete"
        assert not {26, 4} & set(ids.tolist())


@pytest.mark.parametrize("name", EACH)
def test_batched_equals_one_by_one(model, together, name):
    # Row i's draws belong to i, so a row stands at its own place when its neighbours are others. They are as long as
    # the longest prompt: nothing is compiled for another length.
    for i, prompt in enumerate(PROMPTS[:2]):
        prompts = [[9] * 20] * len(PROMPTS)
        prompts[i] = prompt
        alone = model.generate(prompts, max_new_tokens=LENGTH, sampler=SAMPLERS[name], **STOPS)
        assert alone.token_ids[i].tolist() == together(name).token_ids[i].tolist()
        assert alone.finish_reasons[i] == together(name).finish_reasons[i]
    single = model.generate(PROMPTS[0], max_new_tokens=LENGTH, sampler=SAMPLERS[name], **STOPS)
    same(single, together(name), slice(0, 1))


@pytest.mark.parametrize("name", EACH)
def test_cached_equals_uncached(model, together, name):
    uncached = generate_eagerly(Uncached(model), PROMPTS, max_new_tokens=LENGTH, sampler=SAMPLERS[name], **STOPS)
    same(uncached, together(name))


@pytest.mark.parametrize("name", EACH)
def test_every_backend_writes_what_tensorflow_writes(together, name):
    assert told(together(name)) == json.loads(TEXTS.read_text(encoding="utf-8"))[name]


def told(generation):
    """Ids and ends of each row, as JSON has them."""
    rows = zip(generation.token_ids.tolist(), generation.num_tokens.tolist(), strict=True)
    return [[ids[:length], why] for (ids, length), why in zip(rows, generation.finish_reasons, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SAMPLERS.keys() - WITH_XLA))
def test_xla_writes_what_a_plain_graph_writes(together, name):
    model = lively_model(num_layers=1)
    same(model.generate(PROMPTS, max_new_tokens=LENGTH, sampler=SAMPLERS[name], **STOPS), together(name))


class Moved:
    """A model whose logits are a little off, as those of another processor are."""

    def __init__(self, model):
        self.model = model
        self.off = NO_TIE / 2 * np.random.default_rng(0).choice([-1.0, 1.0], model.vocabulary_size).astype("float32")

    def __getattr__(self, name):
        return getattr(self.model, name)

    def project(self, hidden):
        return self.model.project(hidden) + ops.convert_to_tensor(self.off)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_no_text_hangs_on_the_last_digits_of_its_logits(model, together, name):
    """Why the tests of this file may compare ids on every processor."""
    moved = generate_eagerly(Moved(model), PROMPTS, max_new_tokens=LENGTH, sampler=SAMPLERS[name], **STOPS)
    assert moved.token_ids.tolist() == together(name).token_ids.tolist()


@pytest.mark.parametrize("name", EACH)
def test_streaming_equals_not_streaming(model, together, name):
    steps = list(
        model.generate_steps(PROMPTS, max_new_tokens=LENGTH, sampler=SAMPLERS[name], tokens_per_piece=3, **STOPS)
    )
    same(steps[-1], together(name))
    longest = max(len(sequence) for sequence in STOPS["stop_sequences"])
    for step in steps:  # what was shown stays, but for the beginning of a stop sequence
        for row, (shown, count) in enumerate(zip(step.token_ids, step.num_tokens, strict=True)):
            certain = max(0, count - longest + 1)
            assert shown[:certain].tolist() == together(name).token_ids[row, :certain].tolist()


@pytest.mark.slow
def test_the_texts_are_not_all_alike(together):
    """Else the tests above would compare little."""
    generations = [together(name) for name in SAMPLERS]
    assert len({tuple(generation.token_ids.ravel()) for generation in generations}) >= 8
    reasons = {reason for generation in generations for reason in generation.finish_reasons}
    assert {"stop_token", "length", "complete"} <= reasons


if __name__ == "__main__":
    with plain_graphs():
        options = {"max_new_tokens": LENGTH, **STOPS}
        texts = {
            name: told(lively_model(num_layers=1).generate(PROMPTS, sampler=sampler, **options))
            for name, sampler in SAMPLERS.items()
        }
    TEXTS.write_text(json.dumps(texts) + "\n", encoding="utf-8")
