"""jinja2 for programs that nobody vouches for: no way out of it. It does not bound their work."""

from typing import Any

from jinja2 import TemplateError, nodes, pass_context
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

_LONGEST_TEXT = 2**24  # characters; no model reads so many, and honest chats have some millions


class Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's immutable sandbox, as templates of chats expect it.

    It keeps nothing between two renderings, so that threads may share it. Nothing is computed while a template is
    compiled: jinja2 would evaluate `{{ 'x' * 10**10 }}` there, and a checkpoint whose template nobody renders is to be
    harmless.
    """

    def __init__(self):
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", Generation],
            optimized=False,
            finalize=_as_it_is,
        )

    def text(self, template: Any, variables: dict[str, Any]) -> str:
        """What the template writes; TemplateError if that is longer than a chat can be."""
        pieces, length = [], 0
        for piece in template.generate(variables):
            length += len(piece)
            if length > _LONGEST_TEXT:
                raise TemplateError(f"A template may write at most {_LONGEST_TEXT:,} characters. This one writes more.")
            pieces.append(piece)
        return "".join(pieces)


@pass_context  # what depends on the context is not evaluated while a template is compiled
def _as_it_is(context, value: Any) -> Any:
    return value


class Generation(Extension):
    """`{% generation %}`: marks an answer for training in transformers; here it is the text between."""

    tags: Any = frozenset({"generation"})

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)
