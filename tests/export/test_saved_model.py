"""The exported text generator equals the Python object, in a process that imports only tensorflow."""

import json
import os
import pathlib
import resource
import threading

import numpy as np
import pytest
import tensorflow as tf

import keras_tfm as ktfm
from keras_tfm.export.saved_model import DEFAULT_TOTAL_TOKENS, batches_of, total_tokens_of
from keras_tfm.export.writing import write_saved_model
from keras_tfm.models import LanguageModel
from keras_tfm.samplers import BanTokens, GreedySampler, MinP, RandomSampler, RepetitionPenalty, Temperature, TopP
from tests.export.stock_server import STOCK_SERVER, ask_stock_server

PROMPTS = ["ROMEO:", "", "but soft, what light", "né 👩‍🚀"]
SETTINGS = {"max_new_tokens": 9, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0}
CLIENT = (
    STOCK_SERVER
    + """
path, compiled_path, prompts, settings = sys.argv[1], sys.argv[2], *map(json.loads, sys.argv[3:])
served = tf.saved_model.load(path).signatures
settings = {name: tf.constant(value) for name, value in settings.items()}
answer = served["serving_default"](prompts=tf.constant(prompts))
one_by_one = [served["serving_default"](prompts=tf.constant([p]))["text"].numpy()[0].decode() for p in prompts[:1]]
greedy = served["generate"](prompts=tf.constant(prompts), **settings)
begun = served["prefill"](prompts=tf.constant(prompts), **settings)
states = {name: tensor for name, tensor in begun.items() if name.startswith("state_")}
streamed = served["decode_step"](num_tokens=tf.constant(100), **states)
tokens = served["tokenize"](texts=tf.constant(prompts))
try:
    tf.saved_model.load(compiled_path).signatures["serving_default"](prompts=tf.constant(prompts))
    compiled_error = ""
except tf.errors.InternalError as error:
    compiled_error = str(error)
print(json.dumps({
    "signatures": sorted(served),
    "text": [t.decode() for t in answer["text"].numpy()],
    "num_tokens": answer["num_tokens"].numpy().tolist(),
    "one_by_one": one_by_one,
    "greedy": [t.decode() for t in greedy["text"].numpy()],
    "streamed": [t.decode() for t in streamed["text"].numpy()],
    "token_ids": tokens["token_ids"].numpy().tolist(),
    "token_counts": tokens["num_tokens"].numpy().tolist(),
    "logits": served["logits"](token_ids=tf.constant([[1, 2, 3]]))["logits"].numpy().tolist(),
    "compiled_error": compiled_error,
    "modules": [m for m in sys.modules if m.split(".")[0] in ("keras_tfm", "keras_hub", "tensorflow_text")],
}))
"""
)


@pytest.fixture(scope="module")
def sampler():
    # Top-p before temperature, a processor between and one after: the order must survive.
    return RandomSampler([RepetitionPenalty(1.2), TopP(0.9), BanTokens((3, 4)), Temperature(0.9), MinP(0.01)])


@pytest.fixture(scope="module")
def writer(tiny_writer, sampler):
    return ktfm.generation.TextGenerator(tiny_writer.model, tiny_writer.tokenizer, sampler)


@pytest.fixture(scope="module")
def path(writer, tmp_path_factory):
    path = tmp_path_factory.mktemp("serving") / "deep" / "1"
    numbers = {"max_new_tokens": 12, "seed": 7, "max_total_tokens": 48, "max_prompts": 4}
    numbers = {name: np.int64(number) for name, number in numbers.items()}
    writer.export(path, **numbers, warmup=["ROMEO:", PROMPTS])
    return path


@pytest.fixture(scope="module")
def greedy_writer(tiny_writer):
    return ktfm.generation.TextGenerator(tiny_writer.model, tiny_writer.tokenizer, GreedySampler())


@pytest.fixture(scope="module")
def compiled_path(greedy_writer, tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "1"
    greedy_writer.export(path, max_new_tokens=8, jit_compile=True)
    return path


@pytest.fixture(scope="module")
def answers(path, compiled_path):
    return ask_stock_server(CLIENT, path, compiled_path, json.dumps(PROMPTS), json.dumps(SETTINGS))


@pytest.fixture(scope="module")
def served(path):
    return tf.saved_model.load(str(path)).signatures


def test_it_loads_with_tensorflow_alone(answers):
    assert answers["signatures"] == ["decode_step", "generate", "logits", "prefill", "serving_default", "tokenize"]
    assert answers["modules"] == []


def test_the_same_seed_gives_the_same_text_as_in_python(answers, writer):
    assert answers["text"] == writer(PROMPTS, max_new_tokens=12, seed=7)
    assert answers["one_by_one"] == answers["text"][:1]


def test_a_server_without_xla_refuses_what_xla_must_compile(answers):
    # So the other answers came without it.
    assert "XLA compilation disabled" in answers["compiled_error"]


def test_temperature_zero_is_greedy(answers, writer):
    # The same processors, but the best token: what Temperature(0) at the temperature's place gives.
    processors = [Temperature(0) if isinstance(p, Temperature) else p for p in writer.sampler.processors]
    processors = [TopP(1.0) if isinstance(p, TopP) else p for p in processors]
    greedy = ktfm.generation.TextGenerator(writer.model, writer.tokenizer, RandomSampler(processors))
    assert answers["greedy"] == greedy(PROMPTS, max_new_tokens=9)
    assert answers["streamed"] == answers["greedy"]


def test_tokenize_and_logits_equal_python(answers, writer):
    assert [
        row[:count] for row, count in zip(answers["token_ids"], answers["token_counts"], strict=True)
    ] == writer.tokenizer.encode(PROMPTS)
    # 1e-5: another graph of the same float32 products.
    np.testing.assert_allclose(answers["logits"], writer.model(np.array([[1, 2, 3]])), atol=1e-5)


@pytest.mark.slow
def test_any_batch_size_and_none_at_all(served, writer):
    for num_rows in (0, 1, 3):
        text = served["serving_default"](prompts=tf.constant(PROMPTS[:num_rows], tf.string))["text"].numpy()
        assert [piece.decode() for piece in text] == (
            writer(PROMPTS[:num_rows], max_new_tokens=12, seed=7) if num_rows else []
        )


@pytest.mark.slow
def test_eight_threads_at_once_get_their_own_texts(served, writer):
    expected = writer(PROMPTS, max_new_tokens=12, seed=7)
    results = {}

    def ask(i):
        prompt = PROMPTS[i % len(PROMPTS)]
        for _ in range(2):
            text = served["serving_default"](prompts=tf.constant([PROMPTS[0], prompt]))["text"].numpy()
            results.setdefault(i, set()).add((prompt, text[0].decode()))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: {(PROMPTS[i % len(PROMPTS)], expected[0])} for i in range(8)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 48}, "must fit `max_total_tokens`=48"),
        ({"temperature": -1.0}, "`temperature` must be at least 0"),
        ({"top_k": -1}, "`top_k` must be at least 0"),
        ({"top_p": 0.0}, "`top_p` must be greater than 0"),
        ({"max_new_tokens": -1}, "`max_new_tokens` must be at least 0"),
    ],
)
def test_bad_settings_raise_in_the_graph(served, settings, message):
    settings = {"max_new_tokens": 4, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 0, **settings}
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        served["generate"](prompts=tf.constant(["a"]), **{name: tf.constant(v) for name, v in settings.items()})


def test_just_so_many_tokens_fit(served):
    settings = {name: tf.constant(value) for name, value in {**SETTINGS, "max_new_tokens": 47}.items()}
    assert served["generate"](prompts=tf.constant(["a"]), **settings)["num_tokens"].numpy() <= 47


@pytest.mark.parametrize(
    ("prompt", "max_new_tokens", "message"),
    [("a", 2**29, ""), ("a", 2**31 - 1, ""), ("a" * 2**20, 1, r"\[in row\]|in row.*1.*a prompt of")],
)
def test_a_refused_request_takes_no_memory(served, prompt, max_new_tokens, message):
    settings = {name: tf.constant(value) for name, value in SETTINGS.items()}
    settings["max_new_tokens"] = tf.constant(max_new_tokens)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KB
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"(?s)must fit `max_total_tokens`=48.*{message}"):
        served["generate"](prompts=tf.constant(["a", prompt]), **settings)
    # The room for so many tokens would be 2 GB, and keys and values of such a prompt 1 GB.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19


def test_logits_refuse_rows_that_are_too_long(served):
    with pytest.raises(tf.errors.InvalidArgumentError, match="at most `max_total_tokens`=48 columns"):
        served["logits"](token_ids=tf.zeros([1, 49], tf.int32))


@pytest.mark.slow
def test_a_request_of_too_many_prompts_is_refused(served):
    settings = {name: tf.constant(value) for name, value in SETTINGS.items()}
    requests = {
        "serving_default": {"prompts": tf.fill([5], "a")},
        "generate": {"prompts": tf.fill([5], "a"), **settings},
        "prefill": {"prompts": tf.fill([5], "a"), **settings},
        "tokenize": {"texts": tf.fill([5], "a")},
        "logits": {"token_ids": tf.ones([5, 2], tf.int32)},
    }
    for name, request in requests.items():
        with pytest.raises(tf.errors.InvalidArgumentError, match="must have at most `max_prompts`=4 rows"):
            served[name](**request)


def test_a_state_asks_for_no_more_work_than_it_has_room_for(served):
    settings = {name: tf.constant(value) for name, value in SETTINGS.items()}
    begun = served["prefill"](prompts=tf.constant(["a"]), **settings)
    states = {name: tensor for name, tensor in begun.items() if name.startswith("state_")}
    endless = {**states, "state_settings_max_new_tokens": tf.constant(2**31 - 1)}
    answer = served["decode_step"](num_tokens=tf.constant(2**31 - 1), **endless)
    assert answer["num_tokens"].numpy() <= 16  # the room for 9
    before = {**states, "state_generation_num_tokens": tf.constant([-(2**31)])}
    with pytest.raises(tf.errors.InvalidArgumentError, match="num_tokens` must be at least 0"):
        served["decode_step"](num_tokens=tf.constant(1), **before)


class Named:
    """What `total_tokens_of` asks of a model."""

    noted_sequence_length = LanguageModel.noted_sequence_length

    def __init__(self, positions=None, notes=None):
        self.max_sequence_length = positions
        self.checkpoint = {} if notes is None else {"notes": notes}


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        (Named(64), None, 64),
        (Named(64), 48, 48),
        (Named(), None, DEFAULT_TOTAL_TOKENS),
        (Named(notes={}), None, DEFAULT_TOTAL_TOKENS),
        (Named(notes={"max_position_embeddings": 8192}), None, 8192),
        (Named(notes={"max_position_embeddings": 8192}), 10**5, 10**5),
        (Named(notes={"max_position_embeddings": "many"}), None, DEFAULT_TOTAL_TOKENS),
        (Named(notes={"max_position_embeddings": 2**40}), None, DEFAULT_TOTAL_TOKENS),
    ],
)
def test_the_limit_is_what_is_given_or_what_model_or_checkpoint_say(model, given, expected):
    assert total_tokens_of(model, given) == expected


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_total_tokens": 65}, ValueError, "`max_total_tokens` must be at most the 64 positions of the model"),
        ({"max_total_tokens": 0}, ValueError, "`max_total_tokens` must be an integer of at least 1"),
        ({"max_new_tokens": 64}, ValueError, "must fit `max_total_tokens`=64.*max_new_tokens=64"),
        ({"warmup": "a " * 60}, ValueError, "prompts of `warmup`.*must fit `max_total_tokens`=64"),
        ({"warmup": ["a"] * 1001}, ValueError, "`warmup` must hold at most 1000 requests"),
        ({"max_prompts": 0}, ValueError, "`max_prompts` must be an integer of at least 1"),
        ({"max_prompts": 1, "warmup": [["a", "b"]]}, ValueError, "requests of `warmup` must have at most 1 prompts"),
        ({"max_new_tokens": 2.0}, ValueError, "`max_new_tokens` must be an integer"),
        ({"seed": "a"}, ValueError, "`seed` must be an integer"),
        ({"num_return_sequences": 2.0}, ValueError, "`num_return_sequences` must be an integer"),
        ({"temperature": -1}, ValueError, "`temperature` must be at least 0"),
        ({"temperature": "hot"}, ValueError, "`temperature` must be a finite number"),
        ({"top_k": -1}, ValueError, "`top_k` must be an integer of at least 0"),
        ({"top_p": 0}, ValueError, "`top_p` must be greater than 0"),
        ({"stop_strings": 5}, TypeError, "`stop_strings` must be a str"),
    ],
)
def test_a_bad_export_is_refused_by_name_before_any_work(writer, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        writer.export(tmp_path / "1", **{"max_new_tokens": 8, **settings})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("token_id", [-1, 300])
def test_logits_refuse_ids_outside_of_the_vocabulary(served, token_id):
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be at least 0 and less than 300"):
        served["logits"](token_ids=tf.constant([[1, token_id]]))


def test_a_compiled_greedy_writer_is_exported_with_temperature_zero(greedy_writer, compiled_path):
    served = tf.saved_model.load(str(compiled_path)).signatures
    text = served["serving_default"](prompts=tf.constant(["ROMEO:"]))["text"].numpy()[0].decode()
    assert text == greedy_writer("ROMEO:", max_new_tokens=8)


def test_warmup_requests_are_what_a_server_reads(path, served):
    from tensorflow_serving.apis import prediction_log_pb2

    records = tf.data.TFRecordDataset(str(path / "assets.extra" / "tf_serving_warmup_requests"))
    requests = [prediction_log_pb2.PredictionLog.FromString(r.numpy()).predict_log.request for r in records]
    for request, prompts in zip(requests, [["ROMEO:"], PROMPTS], strict=True):
        assert request.model_spec.name
        assert request.model_spec.signature_name == "serving_default"
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        assert [prompt.decode() for prompt in inputs["prompts"]] == prompts
        assert inputs.keys() == served["serving_default"].structured_input_signature[1].keys()


def test_one_warmup_prompt_is_one_request():
    assert batches_of("ROMEO:") == batches_of(["ROMEO:"]) == batches_of([["ROMEO:"]]) == [["ROMEO:"]]


@pytest.mark.parametrize("warmup", [7, [7], [[]], [["a", 7]], b"ROMEO:"])
def test_a_warmup_that_is_no_list_of_prompts_raises(writer, tmp_path, warmup):
    with pytest.raises(ValueError, match=r"`warmup` must be a prompt or a list, .*\. Received: "):
        writer.export(tmp_path / "1", warmup=warmup)


def test_a_path_that_exists_raises_and_is_left_alone(writer, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=str(tmp_path)):
        writer.export(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_failed_export_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(module, path, **options):
        os.makedirs(path)
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_saved_model(tf.Module(), {}, tmp_path / "serving" / "1")
    assert list((tmp_path / "serving").iterdir()) == []


def test_two_writers_to_one_path_give_one_model_and_one_error(tmp_path, monkeypatch):
    both, errors = threading.Barrier(2), []

    def save(module, path, **options):
        os.makedirs(path)
        pathlib.Path(path, "saved_model.pb").touch()
        both.wait(timeout=60)

    def write():
        try:
            write_saved_model(tf.Module(), {}, tmp_path / "1")
        except FileExistsError as error:
            errors.append(error)

    monkeypatch.setattr(tf.saved_model, "save", save)
    threads = [threading.Thread(target=write) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["1", "1/saved_model.pb"]
    assert len(errors) == 1
