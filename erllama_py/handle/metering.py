"""What calls compute, told to who pays for it: also that of calls that failed or were cancelled, which have no result.

The meter is the caller's own, found in its context when a call begins, and goes with the call's messages to the actor
that computes. That tells it once a request is over in the engine, and after each decode of embeddings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Spend = Callable[[int], object]
_meter: ContextVar[Spend | None] = ContextVar("erllama_meter", default=None)


@contextmanager
def metered(spend: Callable[[int], object]) -> Iterator[None]:
    """Have calls of models that begin inside the block tell `spend` how many tokens they compute: those of a prompt
    that the cache does not have, and those of a reply.

    Tasks that begin inside count, too. A call that fails, that is cancelled or whose model is unloaded tells what was
    computed until then, within a decode and so perhaps after the block. What is computed again after a crash of its
    model is computed. `spend` is called on the event loop.
    """
    token = _meter.set(spend)
    try:
        yield
    finally:
        _meter.reset(token)


def payer() -> Spend | None:
    """What an actor may call with a number of tokens, for the caller's meter; an error of that does not reach it."""
    spend = _meter.get()
    return None if spend is None else lambda tokens: asyncio.get_running_loop().call_soon(spend, tokens)
