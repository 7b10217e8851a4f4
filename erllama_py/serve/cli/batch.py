"""`erllama batch`: a file of requests answered, here or by a running server.

What is known of it lies beside the output, so that the same command goes on after whatever has ended it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from erllama_py.serve.cli import screen
from erllama_py.serve.cli.batch_files import Files, Show, Summary
from erllama_py.serve.cli.ending import DONE, FAILED, UsageError, complain
from erllama_py.serve.cli.remote import Key, Server, reached

SAID_SECONDS = 10.0  # between lines about the progress, where there is no terminal
MOST_PROBLEMS = 10  # that are printed of a file that is no batch


def batch(
    file: Path,
    /,
    *,
    model: str | None = None,
    out: Path | None = None,
    server: Server = None,
    key: Key = None,
    context: int | None = None,
    sequences: int | None = None,
    threads: int | None = None,
    cache: str | None = None,
    cancel: bool = False,
    json: bool = False,
) -> int:
    """Answer a file of requests, in the form of OpenAI's batches.

    With --model the file is answered by this process; without, by a running server, beside its live requests. Ended by
    Ctrl-C or anything else, the same command goes on where it was. 1 is its exit code if lines failed.

    Parameters
    ----------
    file
        Lines of JSON, each with custom_id, url and body.
    model
        A GGUF file, or the name of a small model that can be fetched, for all lines, whatever model they name.
    out
        Where the answers go; lines that failed go to a file beside it. [default: FILE.out.jsonl]
    context
        Tokens of the context, which the lines at work share.
    sequences
        Replies that are computed side by side; 8 by default.
    threads
        CPU threads; by default as many as compute fastest.
    cache
        A directory that keeps what was computed over restarts.
    cancel
        End the batch at the server now, and fetch the answers that are there.
    json
        Print what it came to as JSON.
    """
    files = _checked(file, out)
    if model is None:
        if given := [name for name, one in (("context", context), ("sequences", sequences), ("threads", threads),
                                            ("cache", cache)) if one is not None]:  # fmt: skip
            raise UsageError(f"--{given[0]} is for a --model of this process; a server has its own")
        from erllama_py.serve.cli.batch_there import answered_there

        with reached(server, key) as remote, _shown(files) as show:
            summary = answered_there(remote, files, show, cancel=cancel)
    else:
        if cancel:
            raise UsageError("--cancel is for a batch at a server; one of a --model ends with its command")
        if server is not None and server != os.environ.get("ERLLAMA_SERVER"):
            raise UsageError("--model answers in this process, --server by a server: give one of them")
        from erllama_py.serve.cli.batch_here import answered_here, local_config

        config = local_config(model, context=context, sequences=sequences, threads=threads, cache=cache)
        with _shown(files) as show:
            summary = asyncio.run(answered_here(config, files, show))
    return _told(summary, wanted=("completed", "cancelled") if cancel else ("completed",), json=json)


def _checked(file: Path, out: Path | None) -> Files:
    """Raises `UsageError`, `OSError`."""
    if file.exists() and not (file.is_file() or file.is_dir()):  # opened, a pipe would wait for who writes into it
        raise UsageError(f"{file} is no file that can be read twice: write the requests to one first")
    with file.open("rb"):  # it is there, and can be read
        files = Files(file, out or file.with_name(f"{file.stem}.out.jsonl"))
    files.output.parent.stat()  # its error names the folder, not the file that would lie beside the output
    if any(path.exists() and path.samefile(file) for path in files.written()):
        raise UsageError("--out: the file of the requests would be written over")
    if (files.output.exists() or files.errors.exists()) and not files.journal.exists():
        there = files.output if files.output.exists() else files.errors
        raise UsageError(f"{there} is there already: delete it, or name another file by --out")
    return files


def _told(summary: Summary, *, wanted: tuple[str, ...], json: bool) -> int:
    """Print what it came to; the exit code."""
    if json:
        screen.print_json(summary)
    elif summary.output is not None:
        screen.note(f"{summary.completed:,} of {summary.total:,} lines answered: {summary.output}")
    for problem in summary.problems[:MOST_PROBLEMS]:
        complain(problem)
    if summary.failed:
        complain(f"{summary.failed:,} of {summary.total:,} lines failed: {summary.errors} says why")
    elif summary.status not in wanted and not summary.problems:
        complain(f"the batch is {summary.status}: {summary.completed:,} of {summary.total:,} lines were answered")
    return DONE if summary.status in wanted and not summary.failed else FAILED


@contextmanager
def _shown(files: Files) -> Iterator[Show]:
    """A bar on a terminal; else a line now and then, on stderr."""
    shown = _Lines()
    if not sys.stderr.isatty():
        yield shown
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        name = escape(screen.one_line(files.input.name))
        task = bar.add_task(name, total=None)

        def show(completed: int, failed: int, total: int, held_up: str) -> None:
            more = f", {failed} failed" if failed else ""
            said = f": {escape(screen.one_line(held_up))}" if held_up else ""
            bar.update(task, description=name + more + said, completed=completed + failed, total=total or None)

        yield show


class _Lines:
    """The progress as lines."""

    def __init__(self) -> None:
        self._said, self._held_up = monotonic(), ""

    def __call__(self, completed: int, failed: int, total: int, held_up: str) -> None:
        now = monotonic()
        if held_up != self._held_up:
            self._held_up = held_up
            if held_up:
                print(held_up, file=sys.stderr, flush=True)
        if total and now - self._said >= SAID_SECONDS:
            self._said = now
            more = f", {failed:,} of them failed" if failed else ""
            print(f"{completed + failed:,} of {total:,} lines{more}", file=sys.stderr, flush=True)
