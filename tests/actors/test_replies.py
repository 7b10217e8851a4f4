"""Replies: answered once, now or later; the callee learns that the caller went away."""

from __future__ import annotations

import asyncio

import pytest
from helpers.checkpoints import Strike, at_each_checkpoint, quiet_loop, turns

from erllama_py.actors import ActorError, Reply

pytestmark = pytest.mark.anyio


async def test_the_answer_reaches_the_waiter() -> None:
    """Sent before or after the wait begins."""
    early: Reply[int] = Reply("callee")
    assert early.send(1)
    assert await early.wait() == 1
    late: Reply[int] = Reply("callee")
    waiter = asyncio.ensure_future(late.wait())
    await turns()
    late.send(2)
    assert await waiter == 2


async def test_an_error_is_raised_where_the_answer_is_awaited_as_the_same_object() -> None:
    """`fail` carries the callee's error unchanged."""
    error = ValueError("no such thing")
    reply: Reply[int] = Reply("callee")
    reply.fail(error)
    with pytest.raises(ValueError, match="no such thing") as raised:
        await reply.wait()
    assert raised.value is error


async def test_a_second_answer_is_ignored_and_says_so() -> None:
    """Answers may race with the end of the actor: the first one counts."""
    reply: Reply[int] = Reply("callee")
    assert reply.send(1)
    assert not reply.send(2)
    assert not reply.fail(ValueError())
    assert await reply.wait() == 1


async def test_a_failed_reply_without_a_waiter_is_not_logged() -> None:
    """No "exception was never retrieved" from the loop."""
    async with quiet_loop():
        Reply[int]("callee").fail(ValueError())


async def test_a_cancelled_wait_abandons_the_reply_and_tells_the_callee() -> None:
    """The callee can stop working on it; a late answer goes nowhere and says so."""
    reply: Reply[int] = Reply("callee")
    told: list[str] = []
    reply.on_abandoned(lambda: told.append("abandoned"))
    waiter = asyncio.ensure_future(reply.wait())
    await turns()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert reply.abandoned
    assert told == ["abandoned"]
    assert not reply.settled
    assert not reply.send(1)
    with pytest.raises(ActorError, match="abandoned"):
        await reply.wait()


async def test_callbacks_that_come_late_are_called_at_once_and_each_once() -> None:
    """A handler may ask after the fact."""
    told: list[str] = []
    settled: Reply[int] = Reply("callee")
    settled.on_settled(lambda: told.append("before"))
    settled.send(1)
    settled.on_settled(lambda: told.append("after"))
    abandoned: Reply[int] = Reply("callee")
    abandoned.abandon()
    abandoned.abandon()
    abandoned.on_abandoned(lambda: told.append("gone"))
    assert told == ["before", "after", "gone"]


async def test_a_settled_reply_cannot_be_abandoned() -> None:
    """A caller that got its answer has not gone away."""
    reply: Reply[int] = Reply("callee")
    reply.send(1)
    reply.abandon()
    assert not reply.abandoned
    assert await reply.wait() == 1


async def test_a_callback_that_fails_harms_neither_the_answer_nor_the_others() -> None:
    """Its error goes to the loop's exception handler."""
    complaints: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context["exception"]))
    reply: Reply[int] = Reply("callee")
    error, told = ValueError(), []

    def fail() -> None:
        raise error

    reply.on_settled(fail)
    reply.on_settled(lambda: told.append("other"))
    assert reply.send(1)
    assert (await reply.wait(), told, complaints) == (1, ["other"], [error])
    loop.set_exception_handler(None)


async def test_wherever_a_wait_is_cancelled_the_reply_is_abandoned_or_answered() -> None:
    """There is no third outcome."""

    async def scenario(strike: Strike) -> None:
        reply: Reply[int] = Reply("callee")
        waiter = asyncio.ensure_future(strike.coroutine(reply.wait()))
        await turns()
        reply.send(1)
        try:
            assert await waiter == 1
        except asyncio.CancelledError:
            assert reply.abandoned

    assert await at_each_checkpoint(scenario) == 1


async def test_repr_shows_the_state() -> None:
    """Open, settled or abandoned."""
    reply: Reply[int] = Reply("callee")
    assert repr(reply) == "<Reply of 'callee' open>"
    reply.send(1)
    assert repr(reply) == "<Reply of 'callee' settled>"


async def test_who_listens_is_told_of_the_end_of_a_reply_that_was_abandoned() -> None:
    """It stays among those that the callee's end fails; one that nobody listens to does not."""
    among: dict[Reply[int], None] = {}
    told: list[str] = []
    heard, unheard = Reply[int]("callee", None, among), Reply[int]("callee", None, among)
    among |= {heard: None, unheard: None}
    heard.on_settled(lambda: told.append("settled"))
    for reply in (heard, unheard):
        reply.abandon()
    assert list(among) == [heard]
    assert not heard.fail(ActorError("it has ended"))
    assert told == ["settled"]
    assert not among
