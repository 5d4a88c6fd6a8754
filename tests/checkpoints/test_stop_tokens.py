"""Where a checkpoint says that its texts end, and a writer that ends there."""

import json

import pytest

from keras_tfm.checkpoints import load_stop_token_ids
from keras_tfm.generation import TextGenerator


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config.json": [7, 9, 7], "config.json": 3}, (7, 9)),
        ({"generation_config.json": None, "config.json": 3}, (3,)),
        ({"config.json": [3, 4]}, (3, 4)),
        ({"config.json": None}, ()),
        ({}, ()),
    ],
)
def test_the_folder_says_it(tmp_path, files, expected):
    for name, ids in files.items():
        (tmp_path / name).write_text(json.dumps({} if ids is None else {"eos_token_id": ids}))
    assert load_stop_token_ids(tmp_path) == expected


@pytest.mark.parametrize("ids", ["</s>", [1, "2"], -1, True, 1.5, {"a": 1}])
def test_other_values_are_an_error(tmp_path, ids):
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": ids}))
    with pytest.raises(ValueError, match="a token id or a list of them"):
        load_stop_token_ids(tmp_path)


def test_a_writer_ends_at_each_of_them(tiny_writer):
    tokenizer = tiny_writer.tokenizer
    whole = tiny_writer.generate("ROMEO:", max_new_tokens=20, seed=3)
    stop = int(whole.token_ids[0, 5])
    writer = TextGenerator(tiny_writer.model, tokenizer, "random", stop_token_ids=[stop])
    assert writer.stop_token_ids == (tokenizer.end_of_text_id, stop)
    assert writer.start_token_id == tokenizer.end_of_text_id
    generation = writer.generate("ROMEO:", max_new_tokens=20, seed=3)
    assert generation.finish_reasons == ("stop_token",)
    assert generation.num_tokens[0] == whole.token_ids[0].tolist().index(stop)
