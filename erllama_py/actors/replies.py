"""The pending answer to one call: a one-shot future.

The callee settles it (`send` or `fail`), now or later, from any task of the loop. A second answer is ignored and
returns false, since an answer may race with the end of the actor. One task waits, once: when that wait is cancelled the
reply is *abandoned*: the callee can learn that, and an answer is dropped. Whoever listens for its end is told all the
same, be it the end of the callee.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

from erllama_py.actors.errors import ActorError, SelfCall
from erllama_py.actors.exits import Exit, Raised, Returned
from erllama_py.actors.running import call_listener

T = TypeVar("T")


class Reply(Generic[T]):
    """See the module's text.

    `callee` is for errors and `repr`; `answering` is the task that must not wait here, because it would wait for
    itself; the reply is taken out of `among` once it needs no answer any more.
    """

    __slots__ = ("_among", "_answering", "_event", "_on_abandoned", "_on_settled", "_outcome", "abandoned", "callee")

    def __init__(
        self, callee: str, answering: asyncio.Task[Any] | None = None, among: dict[Reply[Any], None] | None = None
    ) -> None:
        self.callee = callee
        self.abandoned = False
        self._answering = answering
        self._among = among
        self._event = asyncio.Event()
        self._outcome: Exit | None = None
        self._on_abandoned: list[Callable[[], None]] = []
        self._on_settled: list[Callable[[], None]] = []

    @property
    def settled(self) -> bool:
        """Whether there is an answer or an error."""
        return self._outcome is not None

    @property
    def outcome(self) -> Exit | None:
        """`Returned` with the answer, or `Raised` with the error; None before it is settled."""
        return self._outcome

    def send(self, value: T) -> bool:
        """Answer the call. False, and without effect, when it is settled; false also when it is abandoned."""
        return self._settle(Returned(value))

    def fail(self, error: BaseException) -> bool:
        """Let the call raise `error`; otherwise like `send`."""
        return self._settle(Raised(error))

    def abandon(self) -> None:
        """Give up waiting for the answer. Without effect when it is settled."""
        if not self.settled and not self.abandoned:
            self.abandoned = True
            if not self._on_settled:  # else it needs an answer still
                self._leave()
            _run(self._on_abandoned)

    def on_abandoned(self, callback: Callable[[], None]) -> None:
        """Call back when the caller goes away before there is an answer; at once if it has."""
        self._on_abandoned.append(callback)
        if self.abandoned:
            _run(self._on_abandoned)

    def on_settled(self, callback: Callable[[], None]) -> None:
        """Call back when there is an answer or an error; at once if there is."""
        self._on_settled.append(callback)
        if self.settled:
            _run(self._on_settled)

    async def wait(self) -> T:
        """The answer, or the error raised. A wait that is cancelled abandons the reply for good."""
        if asyncio.current_task() is self._answering and not self.settled:
            raise SelfCall(self.callee)
        if self.abandoned:
            raise ActorError(f"the call to {self.callee!r} was abandoned")
        if self._outcome is None:
            try:
                await self._event.wait()
            except asyncio.CancelledError:
                self.abandon()
                raise
        if isinstance(self._outcome, Raised):
            raise self._outcome.error
        return cast(Returned, self._outcome).value  # type: ignore[no-any-return]  # `Returned` holds any value

    def __repr__(self) -> str:
        state = "settled" if self.settled else "abandoned" if self.abandoned else "open"
        return f"<Reply of {self.callee!r} {state}>"

    def _settle(self, outcome: Exit) -> bool:
        if self._outcome is not None:
            return False
        self._outcome = outcome
        self._on_abandoned.clear()  # never called any more: release what they hold
        self._event.set()
        self._leave()
        _run(self._on_settled)
        return not self.abandoned

    def _leave(self) -> None:
        if self._among is not None:
            self._among.pop(self, None)


def _run(callbacks: list[Callable[[], None]]) -> None:
    """Call each once. An error in one goes to the loop's exception handler: the others, and the answer, go on."""
    todo, callbacks[:] = callbacks[:], []
    for callback in todo:
        call_listener(callback)
