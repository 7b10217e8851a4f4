"""How a command ends: its exit code, and one line on stderr for what went wrong."""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import erllama_py as erllama

DONE, FAILED, USAGE, INTERRUPTED, NOBODY_READS = 0, 1, 2, 130, 141


class UsageError(Exception):
    """A command line that makes no sense; its text is the one line that is shown."""


def ended(command: Callable[[], int]) -> int:
    """The exit code of a command. What is no error of the library, its user or the machine is raised."""
    try:
        code = command()
        sys.stdout.flush()  # else what a full disk refuses is found out when nobody can tell any more
        return code
    except UsageError as error:
        complain(str(error))
        return USAGE
    except erllama.ErllamaError as error:
        complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _give_up_output()
        return NOBODY_READS
    except OSError as error:  # the machine's, such as a disk that is full
        complain(f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error))
        try:
            sys.stdout.flush()
        except OSError:
            _give_up_output()
        return FAILED


def open_streams() -> None:
    """Whoever starts a program may have closed its streams: then nothing is read, and what is written is lost."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # open as long as the process
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="strict")  # without a locale Python takes any bytes for text
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be any bytes, and a terminal may lack characters
        in_unicode = codecs.lookup(sys.stdout.encoding).name.startswith("utf")
        sys.stdout.reconfigure(errors="surrogateescape" if in_unicode else "replace")


def _give_up_output() -> None:
    """As `head` does: where nothing more can be written, the interpreter's own flush at the end would say so again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def heeding_sigterm() -> Iterator[None]:
    """While SIGTERM ends the process with 0, before a server hears signals by itself and after. In the main thread.

    The first process of a container is not even ended by a signal that it does not heed.
    """

    told = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal told
        told = True
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends: another one changes nothing
        sys.exit(DONE)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if not told:
            signal.signal(signal.SIGTERM, before)


def complain(text: str) -> None:
    """One line on stderr, whatever the text holds: names of files and of models are no programs for the terminal."""
    shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in " ".join(text.split()))
    print(f"erllama: {shown}", file=sys.stderr, flush=True)
