"""Texts that no context holds are refused before they are tokenized, and a caller whose text takes long may leave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from helpers.runtime import drain, stub_runtime

import erllama_py as erllama
from erllama_py.engine.stub import StubVocabulary
from erllama_py.engine.token_array import TokenArray

pytestmark = pytest.mark.anyio

LONG = "x" * 100_000
SYSTEM = {"role": "system", "content": "Be brief."}
Ask = Callable[[erllama.Model], Awaitable[object]]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


class Unread(list[int]):
    """Token ids that nobody may look at."""

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("each of them is looked at")


@pytest.fixture
def tokenized(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many characters each call tokenizes."""
    lengths, tokenize = list[int](), StubVocabulary.tokenize

    def counted(self: StubVocabulary, text: str, **how: Any) -> list[int]:
        lengths.append(len(text))
        return tokenize(self, text, **how)

    monkeypatch.setattr(StubVocabulary, "tokenize", counted)
    return lengths


ASKS: dict[str, Ask] = {
    "complete": lambda model: model.complete(LONG),
    "stream": lambda model: drain(model.stream(LONG)),
    "prefill_only": lambda model: model.prefill_only(LONG),
    "score of a prompt": lambda model: model.score(LONG, ["a"]),
    "score": lambda model: model.score("a", ["b", LONG]),
    "score of tokens": lambda model: model.score("a", [Unread([1]) * 100_000]),
    "choose": lambda model: model.choose("a", ["b", LONG]),
    "chat": lambda model: model.chat([user(LONG)]),
    "chat of marks": lambda model: model.chat([user("<|" * 100_000)]),
    "a session's text": lambda model: model.session().complete(LONG),
    "a session's chat": lambda model: model.session().chat(LONG),
}


@pytest.mark.parametrize("ask", ASKS.values(), ids=list(ASKS))
async def test_what_no_context_holds_is_not_tokenized(ask: Ask, tokenized: list[int]) -> None:
    """The error says what is known: a text has at least so many tokens as its longest token goes into it."""
    async with stub_runtime() as (_, model):
        with pytest.raises(erllama.ContextOverflow) as refused:
            await ask(model)
        assert refused.value.prompt_tokens > refused.value.n_ctx == 2048
        assert max(tokenized, default=0) < 10_000


async def test_token_ids_that_no_context_holds_are_not_looked_at() -> None:
    """They are counted."""
    async with stub_runtime() as (_, model):
        for ask in (model.complete, model.prefill_only, model.session().complete):
            with pytest.raises(erllama.ContextOverflow, match="100000 tokens"):
                await ask(Unread([1] * 100_000))


async def test_texts_are_tokenized_and_explained_whatever_their_length(tokenized: list[int]) -> None:
    """Neither is a prompt."""
    async with stub_runtime() as (_, model):
        assert len(await model.tokenize(LONG)) == len(LONG)
        assert (await model.explain(LONG)).prompt_tokens == len(LONG)


async def test_a_session_drops_turns_that_no_context_holds() -> None:
    """As it drops those that only leave no room for a reply; the last alone is refused."""
    async with stub_runtime() as (_, model):
        said = {"role": "assistant", "content": "ok"}
        session = model.session(
            messages=[SYSTEM, user(LONG), said, user("b"), said, user(LONG), said], drop_oldest=True
        )
        done = await session.chat("hello", response_tokens=2)
        assert [one["content"] for one in session.messages] == ["Be brief.", "hello", done.reply]
        with pytest.raises(erllama.ContextOverflow, match="at least"):
            await session.chat(LONG)
        assert len(session.messages) == 3


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Long texts are tokenized once this is set."""
    go_on, array, parts = threading.Event(), StubVocabulary.token_array, StubVocabulary.tokenize_parts

    def slow_array(self: StubVocabulary, text: str, **how: Any) -> TokenArray:
        assert len(text) < 5000 or go_on.wait(20)
        return array(self, text, **how)

    def slow_parts(self: StubVocabulary, given: Any) -> TokenArray:
        assert go_on.wait(20)
        return parts(self, given)

    monkeypatch.setattr(StubVocabulary, "token_array", slow_array)
    monkeypatch.setattr(StubVocabulary, "tokenize_parts", slow_parts)
    yield go_on
    go_on.set()


LATE: dict[str, Callable[[erllama.Model], Awaitable[object]]] = {
    "complete": lambda model: model.complete("x" * 5000),
    "tokenize": lambda model: model.tokenize("x" * 5000),
    "chat": lambda model: model.chat([user("x" * 5000)]),
    "embed": lambda model: model.embed("x" * 5000),
}


@pytest.mark.parametrize("ask", LATE.values(), ids=list(LATE))
async def test_a_caller_who_is_cancelled_does_not_wait_for_a_tokenizer(ask: Ask, held: threading.Event) -> None:
    """Which takes a second for a megabyte or two."""
    async with stub_runtime() as (_, model):
        task = asyncio.ensure_future(ask(model))
        for _ in range(20):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 10)
        assert not held.is_set()
        held.set()


async def test_a_deadline_passes_while_a_text_is_tokenized(held: threading.Event) -> None:
    """And is not late."""
    async with stub_runtime() as (_, model):
        for ask in (model.complete("x" * 5000, deadline=0.01), model.chat([user("x" * 5000)], deadline=0.01)):
            done = await asyncio.wait_for(ask, 10)
            assert (done.finish_reason, done.generated) == ("deadline", [])
        assert not held.is_set()
        held.set()
