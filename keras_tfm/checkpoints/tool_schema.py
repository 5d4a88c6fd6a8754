"""Python functions as the JSON schemas by which chat templates tell a model of its tools."""

import contextlib
import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable
from typing import Any

_SCALARS: dict[Any, str] = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
_CONTAINERS: dict[Any, str] = {list: "array", tuple: "array", dict: "object"}
_SECTION = r"(?:Args|Returns|Raises):"
_ARGUMENT = re.compile(
    r"^([ \t]*)(\w+)(?:[ \t]*\([^()\n]*\))?:\s*(.*?)\s*(?=^(?!\1[ \t])[ \t]*\w+(?:[ \t]*\([^()\n]*\))?:|\Z)",
    re.DOTALL | re.MULTILINE,
)
_CHOICES = re.compile(r"\(choices:\s*(.*?)\)\s*$", re.IGNORECASE)


def tool_schema(tool: Any) -> dict[str, Any]:
    """What a template is told of a tool; the same as by `transformers.utils.get_json_schema`.

    Args:
        tool: a dict, which is the schema already; or a function, all of whose arguments have type hints and are
            described under "Args:" in its docstring. A description may end with `(choices: ["tea", "coffee"])`.

    Raises:
        ValueError: for a function without a docstring, hints or descriptions, or with hints of other types than
            numbers, strings, bool, None, enumerations, literals, and lists, tuples, dicts and unions of these.
        TypeError: for anything else.

    Example:
        >>> def weather(city: str):
        ...     '''The weather of today.
        ...
        ...     Args:
        ...         city: Name of the city.
        ...     '''
        >>> tool_schema(weather)["function"]["parameters"]["properties"]
        {'city': {'type': 'string', 'description': 'Name of the city.'}}
    """
    if isinstance(tool, dict):
        return tool
    if not (inspect.isfunction(tool) or inspect.ismethod(tool)):
        raise TypeError(f"Each of `tools` must be a JSON schema (dict) or a function. Received: {tool!r}.")
    documentation = (inspect.getdoc(tool) or "").strip()
    if not documentation:
        raise ValueError(f"A tool must have a docstring that says what it does. Received: {tool.__name__} without one.")
    properties, required = _properties(tool)
    returned = properties.pop("return", None)
    descriptions = _descriptions(documentation)
    for name, schema in properties.items():
        if name not in descriptions:
            raise ValueError(
                f'The docstring of a tool must describe each argument under "Args:". Received: {tool.__name__} '
                f"without {name!r}."
            )
        description = descriptions[name]
        if choices := _CHOICES.search(description):
            values = json.loads(choices[1])
            schema["enum"] = [value.strip() if isinstance(value, str) else value for value in values]
            description = description[: choices.start()].strip()
        schema["description"] = description
    parameters = {"type": "object", "properties": properties, **({"required": required} if required else {})}
    first = re.split(_SECTION, documentation, maxsplit=1)[0].strip()
    function = {"name": tool.__name__, "description": first, "parameters": parameters}
    if returned is not None:
        if told := re.search(r"\n\s*Returns:\n\s*(.*?)\s*(?:Raises:|\Z)", documentation, re.DOTALL):
            returned["description"] = told[1]
        function["return"] = returned
    return {"type": "function", "function": function}


def _properties(tool: Callable) -> tuple[dict[str, Any], list[str]]:
    """The schema of each argument, and of "return" where it is known; and the names of those without default."""
    parameters = list(inspect.signature(tool).parameters.values())
    if parameters and parameters[0].name in ("self", "cls") and parameters[0].annotation is inspect.Parameter.empty:
        parameters = parameters[1:]
    if bare := [one.name for one in parameters if one.annotation is inspect.Parameter.empty]:
        raise ValueError(f"Each argument of a tool must have a type hint. Received: {tool.__name__} with {bare}.")
    hints = typing.get_type_hints(tool)
    properties = {name: _schema(hint) for name, hint in hints.items() if name not in ("return", "self", "cls")}
    if "return" in hints:
        with contextlib.suppress(ValueError):  # a model is not told of it, then
            properties["return"] = _schema(hints["return"])
    return properties, [one.name for one in parameters if one.default is inspect.Parameter.empty]


def _schema(hint: Any) -> dict[str, Any]:
    """The JSON schema of a type hint."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return {}
    if origin in (typing.Union, types.UnionType):
        return _union(parts)
    if origin is typing.Literal:
        return _enumeration(hint, list(parts))
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _enumeration(hint, [member.value for member in hint])
    kind = {**_SCALARS, **_CONTAINERS}.get(origin or hint)
    if kind is None or (origin is tuple and (len(parts) == 1 or ... in parts)):
        raise ValueError(
            "Type hints of a tool must be int, float, str, bool, None, Any, an Enum or a Literal of these, or list, "
            f"tuple (of several types), dict or Union of them. Received: {hint!r}. Pass a JSON schema instead."
        )
    schema: dict[str, Any] = {"type": kind}
    if origin is list:
        schema["items"] = _schema(parts[0])
    elif origin is tuple:
        schema["prefixItems"] = [_schema(part) for part in parts]
    elif origin is dict:
        schema["additionalProperties"] = _schema(parts[1])
    return schema


def _union(parts: tuple) -> dict[str, Any]:
    schemas = [_schema(part) for part in parts if part is not type(None)]
    if len(schemas) == 1:
        schema = schemas[0]
    elif all(one.keys() == {"type"} and isinstance(one["type"], str) for one in schemas):
        kinds = sorted({one["type"] for one in schemas})
        schema = {"type": kinds[0] if len(kinds) == 1 else kinds}
    else:
        schema = {"anyOf": schemas}
    return {**schema, "nullable": True} if type(None) in parts else schema


def _enumeration(hint: Any, values: list) -> dict[str, Any]:
    if not values or any(type(value) not in _SCALARS for value in values):
        raise ValueError(f"An enumeration in a tool must have values of JSON. Received: {hint!r} of {values}.")
    kinds = list(dict.fromkeys(_SCALARS[type(value)] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


def _descriptions(documentation: str) -> dict[str, str]:
    """Of each argument, in one line."""
    block = re.search(r"\n\s*Args:\n(.*?)\s*(?:Returns:|Raises:|\Z)", documentation, re.DOTALL)
    if block is None:
        return {}
    lines = "\n".join(line for line in block[1].split("\n") if line.strip())
    return {found[2]: re.sub(r"\s*\n+\s*", " ", found[3].strip()) for found in _ARGUMENT.finditer(lines)}
