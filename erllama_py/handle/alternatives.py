"""Several replies to one prompt: each is a request of its own, and what comes of all of them is one `Reply`.

The scheduler lets them share what the first computes of the prompt. All or nothing: when one fails the others are
cancelled, and the error is that of the whole call. Each draws with a seed of its own, so that they differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import msgspec

from erllama_py.actors import Raised, Reply, Returned
from erllama_py.results import Completion, Done, EngineEvent
from erllama_py.scheduler.messages import Feed, Request

SEEDS = (1 << 32) - 1  # the last one draws what 0 does, since llama.cpp takes it for any


def alternative(first: Request, request_id: int, index: int) -> Request:
    """The request for another reply than the `first`; it has the room in the queue that that one has."""
    seed = ((first.sampling.seed or 0) + index) % SEEDS
    sampling = msgspec.structs.replace(first.sampling, seed=seed)
    report = msgspec.structs.replace(first.report, prompt_logprobs=None)  # the prompt is the same
    return msgspec.structs.replace(first, id=request_id, sampling=sampling, report=report, queue_wait=math.inf)


def feed_of(feed: Feed | None, index: int) -> Feed | None:
    """Where the events of one alternative go: to the one reader, with its index."""
    return feed if feed is None or not index else partial(_pass_on, feed, index)


def _pass_on(feed: Feed, index: int, event: EngineEvent) -> None:
    assert not isinstance(event, Done)  # that is the stream's own
    feed(msgspec.structs.replace(event, index=index))


def joined(replies: Sequence[Reply[Completion]], callee: str) -> Reply[Completion]:
    """One reply for all of them; the first error of any is that of all, and who leaves it leaves all."""
    whole: Reply[Completion] = Reply(callee)

    def leave() -> None:
        for reply in replies:
            reply.abandon()

    def look() -> None:
        ends = [reply.outcome for reply in replies]
        for end in ends:
            if isinstance(end, Raised):
                whole.fail(end.error)
                leave()
                return
        values = [end.value for end in ends if isinstance(end, Returned)]
        if len(values) == len(replies):
            whole.send(together(values))

    whole.on_abandoned(leave)
    for reply in replies:
        reply.on_settled(look)
    return whole


def together(completions: Sequence[Completion]) -> Completion:
    """The first of several, with all of them in it."""
    return msgspec.structs.replace(completions[0], alternatives=tuple(completions))
