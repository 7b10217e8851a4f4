"""The command `erllama`. It needs the extra `serve`; `erllama demo` needs none.

Exit codes: 0 done; 1 an error, told in one line on stderr; 2 a command line that makes no sense; 130 interrupted;
141 what reads the output has gone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from erllama_py.serve.cli import bare
from erllama_py.serve.cli.ending import ended, heeding_sigterm, open_streams


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code. Errors of the library are one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    open_streams()
    if given[:1] == ["serve"]:
        with heeding_sigterm():
            return ended(lambda: _dispatch(given))
    return ended(lambda: _dispatch(given))


def _dispatch(given: Sequence[str]) -> int:
    """Importing the commands takes most of a second: it can be interrupted too."""
    try:
        from erllama_py.serve.cli.commands import dispatch
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.partition(".")[0] == "erllama_py":
            raise
        return bare.dispatch(given, missing)
    return dispatch(given)
