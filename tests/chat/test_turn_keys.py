"""Keys of replies: the same for what says the same, and for nothing else."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.chat import turn_keys
from erllama_py.chat.turn_keys import NotHashable, canonical, message_hashes, reply_keys, shape_hash

OWNER = b"m" * 32
texts = st.text(st.sampled_from('ab \n"\\é'), max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False, width=16) | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2),
    max_leaves=4,
)
arguments = st.dictionaries(texts, values, max_size=2)
calls = st.builds(
    lambda id, name, given: {"id": id, "type": "function", "function": {"name": name, "arguments": given}},
    st.sampled_from("ijk"), st.sampled_from(["f", "g"]), arguments,
)  # fmt: skip
messages = st.one_of(
    st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "system"]), texts),
    st.builds(lambda id, text: {"role": "tool", "tool_call_id": id, "content": text}, st.sampled_from("ij"), texts),
    st.builds(
        lambda text, made, thought: {"role": "assistant", "content": text, **made, **thought}, texts,
        st.just({}) | st.lists(calls, min_size=1, max_size=2).map(lambda made: {"tool_calls": made}),
        st.just({}) | texts.map(lambda text: {"reasoning_content": text}),
    ),
)  # fmt: skip
conversations = st.lists(messages, min_size=1, max_size=4)
shapes = st.fixed_dictionaries(
    {}, optional={"tools": st.lists(arguments, max_size=2), "template_kwargs": arguments, "chat_template": texts}
)


def end(conversation: list[dict[str, Any]], shape: dict[str, Any] | None = None, owner: bytes = OWNER) -> bytes:
    return message_hashes(shape_hash(owner, shape or {}), conversation)[-1]


def said(message: dict[str, Any]) -> str:
    """What is to be the same, written another way: a reply's text without white space around it, and its calls."""
    if message["role"] != "assistant":
        return repr(sorted(message.items()))
    made = [
        (call["function"]["name"], json.dumps(call["function"]["arguments"], sort_keys=True))
        for call in message.get("tool_calls", ())
    ]
    return repr((message["content"].strip(), made))


def in_one_form(value: Any) -> str:
    """JSON has no difference between 1 and 1.0 for most clients."""
    return json.dumps(
        json.loads(json.dumps(value), parse_float=lambda text: int(float(text)) if float(text) % 1 == 0 else text),
        sort_keys=True,
    )


@given(conversations, conversations)
def test_conversations_share_a_hash_only_where_they_say_the_same(
    one: list[dict[str, Any]], other: list[dict[str, Any]]
) -> None:
    """Role, text, names, ids of results and arguments count; thinking, ids of calls and outer white space do not."""
    same = in_one_form([canonical(message) for message in one]) == in_one_form(
        [canonical(message) for message in other]
    )
    assert (end(one) == end(other)) == same
    if [said(message) for message in one] == [said(message) for message in other]:
        assert end(one) == end(other)


@given(conversations, st.data())
def test_any_change_of_a_message_changes_the_hash(conversation: list[dict[str, Any]], data: st.DataObject) -> None:
    """One more letter anywhere, another role, a name, or a message more or less."""
    at = data.draw(st.integers(0, len(conversation) - 1))
    changed = deepcopy(conversation)
    match data.draw(st.sampled_from(["text", "role", "name", "less", "twice"])):
        case "text":
            changed[at]["content"] += "c"
        case "role":
            changed[at]["role"] = "developer"
        case "name":
            changed[at]["name"] = "x"
        case "less":
            del changed[at]
        case "twice":
            changed.insert(at, changed[at])
    assert end(changed) != end(conversation)


@given(shapes, shapes, conversations)
def test_what_shapes_the_prompt_is_in_every_hash(
    one: dict[str, Any], other: dict[str, Any], conversation: list[dict[str, Any]]
) -> None:
    """Tools, the template and its values; and whose conversation it is."""
    assert (end(conversation, one) == end(conversation, other)) == (in_one_form(one) == in_one_form(other))
    assert end(conversation, one) != end(conversation, one, b"n" * 32)


@given(conversations, texts, st.lists(calls, min_size=1, max_size=2), st.sampled_from(["", " ", "\n"]))
def test_a_reply_that_is_written_anew_keeps_its_key(
    before: list[dict[str, Any]], text: str, made: list[dict[str, Any]], space: str
) -> None:
    """Arguments as text of other spacing and order, other white space around it, thoughts left out, fields of None."""
    reply = {"role": "assistant", "content": text, "reasoning_content": "hm", "tool_calls": made}
    anew = [
        {
            "id": "other",
            "function": {
                "arguments": json.dumps(dict(reversed(call["function"]["arguments"].items())), indent=1),
                "name": call["function"]["name"],
            },
        }
        for call in made
    ]
    back = {"content": space + text + space, "role": "assistant", "tool_calls": anew, "refusal": None, "audio": None}
    assert reply_keys(end(before), reply)[0] == reply_keys(end(before), back)[0]
    assert end([*before, reply]) == end([*before, back])


@given(conversations, conversations, texts, texts, st.lists(calls, min_size=1, max_size=2), arguments)
def test_ids_of_calls_are_a_key_after_the_same_conversation(
    before: list[dict[str, Any]], others: list[dict[str, Any]], text: str, another: str,
    made: list[dict[str, Any]], other: dict[str, Any],
) -> None:  # fmt: skip
    """Whatever the client has made of text and arguments; after another conversation the ids mean nothing."""
    reply = {"role": "assistant", "content": text, "tool_calls": made}
    changed = [{**call, "function": {"name": "h", "arguments": other}} for call in made]
    back = {"role": "assistant", "content": another, "tool_calls": changed}
    assert reply_keys(end(before), reply)[1] == reply_keys(end(before), back)[1]
    if end(before) != end(others):
        assert not {*reply_keys(end(before), reply)} & {*reply_keys(end(others), reply)}


def test_parts_of_content_are_one_text() -> None:
    """In a reply, which was one text; what users send in several may be shown as several. Other kinds are no text."""
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert end([{"role": "assistant", "content": parts}]) == end([{"role": "assistant", "content": "a\nb"}])
    assert end([{"role": "user", "content": parts}]) != end([{"role": "user", "content": "a\nb"}])
    assert end([{"role": "user", "content": parts[:1]}]) == end([{"role": "user", "content": "a"}])
    assert end([{"role": "user", "content": [{"type": "image", "text": "a"}]}]) != end(
        [{"role": "user", "content": "a"}]
    )


def test_arguments_that_are_no_object_stay_what_they_are() -> None:
    """Half a text, a list, nothing: none of them is taken for another."""
    given = ['{"a": 1', "[1]", "1", "", None, {"a": 1}, {"x": None}, "null"]
    keys = [end([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": one}]}]) for one in given]
    assert keys[3] == keys[4]
    assert len(set(keys)) == len(given) - 1


@pytest.mark.parametrize("value", [object(), b"x", {1: 2}, {"a": {1, 2}}, pytest.param([10**5000], id="long")])
def test_what_no_json_has_is_refused(value: object) -> None:
    """So is what nests without an end; the template will say what is wrong with it."""
    with pytest.raises(NotHashable):
        end([{"role": "user", "content": "u", "extra": value}])


def test_values_that_nest_without_end_are_refused() -> None:
    """No recursion goes deeper than a hundred values."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(NotHashable):
        end([{"role": "user", "content": "u", "extra": deep}])
    assert end([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[" * 100_000}]}])


@given(values, st.integers(1, 6))
def test_what_is_hashed_in_pieces_is_the_json_of_the_whole(value: Any, block: int) -> None:
    """So that how long a message is changes no key."""
    plain = turn_keys._plain([value, {"b": value, "a": "😀\ud800x" * 3}], 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turn_keys, "BLOCK", block)
        assert "".join(turn_keys._pieces(plain)) == turn_keys._written(plain)
        assert end([{"role": "user", "content": "hello"}]) == IN_ONE_CALL


IN_ONE_CALL = end([{"role": "user", "content": "hello"}])


def test_no_call_writes_or_hashes_more_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call for tens of megabytes would keep other threads waiting, the event loop's among them."""
    asked, dumps = list[int](), json.dumps

    def counted(value: object, **how: Any) -> str:
        asked.append(len(str(value)))
        return dumps(value, **how)

    monkeypatch.setattr(turn_keys, "BLOCK", 100)
    monkeypatch.setattr(json, "dumps", counted)
    end([{"role": "user", "content": "x" * 1000}, {"role": "user", "content": [{"a": "y" * 90, "b": "z" * 90}] * 9}])
    assert max(asked) <= 100
