"""Chats are written, and tokenized, as transformers writes and tokenizes them."""

import dataclasses
import enum
import json
import random
from typing import Any, Literal

import pytest
import tokenizers
import transformers

from keras_tfm.checkpoints import ChatTemplate, load_chat_template, load_tokenizer
from keras_tfm.checkpoints.tool_schema import tool_schema
from keras_tfm.tokenizers import ChatText
from keras_tfm.tokenizers.vocabulary import BYTE_SYMBOLS

MARKED = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}<|im_end|>{% endgeneration %}\n{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(
    scope="module",
    params=["roberta", *(pytest.param(name, marks=pytest.mark.slow) for name in ("template", "trimmed"))],
)
def checkpoint(request, tmp_path_factory):
    """A folder of transformers, with post-processors that trim places or do not."""
    vocabulary = {symbol: number for number, symbol in enumerate(BYTE_SYMBOLS)}
    merges = [("Ġ", "h"), ("h", "i"), ("Ġ", "Ġ"), ("i", "Ġ"), ("Ã", "©"), ("ð", "Ł")]
    vocabulary |= {a + b: 256 + number for number, (a, b) in enumerate(merges)}
    prefix = request.param == "roberta"
    rust = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    rust.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    rust.decoder = tokenizers.decoders.ByteLevel()
    rust.add_special_tokens(["<s>", "<|im_start|>", "<|im_end|>"])
    start = rust.token_to_id("<s>")
    rust.post_processor = {
        "template": tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", start)]),
        "trimmed": tokenizers.processors.ByteLevel(trim_offsets=True),
        "roberta": tokenizers.processors.RobertaProcessing(("<s>", start), ("<s>", start), add_prefix_space=True),
    }[request.param]
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=rust, bos_token="<s>", eos_token="<|im_end|>")
    theirs.chat_template = MARKED
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    return theirs, load_tokenizer(folder), load_chat_template(folder)


def test_ids_and_masks_of_random_chats_are_those_of_transformers(checkpoint):
    theirs, ours, template = checkpoint
    generator = random.Random(0)
    parts = ["hi", " ", "  ", "é", "👩‍👧", "\n", "\u3000", "<|im_end|>", "<s>", "x"]
    for _ in range(30):
        messages = [
            {"role": generator.choice(["user", "assistant"]), "content": "".join(generator.choices(parts, k=6))}
            for _ in range(generator.randint(1, 4))
        ]
        asks = generator.random() < 0.5
        expected = theirs.apply_chat_template(messages, add_generation_prompt=asks, return_assistant_tokens_mask=True)
        ids, mask = template.encode(messages, ours, asks, return_assistant_mask=True)
        assert ids == expected["input_ids"] == template.encode(messages, ours, asks)
        assert mask == list(map(bool, expected["assistant_masks"]))
        text = template(messages, asks)
        assert ids == ours.encode(text) == ours.tokenize_prompts([text]).to_list()[0]
        plain = "".join(generator.choices(parts, k=9))
        given = theirs(plain, return_offsets_mapping=True)
        assert ours.encode_with_offsets(plain) == (given["input_ids"], given["offset_mapping"])


def test_a_mask_needs_marks_and_offsets():
    with pytest.raises(ValueError, match="marks no answers by {% generation %}"):
        ChatTemplate("{{ messages[0].content }}").encode([{"role": "user"}], None, return_assistant_mask=True)


class Drink(enum.Enum):
    TEA = "tea"
    COFFEE = "coffee"


def weather(city: str, days: int = 3, unit: Literal["C", "F"] = "C", drink: Drink | None = None) -> dict[str, Any]:
    """
    The weather of the next days,
    in two lines.

    Args:
        city: Name of the city,
            as it is written there.
        days (int, optional): How many: at most 10.
        unit: Of temperatures. (choices: ["C", "F"])
        drink: To go with it.

    Returns:
        What it will be like.

    Raises:
        ValueError: never.
    """


def search(
    texts: list[list[str]], weights: dict[str, float], pair: tuple[int, str], any_of: int | str | list[int], x: Any
):
    """Searches.

    Args:
        texts: a
        weights: b
        pair: c

        any_of: d
        x: e
    """


def nothing() -> None:
    """Does nothing."""


class Tools:
    def method(self, a: bool | str | None = None, b: "float" = 1.0, c: list = (), d: int | float | None = 2) -> "Tools":
        """Of an object.

        Args:
            a: x
            b: y
            c: z
            d: w
        """


def test_schemas_of_functions_are_those_of_transformers():
    for function in (weather, search, nothing, Tools().method):
        assert tool_schema(function) == transformers.utils.get_json_schema(function)
    template = ChatTemplate("{{ tools | tojson }}")
    messages = [{"role": "user", "content": ""}]
    ready = {"type": "function", "function": {"name": "x"}}
    expected = json.dumps([transformers.utils.get_json_schema(weather), ready])
    assert json.loads(template(messages, tools=[weather, ready])) == json.loads(expected)


def undocumented(a: int):
    """Does it."""


def untyped(a):
    """Does it.

    Args:
        a: b
    """


def of_a_class(a: random.Random):
    """Does it.

    Args:
        a: b
    """


@pytest.mark.parametrize(
    ("tool", "error", "message"),
    [
        (undocumented, ValueError, "describe each argument .* undocumented without 'a'"),
        (untyped, ValueError, r"type hint. Received: untyped with \['a'\]"),
        (of_a_class, ValueError, "Type hints of a tool must be .*random.Random"),
        (lambda: None, ValueError, "must have a docstring"),
        ("weather", TypeError, "must be a JSON schema .* Received: 'weather'"),
    ],
)
def test_tools_that_say_too_little_are_refused(tool, error, message):
    with pytest.raises(error, match=message):
        tool_schema(tool)


def test_templates_are_chosen_by_name_as_transformers_chooses(tmp_path):
    sources = {"default": "DEFAULT {{ tools }}", "tool_use": "TOOLS {{ tools | length }}", "rag": "RAG"}
    template, messages = ChatTemplate(sources), [{"role": "user", "content": "Hi"}]
    assert template(messages) == "DEFAULT None"
    assert template(messages, tools=[]) == "TOOLS 0"
    assert template(messages, template="rag", tools=[weather]) == "RAG"
    assert template.sources == sources
    with pytest.raises(ValueError, match=r"`template` must be one of \['default', 'rag', 'tool_use'\]. Received: 'x'"):
        template(messages, template="x")
    with pytest.raises(ValueError, match=r"`template` must be one of \['rag'\]. Received: 'default'"):
        ChatTemplate({"rag": "RAG"})(messages)
    in_config = [{"name": name, "template": source} for name, source in sources.items()]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": in_config}))
    assert load_chat_template(tmp_path).sources == sources
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("FILE")
    (tmp_path / "chat_template.jinja").write_text("MAIN")
    assert load_chat_template(tmp_path).sources == {"default": "MAIN", "tool_use": "FILE"}


def test_roles_without_a_token_are_undefined(tmp_path):
    source = "{{ bos_token is defined }} {{ eos_token }} {{ pad_token is defined }}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": source, "eos_token": "</s>"}))
    assert load_chat_template(tmp_path)([{"role": "user", "content": ""}]) == "False </s> False"


@dataclasses.dataclass
class Message:
    role: str
    content: str | None


class Kind(enum.StrEnum):
    USER = "user"


def test_messages_are_made_plain_as_transformers_makes_them(checkpoint):
    theirs, _, _ = checkpoint
    source = (
        "{% for m in messages %}{{ m.role }}:{{ m.content if m.content is defined else 'none' }}"
        "{{ m.reasoning_content }}{{ m.thinking }}{{ m.tool_calls | tojson if m.tool_calls else '' }};"
        "{% endfor %}{{ more }}"
    )
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [{"id": 1, "arguments": {"a": None, "b": (1, 2)}}]},
        {"role": "assistant", "content": "a", "reasoning": "because"},
        {"role": "assistant", "thinking": "hm", "content": [{"type": "text", "text": "x"}]},
        Message("user", None),
        {"role": Kind.USER, "content": "b"},
    ]
    expected = theirs.apply_chat_template(messages, chat_template=source, tokenize=False, more=object())
    written = ChatTemplate(source)(messages, add_generation_prompt=False, more=object())
    assert written == expected
    assert isinstance(written, ChatText)
    with pytest.raises(ValueError, match="`continue_final_message` must be False"):
        ChatTemplate(source)(messages, continue_final_message=True)
    with pytest.raises(ValueError, match="Messages must be dicts of `role` and `content`. Received: 'x'"):
        ChatTemplate(source)(["x"])
