"""The life of an actor: ready, calls, casts, every kind of end, and the order in which it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from helpers.checkpoints import quiet_loop, turns
from helpers.names import wait_registered
from helpers.players import Crash, Player, Stage, until

from erllama_py.actors import (
    ActorEnded,
    ActorRef,
    ActorRun,
    MailboxClosed,
    NameNotFound,
    NameTaken,
    Raised,
    Returned,
    Stopped,
)
from erllama_py.actors.errors import CallTimeout, MailboxFull, SelfCall, UnexpectedCancel
from erllama_py.actors.running import Run

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def living(stage: Stage, name: str = "a", capacity: int = 1000) -> AsyncIterator[tuple[ActorRef[Any], Run]]:
    """A player without a supervisor, ready; it is stopped at the end if it has not ended."""
    async with quiet_loop():
        run = Run(name, lambda: ActorRun(name, lambda: stage.player(name), stage.names, capacity=capacity))
        await run.ready
        ref = stage.names.whereis(name)
        assert ref is not None
        yield ref, run
        run.request_stop()
        await asyncio.wait((run.task,))
        assert name not in stage.names


async def test_a_call_is_answered_and_a_cast_is_not() -> None:
    """By ref and by name."""
    stage = Stage()
    async with living(stage) as (ref, _):
        assert await ref.call("hello") == "HELLO"
        assert await stage.names.call("a", "hello") == "HELLO"
        ref.cast("hello")
        stage.names.cast("a", "hello")
        assert await ref.call("handled") == 5


async def test_an_answer_may_come_later() -> None:
    """The handler keeps the reply; other messages are handled meanwhile."""
    async with living(Stage()) as (ref, _):
        kept = ref.begin_call("keep")
        assert await ref.call("hello") == "HELLO"
        assert not kept.settled
        ref.cast("release")
        assert await kept.wait() == "released"


async def test_messages_that_arrive_during_init_wait() -> None:
    """The name is there before `init`; what is sent to it is handled once the actor is ready."""
    async with quiet_loop():
        stage = Stage()
        stage.close("init a")
        run = Run("a", lambda: ActorRun("a", lambda: stage.player("a"), stage.names))
        ref = await wait_registered(stage.names, "a")
        early = ref.begin_call("early")
        await turns()
        assert not run.ready.done()
        stage.open("init a")
        assert await early.wait() == "EARLY"
        assert run.ready.done()
        ref.stop()
        assert await run.task == Stopped()


async def test_an_error_in_init_is_how_the_run_ends_and_the_name_is_free() -> None:
    """`terminate` runs for what `init` has got so far; `ready` is never said."""
    async with quiet_loop():
        stage = Stage()
        stage.fail_init.add("a")
        run = Run("a", lambda: ActorRun("a", lambda: stage.player("a"), stage.names))
        exit = await run.task
        assert isinstance(exit, Raised)
        assert isinstance(exit.error, Crash)
        assert not run.ready.done()
        assert stage.log == ["init a", "terminate a", "gone a: Crash: init of a"]
        assert "a" not in stage.names


async def test_a_taken_name_fails_the_second_actor_and_leaves_the_first_alone() -> None:
    """Not even `init` of the second one runs."""
    stage = Stage()
    async with living(stage) as (ref, _):
        second = Run("a", lambda: ActorRun("a", lambda: stage.player("a"), stage.names))
        with pytest.raises(NameTaken):
            await second.task
        assert stage.log.count("init a") == 1
        assert await ref.call("hello") == "HELLO"


async def test_a_crash_fails_every_open_call_at_once_with_its_cause() -> None:
    """Taken, kept and queued ones, while `terminate` still runs and the name is still taken."""
    stage = Stage()
    async with living(stage) as (ref, run):
        stage.close("terminate a")
        kept = ref.begin_call("keep")
        crashing, queued = ref.begin_call("crash"), ref.begin_call("hello")
        for reply in (kept, crashing, queued):
            with pytest.raises(ActorEnded, match="'a' ended: Crash: handle of a") as ended:
                await reply.wait()
            assert isinstance(ended.value.__cause__, Crash)
        assert not run.task.done()
        assert "a" in stage.names
        with pytest.raises(ActorEnded):
            await ref.call("too late")
        with pytest.raises(MailboxClosed):
            ref.cast("too late")
        stage.open("terminate a")
        assert isinstance(await run.task, Raised)
        with pytest.raises(NameNotFound):
            await stage.names.call("a", "hello")


async def test_stop_overtakes_what_waits() -> None:
    """The message in hand is finished, the next ones fail with `Stopped`."""
    stage = Stage()
    async with living(stage) as (ref, run):
        stage.close("handle a")
        in_hand, queued = ref.begin_call("first"), ref.begin_call("second")
        await turns()
        ref.stop()
        ref.stop()
        stage.open("handle a")
        assert await in_hand.wait() == "FIRST"
        with pytest.raises(ActorEnded) as ended:
            await queued.wait()
        assert (ended.value.exit, await run.task) == (Stopped(), Stopped())


async def test_a_handler_can_end_the_actor_with_a_last_answer() -> None:
    """`Stop` with an exit of its own."""
    async with living(Stage()) as (ref, run):
        assert await ref.call("stop") == "last words"
        assert await run.task == Returned()


async def test_stop_during_init_cancels_it() -> None:
    """A long start need not be waited for."""
    async with quiet_loop():
        stage = Stage()
        stage.close("init a")
        run = Run("a", lambda: ActorRun("a", lambda: stage.player("a"), stage.names))
        await wait_registered(stage.names, "a")
        await turns()
        run.request_stop()
        assert await run.task == Stopped()
        assert not run.ready.done()
        assert stage.log == ["init a", "terminate a", "gone a: stopped"]


async def test_stop_during_an_init_that_does_not_let_itself_be_cancelled_comes_right_after() -> None:
    """The request is not lost."""

    class Stubborn(Player):
        async def init(self) -> None:
            try:
                await super().init()
            except asyncio.CancelledError:
                self.stage.log.append("shrugged")

    async with quiet_loop():
        stage = Stage()
        stage.close("init a")
        run = Run("a", lambda: ActorRun("a", lambda: Stubborn(stage), stage.names))
        await wait_registered(stage.names, "a")
        await turns()
        run.request_stop()
        assert await run.task == Stopped()
        assert stage.log == ["init a", "shrugged", "terminate a", "gone a: stopped"]


async def test_an_actor_may_ask_itself_to_stop() -> None:
    """In `init` and in a handler, without harm to the order of ending."""

    class Shy(Player):
        async def init(self) -> None:
            self.ref.stop()

    async with quiet_loop():
        stage = Stage()
        run = Run("a", lambda: ActorRun("a", lambda: Shy(stage), stage.names))
        assert await run.task == Stopped()
        assert stage.log[-1] == "gone a: stopped"
        assert "a" not in stage.names


async def test_cancelling_the_run_ends_the_actor_in_order() -> None:
    """Calls fail first, then `terminate` runs whole, whatever it awaits."""
    stage = Stage()
    async with living(stage) as (ref, run):
        stage.close("handle a")
        call = ref.begin_call("hello")
        await turns()
        run.task.cancel()
        with pytest.raises(ActorEnded):
            await call.wait()
        assert await run.task == Stopped()
        assert stage.log[-2:] == ["terminate a", "gone a: stopped"]


async def test_one_cancellation_does_not_get_into_terminate_and_a_second_does() -> None:
    """The first is the supervisor's; after the second it is not waited for any more."""
    stage = Stage()
    async with living(stage) as (_, run):
        stage.close("terminate a")
        run.request_stop()
        await until(lambda: "terminate a" in stage.log)
        run.task.cancel()
        await turns()
        assert not run.task.done()
        run.task.cancel()
        assert await run.task == Stopped()
        assert "gone a: stopped" not in stage.log


async def test_an_error_in_terminate_is_noted_on_the_crash_and_does_not_hide_it() -> None:
    """The first error is the one you see."""
    stage = Stage()
    stage.fail_terminate.add("a")
    async with living(stage) as (ref, run):
        ref.cast("crash")
        exit = await run.task
        assert isinstance(exit, Raised)
        assert str(exit.error) == "handle of a"
        assert exit.error.__notes__ == ["and then terminate of 'a' failed: Crash: terminate of a"]


async def test_an_error_in_terminate_after_a_good_end_is_a_failure() -> None:
    """It is the only error, so it is the one you see."""
    stage = Stage()
    stage.fail_terminate.add("a")
    async with living(stage) as (ref, run):
        ref.stop()
        exit = await run.task
        assert isinstance(exit, Raised)
        assert str(exit.error) == "terminate of a"


async def test_a_call_without_an_answer_in_time_says_so_and_abandons_the_reply() -> None:
    """The actor lives on; a late answer goes nowhere."""
    stage = Stage()
    async with living(stage) as (ref, _):
        with pytest.raises(CallTimeout, match="within 0 s"):
            await ref.call("keep", timeout=0)
        ref.cast("release")
        assert await ref.call("hello", timeout=60) == "HELLO"


async def test_a_full_mailbox_refuses_calls_and_casts_but_not_urgent_ones() -> None:
    """The caller gets the error at once; nothing is left open."""
    stage = Stage()
    async with living(stage, capacity=1) as (ref, _):
        stage.close("handle a")
        in_hand = ref.begin_call("first")
        await turns()
        ref.cast("second")
        with pytest.raises(MailboxFull):
            await ref.call("third")
        with pytest.raises(MailboxFull):
            ref.cast("third")
        ref.cast("urgent", urgent=True)
        assert repr(ref) == "<ActorRef 'a' running, 2 of 1 waiting, 1 open calls>"
        assert ref._mailbox.refused == 2
        counted = ref.begin_call("third", bounded=False)  # by the callee itself
        stage.open("handle a")
        await in_hand.wait()
        assert await counted.wait() == "THIRD"


async def test_an_actor_that_calls_itself_gets_an_error_instead_of_waiting_for_ever() -> None:
    """The error crashes it like any other."""
    async with living(Stage()) as (ref, _):
        with pytest.raises(ActorEnded) as ended:
            await ref.call("call yourself")
        assert isinstance(ended.value.__cause__, SelfCall)


async def test_awaiting_something_cancelled_is_a_failure_not_a_stop() -> None:
    """A `CancelledError` without a cancellation is not taken for a cancellation of the actor."""
    async with living(Stage()) as (ref, run):
        ref.cast("await a cancelled future")
        exit = await run.task
        assert isinstance(exit, Raised)
        assert isinstance(exit.error, UnexpectedCancel)
        assert isinstance(exit.error.__cause__, asyncio.CancelledError)


async def test_an_actor_that_waits_holds_on_to_no_message() -> None:
    """A payload is free as soon as it is handled."""
    import weakref

    class Payload:
        pass

    class Sink(Player):
        async def handle(self, message: Any, reply: Any) -> None:
            return None

    async with quiet_loop():
        stage, payload = Stage(), Payload()
        run = Run("a", lambda: ActorRun("a", lambda: Sink(stage), stage.names))
        await run.ready
        stage.names.cast("a", payload)
        gone = weakref.ref(payload)
        del payload
        await turns()
        assert gone() is None
        run.request_stop()
        await run.task
