"""How options are checked: types and names by msgspec, ranges by rules, typos answered with the nearest name."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from erllama_py.errors import InvalidOption

S = TypeVar("S", bound=msgspec.Struct)
Rule = Callable[[msgspec.Struct, str], None]

_UNKNOWN = re.compile(r"unknown field `(?P<name>.*?)`")
_PATH = re.compile(r" - at `\$\.?(?P<path>.*?)`$")


def convert(options: object, kind: type[S]) -> S:
    """`options`, a mapping or a struct of this kind, as a checked struct. Raises `InvalidOption`."""
    if isinstance(options, kind):
        options = msgspec.to_builtins(options)
    if not isinstance(options, Mapping):
        raise InvalidOption("config", f"expected a mapping or `{kind.__name__}`, got `{type(options).__name__}`")
    plain = {key: _plain(value) for key, value in options.items()}
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        text = str(error)
        found = _PATH.search(text)
        path = found["path"] if found else ""
        problem = _PATH.sub("", text)
        if unknown := _UNKNOWN.search(problem):
            name = unknown["name"]
            option = f"{path}.{name}" if path else name
            raise InvalidOption(option, "there is no such option", nearest_name(name, path, kind)) from None
        if path in ("", "key"):
            raise InvalidOption("config", "the names of options are str") from None
        raise InvalidOption(path, problem[:1].lower() + problem[1:]) from None


def _plain(value: object) -> object:
    """Nested structs, as a caller may mix them with mappings, become mappings again."""
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    return dict(value) if isinstance(value, Mapping) else value


def nearest_name(name: str, path: str, kind: type[msgspec.Struct]) -> str | None:
    """The dotted name closest to `name`: in its own section, else the same or a close name in any other."""
    names = {dotted: dotted.rpartition(".")[2] for dotted in option_names(kind)}
    here = [dotted for dotted in names if dotted.rpartition(".")[0] == path]
    for group in (here, list(names)):
        by_leaf = {names[dotted]: dotted for dotted in reversed(group)}
        if close := difflib.get_close_matches(name, by_leaf, n=1, cutoff=0.7):
            return by_leaf[close[0]]
    return None


def option_names(kind: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    """All dotted option names of a struct and of the structs in it."""
    for field in msgspec.structs.fields(kind):
        yield prefix + field.encode_name
        default = field.default
        if isinstance(default, msgspec.Struct):
            yield from option_names(type(default), f"{prefix}{field.encode_name}.")


def at_least(low: float, high: float | None, *names: str) -> Rule:
    """Values from `low` to `high`, both allowed; `None` values and `None` bounds are not checked."""

    def check(options: msgspec.Struct, prefix: str) -> None:
        for name in names:
            value = getattr(options, name)
            if value is None:
                continue
            if not math.isfinite(value) or value < low or (high is not None and value > high):
                wanted = f"at least {low}" if high is None else f"from {low} to {high}"
                raise InvalidOption(prefix + name, f"{wanted} expected, got {value}")

    return check


def one_of_range(name: str, *, above: float | None, up_to: float | None) -> Rule:
    """A probability-like value: more than `above` (or 0 and more), not more than `up_to`."""

    def check(options: msgspec.Struct, prefix: str) -> None:
        value = getattr(options, name)
        low = value >= 0.0 if above is None else value > above
        if not math.isfinite(value) or not low or (up_to is not None and value > up_to):
            wanted = "0.0 or more" if above is None else f"more than {above}"
            limit = "" if up_to is None else f", and at most {up_to},"
            raise InvalidOption(prefix + name, f"{wanted}{limit} expected, got {value}")

    return check


def check_rules(options: msgspec.Struct, rules: tuple[Rule, ...], prefix: str) -> None:
    """Hold every rule against `options`. Raises `InvalidOption` for the first that is broken."""
    for field in msgspec.structs.fields(type(options)):
        value: Any = getattr(options, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidOption(prefix + field.name, f"a finite number expected, got {value}")
    for rule in rules:
        rule(options, prefix)


def hex_digest(name: str, value: object) -> str | None:
    """32 bytes or 64 hex digits as lower-case hex digits. Raises `InvalidOption`."""
    if value is None:
        return None
    if isinstance(value, bytes) and len(value) == 32:
        return value.hex()
    if isinstance(value, str) and re.fullmatch(r"[0-9a-fA-F]{64}", value):
        return value.lower()
    raise InvalidOption(name, "32 bytes or 64 hex digits expected")
