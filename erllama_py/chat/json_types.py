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

from erllama_py.chat.schema import FORMATS, check_size, schemas_in
from erllama_py.errors import InvalidSchema
from erllama_py.errors.shown import shown

_TIMES = (msgspec.inspect.DateTimeType, msgspec.inspect.TimeType)
_BASE64 = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_DECIMAL = "^-?[0-9]+(\\.[0-9]+)?$"


def schema_of(kind: Any) -> dict[str, Any]:
    """The JSON schema of a type. Raises `InvalidSchema` for one that has none."""
    try:
        adapter = _pydantic(kind)
        schema: dict[str, Any] = _schema_by_msgspec(kind) if adapter is None else adapter.json_schema()
    except Exception as error:  # the type's own code may run
        # msgspec first says how its own calls could be told more.
        reason = str(error).rpartition("\n\n")[2] if type(error) is TypeError else error
        known = isinstance(kind, type) or callable(kind) or typing.get_origin(kind) is not None
        value = "" if known else f"a {type(kind).__name__} is a value and no type; "
        raise InvalidSchema(f"{value}{shown(kind)} has no JSON schema: {str(reason).partition(chr(10))[0]}") from error
    check_size(schema)
    for one in schemas_in(schema):
        _make_held(one)
    return schema


def _make_held(schema: dict[str, Any]) -> None:
    """Say what grammars hold instead of what they do not: the type itself checks the rest when it reads a value."""
    schema.pop("uniqueItems", None)  # a set takes equal items once
    if schema.pop("contentEncoding", None) == "base64":
        schema.setdefault("pattern", _BASE64)
    if (format_ := schema.get("format")) is not None and format_ not in FORMATS:
        del schema["format"]
        if format_ == "decimal":
            schema.setdefault("pattern", _DECIMAL)


def _schema_by_msgspec(kind: Any) -> dict[str, Any]:
    """msgspec's schema, with a format for times that need no zone: it gives them none, and takes no other text."""
    schema = msgspec.json.schema(kind)
    _add_formats(msgspec.inspect.type_info(kind), schema, schema.get("$defs", {}), set())
    return schema


def _add_formats(info: Any, schema: dict[str, Any], defs: dict[str, Any], done: set[type]) -> None:
    below = _below(info, schema)
    if isinstance(info, _TIMES):
        schema["format"] = "date-time" if isinstance(info, msgspec.inspect.DateTimeType) else "time"
    elif hasattr(info, "fields"):
        if info.cls in done:
            return
        done.add(info.cls)
        below = _fields(info, defs[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema)
    for one, its_schema in below:
        _add_formats(one, its_schema, defs, done)


def _fields(info: Any, schema: dict[str, Any]) -> list[tuple[Any, Any]]:
    """The fields of a type with named ones, and the schema of each; a tag is no field."""
    if "properties" in schema:
        return [(field.type, schema["properties"][field.encode_name]) for field in info.fields]
    schema["items"] = False  # msgspec lets newer writers add some at the end
    items = schema.get("prefixItems", [])
    return list(zip([field.type for field in info.fields], items[len(items) - len(info.fields) :], strict=True))


def _below(info: Any, schema: dict[str, Any]) -> list[tuple[Any, Any]]:
    """What a container holds, and the schema of each. Of a union at most one is a text, and one an array."""
    if isinstance(info, msgspec.inspect.UnionType):
        cases = {_case(one): one for one in schema.get("anyOf", ())}
        return [(one, cases[case]) for one in info.types if (case := _case_of(one)) in cases]
    if hasattr(info, "item_types"):
        return list(zip(info.item_types, schema.get("prefixItems", ()), strict=True))
    if hasattr(info, "item_type"):
        return [(info.item_type, schema["items"])] if isinstance(schema.get("items"), dict) else []
    if hasattr(info, "value_type"):
        values = schema.get("additionalProperties")
        return [(info.value_type, values)] if isinstance(values, dict) else []
    return []


def _case(schema: dict[str, Any]) -> str:
    return str(schema.get("$ref", schema.get("type")))


def _case_of(info: Any) -> str:
    if hasattr(info, "fields"):
        return f"#/$defs/{info.cls.__name__}"
    if isinstance(info, _TIMES):
        return "string"
    return "array" if hasattr(info, "item_type") or hasattr(info, "item_types") else "object"


def reader(kind: Any) -> Callable[[str], object]:
    """A function from a reply to its value: plain Python values for a schema, else of the type. It raises what the
    type's own checks raise."""
    if isinstance(kind, dict):
        return json.loads
    adapter = _pydantic(kind)
    read: Callable[[str], object] = msgspec.json.Decoder(kind).decode if adapter is None else adapter.validate_json
    return read


def converter(kind: Any) -> Callable[[object], object]:
    """A function from plain Python values, as JSON has them, to one of the type. It raises what the type's own checks
    raise."""
    adapter = _pydantic(kind)
    if adapter is None:
        return lambda value: msgspec.convert(value, kind, str_keys=True)
    # From JSON, since strict models take a date, an enum or a tuple from nothing else.
    return lambda value: adapter.validate_json(json.dumps(value))


def _pydantic(kind: Any) -> Any:
    """Pydantic's adapter of a type that is one of its own or is annotated with its fields, or of a container or union
    of such; `None` for all others."""
    return sys.modules["pydantic"].TypeAdapter(kind) if _is_pydantic(kind) else None


def _is_pydantic(kind: Any) -> bool:
    if hasattr(kind, "__pydantic_validator__") or type(kind).__module__.partition(".")[0] == "pydantic":
        return True
    return any(map(_is_pydantic, typing.get_args(kind)))
