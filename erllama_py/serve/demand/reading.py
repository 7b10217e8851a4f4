"""Work on files of configurations and models, on a thread of its own: it blocks for as long as a disk takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


async def read_aside(work: Callable[[], T]) -> T:
    """What comes of `work`, which is done on a thread that ends with it. Raises what it raises.

    A caller that is cancelled does not wait for it.
    """
    threads = ThreadPoolExecutor(1, thread_name_prefix="erllama-reading")
    try:
        return await asyncio.wrap_future(threads.submit(work))
    finally:
        threads.shutdown(wait=False)
