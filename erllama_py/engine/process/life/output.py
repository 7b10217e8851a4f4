"""What a child says and what libraries write in it, line by line, until it ends."""

from __future__ import annotations

import os
import select
import subprocess
from contextlib import suppress
from typing import Protocol

_READ_BYTES = 64 << 10
_MOST_LINE = 8 << 10  # of one that does not end


class Lines(Protocol):
    """Takes lines."""

    def write(self, line: str) -> None:
        """One that was written to standard error."""

    def note(self, line: str) -> None:
        """An error that a library has told, before anybody else hears of it."""


class Output:
    """The two pipes of one child, and its end where the system has a descriptor for that. For one thread."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        assert process.stderr is not None
        self.word: int | None = None  # what it said that it would end with
        self._words, self._written = process.stdout.fileno(), process.stderr.fileno()
        self._begun = {self._words: b"", self._written: b""}  # the line that has not ended
        self._poll = select.poll()
        for descriptor in self._begun:
            os.set_blocking(descriptor, False)
            self._poll.register(descriptor, select.POLLIN)
        self._end: int | None = None
        with suppress(OSError, AttributeError):
            self._end = os.pidfd_open(process.pid)
            self._poll.register(self._end, select.POLLIN)

    def close(self) -> None:
        """The pipes are the process's own."""
        if self._end is not None:
            os.close(self._end)
            self._end = None

    def read(self, seconds: float, into: Lines) -> bool:
        """Wait for lines at most so long, and have those of libraries written there, and their errors noted; false once
        it has ended and all is read.

        A pipe may be held open by others, and may be closed by the child: its end alone counts where it can be seen.
        """
        ready = [descriptor for descriptor, _ in self._poll.poll(seconds * 1000)]
        over = self._end in ready
        for descriptor in [*self._begun] if over else [one for one in ready if one in self._begun]:
            self._drain(descriptor, into, to_end=over)
        return not over and (self._end is not None or bool(self._begun))

    def _drain(self, descriptor: int, into: Lines, *, to_end: bool) -> None:
        data = b"more"
        while data:
            try:
                data = os.read(descriptor, _READ_BYTES)
            except BlockingIOError:
                break
            *lines, rest = (self._begun[descriptor] + data).split(b"\n")
            self._begun[descriptor] = rest[-_MOST_LINE:]
            for line in lines:
                self._take(descriptor, line, into)
            if not to_end:
                break
        if not data:
            self._poll.unregister(descriptor)
        if not data or to_end:
            rest = self._begun.pop(descriptor)
            if rest:
                self._take(descriptor, rest, into)

    def _take(self, descriptor: int, line: bytes, into: Lines) -> None:
        text = line.decode(errors="replace").rstrip()
        if descriptor == self._written:
            if text:
                into.write(text)
        elif text.startswith("error "):
            into.note(text[6:])
        elif text.startswith("done ") and text[5:].isdigit():
            self.word = int(text[5:])
