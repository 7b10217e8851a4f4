"""Types as JSON: the schema of a type, and the value of that type in a reply.

msgspec knows builtin types and their containers, enums, `Literal`, dataclasses, `TypedDict`, `NamedTuple` and its own
structs. Pydantic's models are left to pydantic, which is there where an application has one.
"""

from __future__ import annotations

import json
import sys
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from erllama_py.errors import InvalidSchema


def schema_of(kind: Any) -> dict[str, Any]:
    """The JSON schema of a type. Raises `InvalidSchema` for one that has none."""
    try:
        adapter = _pydantic(kind)
        schema: dict[str, Any] = msgspec.json.schema(kind) if adapter is None else adapter.json_schema()
    except Exception as error:  # the type's own code may run
        # msgspec first says how its own calls could be told more.
        reason = str(error).rpartition("\n\n")[2] if type(error) is TypeError else error
        raise InvalidSchema(f"{kind!r} has no JSON schema: {reason}") from error
    return schema


def reader(kind: Any) -> Callable[[str], object]:
    """A function from a reply to its value: plain Python values for a schema, else of the type. It raises what the
    type's own checks raise."""
    if isinstance(kind, dict):
        return json.loads
    adapter = _pydantic(kind)
    read: Callable[[str], object] = msgspec.json.Decoder(kind).decode if adapter is None else adapter.validate_json
    return read


def _pydantic(kind: Any) -> Any:
    """Pydantic's adapter of a type that is one of its own, or a container or union of such; `None` for all others."""
    return sys.modules["pydantic"].TypeAdapter(kind) if _is_pydantic(kind) else None


def _is_pydantic(kind: Any) -> bool:
    return hasattr(kind, "__pydantic_validator__") or any(map(_is_pydantic, typing.get_args(kind)))
