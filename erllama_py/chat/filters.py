"""The filters and tests that chat templates have: Jinja's own, each paid for before it runs.

What is not known to be cheap pays for all that it is given, read whole: values can be in each other so often that
Python's own code would read them for years, and let nothing else run.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from jinja2.filters import FILTERS
from jinja2.tests import TESTS

from erllama_py.chat import costs
from erllama_py.chat.costs import small
from erllama_py.chat.fuel import Fuel, fuel, pay_text
from erllama_py.errors import ChatTemplateError

Arguments = tuple[Any, ...]
Named = dict[str, Any]
Cost = Callable[[Fuel, Any, Arguments, Named], None]
MOST_NAMES = 16  # of attributes that are looked up in each value
SORTS = 17  # comparisons of each of 100,000 values
MOST_INDENT = 16  # of JSON


def _argument(arguments: Arguments, named: Named, index: int, name: str, default: Any = None) -> Any:
    return arguments[index] if len(arguments) > index else named.get(name, default)


def _text(fuel: Fuel, value: Any, arguments: Arguments, named: Named) -> None:
    if isinstance(value, str):
        fuel.text(len(value))
    else:
        fuel.deep(value)


def _title(fuel: Fuel, value: Any, arguments: Arguments, named: Named) -> None:
    """Each word is a text of its own."""
    _text(fuel, value, arguments, named)
    fuel.use(len(value) if isinstance(value, str) else 0)


def _words(fuel: Fuel, value: Any, arguments: Arguments, named: Named) -> None:
    _text(fuel, value, arguments, named)
    fuel.use(len(value) // 8 if isinstance(value, str) else 0)


def _each(fuel: Fuel, value: Any, arguments: Arguments, named: Named) -> None:
    """What is read one by one; `_paid` has taken fuel where the values cannot be counted."""
    fuel.use(1 + (len(value) if hasattr(value, "__len__") else 0))


def _sorted(fuel: Fuel, value: Any, arguments: Arguments, named: Named) -> None:
    fuel.deep(value, SORTS)


def _replace(fuel: Fuel, value: Any, arguments: Arguments, named: Named) -> None:
    fuel.deep((value, arguments, named))
    old, new = _argument(arguments, named, 0, "old", ""), _argument(arguments, named, 1, "new", "")
    costs.replace(fuel, str(value), str(old), str(new))


def _join(fuel: Fuel, value: Any, arguments: Arguments, named: Named) -> None:
    separator = _argument(arguments, named, 0, "d", "")
    fuel.deep(separator)
    costs.join(fuel, str(separator), [value] if isinstance(value, str) else value)


def _format(fuel: Fuel, value: Any, arguments: Arguments, named: Named) -> None:
    fuel.deep(value)
    costs.printf(fuel, str(value), named or arguments)


def _center(fuel: Fuel, value: Any, arguments: Arguments, named: Named) -> None:
    _text(fuel, value, arguments, named)
    fuel.text(small(_argument(arguments, named, 0, "width"), "a width of"))


def _indent(fuel: Fuel, value: Any, arguments: Arguments, named: Named) -> None:
    fuel.deep(value)
    width, text = _argument(arguments, named, 0, "width", 4), str(value)
    wide = len(width) if isinstance(width, str) else small(width, "an indent of")
    fuel.text(len(text) + wide * (1 + len(text.splitlines())))


def _batches(fuel: Fuel, value: Any, arguments: Arguments, named: Named) -> None:
    size = small(arguments[0] if arguments else next(iter(named.values()), 0), "batches of")
    _each(fuel, value, arguments, named)
    fuel.use(size * (1 + (len(value) if hasattr(value, "__len__") else 1)) // 8 if size > 100 else size)


def _round(fuel: Fuel, value: Any, arguments: Arguments, named: Named) -> None:
    fuel.use(1)
    if small(_argument(arguments, named, 0, "precision", 0), "a precision of") > 100:
        raise ChatTemplateError("the chat template rounds to more than 100 digits")


def _int(fuel: Fuel, value: Any, arguments: Arguments, named: Named) -> None:
    if isinstance(value, str) and len(value) > 1000:
        raise ChatTemplateError("the chat template reads a number of more than 1000 digits")
    _text(fuel, value, arguments, named)


def _sum(fuel: Fuel, value: Any, arguments: Arguments, named: Named) -> None:
    if not isinstance(_argument(arguments, named, 1, "start", 0), int | float):
        raise ChatTemplateError("the chat template sums up other things than numbers")
    fuel.deep(value)


# What costs no more than what stands in the source.
_FREE = ("abs", "count", "d", "default", "first", "last", "length")
_FREE_TESTS = (
    "boolean", "callable", "defined", "escaped", "false", "float", "integer", "iterable", "mapping", "none", "number",
    "sameas", "sequence", "string", "true", "undefined",
)  # fmt: skip
_COSTS: dict[str, Cost] = {
    **dict.fromkeys(("capitalize", "e", "escape", "float", "lower", "safe", "string", "upper"), _text),
    **dict.fromkeys(("items", "list", "map", "reject", "rejectattr", "reverse", "select", "selectattr"), _each),
    **dict.fromkeys(("dictsort", "groupby", "max", "min", "sort", "unique"), _sorted),
    **dict.fromkeys(("batch", "slice"), _batches),
    "attr": lambda fuel, *given: fuel.use(1), "title": _title, "wordcount": _words, "center": _center,
    "format": _format, "indent": _indent, "int": _int, "join": _join, "replace": _replace,
    "round": _round, "sum": _sum, "truncate": _text,
}  # fmt: skip


def _paid(function: Callable[..., Any], cost: Cost) -> Callable[..., Any]:
    """A filter that takes fuel first. Values that come one by one are paid for as they come."""
    place = 0 if getattr(function, "jinja_pass_arg", None) is None else 1
    takes_names = cost in (_each, _sorted, _sum, _join)

    @functools.wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        value, burning = arguments[place], fuel()
        if hasattr(value, "__next__"):
            value = burning.steps(value)
            if cost is not _each:
                value = list(value)
        others = arguments[place + 1 :]
        if others or named:
            burning.deep((others, named))
            if takes_names:
                _check_names(others, named)
        cost(burning, value, others, named)
        return function(*arguments[:place], value, *arguments[place + 1 :], **named)

    return run


def _check_names(arguments: Arguments, named: Named) -> None:
    """`a.b.c` and `a,b` are looked up in each value."""
    for one in (*arguments, *named.values()):
        if isinstance(one, str) and one.count(".") + one.count(",") >= MOST_NAMES:
            raise ChatTemplateError(f"the chat template looks up more than {MOST_NAMES} attributes at once")


def _compared(function: Callable[..., Any], cost: Callable[[Fuel, Any, Any], None]) -> Callable[..., Any]:
    def run(left: Any, right: Any) -> Any:
        cost(fuel(), left, right)
        return function(left, right)

    return run


def _remainder(fuel: Fuel, left: Any, right: Any) -> None:
    costs.binop(fuel, "%", left, right)


def _halved(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(value: Any) -> Any:
        costs.binop(fuel(), "%", value, 2)
        return function(value)

    return run


def _read(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)  # some take the environment first
    def run(*arguments: Any) -> Any:
        fuel().deep(arguments)
        return function(*arguments)

    return run


def _trimmed(value: Any, chars: Any = None) -> Any:
    """`trim`, the filter that templates use most."""
    if type(value) is str and chars is None:
        pay_text(len(value))
        return value.strip()
    fuel().deep(value)
    text: Any = value if isinstance(value, str) else str(value)
    costs.method(fuel(), text, "strip", (chars,))
    return text.strip(chars)


def tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """In place of Jinja's own filter, which escapes for HTML what a model should read as it is."""
    wide = len(indent) if isinstance(indent, str) else 0 if indent is None else small(indent, "an indent of")
    if wide > MOST_INDENT or any(len(one) > MOST_INDENT for one in separators or () if isinstance(one, str)):
        raise ChatTemplateError(f"the chat template writes JSON with an indent of more than {MOST_INDENT}")
    fuel().deep(value, 2 + wide + (SORTS if sort_keys else 0))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def filters() -> dict[str, Callable[..., Any]]:
    """By name; Transformers has the same `tojson`."""
    paid = {name: _paid(FILTERS[name], cost) for name, cost in _COSTS.items()}
    free: dict[str, Any] = {name: FILTERS[name] for name in _FREE}
    return {**paid, **free, "tojson": tojson, "trim": _trimmed}


def tests() -> dict[str, Callable[..., Any]]:
    """By name."""
    compared: dict[str, Callable[[Fuel, Any, Any], None]]
    compared = dict.fromkeys(("==", "eq", "equalto", "!=", "ne", "<", "<=", ">", ">="), costs.compare)
    compared |= dict.fromkeys(("lt", "lessthan", "le", "gt", "greaterthan", "ge"), costs.compare)
    compared |= {"in": costs.contains, "divisibleby": _remainder}
    known: dict[str, Any] = dict(TESTS)
    paid = {name: _compared(known[name], cost) for name, cost in compared.items()}
    remainders = {name: _halved(known[name]) for name in ("even", "odd")}
    read = {name: _read(one) for name, one in known.items() if name not in _FREE_TESTS}
    return known | read | paid | remainders
