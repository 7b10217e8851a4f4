"""The parameters of a tool one by one, for formats that do not write the arguments as one JSON object. Pure."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from erllama_py.chat.schema import listed, with_references
from erllama_py.chat.tool_formats.base import Offered
from erllama_py.errors import InvalidSchema

DEFINITIONS, _WHOLE = ("$defs", "definitions"), "_whole"
_COMBINING = ("$ref", "anyOf", "oneOf", "allOf", "patternProperties", "minProperties", "maxProperties")


class Parameters(NamedTuple):
    """What a tool's schema says of its arguments."""

    named: dict[str, dict[str, Any]]
    """The schema of each that has a name, in their order; see `argument_schema`."""
    required: list[Any]
    any_names: bool
    """Whether there are arguments of any name: none has one of its own."""
    others: dict[str, Any] | None
    """The schema of those; `None`: nothing is said of them."""


def parameters_of(tool: Offered, how: str) -> Parameters:
    """The parameters of a tool whose arguments are written `how`. Raises `InvalidSchema` where its schema does not tell
    them one by one."""
    for keyword in _COMBINING:
        if keyword in tool.parameters:
            raise InvalidSchema(f"this model writes arguments {how}, one by one: no {keyword} at the top", keyword)
    schema = _referring_to_definitions(json.loads(tool.schema))
    named = {name: argument_schema(schema, name) or {} for name in schema.get("properties", {})}
    any_names = not named and schema.get("additionalProperties", True) is not False
    return Parameters(named, listed(schema, "required"), any_names, argument_schema(schema, "") if any_names else None)


def argument_schema(schema: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The schema of one argument, as one of its own; None where it has none."""
    properties = schema.get("properties")
    found = properties.get(name) if isinstance(properties, dict) else None
    if found is None:
        found = schema.get("additionalProperties")
    if not isinstance(found, dict):
        return None
    return {**found, **{key: schema[key] for key in DEFINITIONS if key in schema}}


def _referring_to_definitions(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with all its references leading to definitions, so that those of one argument can stand alone."""

    def to_definition(reference: str) -> str:
        if reference.startswith(("#/$defs/", "#/definitions/")):
            return reference
        return f"#/$defs/{_WHOLE}{reference.removeprefix('#')}"

    changed: dict[str, Any] = with_references(schema, to_definition)
    if changed != schema:
        root = {key: value for key, value in changed.items() if key not in (*DEFINITIONS, "x-guidance")}
        changed["$defs"] = {**changed.get("$defs", {}), _WHOLE: root}
    return changed
