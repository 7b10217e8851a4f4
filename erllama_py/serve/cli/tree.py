"""`erllama tree`: the supervision tree of a running server."""

from __future__ import annotations

import sys

import erllama_py as erllama
from erllama_py.serve.cli import screen
from erllama_py.serve.cli.ending import DONE
from erllama_py.serve.cli.remote import Key, Server, reached


def tree(*, json: bool = False, server: Server = None, key: Key = None) -> int:
    """Draw the supervision tree of a running server.

    What runs, since when, how often it was restarted, and why.

    Parameters
    ----------
    json
        Print it as JSON.
    """
    with reached(server, key) as remote:
        told = remote.get("/erllama/tree")
        drawn = str(remote.shaped(told, erllama.TreeNode))
    if json:
        screen.print_json(told)
    else:
        sys.stdout.write(_lines(drawn) + "\n")
    return DONE


def _lines(drawn: str) -> str:
    return screen.visible(drawn) if sys.stdout.isatty() else drawn
