"""How a request is ended with what it has: by the server that ends, or by its own client, who wants no more."""

from __future__ import annotations

from collections.abc import Callable

from erllama_py.serve.core.problems import Problem, shutting_down, stopped


class Ending:
    """Of one request. What ends it changes while it goes on: first its body is awaited, then a model, then a reply."""

    def __init__(self) -> None:
        self.why: Problem | None = None
        """What its client is told where there is nothing of a reply; `None` while it has not been ended."""
        self._end: Callable[[], object] | None = None

    def by(self, end: Callable[[], object] | None) -> None:
        """What ends it from now on; it does so at once where the request was ended before."""
        self._end = end
        if self.why is not None and end is not None:
            end()

    def hurry(self) -> None:
        """The server ends."""
        self._now(shutting_down())

    def stop(self) -> None:
        """Its client wants no more."""
        self._now(stopped())

    def _now(self, why: Problem) -> None:
        self.why = self.why or why
        if self._end is not None:
            self._end()
