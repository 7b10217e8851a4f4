"""A conversation in Ollama's form, as this library takes it. Pure.

Ollama's calls need no ids, and a result names its tool instead. Templates of some models want ids, so calls without one
get one by their place: the same conversation has the same ids each time that it is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from erllama_py.serve.core.problems import Problem
from erllama_py.serve.ollama.protocol import Call, Message


def conversation(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages in OpenAI's form. Raises `Problem` for images."""
    found, unanswered, calls = list[dict[str, Any]](), list[Call](), 0
    for index, message in enumerate(messages):
        check_images(message.images, f"messages[{index}].images")
        role = message.role.lower()
        one: dict[str, Any] = {"role": role, "content": message.content or ""}
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


def check_images(images: Sequence[Any] | None, param: str) -> None:
    """Raises `Problem` where there are any."""
    if images:
        raise Problem("invalid", "images are not read here: the models of this server take text alone", param=param)


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
