"""The signals by which a process is told to end: the first asks, a second hurries."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Told:
    """Whether a process was told to end, and whether to hurry."""

    def __init__(self) -> None:
        self.to_end = asyncio.Event()
        self.to_hurry = asyncio.Event()

    def tell(self) -> None:
        """What a signal does."""
        (self.to_hurry if self.to_end.is_set() else self.to_end).set()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """While signals are heard; then they do what they did before."""
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            loop.add_signal_handler(number, self.tell)
        try:
            yield
        finally:
            for number, handler in before.items():
                loop.remove_signal_handler(number)
                signal.signal(number, handler)


async def unless(event: asyncio.Event, act: Callable[[], object]) -> None:
    """Act as soon as an event has come; to be cancelled where it is not waited for any more."""
    await event.wait()
    act()
