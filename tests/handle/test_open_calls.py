"""Which calls of a conversation are open, and where results go."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import numpy
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.handle.open_calls import (
    add_result,
    call_of,
    content_of,
    error_content,
    has_answer,
    open_calls,
    stray_result,
)

USER = {"role": "user", "content": "?"}


def asks(*ids: str) -> dict[str, Any]:
    calls = [{"id": one, "function": {"name": f"n{one}", "arguments": '{"x": 1}'}} for one in ids]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def result(of: str | None) -> dict[str, Any]:
    return {"role": "tool", "content": "r", **({} if of is None else {"tool_call_id": of})}


@pytest.mark.parametrize(
    ("messages", "open_"),
    [
        ([], []),
        ([USER], []),
        ([USER, asks("a", "b")], ["a", "b"]),
        ([USER, asks("a", "b"), result("b")], ["a"]),
        ([USER, asks("a", "b"), result("b"), result("a")], []),
        ([USER, asks("a", "b"), result(None)], ["b"]),
        ([USER, asks("a"), result("c")], ["a"]),
        ([USER, asks("a"), USER], []),
        ([USER, asks("a"), result("a"), asks("b")], ["b"]),
        ([USER, asks("a"), result("a"), {"role": "assistant", "content": "so"}], []),
        ([USER, asks("a", "a"), result("a")], ["a"]),
        ([result("a")], []),
        ([USER, {"role": "assistant", "tool_calls": 7}], []),
        ([USER, 7], []),
    ],
)
def test_a_call_is_open_until_its_result_is_there(messages: list[Any], open_: list[str]) -> None:
    """By its id, or by order where there is none; something said since closes all."""
    assert [one.call.id for one in open_calls(messages)] == open_


@pytest.mark.parametrize(
    ("messages", "stray"),
    [
        ([], None),
        ([USER, asks("a", "b"), result("b")], None),
        ([USER, asks("a", "b"), result(None), result("b")], None),
        ([USER, asks("a"), result("c")], "c"),
        ([USER, asks("a"), result("a"), result("c")], "c"),
        ([USER, asks("a"), result("c"), USER], None),
        ([result("a")], None),
    ],
)
def test_a_result_of_no_call_is_known(messages: list[Any], stray: str | None) -> None:
    """Its call would be carried out again; what was said before the last calls is history."""
    assert stray_result(messages) == stray


@pytest.mark.parametrize(
    ("messages", "answered"),
    [
        ([], False),
        ([USER], False),
        ([USER, asks("a")], False),
        ([USER, asks("a"), result("a")], False),
        ([USER, {"role": "assistant", "content": "so", "tool_calls": []}], True),
        ([7], False),
    ],
)
def test_a_conversation_has_its_answer_when_the_model_had_the_last_word(messages: list[Any], answered: bool) -> None:
    """And that is no call."""
    assert has_answer(messages) == answered


@given(st.permutations(range(5)), st.booleans())
def test_results_lie_in_the_order_of_their_calls(order: list[int], named: bool) -> None:
    """Whichever came first; a part of them is in order too."""
    messages = [USER, asks(*"abcde") if named else asks("", "", "", "", "")]
    for number in order if named else range(5):
        of = next(one for one in open_calls(messages) if one.number == number)
        add_result(messages, of, str(number))
        said = [message["content"] for message in messages[2:]]
        assert said == sorted(said)
    assert open_calls(messages) == []


SAID = {"role": "user", "content": "wait"}
SYSTEM = {"role": "system", "content": "be brief"}


@pytest.mark.parametrize(
    ("change", "roles"),
    [
        (lambda messages: messages.append(SAID), "user assistant tool user"),
        (lambda messages: messages.insert(0, SYSTEM), "system user assistant tool"),
        (lambda messages: messages.__setitem__(1, json.loads(json.dumps(messages[1]))), "user assistant tool"),
        (lambda messages: messages.extend([result("b"), SAID]), "user assistant tool tool user"),
        (lambda messages: messages.extend([asks("z"), result("z")]), "user assistant tool assistant tool"),
        (lambda messages: messages.pop(), "user"),
        (lambda messages: messages.clear(), ""),
        (lambda messages: messages.append(7), "user assistant tool "),
    ],
)
@pytest.mark.parametrize("ids", [("a", "b"), ("", "")])
def test_a_result_goes_to_its_call_whatever_was_said_since(
    change: Callable[[list[Any]], object], roles: str, ids: tuple[str, str]
) -> None:
    """The application may add to the list while calls run; a result whose call it took out has no place."""
    messages: list[Any] = [USER, asks(*ids)]
    one, _ = open_calls(messages)
    change(messages)
    add_result(messages, one, "r")
    assert " ".join(one["role"] if isinstance(one, dict) else "" for one in messages) == roles


@pytest.mark.parametrize(
    ("given", "name", "arguments", "problem"),
    [
        ({"function": {"name": "f", "arguments": '{"x": 1}'}}, "f", {"x": 1}, None),
        ({"function": {"name": "f", "arguments": {"x": 1}}}, "f", {"x": 1}, None),
        ({"name": "f", "arguments": {"x": 1}}, "f", {"x": 1}, None),
        ({"function": {"name": "f", "arguments": ""}}, "f", {}, None),
        ({"function": {"name": "f", "arguments": "{"}}, "f", {}, "its arguments are no JSON: "),
        ({"function": {"name": "f", "arguments": "[" * 100_000}}, "f", {}, "its arguments are no JSON: "),
        ({"function": {"name": "f", "arguments": "[1]"}}, "f", {}, "its arguments are a JSON object, not list"),
        ({"function": {"name": "f"}}, "f", {}, "its arguments are a JSON object, not NoneType"),
        ({"function": {"name": 7, "arguments": {}}}, "", {}, None),
        (7, "", {}, "its arguments are a JSON object"),
    ],
)
def test_calls_of_clients_are_read(given: Any, name: str, arguments: object, problem: str | None) -> None:
    """Both forms of arguments; what is malformed is told and not raised."""
    call = call_of(given)
    assert (call.name, call.arguments) == (name, arguments)
    assert call.problem is None if problem is None else problem in str(call.problem)


class Place(pydantic.BaseModel):
    city: str


@dataclasses.dataclass
class Size:
    width: int


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("as it is", "as it is"),
        (None, "null"),
        (1.5, "1.5"),
        ({"a": [1, "é"]}, '{"a":[1,"é"]}'),
        (Size(3), '{"width":3}'),
        ([Place(city="Ghent")], '[{"city":"Ghent"}]'),
        ([PurePosixPath("a/b")], '["a/b"]'),
        ({"a": numpy.array([[1, 2]])}, '{"a":[[1,2]]}'),
        (numpy.float32(0.5), "0.5"),
        ("a\ud800b", "a?b"),
        ("0123456789" * 3, "01234567890123456789… [30 characters, of which these are the first 20]"),
    ],
)
def test_results_become_text(value: object, content: str) -> None:
    """Text as it is, all else as JSON; what is too long is cut, with a word on it."""
    assert content_of(value, 20) == content


def test_problems_are_told_as_json() -> None:
    """In one form, bounded, in characters that have tokens."""
    assert json.loads(error_content("no\ud800" + "o" * 30, 10)) == {"error": "no?ooooooo…"}
    with pytest.raises(TypeError, match="object has no JSON form"):
        content_of(object(), 10)
