"""The command `keras-tfm`, run in this process, and once as users do."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import pytest
import tensorflow as tf

import keras_tfm_cli
from keras_tfm.checkpoints import ChatTemplate, load, save
from keras_tfm.models import build_gpt

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
    assert run("convert", folder, tmp_path / "gpt.keras") == 0
    assert keras.models.load_model(tmp_path / "gpt.keras").count_params() == load(folder).count_params()
    assert capsys.readouterr().out.count("Wrote") == 2
    assert run("convert", folder, tmp_path / "half") == 1
    assert "must not exist yet" in capsys.readouterr().err


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


@pytest.mark.parametrize("arguments", [(), ("convert", "x"), ("generate", "x", "y", "--max-new-tokens", "0")])
def test_wrong_arguments_are_answered_with_the_usage(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    assert "usage: keras-tfm" in capsys.readouterr().err


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
