"""The exported text generator equals the Python object, in a process that imports only tensorflow."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf

import keras_tfm as ktfm
from keras_tfm.samplers import BanTokens, GreedySampler, MinP, RandomSampler, RepetitionPenalty, Temperature, TopP

PROMPTS = ["ROMEO:", "", "but soft, what light", "né 👩‍🚀"]
CLIENT = """
import json, sys
import tensorflow as tf
served = tf.saved_model.load(sys.argv[1]).signatures
prompts = json.loads(sys.argv[2])
answer = served["serving_default"](prompts=tf.constant(prompts))
one_by_one = [served["serving_default"](prompts=tf.constant([p]))["text"].numpy()[0].decode() for p in prompts[:1]]
settings = dict(max_new_tokens=9, temperature=0.0, top_k=0, top_p=1.0, seed=0)
greedy = served["generate"](prompts=tf.constant(prompts), **{k: tf.constant(v) for k, v in settings.items()})
tokens = served["tokenize"](texts=tf.constant(prompts))
print(json.dumps({
    "signatures": sorted(served),
    "text": [t.decode() for t in answer["text"].numpy()],
    "num_tokens": answer["num_tokens"].numpy().tolist(),
    "one_by_one": one_by_one,
    "greedy": [t.decode() for t in greedy["text"].numpy()],
    "token_ids": tokens["token_ids"].numpy().tolist(),
    "token_counts": tokens["num_tokens"].numpy().tolist(),
    "logits": served["logits"](token_ids=tf.constant([[1, 2, 3]]))["logits"].numpy().tolist(),
    "modules": [m for m in sys.modules if m.split(".")[0] in ("keras_tfm", "keras_hub", "tensorflow_text")],
}))
"""


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
    writer.export(path, max_new_tokens=12, seed=7)
    return path


@pytest.fixture(scope="module")
def answers(path):
    command = [sys.executable, "-c", CLIENT, str(path), json.dumps(PROMPTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def served(path):
    return tf.saved_model.load(str(path)).signatures


def test_it_loads_with_tensorflow_alone(answers):
    assert answers["signatures"] == ["decode_step", "generate", "logits", "prefill", "serving_default", "tokenize"]
    assert answers["modules"] == []


def test_the_same_seed_gives_the_same_text_as_in_python(answers, writer):
    assert answers["text"] == writer(PROMPTS, max_new_tokens=12, seed=7)
    assert answers["one_by_one"] == answers["text"][:1]


def test_temperature_zero_is_greedy(answers, writer):
    # The same processors, but the best token: what Temperature(0) at the temperature's place gives.
    processors = [Temperature(0) if isinstance(p, Temperature) else p for p in writer.sampler.processors]
    processors = [TopP(1.0) if isinstance(p, TopP) else p for p in processors]
    greedy = ktfm.generation.TextGenerator(writer.model, writer.tokenizer, RandomSampler(processors))
    assert answers["greedy"] == greedy(PROMPTS, max_new_tokens=9)


def test_tokenize_and_logits_equal_python(answers, writer):
    assert [
        row[:count] for row, count in zip(answers["token_ids"], answers["token_counts"], strict=True)
    ] == writer.tokenizer.encode(PROMPTS)
    # 1e-5: another graph of the same float32 products.
    np.testing.assert_allclose(answers["logits"], writer.model(np.array([[1, 2, 3]])), atol=1e-5)


def test_any_batch_size_and_none_at_all(served, writer):
    for num_rows in (0, 1, 3):
        text = served["serving_default"](prompts=tf.constant(PROMPTS[:num_rows], tf.string))["text"].numpy()
        assert [piece.decode() for piece in text] == (
            writer(PROMPTS[:num_rows], max_new_tokens=12, seed=7) if num_rows else []
        )


def test_eight_threads_at_once_get_their_own_texts(served, writer):
    expected = writer(PROMPTS, max_new_tokens=12, seed=7)
    results = {}

    def ask(i):
        prompt = PROMPTS[i % len(PROMPTS)]
        for _ in range(5):
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
        ({"max_new_tokens": 64}, "must fit the 64 positions of the model"),
        ({"temperature": -1.0}, "`temperature` must be at least 0"),
        ({"top_p": 0.0}, "`top_p` must be greater than 0"),
        ({"max_new_tokens": -1}, "`max_new_tokens` must be at least 0"),
    ],
)
def test_bad_settings_raise_in_the_graph(served, settings, message):
    settings = {"max_new_tokens": 4, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "seed": 0, **settings}
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        served["generate"](prompts=tf.constant(["a"]), **{name: tf.constant(v) for name, v in settings.items()})


def test_a_greedy_writer_is_exported_with_temperature_zero(tiny_writer, tmp_path):
    writer = ktfm.generation.TextGenerator(tiny_writer.model, tiny_writer.tokenizer, GreedySampler())
    writer.export(tmp_path / "1", max_new_tokens=8)
    served = tf.saved_model.load(str(tmp_path / "1")).signatures
    text = served["serving_default"](prompts=tf.constant(["ROMEO:"]))["text"].numpy()[0].decode()
    assert text == writer("ROMEO:", max_new_tokens=8)


def test_a_path_that_exists_raises_and_is_left_alone(writer, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=str(tmp_path)):
        writer.export(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_failed_export_leaves_nothing_behind(writer, tmp_path, monkeypatch):
    def fail(module, path, **options):
        (tmp_path / "serving" / ".1.half").mkdir(parents=True, exist_ok=True)
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        writer.export(tmp_path / "serving" / "1")
    assert not (tmp_path / "serving" / "1").exists()
