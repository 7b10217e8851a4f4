"""The journal of a batch: what has happened to it, a record a line, and the state that these come to. Pure.

    validating ─► in_progress ─► finalizing ─► completed, expired
        │              │
        ▼              ▼
      failed       cancelling ─► cancelled           (cancelling also from validating, failed also from the others)

Answers are not in it: see `answers`. A record that makes no sense in its state changes nothing, so that a record which
was written twice, around a crash, counts once. After each stands its checksum: a file's id with another digit would be
that of no file.
"""

from __future__ import annotations

import zlib
from typing import Any, Literal

import msgspec

from erllama_py.serve.batches.lines import LineProblem

Status = Literal[
    "validating", "in_progress", "finalizing", "completed", "failed", "cancelling", "cancelled", "expired"
]  # fmt: skip
ENDED: frozenset[Status] = frozenset(("completed", "failed", "cancelled", "expired"))


class Created(msgspec.Struct, frozen=True, kw_only=True, tag="created"):
    """What was asked for. Times are unix times in seconds."""

    at: int
    endpoint: str | None
    """None: that of the first line."""
    input_file_id: str
    output_file_id: str
    error_file_id: str
    completion_window: str
    expires_at: int | None
    metadata: dict[str, str] | None = None
    output_seconds: int | None = None
    """How long its answers are kept; None: until they are deleted."""
    tenant: dict[str, Any] = {}
    """Who asked, as it was then."""


class Validated(msgspec.Struct, frozen=True, kw_only=True, tag="validated"):
    """The input was read, and each line can be asked."""

    at: int
    total: int
    endpoint: str
    models: tuple[str, ...] = ()


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """The input is no batch, or the server cannot go on with it."""

    at: int
    problems: tuple[LineProblem, ...]
    completed: int = 0
    failed: int = 0


class Cancelling(msgspec.Struct, frozen=True, kw_only=True, tag="cancelling"):
    """No line is begun any more."""

    at: int


class Finalizing(msgspec.Struct, frozen=True, kw_only=True, tag="finalizing"):
    """Every line is answered, or its time is over."""

    at: int
    expired: bool


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag="ended"):
    """It is over. Its counts are those of the files that it leaves."""

    at: int
    completed: int
    failed: int


Record = Created | Validated | Refused | Cancelling | Finalizing | Ended


class State(msgspec.Struct, frozen=True, kw_only=True):
    """A batch by its journal."""

    created: Created
    status: Status = "validating"
    endpoint: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    models: tuple[str, ...] = ()
    problems: tuple[LineProblem, ...] = ()
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    cancelling_at: int | None = None
    ended_at: int | None = None
    expired: bool = False
    """Whether the time was over before all was answered."""

    @property
    def over(self) -> bool:
        """Nothing will change any more."""
        return self.status in ENDED


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode
_change = msgspec.structs.replace


def line_of(record: Record) -> bytes:
    """A record as it is written."""
    data = _encode(record)
    return data + b"\t" + _sum(data) + b"\n"


def _sum(data: bytes) -> bytes:
    return b"%08x" % zlib.crc32(data)


def read(data: bytes) -> tuple[State | None, int]:
    """The state that a journal tells, or its beginning, and the bytes of the records that are whole: the rest is to be
    cut off before another one is written. None where it does not even tell what was asked for."""
    state, size = None, 0
    *whole, _ = data.split(b"\n")
    for line in whole:
        told, _, checksum = line.rpartition(b"\t")
        if checksum != _sum(told):
            break
        try:
            record = _decode(told)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # of another version
            break
        size += len(line) + 1
        if isinstance(record, Created):
            state = state or State(created=record, endpoint=record.endpoint)
        elif state is not None:
            state = after(state, record)
    return state, size


def after(state: State, record: Record) -> State:
    """The state after one more record."""
    match record:
        case Validated(at=at) if state.status == "validating":
            return _change(
                state, status="in_progress", in_progress_at=at, total=record.total, endpoint=record.endpoint,
                models=record.models,
            )  # fmt: skip
        case Refused(at=at, problems=problems) if not state.over:
            return _change(
                state, status="failed", ended_at=at, problems=problems, completed=record.completed, failed=record.failed
            )
        case Cancelling(at=at) if state.status in ("validating", "in_progress"):
            return _change(state, status="cancelling", cancelling_at=at)
        case Finalizing(at=at, expired=expired) if state.status == "in_progress":
            return _change(state, status="finalizing", finalizing_at=at, expired=expired)
        case Ended(at=at) if state.status in ("finalizing", "cancelling"):
            ended: Status = "cancelled" if state.status == "cancelling" else "expired" if state.expired else "completed"
            return _change(state, status=ended, ended_at=at, completed=record.completed, failed=record.failed)
    return state
