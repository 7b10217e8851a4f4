"""Results as plain data: what they have in common, so that any encoder takes them.

Every field of a result is something that JSON knows; keys, hashes and bytes are hex. What is not ours can be in a few
of them: the value of a reply, what a tool returned, arrays. `plain` knows the common kinds of these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from erllama_py.options.attributes import ATTRIBUTES, no_attribute


def plain(value: object) -> Any:
    """A result, or anything in one, as dicts, lists, texts and numbers. Tuples are lists, events have their `type`,
    and infinity is None.

    It is what `json.dumps` takes as `default=` and msgspec as `enc_hook=`. Of what is not ours, models of pydantic are
    what they dump, arrays lists, exceptions their class and text, bytes base64, and what nobody knows its `str`.
    """
    return _as_json(msgspec.to_builtins(value, str_keys=True, enc_hook=_other))


def _as_json(value: Any) -> Any:
    """Tuples as lists, and numbers that JSON does not have as None."""
    if isinstance(value, dict):
        return {name: _as_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _other(value: object) -> Any:
    """What msgspec does not know."""
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="json")
    if callable(tolist := getattr(value, "tolist", None)):
        return tolist()
    return dict(value) if isinstance(value, Mapping) else str(value)


class Result(msgspec.Struct, frozen=True):
    """What all results are. `dict(result)` is plain data too, which is how FastAPI's encoder reads them; `keys` and
    `result["field"]` are there for that alone."""

    def keys(self) -> tuple[str, ...]:
        """The names of its fields; of an event its `type` too."""
        config = self.__struct_config__
        tag = () if config.tag_field is None else (config.tag_field,)
        return (*tag, *self.__struct_fields__)

    def __getitem__(self, name: Any) -> Any:
        config = self.__struct_config__
        if name == config.tag_field and name is not None:
            return config.tag
        if name not in self.__struct_fields__:
            raise KeyError(self._said(name))
        return plain(getattr(self, name))

    def _said(self, name: Any) -> Any:
        """An unknown name, for `KeyError`, with what is there instead where that is known."""
        if isinstance(name, str) and isinstance(getattr(type(self), name, None), property):
            return f"{name}: it is an attribute, .{name}"
        instead = ATTRIBUTES.get(self._called(), {}).get(name) if isinstance(name, str) else None
        return f"{name}: {instead}" if instead else name

    def _called(self) -> str:
        """The table of the names that others give to what it has."""
        return type(self).__name__ if self.__struct_config__.tag is None else "Event"

    if not TYPE_CHECKING:  # checkers know the fields

        def __getattr__(self, name):
            """Raises `AttributeError`, as encoders that look for a method expect, with what is there instead."""
            raise AttributeError(no_attribute(type(self).__name__, name, self._called()), name=name, obj=self)

    __iter__: ClassVar[Any] = None  # it is no sequence, though it has items

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> Any:
        """How pydantic takes a result as it is, and writes it: so FastAPI takes it as the type of a response."""
        from pydantic_core import core_schema

        write = core_schema.plain_serializer_function_ser_schema(plain, return_schema=core_schema.dict_schema())
        return core_schema.any_schema(serialization=write)
