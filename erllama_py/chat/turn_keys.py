"""What a reply is recognised by when it comes back in a conversation: keys over it and all that precedes it. Pure.

A client without state sends a reply back as text, and calls of tools as JSON of its own spacing; what the model
thought it may leave out. So a message is hashed as what it says (`canonical`), not as it is written, and each hash
covers the one before it: two conversations have the same key only if all that shaped the prompt, every message and the
reply are the same. A reply that calls tools has a second key, over the ids of its calls in place of what it says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from erllama_py.chat.conversation import MOST_BITS, is_list, parsed_object
from erllama_py.chat.finder import BLOCK

Message = Mapping[str, Any]

# Changed whenever the form of what is hashed changes, so that no old key can mean something new.
SHAPE = b"erllama turn shape v1\0"
MESSAGE = b"erllama turn message v2\0"
SAID = b"erllama turn said v1\0"
CALLED = b"erllama turn called v1\0"

# A client may keep these or drop them: what was thought is in the tokens of the reply.
THOUGHTS = frozenset({"reasoning_content", "reasoning", "thinking", "thinking_signature", "thinking_blocks"})
DEEPEST = 100  # values in each other; a template is shown no more
WHOLE = 1 << 53  # below it a whole number is the same as a float


class NotHashable(Exception):
    """A message or tool holds what no JSON has, or nests too deeply. The template refuses it too."""


def shape_hash(owner: bytes, shape: Mapping[str, object]) -> bytes:
    """The hash of a conversation without messages: whose it is, and what shapes its prompt beside them (tools, the
    template and what it is given). Fields that are None are as good as not there. Raises `NotHashable`."""
    return _chained(SHAPE, owner, {name: value for name, value in shape.items() if value is not None})


def message_hashes(shape: bytes, messages: Sequence[Message]) -> list[bytes]:
    """The hashes of a conversation up to each of its messages: that of none (`shape`) first. Raises `NotHashable`."""
    hashes = [shape]
    for message in messages:
        hashes.append(_chained(MESSAGE, hashes[-1], canonical(message)))
    return hashes


def reply_keys(before: bytes, message: Message) -> tuple[bytes, ...]:
    """What a reply is found by, after a conversation with the hash `before`: what it says, then the ids of its calls if
    each has one. Raises `NotHashable`."""
    said = sha256(SAID + _chained(MESSAGE, before, canonical(message))).digest()
    ids = [call.get("id") for call in message.get("tool_calls") or ()]
    if not ids or not all(isinstance(one, str) and one for one in ids):
        return (said,)
    return said, _chained(CALLED, before, sorted(ids))


def is_reply(message: Message) -> bool:
    """Whether a message may be what a model has said."""
    return message.get("role") == "assistant"


def canonical(message: Message) -> list[Any]:
    """What a message says. Of the assistant's neither its thoughts, nor white space around its text, nor the ids of its
    calls; arguments are values, however they were written."""
    fields = {name: value for name, value in message.items() if value is not None}
    role, content = fields.pop("role", None), fields.pop("content", "")
    if role != "assistant":
        return [role, _one_text(content), fields]
    content = _text(content)
    calls = [_call(call) for call in fields.pop("tool_calls", None) or ()]
    # What clients add without a value, such as an empty list of annotations, says nothing.
    others = {name: value for name, value in fields.items() if name not in THOUGHTS and value not in ("", [], {}, ())}
    return [role, content.strip() if isinstance(content, str) else content, calls, others]


def _one_text(content: object) -> object:
    """One part is its text. Several are not one text: there are templates that show each by itself."""
    return _text(content) if isinstance(content, list | tuple) and len(content) == 1 else content


def _text(content: object) -> object:
    """Texts in parts are joined as templates that take only text are given them."""
    if is_list(content):
        parts = [part.get("text") if isinstance(part, Mapping) and len(part) == 2 else None for part in content]
        if all(isinstance(part, str) for part in parts) and all(part.get("type") == "text" for part in content):
            return "\n".join(part for part in parts if part is not None)
    return content


def _call(call: object) -> list[Any]:
    if not isinstance(call, Mapping):
        raise NotHashable
    called = call.get("function", call)
    if not isinstance(called, Mapping):
        raise NotHashable
    return [called.get("name"), _arguments(called.get("arguments"))]


def _arguments(arguments: object) -> object:
    """As a value where they are the JSON text of an object; no arguments are none."""
    if isinstance(arguments, str) and arguments.strip():
        parsed = parsed_object(arguments)
        return arguments if parsed is None else parsed
    return arguments or {}


def _chained(tag: bytes, before: bytes, value: object) -> bytes:
    hashed, plain = sha256(tag + before), _plain(value, 0)
    for piece in (_written(plain),) if _length(plain, 0) <= BLOCK else _pieces(plain):
        hashed.update(piece.encode())
    return hashed.digest()


def _written(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _length(value: Any, length: int) -> int:
    """About how many characters it has as JSON after those before it, counted no further than needed."""
    if isinstance(value, str):
        return length + len(value)
    if isinstance(value, dict):
        length = _length(list(value), length)
        value = value.values()
    elif not isinstance(value, list):
        return length + 8
    for one in value:
        length = _length(one, length + 1)
        if length > BLOCK:
            break
    return length


def _pieces(value: Any) -> Iterator[str]:
    """What `_written` gives, in pieces: one call for tens of megabytes would keep other threads waiting."""
    if isinstance(value, str):
        yield '"'
        for start in range(0, len(value), BLOCK):
            yield _written(value[start : start + BLOCK])[1:-1]
        yield '"'
    elif isinstance(value, dict):
        for index, key in enumerate(sorted(value)):
            yield "," if index else "{"
            yield from _pieces(key)
            yield ":"
            yield from _pieces(value[key])
        yield "}" if value else "{}"
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield "," if index else "["
            yield from _pieces(one)
        yield "]" if value else "[]"
    else:
        yield _written(value)


def _plain(value: object, depth: int) -> Any:
    """A value as JSON has it, with one form for equal numbers."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int | float):
        is_whole = isinstance(value, float) and value.is_integer() and abs(value) < WHOLE
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise NotHashable
        return int(value) if is_whole or isinstance(value, int) else float(value)
    if depth < DEEPEST:
        if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
            return {name: _plain(one, depth + 1) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return [_plain(one, depth + 1) for one in value]
    raise NotHashable
