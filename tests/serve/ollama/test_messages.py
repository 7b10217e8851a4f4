"""Conversations in Ollama's form."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.serve.core.problems import Problem
from erllama_py.serve.core.settings import ServerOpts
from erllama_py.serve.ollama.messages import conversation
from erllama_py.serve.ollama.protocol import Message


def read(*messages: dict[str, Any], images: str = "refuse") -> list[dict[str, Any]]:
    settings = msgspec.convert({"images": images}, ServerOpts)
    return conversation(msgspec.convert(list(messages), list[Message]), settings)


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"function": {"name": name, "arguments": arguments}}


def test_what_is_said_stays_as_it_is() -> None:
    """Roles in lower case, as Ollama reads them, and what was thought beside the text."""
    assert read(
        {"role": "System", "content": "short"}, {"role": "user"},
        {"role": "assistant", "content": "yes", "thinking": "hm", "images": []},
    ) == [
        {"role": "system", "content": "short"}, {"role": "user", "content": ""},
        {"role": "assistant", "content": "yes", "thinking": "hm"},
    ]  # fmt: skip


def test_calls_get_ids_by_their_place() -> None:
    """Each result is of the first call of its tool that has none yet; the same conversation gets the same ids."""
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "weather in two towns"},
        {"role": "assistant", "tool_calls": [call("weather", town="a"), call("time"), call("weather", town="b")]},
        {"role": "tool", "content": "sun", "tool_name": "weather"},
        {"role": "tool", "content": "rain", "tool_name": "weather"},
        {"role": "tool", "content": "noon"},
        {"role": "assistant", "tool_calls": [call("time")]},
        {"role": "tool", "content": "one", "tool_name": "time"},
    ]
    found = read(*messages)
    assert [one["id"] for one in found[1]["tool_calls"]] == ["call00000", "call00001", "call00002"]
    assert found[1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"town": "a"}}
    answered = [(one["name"], one["tool_call_id"]) for one in found if one["role"] == "tool"]
    assert answered == [
        ("weather", "call00000"),
        ("weather", "call00002"),
        ("time", "call00001"),
        ("time", "call00003"),
    ]
    assert read(*messages) == found
    assert read(*messages[:4]) == found[:4]


def test_ids_that_are_given_count() -> None:
    """Newer clients send them back."""
    found = read(
        {"role": "assistant", "tool_calls": [{"id": "x", **call("a")}, {"id": "y", **call("a")}]},
        {"role": "tool", "content": "2", "tool_call_id": "y"},
        {"role": "tool", "content": "1", "tool_call_id": "x"},
        {"role": "tool", "content": "?", "tool_call_id": "z", "tool_name": "a"},
    )
    assert [(one.get("name"), one["tool_call_id"]) for one in found[1:]] == [("a", "y"), ("a", "x"), ("a", "z")]


def test_images_are_refused_or_told() -> None:
    """As the server is set."""
    message = {"role": "user", "content": "what is it?", "images": ["aGk="]}
    with pytest.raises(Problem) as refused:
        read({"role": "user", "content": "hello"}, message)
    assert refused.value.param == "messages[1].images[0]"
    (told,) = read(message, images="note")
    assert told["content"].endswith("\nwhat is it?")


NAMES = st.sampled_from(["a", "b"])
SAID = st.one_of(
    st.builds(lambda names: {"role": "assistant", "tool_calls": [call(one) for one in names]}, st.lists(NAMES)),
    st.builds(lambda name: {"role": "tool", "content": "x", "tool_name": name}, st.none() | NAMES),
    st.just({"role": "user", "content": "x"}),
)


@given(st.lists(SAID, max_size=12))
def test_no_call_is_answered_twice(messages: list[dict[str, Any]]) -> None:
    """Ids are never used again; a result is of a call of its tool that came before, where there is one."""
    called, answered = dict[str, str](), list[str]()
    for one in read(*messages):
        for made in one.get("tool_calls", ()):
            assert made["id"] not in called
            called[made["id"]] = made["function"]["name"]
        if one["role"] == "tool" and (call_id := one.get("tool_call_id")):
            assert one["name"] == called[call_id]
            answered.append(call_id)
    assert len(set(answered)) == len(answered)
