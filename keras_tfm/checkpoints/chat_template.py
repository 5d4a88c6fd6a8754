"""Chats as text, by the template that a checkpoint brings, rendered in a sandbox."""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from keras_tfm.optional import required

_LONGEST = 2**20  # characters of a template


class ChatTemplate:
    """Turns a list of messages into the prompt that a chat model was trained on.

    Templates are programs of jinja2. They come with the model, so they run in jinja2's immutable sandbox: no access to
    Python's attributes, files or modules, and nothing that they are given can be changed. They write at most 16,777,216
    characters. Their time and memory have no limit: render what nobody vouches for in a process that has one, as
    docs/chat_templates.md shows. Several threads may use one template.

    Args:
        template: source of the jinja2 template.
        variables: what the template may name, customarily "bos_token" and "eos_token".

    Call arguments:
        messages: dicts of "role" ("system", "user", "assistant") and "content".
        add_generation_prompt: bool, end with the beginning of an answer.
        **variables: more for the template, such as `tools`.

    Returns:
        str.

    Raises:
        ImportError: without the package jinja2.
        ValueError: for a template that is too long, wrong, or refuses the messages.

    Example:
        >>> template = ktfm.checkpoints.open("HuggingFaceTB/SmolLM2-135M-Instruct").chat_template()
        >>> prompt = template([{"role": "user", "content": "Hello!"}])
    """

    def __init__(self, template: str, variables: Mapping[str, Any] | None = None):
        if len(template) > _LONGEST:
            raise ValueError(f"A chat template must have at most {_LONGEST:,} characters. Received: {len(template):,}.")
        required("jinja2", "checkpoints", "Chat templates")
        from keras_tfm.checkpoints.template_sandbox import Sandbox  # it is made of jinja2

        self._sandbox = Sandbox()
        self._sandbox.filters["tojson"] = _to_json
        self._sandbox.globals["raise_exception"] = _refuse
        self._sandbox.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        self.source = template
        self.variables = dict(variables or {})
        try:
            self._template = self._sandbox.from_string(template)
        except Exception as error:  # jinja2's own, or Python's for what is nested too deeply
            raise ValueError(f"A chat template must be one of jinja2. Received one with an error: {error}.") from error

    def __call__(
        self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **variables: Any
    ) -> str:
        for message in messages:
            if not isinstance(message, Mapping) or "role" not in message:
                raise ValueError(f"Messages must be dicts of `role` and `content`. Received: {message!r}.")
        given = {"tools": None, "documents": None, **self.variables, **variables}
        try:
            given |= {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
            return self._sandbox.text(self._template, given)
        except Exception as error:  # a program can fail in any way
            raise ValueError(
                f"The chat template does not take these messages. Received: {error} ({type(error).__name__})."
            ) from error


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    """Without jinja2's escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def _refuse(message: str):
    raise required("jinja2", "checkpoints", "Chat templates").TemplateError(message)
