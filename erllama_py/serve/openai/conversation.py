"""OpenAI's messages as the library takes them: roles and fields of its older forms made into those of today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from erllama_py.serve.core.images import image_text
from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.settings import ServerOpts

# Of a message; all else is taken and ignored, as `refusal`, `audio` and `annotations` of replies that come back.
KEPT = ("name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking")
TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
IMAGES = ("image_url", "input_image", "image")

Message = Mapping[str, Any]


def conversation(messages: list[dict[str, Any]], settings: ServerOpts) -> list[dict[str, Any]]:
    """The messages. Raises `Problem` with the path of what is wrong."""
    converted, called, names = list[dict[str, Any]](), "", dict[str, str]()
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        one = _message(message, where, settings)
        if isinstance(function := message.get("function_call"), Mapping) and "tool_calls" not in one:
            called = f"call_{number}"
            one["tool_calls"] = [{"id": called, "type": "function", "function": dict(function)}]
        if message["role"] == "function":
            one |= {"role": "tool", "tool_call_id": called}
        names |= _names(one.get("tool_calls"))
        if one["role"] == "tool" and (name := names.get(str(one.get("tool_call_id")))):
            one = {"name": name, **one}  # there are templates that show it
        converted.append(one)
    return converted


def _names(calls: object) -> dict[str, str]:
    """What is called, by the ids of the calls; what is wrong in them is refused elsewhere."""
    named = dict[str, str]()
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping) and isinstance(name := function.get("name"), str):
            named[str(call.get("id"))] = name
    return named


def _message(message: Message, where: str, settings: ServerOpts) -> dict[str, Any]:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise Problem("invalid", f"{where}.role: a str such as 'user' is expected", param=f"{where}.role")
    one = {name: message[name] for name in KEPT if message.get(name) is not None}
    for name in ("reasoning", "thinking"):  # of other APIs it may be an object
        if not isinstance(one.get(name, ""), str):
            del one[name]
    one["role"] = "system" if role == "developer" else role
    one["content"] = _content(message.get("content"), role, f"{where}.content", settings)
    return one


def _content(content: object, role: str, where: str, settings: ServerOpts) -> str | list[dict[str, Any]]:
    if isinstance(content, str):
        return content
    if content is None and role in ("assistant", "function"):
        return ""
    if not isinstance(content, list):
        raise Problem("invalid", f"{where}: a text or a list of parts is expected", param=where)
    return [_part(part, f"{where}[{number}]", settings) for number, part in enumerate(content)]


def _part(part: object, where: str, settings: ServerOpts) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        raise Problem("invalid", f"{where}: a part with a type is expected", param=where)
    if kind in IMAGES:
        return _text(image_text(settings, where))
    if kind not in TEXT_PARTS:
        message = f"{where}: no model here reads a part of the type {kind[:40]!r}; send text"
        raise Problem("invalid", message, param=where, code="unsupported_content")
    text = part.get(TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise Problem("invalid", f"{where}.text: a text is expected", param=f"{where}.text")
    return _text(text)


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def goes_on(messages: list[dict[str, Any]], asked: bool | None) -> bool:
    """Whether the reply continues the last message: where that is asked for, and where it is the assistant's own text,
    as llama-server has it, unless it is asked not to."""
    last = messages[-1] if messages else {}
    by_itself = last.get("role") == "assistant" and bool(last.get("content")) and not last.get("tool_calls")
    return by_itself if asked is None else asked
