"""Training: what goes in, what must not be learned, the same ids each time, and errors."""

import pytest
import tokenizers

from keras_tfm.tokenizers import WordPieceTokenizer

TEXT = "the cat, the hat, the bat. " * 20


def tokens_of(tokenizer):
    return [tokenizer.id_to_token(number) for number in range(tokenizer.vocabulary_size)]


def test_the_pieces_are_those_that_hugging_face_learns(corpus):
    bert = tokenizers.BertWordPieceTokenizer()
    bert.train_from_iterator([corpus], vocab_size=1200, min_frequency=0, show_progress=False)
    learned, theirs = set(tokens_of(WordPieceTokenizer.train(corpus, 1200))), set(bert.get_vocab())
    # Theirs breaks ties in another way each time.
    assert len(learned & theirs) > 1190


def test_training_gives_the_same_ids_each_time():
    text = TEXT + "zebra yak xylophone willow " * 9  # many pairs as frequent as each other
    assert len({tuple(tokens_of(WordPieceTokenizer.train(text, 60))) for _ in range(5)}) == 1
    first = tokens_of(WordPieceTokenizer.train(TEXT, 17))
    special, letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], [*",.abceht"]
    assert first == [*special, *letters, "##a", "##e", "##h", "##t"]


def test_texts_and_files_give_equal_tokenizers(tmp_path):
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for file in files:
        file.write_text(TEXT, encoding="utf-8", newline="")
    expected = tokens_of(WordPieceTokenizer.train(TEXT * 2, 22))
    for source in ([TEXT, TEXT], (TEXT for _ in range(2)), files, [files[0], TEXT]):
        assert tokens_of(WordPieceTokenizer.train(source, 22)) == expected


@pytest.mark.slow
def test_rules_are_those_asked_for():
    text = "The Thé théâtre 日本 日本 " * 9
    for lowercase, strip_accents, expected in (
        (True, None, ["the", "the"]),
        (True, False, ["the", "thé"]),
        (False, None, ["The", "Thé"]),
        (False, True, ["The", "The"]),
    ):
        with pytest.warns(UserWarning, match="too few words"):
            tokenizer = WordPieceTokenizer.train(text, 90, lowercase, strip_accents, split_on_cjk=False)
        assert [tokenizer.id_to_token(number) for number in tokenizer.encode("The Thé")] == expected
        assert len(tokenizer.encode("日本")) == 1
    with pytest.warns(UserWarning, match="too few words"):
        assert len(WordPieceTokenizer.train(text, 90).encode("日本")) == 2


@pytest.mark.slow
def test_special_tokens_get_the_first_ids_and_teach_nothing():
    text = ("[MASK]<word><wo" + TEXT) * 5
    special_tokens = ["<word>", "[UNK]", "[MASK]"]
    tokenizer = WordPieceTokenizer.train(text, 24, special_tokens=special_tokens)
    assert tokenizer.special_tokens == {"<word>": 0, "[UNK]": 1, "[MASK]": 2}
    assert "m" not in tokens_of(tokenizer)
    assert "##d" not in tokens_of(tokenizer)
    assert tokenizer.encode("<word>[MASK]") == [0, 2]


def test_a_smaller_vocabulary_than_asked_for_is_told():
    with pytest.warns(UserWarning, match=r"`vocabulary_size=5000`; the tokenizer has \d+ tokens"):
        assert WordPieceTokenizer.train(TEXT, 5000).vocabulary_size < 30


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((TEXT, 5), ValueError, "greater than the number of special tokens, 5. Received: vocabulary_size=5"),
        ((TEXT, 9), ValueError, "at least 17 for this text: 5 special tokens .* Received: vocabulary_size=9"),
        ((TEXT, 40, True, None, True, ["[MASK]"]), ValueError, r"must hold '\[UNK\]'. Received: .*\('\[MASK\]',\)"),
        (("", 40), ValueError, "must be text to train on. Received: 1 texts"),
        (([], 40), ValueError, "must be text to train on. Received: 0 texts"),
        (([TEXT, 5], 40), TypeError, r"a str \(text\) or a pathlib.Path \(file\). Received: 5"),
        ((5, 40), TypeError, "`texts_or_files` must be .* Received: 5"),
        ((b"text", 40), TypeError, "`texts_or_files` must be .* Received: b'text'"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        WordPieceTokenizer.train(*arguments)
