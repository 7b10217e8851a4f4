"""How the rest of the world reaches one run of one actor.

Owns the mailbox of that run and its open calls. Protocol: calls and casts are queued without waiting
(`MailboxFull` when they cannot be); `_close` is for the actor's runner alone: it ends the mailbox and fails every
call that is queued, or was taken and is not answered. A restart makes a new ref; keep the name, not the ref.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import anyio

from erllama_py.actors.errors import ActorEnded, CallTimeout, SelfCall
from erllama_py.actors.exits import Exit
from erllama_py.actors.mailbox import Mailbox
from erllama_py.actors.replies import Reply

M = TypeVar("M")


class StopRequest:
    """The system message that ends an actor."""


Envelope = tuple[M, "Reply[Any] | None"] | StopRequest


class ActorRef(Generic[M]):
    def __init__(
        self, mailbox: Mailbox[Envelope[M]], request_stop: Callable[[], None], task: asyncio.Task[Any]
    ) -> None:
        self.name = mailbox.name
        self.exit: Exit | None = None
        self._last = False
        self._mailbox = mailbox
        self._request_stop = request_stop
        self._task = task
        self._open: dict[Reply[Any], None] = {}  # in the order of the calls

    async def call(self, message: M, timeout: float | None = None) -> Any:
        """Send `message` and wait for the answer, at most `timeout` seconds.

        Raises what the handler failed the reply with, `ActorEnded` (at once, when the actor ends or has ended),
        `CallTimeout`, `MailboxFull`, and `SelfCall` inside the actor's own `init` and `handle`. A caller that is
        cancelled, or times out, abandons the reply.
        """
        if asyncio.current_task() is self._task:
            raise SelfCall(self.name)
        reply = self.begin_call(message)
        if timeout is None:
            return await reply.wait()
        with anyio.move_on_after(timeout):
            return await reply.wait()
        raise CallTimeout(self.name, timeout)

    def begin_call(self, message: M, bounded: bool = True) -> Reply[Any]:
        """Send `message` and go on; the reply is settled later, with `ActorEnded` if the actor ends before.

        With `bounded=False` the mailbox refuses nothing: for a callee that itself counts what it accepts.
        """
        if self.exit is not None:
            raise ActorEnded(self.name, self.exit, self._last)
        reply: Reply[Any] = Reply(self.name, self._task, self._open)
        self._mailbox.put((message, reply), bounded=bounded)
        self._open[reply] = None
        return reply

    def cast(self, message: M, urgent: bool = False, bounded: bool = True) -> None:
        """Send `message` without an answer. Raises `MailboxClosed`, and `MailboxFull`: see `Mailbox.put`."""
        self._mailbox.put((message, None), urgent=urgent, bounded=bounded)

    def stop(self) -> None:
        """Ask the actor to end before it takes another message; one that is in `init` is cancelled there."""
        self._request_stop()

    def __repr__(self) -> str:
        state = "running" if self.exit is None else f"ended ({self.exit})"
        waiting = f"{len(self._mailbox)} of {self._mailbox.capacity} waiting"
        return f"<ActorRef {self.name!r} {state}, {waiting}, {len(self._open)} open calls>"

    def _close(self, exit: Exit, last: bool = False) -> None:
        if self.exit is not None:
            return
        self.exit, self._last = exit, last
        self._mailbox.close()
        for reply in list(self._open):
            reply.fail(ActorEnded(self.name, exit, last))
