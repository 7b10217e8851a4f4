"""`erllama ls` and `erllama rm`: the models that were pulled and fetched, and their removal."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.markup import escape

import erllama_py as erllama
from erllama_py.serve.cli import screen
from erllama_py.serve.cli.downloads import reference_of
from erllama_py.serve.cli.elsewhere import of_model
from erllama_py.serve.cli.ending import DONE, UsageError
from erllama_py.serve.config import is_of_hub
from erllama_py.serve.models import MODELS, fetched, unfetch


class Shelved(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is on this machine, as `--json` tells of it."""

    name: str
    size: int
    """Bytes of its files."""
    quant: str | None
    last_used: float | None
    """Seconds since 1970."""
    path: str
    """Its GGUF file, the first of several."""
    whole: bool = True
    """False for what a download has left that broke off, or goes on right now: `name` is its repository then."""


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """A model that was removed, as `--json` tells of it."""

    name: str
    freed: int
    """Bytes of the disk that are free again."""


def ls(*, json: bool = False) -> int:
    """List the models on this machine.

    Those that were pulled from the hub, by whatever tool, or fetched; and what downloads have left that broke off.

    Parameters
    ----------
    json
        Print them as JSON.
    """
    models = shelved()
    if json:
        screen.print_json(models)
    elif models:
        _show(models)
    else:
        screen.note("there is no model yet: erllama pull hf:owner/repo:Q4_K_M")
    return DONE


def rm(
    *names: str, unfinished: bool = False, yes: Annotated[bool, Parameter(alias="-y")] = False, json: bool = False,
) -> int:  # fmt: skip
    """Remove models from this machine.

    It says how many bytes that frees. Bytes that another revision shares stay, and a model that a process has in its
    memory is refused.

    Parameters
    ----------
    names
        As erllama ls shows them.
    unfinished
        Remove no model, but what downloads of these repositories have left that broke off.
    yes
        Do not ask first.
    json
        Print what was removed as JSON.
    """
    if not names:
        raise UsageError("name a model, as erllama ls shows it; see: erllama rm --help")
    unknown = [name for name in names if (name not in MODELS or unfinished) and not is_of_hub(name)]
    if unknown:
        raise UsageError(f"{unknown[0]!r} is no name of a model{of_model(unknown[0])}; erllama ls shows them")
    if not yes and not _agreed(names):
        screen.remark("nothing was removed")
        return DONE
    removed: list[Removed] = []
    for name in names:
        removed.append(_removed(name, unfinished=unfinished))
        if not json:
            print(f"{name}: {screen.amount(removed[-1].freed)} freed", flush=True)
    if json:
        screen.print_json(removed)
    return DONE


def shelved() -> list[Shelved]:
    """All of them: those of the hub, then those that were fetched, then what is not whole."""
    try:
        pulled, unfinished = asyncio.run(_of_hub())
    except erllama.PullError as error:  # without the extra there may be fetched ones
        screen.note(f"models of the hub are not listed: {error.problem}")
        pulled, unfinished = [], []
    listed = [
        Shelved(name=one.reference, size=one.size, quant=one.quant, last_used=one.last_used, path=one.path)
        for one in pulled
    ]
    for name, path in fetched().items():
        found, quant = path.stat(), re.split(r"[.-]", path.stem)[-1].upper()
        listed.append(Shelved(name=name, size=found.st_size, quant=quant, last_used=found.st_atime, path=str(path)))
    return listed + [
        Shelved(name=one.reference, size=one.size, quant=None, last_used=one.changed, path=one.path, whole=False)
        for one in unfinished
    ]


async def _of_hub() -> tuple[list[erllama.PulledModel], list[erllama.UnfinishedPull]]:
    return await erllama.list_pulled(), await erllama.list_unfinished()


def _show(models: list[Shelved]) -> None:
    """A line for each, in columns; the path is the last, so that it can be of any length."""
    rows = [("name", "size", "quant", "last used", "file")]
    for one in models:
        quant = (one.quant or "–") if one.whole else "unfinished"
        rows.append((one.name, screen.amount(one.size), quant, date_of(one.last_used), one.path))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    console = screen.out()
    for number, row in enumerate(rows):
        line = "  ".join(text.ljust(width) for text, width in zip(row, (*widths, 0), strict=True))
        console.print(f"[bold]{escape(line)}[/bold]" if number == 0 else escape(screen.visible(line)))
    if not all(one.whole for one in models):
        go_on, remove = "erllama pull goes on with what is unfinished", "erllama rm NAME --unfinished removes it"
        screen.note(f"{go_on}; {remove}")


def date_of(seconds: float | None) -> str:
    return "–" if seconds is None else time.strftime("%Y-%m-%d", time.localtime(seconds))


def _agreed(names: tuple[str, ...]) -> bool:
    """Whether the user wants them removed. Raises `UsageError` where nobody can be asked."""
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked here whether to remove it: say --yes")
    return screen.agree(f"Remove {', '.join(map(screen.one_line, names))}?")


def _removed(name: str, *, unfinished: bool) -> Removed:
    if name in MODELS:
        return Removed(name=name, freed=unfetch(name))
    freed = asyncio.run(erllama.remove_pulled(reference_of(name), unfinished=unfinished))
    return Removed(name=name, freed=freed)
