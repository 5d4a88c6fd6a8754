"""Scores of translations and summaries are those of sacrebleu and rouge-score; a callback writes and logs them."""

import keras
import numpy as np
import pytest

from keras_tfm.training import TextScore, TextScoring, summary_scores, translation_scores

EXPECTED = ["El perro de mi tía come pan.", "Dios es amor.", "No temas, porque yo estoy contigo."]
FOUND = ["El perro de mi tía comió pan.", "Dios es amor.", "No temas; yo soy contigo."]


def test_translations_are_scored_as_sacrebleu_does():
    sacrebleu = pytest.importorskip("sacrebleu")
    scores = translation_scores(EXPECTED, FOUND)
    assert scores["bleu"].value == sacrebleu.corpus_bleu(FOUND, [EXPECTED]).score > 20
    assert scores["chrf"].value == sacrebleu.corpus_chrf(FOUND, [EXPECTED]).score > 50
    version = f"version:{sacrebleu.__version__}"
    assert scores["bleu"].signature == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|{version}"
    assert scores["chrf"].signature == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|{version}"


def test_several_right_translations_of_each_text_count():
    sacrebleu = pytest.importorskip("sacrebleu")
    several = list(zip(EXPECTED, FOUND, strict=True))
    scores = translation_scores(several, FOUND)
    assert scores["bleu"].value == sacrebleu.corpus_bleu(FOUND, [EXPECTED, FOUND]).score == pytest.approx(100)
    assert scores["chrf"].signature.startswith("nrefs:2|")


def test_summaries_are_scored_as_rouge_score_does():
    pytest.importorskip("rouge_score")
    scores = summary_scores(["the cat sat on the mat", "dogs bark"], ["the cats sat", "a fish"])
    # Stemmed, 3 of 3 words and 3 of 6; then nothing: (2/3 + 0) / 2. Pairs of words: 2 of 2 and 2 of 5.
    assert scores["rouge1"].value == scores["rougeL"].value == pytest.approx(100 / 3)
    assert scores["rouge2"].value == pytest.approx(100 * 2 * (1 * 2 / 5) / (1 + 2 / 5) / 2)
    assert scores["rouge1"].signature.startswith("rouge-score 0")
    assert summary_scores([["dogs bark", "a fish"]], ["a fish"])["rouge2"].value == pytest.approx(100)


@pytest.mark.parametrize(
    ("expected", "found", "error", "message"),
    [
        ([], [], ValueError, "as many texts on both sides. Received: 0 and 0"),
        (["a"], ["a", "b"], ValueError, "Received: 1 and 2"),
        (["a", ["b", "c"]], ["a", "b"], ValueError, r"as many right ones. Received: numbers=\[1, 2\]"),
        ([[]], ["a"], ValueError, r"as many right ones. Received: numbers=\[0\]"),
        ("a", ["a"], TypeError, "`expected` must be a list of texts. Received: 'a'"),
        (["a"], [b"a"], TypeError, "`found` must be strings. Received: b'a' of type bytes"),
        ([["a", 3]], ["a"], TypeError, "`expected` must be strings. Received: 3 of type int"),
    ],
)
def test_texts_that_do_not_fit_are_refused(expected, found, error, message):
    pytest.importorskip("sacrebleu")
    with pytest.raises(error, match=message):
        translation_scores(expected, found)


def share_of_equals(expected, found):
    return {"equal": TextScore(100 * float(np.mean([a == b for a, b in zip(expected, found, strict=True)])), "equal")}


def test_each_epoch_is_scored_and_later_callbacks_see_it(capsys):
    written = iter([["a", "x"], ["a", "b"], ["a", "b"], ["a", "b"]])
    scoring = TextScoring(lambda sources: next(written), ["A", "B"], ["a", "b"], share_of_equals, num_shown=1)
    stop = keras.callbacks.EarlyStopping("val_equal", mode="max", patience=1)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    history = model.fit(np.ones((4, 1)), np.ones((4, 1)), epochs=9, verbose=0, callbacks=[scoring, stop]).history
    assert history["val_equal"] == [50, 100, 100]
    assert capsys.readouterr().out.count("\n  A\n  = a\n  > a\n") == 3


def test_only_some_epochs_are_scored():
    scoring = TextScoring(list, ["a"], ["a"], share_of_equals, every_epochs=2)
    logs = [{}, {}, {}, {}]
    for epoch, log in enumerate(logs):
        scoring.on_epoch_end(epoch, log)
    assert logs == [{}, {"val_equal": 100.0}] * 2


def test_what_cannot_be_scored_is_refused_before_training():
    pytest.importorskip("sacrebleu")
    with pytest.raises(ValueError, match="Received: 2 and 1"):
        TextScoring(list, ["a"], ["a", "b"])
    with pytest.raises(TypeError, match="`write` must be a function from texts to texts. Received: 'greedy'"):
        TextScoring("greedy", ["a"], ["a"])
    with pytest.raises(ValueError, match="`every_epochs` must be an integer of at least 1"):
        TextScoring(list, ["a"], ["a"], every_epochs=0)
