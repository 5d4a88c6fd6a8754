"""The command `keras-tfm`, run in this process, and once as users do."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import tensorflow as tf

import keras_tfm_cli
from keras_tfm.checkpoints import ChatTemplate, load, save
from keras_tfm.models import MaskedLM, build_bert, build_gpt

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
def test_generate_and_export_write_the_same(folder, tmp_path, capsys):
    assert run("generate", folder, "ROMEO", "--chat", "--max-new-tokens", 5) == 0
    text = capsys.readouterr().out
    assert text.strip()
    assert run("export", folder, tmp_path / "served", "--max-new-tokens", 5) == 0
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    # The template puts the colon.
    assert served(prompts=tf.constant(["ROMEO:"]))["text"].numpy()[0].decode() == text.removesuffix("\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "/no/such/folder"), "keras-tfm info: `path_or_repo_id` must exist. Received: '/no/such/folder'"),
        (("info", ROOT), "keras-tfm info: The folder must hold config.json."),
        (("generate", ROOT, "Hi", "--chat"), "must have a chat template"),
    ],
)
def test_errors_are_told_in_a_paragraph(arguments, message, capsys):
    assert run(*arguments) == 1
    assert message in capsys.readouterr().err


def test_what_does_not_go_together_is_told(folder, tmp_path, capsys):
    assert run("convert", folder, tmp_path / "x.keras", "--dtype", "float16") == 1
    assert "--dtype must not be given for a .keras file" in capsys.readouterr().err
    assert run("generate", folder, "Hi", "--top-k", 5) == 1
    assert "must come with a --temperature above 0" in capsys.readouterr().err


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


def test_help_does_not_wait_for_tensorflow():
    script = "import sys, keras_tfm_cli\ntry:\n    keras_tfm_cli.main(['generate', '--help'])\nexcept SystemExit:\n    "
    script += "print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Continue a prompt, or answer it (--chat)." in done.stdout
    assert done.stdout.endswith("False\n")


def test_the_chat_example_answers_each_message(folder, capsys):
    import chat

    messages = chat.chat(str(folder), ["Hi", "Bye"], max_new_tokens=4, temperature=0)
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert capsys.readouterr().out.count("tokens/s]") == 2
