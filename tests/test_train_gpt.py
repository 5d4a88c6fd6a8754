"""The training example runs from end to end, and a killed run goes on as if it had not been killed."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPT = EXAMPLES / "train_gpt.py"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "plays.txt"
    path.write_text((EXAMPLES / "data" / "shakespeare.txt").read_text(encoding="utf-8")[:400_000], encoding="utf-8")
    return path


def start(corpus, output, *more):
    """The example as users run it, but that it prints to a file; what one process compiles the next ones read."""
    command = [sys.executable, str(SCRIPT), "--steps", "10", "--corpus", str(corpus), "--output", str(output), *more]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["KERAS_TFM_COMPILE_CACHE"] = str(corpus.parent / "compiled")
    with printed(output).open("w", encoding="utf-8") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)


def printed(output):
    return output / "printed.txt"


def losses(output):
    """epoch -> (loss, val_loss), the last row of each epoch."""
    with open(output / "losses.csv", newline="") as file:
        return {row["epoch"]: (float(row["loss"]), float(row["val_loss"])) for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def whole_run(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    code = start(corpus, output).wait(600)
    text = printed(output).read_text(encoding="utf-8")
    assert code == 0, text[-3000:]
    return output, text


@pytest.mark.slow
def test_train_gpt_prints_and_leaves_what_it_says(whole_run):
    output, text = whole_run
    for name in ("model.keras", "tokenizer.json", "losses.csv", "loss.png", "serving/1/saved_model.pb"):
        assert (output / name).stat().st_size > 0
    assert (output / "loss.png").read_bytes().startswith(b"\x89PNG")
    for part in ("unigram", "bigram", "this GPT", "greedy", "top-k", "top-p", "keras_tfm imported: False", "Done."):
        assert part in text
    assert text.count("It writes:") == 5


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_with_the_same_losses(whole_run, corpus, tmp_path):
    def killed_at(file, *more):
        """What was printed until there was such a file."""
        process, deadline = start(corpus, tmp_path, *more), time.time() + 400
        while time.time() < deadline and process.poll() is None and not list(tmp_path.glob(file)):
            time.sleep(0.1)
        process.kill()
        code, text = process.wait(), printed(tmp_path).read_text(encoding="utf-8")
        assert code == -signal.SIGKILL, text[-3000:]
        return text

    killed_at("checkpoints/*.npz")
    assert "Going on from" in killed_at("loss.png", "--resume")  # what comes after the losses is seen in the whole run
    expected = losses(whole_run[0])
    assert losses(tmp_path).keys() == expected.keys() == {"0", "1", "2", "3", "4"}
    for epoch, values in losses(tmp_path).items():
        # 1e-4: the order of sums in float32 products may differ between two processes.
        assert values == pytest.approx(expected[epoch], rel=1e-4)
