"""Every result and every event as plain data: by msgspec, by json, by FastAPI's encoder and as its response."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import fastapi
import msgspec
import numpy
import pydantic
import pytest
from fastapi.encoders import jsonable_encoder
from fastapi.testclient import TestClient
from helpers.runtime import drain, stub_runtime

import erllama_py as erllama
from erllama_py import results
from erllama_py.results.plain import Result

KINDS = [
    kind for name in sorted(results.__all__) if isinstance(kind := getattr(results, name), type)
    if issubclass(kind, Result)
]  # fmt: skip


class Person(pydantic.BaseModel):
    """What a reply can be parsed as."""

    name: str


@dataclass
class Place:
    """The same as a dataclass."""

    name: str


def made(kind: msgspec.inspect.Type) -> Any:
    """A value of a field's type, and something in each that is not always there."""
    match kind:
        case msgspec.inspect.StructType(cls):
            return result_of(cls)
        case msgspec.inspect.UnionType(types):
            return made(next(one for one in types if not isinstance(one, msgspec.inspect.NoneType)))
        case msgspec.inspect.LiteralType(values):
            return values[0]
        case msgspec.inspect.ListType(item) | msgspec.inspect.VarTupleType(item):
            two = [made(item)] * 2
            return two if isinstance(kind, msgspec.inspect.ListType) else tuple(two)
        case msgspec.inspect.TupleType(items):
            return tuple(map(made, items))
        case msgspec.inspect.DictType(key, value):
            return {made(key): made(value)}
        case msgspec.inspect.CollectionType() | msgspec.inspect.AnyType():
            return [{"role": "user"}]
    known: dict[type, Any] = {
        msgspec.inspect.StrType: "a", msgspec.inspect.IntType: 3, msgspec.inspect.FloatType: 0.5,
        msgspec.inspect.BoolType: True,
    }  # fmt: skip
    return known[type(kind)]  # no bytes, and nothing else that JSON does not know


def result_of(kind: type) -> Any:
    """A result of this class. What is a result within itself ends there."""
    if kind is erllama.ModelConfig:
        return erllama.ModelConfig(backend="stub")
    shape = msgspec.inspect.type_info(kind)
    assert isinstance(shape, msgspec.inspect.StructType)
    values = {one.name: made(one.type) for one in shape.fields if one.name != "alternatives"}
    return kind(**values)


def example(kind: type) -> Any:
    """One of each."""
    if kind is erllama.Embeddings:
        vectors = numpy.ones((2, 3), numpy.float32)
        return erllama.Embeddings(vectors=vectors, token_counts=(1, 2), truncated=(False, True), pooling="mean")
    return result_of(kind)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_result_goes_through_every_encoder(kind: type) -> None:
    """With the same outcome; only arrays need `plain` as a hook of msgspec."""
    one = example(kind)
    plain = erllama.plain(one)
    assert json.loads(json.dumps(one, default=erllama.plain)) == plain
    assert json.loads(json.dumps(msgspec.to_builtins(one, enc_hook=erllama.plain))) == plain
    assert json.loads(msgspec.json.encode(one, enc_hook=erllama.plain)) == plain
    assert jsonable_encoder(one) == plain == dict(one)
    assert jsonable_encoder([{"it": one}]) == [{"it": plain}]
    if kind is not erllama.Embeddings:
        assert json.loads(json.dumps(msgspec.to_builtins(one))) == plain
        assert set(msgspec.structs.asdict(one)) == set(plain) - {"type"}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Person(name="Ada"), {"name": "Ada"}), (Place("here"), {"name": "here"}), ([Person(name="B")], [{"name": "B"}]),
        (numpy.arange(2), [0, 1]), (numpy.float32(0.5), 0.5), (ValueError("no"), "ValueError: no"), (3 + 1j, "(3+1j)"),
        ({1: "one"}, {"1": "one"}),
    ],
)  # fmt: skip
def test_what_is_not_ours_is_shown_as_what_it_is(value: object, shown: object) -> None:
    """A value that was parsed, what a function returned and what it raised."""
    finished = erllama.ToolFinished(example(erllama.ToolCall), "x", 0.0, value=value, cause=value)
    for encoded in (
        erllama.plain(finished),
        jsonable_encoder(finished),
        json.loads(json.dumps(finished, default=erllama.plain)),
    ):
        assert (encoded["value"], encoded["cause"], encoded["type"]) == (shown, shown, "tool_finished")


def test_a_result_is_no_sequence_and_has_no_other_items() -> None:
    """Though it has items; those of rankings and embeddings are as they were."""
    done = example(erllama.Done)
    with pytest.raises(TypeError, match="not iterable"):
        iter(done)
    for name in ("keys", "reply", 0):
        with pytest.raises(KeyError):
            done[name]
    ranking = example(erllama.Ranking)
    assert (ranking[0], [*ranking], len(ranking)) == (ranking.documents[0], [*ranking.documents], 2)
    assert (ranking["method"], ranking["documents"]) == (
        ranking.method, [erllama.plain(one) for one in ranking],
    )  # fmt: skip
    vectors = example(erllama.Embeddings)
    assert [one.tolist() for one in vectors] == vectors["vectors"] == [[1.0] * 3] * 2


def test_fastapi_answers_with_results() -> None:
    """Returned as they are, in a list, as the type of a response; its description of the API is made too."""
    app = fastapi.FastAPI()
    row, done = example(erllama.RowInfo), example(erllama.Done)

    @app.get("/row")
    def give_row() -> erllama.RowInfo:
        assert isinstance(row, erllama.RowInfo)
        return row

    @app.get("/both", response_model=None)
    def give_both() -> list[Any]:
        return [row, done]

    client = TestClient(app)
    assert client.get("/row").json() == erllama.plain(row)
    assert client.get("/both").json() == [erllama.plain(row), erllama.plain(done)]
    assert client.get("/openapi.json").status_code == 200


@pytest.mark.anyio
async def test_what_a_model_gives_goes_through_too() -> None:
    """Keys and bytes are hex, and read again wherever they are taken."""
    async with stub_runtime() as (runtime, model):
        events = await drain(model.stream([65] * 300, logprobs=2, n=2, response_tokens=4))
        infos = [model.info, model.counters, *await runtime.cache.rows(), *await runtime.cache.tiers()]
        for one in (*events, *infos):
            assert jsonable_encoder(one) == erllama.plain(one) == json.loads(msgspec.json.encode(one))
        last = events[-1]
        assert isinstance(last, erllama.Done)
        assert last.completion.logprobs is not None
        first = last.completion.logprobs[0]
        assert bytes.fromhex(first.bytes).decode(errors="replace") == first.token
        done = await model.complete([66] * 300, response_tokens=4)
        assert done.finish_key is not None
        assert len(bytes.fromhex(done.finish_key)) == 32
        again = await model.complete([66] * 300 + done.generated, parent_key=done.finish_key, response_tokens=1)
        assert again.cache_hit_kind != "cold"
        assert {row.key for row in await runtime.cache.rows()} >= {done.finish_key}
