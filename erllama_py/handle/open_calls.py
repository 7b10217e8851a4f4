"""The calls of a conversation that have no result yet, and where their results go. Pure.

Messages are the whole state of a run: an assistant's message with `tool_calls`, then a message of the role `tool` for
each result. The results of one message are kept in the order of its calls, whichever came first, since some templates
show them without ids.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import MutableSequence, Sequence
from typing import Any

import msgspec

from erllama_py.results import ToolCall

ERROR = "error"  # the name under which a model is told of what went wrong


class OpenCall(msgspec.Struct, frozen=True):
    """A call without a result; `number` is its place among the calls of its message."""

    number: int
    call: ToolCall


def open_calls(messages: Sequence[Any]) -> list[OpenCall]:
    """The calls of the last reply that have no result; none where something else was said since."""
    place, calls = _last_calls(messages)
    done = _done(messages, place, calls)
    return [OpenCall(number, call) for number, call in enumerate(calls) if not done[number]]


def stray_result(messages: Sequence[Any]) -> str | None:
    """The id of a result at the end that belongs to none of the last reply's calls; None where each has its call."""
    place, calls = _last_calls(messages)
    ids = {call.id for call in calls}
    given = (result.get("tool_call_id") for result in itertools.islice(messages, place + 1, None))
    return next((one for one in given if calls and one and one not in ids), None)


def _last_calls(messages: Sequence[Any]) -> tuple[int, list[ToolCall]]:
    """Where the message before the results at the end stands, and its calls."""
    place = len(messages) - 1
    while place >= 0 and _role(messages[place]) == "tool":
        place -= 1
    return place, _calls_of(messages[place]) if place >= 0 else []


def add_result(messages: MutableSequence[Any], of: OpenCall, content: str) -> None:
    """Put the result of an open call behind it. Not where the application has taken the call out of the messages; it
    may also have added some since."""
    for place in range(len(messages) - 1, -1, -1):
        calls = _calls_of(messages[place])
        if of.number < len(calls) and _same(calls[of.number], of.call):
            done = _done(messages, place, calls)
            if not done[of.number]:
                message = {"role": "tool", "tool_call_id": of.call.id, "name": of.call.name, "content": content}
                messages.insert(place + 1 + sum(done[: of.number]), message)
                return


def _same(one: ToolCall, other: ToolCall) -> bool:
    return (one.id, one.name) == (other.id, other.name)


def has_answer(messages: Sequence[Any]) -> bool:
    """Whether the last word is the assistant's, and no call."""
    last: Any = messages[-1] if messages else {}
    return _role(last) == "assistant" and not last.get("tool_calls")


def follows_result(messages: Sequence[Any]) -> bool:
    """Whether the model is to go on from results."""
    return bool(messages) and _role(messages[-1]) == "tool"


def _calls_of(message: Any) -> list[ToolCall]:
    """The calls of a message, if it is one of the assistant's."""
    given = message.get("tool_calls") if _role(message) == "assistant" else None
    return [call_of(one) for one in given] if isinstance(given, list | tuple) else []


def _done(messages: Sequence[Any], place: int, calls: Sequence[ToolCall]) -> list[bool]:
    """Which of the calls of a message have a result behind it."""
    done = [False] * len(calls)
    for result in itertools.takewhile(lambda one: _role(one) == "tool", itertools.islice(messages, place + 1, None)):
        free = [number for number, is_done in enumerate(done) if not is_done]
        same = [number for number in free if calls[number].id and calls[number].id == result.get("tool_call_id")]
        if same or (free and not result.get("tool_call_id")):
            done[(same or free)[0]] = True
    return done


def _role(message: object) -> object:
    return message.get("role") if isinstance(message, dict) else None


def call_of(given: object) -> ToolCall:
    """A call of a message in OpenAI's form, whose arguments are a JSON text or a mapping."""
    outer = given if isinstance(given, dict) else {}
    inner = outer["function"] if isinstance(outer.get("function"), dict) else outer
    name, arguments, problem = inner.get("name"), inner.get("arguments"), None
    text = arguments if isinstance(arguments, str) else ""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            arguments, problem = {}, f"its arguments are no JSON: {error}"
    if not isinstance(arguments, dict):
        problem = problem or f"its arguments are a JSON object, not {type(arguments).__name__}"
        arguments = {}
    call_id = outer.get("id")
    return ToolCall(
        id=call_id if isinstance(call_id, str) else "", name=name if isinstance(name, str) else "",
        arguments=arguments, text=text, problem=problem,
    )  # fmt: skip


def content_of(value: object, limit: int) -> str:
    """A result as the model is told it: a text as it is, all else as JSON, cut to `limit` characters. Raises what
    making JSON of it raises."""
    text = value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=_plain).decode()
    if len(text) > limit:
        text = f"{text[:limit]}… [{len(text)} characters, of which these are the first {limit}]"
    return text.encode(errors="replace").decode()  # a lone surrogate has no tokens


def error_content(problem: str, limit: int) -> str:
    """A problem as the model is told it."""
    shown = problem if len(problem) <= limit else f"{problem[:limit]}…"
    return json.dumps({ERROR: shown.encode(errors="replace").decode()}, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """What JSON has no form for; pydantic's models and arrays have one of their own, and paths are texts."""
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="json")
    for name in ("__fspath__", "tolist"):
        if callable(plain := getattr(value, name, None)):
            return plain()
    raise TypeError(f"{type(value).__name__} has no JSON form")
