"""How a reply is to be read: what its segments are, what it follows, and what is made of it in the end.

`Prepared` is what the prompt says of the reply, `ReplyPlan` what the engine is told, and what the caller's side does
with what comes back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from erllama_py.actors import Raised, Reply, Returned
from erllama_py.cache.policy import KeepFor
from erllama_py.chat.segments import Markers
from erllama_py.options.request import RequestOptions
from erllama_py.results import Completion
from erllama_py.scheduler.messages import Feed

Finish = Callable[[Completion, int], Completion]
"""What is made of a completion; the number says which of `n` alternatives it is."""


Events = Callable[[Feed, int], Feed]
"""Takes where the events of one alternative go, and gives what takes them as the engine reports them."""


class Prepared(msgspec.Struct, frozen=True):
    """The prompt of a request."""

    tokens: list[int]
    anchors: tuple[int, ...] = ()  # where others may diverge from it
    endings: tuple[int, ...] = ()  # where its next turns may
    ends: tuple[int, ...] = ()  # where each message ends that is to be kept, in the order of the options
    opening: str | None = None  # of a conversation: the end of the prompt as text, which opens the reply
    finish: Finish | None = None
    template: str | None = None  # the source of a template other than the model's own that made it


Prepare = Callable[[RequestOptions], Awaitable[Prepared]]
"""Makes the prompt, by options that were checked."""


def keeps_of(prepared: Prepared, options: RequestOptions) -> tuple[KeepFor, ...]:
    """What of the prompt is to be kept, one for each that is asked for. Pure."""
    ends = iter(prepared.ends)
    whole = len(prepared.tokens)
    return tuple(KeepFor(whole if one.message is None else next(ends), one.seconds) for one in options.keep)


class ReplyPlan(msgspec.Struct, frozen=True):
    """The options as the engine takes them, and how the reply is read."""

    options: RequestOptions
    markers: Markers | None = None
    finish: Sequence[Finish] = ()
    events: Sequence[Events] = ()

    def feed(self, feed: Feed | None, index: int) -> Feed | None:
        """What takes the events of one alternative as the engine reports them."""
        for wrap in self.events:
            feed = feed if feed is None else wrap(feed, index)
        return feed


class FinishedReply(Reply[Completion]):
    """A reply that is finished by who waits for it: in its own task, as if it had done so itself."""

    __slots__ = ("_finish",)

    def __init__(self, reply: Reply[Completion], finish: Sequence[Finish]) -> None:
        super().__init__(reply.callee)
        self._finish = finish
        self.on_abandoned(reply.abandon)
        reply.on_settled(lambda: self._take(reply))

    def _take(self, reply: Reply[Completion]) -> None:
        match reply.outcome:
            case Returned(value):
                self.send(value)
            case Raised(error):
                self.fail(error)

    async def wait(self) -> Completion:
        """See `Reply.wait`."""
        completion = await super().wait()
        alternatives = tuple(self._finished(one, index) for index, one in enumerate(completion.alternatives))
        if alternatives:
            return msgspec.structs.replace(alternatives[0], alternatives=alternatives)
        return self._finished(completion, 0)

    def _finished(self, completion: Completion, index: int) -> Completion:
        for finish in self._finish:
            completion = finish(completion, index)
        return completion
