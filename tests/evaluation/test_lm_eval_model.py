"""Choices, perplexities and texts of lm_eval are those of its own "hf" on the same weights."""

import json

import pytest
import torch
import transformers

from keras_tfm import checkpoints
from keras_tfm.generation import TextGenerator

lm_eval = pytest.importorskip("lm_eval", reason="models are measured by lm_eval, which is not installed")

from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from keras_tfm.evaluation.lm_eval_model import LmEvalModel  # noqa: E402 - it needs lm_eval

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of theirs
    pytest.mark.usefixtures("without_xla"),
]
ROWS = [
    {"question": "But, soft! what light?", "choices": ["It is the east", "the sun", "yonder"], "answer": 1},
    {"question": "Juliet is ", "choices": ["the sun.", "window", "breaks?"], "answer": 0},
    {"question": "", "choices": ["through yonder window", "light", "east"], "answer": 2},
    {"question": "the east and the sun " * 6, "choices": ["sun", " sun, but", "the"], "answer": 0},
]
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: {kind}
doc_to_text: {text}
doc_to_target: {target}
num_fewshot: 0
metric_list:
{metrics}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    kinds = {
        "local_choice": ("multiple_choice", '"{{question}}"', "answer", ("acc", "acc_norm")),
        "local_text": ("loglikelihood_rolling", '""', '"{{question * 3}}{{choices[0]}}"', ("word_perplexity",)),
        "local_writing": ("generate_until", '"Q: {{question}}"', '"{{choices[answer]}}"', ("exact_match",)),
    }
    for name, (kind, text, target, names) in kinds.items():
        metrics = "\n".join(f"  - metric: {metric}" for metric in names)
        lines = TASK.format(name=name, file=file, kind=kind, text=text, target=target, metrics=metrics)
        if name == "local_choice":
            lines += "doc_to_choice: choices\n"
        if name == "local_text":
            lines += "  - metric: byte_perplexity\n  - metric: bits_per_byte\n"
        if name == "local_writing":
            lines += 'generation_kwargs:\n  until: ["s", "\\n"]\n  max_gen_toks: 12\n  do_sample: false\n'
        (folder / f"{name}.yaml").write_text(lines)
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(scope="module")
def folder(tiny_tokenizer, tmp_path_factory):
    """A tiny random Llama of transformers with 48 positions, and the tokenizer's files."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=tiny_tokenizer.vocabulary_size,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=48,
        initializer_range=0.3,  # 0.02 would make all logits nearly 0 and hide differences
        bos_token_id=0,
        eos_token_id=0,
    )
    folder = tmp_path_factory.mktemp("lm_eval") / "llama"
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    checkpoints.save(checkpoints.load(folder), folder, tiny_tokenizer, overwrite=True)
    return folder


@pytest.fixture(scope="module")
def ours(folder):
    return LmEvalModel(folder, max_new_tokens=12, batch_size=3)


def evaluated(model, tasks):
    options = {"task_manager": tasks, "bootstrap_iters": 0, "log_samples": True}
    return lm_eval.simple_evaluate(model, tasks=["local_choice", "local_text", "local_writing"], **options)


def test_results_and_all_answers_are_those_of_hf(ours, folder, tasks):
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=2)
    assert ours.sequence_length == theirs.max_length == 48
    expected, found = evaluated(theirs, tasks), evaluated(ours, tasks)
    for task, results in expected["results"].items():
        numbers = {name: value for name, value in results.items() if isinstance(value, float)}
        assert numbers
        for name, value in numbers.items():
            assert found["results"][task][name] == pytest.approx(value, rel=1e-4), (task, name)
    for task, samples in expected["samples"].items():
        for theirs_of, ours_of in zip(samples, found["samples"][task], strict=True):
            for one, other in zip(theirs_of["resps"], ours_of["resps"], strict=True):
                if task == "local_writing":
                    assert one == other
                elif task == "local_text":
                    assert other[0] == pytest.approx(one[0], rel=1e-4)
                else:
                    assert other[0][0] == pytest.approx(one[0][0], rel=1e-4)
                    assert other[0][1] == one[0][1]


def test_it_is_known_by_its_name(ours, folder, tasks):
    options = {"task_manager": tasks, "bootstrap_iters": 0, "tasks": ["local_choice"], "limit": 1}
    arguments = f"pretrained={folder},max_new_tokens=12"
    by_name = lm_eval.simple_evaluate("keras_tfm", model_args=arguments, batch_size=2, **options)
    assert by_name["results"] == lm_eval.simple_evaluate(ours, **options)["results"]
    nothing = {"batch_size": None, "max_batch_size": None, "device": None}  # as lm_eval adds to arguments in a dict
    assert LmEvalModel.create_from_arg_obj({"pretrained": ours.writer}, nothing).batch_size == 8


def test_chats_are_written_by_the_template_that_is_given_or_the_checkpoints(ours, tmp_path, tiny_tokenizer):
    chat = [{"role": "user", "content": "Hi"}]
    template = checkpoints.ChatTemplate("{{ messages[0].content }}{% if add_generation_prompt %}:{% endif %}")
    with pytest.raises(ValueError, match="must have a chat template"):
        ours.apply_chat_template(chat)
    writer = TextGenerator(ours.model, tiny_tokenizer)
    with pytest.raises(ValueError, match="`chat_template` must be given where the model is no checkpoint"):
        LmEvalModel(writer).apply_chat_template(chat)
    given = LmEvalModel(writer, chat_template=template)
    assert [given.apply_chat_template(chat, add_generation_prompt=ends) for ends in (True, False)] == ["Hi:", "Hi"]
    checkpoints.save(ours.model, tmp_path / "chat", tiny_tokenizer, chat_template=template)
    assert LmEvalModel(tmp_path / "chat").apply_chat_template(chat) == "Hi:"


class Request:
    """What lm_eval asks."""

    def __init__(self, *args):
        self.args = args


def test_what_cannot_be_done_is_refused(ours):
    with pytest.raises(ValueError, match=r"`generation_kwargs` of a task .* Received: \['num_beams'\]"):
        ours.generate_until([Request("Juliet", {"num_beams": 4})])
    with pytest.raises(ValueError, match="`max_gen_toks` must leave room for a prompt among 48 tokens"):
        ours.generate_until([Request("Juliet", {"max_gen_toks": 48})])
    with pytest.raises(ValueError, match="A continuation must fit the 48 tokens"):
        ours.loglikelihood([Request("Juliet", " is the sun" * 40)])


def test_samples_are_drawn_where_a_task_asks_for_them(ours):
    settings = {"until": "s", "do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.9, "max_gen_toks": 8}
    (text,) = ours.generate_until([Request("Juliet", settings)])
    assert "s" not in text
