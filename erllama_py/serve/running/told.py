"""The signals by which a process is told to end: the first asks, a second hurries. And the one to read again what it is
configured by."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Told:
    """Whether a process was told to end, whether to hurry, and whether to read its configuration again."""

    def __init__(self) -> None:
        self.to_end = asyncio.Event()
        self.to_hurry = asyncio.Event()
        self.to_reload = asyncio.Event()

    def tell(self) -> None:
        """What a signal does."""
        (self.to_hurry if self.to_end.is_set() else self.to_end).set()

    @contextmanager
    def listening(self, *, reloads: bool = True) -> Iterator[None]:
        """While signals are heard; then they do what they did before. Where nothing can be read again, SIGHUP says that
        the terminal was closed: it ends the process, unless that was started by `nohup`."""
        loop = asyncio.get_running_loop()
        acts = dict.fromkeys(SIGNALS, self.tell)
        if reloads or signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            acts[signal.SIGHUP] = self.to_reload.set if reloads else self.tell
        before = {number: signal.getsignal(number) for number in acts}
        for number, act in acts.items():
            loop.add_signal_handler(number, act)
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
