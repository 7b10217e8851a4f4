"""Where a tree lives: one event loop, and its own threads for the work of its callers.

Nothing of a tree may be used from elsewhere: filling a mailbox from another thread wakes no task, and a future of one
loop never completes in another. `check` raises at once instead of letting the call hang.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

from erllama_py.actors.threads import Threads

# They compute (tokenizing, rendering templates), so more threads than CPUs gain no speed. The rest are spare, so that
# even dozens of calls that take long do not delay others.
THREADS = 40
BEGUN = 8
TOOL_THREADS = 32  # functions of the application that block, for as long as they like: they get none of those above


class WrongLoop(Exception):
    """Something of a tree was used outside its event loop. Not an `ActorError`, which would mean that an actor has
    ended."""

    def __init__(self, home: str, here: str) -> None:
        super().__init__(home, here)
        self.home, self.here = home, here

    def __str__(self) -> str:
        return f"it lives in {self.home}, and was used in {self.here}"


class Home:
    """See the module's text. `wrong_loop` makes the error of `check`, from where home is and where it was called."""

    def __init__(self, wrong_loop: Callable[[str, str], Exception] = WrongLoop) -> None:
        self.threads = Threads("caller", THREADS)
        self._tools, self._tools_begun, self._beginning = Threads("tool", TOOL_THREADS), False, asyncio.Lock()
        self._wrong_loop = wrong_loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._place = ""

    async def settle(self) -> None:
        """Bind the tree to the running loop, and start threads before they are needed."""
        self._loop = asyncio.get_running_loop()
        self._place = describe_place()
        await self.threads.begin(BEGUN)

    async def tool_threads(self) -> Threads:
        """Threads for functions of the application, begun when they are first asked for."""
        async with self._beginning:
            if not self._tools_begun:
                await self._tools.begin()
                self._tools_begun = True
        return self._tools

    def check(self) -> None:
        """Raise the error of `wrong_loop` unless called in the home's loop, as long as there is one."""
        if self._loop is not None and self._loop is not asyncio._get_running_loop():
            raise self._wrong_loop(self._place, describe_place())

    def leave(self) -> None:
        """Unbind from the loop, and let the threads end."""
        self._loop = None
        self.threads.close()
        self._tools.close()


def describe_place() -> str:
    """The running loop and the thread, in words."""
    loop, thread = asyncio._get_running_loop(), threading.current_thread().name
    return (
        f"the event loop {id(loop):#x} of thread {thread!r}" if loop else f"thread {thread!r}, outside any event loop"
    )
