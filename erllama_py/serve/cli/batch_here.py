"""A batch answered in this process: by the endpoints of the server, without a server."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress

import msgspec

import erllama_py as erllama
from erllama_py.serve.app import create_app
from erllama_py.serve.batches import journal
from erllama_py.serve.batches.disk import Disk, lock
from erllama_py.serve.batches.journal import Created, State, line_of
from erllama_py.serve.batches.routes import endpoints_of, means_of
from erllama_py.serve.batches.running import Job, Run
from erllama_py.serve.cli import screen
from erllama_py.serve.cli.batch_files import Files, Show, Summary, There, digest_of
from erllama_py.serve.cli.ending import UsageError
from erllama_py.serve.cli.model_options import TIER, find_model, load, model_from
from erllama_py.serve.config import Config, with_sizes
from erllama_py.serve.core.service import Tenant
from erllama_py.serve.core.settings import ListenOpts

LOOK_SECONDS = 0.2  # between two looks at how far it is
MOST_LINES = 10_000_000
AT_WORK = 32  # lines: more than are computed side by side, so that no sequence waits for the next one


def local_config(
    model: str, *, context: int | None, sequences: int | None, threads: int | None, cache: str | None
) -> Config:
    """One model, as a server would load it. Raises `UsageError`, and as `inspect_model` does."""
    tiers: dict[str, erllama.TierSpec] = {}
    if cache is not None:
        tiers[TIER] = erllama.parse_options({"kind": "disk", "root": cache}, erllama.TierSpec)
    one = model_from(
        find_model(model), context=context, sequences=sequences, threads=threads, tier=TIER if tiers else None
    )
    server = ListenOpts(batch_concurrency=AT_WORK, max_batch_lines=MOST_LINES)
    return with_sizes(Config(models=(one,), tiers=tiers, server=server))


async def answered_here(config: Config, files: Files, show: Show) -> Summary:
    """Work on it to its end, from wherever its journal says that it is. Raises `UsageError`, `OSError`, and what loads
    raise."""
    disk = Disk()
    try:
        held = await _locked(disk, files)
        try:
            return await _answered(config, files, show, disk)
        finally:
            os.close(held)
    finally:
        disk.close()


async def _locked(disk: Disk, files: Files) -> int:
    try:
        return await disk.do(lock, files.journal)
    except BlockingIOError:
        raise UsageError(f"another process works on {files.output}") from None


async def _answered(config: Config, files: Files, show: Show, disk: Disk) -> Summary:
    state, size = await disk.do(_begun, files)
    app = create_app(config)
    endpoints = endpoints_of(app.service, app.routes)
    job = Job(
        id=f"batch_{state.created.output_file_id}", input=files.input, journal=files.journal, index=files.index,
        output=files.output, errors=files.errors,
    )  # fmt: skip
    if not state.over:
        means = means_of(app.service, endpoints, disk)
        run = Run(job, state, size, endpoints.of(Tenant(operator=True)), means, model=config.models[0].name)
        async with app.running(load):
            state = await _watched(run, show)
    if not state.over:  # the disk took nothing any more
        raise OSError(f"{files.output} cannot be written; the same command goes on when it can")
    return await disk.do(_ended, files, state)


async def _watched(run: Run, show: Show) -> State:
    """What it comes to, shown meanwhile. Interrupted, it leaves what the same command goes on with."""
    work = asyncio.create_task(run.go())
    try:
        while not work.done():
            _show(run, show)
            await asyncio.wait({work}, timeout=LOOK_SECONDS)
    except asyncio.CancelledError:
        run.stop()
        await asyncio.wait({work})
        done = run.outputs.completed + run.outputs.failed if run.outputs is not None else 0
        screen.note(f"stopped at {done:,} of {run.state.total:,} lines; the same command goes on")
        raise
    return work.result()


def _show(run: Run, show: Show) -> None:
    if (files := run.outputs) is not None:
        show(files.completed, files.failed, run.state.total, files.problem.message if files.problem else "")


# --- on a thread ----------------------------------------------------------------------------------------------------


def _begun(files: Files) -> tuple[State, int]:
    """The state by the journal, which is begun where there is none. Raises `UsageError`, `OSError`."""
    digest = digest_of(files.input)
    known = files.journal.read_bytes()
    state, size = journal.read(known)
    if state is None:
        with suppress(msgspec.DecodeError):
            there = msgspec.json.decode(known, type=There)
            raise UsageError(
                f"{files.journal} is about a batch at {there.server}: give no --model, or delete that file"
            )
        created = Created(
            at=int(time.time()), endpoint=None, input_file_id=digest, output_file_id=digest[-32:],
            error_file_id=digest[-32:], completion_window="", expires_at=None,
        )  # fmt: skip
        files.journal.write_bytes(record := line_of(created))
        return State(created=created), len(record)
    if state.created.input_file_id != digest:
        raise UsageError(f"{files.input} is another file than the one that {files.journal} is about; delete that one")
    return state, size


def _ended(files: Files, state: State) -> Summary:
    """What there is now that it is over: the answers, and no trace of the work."""
    if state.status == "failed":
        for path in (files.output, files.errors):
            if path.exists() and not path.stat().st_size:
                path.unlink()
    if not state.failed:
        files.errors.unlink(missing_ok=True)
    for path in (files.index, files.journal):
        with suppress(FileNotFoundError):
            path.unlink()
    return Summary(
        status=state.status, total=state.total, completed=state.completed, failed=state.failed,
        output=str(files.output) if files.output.exists() else None,
        errors=str(files.errors) if state.failed else None,
        problems=tuple(one.at(files.input) for one in state.problems),
    )  # fmt: skip
