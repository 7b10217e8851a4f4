"""An actor that decides by one function: `(state, event) → (state, effects)`.

Owns the state. `transition` decides, `perform` acts. All effects of one transition are performed in order; events
that come out of them are fed in next, before the mailbox and before events that were left over from earlier.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

from erllama_py.actors.actor import Actor, Stop
from erllama_py.actors.replies import Reply

S = TypeVar("S")
E = TypeVar("E")
F = TypeVar("F")


class StateMachine(Actor[E], Generic[S, E, F]):
    """Override `transition` and `perform`; set `state` in `__init__` or `init`."""

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
