"""The arguments of a call as JSON text that only grows, while the values that it is made of are still being written.

Clients put the pieces of a stream together and read the whole as JSON. Models write arguments in several syntaxes, so
the text is made of the values that are known; what may still change is held back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_CLOSES = {"{": "}", "[": "]"}


def arguments_text(arguments: Mapping[str, Any]) -> str:
    """Arguments as JSON, as `Completion.message` has them; half a surrogate pair, which has no UTF-8 form, is a `?`."""
    text = json.dumps(arguments, ensure_ascii=False)
    return text if text.isascii() else text.encode(errors="replace").decode()


class GrowingArguments:
    """The text of one call's arguments. All pieces together are JSON, and read as the arguments of the complete call.

    They are also its text to the letter, unless the model has taken a value back, as by giving a name twice.
    """

    def __init__(self) -> None:
        self._sent = ""

    def grow(self, arguments: Mapping[str, Any]) -> str:
        """What is new in arguments that may still grow; empty where that is nothing."""
        text = _certain(arguments)
        if not text.startswith(self._sent):
            return ""
        piece = text[len(self._sent) :]
        self._sent = text
        return piece

    def end(self, arguments: Mapping[str, Any]) -> str:
        """The rest, once they are complete."""
        text, sent = arguments_text(arguments), self._sent
        if not text.startswith(sent):
            # JSON's readers take the last value of a name that comes twice: all of them follow once more.
            closed = _closed(sent)
            text = sent + closed + (", " if arguments and sent + closed != "{" else "") + text[1:]
        self._sent = text
        return text[len(sent) :]


def _certain(arguments: Mapping[str, Any]) -> str:
    """The JSON of arguments without what closes their last values, and without white space that may be the end of a
    text: some formats drop it there."""
    text, closing, last = arguments_text(arguments), 0, arguments
    value: Any = last
    while isinstance(value, dict | list):
        closing += 1
        if not value:
            break
        value = value[-1] if isinstance(value, list) else next(reversed(value.values()))
    text = text[: len(text) - closing]
    if not isinstance(value, str):
        return text
    text = text[:-1]  # its quote
    blank = len(value) - len(value.rstrip())
    return text[: len(text) - len(json.dumps(value[len(value) - blank :], ensure_ascii=False)) + 2] if blank else text


def _closed(text: str) -> str:
    """What closes a beginning of JSON up to its outermost object, which stays open."""
    open_, in_text, escaped = list[str](), False, False
    for character in text:
        if in_text:
            in_text = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            in_text = True
        elif character in _CLOSES:
            open_.append(_CLOSES[character])
        elif open_ and character == open_[-1]:
            open_.pop()
    return ('"' if in_text else "") + "".join(reversed(open_[1:]))
