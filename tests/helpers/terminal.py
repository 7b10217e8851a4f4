"""The command `erllama` as a child process: on a pseudo-terminal, or with pipes. It waits for texts, never for time."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from helpers.project import TOP

LONGEST = 60.0  # seconds until a text that does not come is given up
PATIENCE = 2.0  # seconds until a key is pressed again
COMMAND = (sys.executable, "-m", "erllama_py.serve.cli")


def environment(**more: str) -> dict[str, str]:
    """Of a child: this package, a plain terminal, and no buffer between it and us."""
    return {**os.environ, "PYTHONPATH": str(TOP), "TERM": "dumb", "PYTHONUNBUFFERED": "1", **more}


def run_script(script: str) -> None:
    """Run Python code in a child. What it writes is the error where it fails."""
    ended = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


class Terminal:
    """One command on a terminal."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self.process, self._descriptor, self.shown = process, descriptor, ""

    def wait_for(self, text: str) -> str:
        """What was shown up to a text, which is taken off."""
        deadline = time.monotonic() + LONGEST
        while text not in self.shown:
            ready, _, _ = select.select([self._descriptor], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not come; there is {self.shown!r}"
            self.shown += os.read(self._descriptor, 65536).decode("utf-8", "replace")
        before, _, self.shown = self.shown.partition(text)
        return before

    def type(self, text: str) -> None:
        """As if it came from the keyboard; `\\x03` is Ctrl-C, `\\x04` Ctrl-D."""
        os.write(self._descriptor, text.encode())

    def end(self, key: str) -> int:
        """Its exit code, once a key has ended it.

        A signal that comes between the prompt and the wait for a line is seen with the next key: it is pressed again.
        """
        deadline = time.monotonic() + LONGEST
        self.type(key)
        while time.monotonic() < deadline:
            ready, _, _ = select.select([self._descriptor], [], [], PATIENCE)
            try:
                if not ready:
                    self.type(key)
                elif not os.read(self._descriptor, 65536):  # a terminal that nobody reads would stop it
                    break
            except OSError:  # its other end is closed
                break
        return self.process.wait(LONGEST)


@contextmanager
def on_terminal(*arguments: str, program: Sequence[str] = COMMAND, **more: str) -> Iterator[Terminal]:
    """Run `erllama`, or another program, on a terminal of its own, with `more` in its environment."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*program, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(**more),
        start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
