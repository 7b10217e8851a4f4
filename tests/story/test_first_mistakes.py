"""What is written in the first hours, by habit from another library too, and the sentence that answers it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import pytest

import erllama_py as erllama

pytestmark = pytest.mark.anyio

STUB: Any = {"backend": "stub"}
HI = [{"role": "user", "content": "hi"}]

LOADS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda rt: rt.load_model("tiny"), "'tiny' alone is an id: give the file too, as in load_model(\"model.gguf\")"),
    (lambda rt: rt.load_model("https://a.b/tiny.gguf"), "this is an address; a path of a GGUF file is expected, or"),
    (lambda rt: rt.load_model("m", 3), "expected a mapping, such as"),
    (lambda rt: rt.load_model("tiny.gguf", n_ctx=9), "did you mean 'context_opts.n_ctx'?"),
    (lambda rt: rt.load_model("tiny.gguf", n_gpu_layers=-1), "did you mean 'model_opts.n_gpu_layers'?"),
    (lambda rt: rt.load_model("m", {**STUB, "num_ctx": 9}), "did you mean 'context_opts.n_ctx'?"),
    (
        lambda rt: rt.load_model("m", {**STUB, "temperature": 0.1}),
        "it is an option of each request, of `complete` and `chat`: temperature",
    ),
    (
        lambda rt: rt.load_model("m", {**STUB, "tier": "disk"}),
        """no tier of the kind 'disk' is running: Runtime(tiers={"disk": {"kind": "disk", "root": "/a/directory"}})""",
    ),
    (
        lambda rt: rt.load_model("m", {**STUB, "tier": "disk", "tier_srv": "ram"}),
        "tier_srv names 'ram', a tier of the kind 'ram', but",
    ),
    (lambda rt: rt.start_tier("disk", path="/srv/kvc"), "'path': there is no such option"),
    (lambda rt: rt.start_tier("disk", {"kind": "disk", "path": "/srv/kvc"}), "did you mean 'spec.root'?"),
    (lambda rt: rt.load_model("m", STUB, on_progress=True), "'on_progress': expected a function, got bool"),
    (lambda rt: rt.start_tier("disk", "/srv/kvc"), "'spec': expected DiskTier, RamFileTier or a mapping, got str"),
    (lambda rt: rt.supervise("a", HI), "expected a coroutine function, not called yet, got list"),
    (lambda rt: rt.supervise("a", print, limits={"intensty": 3}), "did you mean 'limits.intensity'?"),
]

CALLS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda model: model.complete(None), "a prompt is a str or a list of token ids, not NoneType"),
    (lambda model: model.complete(HI), "a token id is an int, not dict; messages go to `chat`"),
    (
        lambda model: model.chat("hi"),
        'messages are a list of mappings, such as [{"role": "user", "content": "…"}], not',
    ),
    (lambda model: model.complete("a", max_tokens=3), "did you mean 'response_tokens'?"),
    (lambda model: model.complete("a", num_predict=3), "did you mean 'response_tokens'?"),
    (lambda model: model.complete("a", stop=["b"]), "did you mean 'stop_sequences'?"),
    (lambda model: model.complete("a", repeat_penalty=1.1), "did you mean 'repetition_penalty'?"),
    (lambda model: model.complete("a", stream=True), "the calls `stream` and `stream_chat` stream"),
    (lambda model: model.complete("a", echo=True), "a reply never repeats its prompt; prompt_logprobs scores one"),
    (lambda model: model.complete("a", wxyz=True), "there is no such option; there are temperature, dynatemp_"),
    (lambda model: model.complete(HI[0]), "not dict; messages go to `chat`"),
    (lambda model: model.complete(["a", "b"]), "a token id is an int, not str; several texts are several calls"),
    (lambda model: model.complete("a", logprobs=True), "how many of the likeliest tokens, such as 5, got True"),
    (
        lambda model: model.chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "…"}}]}]),
        "not one of the type 'image_url': images, audio and files are not read, only text",
    ),
    (
        lambda model: model.chat([{"role": "user", "content": "What is this?", "images": ["…"]}]),
        "message 1 has 'images': images, audio and files are not read, only text",
    ),
    (lambda model: model.chat(HI, system="x"), 'it is a message: {"role": "system"'),
    (lambda model: model.chat(HI, num_ctx=9), "it is set when the model is loaded: context_opts.n_ctx"),
    (lambda model: model.chat(HI, reasoning_effort="low"), 'template_kwargs={"reasoning_effort": "low"}'),
    (lambda model: model.run_tools(list(HI), tools=[], max_steps=3), "did you mean 'max_rounds'?"),
    (lambda model: model.run_tools(list(HI), tools=[], max_round=3), "did you mean 'max_rounds'?"),
    (lambda model: model.embed("a", truncate_dim=3), "did you mean 'dimensions'?"),
    (lambda model: model.embed("a", normalize_embeddings=True), "did you mean 'normalize'?"),
    (
        lambda model: model.rerank("a", [{"text": "b"}]),
        "document 0: a str or a list of token ids is expected, not dict",
    ),
    (lambda model: model.complete("a", options={"topk": 1}), "did you mean 'top_k'?"),
    (lambda model: model.complete("a", options=[1]), "expected a mapping or RequestOptions, got list"),
    (lambda model: model.detokenize("abc"), "expected a list of token ids, not str"),
]


@pytest.mark.parametrize(("call", "answer"), LOADS, ids=range(len(LOADS)))
async def test_a_mistake_with_a_runtime_is_answered(call: Callable[[Any], Any], answer: str) -> None:
    """What was wrong, and what is right."""
    async with erllama.Runtime() as runtime:
        with pytest.raises(erllama.ErllamaError) as error:
            await call(runtime)
    assert answer in str(error.value)


@pytest.mark.parametrize(("call", "answer"), CALLS, ids=range(len(CALLS)))
async def test_a_mistake_in_a_call_is_answered(call: Callable[[Any], Any], answer: str) -> None:
    """What was wrong, and what is right."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", STUB)
        with pytest.raises(erllama.ErllamaError) as error:
            await call(model)
    assert answer in str(error.value)


async def test_what_can_only_mean_one_thing_works() -> None:
    """A tier by its kind alone, or by its name alone; -1 where others write it for off, or for any."""
    with TemporaryDirectory() as folder:
        async with erllama.Runtime(tiers={"mine": erllama.DiskTier(folder)}) as runtime:
            by_kind = await runtime.load_model("a", backend="stub", tier="disk")
            by_name = await runtime.load_model("b", STUB, tier_srv="mine")
            for model in (by_kind, by_name):
                assert (model.info.config.tier_srv, model.info.config.tier) == ("mine", "disk")
            assert (await by_kind.complete("a", response_tokens=2, top_k=-1, seed=-1, temperature=1.0)).stats.seed >= 0


async def test_a_kind_that_several_tiers_have_is_asked_for() -> None:
    """By name; nothing is chosen."""
    with TemporaryDirectory() as folder:
        tiers = {name: erllama.DiskTier(f"{folder}/{name}") for name in "ab"}
        async with erllama.Runtime(tiers=tiers) as runtime:
            with pytest.raises(erllama.InvalidOption, match="several tiers of the kind 'disk' run: one of a, b"):
                await runtime.load_model("m", STUB, tier="disk")


@pytest.mark.parametrize("name", ["generate", "create_chat_completion", "create_completion", "invoke", "encode"])
def test_a_method_of_another_library_leads_to_ours(name: str) -> None:
    """An `AttributeError` still, as programs that look for it expect."""
    with pytest.raises(AttributeError, match=r"(complete|chat|embed)\("):
        getattr(object.__new__(erllama.Model), name)


async def test_a_runtime_without_its_block_is_answered() -> None:
    """The sentence has the block."""
    with pytest.raises(erllama.RuntimeClosed, match=r"async with Runtime\(\) as runtime"):
        await erllama.Runtime().load_model("m", STUB)


async def test_what_is_no_request_is_not_cancelled() -> None:
    """A name, or the stream itself, was taken for the id of a request that is over."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", STUB)
        given: tuple[Any, ...] = ("1", None, True, model.stream("a"))
        for request_id in given:
            with pytest.raises(erllama.InvalidOption, match="the id of a request is expected"):
                model.cancel(request_id)


async def test_a_text_is_no_beginning_of_a_session() -> None:
    """It was taken for a user's message, where a system prompt was meant."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", STUB)
        given: tuple[Any, ...] = ("You are short.", {"role": "system", "content": "You are short."})
        for messages in given:
            with pytest.raises(erllama.ChatTemplateError, match="messages are a list of mappings"):
                model.session(messages=messages)


def test_a_runtime_that_is_left_open_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """`asyncio.run` cancels its tasks at the end: the log asks for the block, and shows no traceback."""

    async def leave_open() -> None:
        await erllama.Runtime().__aenter__()

    asyncio.run(leave_open())
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert "was its block not left before the loop ended?" in record.message
    assert record.exc_info is None
