"""An independent judge of JSON: the `jsonschema` package."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any

judge: Any = import_module("jsonschema")  # it brings no types

# The other formats it checks not at all, or not by their RFCs.
FORMATS = judge.FormatChecker(["ipv4", "uuid", "email"])


def problem(schema: dict[str, Any], text: str) -> str | None:
    """Why a text is no JSON of this schema; None where it is."""
    try:
        judge.Draft202012Validator(schema, format_checker=FORMATS).validate(json.loads(text))
    except (ValueError, judge.ValidationError) as error:
        return str(error)
    return None
