"""The training example runs from end to end, and a killed run goes on as if it had not been killed."""

import csv
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


def command(corpus, output, *more):
    return [sys.executable, str(SCRIPT), "--steps", "10", "--corpus", str(corpus), "--output", str(output), *more]


def losses(output):
    """epoch -> (loss, val_loss), the last row of each epoch."""
    with open(output / "losses.csv", newline="") as file:
        return {row["epoch"]: (float(row["loss"]), float(row["val_loss"])) for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def whole_run(corpus, tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    done = subprocess.run(command(corpus, output), capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return output, done.stdout


@pytest.mark.slow
def test_train_gpt_prints_and_leaves_what_it_says(whole_run):
    output, printed = whole_run
    for name in ("model.keras", "tokenizer.json", "losses.csv", "loss.png", "serving/1/saved_model.pb"):
        assert (output / name).stat().st_size > 0
    assert (output / "loss.png").read_bytes().startswith(b"\x89PNG")
    for text in ("unigram", "bigram", "this GPT", "greedy", "top-k", "top-p", "keras_tfm imported: False", "Done."):
        assert text in printed
    assert printed.count("It writes:") == 5


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_with_the_same_losses(whole_run, corpus, tmp_path):
    process = subprocess.Popen(command(corpus, tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.time() + 400
    while time.time() < deadline and not list(tmp_path.glob("checkpoints/*.npz")):
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob("checkpoints/*.npz"))
    resumed = subprocess.run(
        command(corpus, tmp_path, "--resume"), capture_output=True, text=True, check=False, timeout=600
    )
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "Going on from" in resumed.stdout
    expected = losses(whole_run[0])
    assert losses(tmp_path).keys() == expected.keys() == {"0", "1", "2", "3", "4"}
    for epoch, values in losses(tmp_path).items():
        # 1e-4: the order of sums in float32 products may differ between two processes.
        assert values == pytest.approx(expected[epoch], rel=1e-4)
