"""The command `keras-tfm`, run in this process, and once as users do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import tensorflow as tf

import keras_tfm_cli
from keras_tfm import __version__
from keras_tfm.checkpoints import ChatTemplate, load, load_tokenizer, save
from keras_tfm.generation import TextToText
from keras_tfm.models import MaskedLM, build_bert, build_gpt, build_t5
from keras_tfm.samplers import BeamSampler
from keras_tfm.tokenizers import BytePairTokenizer
from tests.generation.lively import lively
from tests.generation.plain_graphs import plain_graphs
from tests.harness import fresh_process

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tiny_tokenizer, tmp_path_factory):
    model = build_gpt(
        vocabulary_size=tiny_tokenizer.vocabulary_size, max_sequence_length=64, num_layers=1, num_heads=2, hidden_dim=8
    )
    folder = tmp_path_factory.mktemp("cli") / "gpt"
    save(model, folder, tiny_tokenizer, chat_template=ChatTemplate("{{ messages[0].content }}:"))
    return folder


def run(*arguments) -> int:
    return keras_tfm_cli.main(list(map(str, arguments)))


def test_info_tells_the_sizes(folder, capsys):
    assert run("info", folder) == 0
    out = capsys.readouterr().out
    for line in ("architecture         GPT2LMHeadModel (gpt2)", "num layers           1", "tokenizer.json"):
        assert line in out


def test_convert_writes_safetensors_and_keras(folder, tmp_path, capsys):
    assert run("convert", folder, tmp_path / "half", "--dtype", "bfloat16") == 0
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    assert json.loads((tmp_path / "half" / "tokenizer_config.json").read_text())["chat_template"]
    roles = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    shutil.copytree(folder, tmp_path / "padded")
    (tmp_path / "padded" / "tokenizer_config.json").write_text(json.dumps({**settings, **roles}))
    assert run("convert", tmp_path / "padded", tmp_path / "again") == 0
    assert roles.items() <= json.loads((tmp_path / "again" / "tokenizer_config.json").read_text()).items()
    assert run("convert", folder, tmp_path / "gpt.keras") == 0
    assert keras.models.load_model(tmp_path / "gpt.keras").count_params() == load(folder).count_params()
    assert capsys.readouterr().out.count("Wrote") == 3
    assert run("convert", folder, tmp_path / "half") == 1
    assert "must not exist yet" in capsys.readouterr().err
    for name in ("half", "gpt.keras"):
        assert run("convert", folder, tmp_path / name, "--overwrite") == 0
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float32"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "gpt.keras", "half", "padded"]


@pytest.mark.slow
@pytest.mark.usefixtures("without_xla")
def test_an_encoder_decoder_writes_with_beams_and_a_prefix(tiny_tokenizer, tmp_path, capsys):
    sizes = {"num_layers": 1, "num_heads": 2, "head_dim": 4, "hidden_dim": 16, "intermediate_dim": 16}
    model = lively(build_t5(vocabulary_size=tiny_tokenizer.vocabulary_size, **sizes))
    save(model, tmp_path / "t5", tiny_tokenizer)
    options = ("--num-beams", 2, "--prefix", "soft ", "--max-new-tokens", 5)
    assert run("generate", tmp_path / "t5", "ROMEO", *options) == 0
    text = capsys.readouterr().out.removesuffix("\n")
    writer = TextToText(load(tmp_path / "t5"), tiny_tokenizer, prefix="soft ")
    assert text == writer("ROMEO", 5, sampler=BeamSampler(num_beams=2)) != writer("ROMEO", 5)
    assert run("export", tmp_path / "t5", tmp_path / "served", *options) == 0
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    assert served(tf.constant(["ROMEO"]))["text"].numpy()[0].decode() == text
    assert run("generate", tmp_path / "t5", "ROMEO", "--num-beams", 2, "--temperature", 1) == 1
    assert "--num-beams must come without a --temperature" in capsys.readouterr().err


@pytest.mark.slow
def test_generate_and_export_write_the_same(folder, tmp_path, capsys):
    assert run("generate", folder, "ROMEO", "--chat", "--max-new-tokens", 5) == 0
    text = capsys.readouterr().out
    assert text.strip()
    assert run("export", folder, tmp_path / "served", "--max-new-tokens", 5) == 0
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    # The template puts the colon.
    assert served(prompts=tf.constant(["ROMEO:"]))["text"].numpy()[0].decode() == text.removesuffix("\n")


def test_export_passes_its_limits_on(monkeypatch):
    exported = {}

    class Opened:
        def writer(self, sampler):
            return self

        def export(self, path, **options):
            exported.update(options)

    monkeypatch.setattr(keras_tfm_cli, "_opened", lambda options: Opened())
    assert run("export", "org/name", "no", "--max-total-tokens", 99, "--max-prompts", 3, "--seed", 5) == 0
    limits = {"max_new_tokens": 64, "max_total_tokens": 99, "max_prompts": 3, "seed": 5, "jit_compile": False}
    assert exported == limits


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", ROOT), "keras-tfm info: The folder must hold config.json."),
        (("generate", ROOT, "Hi", "--chat"), "must have a chat template"),
    ],
)
def test_errors_are_told_in_a_paragraph(arguments, message, capsys):
    assert run(*arguments) == 1
    assert message in capsys.readouterr().err


REFUSED = [
    (("info", "/no/such/folder"), "PATH must exist. Received: /no/such/folder, which does not. PATH is a folder"),
    (("info", "nofile.gguf"), "PATH must exist. Received: nofile.gguf, which does not."),
    (("info", "~/no/folder"), "PATH must exist. Received: ~/no/folder"),
    (("generate", "HERE/gtp", "Hi"), "Did you mean HERE/gpt?"),
    (("convert", "HERE/gpt", "HERE/gpt"), "OUTPUT must not exist yet. Received: HERE/gpt. Pass --overwrite"),
    (("export", "org/name", "HERE/gpt"), "OUTPUT must not exist yet. Received: HERE/gpt. Remove it"),
    (("convert", "org/name", "x.keras", "--dtype", "float16"), "--dtype must not be given for a .keras file"),
    (("generate", "org/name", "Hi", "--top-k", "5"), "must come with a --temperature above 0"),
    (("export", "name", "no", "--max-total-tokens", "64"), "must be greater than --max-new-tokens"),
    (("export", "name", "no", "--top-p", "0.5"), "must come with a --temperature above 0"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[" ".join(arguments) for arguments, _ in REFUSED])
def test_what_cannot_be_is_refused_before_anything_is_loaded(arguments, message, folder, capsys, monkeypatch):
    def load(options):
        raise AssertionError("it was loaded")

    monkeypatch.setattr(keras_tfm_cli, "_opened", load)
    here = str(folder.parent)
    assert run(*(argument.replace("HERE", here) for argument in arguments)) == 1
    assert f"keras-tfm {arguments[0]}: " in (err := capsys.readouterr().err)
    assert message.replace("HERE", here) in err


def test_a_name_that_is_no_file_and_cannot_be_downloaded_is_told_as_both(capsys, monkeypatch):
    def fail(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    assert run("info", "nofile") == 1
    assert "'nofile'. There is no such file or folder here, and as a repository: no network" in capsys.readouterr().err


def test_keys_that_nobody_knows_are_passed_over_when_asked(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "odd")
    path = tmp_path / "odd" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "odd": 1, "odder": 2}))
    assert run("info", path.parent) == 1
    assert "odd=1, odder=2" in capsys.readouterr().err
    assert run("info", path.parent, "--ignore", "odd", "--ignore", "odder") == 0
    assert run("convert", path.parent, tmp_path / "even", "--ignore", "odd", "--ignore", "odder") == 0


@pytest.mark.parametrize("command", ["generate", "export"])
def test_a_model_that_writes_no_text_is_refused_in_a_paragraph(command, tmp_path, capsys):
    encoder = build_bert(vocabulary_size=29, max_sequence_length=8, num_layers=1, num_heads=1, hidden_dim=4)
    save(MaskedLM(encoder), tmp_path / "bert")
    assert run(command, tmp_path / "bert", tmp_path / "out") == 1
    assert "must hold a causal language model, which writes text. Received: " in (err := capsys.readouterr().err)
    assert "which holds a MaskedLM." in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "COMMAND"),
        (("convert", "x"), "OUTPUT"),
        (("generate", "x", "y", "--max-new-tokens", "0"), "must be an integer of at least 1. Received: '0'"),
        (("generate", "x", "y", "--max-new-tokens", "many"), "must be an integer of at least 1. Received: 'many'"),
        (("generate", "x", "y", "--temperature", "-1"), "must be a number of at least 0. Received: '-1'"),
        (("export", "x", "y", "--top-p", "2"), "must be greater than 0 and at most 1. Received: '2'"),
    ],
)
def test_wrong_arguments_are_answered_with_the_usage(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    err = capsys.readouterr().err
    assert "usage: keras-tfm" in err
    assert message in err


def test_help_version_and_refusals_do_not_wait_for_tensorflow():
    script = """
import sys, keras_tfm_cli
for arguments in (["generate", "--help"], ["--version"], ["info", "no.gguf"]):
    try:
        print(keras_tfm_cli.main(arguments))
    except SystemExit as end:
        print(end)
print("tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Continue a prompt, or answer it (--chat)." in done.stdout
    assert done.stdout.endswith(f"\n0\nkeras-tfm {__version__}\n0\n1\nFalse\n")


def test_a_command_loads_no_packages_that_it_does_not_use_and_hides_them_no_longer_than_that(folder):
    script = """
import importlib.util, sys, keras_tfm_cli
names = keras_tfm_cli._UNUSED
assert keras_tfm_cli.main(["info", sys.argv[1]]) == 0
print([name for name in names if name in sys.modules])
[importlib.import_module(name) for name in names if importlib.util.find_spec(name)]
"""
    assert fresh_process(script, folder).endswith("\n[]\n")


@pytest.mark.slow
def test_what_is_under_way_is_told_beside_the_answer_and_nothing_else(folder, capsys):
    # A fresh process, without the log level that the tests set: so TensorFlow would tell of what it does not find; and
    # XLA compiles as it does for users, not as for the tests.
    environment = {name: x for name, x in os.environ.items() if name not in ("TF_CPP_MIN_LOG_LEVEL", "XLA_FLAGS")}
    command = [sys.executable, "-m", "keras_tfm_cli", "generate", str(folder), "ROMEO", "--max-new-tokens", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["Loading", "Compiling"]
    with plain_graphs():
        assert run("generate", folder, "ROMEO", "--max-new-tokens", 3) == 0
    assert done.stdout == capsys.readouterr().out
    assert done.stdout.strip()


def test_the_chat_example_answers_each_message(folder, capsys):
    import chat

    messages = chat.chat(str(folder), ["Hi", "Bye"], max_new_tokens=4, temperature=0)
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert capsys.readouterr().out.count("tokens/s after the first]") == 2


def test_the_chat_example_remembers_so_many_turns():
    import chat

    messages = [{"content": i} for i in range(5)]  # two turns, and a question
    kept = {memory: [one["content"] for one in chat.remembered(messages, memory)] for memory in (None, 0, 1, 2, 9)}
    assert kept == {None: [0, 1, 2, 3, 4], 0: [4], 1: [2, 3, 4], 2: [0, 1, 2, 3, 4], 9: [0, 1, 2, 3, 4]}


def test_the_chat_example_counts_no_second_before_the_first_piece_or_after_the_last(folder, capsys, monkeypatch):
    import chat

    now = [0.0]

    def stream(self, prompt, **options):
        now[0] += 20  # it is compiled, and the prompt read
        yield "R"
        for piece in ("OM", "EO", ":"):
            now[0] += 0.5
            yield piece

    encode = BytePairTokenizer.encode

    def slow_encode(self, *arguments, **options):
        now[0] += 3  # it is compiled
        return encode(self, *arguments, **options)

    monkeypatch.setattr("keras_tfm.generation.TextGenerator.stream", stream)
    monkeypatch.setattr(BytePairTokenizer, "encode", slow_encode)
    monkeypatch.setattr(chat.time, "perf_counter", lambda: now[0])
    chat.chat(str(folder), ["Hi"])
    num_after = len(load_tokenizer(folder).encode("OMEO:"))
    assert f"[{num_after / 1.5:.0f} tokens/s after the first]" in capsys.readouterr().out
