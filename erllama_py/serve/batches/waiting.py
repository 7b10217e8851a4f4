"""The lines of a batch that wait to be asked: those of models that are away come after all others. Pure.

A model that cannot be loaded so holds its own lines up and no others, and is asked for by a few of them at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from erllama_py.serve.batches.lines import Place


class Waiting:
    """The lines, in the order in which they are to be begun. Times are of any one clock, in seconds."""

    def __init__(self, places: Sequence[Place]) -> None:
        self._todo = deque(places)
        self._apart: dict[str, deque[Place]] = {}
        self._until: dict[str, float] = {}

    def next(self) -> tuple[Place, float | None] | None:
        """The next line, and for one whose model is away the time at which it is asked again; None where no line is
        left."""
        if self._todo:
            return self._todo.popleft(), None
        if not self._apart:
            return None
        model = min(self._apart, key=self._until.__getitem__)
        place = self._apart[model].popleft()
        if not self._apart[model]:
            del self._apart[model]
        return place, self._until[model]

    def is_away(self, model: str) -> bool:
        """Whether its lines are to wait for it."""
        return model in self._until

    def put_off(self, place: Place, model: str, until: float | None = None) -> None:
        """A line waits because its model is away, until then; by default as long as others of the model."""
        self._apart.setdefault(model, deque()).append(place)
        if until is not None:
            self._until[model] = until

    def is_there(self, model: str) -> None:
        """It has answered: its lines are no others than the rest."""
        if self._until.pop(model, None) is not None:
            self._todo.extend(self._apart.pop(model, ()))
