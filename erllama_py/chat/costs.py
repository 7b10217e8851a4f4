"""What Jinja's operators, methods and filters cost, and which of them templates have.

Each function here takes fuel before the work is done. What could take long with few characters in the source, such as
a width of 10⁹, is refused. Methods and filters that no chat template needs, and whose cost is hard to tell, are left
out: `str.translate`, `wordwrap`, `urlize`, `pprint` and their like.
"""

from __future__ import annotations

import re
from collections.abc import Generator, ItemsView, KeysView, Mapping, ValuesView
from functools import lru_cache
from typing import Any

from erllama_py.chat.fuel import Fuel
from erllama_py.errors import ChatTemplateError

WIDEST = 10_000  # characters that a number may ask for: widths, batches, indents
MOST_BITS = 4096  # of a whole number
CHARACTERS_A_SCAN = 256  # searched or compared for one unit
A_FIELD = 8  # of a form
_WIDE = re.compile(r"\d{5,}")
_FIELD = re.compile(r"[-#0 +]*(\*|[0-9]*)(?:\.(\*|[0-9]*))?")  # of printf, after the name in brackets
_BRACKET = re.compile(r"[()]")
_NUMBER = re.compile(r"\d+")
ATOMS = (str, int, float, bool, type(None))

TEXT_METHODS = """
capitalize casefold center count endswith find format index isalnum isalpha isascii isdecimal isdigit isidentifier
islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip partition removeprefix removesuffix
replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title upper zfill
"""
METHODS: dict[type, frozenset[str]] = {
    str: frozenset(TEXT_METHODS.split()),
    dict: frozenset({"copy", "get", "items", "keys", "values"}),
    list: frozenset({"copy", "count", "index"}),
    tuple: frozenset({"count", "index"}),
    int: frozenset(),  # bool too
    float: frozenset({"is_integer"}),
    bytes: frozenset(),
    range: frozenset(),
}
PLAIN = tuple(METHODS)
_OPAQUE = (KeysView, ValuesView, ItemsView, Generator, set, frozenset, type)


def is_known(owner: object, name: str) -> bool:
    """Whether templates have this attribute of a plain value; of Jinja's own objects they have all that is safe."""
    kind: Any = type(owner)
    names = _names(kind)
    return names is None or name in names


@lru_cache(maxsize=256)
def _names(kind: type) -> frozenset[str] | None:
    """The attributes of a type that templates have; None for all."""
    for known, names in METHODS.items():
        if issubclass(kind, known):
            return names
    return frozenset() if issubclass(kind, _OPAQUE) else None


def small(number: object, what: str) -> int:
    """A number that memory or time is taken for. Raises `ChatTemplateError` for a large one."""
    if isinstance(number, int) and abs(number) > WIDEST:
        raise ChatTemplateError(f"the chat template asks for {what} {number:.3g}; at most {WIDEST}")
    return abs(number) if isinstance(number, int) else 0


def search(fuel: Fuel, text: int, sought: int, *, backwards: bool = False) -> None:
    """A text is searched; lengths in characters. Python's search from the end takes their product at worst."""
    fuel.use(1 + text * min(sought, text if backwards else 128) // CHARACTERS_A_SCAN + text // CHARACTERS_A_SCAN)


def binop(fuel: Fuel, operator: str, left: Any, right: Any) -> None:
    """An operator on two values."""
    if isinstance(left, str) and isinstance(right, str) and operator == "+":
        fuel.text(len(left) + len(right))
    elif isinstance(left, int | float) and isinstance(right, int | float):
        fuel.use(1)
        _numbers(operator, left, right)
    elif operator == "%" and isinstance(left, str):
        printf(fuel, left, right)
    elif operator == "*":
        _repeat(fuel, *((right, left) if isinstance(left, int) else (left, right)))
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple):
        fuel.use(1 + (len(left) + len(right)) // 8)
    else:  # such as the keys of a mapping without others
        fuel.deep((left, right))


def _numbers(operator: str, left: float, right: float) -> None:
    if isinstance(left, int) and isinstance(right, int):
        bits, more = left.bit_length(), right.bit_length()
        made = bits * abs(right) if operator == "**" else bits + more
        if made > MOST_BITS and bits > 1:
            raise ChatTemplateError(f"the chat template computes with numbers of more than {MOST_BITS} bits")


def _repeat(fuel: Fuel, value: Any, times: Any) -> None:
    fuel.use(1)
    if isinstance(times, int) and isinstance(value, str | list | tuple):
        made = len(value) * max(0, times)
        fuel.text(made) if isinstance(value, str) else fuel.use(made // 4)


def printf(fuel: Fuel, form: str, values: object) -> None:
    """`form % values`."""
    fuel.use(1 + A_FIELD * form.count("%"))
    fuel.text(len(form) + sum(_printf_widths(form)))
    fuel.deep(values, form.count("%(") + 1)  # values by name can be used more than once


def _printf_widths(form: str) -> Generator[int, None, None]:
    """The widths and precisions in a form, in one pass."""
    at = form.find("%") + 1
    while at:
        if form.startswith("(", at):
            at = _end_of_name(form, at)
        field = _FIELD.match(form, at)
        for number in field.groups() if field else ():
            if number == "*" or len(number or "") > len(str(WIDEST)):
                raise ChatTemplateError("the chat template formats with a width that is too large or not written out")
            yield small(int(number or 0), "a width of")
        at = field.end() if field else at
        # What a field ends with may be a percent sign too.
        at = form.find("%", at + 1 if form.startswith("%", at) else at) + 1


def _end_of_name(form: str, at: int) -> int:
    """The place after a name in brackets, which may hold others."""
    depth = 0
    for found in _BRACKET.finditer(form, at):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return found.end()
    raise ChatTemplateError("the chat template formats with a name that does not end")


def form_field(fuel: Fuel, value: object, spec: str) -> None:
    """One field of `str.format`."""
    if _WIDE.search(spec):
        raise ChatTemplateError("the chat template formats with a width that is too large")
    fuel.text(sum(map(int, _NUMBER.findall(spec))))
    fuel.deep(value)


def compare(fuel: Fuel, left: Any, right: Any) -> None:
    """Whether two values are equal, or which is less."""
    if isinstance(left, ATOMS) or isinstance(right, ATOMS):
        texts = isinstance(left, str) and isinstance(right, str)
        fuel.use(1 + (min(len(left), len(right)) // CHARACTERS_A_SCAN if texts else 0))
    else:
        fuel.deep(left)
        fuel.deep(right)


def contains(fuel: Fuel, sought: Any, where: Any) -> None:
    """Whether a value is in another."""
    if isinstance(where, str):
        search(fuel, len(where), len(sought) if isinstance(sought, str) else 1)
        return
    before = fuel.left
    fuel.deep(sought)
    if not isinstance(where, Mapping):
        try:
            fuel.use((before - fuel.left) * len(where) // 8)
        except TypeError:
            fuel.deep(where)


def method(fuel: Fuel, owner: Any, name: str, arguments: tuple[Any, ...]) -> None:
    """A method of a plain value."""
    fuel.use(1)
    if isinstance(owner, str):
        _text_method(fuel, owner, name, arguments)
    elif name in ("count", "index"):
        contains(fuel, arguments[0] if arguments else None, owner)
    elif name == "get" and arguments and isinstance(arguments[0], tuple):
        fuel.deep(arguments[0])
    elif name == "copy":
        fuel.use(len(owner) // 4)


def _text_method(fuel: Fuel, text: str, name: str, arguments: tuple[Any, ...]) -> None:
    sought = arguments[0] if arguments else None
    length = len(sought) if isinstance(sought, str) else 0
    if name in ("rfind", "rindex", "rsplit", "rpartition"):
        search(fuel, len(text), length, backwards=True)
    elif name in ("find", "index", "count", "split", "partition"):
        search(fuel, len(text), length)
    if name in ("split", "rsplit") and length:
        fuel.use(text.count(str(sought)) // 2)
    elif name in ("split", "rsplit", "splitlines"):
        fuel.use(1 + len(text) // 8)
    elif name in ("strip", "lstrip", "rstrip"):
        fuel.use(1 + len(text) * (1 + length) // 256)
    elif name in ("center", "ljust", "rjust", "zfill"):
        fuel.text(len(text) + small(sought, "a width of"))
    elif name == "replace" and len(arguments) > 1:
        replace(fuel, text, sought, arguments[1])
    elif name in ("startswith", "endswith"):
        fuel.deep(sought)
    elif name not in ("find", "index", "count", "rfind", "rindex", "join", "format"):
        fuel.text(len(text))


def replace(fuel: Fuel, text: str, old: object, new: object) -> None:
    """`text.replace(old, new)`."""
    if isinstance(old, str) and isinstance(new, str):
        search(fuel, len(text), len(old))
        fuel.text(len(text) + text.count(old) * max(0, len(new) - len(old)))


def join(fuel: Fuel, separator: str, values: list[Any]) -> None:
    """Texts joined; others are made texts first."""
    fuel.deep(values)
    fuel.text(sum(len(one) for one in values if isinstance(one, str)) + len(separator) * len(values))
