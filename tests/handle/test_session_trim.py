"""A session that outgrows the context: its oldest turns go where the caller wants that, and its system prompt stays."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import erllama_py as erllama
from erllama_py.chat.trimming import place_after, trimmed, turns_of

pytestmark = pytest.mark.anyio

SYSTEM = {"role": "system", "content": "Be short."}


def small() -> Any:
    return {"backend": "stub", "context_opts": {"n_ctx": 256}}


@pytest.mark.slow
async def test_a_session_that_drops_its_oldest_turns_goes_on() -> None:
    """Far beyond the context, with the system prompt and the last question in each prompt."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", small())
        session = model.session(messages=[SYSTEM], drop_oldest=True)
        for number in range(12):
            done = await session.chat(f"Question {number}?", response_tokens=20, seed=1)
            assert done.prompt_tokens + 20 <= 256
            assert session.messages[0] == SYSTEM
            assert session.messages[-2]["content"] == f"Question {number}?"
        assert 2 <= turns_of(session.messages) < 12


async def test_a_session_that_does_not_is_refused_and_can_be_trimmed() -> None:
    """It stays as it was; what was dropped is returned."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", small())
        session = model.session(messages=[SYSTEM])
        with suppress(erllama.ContextOverflow):
            for number in range(12):
                await session.chat(f"Question {number}?", response_tokens=20, seed=1)
            pytest.fail("twelve turns do not fit")
        before = session.messages
        dropped = session.trim(1)
        assert [SYSTEM, *dropped, *session.messages[1:]] == before
        assert turns_of(session.messages) == 1
        await session.chat("And now?", response_tokens=20, seed=1)
        wrongs: tuple[Any, ...] = (-1, True, "1")
        for wrong in wrongs:
            with pytest.raises(erllama.InvalidOption, match="a number of turns"):
                session.trim(wrong)


async def test_what_is_to_be_kept_is_counted_in_the_whole_conversation() -> None:
    """Whatever is dropped of it: a message that was dropped keeps nothing, and one that is too far is refused."""
    chat = [SYSTEM, *({"role": role, "content": "x" * 30} for _ in range(8) for role in ("user", "assistant"))]
    places: list[Any] = [{"message": place, "seconds": 60} for place in (0, 3, 16, 17)]
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", small())
        session = model.session(messages=chat, drop_oldest=True)
        whole = await session.chat("y", response_tokens=8, keep=[{"seconds": 60}, *places])
        first, dropped, last, asked = (one.tokens for one in whole.kept[1:])
        assert len(session.messages) < len(chat)
        assert 0 == dropped < first < last < asked == whole.kept[0].tokens == whole.prompt_tokens
        left = session.messages[:-1]
        again = await model.chat(left, response_tokens=8, keep=[places[0], {"message": len(left) - 2, "seconds": 60}])
        assert [one.tokens for one in again.kept] == [first, last]
        with pytest.raises(erllama.InvalidOption, match="and the first is 0, got 40"):
            await session.chat("z" * 200, response_tokens=8, keep=[{"message": 40, "seconds": 60}])


async def test_whether_turns_are_dropped_is_a_bool() -> None:
    """Anything else would be taken for yes or no."""
    wrongs: tuple[Any, ...] = ("no", 1, None)
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", small())
        for wrong in wrongs:
            with pytest.raises(erllama.InvalidOption, match=r"drop_oldest.*expected bool"):
                model.session(drop_oldest=wrong)


async def test_one_turn_that_is_too_long_is_refused() -> None:
    """There is nothing to drop before it."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", small())
        with pytest.raises(erllama.ContextOverflow):
            await model.session(drop_oldest=True).chat("x" * 300)


async def test_a_session_that_is_full_says_what_can_be_done() -> None:
    """Of a chat, of its only turn, and of a text, which has no turns: its end can begin another session."""
    async with erllama.Runtime() as runtime:
        model = await runtime.load_model("m", small())
        chat = model.session(messages=[SYSTEM, *[{"role": "user", "content": "x"}, SYSTEM] * 3])
        with pytest.raises(erllama.ContextOverflow, match=r"session\.trim\(turns\)") as refused:
            await chat.chat("y" * 256)
        assert (refused.value.prompt_tokens > 256, refused.value.n_ctx) == (True, 256)
        with pytest.raises(erllama.ContextOverflow, match="no older turn to drop"):
            await model.session().chat("y" * 256)

        text = model.session(drop_oldest=True)
        await text.complete("x" * 200, response_tokens=8)
        assert text.trim(0) == []
        with pytest.raises(erllama.ContextOverflow, match=r"a text has no turns.* session\.tokens"):
            await text.complete("y" * 60, response_tokens=8)
        async with model.session() as other:
            done = await other.complete([*text.tokens[-64:], *await model.tokenize("y" * 60)], response_tokens=8)
            assert done.prompt_tokens == 124


ROLES = st.lists(st.sampled_from(["system", "user", "assistant", "tool"]), max_size=12)


@given(ROLES, st.integers(0, 6))
def test_what_is_kept_is_the_end_of_a_conversation_and_what_stands_first(roles: list[str], turns: int) -> None:
    """In its order, no more turns than asked for, and all of it where it has no more."""
    messages = [{"role": role, "content": str(number)} for number, role in enumerate(roles)]
    kept = trimmed(messages, turns)
    assert turns_of(kept) <= max(turns, 0)
    assert kept == [one for one in messages if one in kept]
    if turns_of(messages) <= turns:
        assert kept == messages


@given(ROLES, st.integers(0, 6))
def test_where_a_message_is_in_what_is_kept(roles: list[str], turns: int) -> None:
    """At its new index, or nowhere."""
    messages = [{"role": role, "content": str(number)} for number, role in enumerate(roles)]
    kept = trimmed(messages, turns)
    for place, message in enumerate(messages):
        assert place_after(place, messages, len(kept)) == (kept.index(message) if message in kept else None)
