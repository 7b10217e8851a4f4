"""Requests through the runtime, end to end, with the stub backend."""

from __future__ import annotations

from functools import partial
from typing import Any

import anyio
import pytest
from helpers.runtime import STUB, drain, slow_stub, stub_runtime, until, untyped

import erllama_py as erllama

pytestmark = pytest.mark.anyio


async def test_a_prompt_is_answered() -> None:
    """The completion carries reply, counts, reason and times."""
    async with stub_runtime() as (_, model):
        done = await model.complete("hello", response_tokens=8, temperature=0.0)
    assert done.reply
    assert (done.prompt_tokens, len(done.generated), done.context_tokens) == (5, 8, 13)
    assert (done.finish_reason, done.cache_hit_kind, done.finish_key) == ("length", "cold", None)
    assert done.stats.prefill_tokens == 5
    assert done.stats.miss_reason == "prompts below min_tokens (128) are not saved"


async def test_text_and_its_tokens_are_the_same_prompt() -> None:
    """A prompt is a str or a list of token ids."""
    async with stub_runtime() as (_, model):
        tokens = await model.tokenize("hello")
        text = await model.complete("hello", response_tokens=8, temperature=0.0)
        assert (await model.complete(tokens, response_tokens=8, temperature=0.0)).reply == text.reply


async def test_by_handle_and_by_id_are_the_same() -> None:
    """`runtime.complete("id", …)` is `model.complete(…)`."""
    async with stub_runtime() as (runtime, model):
        one = await model.complete("hello", temperature=0.0)
        two = await runtime.complete(model.id, "hello", temperature=0.0)
        three = await runtime.complete(model, "hello", temperature=0.0)
    assert one.reply == two.reply == three.reply


async def test_a_stream_brings_text_and_ends_with_done() -> None:
    """The deltas together are the reply; `Done` is the last event."""
    async with stub_runtime() as (_, model), model.stream("hello", response_tokens=20, temperature=0.0) as events:
        seen = [event async for event in events]
    done = seen[-1]
    assert isinstance(done, erllama.Done)
    deltas = [event for event in seen if isinstance(event, erllama.TextDelta)]
    assert "".join(delta.text for delta in deltas) == done.completion.reply
    assert [t for delta in deltas for t in delta.token_ids] == done.completion.generated
    assert isinstance(seen[0], erllama.Progress)


async def test_the_next_turn_reuses_the_live_cells() -> None:
    """A prompt that goes on where the last reply ended computes only what is new, with the same reply as cold."""
    async with stub_runtime() as (runtime, model):
        first = await model.complete("hello", response_tokens=8, temperature=0.0)
        prompt = "hello" + first.reply + " and then"
        warm = await model.complete(prompt, response_tokens=8, temperature=0.0)
        other = await runtime.load_model("cold", STUB)
        cold = await other.complete(prompt, response_tokens=8, temperature=0.0)
    assert warm.cache_hit_kind == "live"
    assert warm.cache_delta.read == 12
    assert warm.stats.prefill_tokens == len(prompt) - 12
    assert warm.reply == cold.reply


async def test_an_exact_repeat_computes_nothing() -> None:
    """All of the prompt is kept, and so are the logits at its end: the first token needs no decode."""
    async with stub_runtime() as (_, model):
        first = await model.complete("hello", response_tokens=8, temperature=0.0)
        again = await model.complete("hello", response_tokens=8, temperature=0.0)
    assert again.reply == first.reply
    assert again.stats.prefill_tokens == 0


async def test_a_stop_sequence_ends_the_reply_where_it_begins() -> None:
    """It is reported, never part of the text, and the engine stops by itself: no token is decoded after it."""
    async with stub_runtime() as (_, model):
        whole = await model.complete("hello", response_tokens=30, temperature=0.0)
        stop = whole.reply[6:9]
        cut = await model.complete("hello", response_tokens=30, temperature=0.0, stop_sequences=[stop])
    end = whole.reply.index(stop)
    assert cut.reply == whole.reply[:end]
    assert (cut.finish_reason, cut.stop_sequence) == ("stop", stop)
    assert len(cut.generated) == end + len(stop)


async def test_a_seed_repeats_a_draw_and_another_changes_it() -> None:
    """The seed that was used is in the stats, also when the runtime drew it."""
    async with stub_runtime() as (_, model):
        first = await model.complete("hello", response_tokens=16, temperature=1.0)
        again = await model.complete("hello", response_tokens=16, temperature=1.0, seed=first.stats.seed)
        seeds = [first.stats.seed ^ bit for bit in (1, 2, 4, 8)]  # some may end at once, but not all
        other = [await model.complete("hello", response_tokens=16, temperature=1.0, seed=seed) for seed in seeds]
    assert first.reply == again.reply
    assert {reply.reply for reply in other} != {first.reply}


async def test_a_chat_goes_through_the_models_template() -> None:
    """The messages are rendered and read with control tokens."""
    messages = [{"role": "user", "content": "hi"}]
    async with stub_runtime() as (_, model):
        tokens = await model.apply_chat_template(messages)
        assert await model.detokenize(tokens) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
        assert tokens[0] == 257
        chat = await model.chat(messages, temperature=0.0)
        assert chat.reply == (await model.complete(tokens, temperature=0.0)).reply
        async with model.stream_chat(messages, temperature=0.0) as events:
            last = [event async for event in events][-1]
        assert isinstance(last, erllama.Done)
        assert last.completion.reply == chat.reply


async def test_requests_wait_in_order_and_show_in_the_probes() -> None:
    """One runs, the others wait; first in, first out."""
    async with slow_stub() as (runtime, model, gate), anyio.create_task_group() as group:
        ended: list[int] = []

        async def ask(number: int) -> None:
            await model.complete(f"prompt {number}", response_tokens=2, temperature=0.0)
            ended.append(number)

        for number in range(3):
            group.start_soon(ask, number)
            await until(partial(lambda depth: model.queue_depth == depth, number + 1))
        assert (model.phase, model.pending_len, runtime.pending_len(model)) == ("prefilling", 2, 2)
        assert runtime.queue_depth() == 3
        gate.set()
        await until(lambda: len(ended) == 3)
        assert ended == [0, 1, 2]
        assert model.queue_depth == 0


async def test_a_caller_that_is_cancelled_cancels_its_request() -> None:
    """Running or waiting: the model is free for the next one."""
    async with slow_stub() as (_, model, gate):
        async with anyio.create_task_group() as group:
            group.start_soon(model.complete, "running")
            await until(lambda: model.queue_depth == 1)
            group.start_soon(model.complete, "waiting")
            await until(lambda: model.queue_depth == 2)
            group.cancel_scope.cancel()
        await until(lambda: model.queue_depth == 0)
        gate.set()
        assert (await model.complete("next", response_tokens=2, temperature=0.0)).finish_reason in ("length", "stop")


async def test_a_cancelled_stream_ends_with_done() -> None:
    """Also when it had not begun; and cancelling twice is allowed."""
    async with slow_stub() as (runtime, model, _):
        async with model.stream("hello") as events:
            events.cancel()
            runtime.cancel(model, events.request_id)
            seen = [event async for event in events]
        assert isinstance(seen[-1], erllama.Done)
        assert seen[-1].completion.finish_reason == "cancelled"


async def test_leaving_a_stream_cancels_it() -> None:
    """The block's end is enough; no event needs to be read."""
    async with slow_stub() as (_, model, gate):
        async with model.stream("hello"):
            await until(lambda: model.queue_depth == 1)
        await until(lambda: model.queue_depth == 0)
        gate.set()
        assert (await model.complete("hello", response_tokens=1, temperature=0.0)).generated


async def test_a_stream_is_entered_once_and_only_read_inside() -> None:
    """Misuse is a clear error."""
    async with stub_runtime() as (_, model):
        stream = model.stream("hello", response_tokens=1, temperature=0.0)
        with pytest.raises(erllama.ErllamaError, match="inside its block"):
            _ = stream.request_id
        async with stream:
            pass
        with pytest.raises(erllama.ErllamaError, match="entered once"):
            await stream.__aenter__()


async def test_two_models_answer_side_by_side() -> None:
    """One that stands still does not hold up the other."""
    async with slow_stub() as (runtime, slow, _), anyio.create_task_group() as group:
        group.start_soon(slow.complete, "hello")
        await until(lambda: slow.queue_depth == 1)
        quick = await runtime.load_model("quick", STUB)
        assert (await quick.complete("hello", response_tokens=4, temperature=0.0)).generated
        assert slow.queue_depth == 1
        group.cancel_scope.cancel()


async def test_probes_tell_what_a_model_is() -> None:
    """`model_info`, `list_models`, `phase`, `last_cache_hit`, without a message to the model."""
    async with stub_runtime() as (runtime, model):
        info = runtime.model_info(model)
        assert (info.id, info.phase, info.context_size, info.quant_type) == ("m", "idle", 2048, "stub")
        assert [one.id for one in runtime.list_models()] == ["m"]
        assert runtime.last_cache_hit(model) is None
        await model.complete("hello", response_tokens=1, temperature=0.0)
        assert runtime.last_cache_hit(model) == erllama.CacheHit("cold", 0)
        assert runtime.phase(model) == "idle"
        assert repr(model) == "<Model 'm' idle, 0 pending>"


BAD_REQUESTS: list[tuple[str, Any, dict[str, Any], type[erllama.ErllamaError]]] = [
    ("empty text", "", {}, erllama.EmptyPrompt),
    ("empty list", [], {}, erllama.EmptyPrompt),
    ("past the context", "x" * 2048, {}, erllama.ContextOverflow),
    ("token past the vocabulary", [5, 320], {}, erllama.TokenOutOfRange),
    ("negative token", [-1], {}, erllama.TokenOutOfRange),
    ("a token that is no int", ["a"], {}, erllama.RequestError),
    ("a token that is a bool", [True], {}, erllama.RequestError),
    ("bytes", b"hello", {}, erllama.RequestError),
    ("nothing", None, {}, erllama.RequestError),
    ("a lone surrogate", "a\ud800b", {}, erllama.InvalidText),
    ("response_tokens 0", "hi", {"response_tokens": 0}, erllama.InvalidOption),
    ("response_tokens negative", "hi", {"response_tokens": -1}, erllama.InvalidOption),
    ("response_tokens a str", "hi", {"response_tokens": "8"}, erllama.InvalidOption),
    ("unknown option", "hi", {"temprature": 1.0}, erllama.InvalidOption),
    ("temperature negative", "hi", {"temperature": -0.1}, erllama.InvalidOption),
    ("top_p 0", "hi", {"top_p": 0.0}, erllama.InvalidOption),
    ("seed too wide", "hi", {"seed": 1 << 32}, erllama.InvalidOption),
    ("empty stop sequence", "hi", {"stop_sequences": [""]}, erllama.InvalidOption),
    ("bad grammar", "hi", {"grammar": "no such rule"}, erllama.InvalidGrammar),
]


@pytest.mark.parametrize(("prompt", "options", "error"), [pytest.param(*row[1:], id=row[0]) for row in BAD_REQUESTS])
async def test_a_bad_request_fails_alone(prompt: Any, options: dict[str, Any], error: type[Exception]) -> None:
    """Its own error class, from `complete` and from `stream`; the model goes on."""
    async with stub_runtime() as (_, model):
        with pytest.raises(error):
            await model.complete(prompt, **options)
        with pytest.raises(error):
            await drain(model.stream(prompt, **options))
        assert (await model.complete("hello", response_tokens=1, temperature=0.0)).generated


@pytest.mark.parametrize("tokens", [None, 5, "abc", b"abc", [1.5], [-1], [320]])
async def test_detokenize_refuses_what_is_no_list_of_tokens(tokens: Any) -> None:
    """As a prompt does."""
    async with stub_runtime() as (_, model):
        with pytest.raises(erllama.RequestError):
            await model.detokenize(tokens)


@pytest.mark.parametrize("text", [None, 5, b"abc", ["abc"], "\ud800"])
async def test_tokenize_refuses_what_is_no_text(text: Any) -> None:
    """Bytes have no encoding of their own, and a lone surrogate has no UTF-8 form."""
    async with stub_runtime() as (_, model):
        with pytest.raises(erllama.InvalidText):
            await model.tokenize(text)


async def test_an_unknown_option_names_the_nearest() -> None:
    """A typo is answered with the name that was meant."""
    async with stub_runtime() as (_, model):
        with pytest.raises(erllama.InvalidOption) as caught:
            await model.complete("hello", **untyped(temprature=1.0))
    assert caught.value.nearest == "temperature"


async def test_a_prompt_that_fills_the_context_gets_one_token() -> None:
    """One token less than the context is the longest prompt."""
    async with stub_runtime() as (_, model):
        done = await model.complete("x" * 2047, response_tokens=50)
    assert len(done.generated) <= 1
    assert done.context_tokens <= 2048


async def test_a_stream_is_not_read_after_its_block() -> None:
    """No event would come, and no error would say why."""
    async with stub_runtime() as (_, model):
        async with model.stream("hello", response_tokens=4) as events:
            pass
        with pytest.raises(erllama.StreamMisused, match="inside its block"):
            [event async for event in events]
