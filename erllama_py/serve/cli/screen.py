"""What commands print: on a terminal with colours and bars, in a pipe plain text.

Replies and results go to stdout; what is about them goes to stderr where stdout is no terminal, so that a pipe gets
nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import erllama_py as erllama
from erllama_py.serve.core.amounts import amount as amount

WIDE = 1000  # columns of what is no terminal: nothing is cut there
STAGES = {"download": "downloading", "hash": "hashing the file", "weights": "loading weights"}


class Output(Console):
    """A console that tells as any other output that its reader has gone: rich would end the process with 1."""

    def on_broken_pipe(self) -> None:
        """See `Console`."""
        raise BrokenPipeError


def out() -> Console:
    """For stdout as it is now."""
    return Output(file=sys.stdout, highlight=False, soft_wrap=True)


def aside() -> Console:
    """For what is about a result: on stdout where that is a terminal, else on stderr."""
    return Output(file=sys.stdout if sys.stdout.isatty() else sys.stderr, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """A line about a result, dim on a terminal."""
    aside().print(f"[dim]{escape(text)}[/dim]")


def remark(text: str) -> None:
    """A line for people, never among results."""
    Console(file=sys.stderr, highlight=False, soft_wrap=True).print(f"[dim]{escape(one_line(text))}[/dim]")


def print_json(value: object) -> None:
    """A value as JSON, to be read by people and programs."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


@contextmanager
def loading(name: str) -> Iterator[Callable[[erllama.LoadProgress], None] | None]:
    """A bar on stderr while a model is loaded; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(f"{name}: opening", total=None)

        def show(progress: erllama.LoadProgress) -> None:
            what = f"{name}: {STAGES[progress.stage]}"
            bar.update(task, description=escape(what), completed=progress.done, total=progress.total)

        yield show


@contextmanager
def fetching(name: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr while a model is fetched."""
    with loading(name) as show:
        yield None if show is None else lambda done, total: show(erllama.LoadProgress("weights", done, total))


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on stderr while things are looked at, by how many are done; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def table(*columns: str, left: int = 1) -> Table:
    """A table without lines, whose first columns are texts and whose others are numbers."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        made.add_column(column, justify="left" if number < left else "right", no_wrap=True)
    return made


def show(made: Table) -> None:
    """Print a table: as wide as the terminal, and as wide as it is in a pipe."""
    terminal = sys.stdout.isatty()
    Output(file=sys.stdout, highlight=False, width=None if terminal else WIDE).print(made)


def agree(question: str) -> bool:
    """Whether a person on the terminal says yes."""
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def visible(text: str) -> str:
    """A text without what moves the cursor or draws: what a model or a file says is no program for the terminal."""
    return "".join(one if one.isprintable() or one in "\n\t" else "\N{REPLACEMENT CHARACTER}" for one in text)


def one_line(text: str) -> str:
    """A text on one line."""
    return visible(" ".join(text.split()))


def say(text: str) -> None:
    """More of a reply, at once: as it is in a pipe, and made visible on a terminal."""
    print(visible(text) if sys.stdout.isatty() else text, end="", flush=True)


def count(number: int, what: str) -> str:
    """So many of what: `"1 row"`, `"2,048 rows"`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def age(seconds: float) -> str:
    """A time that has passed, to read: `"45 s"`, `"3 h"`, `"12 d"`."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
