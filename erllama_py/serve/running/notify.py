"""What systemd hears of a service, over the socket that it names: see sd_notify(3). Elsewhere nothing is said."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

BEAT_SECONDS = 5.0
EXTEND_SECONDS = 30.0  # each beat asks for so much more time, while it loads and while it ends


class Systemd:
    """The socket of a service manager, where there is one."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._socket: socket.socket | None = None
        if self._address[:1] in ("/", "@"):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        self.beat_seconds = BEAT_SECONDS
        watched = environment.get("WATCHDOG_USEC", "")
        mine = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watched = watched.isdigit() and int(watched) > 0 and mine
        if self._watched:
            self.beat_seconds = min(BEAT_SECONDS, int(watched) / 2e6)

    def tell(self, *assignments: str) -> None:
        """Send assignments such as `READY=1`. One that cannot be sent is lost."""
        if self._socket is not None and assignments:
            address = self._address
            name = f"\0{address[1:]}" if address[0] == "@" else address
            with suppress(OSError):
                self._socket.sendto("\n".join(assignments).encode(), name)

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()

    async def beat(self, status: Callable[[], tuple[str, bool]]) -> None:
        """Until cancelled: show that the event loop turns, say what it does, and ask for more time where it takes long.

        `status` gives a sentence, and whether it is loading or ending.
        """
        if self._socket is None:
            return
        while True:
            sentence, slow = status()
            more = [f"EXTEND_TIMEOUT_USEC={int(EXTEND_SECONDS * 1e6)}"] if slow else []
            self.tell(f"STATUS={sentence}", *(["WATCHDOG=1"] if self._watched else []), *more)
            await asyncio.sleep(self.beat_seconds)
