"""Entities and answers with the tokenizer of a RoBERTa are those of transformers, in Python and served."""

import json
import random

import numpy as np
import pytest
import tensorflow as tf
import torch
import transformers

from keras_tfm import checkpoints
from keras_tfm.pipelines import EntityRecognition, QuestionAnswering
from keras_tfm.tokenizers import SentencePacker
from tests.checkpoints.test_encoders import tiny
from tests.checkpoints.tokenizer_folders import FOLDERS

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]
WORDS = [
    "What", "light", "yonder", "covid", "é", "naïve", "日本", "éx", "<mask>", "a-b", "U.S.", "'s", ".", ",", "(", "\n",
    "\t", "\u3000", "👩\u200d👩\u200d👧", "foo-bar",
]  # fmt: skip
LENGTH, STRIDE, LONGEST = 48, 8, 7


def texts(number, longest=14):
    generator = random.Random(number)
    sizes = [generator.randint(1, longest) for _ in range(number)]
    return [
        "".join(generator.choice(WORDS) + generator.choice([" ", " ", "  ", ""]) for _ in range(size)) for size in sizes
    ]


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """Gives the folder of a tiny random model with a head and a tokenizer, which exists once."""
    folders = {}

    def make(name, head):
        if (name, head) not in folders:
            folder = folders[name, head] = tmp_path_factory.mktemp("model")
            FOLDERS[name.split()[0]][1](folder)
            if name.endswith("without prefix"):
                path = folder / "tokenizer_config.json"
                path.write_text(json.dumps({**json.loads(path.read_text()), "add_prefix_space": False}))
            labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
            labels = labels if head == "ForTokenClassification" else {}
            family = "Bert" if name == "bert" else "Roberta"
            size = len(transformers.AutoTokenizer.from_pretrained(folder))
            tiny(family, head, vocab_size=size, max_position_embeddings=128, **labels).save_pretrained(folder)
        return folders[name, head]

    return make


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("roberta", "simple"),
        ("roberta", "average"),
        ("roberta", "max"),
        ("roberta without prefix", "first"),
        ("bert", "first"),
    ],
)
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_entities_are_those_of_transformers(folder_of, name, strategy):
    folder, given = folder_of(name, "ForTokenClassification"), [text for text in texts(20) if text.strip()]
    theirs = transformers.pipeline("token-classification", str(folder), aggregation_strategy=strategy, device="cpu")
    opened = checkpoints.open(folder)
    ours = EntityRecognition(opened.model(), opened.tokenizer(), aggregation_strategy=strategy)
    given = [text for text in given if len(theirs.tokenizer(text).input_ids) < 60]  # nobody cuts them
    found = ours(given)
    for expected, entities in zip(theirs(given), found, strict=True):
        assert [(one.label, one.start, one.end) for one in entities] == [
            (one["entity_group"], one["start"], one["end"]) for one in expected
        ]
        assert [one.probability for one in entities] == pytest.approx(
            [float(one["score"]) for one in expected], abs=1e-5
        )


def test_words_of_split_words_are_labelled_with_a_space_before_each(folder_of, tmp_path):
    opened = checkpoints.open(folder_of("roberta without prefix", "ForTokenClassification"))
    ours = EntityRecognition(opened.model(), opened.tokenizer())
    packed, word_ids = ours.packer.words([["What", "light", "."]])
    theirs = transformers.AutoTokenizer.from_pretrained(opened.path)(" What light .")["input_ids"]
    assert packed["token_ids"].numpy()[0, : len(theirs)].tolist() == theirs
    assert word_ids.numpy().max() == 2
    text = "What light, covid é (yonder)."
    assert all(text[one.start : one.end] == one.text for one in ours(text))
    with pytest.raises(ValueError, match=r"`aggregation_strategy` must be None or one of .* Received: 'last'"):
        EntityRecognition(opened.model(), opened.tokenizer(), aggregation_strategy="last")


@pytest.mark.parametrize("name", ["roberta", pytest.param("roberta without prefix", marks=pytest.mark.slow)])
def test_places_are_those_of_the_library_in_python_and_in_the_graph(folder_of, name):
    opened = checkpoints.open(folder_of(name, "ForTokenClassification"))
    theirs, ours = transformers.AutoTokenizer.from_pretrained(opened.path), opened.tokenizer()
    given = [*texts(60), "", " ", "é", " é", "<mask>日本 x", "  <mask>  é"]
    expected = theirs(given, return_offsets_mapping=True)
    assert ours.encode_with_offsets(given) == (expected["input_ids"], expected["offset_mapping"])
    packed, starts, ends = SentencePacker(ours).with_offsets(given)
    for row, text in enumerate(given):
        ids = packed["token_ids"].numpy()[row][packed["padding_mask"].numpy()[row]]
        assert ids.tolist() == expected["input_ids"][row]
        bounds = [len(text[:place].encode()) for pair in expected["offset_mapping"][row][1:-1] for place in pair]
        found = [place.numpy()[row, 1 : len(ids) - 1] for place in (starts, ends)]
        assert np.stack(found, axis=1).ravel().tolist() == bounds


def best_answer(model, tokenizer, question, context):
    """As the pipeline "question-answering" of transformers 4 found it: the best span of all windows."""
    options = {"truncation": "only_second", "max_length": LENGTH, "stride": STRIDE, "padding": "max_length"}
    options |= {"return_overflowing_tokens": True, "return_offsets_mapping": True, "return_tensors": "pt"}
    windows = tokenizer(question, context, **options)
    names = [name for name in tokenizer.model_input_names if name in windows]
    with torch.no_grad():
        logits = model(**{name: windows[name] for name in names})
    spans = []
    for window, offsets in enumerate(windows["offset_mapping"].tolist()):
        places = [place for place, part in enumerate(windows.sequence_ids(window)) if part == 1]
        for start in places:
            first = offsets[start][0]
            # The library leaves the space before the first token of a later window there.
            first += window > 0 and start == places[0] and context[first] == " "
            for end in (end for end in places if start <= end < start + LONGEST):
                score = logits.start_logits[window, start] + logits.end_logits[window, end]
                spans.append((float(score), -window, -start, -end, first, max(first, offsets[end][1])))
    return max(spans)[-2:]


@pytest.mark.slow
def test_answers_over_several_windows_are_those_of_transformers_in_python_and_served(folder_of, tmp_path):
    folder = folder_of("roberta", "ForQuestionAnswering")
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(folder)
    tokenizer, opened = transformers.AutoTokenizer.from_pretrained(folder), checkpoints.open(folder)
    options = {"sequence_length": LENGTH, "stride": STRIDE, "max_answer_tokens": LONGEST}
    ask = QuestionAnswering(opened.model(), opened.tokenizer(), **options)
    questions = ["What light?", " covid é", "U.S.", "foo-bar  a"]
    contexts = [" ".join(texts(size)) for size in range(1, 13)]
    questions *= 3
    answers = ask(questions, contexts)
    expected = [best_answer(model, tokenizer, *pair) for pair in zip(questions, contexts, strict=True)]
    assert [(answer.start, answer.end) for answer in answers] == expected
    assert [answer.text for answer in answers] == [
        text[slice(*place)] for text, place in zip(contexts, expected, strict=True)
    ]
    ask.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served")).signatures["serving_default"]
    found = served(questions=tf.constant(questions), contexts=tf.constant(contexts))["text"].numpy()
    assert [text.decode() for text in found] == [answer.text for answer in answers]
