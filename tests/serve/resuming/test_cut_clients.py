"""Streams that are cut ten times and taken up by the SDKs of OpenAI and Anthropic, in each shape that they read.

To an SDK each event that it yields is one of the stream: so the number of the last one is how many it has had.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anthropic
import openai
import pytest
from helpers.listening import listening
from helpers.served import Served, served

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
SAID: Any = [{"role": "user", "content": "hello"}]
ASK: dict[str, Any] = {"model": "tiny", "stream": True}
DRAWN = {"temperature": 0, "ignore_eos": True}
CUTS = 10


class Clients(NamedTuple):
    """An SDK of each, at one server."""

    openai: openai.AsyncOpenAI
    anthropic: anthropic.AsyncAnthropic


async def chat(at: Clients, headers: dict[str, str]) -> Any:
    create: Any = at.openai.chat.completions.create
    return await create(**ASK, messages=SAID, max_tokens=60, extra_body=DRAWN, extra_headers=headers)


async def completions(at: Clients, headers: dict[str, str]) -> Any:
    create: Any = at.openai.completions.create
    return await create(**ASK, prompt="hello", max_tokens=60, extra_body=DRAWN, extra_headers=headers)


async def responses(at: Clients, headers: dict[str, str]) -> Any:
    create: Any = at.openai.responses.create
    return await create(**ASK, input="hello", max_output_tokens=60, temperature=0, extra_headers=headers)


async def messages(at: Clients, headers: dict[str, str]) -> Any:
    create: Any = at.anthropic.messages.create
    return await create(**ASK, messages=SAID, max_tokens=60, extra_body={"temperature": 0}, extra_headers=headers)


SHAPES: dict[str, tuple[Callable[[Clients, dict[str, str]], Awaitable[Any]], Callable[[Any], str | None]]] = {
    "chat": (chat, lambda event: event.choices[0].delta.content if event.choices else ""),
    "completions": (completions, lambda event: event.choices[0].text if event.choices else ""),
    "responses": (responses, lambda event: event.delta if event.type == "response.output_text.delta" else ""),
    "messages": (messages, lambda event: event.delta.text if event.type == "content_block_delta" else ""),
}


@asynccontextmanager
async def clients() -> AsyncIterator[tuple[Served, Clients]]:
    async with (
        served() as one,
        listening(one.app) as url,
        openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as by_openai,
        anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as by_anthropic,
    ):
        yield one, Clients(by_openai, by_anthropic)


async def read(stream: Any, most: int | None = None) -> list[Any]:
    """So many events, after which the client is gone; or all."""
    events = list[Any]()
    async for event in stream:
        events.append(event)
        if len(events) == most:
            break
    await stream.close()
    return events


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_stream_that_is_cut_ten_times_is_whole_at_the_client(shape: str) -> None:
    """The same events as of one that was never cut, in their order; it is computed once."""
    ask, text_of = SHAPES[shape]
    pick = random.Random(shape)
    async with clients() as (one, at):
        whole = await read(await ask(at, {"x-conversation-id": "uncut"}))
        events = list[Any]()
        for cut in range(CUTS + 1):
            headers = {"x-conversation-id": "a", "last-event-id": str(len(events))}
            events += await read(await ask(at, headers), pick.randrange(1, 6) if cut < CUTS else None)
        assert [text_of(event) for event in events] == [text_of(event) for event in whole]
        assert len("".join(text_of(event) or "" for event in events)) > CUTS
        assert one.model.counters.requests == 2
