"""Models brought here by a command, and what is shown meanwhile: a bar on a terminal, lines in a pipe, on stderr."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

import erllama_py as erllama
from erllama_py.serve.cli.ending import UsageError
from erllama_py.serve.cli.screen import amount

Show = Callable[[erllama.PullProgress], None]


def pulled(given: str, *, quiet: bool = False, **how: Any) -> erllama.PulledModel:
    """A model of the hub, downloaded where it is not here; `how` is for `pull_model`.

    Raises `UsageError`, `PullError`.
    """
    reference = reference_of(given)
    with showing(given, quiet=quiet) as show:
        return asyncio.run(erllama.pull_model(reference, on_progress=show, **how))


def reference_of(given: str) -> erllama.HubReference:
    """The reference that a command line names. Raises `UsageError`."""
    try:
        return erllama.HubReference.parse(given)
    except erllama.InvalidOption as error:
        raise UsageError(error.problem) from None


@contextmanager
def showing(name: str, *, quiet: bool = False) -> Iterator[Show | None]:
    """How far a download is; None where nothing is to be shown."""
    if quiet:
        yield None
    elif not sys.stderr.isatty():
        yield Lines(name, lambda line: print(line, file=sys.stderr, flush=True))
    else:
        columns = (
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True),
            TransferSpeedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
            task = bar.add_task(escape(f"{name}: asking the hub"), total=None)
            yield lambda step: bar.update(task, description=escape(name), completed=step.done, total=step.total)


class Lines:
    """A line for each tenth of a download."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._name, self._say, self._tenth = name, say, 0

    def __call__(self, step: erllama.PullProgress) -> None:
        tenth = step.done * 10 // step.total if step.total else 10
        if tenth > self._tenth:
            self._tenth = tenth
            self._say(f"{self._name}: {tenth * 10} % of {amount(step.total)}")
