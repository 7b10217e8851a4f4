"""`erllama reload`: a running server reads its configuration file again."""

from __future__ import annotations

from typing import Any, TypedDict

from rich.markup import escape

from erllama_py.serve.cli import screen
from erllama_py.serve.cli.ending import DONE
from erllama_py.serve.cli.remote import Key, Server, reached

SECONDS = 120.0  # the header of each model's file is looked at


class Reloaded(TypedDict):
    """What each answer has, whatever else a newer server tells."""

    added: list[Any]


def reload(*, json: bool = False, server: Server = None, key: Key = None) -> int:
    """Have a running server read its configuration again.

    It shows what changes; no stream is dropped. A file that cannot be served is refused, and the server goes on as
    before.

    Parameters
    ----------
    json
        Print the server's answer as JSON.
    """
    with reached(server, key) as remote:
        told = remote.json("POST", "/erllama/reload", timeout=SECONDS)
        remote.shaped(told, Reloaded)
    if json:
        screen.print_json(told)
    else:
        for line in lines(told):
            screen.out().print(escape(line))
    return DONE


def lines(told: dict[str, Any]) -> list[str]:
    """What changes, a line for each kind of change that there is. Pure."""
    shown = []
    for name, value in told.items():
        if value:
            items = value if isinstance(value, list) else [value]
            texts = ", ".join(screen.one_line(_text(one)) for one in items)
            shown.append(f"{screen.one_line(str(name)).replace('_', ' ')}: {texts}")
    return shown or ["nothing changes"]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={one}" for name, one in value.items())
    return str(value)
