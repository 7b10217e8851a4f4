"""One actor: a mailbox, a handler, a life.

    init → ready → handle … → terminate

`Actor` is what users write; `ActorRun` runs one instance once, in one task, and owns the order in which it ends: the
mailbox closes and every open call fails at once, then `terminate` runs, then the name is free, then the run is over.
`terminate` runs after every `init` that was begun, also one that failed or was cancelled. A `StateMachine` is an actor
that decides by one function.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, TypeVar

from erllama_py.actors.exits import Exit, Raised, Returned, Stopped, describe
from erllama_py.actors.mailbox import Mailbox
from erllama_py.actors.names import Names
from erllama_py.actors.ref import ActorRef, Envelope, StopRequest
from erllama_py.actors.replies import Reply
from erllama_py.actors.running import ended_by_cancel, outlast

M = TypeVar("M")
S = TypeVar("S")
E = TypeVar("E")
F = TypeVar("F")


@dataclass(frozen=True)
class Answer:
    """From a handler: the answer to this call. Dropped when the message was a cast."""

    value: Any = None


@dataclass(frozen=True)
class Stop:
    """From a handler: end the actor with `exit`, answering this call first if there is an `answer`."""

    exit: Exit = field(default_factory=Returned)
    answer: Answer | None = None


class Actor(Generic[M]):
    """Subclass it, and override `handle`. The kit sets `name`, `names` and `ref` before `init`."""

    kind: ClassVar[str] = "actor"  # what the tree calls it
    name: str
    names: Names
    ref: ActorRef[M]

    async def init(self) -> None:
        """Get ready; messages wait meanwhile. An error here goes to the caller that asked for the start."""

    async def handle(self, message: M, reply: Reply[Any] | None) -> Answer | Stop | None:
        """Take one message; `reply` is None for a cast.

        Returning `None` answers nothing yet: keep `reply` to settle it later. An error ends the actor; to fail only
        this call, use `reply.fail`. While this awaits, no other message is taken.
        """
        raise NotImplementedError

    async def terminate(self, exit: Exit) -> None:
        """Release everything, also what an unfinished `init` has acquired; `exit` is why the actor ends.

        A cancellation does not reach this. After twice the `stop_timeout` the supervisor abandons the actor, marked as
        failed and never restarted, and its name stays taken until this returns.
        """


class StateMachine(Actor[E], Generic[S, E, F]):
    """An actor that decides by one function: `(state, event) → (state, effects)`.

    Override `transition`, which decides, and `perform`, which acts; set `state` in `__init__` or `init`. All effects of
    one transition are performed in order; events that come out of them are fed in next, before the mailbox and before
    events that were left over from earlier.
    """

    kind: ClassVar[str] = "state machine"
    state: S

    def transition(self, state: S, event: E) -> tuple[S, Sequence[F]]:
        """The next state and what to do. Pure: no clock, no waiting, no side effect."""
        raise NotImplementedError

    async def perform(self, effect: F) -> E | Stop | None:
        """Do one effect. An event is fed in next; `Stop` ends the actor, leaving out whatever was still to do."""
        raise NotImplementedError

    def event_of(self, message: E, reply: Reply[Any] | None) -> E:
        """The event that a message is. Override it to attach the reply, e.g. as a field of the event."""
        return message

    async def handle(self, message: E, reply: Reply[Any] | None) -> Stop | None:
        """Feed the message in, then everything that follows from it."""
        events = deque([self.event_of(message, reply)])
        while events:
            self.state, effects = self.transition(self.state, events.popleft())
            follow_ups: list[E] = []
            for effect in effects:
                event = await self.perform(effect)
                if isinstance(event, Stop):
                    return event
                if event is not None:
                    follow_ups.append(event)
            events.extendleft(reversed(follow_ups))
        return None

    def __repr__(self) -> str:
        name, state = getattr(self, "name", "unnamed"), getattr(self, "state", "no state yet")
        return f"<{type(self).__name__} {name!r} {state!r}>"


class ActorRun:
    """One run of the actor that `factory` makes: a `Runnable`. It is `name` in `names`; its mailbox has `capacity`."""

    def __init__(self, name: str, factory: Callable[[], Actor[Any]], names: Names, *, capacity: int = 1000) -> None:
        self.name = name
        self.kind = Actor.kind
        self._factory = factory
        self._names = names
        self._mailbox: Mailbox[Envelope[Any]] = Mailbox(name, capacity)
        self._in_init: asyncio.Task[Any] | None = None
        self._init_cancelled = False

    async def run(self, ready: Callable[[], None], ending: Callable[[Exit], bool]) -> Exit:
        """Run to the end. Raises only `NameTaken` and what the factory raises."""
        task = asyncio.current_task()
        assert task is not None
        actor = self._factory()
        self.kind = actor.kind
        ref: ActorRef[Any] = ActorRef(self._mailbox, self.request_stop, task)
        actor.name, actor.names, actor.ref = self.name, self._names, ref
        self._names.register(self.name, ref)
        exit: Exit = Stopped()
        try:
            exit = await self._live(actor, ready, task)
            ref._close(exit, last=ending(exit))
            return await self._terminate(actor, exit)
        finally:
            # Reached with the mailbox still open only when the interpreter is being interrupted.
            ref._close(exit)
            self._names.unregister(self.name, ref)

    def request_stop(self) -> None:
        """End before the next message; inside `init`, cancel it. Allowed more than once."""
        if self._mailbox.closed:
            return
        self._mailbox.put(StopRequest(), urgent=True)
        if self._in_init is not None and not self._init_cancelled:
            self._init_cancelled = True
            self._in_init.cancel()

    async def _live(self, actor: Actor[Any], ready: Callable[[], None], task: asyncio.Task[Any]) -> Exit:
        try:
            self._in_init = task
            try:
                await actor.init()
            finally:
                self._in_init = None
                if self._init_cancelled:
                    task.uncancel()
            ready()
            return await self._handle_all(actor)
        except asyncio.CancelledError as error:
            return Stopped() if self._init_cancelled else ended_by_cancel(error)
        except Exception as error:
            return Raised(error)

    async def _handle_all(self, actor: Actor[Any]) -> Exit:
        while True:
            envelope = await self._mailbox.get()
            if isinstance(envelope, StopRequest):
                return Stopped()
            message, reply = envelope
            result = await actor.handle(message, reply)
            # Waiting for the next message may take long, and must not keep the last one alive.
            del envelope, message
            answer = result.answer if isinstance(result, Stop) else result
            if answer is not None and reply is not None:
                reply.send(answer.value)
            if isinstance(result, Stop):
                return result.exit
            del result, answer, reply

    async def _terminate(self, actor: Actor[Any], exit: Exit) -> Exit:
        try:
            await outlast(actor.terminate(exit))
        except asyncio.CancelledError:
            pass  # the last deadline has passed; why the actor ended is still `exit`
        except Exception as error:
            if not isinstance(exit, Raised):
                return Raised(error)
            exit.error.add_note(f"and then terminate of {self.name!r} failed: {describe(error)}")
        return exit
