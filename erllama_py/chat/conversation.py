"""Messages and tools as templates expect them: checked, and copied into plain values. Pure.

As with the Transformers library, fields that are None are as good as not there, and what a model thought is found under
each of the names that templates use. Beyond it, arguments of calls that are given as JSON text are parsed, since
templates write them as JSON themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, TypeGuard

from erllama_py.errors import ChatTemplateError

DEEPEST = 90  # values in each other in what is given; templates wrap them in some more
DEEPEST_READ = 100
# Of JSON that is read by one call, which keeps other threads waiting: 10 ms.
MOST_JSON = 1 << 20  # characters
MOST_SIGNS = 100_000  # of those that begin values
MOST_BITS = 8192  # of a whole number: Python refuses to write one of more than 4,300 digits
THOUGHTS = ("reasoning_content", "thinking", "reasoning")  # names of a message's thinking, the usual one first

Message = dict[str, Any]


# What a message may hold elsewhere and no template here is given: it would be dropped without a word.
_MEDIA_FIELDS = ("images", "audio", "videos", "files")
_IS_MEDIA = re.compile("image|audio|video|file|document")
_NO_TEXT = ": images, audio and files are not read, only text"


def check_messages(messages: object) -> list[Message]:
    """The messages as plain dicts without the fields that are None; content is a text, a list of text parts, or not
    there beside calls or thinking. Raises `ChatTemplateError`, which names the message by its number."""
    if not is_list(messages):
        expected = 'messages are a list of mappings, such as [{"role": "user", "content": "…"}]'
        raise ChatTemplateError(f"{expected}, not {type(messages).__name__}")
    if not messages:
        raise ChatTemplateError("there are no messages")
    return [_check_message(message, f"message {number}") for number, message in enumerate(messages, 1)]


def check_tools(tools: object) -> list[Message] | None:
    """The tools as plain dicts; an empty list counts as none, since templates ask `tools is not none` too."""
    if tools is None:
        return None
    if not is_list(tools) or not all(isinstance(tool, Mapping) for tool in tools):
        raise ChatTemplateError("tools are a list of mappings")
    return [_described(tool) for tool in tools] or None


def _check_message(message: object, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise ChatTemplateError(f"{where} is a {type(message).__name__}, not a mapping{_as_mapping(message)}")
    if not all(isinstance(name, str) for name in message):
        raise ChatTemplateError(f"{where} has a field whose name is no str")
    checked = _without_none(message)
    if media := [name for name in _MEDIA_FIELDS if checked.get(name)]:
        raise ChatTemplateError(f"{where} has {media[0]!r}{_NO_TEXT}")
    role, calls = checked.get("role"), checked.get("tool_calls")
    if not isinstance(role, str) or not role:
        raise ChatTemplateError(f"{where} has no role; a str such as 'user' expected")
    if calls is not None:
        if not (is_list(calls) and all(isinstance(call, Mapping) for call in calls)):
            raise ChatTemplateError(f"{where}: tool_calls are a list of mappings")
        checked["tool_calls"] = [_described(call) for call in calls]
    thought = next((checked[name] for name in THOUGHTS if name in checked), None)
    if thought is not None and not isinstance(thought, str):
        raise ChatTemplateError(f"{where}: its thinking is a str, not {type(thought).__name__}")
    _check_content(checked.get("content"), bool(calls) or thought is not None, where)
    return checked


def _as_mapping(message: object) -> str:
    """How what was given for a message is made one."""
    if hasattr(message, "message"):
        return "; append its `message`"
    if callable(getattr(type(message), "model_dump", None)):
        return "; give its model_dump(exclude_none=True)"
    if is_dataclass(message):
        return "; dataclasses.asdict makes one of it"
    return '; such as {"role": "user", "content": "…"}' if isinstance(message, str | tuple) else ""


def _check_content(content: object, optional: bool, where: str) -> None:
    if isinstance(content, str) or (content is None and optional):
        return
    if not is_list(content):
        raise ChatTemplateError(f"{where}: content is a str or a list of text parts, not {type(content).__name__}")
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            other = f", not one of the type {kind[:80]!r}" if isinstance(kind, str) and kind != "text" else ""
            other += _NO_TEXT if isinstance(kind, str) and _IS_MEDIA.search(kind) else ""
            raise ChatTemplateError(f"{where}: a part of content is {{'type': 'text', 'text': str}}{other}")


def _without_none(value: Mapping[str, Any]) -> Message:
    return {name: one for name, one in value.items() if one is not None}


def _described(value: Mapping[str, Any]) -> Message:
    """A tool or a call: what is None in it or in its function is not there. Arguments and parameters are values, in
    which None is one too."""
    described = _without_none(value)
    if isinstance(function := described.get("function"), Mapping):
        described["function"] = _without_none(function)
    return described


def with_thoughts(message: Message) -> Message:
    """The message with what was thought under the names that templates ask for."""
    thought = next((message[name] for name in THOUGHTS if message.get(name) is not None), None)
    if thought is None:
        return message
    told = {**message, "reasoning_content": thought}
    # gpt-oss's template refuses `thinking` beside content in a message that calls tools, as models may well write it.
    return told if message.get("content") and message.get("tool_calls") else {"thinking": thought, **told}


def with_parsed_arguments(message: Message) -> Message:
    """The message with the arguments of its calls as mappings, also where they were JSON text. Text that is no JSON
    object stays as it is."""
    calls = message.get("tool_calls")
    return {**message, "tool_calls": [_parsed_call(call) for call in calls]} if calls else message


def _parsed_call(call: Mapping[str, Any]) -> Mapping[str, Any]:
    function = call.get("function")
    if isinstance(function, Mapping):
        return {**call, "function": _parsed_call(function)}
    arguments = call.get("arguments")
    if not isinstance(arguments, str):
        return call
    parsed = parsed_object(arguments)
    return call if parsed is None else {**call, "arguments": parsed}


def parsed_object(text: str) -> dict[str, Any] | None:
    """The mapping that a JSON text is; None for any other text, and for one that takes too long to read."""
    if len(text) > MOST_JSON or sum(map(text.count, "[{,")) > MOST_SIGNS:
        return None
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def text_of_content(content: object) -> str:
    """A content as one text: its parts joined by line feeds, as llama.cpp's server does for templates that take only
    text."""
    if is_list(content):
        return "\n".join(part["text"] for part in content)
    return content if isinstance(content, str) else ""


class Copy:
    """Copies values into plain ones, counts them, and has each text of them marked.

    `known` is what it costs a template to read each container whole, by the id of the copy (`Fuel.deep`): one for each
    value in it, and one for so many `characters`.
    """

    def __init__(self, mark: Callable[[str], str], characters: int) -> None:
        self.values = self.characters = 0
        self.known: dict[int, int] = {}
        self._cost = 0
        self._mark, self._characters = mark, characters

    def of(self, value: object, where: str, depth: int = 0) -> Any:
        """A copy that shares nothing with the value. `where` names it in the `ChatTemplateError` for what cannot be
        shown to a template."""
        self.values += 1
        self._cost += 1
        if isinstance(value, str):
            self.characters += len(value)
            self._cost += len(value) // self._characters
            return self._mark(str(value))
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            if isinstance(value, int) and value.bit_length() > MOST_BITS:
                raise ChatTemplateError(f"{where} holds a number of {value.bit_length()} bits, which has no text")
            return int(value) if isinstance(value, int) else float(value)
        if depth >= DEEPEST:
            raise ChatTemplateError(f"{where} nests values more than {DEEPEST} deep")
        before = self._cost
        copy: dict[Any, Any] | list[Any] | None = None
        if isinstance(value, Mapping):
            copy = {self._key(key, where): self.of(one, where, depth + 1) for key, one in value.items()}
        elif isinstance(value, list | tuple):
            copy = [self.of(one, where, depth + 1) for one in value]
        if copy is not None:
            self.known[id(copy)] = self._cost - before + 1
            return copy
        raise ChatTemplateError(f"{where} holds a {type(value).__name__}, which a template cannot be shown")

    def _key(self, key: object, where: str) -> Any:
        if key is not None and not isinstance(key, str | int | float):
            raise ChatTemplateError(f"{where} holds a {type(key).__name__} as a key")
        return self.of(key, where)


def is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether it is a list of things, and no text."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def texts_in(value: object, depth: int = 0) -> Iterator[str]:
    """All texts in a value; what is deeper than any template could show is refused later."""
    if isinstance(value, str):
        yield value
    elif depth < DEEPEST_READ and isinstance(value, Mapping):
        for key, one in value.items():
            yield from texts_in(key, depth + 1)
            yield from texts_in(one, depth + 1)
    elif depth < DEEPEST_READ and is_list(value):
        for one in value:
            yield from texts_in(one, depth + 1)
