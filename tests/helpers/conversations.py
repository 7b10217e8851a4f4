"""A table of conversations, as clients write them."""

from __future__ import annotations

from typing import Any

Message = dict[str, Any]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a town",
            "parameters": {
                "type": "object",
                "properties": {"town": {"type": "string"}, "days": {"type": "integer", "default": None}},
                "required": ["town"],
            },
        },
    }
]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def said(text: str, **more: Any) -> Message:
    return {"role": "assistant", "content": text, **more}


def result(text: str) -> Message:
    return {"role": "tool", "content": text, "name": "weather", "tool_call_id": "abcdefghi"}


FUNCTION = {"name": "weather", "arguments": {"town": "Zürich", "days": 2, "unit": None}}
CALL = {"id": "abcdefghi", "type": "function", "function": FUNCTION}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
THOUGHT = "<think>\nhm\n</think>\n\nyes"

PLAIN: dict[str, list[Message]] = {
    "one": [user(" Hello ")],
    "system": [system("Be brief."), user("Hello")],
    "turns": [system("Be brief."), user("Hello"), said("Hi."), user("Bye")],
    "thought": [user("?"), said(THOUGHT), user("again")],
    "reasoning": [user("?"), said("yes", reasoning_content="hm"), user("again")],
    "older name": [user("?"), said("yes", thinking="hm"), user("again")],
    "none": [user("?") | {"name": None}, said("yes", tool_calls=None, reasoning_content=None), user("again")],
    "two users": [user("a"), user("b")],
}
WITH_CALLS: dict[str, list[Message]] = {
    "tools": [user("Weather?")],
    "tools and system": [system("Be brief."), user("Weather?")],
    "called": [user("Weather?"), CALLED, result("12 °C")],
    "called and said": [
        user("Weather?"),
        {**CALLED, "content": "I'll look."},
        result("12 °C"),
        said("12"),
        user("Thanks"),
    ],
    "thought and called": [user("?"), {**CALLED, "content": "", "reasoning_content": "hm"}, result("12 °C")],
}
