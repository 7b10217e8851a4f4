"""Hypothesis strategies for values of any type that structs here have, within the bounds that the types say."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_FLOATS = st.floats(allow_nan=False)
_INTS = st.integers(-(1 << 63), (1 << 63) - 1)


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a type: plain, a container, a union, or a struct."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return structs(kind)
    plain: dict[Any, st.SearchStrategy[Any]] = {
        bool: st.booleans(), int: _INTS, float: _FLOATS, str: _TEXTS, bytes: st.binary(max_size=40),
        NoneType: st.none(), Any: st.none() | _TEXTS | _INTS, msgspec.UnsetType: st.just(msgspec.UNSET),
        memoryview: st.binary(max_size=40).map(memoryview),
    }  # fmt: skip
    if kind in plain:
        return plain[kind]
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return bounded(inside[0], _together(inside[1:]))
    if origin is Literal:
        return st.sampled_from(inside)
    if origin in (Union, UnionType):
        return st.one_of(*map(values, inside))
    if origin is tuple and inside[1:] != (...,):
        return st.tuples(*map(values, inside))
    if origin in (list, tuple):
        return st.lists(values(inside[0]), max_size=3).map(origin)
    assert origin is dict, kind
    return st.dictionaries(values(inside[0]), values(inside[1]), max_size=3)


def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Structs of a class: each field is given, or left at its default where it has one."""
    types = get_type_hints(kind, include_extras=True)

    def fields(required: bool) -> dict[str, st.SearchStrategy[Any]]:
        named = [field.name for field in msgspec.structs.fields(kind) if field.required is required]
        return {name: _later(types[name]) for name in named}

    return st.fixed_dictionaries(fields(True), optional=fields(False)).map(lambda given: kind(**given))


def bounded(kind: Any, meta: msgspec.Meta) -> st.SearchStrategy[Any]:
    """Values of a type that lie within what is said of it."""
    if get_origin(kind) in (Union, UnionType):
        return st.one_of(*(bounded(one, meta) for one in get_args(kind)))
    if kind is int:
        lows = [None if meta.ge is None else int(meta.ge), None if meta.gt is None else int(meta.gt) + 1]
        highs = [None if meta.le is None else int(meta.le), None if meta.lt is None else int(meta.lt) - 1]
        least = max((low for low in lows if low is not None), default=-(1 << 63))
        return st.integers(least, min((high for high in highs if high is not None), default=(1 << 63) - 1))
    if kind is float:
        low = meta.gt if meta.ge is None else meta.ge
        high = meta.lt if meta.le is None else meta.le
        return st.floats(
            low, high, allow_nan=False, exclude_min=meta.gt is not None, exclude_max=meta.lt is not None
        )  # fmt: skip
    return values(kind).filter(lambda value: (meta.min_length or 0) <= len(value) <= (meta.max_length or 1 << 30))


def _later(kind: Any) -> st.SearchStrategy[Any]:
    """As `values`, worked out when it is needed: kinds may hold themselves."""
    return st.deferred(lambda: values(kind))


def _together(metas: tuple[msgspec.Meta, ...]) -> msgspec.Meta:
    """All that is said of a type, of which the last word counts, as msgspec reads it."""
    names = ("ge", "gt", "le", "lt", "min_length", "max_length")
    said = {name: value for meta in metas for name in names if (value := getattr(meta, name)) is not None}
    return msgspec.Meta(**said)
