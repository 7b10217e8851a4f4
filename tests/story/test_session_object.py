"""Sessions on the caller's side: exact tokens, turn after turn, whatever the template does. On the stub backend."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.runtime import STUB, stub_runtime, untyped

import erllama_py as erllama
from erllama_py.engine import stub, stub_logits
from erllama_py.engine.stub import StubVocabulary
from erllama_py.engine.stub_logits import END

pytestmark = pytest.mark.anyio

SHORT: dict[str, Any] = {"response_tokens": 8, "temperature": 0.0}
# It follows a reply in the stub's template, with the next question and the opened answer.
AFTER = "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


async def test_a_turn_extends_all_tokens_of_the_one_before() -> None:
    """Prompt, reply, what the template puts between, and so on: nothing is lost, only what is new is computed."""
    async with stub_runtime() as (_, model), model.session() as session:
        first = await session.chat("Hello", **SHORT)
        held = session.tokens
        assert held == await model.apply_chat_template([{"role": "user", "content": "Hello"}]) + first.generated
        second = await session.chat("And now?", **SHORT)
        new = await model.tokenize(AFTER.format("And now?"))
        assert session.tokens == held + new + second.generated
    assert session.exact
    assert second.cache_delta.read >= len(held) - 1  # the token that was sampled last lies in no cell
    assert second.prompt_tokens == len(held) + len(new)


async def test_what_was_said_is_kept_as_messages() -> None:
    """The opening, the questions and the replies."""
    opening = [{"role": "system", "content": "Be brief."}]
    async with stub_runtime() as (_, model), model.session(messages=opening) as session:
        one = await session.chat("Hello", **SHORT)
        two = await session.chat([{"role": "tool", "content": "12"}, {"role": "user", "content": "So?"}], **SHORT)
    assert session.messages == [
        *opening,
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": one.reply},
        {"role": "tool", "content": "12"},
        {"role": "user", "content": "So?"},
        {"role": "assistant", "content": two.reply},
    ]


async def test_replies_are_those_of_a_model_that_reads_the_same_tokens_cold() -> None:
    """The session changes nothing of what the model sees."""
    async with stub_runtime() as (runtime, model), model.session() as session:
        await session.chat("Hello", **SHORT)
        warm = await session.chat("And now?", **SHORT)
        other = await runtime.load_model("cold", STUB)
        cold = await other.complete(session.tokens[: warm.prompt_tokens], **SHORT)
    assert warm.generated == cold.generated


async def test_a_stop_sequence_cuts_the_message_and_not_the_tokens() -> None:
    """A rendering would have lost the tokens of the stop sequence, and everything after it."""
    async with stub_runtime() as (_, model), model.session() as session:
        first = await session.chat("Hello", temperature=0.0, stop_sequences=[" "])
        assert first.stop_sequence == " "
        held = session.tokens
        rendered = await model.apply_chat_template([*session.messages, {"role": "user", "content": "Go on"}])
        second = await session.chat("Go on", **SHORT)
    assert session.messages[1]["content"] == first.reply
    assert session.tokens[: len(held)] == held != rendered[: len(held)]
    assert second.cache_delta.read >= len(held) - 1


async def test_a_reply_that_ends_inside_a_character_keeps_its_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text has another form as tokens than what was sampled."""
    monkeypatch.setattr(stub_logits, "LETTERS", b"\xf0")  # the first byte of four
    async with stub_runtime() as (_, model), model.session() as session:
        first = await session.chat("Hello", response_tokens=3, temperature=0.0)
        held = session.tokens
        assert await model.tokenize(first.reply) != first.generated == [0xF0] * 3
        await session.chat("Go on", **SHORT)
    assert session.exact
    assert session.tokens[: len(held)] == held


async def test_each_session_has_its_own_id() -> None:
    """Made up where none is given; it is not an option of a turn."""
    async with stub_runtime() as (runtime, model):
        assert model.session().id != model.session().id
        assert runtime.session("m", "mine").id == "mine"
        with pytest.raises(erllama.InvalidOption, match="session_id"):
            await model.session().chat("Hello", **untyped(session_id="other"))


async def test_raw_text_extends_the_tokens() -> None:
    """As text or as tokens; together they are one text of the assistant."""
    async with stub_runtime() as (_, model), model.session() as session:
        one = await session.complete("Once", **SHORT)
        two = await session.complete(await model.tokenize(" upon"), **SHORT)
        async with session.stream(" a time", **SHORT) as events:
            three = [event async for event in events][-1]
        assert isinstance(three, erllama.Done)
        text = f"Once{one.reply} upon{two.reply} a time{three.completion.reply}"
        assert await model.detokenize(session.tokens) == text
    assert session.messages == [{"role": "assistant", "content": text}]


async def test_the_begin_token_stands_at_the_beginning_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text appended to other tokens gets no begin token: neither raw text nor what follows a reply."""
    monkeypatch.setattr(StubVocabulary, "begin", [END])
    async with stub_runtime() as (_, model), model.session() as raw, model.session() as chat:
        await raw.complete("Once", **SHORT)
        await raw.complete(" upon", **SHORT)
        await chat.chat("Hello", **SHORT)
        await chat.chat("And now?", **SHORT)
    assert (raw.tokens[0], raw.tokens.count(END), chat.tokens.count(END)) == (
        END,
        1,
        0,
    )  # templates write it themselves


async def test_a_reply_that_was_cut_short_goes_on() -> None:
    """An empty text adds nothing: the reply is what it would have been at once, and the chat continues after it."""
    async with stub_runtime() as (_, model), model.session() as session, model.session() as whole:
        await session.chat("Hello", response_tokens=4, temperature=0.0)
        await session.complete("", response_tokens=4, temperature=0.0)
        await whole.chat("Hello", **SHORT)
        assert (session.tokens, session.messages) == (whole.tokens, whole.messages)
        held = session.tokens
        await session.chat("And now?", **SHORT)
        assert session.exact
        assert session.tokens[: len(held)] == held


async def test_a_chat_after_raw_text_is_rendered_whole() -> None:
    """The text was no turn of the template's, so the chat cannot continue it exactly."""
    opening = [{"role": "system", "content": "Be brief."}]
    async with stub_runtime() as (_, model), model.session(messages=opening) as session:
        await session.complete("Once", **SHORT)
        messages = [*session.messages, {"role": "user", "content": "Why?"}]
        done = await session.chat("Why?", **SHORT)
        exact = [session.exact]
        assert session.tokens[: done.prompt_tokens] == await model.apply_chat_template(messages)
        await session.chat("And now?", **SHORT)
        assert [*exact, session.exact] == [False, True]


async def test_a_template_that_cannot_go_on_renders_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn is answered as `Model.chat` would, and the session says that it was not exact."""
    template = "{{ messages | length }}{% for m in messages %}{{ m.content }}\n{% endfor %}"
    monkeypatch.setattr(stub, "CHAT_TEMPLATE", template)
    async with stub_runtime() as (_, model), model.session() as session:
        one = await session.chat("Hello", **SHORT)
        exact = [session.exact]
        two = await session.chat("Next", **SHORT)
        exact += [session.exact]
        text = await model.detokenize(session.tokens[: two.prompt_tokens])
    assert exact == [True, False]
    assert text == f"3Hello\n{one.reply}\nNext\n"


async def test_tools_are_shown_in_every_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """They belong to the session."""
    shown = "{{ tools[0].function.name }}"
    monkeypatch.setattr(stub, "CHAT_TEMPLATE", shown + stub.CHAT_TEMPLATE.partition("{% endif %}")[2])
    async with stub_runtime() as (_, model), model.session(tools=[{"name": "clock"}]) as session:
        await session.chat("Hello", temperature=0.0, stop_sequences=[" "])
        await session.chat("Next", **SHORT)
        assert session.exact
        text = await model.detokenize(session.tokens)
    assert text.startswith("clock<|im_start|>user")
    assert text.count("clock") == 1


@pytest.mark.parametrize("message", [3, None, [3], {"content": "no role"}, b"bytes"])
async def test_what_is_no_message_is_refused(message: Any) -> None:
    """Before the model hears of it."""
    async with stub_runtime() as (_, model), model.session() as session:
        with pytest.raises(erllama.ChatTemplateError):
            await session.chat(message)
        assert session.messages == []
