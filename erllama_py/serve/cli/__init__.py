"""The command `erllama`. It needs the extra `serve`; `erllama demo` needs none.

Exit codes: 0 done; 1 an error, told in one line on stderr; 2 a command line that makes no sense; 130 interrupted;
141 what reads the output has gone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from erllama_py.serve.cli import bare
from erllama_py.serve.cli.ending import ended, open_streams


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code. Errors of the library are one line on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    open_streams()
    return ended(lambda: _dispatch(given))


def _dispatch(given: Sequence[str]) -> int:
    try:
        from erllama_py.serve.cli.commands import dispatch
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.partition(".")[0] == "erllama_py":
            raise
        return bare.dispatch(given, missing)
    return dispatch(given)
