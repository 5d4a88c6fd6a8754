"""jinja2 for programs that nobody vouches for: no way out of it. It does not bound their work."""

from contextvars import ContextVar
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

    def text(self, template, variables: dict[str, Any]) -> tuple[str, list[tuple[int, int]]]:
        """What the template writes, and where in it answers for training start and end.

        Raises:
            TemplateError: if it is longer than a chat can be.
        """
        pieces, written = [], _Written()
        token = _WRITTEN.set(written)
        try:
            for piece in template.generate(variables):
                written.length += len(piece)
                if written.length > _LONGEST_TEXT:
                    raise TemplateError(
                        f"A template may write at most {_LONGEST_TEXT:,} characters. This one writes more."
                    )
                pieces.append(piece)
        finally:
            _WRITTEN.reset(token)
        return "".join(pieces), written.answers


class _Written:
    """How much one rendering has written so far, and where its answers are."""

    def __init__(self):
        self.length = 0
        self.answers: list[tuple[int, int]] = []


_WRITTEN: ContextVar[_Written] = ContextVar("written")  # each thread's own


@pass_context  # what depends on the context is not evaluated while a template is compiled
def _as_it_is(context, value: Any) -> Any:
    return value


class Generation(Extension):
    """`{% generation %}`: marks an answer for training, and writes it."""

    tags: Any = frozenset({"generation"})

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_answer"), [], [], body).set_lineno(line)

    @staticmethod
    def _answer(caller) -> str:
        text = caller()
        written = _WRITTEN.get()
        written.answers.append((written.length, written.length + len(text)))
        return text
