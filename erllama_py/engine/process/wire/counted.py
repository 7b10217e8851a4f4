"""Whether all that was sent on a socket has come, and once: who sends says how many there were so far. Pure."""

from __future__ import annotations

from erllama_py.engine.process.wire.frames import BadFrame


class Counted:
    """What has come on one socket; `what` names it in words."""

    def __init__(self, what: str) -> None:
        self._what, self._count = what, 0

    def __repr__(self) -> str:
        return f"<Counted: {self._count} {self._what}>"

    def add(self, count: int, total: int) -> None:
        """So many more have come, with which there are `total`. Raises `BadFrame` where here there are not."""
        self._count += count
        if self._count != total:
            how = "were lost" if self._count < total else "came twice"
            raise BadFrame(f"{self._what} {how}: {total} were sent, and {self._count} have come")
