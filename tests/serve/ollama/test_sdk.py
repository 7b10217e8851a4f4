"""The `ollama` client itself, against an application in this process and behind a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from helpers.listening import listening
from helpers.runtime import until
from helpers.served import served, served_script
from ollama import AsyncClient, Message, ResponseError
from pydantic import BaseModel
from starlette.types import ASGIApp

OPTIONS = {"num_predict": 8, "temperature": 0}
HELLO = [{"role": "user", "content": "hello"}]
CALL = '<tool_call>\n{"name": "weather", "arguments": {"town": "Oslo"}}\n</tool_call>'


def client_of(app: ASGIApp) -> Any:
    return AsyncClient("http://localhost", transport=httpx.ASGITransport(app=app))


def weather(town: str) -> str:
    """The weather in a town.

    Args:
      town: Its name.
    """
    return f"sunny in {town}"


class Person(BaseModel):
    """A person."""

    name: str
    age: int


@pytest.mark.anyio
async def test_chat_and_generate() -> None:
    """Whole and streamed: the same text, with the counts at the end."""
    async with served() as at:
        client = client_of(at.app)
        whole = await client.chat("tiny", HELLO, options=OPTIONS)
        pieces = [piece async for piece in await client.chat("tiny", HELLO, options=OPTIONS, stream=True)]
        assert "".join(piece.message.content for piece in pieces) == whole.message.content
        assert pieces[-1].eval_count == whole.eval_count == 8
        said = await client.generate("tiny:latest", "hello", options=OPTIONS, keep_alive="5m")
        again = [piece async for piece in await client.generate("tiny", "hello", options=OPTIONS, stream=True)]
        assert "".join(piece.response for piece in again) == said.response
        assert again[-1].context == said.context


@pytest.mark.anyio
async def test_functions_as_tools() -> None:
    """The client makes a schema of a function; its result goes back by the function's name."""
    async with served_script(CALL, "It is sunny.") as at:
        client = client_of(at.app)
        messages: list[Any] = [{"role": "user", "content": "weather in Oslo?"}]
        called = await client.chat("tiny", messages, tools=[weather])
        (call,) = called.message.tool_calls
        assert weather(**call.function.arguments) == "sunny in Oslo"
        messages += [called.message, Message(role="tool", content="sunny in Oslo", tool_name=call.function.name)]
        assert (await client.chat("tiny", messages, tools=[weather])).message.content == "It is sunny."
        assert "sunny in Oslo<|im_end|>" in at.script.prompts[-1]


@pytest.mark.anyio
async def test_structured_output() -> None:
    """A pydantic model's schema; the reply is one."""
    async with served() as at:
        schema = Person.model_json_schema()
        told = await client_of(at.app).chat("tiny", HELLO, format=schema, options={"seed": 3, "num_predict": 400})
        if told.done_reason == "stop":  # what a stub writes into a text may be long
            Person.model_validate_json(told.message.content)
        assert told.message.content.startswith('{"name":')


@pytest.mark.anyio
async def test_what_is_there() -> None:
    """Lists, what is running, one model, vectors."""
    async with served() as at:
        client = client_of(at.app)
        assert [one.model for one in (await client.list()).models] == ["tiny:latest"]
        assert [one.name for one in (await client.ps()).models] == ["tiny:latest"]
        shown = await client.show("tiny")
        assert shown.modelinfo["stub.context_length"] == 2048
        assert "completion" in shown.capabilities
        assert len((await client.embed("tiny", ["a", "b"])).embeddings) == 2
        assert len((await client.embeddings("tiny", "a")).embedding) == 64
        assert [one.status async for one in await client.pull("tiny", stream=True)][-1] == "success"


@pytest.mark.anyio
async def test_errors_are_the_client_s_own() -> None:
    """With their status, whole and streamed."""
    async with served() as at:
        client = client_of(at.app)
        with pytest.raises(ResponseError, match="model 'other' not found") as missing:
            await client.chat("other", HELLO)
        assert missing.value.status_code == 404
        with pytest.raises(ResponseError, match=r"options\.temperature") as wrong:
            async for _ in await client.chat("tiny", HELLO, options={"temperature": -1}, stream=True):
                pass
        assert wrong.value.status_code == 400
        for refused in (client.delete("tiny"), client.create("new", from_="tiny"), client.copy("tiny", "new")):
            with pytest.raises(ResponseError, match="not served here"):
                await refused


@pytest.mark.anyio
async def test_a_crash_in_the_middle_is_an_error_of_the_stream() -> None:
    """The client raises it where it reads."""
    async with served({"stub": {"fail_decode_after": 3}}) as at:
        with pytest.raises(ResponseError, match=r"crashed|compute"):
            async for _ in await client_of(at.app).chat("tiny", HELLO, options=OPTIONS, stream=True):
                pass


@asynccontextmanager
async def endless() -> AsyncIterator[tuple[Any, Any]]:
    """A client at a socket, and a model that takes some time for each token and would never end."""
    config = {"stub": {"seconds_per_token": 0.002}, "context_opts": {"n_ctx": 100_000}}
    async with served(config) as at, listening(at.app) as address, AsyncClient(address) as client:
        yield client, at.model


@pytest.mark.anyio
@pytest.mark.slow
async def test_a_client_that_leaves_ends_its_request() -> None:
    """In the middle of a stream, and while it waits for a whole reply."""
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 10_000}
    async with endless() as (client, model):
        stream = await client.chat("tiny", HELLO, format=schema, stream=True)
        await anext(stream)
        assert model.queue_depth == 1
        await stream.aclose()
        await until(lambda: model.queue_depth == 0)
        whole = asyncio.create_task(client.generate("tiny", "hello", format=schema))
        await until(lambda: model.queue_depth == 1)
        whole.cancel()
        await until(lambda: model.queue_depth == 0)
