"""`erllama top`: a running server, live: its models, what they compute, who waits, and what the cache gives."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated

import msgspec
from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.live import Live

from erllama_py.serve.cli import screen
from erllama_py.serve.cli.ending import DONE
from erllama_py.serve.cli.remote import Key, Remote, Server, ServerRefused, ServerUnreachable, reached
from erllama_py.serve.cli.sampled import Sample, View, parse_sample, view
from erllama_py.serve.cli.top_screen import drawn, waiting

IN_A_PIPE = 140  # columns: nothing is left out
HEARD_SECONDS = 1.0  # a signal that comes just before a wait is heard after it
Seconds = Annotated[float, Parameter(validator=Number(gte=0.05, lte=3600))]


def top(
    *, interval: Seconds = 1.0, once: bool = False, json: bool = False, server: Server = None, key: Key = None
) -> int:
    """Watch a running server: models, speeds, queues, the cache.

    q ends it. A server that is started again is picked up again. In a pipe one reading is printed.

    Parameters
    ----------
    interval
        Seconds between two readings, over which rates are measured.
    once
        Print one reading and end.
    json
        Print a line of JSON for each reading, until it is interrupted; with --once a single one.
    """
    with reached(server, key) as remote:
        readings = Readings(remote)
        if json:
            _print_lines(readings, interval, once=once)
        elif once or not _can_redraw():
            width = None if sys.stdout.isatty() else IN_A_PIPE
            console = screen.Output(file=sys.stdout, highlight=False, width=width)
            console.print(drawn(_rated(readings, interval), remote.name, console.width))
        else:
            _watch(readings, remote.name, interval)
    return DONE


class Readings:
    """What a server says, one reading after the other."""

    def __init__(self, remote: Remote, clock: Callable[[], float] = time.monotonic) -> None:
        self._remote, self._clock = remote, clock
        self._before: Sample | None = None

    def next(self) -> View:
        """The next one. Raises `ServerUnreachable`, `ServerRefused`."""
        page = self._remote.text("/metrics")
        try:
            now = parse_sample(page, self._clock())
        except ValueError:
            raise self._remote.stranger() from None
        shown = view(now, self._before)
        if not shown.version:  # an empty page, or the metrics of something else
            raise self._remote.stranger()
        self._before = now
        return shown

    def forget(self) -> None:
        """The server was away: what it counts next is not to be compared."""
        self._before = None


def _rated(readings: Readings, interval: float) -> View:
    """A reading with rates, which take two."""
    readings.next()
    time.sleep(interval)
    return readings.next()


def _print_lines(readings: Readings, interval: float, *, once: bool) -> None:
    readings.next()
    while True:
        time.sleep(interval)
        sys.stdout.write(msgspec.json.encode(readings.next()).decode() + "\n")
        sys.stdout.flush()
        if once:
            return


def _watch(readings: Readings, name: str, interval: float) -> None:
    """Draw until q is pressed."""
    shown = readings.next()  # what is wrong from the start is an error
    problem: str | None = None
    console = screen.Output(file=sys.stdout, highlight=False)
    with leaving_by_signals(), _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            picture = drawn(shown, name, console.width) if problem is None else waiting(name, problem)
            live.update(picture, refresh=True)
            if pressed(interval) in ("q", "Q"):
                return
            try:
                shown, problem = readings.next(), None
            except ServerUnreachable as error:
                problem = error.problem
                readings.forget()
            except ServerRefused as error:
                if error.status < 500:
                    raise
                problem = error.problem


@contextmanager
def leaving_by_signals() -> Iterator[None]:
    """While SIGTERM and SIGHUP leave by the same way as a key does: the terminal is put back."""

    def leave(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """What waits for a key, so many seconds at most; keys are not shown meanwhile."""
    if not sys.stdin.isatty():
        yield _wait
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed(seconds: float) -> str:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            ready, _, _ = select.select([descriptor], [], [], min(left, HEARD_SECONDS))
            if ready:  # where nothing is to be read, the terminal is gone
                return os.read(descriptor, 64).decode("latin-1")[:1] or "q"
        return ""

    tty.setcbreak(descriptor)
    try:
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _wait(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _can_redraw() -> bool:
    console = Console(file=sys.stdout)
    return console.is_terminal and not console.is_dumb_terminal
