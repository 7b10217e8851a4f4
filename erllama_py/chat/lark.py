"""Grammars in Lark's form, held against limits before llguidance compiles them.

It follows chains of rules by recursion, and what a class of characters costs grows with the square of its length. What
is wrong in a grammar llguidance says itself.
"""

from __future__ import annotations

import json
import re

from erllama_py.chat.gbnf import check_chain
from erllama_py.chat.schema import check_schemas, check_size
from erllama_py.errors import InvalidGrammar

MAX_REGEX = 8_192  # bytes of one regular expression
MAX_COLONS = 1_000  # no grammar has more rules than colons, however it is read

_PIECES = re.compile(
    r'(?P<text>"(?:\\.|[^"\\\n])*")|(?P<comment>//[^\n]*)|(?P<regex>/(?:\\.|[^/\\])+/)|(?P<name>[A-Za-z_]\w*)|(?P<other>.)',
    re.DOTALL,
)
_SCHEMA, _JSON = re.compile(r"%json\s*"), json.JSONDecoder()
_RULE = re.compile(r"^[ \t]*[?!]?([A-Za-z_]\w*)[^\n:|\"/]*:(?!:)", re.MULTILINE)


def check_lark(text: str) -> None:
    """Raises `InvalidGrammar` for a text that is no Lark, or beyond a limit."""
    if text.count(":") > MAX_COLONS:
        raise InvalidGrammar(f"the grammar has more than {MAX_COLONS} colons")
    if re.search(r"^\s*[\w-]+\s*:=", text, re.MULTILINE):
        raise InvalidGrammar("a rule of GBNF is written with two colons: `root ::= …`")
    if _RULE.search(text) is None:
        raise InvalidGrammar("expecting a rule: `root ::= …` in GBNF, or `start: …` in Lark")
    if "%lark" in text:
        raise InvalidGrammar("a grammar in a grammar, `%lark`, is not taken")
    for found in _SCHEMA.finditer(text):
        _check_schema(text, found.end())
    for piece in _PIECES.finditer(text):
        if piece["regex"] and len(piece["regex"].encode()) > MAX_REGEX:
            raise InvalidGrammar(f"a regular expression has more than {MAX_REGEX} bytes")
    check_chain(_references(text))


def _check_schema(text: str, start: int) -> None:
    """The schema that begins here. Also in a comment or a text: nothing that llguidance could see is overlooked."""
    try:
        schema, _ = _JSON.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        raise InvalidGrammar(f"`%json` is followed by a schema, and this is none: {error}") from error
    check_size(schema)
    if isinstance(schema, dict):
        schema.pop("x-guidance", None)  # how the text is to look
        check_schemas(schema)


def _references(text: str) -> dict[str, set[str]]:
    """The names in each rule."""
    begins = [*_RULE.finditer(text)]
    ends = [one.start() for one in begins[1:]] + [len(text)]
    found: dict[str, set[str]] = {}
    for one, end in zip(begins, ends, strict=True):
        names = {piece["name"] for piece in _PIECES.finditer(text, one.end(), end) if piece["name"]}
        found.setdefault(one[1], set()).update(names)
    return found
