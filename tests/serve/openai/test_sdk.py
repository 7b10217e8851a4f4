"""OpenAI's own client, over a real server: what it takes for granted holds."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest
from helpers.checkpoints import turns
from helpers.listening import listening
from helpers.scripted import Script
from helpers.served import Served, served
from helpers.tool_replies import WEATHER, WRITTEN, template_of
from pydantic import BaseModel

import erllama_py as erllama

pytestmark = pytest.mark.anyio

HELLO: Any = [{"role": "user", "content": "hello"}]
TOOLS: Any = [{"type": "function", "function": WEATHER}]
CALL: Any = ("get_weather", {"city": "Ghent", "days": 2})


class Answer(BaseModel):
    """What a reply is to be."""

    river: str
    long: bool


@asynccontextmanager
async def client(config: Any = None, **given: Any) -> AsyncIterator[tuple[openai.AsyncOpenAI, Served]]:
    """The client of a server."""
    async with (
        served(config, **given) as at,
        listening(at.app) as address,
        openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as sdk,
    ):
        yield sdk, at


async def until(is_so: Callable[[], bool]) -> None:
    """Give way to others until it is."""
    async with asyncio.timeout(10):
        while not is_so():
            await turns(1)


async def until_idle(at: Served) -> None:
    """No request is open, here or in the model."""
    await until(lambda: not at.model.queue_depth and not len(at.app.service.open))


@pytest.mark.slow
async def test_chats_and_streams() -> None:
    """The same text either way; the models are listed."""
    async with client() as (sdk, _):
        assert [model.id async for model in sdk.models.list()] == ["tiny"]
        asked: Any = {"model": "tiny", "messages": HELLO, "max_tokens": 8, "temperature": 0}
        whole = await sdk.chat.completions.create(**asked)
        stream = await sdk.chat.completions.create(stream=True, stream_options={"include_usage": True}, **asked)
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == whole.choices[0].message.content
        assert chunks[-1].usage is not None
        assert whole.usage is not None
        assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
        assert whole._request_id


@pytest.mark.slow
async def test_tools_in_a_stream() -> None:
    """The client puts the pieces together, parses the arguments, and tells of each event."""
    script = Script(WRITTEN["hermes"]([CALL]), "It rains.", template=template_of("hermes"))
    async with client(script=script) as (sdk, _):
        messages = list(HELLO)
        async with sdk.chat.completions.stream(model="tiny", messages=messages, tools=TOOLS) as stream:
            kinds = {event.type async for event in stream}
            done = await stream.get_final_completion()
        assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
        message = done.choices[0].message
        assert message.tool_calls
        (call,) = message.tool_calls
        assert (call.function.name, json.loads(call.function.arguments)) == CALL
        messages += [message.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
        answer = await sdk.chat.completions.create(model="tiny", messages=messages, tools=TOOLS)
        assert answer.choices[0].message.content == "It rains."


@pytest.mark.slow
async def test_replies_are_parsed() -> None:
    """A pydantic model is a strict schema, whole and as a stream."""
    async with client(script=Script('{"river":"Lys","long":false}')) as (sdk, _):
        done = await sdk.chat.completions.parse(model="tiny", messages=HELLO, response_format=Answer)
        assert done.choices[0].message.parsed == Answer(river="Lys", long=False)
        async with sdk.chat.completions.stream(model="tiny", messages=HELLO, response_format=Answer) as stream:
            last = await stream.get_final_completion()
        assert last.choices[0].message.parsed == Answer(river="Lys", long=False)


@pytest.mark.slow
async def test_texts_and_vectors() -> None:
    """Plain completions, and embeddings, which this client asks for in base64."""
    async with client() as (sdk, at):
        done = await sdk.completions.create(model="tiny", prompt="Once", max_tokens=4, echo=True, logprobs=1)
        assert done.choices[0].text.startswith("Once")
        found = await sdk.embeddings.create(model="tiny", input=["one", "two"])
        own = await at.model.embed(["one", "two"])
        assert [round(number, 5) for number in found.data[0].embedding] == [round(float(one), 5) for one in own[0]]


@pytest.mark.slow
async def test_errors_have_their_classes() -> None:
    """By the status; with the type, the field and the code."""
    async with client({"context_opts": {"n_ctx": 64, "n_seq_max": 1}}) as (sdk, _):
        create: Any = sdk.chat.completions.create
        with pytest.raises(openai.BadRequestError) as wrong:
            await create(model="tiny", messages=HELLO, temperature=-1)
        assert (wrong.value.param, wrong.value.type) == ("temperature", "invalid_request_error")
        with pytest.raises(openai.NotFoundError) as other:
            await create(model="other", messages=HELLO)
        assert other.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as long:
            await create(model="tiny", messages=[{"role": "user", "content": "x" * 100}])
        assert long.value.code == "context_length_exceeded"


@pytest.mark.slow
async def test_a_full_queue_is_said_with_a_time() -> None:
    """429 and `Retry-After`, whole and as a stream: the client tries again by itself."""
    slow: Any = {"stub": {"seconds_per_token": 0.01}}  # what runs is not over before the test is
    one = {**slow, "scheduler": {"max_pending": 1}, "context_opts": {"n_ctx": 1 << 17, "n_seq_max": 1}}
    async with client(one) as (sdk, at):
        create: Any = sdk.chat.completions.create
        async with at.model.stream("x", ignore_eos=True) as running:
            await anext(running)  # it waits no more, and leaves the queue to the next
            async with at.model.stream("y", ignore_eos=True) as waiting:
                for stream in (False, True):
                    with pytest.raises(openai.RateLimitError) as full:
                        await create(model="tiny", messages=HELLO, stream=stream)
                    assert full.value.response.headers["retry-after"] == "1"
                running.cancel()
                waiting.cancel()
        again = sdk.with_options(max_retries=3)
        assert (await again.chat.completions.create(model="tiny", messages=HELLO, max_tokens=2)).choices


@pytest.mark.slow
@pytest.mark.parametrize("path", ["chat", "plain", "several"])
async def test_leaving_a_stream_ends_its_request(path: str) -> None:
    """Within a tick: the model has nothing to do any more."""
    endless: Any = {"model": "tiny", "stream": True, "extra_body": {"ignore_eos": True}}
    async with client({"context_opts": {"n_ctx": 1 << 17, "n_seq_max": 4}}) as (sdk, at):
        if path == "chat":
            stream: Any = await sdk.chat.completions.create(messages=HELLO, **endless)
        else:
            prompt = ["a", "b", "c"] if path == "several" else "a"
            stream = await sdk.completions.create(prompt=prompt, max_tokens=100_000, **endless)
        async for _ in stream:
            break
        assert at.model.queue_depth
        await stream.close()
        await until_idle(at)


@pytest.mark.slow
async def test_leaving_a_whole_reply_ends_its_request() -> None:
    """As when its time is up."""
    async with client({"context_opts": {"n_ctx": 1 << 17, "n_seq_max": 4}}) as (sdk, at):
        endless: Any = {"model": "tiny", "messages": HELLO, "extra_body": {"ignore_eos": True}}
        asking = asyncio.create_task(sdk.chat.completions.create(**endless))
        await until(lambda: bool(at.model.queue_depth))
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await until_idle(at)


@pytest.mark.slow
async def test_a_stream_goes_on_after_a_crash() -> None:
    """Its chunks are those of a stream that was not disturbed."""
    ask: Any = {"model": "tiny", "messages": HELLO, "stream": True, "max_tokens": 50, "temperature": 0.0}
    texts: list[str] = []
    async with client() as (sdk, at):
        for crashes in (False, True):
            stream = await sdk.chat.completions.create(**ask, extra_body={"ignore_eos": True})
            text, drills = "", int(crashes)
            async for chunk in stream:
                text += "".join(choice.delta.content or "" for choice in chunk.choices)
                if drills and text:
                    drills = 0
                    at.model.inject_fault("decode")
            texts.append(text)
    assert texts[0] == texts[1]


@pytest.mark.slow
async def test_a_crash_for_good_in_a_stream_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an error in place of a chunk."""
    monkeypatch.setattr("erllama_py.tree.MODEL_LIMITS", erllama.RestartLimits(intensity=0))
    async with client({"context_opts": {"n_ctx": 1 << 17, "n_seq_max": 4}}) as (sdk, at):
        endless: Any = {"model": "tiny", "messages": HELLO, "stream": True, "extra_body": {"ignore_eos": True}}
        stream = await sdk.chat.completions.create(**endless)
        await anext(stream)
        at.model.inject_fault()
        with pytest.raises(openai.APIError) as crashed:
            assert [chunk async for chunk in stream]
        assert crashed.value.code == "model_crashed"


@pytest.mark.slow
async def test_curl() -> None:
    """As a shell has it."""
    body = json.dumps({"model": "tiny", "messages": HELLO, "max_tokens": 4, "stream": True})
    async with client() as (sdk, _):
        command = ["curl", "-sN", f"{sdk.base_url}chat/completions", "-H", "content-type: application/json", "-d", body]
        try:
            curl = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
        except FileNotFoundError:
            pytest.skip("there is no curl here")
        told, _ = await curl.communicate()
        assert told.decode().endswith("data: [DONE]\n\n")


@pytest.mark.slow
async def test_before_the_model_is_there_and_after_the_server_ends() -> None:
    """503 with a time, or 404 where nothing is loaded; the client's own classes."""
    async with client() as (sdk, at):
        create: Any = sdk.chat.completions.create
        at.app.service.open.draining = True
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as ending:
                await create(model="tiny", messages=HELLO, stream=stream)
            assert (ending.value.status_code, ending.value.code) == (503, "shutting_down")
            assert ending.value.response.headers["retry-after"]
        at.app.service.open.draining = False
        await at.model.unload()
        with pytest.raises(openai.NotFoundError):
            await create(model="tiny", messages=HELLO)


@pytest.mark.slow
async def test_a_body_that_is_too_large() -> None:
    """413, before it is parsed; one that is no JSON is 400."""
    async with client(settings={"max_body_bytes": 1000, "max_messages": 3}) as (sdk, at):
        create: Any = sdk.chat.completions.create
        with pytest.raises(openai.APIStatusError) as large:
            await create(model="tiny", messages=[{"role": "user", "content": "x" * 2000}])
        assert large.value.status_code == 413
        with pytest.raises(openai.APIStatusError) as many:
            await create(model="tiny", messages=HELLO * 4)
        assert (many.value.status_code, many.value.type) == (413, "invalid_request_error")
        answer = await at.client.post("/v1/chat/completions", content=b"{")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")
