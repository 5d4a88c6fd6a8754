"""Chats as text, by the templates that a checkpoint brings, rendered in a sandbox."""

import dataclasses
import datetime
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from keras_tfm.checkpoints.tool_schema import tool_schema
from keras_tfm.optional import required
from keras_tfm.tokenizers import ChatText, Tokenizer

_LONGEST = 2**20  # characters of a template
_REASONING = ("reasoning_content", "thinking", "reasoning")  # what messages call it; the first is the usual name


class ChatTemplate:
    """Turns a list of messages into the prompt that a chat model was trained on.

    Templates are programs of jinja2. They come with the model, so they run in jinja2's immutable sandbox: no access to
    Python's attributes, files or modules, and nothing that they are given can be changed. They write at most 16,777,216
    characters. Their time and memory have no limit: render what nobody vouches for in a process that has one, as
    docs/chat_templates.md shows. Several threads may use one template.

    Args:
        template: source of the jinja2 template; or a dict of several, by name.
        variables: what the template may name, customarily "bos_token" and "eos_token".

    Call arguments:
        messages: dicts of "role" ("system", "user", "assistant") and "content", or dataclasses or pydantic models.
            A key whose value is None, as OpenAI's "content" beside tool calls, is as if it were not there.
        add_generation_prompt: bool, end with the beginning of an answer.
        template: name of the template. Default: "tool_use" if there is one and `tools` are given, else "default".
        tools: list of JSON schemas, or of functions with type hints and docstrings: see `tool_schema`.
        **variables: more for the template, such as `documents`.

    Returns:
        `ChatText`, a str. Tokenizers and `TextGenerator` put no begin of text before it: the template wrote one if the
        model wants it.

    Attributes:
        sources: read-only dict from name to source.

    Raises:
        ImportError: without the package jinja2.
        ValueError: for a template that is too long, wrong, or refuses the messages; for a name that there is not.

    Example:
        >>> template = ktfm.checkpoints.open("HuggingFaceTB/SmolLM2-135M-Instruct").chat_template()
        >>> prompt = template([{"role": "user", "content": "Hello!"}])
    """

    def __init__(self, template: str | Mapping[str, str], variables: Mapping[str, Any] | None = None):
        sources = {"default": template} if isinstance(template, str) else dict(template)
        for source in sources.values():
            if len(source) > _LONGEST:
                raise ValueError(
                    f"A chat template must have at most {_LONGEST:,} characters. Received: {len(source):,}."
                )
        required("jinja2", "checkpoints", "Chat templates")
        from keras_tfm.checkpoints.template_sandbox import Sandbox  # it is made of jinja2

        self._sandbox = Sandbox()
        self._sandbox.filters["tojson"] = _to_json
        self._sandbox.globals["raise_exception"] = _refuse
        self._sandbox.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        self.sources = MappingProxyType(sources)
        self.variables = dict(variables or {})
        try:
            self._templates = {name: self._sandbox.from_string(source) for name, source in sources.items()}
        except Exception as error:  # jinja2's own, or Python's for what is nested too deeply
            raise ValueError(f"A chat template must be one of jinja2. Received one with an error: {error}.") from error

    @property
    def source(self) -> str:
        """The source of the template that is used by default; ValueError if none is."""
        return self.sources[self._name(None, None)]

    def __call__(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        template: str | None = None,
        tools: Sequence[Any] | None = None,
        **variables: Any,
    ) -> ChatText:
        return self._written(messages, add_generation_prompt, template, tools, variables)[0]

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        tokenizer: Tokenizer,
        add_generation_prompt: bool = True,
        return_assistant_mask: bool = False,
        template: str | None = None,
        tools: Sequence[Any] | None = None,
        **variables: Any,
    ) -> list[int] | tuple[list[int], list[bool]]:
        """The token ids of a chat, and which of them the model is to learn to write.

        Args:
            messages, add_generation_prompt, template, tools, **variables: as for a call.
            tokenizer: that of the checkpoint.
            return_assistant_mask: bool, also tell which tokens are of what the template marks by `{% generation %}`;
                the tokenizer must have `encode_with_offsets`.

        Returns:
            list of int (T,); with the mask a pair of it and a list of bool (T,). Both equal those of
            `apply_chat_template` of transformers.

        Raises:
            ValueError: as a call; or if the mask is asked for and the template marks nothing.

        Example:
            >>> ids, mask = template.encode(messages, tokenizer, False, return_assistant_mask=True)
            >>> labels = np.where(mask, ids, -1)
        """
        text, answers = self._written(messages, add_generation_prompt, template, tools, variables)
        if not return_assistant_mask:
            return tokenizer.encode(text)
        if "generation" not in self.sources[self._name(template, tools)]:
            raise ValueError(
                "`return_assistant_mask` must be False for a template that marks no answers by {% generation %}. "
                "Received: True. Put {% generation %} and {% endgeneration %} around the answers in its source."
            )
        ids, offsets = tokenizer.encode_with_offsets(text)
        return ids, [any(start < last and first < end for first, last in answers) for start, end in offsets]

    def _written(
        self, messages, add_generation_prompt: bool, name: str | None, tools: Sequence[Any] | None, variables
    ) -> tuple[ChatText, list[tuple[int, int]]]:
        """The chat, and where in it the answers start and end."""
        messages = [_message(_plain(message), message) for message in messages]
        if variables.pop("continue_final_message", False):
            raise ValueError(
                "`continue_final_message` must be False. Received: True. Leave the last message out, and write its "
                "beginning behind the prompt."
            )
        schemas = None if tools is None else [tool_schema(tool) for tool in tools]
        given = {"documents": None, **self.variables, **variables, "tools": schemas, "messages": messages}
        given["add_generation_prompt"] = add_generation_prompt
        chosen = self._templates[self._name(name, tools)]
        try:
            text, answers = self._sandbox.text(chosen, {key: _plain(value) for key, value in given.items()})
        except Exception as error:  # a program can fail in any way
            raise ValueError(
                f"The chat template does not take these messages. Received: {error} ({type(error).__name__})."
            ) from error
        return ChatText(text), answers

    def _name(self, name: str | None, tools: Sequence[Any] | None) -> str:
        if name is None:
            name = "tool_use" if tools is not None and "tool_use" in self.sources else "default"
        if name not in self.sources:
            raise ValueError(f"`template` must be one of {sorted(self.sources)}. Received: {name!r}.")
        return name


def _message(plain: Any, message: Any) -> dict[str, Any]:
    """A message as templates expect it: without keys of None, and its reasoning under the names that they know."""
    if not isinstance(plain, dict) or "role" not in plain:
        raise ValueError(f"Messages must be dicts of `role` and `content`. Received: {message!r}.")
    plain = {key: value for key, value in plain.items() if value is not None}
    reasoning = next((plain[key] for key in _REASONING if key in plain), None)
    return plain if reasoning is None else {"thinking": reasoning, **plain, "reasoning_content": reasoning}


def _plain(value: Any) -> Any:
    """The value made anew of what JSON has, so that a template reaches no methods of other objects."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif callable(getattr(value, "model_dump", None)):  # of pydantic
        value = value.model_dump()
    elif isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else list(map(_plain, value))
    if value is None or type(value) in (str, bool, int, float):
        return value
    kinds: Any = ((str, str.__str__), (int, int.__int__), (float, float.__float__))
    for kind, value_of in kinds:
        if isinstance(value, kind):  # an enumeration, for example
            return value_of(value)
    return f"<{type(value).__name__}>"


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """Without jinja2's escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _refuse(message: str):
    raise required("jinja2", "checkpoints", "Chat templates").TemplateError(message)
