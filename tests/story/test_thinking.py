"""Thinking, told from text, closed and signed: on the scripted stub, whose replies are given."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest
from helpers.runtime import drain
from helpers.scripted import scripted

import erllama_py as erllama
from erllama_py.chat.conversation import with_thoughts

pytestmark = pytest.mark.anyio

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['reasoning_content'] %}<think>\n{{ m['reasoning_content'] }}\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
OPENED = TEMPLATE.replace("<think>\n\n</think>\n\n{% endif %}", "<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}")
KINDS: dict[str, dict[str, Any]] = {
    "text": {}, "words": {"words": ("<think>", "</think>")}, "controls": {"controls": ("<think>", "</think>")},
}  # fmt: skip
ASK = [{"role": "user", "content": "hello"}]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> dict[str, Any]:
    """How markers are tokens: not at all, visible ones, or hidden ones."""
    return KINDS[request.param]


async def test_thinking_is_told_from_text(kind: dict[str, Any]) -> None:
    """In the completion, and in the events of a stream."""
    async with scripted("<think>\nhm, so\n</think>\n\nyes", template=TEMPLATE, **kind) as (_, model, _script):
        completion = await model.chat(ASK)
        assert (completion.thinking, completion.reply) == ("hm, so", "yes")
        *events, done = await drain(model.stream_chat(ASK))
        kinds = [type(event) for event in events if not isinstance(event, erllama.Progress)]
        assert "".join(one.text for one in events if isinstance(one, erllama.ThinkingDelta)) == "hm, so"
        assert "".join(one.text for one in events if isinstance(one, erllama.TextDelta)) == "yes"
        assert kinds.count(erllama.ThinkingEnd) == 1
        assert isinstance(done, erllama.Done)
        assert done.completion.generated == completion.generated


async def test_a_template_opens_the_block(kind: dict[str, Any]) -> None:
    """The reply then begins in it."""
    async with scripted("hm</think>yes", template=OPENED, **kind) as (_, model, script):
        completion = await model.chat(ASK)
        assert (completion.thinking, completion.reply) == ("hm", "yes")
        assert script.prompts[0].endswith("<think>\n")


async def test_a_budget_closes_the_block(kind: dict[str, Any]) -> None:
    """After so many tokens, with a message that is part of the thinking."""
    script = "<think>abcdefgh</think>yes"
    async with scripted(script, template=TEMPLATE, **kind) as (_, model, _script):
        completion = await model.chat(ASK, thinking_budget_tokens=3, thinking_budget_message="… enough")
        assert (completion.thinking, completion.reply) == ("abc… enough", "yes")
        completion = await model.chat(ASK, thinking_budget_tokens=0)
        assert (completion.thinking, completion.reply) == ("", "yes")
        completion = await model.chat(ASK, thinking_budget_tokens=8)
        assert (completion.thinking, completion.reply) == ("abcdefgh", "yes")


async def test_a_block_that_is_opened_and_closed_is_over() -> None:
    """As templates write it where thinking is off: the reply begins in text."""
    async with scripted("yes", template=TEMPLATE, **KINDS["words"]) as (_, model, script):
        completion = await model.chat(ASK, thinking=False)
        assert (completion.thinking, completion.reply) == (None, "yes")
        assert script.prompts[0].endswith("<think>\n\n</think>\n\n")
        await model.chat(ASK, thinking=True)
        assert script.prompts[1].endswith("assistant\n")


@pytest.mark.parametrize(
    ("template", "given", "option"),
    [
        (PLAIN, {"thinking": True}, "thinking"), (PLAIN, {"thinking": False}, "thinking"),
        (PLAIN, {"thinking_budget_tokens": 5}, "thinking_budget_tokens"),
        (PLAIN + "{# </think> #}", {"thinking": True}, "thinking"),
        (PLAIN + "{# </think> #}{{ reasoning_effort }}", {"thinking": False}, "thinking"),
        (TEMPLATE, {"thinking": True, "template_kwargs": {"enable_thinking": True}}, "thinking"),
        (TEMPLATE, {"thinking_budget_message": "so</think>"}, "thinking_budget_message"),
    ],
)  # fmt: skip
async def test_what_the_model_cannot_do_is_refused(template: str, given: dict[str, Any], option: str) -> None:
    """Before there is a request, with the reason."""
    async with scripted("yes", template=template) as (_, model, script):
        for chat in (model.chat, model.session().chat):
            with pytest.raises(erllama.InvalidOption) as caught:
                await chat(ASK, **given)
            assert caught.value.option == option
        assert script.prompts == []


async def test_the_thinking_of_a_text_is_told_apart_where_that_is_asked() -> None:
    """Its marks may be there for other reasons."""
    reply = "<think>abc</think>yes"
    async with scripted(reply, template=TEMPLATE, **KINDS["words"]) as (_, model, _script):
        plain = await model.complete("hello")
        assert (plain.thinking, plain.reply) == (None, reply)
        asks: list[Any] = [
            {"thinking": True}, {"thinking_budget_tokens": 9}, {"thinking_markers": ("<think>", "</think>")},
        ]  # fmt: skip
        for asked in asks:
            told = await model.complete("hello", options=asked)
            assert (told.thinking, told.reply) == ("abc", "yes")
        opened = await model.complete("hello<think>\n", thinking=True)
        assert opened.thinking is not None
        with pytest.raises(erllama.InvalidOption, match="no chat template that could turn it off"):
            await model.complete("hello", thinking=False)
    async with scripted("x", template=PLAIN) as (_, model, _script):
        with pytest.raises(erllama.InvalidOption, match="give thinking_markers"):
            await model.complete("hello", thinking=True)


async def test_markers_can_be_given() -> None:
    """Of the model and of a request, with or without white space around them; or there are none."""
    reply = "<a>\nhm\n</a>yes<b>or</b>no"
    async with scripted(reply, template=PLAIN, thinking_markers=("<a>\n", "</a>")) as (_, model, _script):
        first = await model.chat(ASK)
        assert (first.thinking, first.reply) == ("hm", "yes<b>or</b>no")
        other = await model.chat(ASK, thinking_markers=["<b>", "</b>"])
        assert (other.thinking, other.reply) == ("or", "<a>\nhm\n</a>yesno")
        none = await model.chat(ASK, thinking_markers=False)
        assert (none.thinking, none.reply) == (None, reply)


async def test_thinking_comes_before_a_structure(kind: dict[str, Any]) -> None:
    """It is free; what follows obeys, also where the block is closed for the model."""
    async with scripted('<think>\nhm {"a" </think>\n\n{"a": true}', template=TEMPLATE, **kind) as (_, model, _script):
        budget: Any = {"thinking_budget_tokens": 4, "thinking_budget_message": "!"}
        plain: Any = {}
        for given in (plain, budget):
            completion = await model.chat(ASK, options=given, json_schema=SCHEMA)
            assert completion.parsed == {"a": True}, completion
            assert completion.thinking == ("hm !" if given else 'hm {"a"')


async def test_alternatives_think_each_for_itself() -> None:
    """Their events have their index, and each has its budget."""
    async with scripted("<think>abcd</think>yes", template=TEMPLATE, thinking_signing_key="k") as (_, model, _script):
        *events, done = await drain(model.stream_chat(ASK, n=2, thinking_budget_tokens=2))
    assert isinstance(done, erllama.Done)
    for index, one in enumerate(done.completion.alternatives):
        assert (one.thinking, one.reply) == ("ab", "yes")
        ends = [event for event in events if isinstance(event, erllama.ThinkingEnd) and event.index == index]
        assert [end.signature for end in ends] == [one.thinking_signature] != [""]


async def test_thinking_is_signed(kind: dict[str, Any]) -> None:
    """By the key of the model, over the UTF-8 bytes of the block."""
    key = "a key: é"
    async with scripted("<think>hm é</think>yes", template=TEMPLATE, thinking_signing_key=key, **kind) as (_, model, _):
        *events, done = await drain(model.stream_chat(ASK))
        expected = hmac.new(key.encode(), "hm é".encode(), hashlib.sha256).hexdigest()
        assert [event.signature for event in events if isinstance(event, erllama.ThinkingEnd)] == [expected]
        assert isinstance(done, erllama.Done)
        assert done.completion.thinking_signature == expected
        assert (await model.chat(ASK)).thinking_signature == expected
        assert (await model.complete("x", response_tokens=1)).thinking_signature == ""
        assert model.verify_thinking("hm é", expected) is True
        assert [model.verify_thinking(text, expected) for text in ("hm e", "", "hm é ")] == [False] * 3
        assert [model.verify_thinking("hm é", wrong) for wrong in ("", "é", expected[:-1])] == [False] * 3
        with pytest.raises(erllama.InvalidText):
            model.verify_thinking("\ud800", expected)


async def test_without_a_key_nothing_is_genuine_or_forged() -> None:
    """A model without one cannot tell."""
    async with scripted("yes", template=TEMPLATE) as (runtime, model, _):
        assert model.verify_thinking("hm", "") is None
        assert runtime.verify_thinking("m", "hm", "00") is None


async def test_several_blocks_are_signed_each_and_all() -> None:
    """Each event for its block, the completion for its whole thinking."""
    reply = "<think>a</think>yes<think>b</think>no"
    async with scripted(reply, template=TEMPLATE, thinking_signing_key=b"k") as (_, model, _script):
        *events, done = await drain(model.stream_chat(ASK))
    assert isinstance(done, erllama.Done)
    assert (done.completion.thinking, done.completion.reply) == ("a\n\nb", "yesno")
    signatures = [event.signature for event in events if isinstance(event, erllama.ThinkingEnd)]
    assert signatures == [hmac.new(b"k", one, hashlib.sha256).hexdigest() for one in (b"a", b"b")]
    assert done.completion.thinking_signature == hmac.new(b"k", b"a\n\nb", hashlib.sha256).hexdigest()


@pytest.mark.slow
async def test_a_stream_closes_its_thinking_while_it_runs() -> None:
    """By itself, or by the id; twice does nothing more, nor when it is over."""
    reply = f"<think>{'a' * 300}</think>yes"
    stub = {"seconds_per_token": 0.002}
    async with scripted(reply, template=TEMPLATE, stub=stub, **KINDS["words"]) as (runtime, model, _script):
        for by_id in (False, True):
            async with model.stream_chat(ASK, thinking_budget_message="…") as events:
                async for event in events:
                    if isinstance(event, erllama.ThinkingDelta):
                        for _ in range(2):
                            runtime.end_thinking("m", events.request_id) if by_id else events.end_thinking()
                    if isinstance(event, erllama.Done):
                        completion = event.completion
                events.end_thinking()
            model.end_thinking(events_id := 1 << 40)
            assert events_id
            assert completion.reply == "yes"
            assert completion.thinking is not None
            assert completion.thinking.rstrip("…") == "a" * completion.thinking.count("a")
            assert completion.thinking.endswith("…")
            assert completion.thinking.count("a") < 300
    stream = model.stream_chat(ASK)
    with pytest.raises(erllama.StreamMisused):
        stream.end_thinking()
    for wrong in ("1", None, True, 1.5):
        with pytest.raises(erllama.InvalidOption):
            model.end_thinking(wrong)  # type: ignore[arg-type]  # what it is about


async def test_a_request_that_waits_begins_with_its_block_closed() -> None:
    """Where its prompt has opened it: the caller could not know that it still waits."""
    world = scripted("hm</think>yes", template=OPENED, context_opts={"n_seq_max": 1}, **KINDS["words"])
    async with world as (_, model, _script), model.stream_chat(ASK) as first, model.stream_chat(ASK) as second:
        second.end_thinking()
        ends = [[event async for event in events][-1] for events in (first, second)]
    done = [end.completion for end in ends if isinstance(end, erllama.Done)]
    assert [(one.thinking, one.reply) for one in done] == [("hm", "yes"), ("", "yes")]


@pytest.mark.parametrize("after", [1, 3, 6, 9])
async def test_a_reply_that_is_cut_short_in_its_block_has_no_text(after: int) -> None:
    """Its thinking so far is there; the block has no end, so there is no event of one."""
    async with scripted("<think>abcdef</think>yes", template=TEMPLATE) as (_, model, _script):
        *events, done = await drain(model.stream_chat(ASK, response_tokens=after))
    assert isinstance(done, erllama.Done)
    assert done.completion.finish_reason == "length"
    assert done.completion.reply == "<think>"[:after] * (after < 7)
    assert done.completion.thinking == ("ab" if after > 7 else None)
    assert not [event for event in events if isinstance(event, erllama.ThinkingEnd)]


async def test_special_shows_no_markers() -> None:
    """Other control tokens are shown, in thinking too."""
    reply = "<think>a<|x|>b</think>c<|x|>"
    controls = ("<think>", "</think>", "<|x|>")
    async with scripted(reply, template=TEMPLATE, controls=controls) as (_, model, _script):
        completion = await model.chat(ASK, special=True)
        assert (completion.thinking, completion.reply) == ("a<|x|>b", "c<|x|>")
        completion = await model.chat(ASK)
        assert (completion.thinking, completion.reply) == ("ab", "c")


async def test_a_session_keeps_what_was_thought() -> None:
    """In its message, for the template to show or to drop; the next prompt has all tokens as they were."""
    replies = ("<think>hm</think>yes", "no")
    async with scripted(*replies, template=TEMPLATE) as (_, model, script), model.session() as session:
        await session.chat("hello")
        assert session.messages[-1] == {"role": "assistant", "content": "yes", "reasoning_content": "hm"}
        await session.chat("really?")
        assert "<think>hm</think>yes" in script.prompts[1]


async def test_a_reproducible_reply_has_the_same_thinking() -> None:
    """Also where its block is closed for the model."""
    async with scripted("<think>abcdef</think>yes", template=TEMPLATE) as (_, model, _script):
        for _ in range(2):
            told = await model.chat(ASK, reproducible=True, thinking_budget_tokens=3, thinking_budget_message="!")
            assert (told.thinking, told.reply) == ("abc!", "yes")


@pytest.mark.slow
async def test_a_deadline_in_the_block_ends_the_reply_there() -> None:
    """With what was thought so far."""
    reply = f"<think>{'a' * 3000}</think>yes"
    async with scripted(reply, template=TEMPLATE, stub={"seconds_per_token": 0.003}) as (_, model, _script):
        completion = await model.chat([{"role": "user", "content": "x"}], deadline=0.4)
    assert completion.finish_reason == "deadline"
    assert completion.reply == ""
    assert set(completion.thinking or "a") == {"a"}


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
async def test_what_was_thought_is_shown_to_the_template(name: str) -> None:
    """Under the name that it reads, whatever the client calls it; the template shows or drops it."""
    past = [*ASK, {"role": "assistant", "content": "yes", name: "hm"}, *ASK]
    async with scripted("no", template=TEMPLATE) as (_, model, script):
        await model.chat(past)
        assert "<think>\nhm\n</think>\n\nyes<|im_end|>" in script.prompts[0]
    async with scripted("no", template=PLAIN) as (_, model, script):
        await model.chat(past)
        assert "hm" not in script.prompts[0]


def test_thinking_beside_content_and_calls_has_one_name() -> None:
    """The template of gpt-oss raises where such a message has `thinking`."""
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    thought = {"role": "assistant", "reasoning_content": "hm", "tool_calls": [call]}
    assert with_thoughts(thought)["thinking"] == "hm"
    assert "thinking" not in with_thoughts({**thought, "content": "Let me see."})
    assert with_thoughts({"role": "user", "content": "x"}) == {"role": "user", "content": "x"}


HARMONY = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>")
FORMATS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "gpt-oss": (
        (*HARMONY,), "<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"
    ),
    "kimi k3": (
        ("<|open|>", "<|close|>", "<|sep|>"), "<|open|>think<|sep|>", "<|close|>think<|sep|><|open|>response<|sep|>"
    ),
    "gemma 4": (("<|channel>", "<channel|>"), "<|channel>thought\n", "<channel|>"),
    "command a": (
        ("<|START_THINKING|>", "<|END_THINKING|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"), "<|START_THINKING|>",
        "<|END_THINKING|><|START_RESPONSE|>",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
async def test_formats_of_several_control_tokens(name: str) -> None:
    """Their headers are no text; a budget writes what the model would need to begin its answer; structures follow."""
    controls, opens, between = FORMATS[name]
    template = f"{TEMPLATE}{{# {opens}{between} #}}".replace("<think>", "").replace("</think>", "")
    async with scripted(f'{opens}abcdef{between}{{"a": true}}', template=template, controls=controls) as (_, model, _s):
        for given in ({}, {"json_schema": SCHEMA}):
            asked: Any = given
            free = await model.chat(ASK, options=asked)
            assert (free.thinking, free.reply) == ("abcdef", '{"a": true}')
            cut = await model.chat(ASK, options=asked, thinking_budget_tokens=3)
            counted = "ab" if opens.endswith("\n") else "abc"  # a line feed in the block is one of its tokens
            assert (cut.thinking, cut.reply) == (counted, '{"a": true}')
