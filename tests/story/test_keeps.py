"""Prefixes that a request asks to be kept: they outlast pressure, for their time and within their share."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.backends import MEMORY
from helpers.both_backends import BACKENDS
from helpers.cache import POLICY
from helpers.stateless import ASKED, SIX, next_messages, question, thinker
from helpers.tiny_gguf import WINDOW, Kind, tiny_gguf

import erllama_py as erllama
from erllama_py import tree
from erllama_py.cache import clock as cache_clock
from erllama_py.cache.actor import CacheActor

pytestmark = pytest.mark.anyio

MIB = 1 << 20
NEW = itertools.count(1)
HOUR, DAY = 3600.0, 86400.0


class Clock:
    """The time of the day, as the cache and what dates rows read it."""

    def __init__(self) -> None:
        self.now = float(math.ceil(time.time()))

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", clock)
    monkeypatch.setattr(tree, "CacheActor", lambda: CacheActor(cache_clock.Clock(clock, clock)))
    return clock


@asynccontextmanager
async def small(
    backend: str, folder: Path, kind: Kind = "dense", **config: Any
) -> AsyncIterator[tuple[erllama.Runtime, erllama.Model]]:
    """A model that saves into a directory of a megabyte, where some twenty prompts have room."""
    tiers: Any = {"d": {"kind": "ram_file", "root": folder / "rows", "quota_bytes": MIB}}
    fields: Any = {
        "context_opts": {"n_ctx": 512, "n_seq_max": 1, "n_batch": 128, "n_ubatch": 64, "n_threads": 1},
        "policy": POLICY,
        "tier": "ram_file", "tier_srv": "d", **config,
    }  # fmt: skip
    if backend == "stub":
        window = {"n_swa": WINDOW} if kind == "window" else {}
        fields |= {"backend": "stub", "stub": {"memory": MEMORY[kind], **window}}
    else:
        fields |= {"model_path": tiny_gguf(kind, folder)}
    async with erllama.Runtime(tiers=tiers) as runtime:
        yield runtime, await runtime.load_model("m", fields)


def prompt() -> list[int]:
    """Two hundred tokens that no other prompt begins with."""
    number = next(NEW)
    return [10 + number % 200, 10 + number // 200, *([20] * 198)]


async def ask(model: erllama.Model, tokens: Any, **options: Any) -> erllama.Completion:
    """Two tokens of a reply."""
    return await model.complete(tokens, response_tokens=2, temperature=0.0, ignore_eos=True, **options)


async def press(runtime: erllama.Runtime, model: erllama.Model, count: int = 40, **options: Any) -> None:
    """So many other prompts that the tier cannot hold them all."""
    for _ in range(count):
        await ask(model, prompt(), **options)
        await runtime.cache.flush()


async def saved(model: erllama.Model, tokens: list[int]) -> int:
    """How much of a prompt is saved."""
    return (await model.explain(tokens)).hit_tokens


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
async def test_a_kept_prefix_outlasts_what_evicts_others(backend: str, tmp_path: Path, clock: Clock) -> None:
    """Until its time is over; a hit begins that anew, without asking again."""
    async with small(backend, tmp_path) as (runtime, model):
        kept, others = prompt(), [prompt() for _ in range(5)]
        done = await ask(model, kept, keep=[{"seconds": 3 * DAY}])
        for other in others:
            await ask(model, other)
        assert done.kept == (erllama.KeptPrefix(tokens=200, created=200, seconds=3 * DAY),)
        clock.now += 2 * DAY  # all of them are worth little now
        await press(runtime, model)
        assert await saved(model, kept) >= 192
        assert [await saved(model, other) for other in others] == [0] * 5
        (info,) = [one for one in await runtime.cache.tiers() if one.name == "d"]
        assert 0 < info.kept_bytes <= MIB // 4

        again = await ask(model, kept)
        assert again.cache_delta.read >= 192
        clock.now += 2 * DAY
        await press(runtime, model)
        assert await saved(model, kept) >= 192
        counters = await runtime.cache.counters()
        assert counters["keeps.rows"] > 0 < counters["keeps.renewed"]
        assert "keeps.refused" not in counters

        clock.now += DAY + 1.0
        await press(runtime, model)
        assert {row.kept_until for row in await runtime.cache.rows()} == {None}
        assert await saved(model, kept) == 0


async def test_two_requests_with_one_prefix_keep_it_once_and_the_second_renews_it(tmp_path: Path, clock: Clock) -> None:
    """What is there already is kept, and not created; the longer time counts."""
    async with small("stub", tmp_path) as (runtime, model):
        prefix = prompt()
        first = await ask(model, prefix, keep=[erllama.Keep(seconds=300)])
        await runtime.cache.flush()
        clock.now += 100.0
        second = await ask(model, [*prefix, 30, 31], keep=[{"seconds": HOUR}, {"seconds": 60}])
        await runtime.cache.flush()
        assert [one.created for one in first.kept] == [200]
        assert second.cache_delta.read >= 199
        assert all(0 < one.created <= second.cache_delta.created < 100 for one in second.kept)
        ends = [row.kept_until for row in await runtime.cache.rows() if row.end <= 192]
        assert set(ends) == {clock.now + HOUR}
        assert (await model.explain(prefix)).hit_tokens >= 192


@pytest.mark.slow
async def test_a_caller_cannot_fill_the_tier(tmp_path: Path, clock: Clock) -> None:
    """Every prompt is to be kept for a week: a quarter is, and the newest is saved all the same."""
    async with small("stub", tmp_path) as (runtime, model):
        first = prompt()
        await ask(model, first, keep=[{"seconds": 7 * 86400}])
        await press(runtime, model, keep=[{"seconds": 7 * 86400}])
        latest = prompt()
        await ask(model, latest)
        await runtime.cache.flush()
        assert await saved(model, first) >= 192
        assert await saved(model, latest) >= 192
        counters = await runtime.cache.counters()
        assert counters["keeps.refused"] > 0
        assert counters.get("saves.dropped.no_room", 0) == 0
        (info,) = [one for one in await runtime.cache.tiers() if one.name == "d"]
        assert info.kept_bytes <= MIB // 4 < info.used_bytes <= MIB
        assert await runtime.cache.evict_bytes(MIB, ["d"]) > 0  # memory that is short is short
        assert [row for row in await runtime.cache.rows() if row.tier == "d"] == []


@pytest.mark.parametrize("kind", ["dense", "window", "recurrent"])
async def test_a_row_ends_where_a_message_does_that_is_kept(kind: Kind, tmp_path: Path, clock: Clock) -> None:
    """Another conversation with the same first messages begins there, whatever kind of memory the model has."""
    system = {"role": "system", "content": "You are the keeper of a lighthouse. " * 2}
    first = {"role": "user", "content": "Tell me about the sea. " * 2}
    said = {"role": "assistant", "content": "It is deep."}
    given: dict[str, Any] = {"response_tokens": 2, "temperature": 0.0, "exact_turns": False}
    async with small("stub", tmp_path, kind) as (runtime, model):
        chat = [system, first, said, {"role": "user", "content": "How deep?"}]
        keep: Any = [{"message": 0, "seconds": HOUR}, {"message": 1, "seconds": 300}, {"message": 3, "seconds": 60}]
        done = await model.chat(chat, keep=keep, **given)
        await runtime.cache.flush()
        ends = [one.tokens for one in done.kept]
        assert 0 < ends[0] < ends[1] < ends[2] == done.prompt_tokens
        assert {row.end for row in await runtime.cache.rows() if row.reason != "turn"} >= {*ends[:2]}
        assert [one.created for one in done.kept] == ends
        await runtime.evict(model)
        other = await model.chat([system, first, {**said, "content": "Blue."}, chat[3]], keep=keep[:2], **given)
        assert other.cache_delta.read >= ends[1]
        assert [one.tokens for one in other.kept] == ends[:2]
        assert [one.created for one in other.kept] == [0, 0]
        tools = await model.chat(chat, keep=[{"message": "tools", "seconds": 60}], **given)
        assert [one.tokens for one in tools.kept] == ends[:1]


async def test_messages_around_a_recognised_reply_are_found(clock: Clock) -> None:
    """The prompt is what was read and sampled, which no rendering gives: ends before and after the reply are inside
    it."""
    async with thinker(*SIX) as (_, model, script):
        chat = [question(0)]
        done = await model.chat(chat, **ASKED)
        for number in range(1, 4):
            chat += next_messages(done, number)
            keep: Any = [{"message": place, "seconds": 60} for place in range(len(chat))][-8:]
            done = await model.chat(chat, keep=keep, **ASKED)
            ends = [one.tokens for one in done.kept]
            assert ends == sorted(ends)
            assert ends[0] > 0
            assert ends[-1] == done.prompt_tokens
            text = script.prompts[-1]
            for one, place in zip(done.kept, range(len(chat))[-8:], strict=True):
                content = chat[place].get("content")
                if content and chat[place]["role"] == "user":
                    assert content in (await model.detokenize(await tokens_up_to(model, text, one.tokens)))


async def tokens_up_to(model: erllama.Model, text: str, end: int) -> list[int]:
    """The first tokens of a prompt, as the stub reads it."""
    return (await model.tokenize(text))[:end]


@pytest.mark.parametrize(
    ("keep", "problem"),
    [
        ("5m", "expected a list"),
        ([{"seconds": 0}], r"keep\[0\].seconds"),
        ([{"seconds": 8 * 86400}], r"keep\[0\].seconds"),
        ([{"seconds": float("nan")}], r"keep\[0\].seconds"),
        ([{"seconds": 1}, {"message": 1}], r"keep\[1\].*it is needed|keep\[1\].seconds"),
        ([{"seconds": 1, "message": -1}], r"keep\[0\].message"),
        ([{"seconds": 1, "message": True}], r"keep\[0\].message"),
        ([{"seconds": 1, "message": "all"}], r"keep\[0\].message"),
        ([{"seconds": 1, "massage": 1}], "did you mean"),
        ([{"seconds": 1}] * 9, "at most 8, got 9"),
        ([{"seconds": 1, "message": 1}], "there is 1 message, and the first is 0, got 1"),
        ([5], r"keep\[0\]"),
    ],
)
async def test_what_makes_no_sense_is_refused_at_the_door(keep: Any, problem: str, tmp_path: Path) -> None:
    """With the path of what is wrong."""
    async with small("stub", tmp_path) as (_, model):
        with pytest.raises(erllama.InvalidOption, match=problem):
            await model.chat([{"role": "user", "content": "hello"}], keep=keep)
        with pytest.raises(erllama.InvalidOption, match="has no messages"):
            await model.complete("hello", keep=[{"seconds": 1, "message": 0}])


async def test_nothing_is_kept_where_nothing_is_saved(tmp_path: Path) -> None:
    """A prompt below the gate, and a model that saves nothing: no error, and the numbers say so."""
    async with small("stub", tmp_path) as (_, model):
        short = await ask(model, [1, 2, 3], keep=[{"seconds": 60}])
        assert short.kept == (erllama.KeptPrefix(tokens=3, created=0, seconds=60.0),)
    async with small("stub", tmp_path, policy={"min_tokens": None, "cold_min_tokens": None}) as (_, model):
        assert (await ask(model, prompt(), keep=[{"seconds": 60}])).kept[0].created == 0
