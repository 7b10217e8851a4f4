"""A conversation in Ollama's form, as this library takes it.

Ollama's calls need no ids, and a result names its tool instead. Templates of some models want ids, so calls without one
get one by their place: the same conversation has the same ids each time that it is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erllama_py.serve.core.images import image_text
from erllama_py.serve.core.settings import ServerOpts
from erllama_py.serve.ollama.protocol import Call, Message


def conversation(messages: Sequence[Message], settings: ServerOpts) -> list[dict[str, Any]]:
    """The messages in OpenAI's form. Raises `Problem` for images, unless they are told of in words."""
    found, unanswered, calls = list[dict[str, Any]](), list[Call](), 0
    for index, message in enumerate(messages):
        role = message.role.lower()
        content = with_images(message.content or "", message.images, settings, f"messages[{index}].images")
        one: dict[str, Any] = {"role": role, "content": content}
        if message.thinking:
            one["thinking"] = message.thinking
        if message.tool_calls:
            unanswered = [_with_id(call, calls + place) for place, call in enumerate(message.tool_calls)]
            calls += len(unanswered)
            one["tool_calls"] = [_call(call) for call in unanswered]
        if role == "tool":
            answered = _answered(message, unanswered)
            unanswered = [call for call in unanswered if call is not answered]
            one |= _about(message, answered)
        found.append(one)
    return found


def with_images(text: str, images: Sequence[Any] | None, settings: ServerOpts, param: str) -> str:
    """A text and the words for what was to be seen beside it. Raises `Problem` where images are refused."""
    notes = [image_text(settings, f"{param}[{index}]") for index in range(len(images or ()))]
    return "\n".join([*notes, text]) if notes else text


def _with_id(call: Call, number: int) -> Call:
    # Nine letters and digits: what Mistral's templates insist on.
    return call if call.id else Call(call.function, f"call{number % 100_000:05}")


def _call(call: Call) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _answered(message: Message, calls: Sequence[Call]) -> Call | None:
    """The call that a result is of: the one that it names, else the next one of its tool, else the next one."""
    if message.tool_call_id:
        return next((call for call in calls if call.id == message.tool_call_id), None)
    if message.tool_name:
        return next((call for call in calls if call.function.name == message.tool_name), None)
    return next(iter(calls), None)


def _about(message: Message, answered: Call | None) -> dict[str, Any]:
    name = message.tool_name or (answered and answered.function.name)
    call_id = message.tool_call_id or (answered and answered.id)
    return {key: value for key, value in (("name", name), ("tool_call_id", call_id)) if value}
