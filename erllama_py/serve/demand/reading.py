"""Work on files of configurations and models, on a thread of its own: it blocks for as long as a disk or a hub takes.

The thread is no reason for the process to go on: a server that is told to end does so while a download stands still.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


async def read_aside(work: Callable[[], T]) -> T:
    """What comes of `work`, which is done on a thread that ends with it. Raises what it raises.

    A caller that is cancelled does not wait for it.
    """
    read: Future[T] = Future()
    read.set_running_or_notify_cancel()  # it cannot be cancelled: the thread sets what comes of it in any case
    threading.Thread(target=_do, args=(work, read), name="erllama-reading", daemon=True).start()
    return await asyncio.wrap_future(read)


def _do(work: Callable[[], T], read: Future[T]) -> None:
    try:
        read.set_result(work())
    except BaseException as error:  # whoever waits gets it
        read.set_exception(error)
