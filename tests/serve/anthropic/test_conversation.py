"""Anthropic's messages as chat templates know them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.serve.anthropic.conversation import Conversation, Mark, Reader
from erllama_py.serve.anthropic.protocol import Prompt
from erllama_py.serve.core.problems import Problem


def read(messages: list[Any], **more: Any) -> Conversation:
    """What is made of them; images are told by their places, and what is signed with "bad" is forged."""
    request = msgspec.convert({"messages": messages, **more}, Prompt)
    return Reader(lambda at: f"<{at}>", lambda _thinking, signature: signature == "bad").read(request)


def text(text: str, ttl: str | None = None) -> dict[str, Any]:
    """A block of text, kept for so long."""
    return {"type": "text", "text": text} | (
        {} if ttl is None else {"cache_control": {"type": "ephemeral", "ttl": ttl}}
    )


def test_results_are_messages_of_their_own() -> None:
    """In their order, with the names of their tools, before and after what the user says."""
    call = {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": "é"}}
    image = {"type": "image", "source": {"type": "url", "url": "x"}}
    results = [
        text("first"),
        {"type": "tool_result", "tool_use_id": "c1", "content": [text("a"), image]},
        {"type": "tool_result", "tool_use_id": "c2", "is_error": True},
        text("x"),
        text("y"),
    ]
    made = read(
        [{"role": "assistant", "content": [text("I "), text("call"), call]}, {"role": "user", "content": results}]
    )
    function = {"name": "f", "arguments": '{"a": "é"}'}
    assert made.messages == [
        {
            "role": "assistant", "content": "I call",
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {"role": "user", "content": "first"},
        {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "a\n<messages[1].content[1].content[1]>"},
        {"role": "tool", "tool_call_id": "c2", "content": "Error: "},
        {"role": "user", "content": [text("x"), text("y")]},
    ]  # fmt: skip


def test_turns_of_one_role_are_one() -> None:
    """As Anthropic's API says; many templates refuse them otherwise."""
    thought = {"type": "thinking", "thinking": "hm", "signature": "ok"}
    made = read([
        {"role": "user", "content": "a"}, {"role": "user", "content": [text("b")]},
        {"role": "assistant", "content": [thought, text("c")]}, {"role": "assistant", "content": [thought, text("d")]},
    ])  # fmt: skip
    assert made.messages == [
        {"role": "user", "content": [text("a"), text("b")]},
        {"role": "assistant", "content": "c\nd", "reasoning_content": "hm\n\nhm"},
    ]


def test_the_system_prompt_comes_first() -> None:
    """As one message, without what is not for the model; nothing is made of an empty one."""
    assert read([], system="be brief").messages == [{"role": "system", "content": "be brief"}]
    assert read([], system=[text("a"), text("b")]).messages == [{"role": "system", "content": "a\n\nb"}]
    assert read([], system=[text("x-anthropic-billing-header: cch=1")]).messages == []
    assert read([], system="").messages == read([], system=[]).messages == []
    assert read([{"role": "system", "content": "later"}]).messages == [{"role": "system", "content": "later"}]


def test_documents_are_read_where_they_have_text() -> None:
    """Their titles come with them; others are refused by their place."""
    plain = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "D"}, "title": "T"}
    parts = {"type": "document", "source": {"type": "content", "content": [text("E"), text("F")]}}
    found = {"type": "search_result", "source": "s", "title": "t", "content": [text("G")]}
    made = read([{"role": "user", "content": [plain, parts, found]}])
    assert [one["text"] for one in made.messages[0]["content"]] == ["T\nD", "E\nF", "t\ns\nG"]
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AA"}}
    with pytest.raises(Problem) as caught:
        read([{"role": "user", "content": [pdf]}])
    assert caught.value.param == "messages[0].content[0].source"


@pytest.mark.parametrize(
    ("role", "block"),
    [
        ("user", {"type": "tool_use", "id": "c", "name": "f", "input": {}}),
        ("user", {"type": "thinking", "thinking": "x", "signature": "x"}),
        ("assistant", {"type": "tool_result", "tool_use_id": "c"}),
        ("assistant", {"type": "image", "source": {}}),
    ],
)
def test_blocks_have_their_roles(role: str, block: dict[str, Any]) -> None:
    """A block where it means nothing is refused by its place."""
    with pytest.raises(Problem, match=block["type"]) as caught:
        read([{"role": role, "content": [text("a"), block]}])
    assert caught.value.param == "messages[0].content[1]"


def test_marks_are_ends_of_messages() -> None:
    """A mark inside a message counts for what is before it."""
    tools = [{"name": "f", "input_schema": {}, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    result = {"type": "tool_result", "tool_use_id": "c", "content": "r", "cache_control": {"type": "ephemeral"}}
    messages = [
        {"role": "user", "content": [text("a", "5m"), text("b")]},
        {"role": "assistant", "content": [text("c", "1h")]},
        {"role": "user", "content": [result, text("d")]},
    ]
    made = read(messages, system=[text("s", "1h"), text("t", "5m")], tools=tools, cache_control={"type": "ephemeral"})
    assert made.marks == [
        Mark(0, 3600), Mark(0, 3600), Mark(1, 300),  # the tools, the middle and the end of the system prompt
        Mark(1, 300), Mark(3, 3600), Mark(4, 300),  # before the first message, after the second, after the result
        Mark(5, 300),  # all
    ]  # fmt: skip


BLOCKS = st.sampled_from([
    text("a"), text("b", "5m"), text("c", "1h"), {"type": "tool_result", "tool_use_id": "c", "content": "r"},
])  # fmt: skip
SAID = st.fixed_dictionaries({"role": st.just("user"), "content": st.lists(BLOCKS, min_size=1, max_size=4)})
REPLIED = st.fixed_dictionaries({"role": st.just("assistant"), "content": st.lists(BLOCKS.filter(
    lambda block: block["type"] == "text"), min_size=1, max_size=3)})  # fmt: skip


@given(st.lists(st.tuples(SAID, REPLIED), max_size=4), SAID)
def test_a_conversation_that_goes_on_begins_the_same(before: list[tuple[Any, Any]], last: Any) -> None:
    """Nothing that comes later, and no mark, changes what was made of the messages before."""
    turns = [message for pair in before for message in pair]
    shorter, longer = read(turns, system="s"), read([*turns, last], system="s")
    assert longer.messages[: len(shorter.messages)] == shorter.messages
    assert longer.marks[: len(shorter.marks)] == shorter.marks
    bare = [
        message | {"content": [{k: v for k, v in one.items() if k != "cache_control"} for one in message["content"]]}
        for message in [*turns, last]
    ]
    assert read(bare, system="s").messages == longer.messages
    assert all(0 <= mark.messages <= len(longer.messages) for mark in longer.marks)
