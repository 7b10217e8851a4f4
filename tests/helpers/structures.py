"""Structures as the engine takes them: grammars in llguidance's own form, without the door that makes them."""

from __future__ import annotations

from typing import Any

from llguidance import LLMatcher


def lark(text: str) -> str:
    """A grammar in Lark."""
    return LLMatcher.grammar_from_lark(text)


def regex(text: str) -> str:
    """What matches as a whole."""
    return LLMatcher.grammar_from_regex(text)


def schema(of: dict[str, Any]) -> str:
    """JSON of a schema, without spaces between its parts."""
    return LLMatcher.grammar_from_json_schema(of, overrides={"whitespace_flexible": False})


ENDLESS = lark("start: /[a-z ]+/ start")  # replies of random weights end anywhere without it
