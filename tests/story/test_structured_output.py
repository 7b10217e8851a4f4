"""Replies that follow a structure, and their values: in every way to ask, on both backends."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, Literal, NotRequired, TypedDict

import msgspec
import pydantic
import pytest

import erllama_py as erllama

pytestmark = pytest.mark.anyio

ASKED: dict[str, Any] = {"response_tokens": 300, "seed": 7}
MESSAGES = [{"role": "user", "content": "Say something."}]


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Point(msgspec.Struct):
    x: int
    mood: Mood


@dataclasses.dataclass
class Pair:
    first: bool
    second: Literal["a", "b"] = "a"


class Entry(TypedDict):
    done: bool
    note: NotRequired[None]


class Person(pydantic.BaseModel):
    happy: bool
    points: list[Literal[1, 2, 3]] = pydantic.Field(max_length=3)


@pydantic.dataclasses.dataclass
class Checked:
    good: bool


RECORD = {"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 2]}}, "required": ["ok", "n"]}
KINDS: dict[str, tuple[Any, Callable[[Any], bool]]] = {
    "struct": (Point, lambda value: type(value) is Point and type(value.mood) is Mood),
    "dataclass": (Pair, lambda value: type(value) is Pair and value.second in "ab"),
    "typed dict": (Entry, lambda value: value.keys() <= {"done", "note"} and type(value["done"]) is bool),
    "list": (list[bool], lambda value: {type(one) for one in value} <= {bool}),
    "union": (bool | None, lambda value: value in (True, False, None)),
    "pydantic": (Person, lambda value: type(value) is Person and len(value.points) <= 3),
    "pydantic dataclass": (Checked, lambda value: type(value) is Checked),
    "list of pydantic": (list[Checked], lambda value: {type(one) for one in value} <= {Checked}),
    "dict": (RECORD, lambda value: value.keys() == {"ok", "n"} and value["n"] in (1, 2)),
}


@pytest.mark.parametrize("kind", KINDS)
async def test_the_value_has_the_type_that_was_asked_for(model: erllama.Model, kind: str) -> None:
    """Of structs, dataclasses, typed dicts, pydantic's models; plain values for a schema."""
    asked, is_right = KINDS[kind]
    done = await model.complete("Once", json_schema=asked, **ASKED)
    if done.finish_reason == "stop":
        assert is_right(done.parsed)
        assert done.parse_error is None
    else:  # a list without an end, by random weights
        assert (done.finish_reason, done.parsed) == ("length", None)


async def test_choices_expressions_and_grammars(model: erllama.Model) -> None:
    """A choice is its own value; the text is all there is of the others."""
    chosen = await model.complete("Once", choice=["yes", "no", "may be"], **ASKED)
    assert chosen.parsed == chosen.reply
    assert chosen.parsed in ("yes", "no", "may be")
    structures: list[erllama.RequestOptionsDict] = [
        {"regex": "^[a-c]{3}$"}, {"grammar": "root ::= [a-c] [a-c] [a-c]"}, {"grammar": "start: /[a-c]/ /[a-c]{2}/"},
    ]  # fmt: skip
    for structure in structures:
        done = await model.complete("Once", options=structure, **ASKED)
        assert (len(done.reply), set(done.reply) <= set("abc"), done.parsed) == (3, True, None)


async def read(stream: erllama.Stream) -> erllama.Completion:
    """The completion at the end of a stream."""
    async with stream as events:
        seen = [event async for event in events]
    assert isinstance(seen[-1], erllama.Done)
    return seen[-1].completion


async def test_every_way_to_ask_gives_the_value(model: erllama.Model) -> None:
    """Calls, streams, chats, sessions, alternatives."""
    options: Any = ASKED | {"json_schema": RECORD}
    with_n = await model.complete("Once", n=3, **options)
    async with model.session() as session:
        completions = [
            await model.complete("Once", **options),
            await model.chat(MESSAGES, **options),
            await read(model.stream("Once", **options)),
            await read(model.stream_chat(MESSAGES, **options)),
            await session.chat("Hello", **options),
            await read(session.stream_chat("And?", **options)),
            await session.complete(" So ", **options),
            await read(session.stream(" so ", **options)),
            await read(model.stream("Once", n=2, **options)),
            with_n, *with_n.alternatives,
        ]  # fmt: skip
    assert [sorted(done.parsed) for done in completions] == [["n", "ok"]] * 13


async def test_by_id_too() -> None:
    """What a runtime forwards is the same."""
    async with erllama.Runtime() as runtime:
        await runtime.load_model("one", {"backend": "stub"})
        done = await runtime.complete("one", "Once", json_schema=Pair, **ASKED)
    assert isinstance(done.parsed, Pair)


async def test_a_reply_that_is_cut_short_has_no_value(model: erllama.Model) -> None:
    """By its length, by a cancel; a stop sequence leaves something that is no JSON, and says so."""
    short = await model.complete("Once", json_schema=RECORD, response_tokens=2)
    assert (short.finish_reason, short.parsed, short.parse_error) == ("length", None, None)
    async with model.stream("Once", json_schema=RECORD) as events:
        events.cancel()
        seen = [event async for event in events]
    assert isinstance(seen[-1], erllama.Done)
    cancelled = seen[-1].completion
    assert (cancelled.finish_reason, cancelled.parsed, cancelled.parse_error) == ("cancelled", None, None)
    stopped = await model.complete("Once", json_schema=RECORD, stop_sequences=["ok"], response_tokens=300)
    assert (stopped.stop_sequence, stopped.parsed) == ("ok", None)
    assert stopped.parse_error == "the stop sequence 'ok' cut the reply short"


class Strict(pydantic.BaseModel):
    good: bool

    @pydantic.field_validator("good")
    @classmethod
    def never(cls, value: bool) -> bool:
        raise ValueError("nothing is good enough")


async def test_what_a_type_checks_beyond_its_schema_is_reported(model: erllama.Model) -> None:
    """The reply is there, and follows the schema: its text is not lost to an error."""
    done = await model.complete("Once", json_schema=Strict, **ASKED)
    assert (done.finish_reason, done.parsed) == ("stop", None)
    assert done.parse_error is not None
    assert "nothing is good enough" in done.parse_error
    assert msgspec.json.decode(done.reply).keys() == {"good"}


@pytest.mark.parametrize(
    ("inner", "keyword", "problem"),
    [
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf", "use anyOf"),
        ({"type": "string", "pattern": "(?=a)b"}, "pattern", "look-around"),
        ({"type": "object", "properties": {"a": {}}, "maxProperties": 1}, "maxProperties", "not required"),
        ({"type": "strng"}, "type", "'strng'"),
    ],
)
async def test_what_a_schema_is_refused_for_has_keyword_and_place(
    model: erllama.Model, inner: dict[str, Any], keyword: str, problem: str
) -> None:
    """Also where it is the compiler that refuses it."""
    with pytest.raises(erllama.InvalidSchema, match=problem) as caught:
        await model.complete("Once", json_schema={"properties": {"a": {"items": inner}}})
    assert (caught.value.keyword, caught.value.path) == (keyword, "#/properties/a/items")


async def test_a_schema_that_no_value_meets_is_refused_as_a_schema(model: erllama.Model) -> None:
    """In the compiler's words, where it names no keyword."""
    bad: list[dict[str, Any]] = [{"type": "string", "minLength": 5, "maxLength": 3}, {"patternProperties": {"(": {}}}]
    for schema in bad:
        with pytest.raises(erllama.InvalidSchema) as caught:
            await model.complete("Once", json_schema=schema)
        assert (caught.value.keyword, caught.value.path) == ("", "#")


async def test_a_bad_structure_is_refused_before_there_is_a_request(model: erllama.Model) -> None:
    """By the keyword's name and place; nothing reaches the model."""
    with pytest.raises(erllama.InvalidSchema) as caught:
        await model.complete("Once", json_schema={"properties": {"a": {"not": {}}}})
    assert (caught.value.keyword, caught.value.path) == ("not", "#/properties/a")
    bad: list[erllama.RequestOptionsDict] = [
        {"regex": "(?=a)b"}, {"regex": "("}, {"grammar": "no rule"}, {"grammar": "root ::= <nosuch>"},
        {"json_schema": complex}, {"json_schema": lambda: None},
    ]  # fmt: skip
    for structure in bad:
        with pytest.raises(erllama.InvalidGrammar):
            await model.complete("Once", options=structure)
    assert model.last_cache_hit is None
