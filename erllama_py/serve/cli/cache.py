"""`erllama cache ls|show|verify|rm|gc`: what a tier keeps, whether it is whole, and what is to go.

Each works on a directory that nobody has open, which it locks meanwhile, and on one that a server holds, through the
server.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.markup import escape

import erllama_py as erllama
from erllama_py.serve.cli import screen
from erllama_py.serve.cli.cache_places import Place, opened, without_directory
from erllama_py.serve.cli.cached_rows import (
    LEAST_PREFIX,
    Chain,
    Group,
    NotChosen,
    chain_of,
    chosen,
    extending,
    found,
    grouped,
    parse_age,
    parse_size,
)
from erllama_py.serve.cli.ending import DONE, FAILED, UsageError
from erllama_py.serve.cli.remote import Key, Server

Directory = Annotated[
    Path | None, Parameter(help="The directory of a tier, such as the one that `erllama serve --cache` names. It may "
                           "be left out where a --server is named.")
]  # fmt: skip
Tier = Annotated[str | None, Parameter(help="The tier of the server, by its name, where it has several.")]
SHORT = 16  # hex digits of a key that are shown where a person reads


def ls(
    directory: Directory = None, /, *, rows: bool = False, json: bool = False, tier: Tier = None,
    server: Server = None, key: Key = None,
) -> int:  # fmt: skip
    """List what is kept, by model.

    Rows, tokens, bytes, hits, and how long it was not used. A model is named where a server has it loaded; else it is
    known by its fingerprint.

    Parameters
    ----------
    rows
        List every row, the last used first.
    json
        Print it as JSON: groups, or with --rows rows.
    """
    with _place(directory, server, key, tier) as place:
        known, names, unsound = _rows(place), place.models(), place.unsound()
    listed = sorted(known, key=lambda row: -row.used_at)
    groups = grouped(known, names)
    if json:
        screen.print_json(listed if rows else groups)
    elif rows:
        _show_rows(listed)
    else:
        _show_groups(groups, place.name)
    if unsound and not json:
        screen.note(f"{screen.count(len(unsound), 'file')} no prompt can use: `erllama cache verify` says why")
    return DONE


def show(
    directory: Directory = None, row: str | None = None, /, *, json: bool = False, tier: Tier = None,
    server: Server = None, key: Key = None,
) -> int:  # fmt: skip
    """Show a row, what it extends, and what extends it.

    Parameters
    ----------
    row
        The beginning of its key, as `erllama cache ls --rows` shows it.
    json
        Print it as JSON.
    """
    directory, rows = without_directory(directory, [] if row is None else [row], named=bool(server or tier))
    if not rows:
        raise UsageError("say which row, by the beginning of its key: `erllama cache ls --rows` shows them")
    (row,) = rows
    with _place(directory, server, key, tier) as place, _choosing(place, rows):
        known = _rows(place)
        chain = chain_of(known, found(known, row))
    if json:
        screen.print_json(chain)
    else:
        _show_chain(chain)
    return DONE


def verify(
    directory: Directory = None, /, *, json: bool = False, tier: Tier = None, server: Server = None, key: Key = None
) -> int:
    """Read every row whole and compare its checksums.

    The exit code is 1 where anything is wrong. Files that are torn, foreign, or were set aside are named; nothing is
    changed in a directory that nobody has open. A server takes a bad row out of its cache.

    Parameters
    ----------
    json
        Print what is wrong as JSON.
    """
    with _place(directory, server, key, tier) as place, screen.counting("reading rows") as progress:
        problems = place.verify(progress)
        name = place.name
    wrong = [problem for problem in problems if problem.kind != "temp"]
    if json:
        screen.print_json(problems)
    else:
        console = screen.out()
        for problem in problems:
            what = f"{problem.kind}: {screen.one_line(problem.name)}: {screen.one_line(problem.problem)}"
            console.print(escape(what))
        console.print(escape(f"{name}: {screen.count(len(wrong), 'problem') if wrong else 'every row is whole'}"))
    return FAILED if wrong else DONE


def rm(
    directory: Directory = None, /, *rows: str, model: str | None = None, older_than: str | None = None,
    all: bool = False, yes: bool = False, json: bool = False, tier: Tier = None, server: Server = None, key: Key = None,
) -> int:  # fmt: skip
    """Remove rows, and all rows that extend them.

    Nothing could reach those then. What is chosen is what all of the options name together. On a terminal it is asked
    first.

    Parameters
    ----------
    rows
        Rows, each by the beginning of its key.
    model
        Rows of a model: its name, where a server has it loaded, or the beginning of its fingerprint.
    older_than
        Rows that were not used for so long, such as 30d, 12h or 90m.
    all
        All rows.
    yes
        Do not ask.
    json
        Print what was removed as JSON.
    """
    directory, keys = without_directory(directory, rows, named=bool(server or tier))
    if all == bool(keys or model or older_than):
        raise UsageError("say which rows: their keys, --model, --older-than; or --all, alone")
    with _place(directory, server, key, tier) as place, _choosing(place, keys):
        since = None if older_than is None else time.time() - parse_age(older_than)
        known = _rows(place)
        picked = chosen(known, keys=keys, model=model, unused_since=since, models=place.models())
        gone = [*picked, *extending(known, [row.key for row in picked])]
        if picked and not yes and not _agreed(gone, place.name):
            screen.remark("nothing was removed")
            return DONE
        removed = place.remove([row.key for row in picked]) if picked else erllama.RowsRemoved(rows=0, nbytes=0, left=0)
    return _told(removed, json=json)


def gc(
    directory: Directory = None, /, *, quota: str | None = None, json: bool = False, tier: Tier = None,
    server: Server = None, key: Key = None,
) -> int:  # fmt: skip
    """Remove what is of no use.

    That is temp files of writers that were killed, files that were set aside, torn ones, and rows whose parents are
    gone. What no tier has written stays.

    Parameters
    ----------
    quota
        Remove also the rows that are worth least, until all takes no more than this, such as 20GiB. A server keeps its
        tiers within their quotas by itself.
    json
        Print what was removed as JSON.
    """
    with _place(directory, server, key, tier) as place, _choosing(place):
        removed = place.gc(None if quota is None else parse_size(quota))
    return _told(removed, json=json)


# --- inside ------------------------------------------------------------------------------------------------------


@contextmanager
def _choosing(place: Place, keys: Sequence[str] = ()) -> Iterator[None]:
    """What names no row is a wrong command line; where a file has the name, it is said what that is."""
    try:
        yield
    except NotChosen as error:
        named = tuple(f"rows/{key.lower()}" for key in keys if len(key) >= LEAST_PREFIX)
        bad = next((one for one in place.unsound() if one.name.startswith(named)), None)
        if bad is not None and bad.kind != "orphan":
            said = (
                f"{bad.name} is no row: {bad.kind}: {bad.problem}; `erllama cache gc` removes what tiers have written"
            )
            raise UsageError(screen.one_line(said)) from None
        raise UsageError(screen.one_line(str(error))) from None


def _place(directory: Path | None, server: str | None, key: str | None, tier: str | None) -> Any:
    return opened(directory, server=server, key=key, tier=tier, said=screen.remark)


def _rows(place: Place) -> list[erllama.RowInfo]:
    with screen.counting("looking at rows") as progress:
        return place.rows(progress)


def _agreed(gone: list[erllama.RowInfo], name: str) -> bool:
    """Whether the user wants them removed. Raises `UsageError` where nobody can be asked."""
    if not sys.stdin.isatty():
        raise UsageError("it would remove rows, and there is no terminal to ask on: --yes does it")
    size = screen.amount(sum(row.nbytes for row in gone))
    return screen.agree(f"Remove {screen.count(len(gone), 'row')}, {size}, from {screen.one_line(name)}?")


def _told(removed: erllama.RowsRemoved, *, json: bool) -> int:
    """Show what was removed; the exit code."""
    if json:
        screen.print_json(removed)
    else:
        rows = f"{screen.count(removed.rows, 'row')}, " if removed.rows else ""
        screen.out().print(f"removed: {rows}{screen.amount(removed.nbytes)}")
    if removed.left:
        left = f"{screen.count(removed.left, 'row')} left: in use, or their files cannot be removed"
        raise RowsLeft(left)
    return DONE


class RowsLeft(erllama.ErllamaError):
    """Rows that were to be removed are still there."""

    problem: str

    text = "{problem}"


def _show_groups(groups: list[Group], name: str) -> None:
    now = time.time()
    table = screen.table("model", "rows", "tokens", "size", "hits", "not used for", "kept for")
    for one in groups:
        model = one.model or one.fingerprint[:SHORT]
        table.add_row(
            escape(screen.one_line(model)), f"{one.rows:,}", f"{one.tokens:,}", screen.amount(one.nbytes),
            f"{one.hits:,}", screen.age(now - one.used_at), screen.age(now - one.created_at),
        )  # fmt: skip
    if groups:
        screen.show(table)
    total = screen.amount(sum(one.nbytes for one in groups))
    screen.note(f"{screen.one_line(name)}: {screen.count(sum(one.rows for one in groups), 'row')}, {total}")


def _show_rows(rows: list[erllama.RowInfo]) -> None:
    table, now = (
        screen.table("key", "model", "reason", "positions", "size", "hits", "not used for", left=3),
        time.time(),
    )
    for row in rows:
        table.add_row(*_cells(row, now))
    screen.show(table)


def _cells(row: erllama.RowInfo, now: float) -> tuple[str, ...]:
    return (
        row.key[:SHORT], row.fingerprint[:SHORT], row.reason, f"{row.start:,}–{row.end:,}", screen.amount(row.nbytes),
        f"{row.hits:,}", screen.age(now - row.used_at),
    )  # fmt: skip


def _show_chain(chain: Chain) -> None:
    row, now, console = chain.row, time.time(), screen.out()
    facts = {
        "key": row.key, "model": row.fingerprint, "build": row.build, "tier": row.tier, "saved for": row.reason,
        "positions": f"{row.start:,} to {row.end:,}: {row.end - row.start:,} tokens",
        "size": screen.amount(row.nbytes), "hits": f"{row.hits:,}", "saves": f"{row.prefill_seconds:.2f} s a hit",
        "saved": f"{screen.age(now - row.created_at)} ago", "last used": f"{screen.age(now - row.used_at)} ago",
        "extended by": f"{screen.count(chain.below, 'row')}, {screen.amount(chain.below_bytes)}",
    }  # fmt: skip
    width = max(map(len, facts))
    for name, value in facts.items():
        console.print(f"[bold]{name.ljust(width)}[/bold]  {escape(screen.one_line(value))}")
    parts: list[tuple[str, tuple[erllama.RowInfo, ...]]] = [
        ("It extends:", chain.before), ("These extend it:", chain.children)
    ]  # fmt: skip
    for title, rows in parts:
        if rows:
            console.print(f"\n{title}")
            _show_rows(list(rows))
    if not chain.is_whole:
        console.print("\nThe rows before it are gone, so no prompt can find it: `erllama cache gc` removes it.")


COMMANDS: dict[str, Callable[..., int]] = {"ls": ls, "show": show, "verify": verify, "rm": rm, "gc": gc}
EXAMPLES = {
    "ls": "erllama cache ls /var/lib/erllama/kv",
    "show": "erllama cache show /var/lib/erllama/kv 3fa9c1",
    "verify": "erllama cache verify /var/lib/erllama/kv",
    "rm": "erllama cache rm /var/lib/erllama/kv --older-than 30d",
    "gc": "erllama cache gc /var/lib/erllama/kv --quota 20GiB",
}
