"""What finalizers give back. They run in any thread at any moment, also in one that holds the lock that is needed."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class TakesBack(Generic[T]):
    """Has a lock, and things that come back. `_take_back` is called with the lock held, soon: at once, or by the thread
    that holds the lock, once it lets go. A base, so that nothing refers to its owner in a circle."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: deque[T] = deque()

    def _take_back(self, item: T) -> None:
        raise NotImplementedError

    def _put(self, item: T) -> None:
        """From any thread, at any moment; waits for nobody."""
        self._items.append(item)
        self._settle()

    @contextmanager
    def _held(self) -> Iterator[None]:
        """With the lock held, and all taken back that has come."""
        try:
            with self._lock:
                self._drain()
                yield
        finally:
            self._settle()

    def _settle(self) -> None:
        # Whoever holds the lock looks here again after it has let go.
        while self._items and self._lock.acquire(blocking=False):
            try:
                self._drain()
            finally:
                self._lock.release()

    def _drain(self) -> None:
        while self._items:
            self._take_back(self._items.popleft())
