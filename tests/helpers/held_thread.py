"""A blocking function of a worker thread, held up once it has its result: what it found is old when it is let go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

GUARD_SECONDS = 10


class HeldThread:
    """Put in place of the function at `path`, which is `original`. Errors are results, too."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: str, original: Callable[..., Any]) -> None:
        self.reached = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._go_on = threading.Event()

        def held(*args: Any) -> Any:
            try:
                return original(*args)
            finally:
                self._loop.call_soon_threadsafe(self.reached.set)
                assert self._go_on.wait(GUARD_SECONDS)

        monkeypatch.setattr(path, held)

    def go_on(self) -> None:
        """Let all calls return, those to come too."""
        self._go_on.set()
