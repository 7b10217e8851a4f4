"""Spans of calls: one for each, with its phases, ended once, whatever comes of it, and without a word of any text."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from helpers.coming_back import coming_back, crash
from helpers.crowd import crowded, prompts, together
from helpers.runtime import STUB, slow_stub, stub_runtime, until
from helpers.scripted import scripted
from helpers.traces import Spans, attributes, provider_of, traced
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

import erllama_py as erllama
from erllama_py.handle import caller
from erllama_py.watch.tracer import tracer

CANARY = "heron-of-Lindau"
PROMPT = "hello " * 80


def seconds(span: ReadableSpan) -> float:
    """How long it took."""
    assert span.end_time is not None
    assert span.start_time is not None
    return (span.end_time - span.start_time) / 1e9


@pytest.mark.anyio
async def test_a_request_has_a_span_below_its_callers_with_its_phases() -> None:
    """In their order, without a gap, inside its own times; counts are the completion's."""
    with traced() as spans:
        async with stub_runtime() as (_, model):
            with trace.get_tracer("app").start_as_current_span("caller"):
                done = await model.complete(PROMPT, response_tokens=6, ignore_eos=True, seed=7)
    span = spans.one("text_completion m")
    phases = [name for name, _ in spans.tree(span)]
    assert spans.tree() == [("caller", [("text_completion m", [(name, []) for name in phases])])]
    assert phases[:2] == ["erllama.prepare", "erllama.queue"]
    assert {"erllama.find_prefix", "erllama.prefill", "erllama.decode", "erllama.save"} <= set(phases)
    children = spans.below(span)
    assert children[0].start_time == span.start_time
    assert all(one.end_time == other.start_time for one, other in itertools.pairwise(children))
    assert (children[-1].end_time or 0) <= (span.end_time or 0)
    known = attributes(span)
    assert known["gen_ai.operation.name"] == "text_completion"
    assert known["gen_ai.provider.name"] == "erllama"
    assert known["gen_ai.request.model"] == known["gen_ai.response.model"] == "m"
    assert known["gen_ai.request.seed"] == 7
    assert known["gen_ai.request.max_tokens"] == 6
    assert known["gen_ai.usage.input_tokens"] == done.prompt_tokens
    assert known["gen_ai.usage.output_tokens"] == len(done.generated) == 6
    assert known["gen_ai.response.finish_reasons"] == ("length",)
    assert known["erllama.cache.hit_kind"] == "cold"
    assert known["erllama.cache.miss_reason"] == done.stats.miss_reason
    assert "gen_ai.request.stream" not in known
    assert span.status.status_code is StatusCode.UNSET
    assert [event.name for event in span.events] == ["erllama.first_token"]
    decode = spans.one("erllama.decode")
    assert seconds(decode) == pytest.approx(done.stats.decode_seconds, abs=1e-5)
    assert abs((span.events[0].timestamp - (decode.start_time or 0)) / 1e9) < 1e-5


@pytest.mark.anyio
async def test_phases_and_the_engines_times_count_from_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes until the engine's count would begin: no phase is lost, and together they are its wait."""
    check = caller.Caller.check_generates

    def long(self: caller.Caller) -> None:
        end = time.monotonic() + 0.02
        while time.monotonic() < end:
            pass
        check(self)

    monkeypatch.setattr(caller.Caller, "check_generates", long)
    with traced() as spans:
        async with stub_runtime() as (_, model):
            done = await model.complete(PROMPT, response_tokens=2, ignore_eos=True)
    prepare, queue = (spans.one(f"erllama.{name}") for name in ("prepare", "queue"))
    assert seconds(prepare) > 0.02
    assert seconds(prepare) + seconds(queue) == pytest.approx(done.stats.queued_seconds, abs=1e-5)


@pytest.mark.anyio
async def test_a_hit_tells_what_was_restored_and_from_where() -> None:
    """Rows of a tier are put back; live cells are not."""
    with traced() as spans:
        async with stub_runtime() as (runtime, model):
            await model.complete(PROMPT, response_tokens=2, ignore_eos=True)
            await runtime.cache.flush()
            await model.unload()
            model = await runtime.load_model("m", STUB)
            done = await model.complete(PROMPT, response_tokens=2, ignore_eos=True)
    assert done.stats.tier == "ram"
    known = attributes(spans.named("text_completion m")[1])
    assert known["gen_ai.usage.cache_read.input_tokens"] == done.cache_delta.read > 0
    assert known["erllama.cache.tier"] == "ram"
    restored = attributes(spans.one("erllama.restore"))
    assert restored["erllama.cache.restored_tokens"] == done.cache_delta.read
    assert restored["erllama.cache.restored_bytes"] == done.stats.restored_bytes > 0


@pytest.mark.anyio
async def test_streams_sessions_prefills_and_alternatives_have_theirs() -> None:
    """A stream tells when its first piece came, a session is the conversation, alternatives are counted together."""
    with traced() as spans:
        async with stub_runtime() as (_, model):
            async with model.stream_chat([{"role": "user", "content": PROMPT}], response_tokens=3) as events:
                done = [event async for event in events][-1]
            async with model.session("the-session") as session:
                await session.chat("hello", response_tokens=2, ignore_eos=True)
            await model.prefill_only(PROMPT)
            several = await model.complete("hello", n=2, response_tokens=2, ignore_eos=True)
    assert isinstance(done, erllama.Done)
    stream, turn = (attributes(one) for one in spans.named("chat m"))
    assert stream["gen_ai.request.stream"] is True
    assert stream["gen_ai.response.time_to_first_chunk"] == done.completion.stats.first_token_seconds
    assert turn["gen_ai.conversation.id"] == "the-session"
    assert attributes(spans.one("prefill m"))["gen_ai.usage.output_tokens"] == 0
    both = attributes(spans.one("text_completion m"))
    assert both["gen_ai.request.choice.count"] == 2
    assert both["gen_ai.usage.output_tokens"] == sum(len(one.generated) for one in several.alternatives) == 4
    assert both["gen_ai.response.finish_reasons"] == ("length", "length")


@pytest.mark.anyio
async def test_a_call_that_is_refused_has_a_span_with_the_class_of_its_error() -> None:
    """Before there is a request, and without the text of the error, which may quote its caller."""
    with traced() as spans:
        async with stub_runtime() as (_, model):
            with pytest.raises(erllama.InvalidOption):
                await model.complete("hello", temperature=-1.0)
            with pytest.raises(erllama.ContextOverflow):
                await model.complete(CANARY * 3_000)
            with pytest.raises(erllama.CannotRank):
                await model.rerank("query", [CANARY])
            with pytest.raises(erllama.InvalidOption):
                await model.score(CANARY, ["a"], priority=CANARY)  # type: ignore[arg-type]  # as a caller may err
    found = [(one.name, attributes(one)["error.type"], one.status.status_code) for one in spans.all()]
    error = StatusCode.ERROR
    assert found == [
        ("text_completion m", "InvalidOption", error), ("text_completion m", "ContextOverflow", error),
        ("rerank m", "CannotRank", error), ("score m", "InvalidOption", error),
    ]  # fmt: skip
    assert {one.status.description for one in spans.all()} == {None}
    assert CANARY not in spans.text()


async def _cancelled(model: erllama.Model) -> None:
    task = asyncio.ensure_future(model.complete("hello"))
    await until(lambda: model.queue_depth == 1)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _cancelled_before_it_began(model: erllama.Model) -> None:
    task = asyncio.ensure_future(model.chat([{"role": "user", "content": "hello"}]))
    asyncio.get_running_loop().call_soon(task.cancel)
    with suppress(asyncio.CancelledError):
        await task


async def _left(model: erllama.Model) -> None:
    async with model.stream("hello"):
        pass
    await until(lambda: model.queue_depth == 0)


async def _by_id(model: erllama.Model) -> None:
    async with model.stream("hello") as events:
        model.cancel(events.request_id)
        assert [event async for event in events]


async def _late(model: erllama.Model) -> None:
    await model.complete("hello", deadline=0.01)


async def _crashed(model: erllama.Model) -> None:
    task = asyncio.ensure_future(model.complete("hello", on_crash="fail"))
    await until(lambda: model.queue_depth == 1)
    model.inject_fault("actor")
    with suppress(erllama.ModelCrashed):
        await task


async def _unloaded(model: erllama.Model) -> None:
    task = asyncio.ensure_future(model.complete("hello"))
    await until(lambda: model.queue_depth == 1)
    await model.unload()
    with suppress(erllama.ModelNotLoaded):
        await task


@pytest.mark.either_loop
@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("way", "reason", "error"),
    [
        (_cancelled, "error", None),
        (_cancelled_before_it_began, "error", None),
        (_left, "cancelled", None),
        (_by_id, "cancelled", None),
        (_late, "deadline", None),
        (_crashed, "error", "ModelCrashed"),
        (_unloaded, "error", "ModelNotLoaded"),
    ],
)
async def test_however_a_request_ends_its_span_ends_once(
    way: Callable[[erllama.Model], Awaitable[None]], reason: str, error: str | None
) -> None:
    """With the right status: who gives up is no error, a model that crashes is. Ending twice would be logged, and
    warnings are errors."""
    with traced() as spans:
        async with slow_stub() as (_, model, gate):
            await way(model)
            gate.set()
    (found,) = [one for one in spans.all() if one.parent is None]
    known = attributes(found)
    assert known["gen_ai.response.finish_reasons"] == (reason,)
    assert known.get("error.type") == error
    assert found.status.status_code is (StatusCode.UNSET if error is None else StatusCode.ERROR)
    assert known.get("erllama.cancelled", False) is (reason == "error" and error is None)


@pytest.mark.anyio
async def test_embeddings_and_scores_have_spans_with_their_counts() -> None:
    """A ranking by scores has those of its documents below it."""
    with traced() as spans:
        async with stub_runtime() as (_, model):
            vectors = await model.embed(["one", "two words"])
            scores = await model.score("hello", ["a", "b"])
            await model.rerank("query", ["one", "two"], method="score")
    known = attributes(spans.one("embeddings m"))
    assert known["gen_ai.usage.input_tokens"] == sum(vectors.token_counts)
    assert known["gen_ai.embeddings.dimension.count"] == len(vectors.vectors[0])
    assert attributes(spans.named("score m")[0])["gen_ai.usage.input_tokens"] > scores.prompt_tokens
    ranking = spans.one("rerank m")
    assert attributes(ranking)["erllama.documents"] == 2
    assert [name for name, _ in spans.tree(ranking)] == ["score m", "score m"]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def fail(what: str) -> int:
    """Fail."""
    with trace.get_tracer("app").start_as_current_span("inside the tool"):
        raise LookupError(what)


@pytest.mark.anyio
async def test_a_run_of_tools_has_its_replies_and_calls_below_it() -> None:
    """What a tool makes lies below its call, on whatever thread it runs. A tool that is not there has no name: that is
    what the model wrote."""
    replies = (
        '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>',
        f'<tool_call>\n{{"name": "fail", "arguments": {{"what": "{CANARY}"}}}}\n</tool_call>',
        "3",
    )
    with traced() as spans:
        async with scripted(*replies, controls=("<tool_call>", "</tool_call>")) as (_, model, _):
            result = await model.run_tools([{"role": "user", "content": CANARY}], tools=[add, fail])
    run = spans.one("invoke_agent m")
    names = [name for name, _ in spans.tree(run)]
    assert names == ["chat m", "execute_tool add", "chat m", "execute_tool fail", "chat m"]
    assert attributes(run)["erllama.tool_run.ended"] == "answer"
    assert attributes(run)["erllama.tool_run.rounds"] == result.rounds == 3
    assert attributes(spans.one("execute_tool add"))["gen_ai.tool.name"] == "add"
    bad = spans.one("execute_tool fail")
    assert (attributes(bad)["error.type"], bad.status.status_code) == ("LookupError", StatusCode.ERROR)
    assert [name for name, _ in spans.tree(bad)] == ["inside the tool"]
    reasons = [attributes(one)["gen_ai.response.finish_reasons"] for one in spans.named("chat m")]
    assert reasons == [("tool_call",), ("tool_call",), ("stop",)]
    ours = [one.to_json() for one in spans.all() if one.name != "inside the tool"]
    assert CANARY not in "\n".join(ours)


@pytest.mark.anyio
async def test_no_span_holds_a_word_of_a_prompt_or_a_reply() -> None:
    """Nor of what ends a reply, shapes it, or is said of a tool; in no attribute, event or status."""
    message = {"role": "user", "content": CANARY}
    told: Any = {
        "stop_sequences": [CANARY], "template_kwargs": {"x": CANARY}, "response_tokens": 4,
        "tools": [{"type": "function", "function": {"name": "find", "description": CANARY, "parameters": {}}}],
    }  # fmt: skip
    with traced() as spans:
        async with scripted(*[f"<think>\n{CANARY}</think>{CANARY}"] * 8) as (_, model, _):
            await model.complete(CANARY)
            await model.chat([message], **told)
            await model.complete(CANARY, json_schema={"enum": [CANARY]})
            await model.complete(CANARY, choice=[CANARY, "other"])
            async with model.session(messages=[message]) as session, session.stream_chat(CANARY) as events:
                assert [event async for event in events]
            await model.score(CANARY, [CANARY])
            with pytest.raises(erllama.ErllamaError):
                await model.chat([{"role": CANARY, "content": [CANARY]}])
            with pytest.raises(erllama.ErllamaError):
                await model.complete("a", grammar=CANARY)
    assert len(spans.all()) > 20
    assert CANARY not in spans.text()


@pytest.mark.anyio
@pytest.mark.parametrize("provider", [None, trace.NoOpTracerProvider()])
async def test_without_an_sdk_there_is_no_tracer(provider: trace.TracerProvider | None) -> None:
    """The provider of the API alone makes nothing, so nothing is made for it."""
    with provider_of(provider):
        assert tracer() is None
        async with stub_runtime() as (_, model):
            assert (await model.complete("hello", response_tokens=1)).generated


@pytest.mark.anyio
async def test_without_the_package_nothing_of_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import of it would fail here."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", None)
    assert tracer() is None
    async with stub_runtime() as (_, model):
        assert (await model.complete("hello", response_tokens=1)).generated


@pytest.mark.anyio
async def test_a_provider_that_is_set_later_is_found() -> None:
    """By the next request: an application may set it up at any time."""
    async with stub_runtime() as (_, model):
        await model.complete("hello", response_tokens=1)
        with traced() as spans:
            await model.complete("hello", response_tokens=1)
        await model.complete("hello", response_tokens=1)
    assert len(spans.named("text_completion m")) == 1


@pytest.mark.anyio
async def test_a_request_that_is_parked_tells_how_often() -> None:
    """Its cells went to others of a higher rank."""
    with traced() as spans:
        async with crowded() as (_, model):
            replies = await together(model, prompts(3), {}, {}, {"priority": 1})
    parks = sorted(reply.stats.parks for reply in replies)
    assert parks[-1] > 0
    assert sorted(attributes(one)["erllama.parks"] for one in spans.named(f"text_completion {model.id}")) == parks


@pytest.mark.anyio
async def test_a_request_that_goes_on_after_a_crash_tells_how_often() -> None:
    """It has one span, over all of its lives."""
    with traced() as spans:
        async with coming_back() as (_, model, comings):
            async with model.stream("hello", response_tokens=40, ignore_eos=True) as stream:
                await anext(stream)
                await crash(model, comings)
                comings.back.set()
                last = [event async for event in stream][-1]
            await model.complete("hello", response_tokens=1)
    assert isinstance(last, erllama.Done)
    assert last.completion.stats.crashes == 1
    assert [attributes(one)["erllama.crashes"] for one in spans.named("text_completion m")] == [1, 0]


def test_spans_are_compared_by_their_begin() -> None:
    """The helper itself: without spans there is no tree."""
    with traced() as spans:
        pass
    assert isinstance(spans, Spans)
    assert spans.tree() == []
