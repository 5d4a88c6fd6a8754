"""jinja2 for programs that nobody vouches for: no way out, and an end to their work."""

import functools
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

_WORK = 10**8  # units of work that one rendering may do: a character made costs 1,
_ITEM = 8  # an item of a list made, and
_ROUND = 100  # a round of a loop, or a call, so many
_LARGEST_NUMBER = 10**6  # among the arguments of what makes texts or lists of a given size
_SIZED_FILTERS = ("batch", "center", "indent", "slice")


class Sandbox(ImmutableSandboxedEnvironment):
    """jinja2's immutable sandbox, in which the work of a template is counted and has a limit.

    Templates are changed when they are parsed: what loops run over, what is joined and what is written goes through a
    filter that counts it. Calls and operators go through methods of the sandbox anyway.
    """

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self):
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation])
        self._work = 0
        self.filters["_rounds"], self.filters["_text"] = self._rounds, self._text
        for name in _SIZED_FILTERS:
            self.filters[name] = _with_small_numbers(self.filters[name])

    def start(self) -> None:
        """Forgets the work that was done: another rendering begins."""
        self._work = 0

    def compile(self, source, *arguments, **keywords):  # of what every template is made
        return super().compile(_Counting().visit(self.parse(source)), *arguments, **keywords)

    def call(self, context, function, /, *arguments, **keywords):  # of a macro, method or function
        self._count(_ROUND)
        _check_numbers(arguments)
        return self._text(super().call(context, function, *arguments, **keywords))

    def call_binop(self, context, operator, left, right):
        if operator == "**" and isinstance(right, int | float) and abs(right) > 64:
            raise TemplateError(f"A template may raise to a power of at most 64. Received: {right}.")
        if operator == "*":
            for size, content in ((left, right), (right, left)):
                if isinstance(size, int) and isinstance(content, str | list | tuple):
                    self._count(max(size, 0) * _size(content))
        if operator == "%" and isinstance(left, str):
            _check_numbers(int(digits) for digits in "".join(c if c.isdecimal() else " " for c in left).split())
        return self._text(super().call_binop(context, operator, left, right))

    def _rounds(self, items: Any) -> list:
        items = list(items)
        self._count(_ROUND * len(items))
        return items

    def _text(self, value: Any) -> Any:
        self._count(_size(value))
        return value

    def _count(self, work: int) -> None:
        self._work += work
        if self._work > _WORK:
            raise TemplateError("A template may work as much as chats need; this has too many rounds or too much text.")


def _size(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    return _ITEM * len(value) if isinstance(value, list | tuple) else 1


class Generation(Extension):
    """`{% generation %}`: marks an answer for training in transformers; here it is the text between."""

    tags = frozenset({"generation"})

    def parse(self, parser):
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Counting(NodeTransformer):
    """Puts what may become large through the filters that count."""

    def visit_For(self, node):
        self.generic_visit(node)
        node.iter = _through("_rounds", node.iter)
        return node

    def visit_Concat(self, node):
        return _through("_text", self.generic_visit(node))

    def visit_Output(self, node):
        self.generic_visit(node)
        node.nodes = [one if isinstance(one, nodes.TemplateData) else _through("_text", one) for one in node.nodes]
        return node


def _through(name: str, node: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _with_small_numbers(function):
    @functools.wraps(function)  # with jinja2's mark of what it wants to be given
    def checked(*arguments, **keywords):
        _check_numbers((*arguments, *keywords.values()))
        return function(*arguments, **keywords)

    return checked


def _check_numbers(values) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > _LARGEST_NUMBER:
            raise TemplateError(f"Sizes in a template must be at most {_LARGEST_NUMBER:,}. Received: {value}.")
