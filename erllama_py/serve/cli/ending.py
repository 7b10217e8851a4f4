"""How a command ends: its exit code, and one line on stderr for what went wrong."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import erllama_py as erllama

DONE, FAILED, USAGE, INTERRUPTED, NOBODY_READS = 0, 1, 2, 130, 141


class UsageError(Exception):
    """A command line that makes no sense; its text is the one line that is shown."""


def ended(command: Callable[[], int]) -> int:
    """The exit code of a command. What is no error of the library, nor of its user, is raised."""
    try:
        return command()
    except UsageError as error:
        complain(str(error))
        return USAGE
    except erllama.ErllamaError as error:
        complain(str(error))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # As `head` does: nothing more can be written, and the interpreter's own flush at the end would say so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOBODY_READS


def complain(text: str) -> None:
    """One line on stderr, whatever the text holds."""
    print(f"erllama: {' '.join(text.split())}", file=sys.stderr, flush=True)
