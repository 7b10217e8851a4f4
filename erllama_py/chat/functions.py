"""A Python function as a tool: what a model has to know of it, read from its signature, type hints and docstring; and
its arguments out of what a model wrote. Pure, but for the code of the hinted types themselves.
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeGuard

import msgspec

from erllama_py.chat.docstrings import read_docstring
from erllama_py.chat.json_types import converter, schema_of
from erllama_py.chat.schema import with_references
from erllama_py.errors import InvalidSchema

_REFERENCE = "#/$defs/"
_VARIADIC: dict[object, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


class Argument(msgspec.Struct, frozen=True, eq=False):
    """One argument of a function."""

    convert: Callable[[object], object]
    required: bool


class Function(msgspec.Struct, frozen=True, eq=False):
    """A function that a model may call."""

    call: Callable[..., Any]
    description: str
    parameters: dict[str, Any]
    """The JSON schema of its arguments."""
    arguments: dict[str, Argument]
    is_async: bool
    """Whether it is a coroutine function; others may still return something to await."""

    def read(self, given: Mapping[str, object]) -> dict[str, object]:
        """The arguments by name, of the hinted types. Raises `ValueError`, in words for the model that gave them."""
        for name in given:
            if name not in self.arguments:
                raise ValueError(f"there is no argument {name!r}; there are: {', '.join(self.arguments) or 'none'}")
        missing = [name for name, one in self.arguments.items() if one.required and name not in given]
        if missing:
            raise ValueError(f"arguments are missing: {', '.join(missing)}")
        return {name: self._read(name, value) for name, value in given.items()}

    def _read(self, name: str, value: object) -> object:
        try:
            return self.arguments[name].convert(value)
        except Exception as error:  # the checks of the application's own types may raise anything
            raise ValueError(f"the argument {name!r} is refused: {_text_of(error)}") from error


def _text_of(error: Exception) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:  # of the application's own classes too
        return type(error).__name__


def is_function(given: object) -> TypeGuard[Callable[..., Any]]:
    """Whether something is to be taken as a function, not as a mapping; a class is too, to be refused by name."""
    return callable(given) and not isinstance(given, Mapping)


def name_of(function: Callable[..., Any]) -> str:
    """What the function is called, also where it is wrapped; an object that can be called is called as its class."""
    function = _unwrapped(function)
    return str(getattr(function, "__name__", type(function).__name__))


def function_of(given: Callable[..., Any]) -> Function:
    """See the module. Raises `ValueError` for what cannot be a tool."""
    code = _code(given)
    if isinstance(code, type):
        raise ValueError("it is a class; give a function")
    if inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code):
        raise ValueError("it is a generator; a tool has one result")
    try:
        signature = inspect.signature(given)
    except (ValueError, TypeError) as error:
        raise ValueError(f"it has no signature: {error}") from None
    description, texts = read_docstring(_docstring(given, code))
    hints = _hints(code)
    bound = given.keywords if isinstance(given, functools.partial) else {}
    parameters = [one for one in signature.parameters.values() if one.name not in bound]
    arguments: dict[str, Argument] = {}
    schemas: dict[str, Any] = {}
    defs: dict[str, Any] = {}
    for one in parameters:
        kind = _kind(one, hints)
        schemas[one.name] = _schema(one, kind, texts.get(one.name), defs)
        arguments[one.name] = Argument(converter(kind), one.default is inspect.Parameter.empty)
    schema: dict[str, Any] = {"type": "object", "properties": schemas}
    if required := [name for name, argument in arguments.items() if argument.required]:
        schema["required"] = required
    if defs:
        schema["$defs"] = defs
    return Function(given, description, schema, arguments, inspect.iscoroutinefunction(code))


def _unwrapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """What a partial function is made of."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _code(function: Callable[..., Any]) -> Callable[..., Any]:
    """What runs in the end, where the hints are."""
    function = _unwrapped(function)
    if isinstance(function, type) or inspect.isroutine(function):
        return function
    return type(function).__call__


def _docstring(given: Callable[..., Any], code: Callable[..., Any]) -> str | None:
    if inspect.isroutine(given) or isinstance(given, functools.partial):
        return inspect.getdoc(code)
    return code.__doc__ or type(given).__doc__  # `getdoc` would find that of `object`


def _hints(code: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(code, include_extras=True)
    except Exception as error:  # a name that is not there, or whatever the hint's own code raises
        raise ValueError(f"its type hints cannot be read: {type(error).__name__}: {error}") from error


def _kind(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Any:
    name = parameter.name
    if stars := _VARIADIC.get(parameter.kind):
        raise ValueError(f"it takes {stars}{name}; a tool's arguments have names of their own")
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        raise ValueError(f"its argument {name!r} is positional-only; a model gives arguments by name")
    if name not in hints:
        raise ValueError(f"its argument {name!r} has no type hint")
    return hints[name]


def _schema(parameter: inspect.Parameter, kind: Any, text: str | None, defs: dict[str, Any]) -> dict[str, Any]:
    """The schema of one argument, with its description and default; what it refers to goes into `defs`."""
    try:
        schema = schema_of(kind)
    except InvalidSchema as error:
        raise ValueError(f"its argument {parameter.name!r}: {error.problem}") from error
    own = schema.pop("$defs", {})
    renamed = {name: _free(name, one, defs) for name, one in own.items()}

    def rename(reference: str) -> str:
        name = reference.removeprefix(_REFERENCE)
        return _REFERENCE + renamed.get(name, name) if reference.startswith(_REFERENCE) else reference

    for name, one in own.items():
        defs[renamed[name]] = with_references(one, rename)
    schema = with_references(schema, rename)
    if text := _said(kind) or text:
        schema = {**schema, "description": text}
    default = parameter.default
    if isinstance(default, str | int | float | bool) and type(default) in (str, int, float, bool):
        schema = {**schema, "default": default}
    return schema


def _free(name: str, schema: Any, defs: Mapping[str, Any]) -> str:
    """A name for a definition: its own, unless another one has it."""
    free, number = name, 1
    while free in defs and defs[free] != schema:
        number += 1
        free = f"{name}{number}"
    return free


def _said(kind: Any) -> str | None:
    """The text that `Annotated` gives an argument: `Annotated[int, "in metres"]`, or one with a `documentation`."""
    if typing.get_origin(kind) is not Annotated:
        return None
    for one in typing.get_args(kind)[1:]:
        text = one if isinstance(one, str) else getattr(one, "documentation", None)
        if isinstance(text, str):
            return text
    return None
