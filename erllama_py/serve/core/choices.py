"""The words that a place in a body may have, by the type of the whole: what an error lists beside the one that is
none. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from msgspec import inspect

_STEP = re.compile(r"\w+|\[(?:\d+|\.\.\.)\]")  # of msgspec's path: a name, or a place in a list or a mapping


def choices(kind: Any, path: str) -> list[str]:
    """The literal values at a path, as `messages[0].role`; none where there are no such."""
    found = [inspect.type_info(kind)]
    for step in _STEP.findall(path):
        found = [below for one in found for below in _below(one, step)]
    words = [str(value) for one in found for type_ in _members(one) for value in _values(type_)]
    return list(dict.fromkeys(words))


def _members(one: inspect.Type) -> Iterator[inspect.Type]:
    """What it may be."""
    match one:
        case inspect.UnionType(types=types):
            for type_ in types:
                yield from _members(type_)
        case inspect.Metadata(type=type_):
            yield from _members(type_)
        case _:
            yield one


def _below(one: inspect.Type, step: str) -> Iterator[inspect.Type]:
    """What stands there in it."""
    for type_ in _members(one):
        match type_:
            case inspect.StructType(fields=fields):
                yield from (field.type for field in fields if field.encode_name == step)
            case inspect.ListType(item_type=item) | inspect.VarTupleType(item_type=item) if step.startswith("["):
                yield item
            case inspect.DictType(value_type=item) if step.startswith("["):
                yield item


def _values(one: inspect.Type) -> tuple[Any, ...]:
    return one.values if isinstance(one, inspect.LiteralType) else ()
