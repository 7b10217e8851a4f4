"""A batch answered by a running server, through `/v1/files` and `/v1/batches`; its answers are fetched when it is over.

The journal beside the output names the batch, so that the same command waits for it again.
"""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic
from time import sleep as wait
from typing import Any, TypedDict

import msgspec

from erllama_py.serve.batches.disk import write_whole
from erllama_py.serve.batches.lines import LineProblem
from erllama_py.serve.cli import screen
from erllama_py.serve.cli.batch_files import Files, Show, Summary, There, digest_of
from erllama_py.serve.cli.ending import UsageError
from erllama_py.serve.cli.remote import Remote, ServerRefused, ServerUnreachable

LOOK_SECONDS = 1.0
AWAY_SECONDS = 120.0  # a server that restarts and loads its models does not answer for a while
OVER = frozenset(("completed", "failed", "cancelled", "expired"))
LATER = frozenset((429, 503))
NOT_FOUND, OVER_ALREADY = 404, 409
MOST_LISTED = 100  # batches of a key, the newest first


class Uploaded(TypedDict):
    """What a server says of a file."""

    id: str


class Counts(TypedDict):
    """Lines of a batch."""

    total: int
    completed: int
    failed: int


class Told(TypedDict):
    """What a server says of a batch."""

    id: str
    input_file_id: str
    status: str
    request_counts: Counts
    output_file_id: str | None
    error_file_id: str | None
    errors: dict[str, Any] | None


class Listed(TypedDict):
    """The batches that a server tells of."""

    data: list[Told]


def answered_there(remote: Remote, files: Files, show: Show, *, cancel: bool = False) -> Summary:
    """Begin the batch, or find it again; wait for its end, or `cancel` it, and fetch what it left.

    Raises `UsageError`, `OSError`, `ServerUnreachable`, `ServerRefused`.
    """
    known = _known(remote, files)
    if known is None and cancel:
        raise UsageError(f"there is no batch to cancel: {files.journal} would name it")
    there = known or _uploaded(remote, files)
    there = there if there.batch is not None else _begun(remote, there, files)
    if cancel and there.fetched is None:
        _cancel(remote, there)
    if there.fetched is None:
        there = _fetched(remote, there, files, show)
    assert there.fetched is not None
    for file_id in there.left:
        _delete(remote, file_id)
    files.journal.unlink()
    return there.fetched


def _cancel(remote: Remote, there: There) -> None:
    try:
        remote.post(f"/v1/batches/{there.batch}/cancel")
    except ServerRefused as error:
        if error.status != OVER_ALREADY:
            raise


def _fetched(remote: Remote, there: There, files: Files, show: Show) -> There:
    """What the journal says once the answers are here. Ended at any moment, the same command goes on."""
    try:
        batch = _over(remote, there, show)
    except KeyboardInterrupt:
        goes_on = f"{there.batch} goes on at {there.server}"
        screen.note(f"{goes_on}; the same command waits for it again, with --cancel it ends it")
        raise
    outputs = ((batch["output_file_id"], files.output), (batch["error_file_id"], files.errors))
    for file_id, path in outputs:
        if file_id is not None:
            _fetch(remote, file_id, path)
    left = (there.file, *(file_id for file_id, _ in outputs if file_id is not None))
    return _noted(msgspec.structs.replace(there, fetched=_summary(batch, files), left=left), files)


def _known(remote: Remote, files: Files) -> There | None:
    """The batch of an earlier run. Raises `UsageError` where it is not of this file and server."""
    if not files.journal.exists():
        return None
    try:
        there = msgspec.json.decode(files.journal.read_bytes(), type=There)
    except msgspec.DecodeError:
        raise UsageError(
            f"{files.journal} is of a batch that a --model answered; give it, or delete that file"
        ) from None
    if (there.server, there.digest) != (remote.name, digest_of(files.input)):
        raise UsageError(f"{files.journal} is about a batch of another file, or at {there.server}; delete that one")
    return there


def _uploaded(remote: Remote, files: Files) -> There:
    digest = digest_of(files.input)
    with files.input.open("rb") as input_:
        given: Any = {"data": {"purpose": "batch"}, "files": {"file": (files.input.name, input_)}}
        file = remote.shaped(remote.json("POST", "/v1/files", **given), Uploaded)
    return _noted(There(server=remote.name, digest=digest, file=file["id"]), files)


def _begun(remote: Remote, there: There, files: Files) -> There:
    """The batch of a file that is there. An earlier run may have made it, and been ended before it heard of it."""
    made = remote.shaped(remote.get("/v1/batches", limit=MOST_LISTED), Listed)["data"]
    batch = next((one for one in made if one["input_file_id"] == there.file), None)
    ask = {"input_file_id": there.file, "endpoint": _first_url(files.input), "completion_window": "30d"}
    try:
        batch = batch or remote.shaped(remote.post("/v1/batches", ask), Told)
    except ServerRefused:
        _delete(remote, there.file)
        files.journal.unlink()
        raise
    return _noted(msgspec.structs.replace(there, batch=batch["id"]), files)


def _noted(there: There, files: Files) -> There:
    write_whole(files.journal, msgspec.json.encode(there))
    return there


def _delete(remote: Remote, file_id: str) -> None:
    try:
        remote.json("DELETE", f"/v1/files/{file_id}")
    except ServerRefused as error:
        if error.status != NOT_FOUND:  # an earlier run was ended after it had deleted it
            raise


def _first_url(path: Path) -> str:
    """The endpoint that the first line names; where it names none, the server says what is wrong with the file."""
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                try:
                    url = msgspec.json.decode(line.strip()).get("url")
                except (msgspec.DecodeError, AttributeError, UnicodeDecodeError):
                    break
                return url if isinstance(url, str) else "/v1/chat/completions"
    return "/v1/chat/completions"


def _over(remote: Remote, there: There, show: Show) -> Told:
    """The batch, once it is over. A server that does not answer for a while is waited for."""
    answered = monotonic()
    while True:
        try:
            batch = remote.shaped(remote.get(f"/v1/batches/{there.batch}"), Told)
        except (ServerUnreachable, ServerRefused) as error:
            if isinstance(error, ServerRefused) and error.status not in LATER:
                raise
            if monotonic() - answered > AWAY_SECONDS:
                raise
            show(0, 0, 0, str(error))
        else:
            answered, counts = monotonic(), batch["request_counts"]
            held_up = "" if batch["status"] in OVER or not batch["errors"] else batch["errors"]["data"][0]["message"]
            show(counts["completed"], counts["failed"], counts["total"], held_up)
            if batch["status"] in OVER:
                return batch
        wait(LOOK_SECONDS)


def _fetch(remote: Remote, file_id: str, path: Path) -> None:
    """A file of the server's, there as a whole or not at all."""
    part = path.with_name(f"{path.name}.part")
    try:
        with remote.stream("GET", f"/v1/files/{file_id}/content") as response, part.open("wb") as file:
            for piece in response.iter_bytes():
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())  # it is deleted there next
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    part.replace(path)


def _summary(batch: Told, files: Files) -> Summary:
    counts, errors = batch["request_counts"], (batch["errors"] or {}).get("data", ())
    problems = [msgspec.convert(one, LineProblem) for one in errors]
    return Summary(
        status=batch["status"], total=counts["total"], completed=counts["completed"], failed=counts["failed"],
        output=str(files.output) if batch["output_file_id"] else None,
        errors=str(files.errors) if batch["error_file_id"] else None,
        problems=tuple(one.at(files.input) for one in problems),
    )  # fmt: skip
