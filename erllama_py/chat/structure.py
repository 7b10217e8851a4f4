"""What a reply is to follow, as the one text that an engine takes: a grammar in llguidance's own serialised form.

Pure, and in time that grows with the size of what was given, up to the limits here. What the grammar then costs to
compile is for the engine's limits to bound.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from erllama_py.chat.gbnf import MAX_CHARACTERS, is_gbnf, to_lark
from erllama_py.chat.json_types import schema_of
from erllama_py.chat.lark import MAX_REGEX, check_lark
from erllama_py.chat.schema import schema_text
from erllama_py.errors import InvalidGrammar

# JSON as models write it most: one space after each comma and colon, and no other whitespace outside of texts. Free
# whitespace lets a small model write blank lines for ever.
JSON_STYLE: dict[str, object] = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

_SLASHED = {"/": "\\/", "\n": "\\n"}


def structure_text(
    *,
    json_schema: Any = None,
    regex: str | None = None,
    choice: Sequence[str] | None = None,
    grammar: str | None = None,
) -> str | None:
    """The grammar of the one that is given; `None` where none is. Raises `InvalidGrammar`."""
    if json_schema is not None:
        schema = json_schema if isinstance(json_schema, dict) else schema_of(json_schema)
        return f'{{"grammars": [{{"json_schema": {schema_text(schema, **JSON_STYLE)}}}]}}'
    if choice is not None:
        if sum(map(len, choice)) > MAX_REGEX:
            raise InvalidGrammar(f"the choices have more than {MAX_REGEX} characters together")
        for one in choice:
            _check_utf8(one)
        return _of_lark(f"start: /{'|'.join(sorted(map(_literal, set(choice))))}/")
    if regex is not None:
        return _of_lark(f"start: {_slashed(regex)}")
    return None if grammar is None else _of_lark(_as_lark(grammar))


def _check_utf8(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidGrammar(f"the text has no UTF-8 form: {error.reason}") from error


def _as_lark(grammar: str) -> str:
    if not grammar.strip():
        raise InvalidGrammar("the grammar is empty")
    if "\0" in grammar:
        raise InvalidGrammar("the grammar has a NUL character")
    if len(grammar) > MAX_CHARACTERS:
        raise InvalidGrammar(f"the grammar has more than {MAX_CHARACTERS} characters")
    _check_utf8(grammar)
    if is_gbnf(grammar):
        return to_lark(grammar)
    check_lark(grammar)
    return grammar


def _of_lark(text: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": text}]}, ensure_ascii=False)


def _literal(text: str) -> str:
    """A text as a regular expression that stands for itself."""
    return re.sub(r"[^a-zA-Z0-9 \u0080-\U0010ffff]", lambda found: f"\\x{{{ord(found[0]):x}}}", text)


def _slashed(regex: str) -> str:
    """A regular expression between the slashes that Lark puts around one. It is for the whole reply: an anchor at
    either end says nothing more."""
    _check_utf8(regex)
    if len(regex) > MAX_REGEX or len(regex.encode()) > MAX_REGEX:
        raise InvalidGrammar(f"the regular expression has more than {MAX_REGEX} bytes")
    pieces = re.findall(r"\\.|.", regex, re.DOTALL)
    if not pieces or pieces[-1] == "\\":
        raise InvalidGrammar("the regular expression is empty" if not pieces else "it ends in a lone backslash")
    pieces = pieces[pieces[0] == "^" :]
    pieces = pieces[:-1] if pieces[-1:] == ["$"] else pieces
    return f"/{''.join(_SLASHED.get(piece, piece) for piece in pieces) or '(?:)'}/"
