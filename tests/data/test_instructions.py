"""Instructions, preferences and prompts: which tokens are learned, packing apart, what is cut, what is refused."""

import numpy as np
import pytest

from keras_tfm.checkpoints import ChatTemplate
from keras_tfm.data import answered_rows, instruction_dataset, judged_dataset, preference_dataset, prompt_dataset
from keras_tfm.models import build_gpt
from keras_tfm.tokenizers import BytePairTokenizer, CharacterTokenizer

TOKENIZER = CharacterTokenizer("0123456789+=\n :#abcdefghijklmnopqrstuvwxyzBIRW.,-", ["<|endoftext|>"])
BYTES = BytePairTokenizer.train("bytes alone", vocabulary_size=257)
SUMS = [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a in range(5) for b in range(0, 10, 3)]
TEMPLATE = ChatTemplate(
    "{% for m in messages %}{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }}\n"
    "{% endgeneration %}{% else %}{{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def learned(row, tokenizer=TOKENIZER):
    return tokenizer.decode(row.token_ids[row.is_answer].tolist())


def test_each_form_learns_its_answers_and_their_ends():
    text = answered_rows([{"prompt": "1+2=", "completion": "3"}], TOKENIZER)[0]
    assert (learned(text), TOKENIZER.decode(text.token_ids.tolist())) == ("3<|endoftext|>", "1+2=3<|endoftext|>")
    once = answered_rows([{"prompt": "1+2=", "completion": "3<|endoftext|>"}], TOKENIZER)[0]
    np.testing.assert_array_equal(once.token_ids, text.token_ids)
    alpaca = answered_rows({"instruction": ["add"], "input": ["1, 2"], "output": ["3"]}, TOKENIZER)[0]
    assert learned(alpaca) == "3<|endoftext|>"
    assert "### Input:\n1, 2\n\n### Response:\n3" in TOKENIZER.decode(alpaca.token_ids.tolist())
    chat = [{"role": "user", "content": "add"}, {"role": "assistant", "content": "3"}]
    for row in (
        {"messages": chat},
        {"prompt": chat[:1], "completion": chat[1:]},
        {"instruction": "add", "output": "3"},
    ):
        found = answered_rows([row], BYTES, TEMPLATE)[0]
        assert learned(found, BYTES) == "3\n"
        assert BYTES.decode(found.token_ids.tolist()) == "user: add\nassistant: 3\n"
    two = answered_rows([{"messages": [*chat, *chat]}], BYTES, TEMPLATE)[0]
    assert learned(two, BYTES) == "3\n3\n"


def test_packed_rows_hold_each_answer_once_and_apart():
    dataset = instruction_dataset(SUMS, TOKENIZER, sequence_length=16, batch_size=3, shuffle=False)
    found, num_rows = [], 0
    for inputs, next_ids, weights in dataset.as_numpy_iterator():
        num_rows += len(next_ids)
        for row in range(len(next_ids)):
            for document in np.unique(inputs["document_ids"][row][inputs["padding_mask"][row]]):
                here = (inputs["document_ids"][row] == document) & inputs["padding_mask"][row]
                ids = [*inputs["token_ids"][row][here], next_ids[row][here][-1]]
                np.testing.assert_array_equal(ids[1:], next_ids[row][here])
                found.append(
                    (TOKENIZER.decode(ids), TOKENIZER.decode(next_ids[row][(weights[row] > 0) & here].tolist()))
                )
        assert not weights[~inputs["padding_mask"]].any()
    expected = [
        (row["prompt"] + row["completion"] + "<|endoftext|>", row["completion"] + "<|endoftext|>") for row in SUMS
    ]
    assert sorted(found) == sorted(expected)
    assert num_rows == 8  # 15 of 5 places and 5 of 6: two of six to a row of 16, or three with at most one six


def test_a_packed_row_gives_the_logits_of_its_documents_alone():
    model = build_gpt(
        vocabulary_size=TOKENIZER.vocabulary_size, max_sequence_length=16, num_layers=1, num_heads=2, hidden_dim=8
    )
    inputs, _, _ = next(iter(instruction_dataset(SUMS, TOKENIZER, 16, 1, shuffle=False)))
    packed, second = model(inputs), inputs["document_ids"][0].numpy() == 1
    alone = model(inputs["token_ids"].numpy()[:, second])
    np.testing.assert_allclose(packed.numpy()[:, second], alone, atol=1e-5)


def test_what_is_cut_and_left_out_is_told():
    rows = [{"prompt": "1=", "completion": "1" * 20}, {"prompt": "1" * 20, "completion": "2"}, SUMS[0]]
    with pytest.warns(UserWarning, match="sequence_length=8") as told:
        dataset = instruction_dataset(rows, TOKENIZER, 8, 4, shuffle=False)
    assert "2 of 3 rows do not fit `sequence_length=8` and lose their ends." in str(told[0].message)
    assert "1 of 3 rows are left out" in str(told[1].message)
    _, _, weights = next(iter(dataset))
    assert sorted(weights.numpy().sum(1)) == [2, 7]  # an answer and its end; 7 of 20
    pairs = [{"prompt": row["prompt"], "chosen": row["completion"], "rejected": "9"} for row in rows]
    with pytest.warns(UserWarning, match="sequence_length=8") as told:
        assert preference_dataset(pairs, TOKENIZER, 8, 4).element_spec["token_ids"].shape[1:] == (2, 8)
    assert "1 of 3 pairs do not fit `sequence_length=8` and lose the ends of answers." in str(told[0].message)
    assert "1 of 3 pairs do not fit `sequence_length=8` and are left out: no answer fits." in str(told[1].message)


def test_pairs_hold_the_better_answer_first_and_judgements_borrow_the_one_before():
    rows = {"prompt": ["1+1=", "2+2="], "chosen": ["2", "4"], "rejected": ["33", "5"]}
    batch = next(preference_dataset(rows, TOKENIZER, 16, 2, shuffle=False).as_numpy_iterator())
    shown = [[TOKENIZER.decode(ids[mask].tolist()) for ids, mask in zip(*pair, strict=True)]
             for pair in zip(batch["token_ids"], batch["answer_mask"], strict=True)]  # fmt: skip
    assert shown == [["2<|endoftext|>", "33<|endoftext|>"], ["4<|endoftext|>", "5<|endoftext|>"]]
    rows = {"prompt": ["1+1=", "2+2="], "completion": ["2", "5"], "label": [True, False]}
    batch, labels = next(judged_dataset(rows, TOKENIZER, 16, 2, shuffle=False).as_numpy_iterator())
    assert labels.tolist() == [True, False]
    texts = [TOKENIZER.decode(ids[mask].tolist()) for ids, mask in zip(
        batch["token_ids"].reshape(4, -1), batch["padding_mask"].reshape(4, -1), strict=True)]  # fmt: skip
    assert [text.removesuffix("<|endoftext|>") for text in texts] == ["1+1=2", "1+1=5", "2+2=5", "2+2=2"]


def test_prompts_come_in_whole_batches_with_their_columns():
    columns = {"prompt": ["a", "b", "c", "d", "e"], "answer": ["A", "B", "C", "D", "E"], "weight": [1, 2, 3, 4, 5]}
    dataset = prompt_dataset(columns, batch_size=2)
    epochs = [list(dataset.as_numpy_iterator()) for _ in range(2)]
    for batches in epochs:
        assert [len(batch["prompt"]) for batch in batches] == [2, 2]
        for batch in batches:
            assert [x.upper() for x in batch["prompt"]] == list(batch["answer"])
            assert [b"abcde".index(x) + 1 for x in batch["prompt"]] == list(batch["weight"])
    assert str(epochs[0]) != str(epochs[1])
    assert int(dataset.cardinality()) == 2


@pytest.mark.parametrize(
    ("make", "rows", "message"),
    [
        (instruction_dataset, {"prompt": ["a", "b"], "completion": ["c"]}, "must be equally many"),
        (instruction_dataset, [{"prompt": "a", "completion": ""}], r"must have text\. Received: '', row 0"),
        (instruction_dataset, [SUMS[0], {"prompt": "a"}], r"row 1 without \['completion'\]"),
        (instruction_dataset, [{"text": "a"}], r"must have the keys of one of .* Received: \['text'\]"),
        (instruction_dataset, [{"messages": [{"role": "user", "content": "a"}]}], "`chat_template` must be given"),
        (instruction_dataset, [], "must be one or more dicts"),
        (preference_dataset, [{"prompt": "a", "chosen": "b", "rejected": "b"}], "answers of pair 0 must differ"),
        (preference_dataset, [{"prompt": "a", "chosen": "b", "rejected": ""}], "must have text"),
        (
            judged_dataset,
            [{"prompt": "a", "completion": "b", "label": 2}] * 2,
            "`label` of row 0 must be True or False",
        ),
        (judged_dataset, [{"prompt": "a", "completion": "b", "label": True}], "must be two or more"),
    ],
)
def test_wrong_rows_are_refused_by_name(make, rows, message):
    with pytest.raises(ValueError, match=message):
        make(rows, TOKENIZER, 16, 2)


def test_wrong_prompts_are_refused_by_name():
    for columns, message in (
        ({"text": ["a"]}, '`columns` must have "prompt"'),
        ({"prompt": ["a", "b"], "answer": ["c"]}, "must be equally many"),
        ({"prompt": ["a", ""]}, "Each prompt must be a str with text"),
        ({"prompt": ["a"]}, "`batch_size` must be at most the number of prompts"),
    ):
        with pytest.raises(ValueError, match=message):
            prompt_dataset(columns, batch_size=2)
