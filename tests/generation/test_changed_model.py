"""A model that was changed writes as it is now; one whose weights have other values is not compiled anew."""

import dataclasses
import logging

import keras
import numpy as np
import pytest

from keras_tfm.generation import TextGenerator, runner
from keras_tfm.samplers import (
    BanSequences,
    BanTokens,
    DraftModel,
    GreedySampler,
    MinNewTokens,
    Processor,
    RandomSampler,
    SequenceBias,
    SpeculativeSampler,
)
from keras_tfm.structure import Snapshot
from tests.generation.lively import lively_model, slow_greedy

PROMPT = [1, 2, 3]
pytestmark = pytest.mark.usefixtures("without_xla")


@pytest.fixture
def compilations(monkeypatch):
    """The samplers that a loop was made for."""
    made = []

    class Noted(runner.CompiledGeneration):
        def __init__(self, model, sampler, *arguments, **options):
            made.append(sampler)
            super().__init__(model, sampler, *arguments, **options)

    monkeypatch.setattr(runner, "CompiledGeneration", Noted)
    return made


def enable_lora(model):
    for block in model.stack.blocks:
        dense = block.self_attention.value_dense
        dense.enable_lora(2)
        dense.lora_kernel_b.assign(np.random.default_rng(0).normal(size=dense.lora_kernel_b.shape))


def exchange_activation(model):
    model.stack.blocks[1].feed_forward.activation = keras.activations.tanh


def exchange_sublayer(model):
    block, other = model.stack.blocks[0], lively_model(seed=7).stack.blocks[0]
    block._tracker.unlock()  # as `enable_lora` does: Keras lets nobody else exchange the parts of a built layer
    block.feed_forward = other.feed_forward


def exchange_block(model):
    model.stack.blocks[1] = lively_model(seed=7).stack.blocks[1]


def add_block(model):
    model.stack._tracker.unlock()
    model.stack.blocks.append(lively_model(seed=7).stack.blocks[1])


def set_attribute(model):
    model.stack.blocks[0].self_attention.scale = 5.0


def quantize(model):
    model.quantize_for_generation()


def quantize_as_keras_does(model):
    for block in model.stack.blocks:
        block.self_attention.value_dense.quantize("int8", type_check=False)


def exchange_policy(model):
    for layer in model._flatten_layers(include_self=False):
        layer.dtype_policy = "mixed_bfloat16"


CHANGES = [
    enable_lora,
    exchange_activation,
    set_attribute,
    exchange_block,
    # The same mechanism, further cases:
    exchange_sublayer,
    add_block,
    quantize,
    quantize_as_keras_does,
    exchange_policy,
]


@pytest.mark.parametrize(
    "change", [*CHANGES[:1], *(pytest.param(change, marks=pytest.mark.slow) for change in CHANGES[1:])]
)
def test_a_changed_model_writes_as_it_is(change, compilations):
    model = lively_model()
    before = model.generate(PROMPT, max_new_tokens=8).token_ids[0].tolist()
    change(model)
    after = model.generate(PROMPT, max_new_tokens=8).token_ids[0].tolist()
    assert after == slow_greedy(model, PROMPT, 8)
    assert len(compilations) == 2
    if change not in (quantize, quantize_as_keras_does, exchange_policy):  # they round, and may leave the text as it is
        assert after != before
    *_, last = model.generate_steps(PROMPT, max_new_tokens=8, tokens_per_piece=3)
    assert last.token_ids[0].tolist() == after
    assert len(compilations) == 2


@pytest.mark.slow
def test_sessions_and_exports_follow_the_model(tiny_tokenizer, tmp_path):
    import tensorflow as tf

    model = lively_model(vocabulary_size=tiny_tokenizer.vocabulary_size)
    writer = TextGenerator(model, tiny_tokenizer)
    session, streaming = writer.session("ROMEO:"), writer.session("ROMEO:")
    first = session(" But", max_new_tokens=6)
    streamed = "".join(streaming.stream(" But", max_new_tokens=6))
    assert streamed == first
    enable_lora(model)
    for one in (session, streaming):
        prompt = [*one.token_ids, *tiny_tokenizer.encode(" soft")]
        "".join(one.stream(" soft", max_new_tokens=6)) if one is streaming else one(" soft", max_new_tokens=6)
        new = model.generate(prompt, max_new_tokens=6).token_ids[0].tolist()
        assert one.token_ids.tolist() == prompt + new
    writer.export(tmp_path / "1", max_new_tokens=6)
    served = tf.saved_model.load(str(tmp_path / "1")).signatures["serving_default"](tf.constant(["ROMEO:"]))
    assert served["text"].numpy()[0].decode() == writer("ROMEO:", max_new_tokens=6)


@pytest.mark.slow
def test_a_changed_draft_model_is_followed(compilations):
    model, draft = lively_model(), lively_model(seed=9, num_layers=1)
    sampler = SpeculativeSampler(drafter=DraftModel(draft), num_drafts=2)
    texts = []
    for change in (lambda model: None, lambda model: None, set_attribute):
        change(draft)
        texts.append(model.generate(PROMPT, max_new_tokens=8, sampler=sampler).token_ids[0].tolist())
    assert texts == [slow_greedy(model, PROMPT, 8)] * 3
    assert len(compilations) == 2


def test_other_values_compile_nothing(compilations, tmp_path):
    model = lively_model(num_layers=1)
    model.compile(keras.optimizers.Adam(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.build(model.trainable_variables)
    texts = [model.generate(PROMPT, max_new_tokens=8).token_ids[0].tolist()]
    model.save_weights(tmp_path / "other.weights.h5")
    rows = np.random.default_rng(0).integers(0, 29, (4, 9))
    model.fit(rows[:, :-1], rows[:, 1:], epochs=2, verbose=0)
    model.evaluate(rows[:, :-1], rows[:, 1:], verbose=0)
    model.predict(rows[:, :-1], verbose=0)
    texts.append(model.generate(PROMPT, max_new_tokens=8).token_ids[0].tolist())
    model.weights[0].assign(model.weights[0] * -1.0)
    assert model.generate(PROMPT, max_new_tokens=8).token_ids[0].tolist() == slow_greedy(model, PROMPT, 8)
    model.load_weights(tmp_path / "other.weights.h5")
    texts.append(model.generate(PROMPT, max_new_tokens=8).token_ids[0].tolist())
    model.save(tmp_path / "model.keras")
    model.stack.blocks[0].self_attention.scale = model.stack.blocks[0].self_attention.scale  # set, but not changed
    texts.append(model.generate(PROMPT, max_new_tokens=8).token_ids[0].tolist())
    assert texts[0] == texts[2] == texts[3] != texts[1]
    assert len(compilations) == 1


@pytest.mark.slow
def test_what_is_kept_is_bounded(compilations, monkeypatch):
    monkeypatch.setattr(runner, "MOST_LOOPS", 2)
    model = lively_model(num_layers=1)

    @dataclasses.dataclass(frozen=True)
    class Labelled(Processor):
        label: str

        def __call__(self, logits, tokens, step):
            return logits

    for i in range(runner.MOST_LOOPS + 1):
        model.generate(PROMPT, max_new_tokens=1, sampler=GreedySampler(Labelled(str(i))))
    assert len(model.generation_runner._compiled) == runner.MOST_LOOPS
    made = len(compilations)  # the newest is kept
    model.generate(
        PROMPT, max_new_tokens=1, sampler=GreedySampler(Labelled(str(runner.MOST_LOOPS)))
    )  # the newest is kept
    assert len(compilations) == made
    model.generate(PROMPT, max_new_tokens=1, sampler=GreedySampler(Labelled("0")))  # the oldest is not
    assert len(compilations) == made + 1


def test_other_numbers_and_lengths_share_a_loop(compilations):
    @dataclasses.dataclass(frozen=True)
    class Scale(Processor):
        factor: float

        def __call__(self, logits, tokens, step):
            return logits * self.factor

    model = lively_model(num_layers=1)
    for number in (2.0, np.float32(3), np.float64(4)):
        model.generate(PROMPT, max_new_tokens=2, sampler=RandomSampler(Scale(number), seed=0))
    assert len(compilations) == 1
    for ids in ((3,), (3, 4), (np.int64(3), np.int32(5))):
        model.generate(PROMPT, max_new_tokens=2, sampler=GreedySampler(BanTokens(ids)))
    assert len(compilations) == 2
    for ids in ((3, 4, 5), (6, 7, 8, 9)):
        model.generate(PROMPT, max_new_tokens=2, sampler=GreedySampler([BanTokens(ids), MinNewTokens(1, ids)]))
    assert len(compilations) == 3
    for sequences in (((1, 2), (3,)), ((4,),), ((5, 6), (7, 8))):
        processors = [BanSequences(sequences), SequenceBias({sequence: 1.5 for sequence in sequences})]
        model.generate(PROMPT, max_new_tokens=2, sampler=GreedySampler(processors))
    assert len(compilations) == 4


def test_a_list_is_named_in_the_error():
    @dataclasses.dataclass(frozen=True)
    class Ban(Processor):
        ids: list

        def __call__(self, logits, tokens, step):
            return logits

    with pytest.raises(TypeError, match=r"`Ban.ids` must be .* Received: \[3\] of type list"):
        lively_model(num_layers=1).generate(PROMPT, sampler=GreedySampler(Ban([3])))


def test_the_log_tells_what_was_compiled_and_for_which_sizes(caplog):
    model = lively_model(num_layers=1)
    with caplog.at_level(logging.INFO, logger="keras_tfm"):
        model.generate([PROMPT] * 3, max_new_tokens=20)
        told = list(caplog.messages)
        model.generate([PROMPT] * 4, max_new_tokens=17)
    assert caplog.messages == told
    assert "GreedySampler" in told[0]
    assert all("4 rows, prompts of up to 16 tokens and 32 new ones" in message for message in told[1:])
    assert len(told) == 3


class Counting(keras.layers.Layer):
    """Notes down how often it was called."""

    untraced_attributes = ("num_calls",)

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.num_calls = 0
        self.noted = {"shapes": []}

    def call(self, x):
        self.num_calls += 1
        return x


def test_a_snapshot_sees_what_is_inside_of_lists_and_dicts_and_passes_over_what_it_is_told_to():
    layer = Counting()
    layer(np.ones((1, 2)))
    snapshot = Snapshot(layer)
    layer(np.ones((1, 2)))
    assert not snapshot.has_changed()
    layer.noted["shapes"].append(1)
    assert snapshot.has_changed()
    assert not snapshot.has_changed()
    layer.table = np.zeros(3)
    assert snapshot.has_changed()
    layer.table[1] = 5
    assert snapshot.has_changed()
    layer.table = layer.table.copy()
    assert not snapshot.has_changed()
    layer.value = float("nan")
    assert snapshot.has_changed()
    layer.value = float("nan")
    assert not snapshot.has_changed()
