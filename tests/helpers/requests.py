"""Requests, rows and events for a model's state machine, and a way to feed it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from erllama_py.cache.keys import Identity, pack_tokens, prefix_keys
from erllama_py.cache.messages import Hit, Located, RowBytes
from erllama_py.cache.walk import Miss
from erllama_py.engine.failure import failure_of
from erllama_py.engine.jobs import Captured, CapturePlan, Finished, Generate, Outcome, Restore, Restored
from erllama_py.errors import SamplerFailed
from erllama_py.options.sampling import Sampling
from erllama_py.scheduler.machine import transition
from erllama_py.scheduler.messages import Effect, EngineOutcomes, Found, Message, Request, RowRead, SendJob, Submit
from erllama_py.scheduler.state import Limits, State, new_state
from helpers.rows import IDENTITY, meta

IDLE = new_state(Limits(memory="full", quantum=1000, min_tokens=0))
PROMPT = list(range(100, 160))
NOTHING = Hit(chain=(), length=0, saved_to=0, exact=False, miss=Miss("empty", 0))
FAILURE = failure_of(SamplerFailed("x"))
PLAN = CapturePlan(captured_to=0, prompt_ends=(20, 40), interval=1000, min_tokens=0)


def submit(
    request_id: int, tokens: Sequence[int] = (1, 2, 3), *, stream: bool = False, identity: Identity = IDENTITY,
    plan: CapturePlan | None = PLAN,
) -> Submit:  # fmt: skip
    """A request for four tokens."""
    packed = pack_tokens(tokens)
    request = Request(
        id=request_id, tokens=list(tokens), max_new_tokens=4, sampling=Sampling(), stop_sequences=(), submitted_at=0.0,
        identity=identity, packed=packed, key=prefix_keys(identity, packed, (len(tokens),))[0], plan=plan,
    )  # fmt: skip
    return Submit(request, print if stream else None)


def rows_of(tokens: Sequence[int], *ends: int, logits: Sequence[int] = ()) -> tuple[Located, ...]:
    """Rows of `tokens` that end there, some with logits."""
    spans = zip((0, *ends), ends, strict=False)
    metas = (meta(tokens, start, end) for start, end in spans)
    return tuple(
        Located(msgspec.structs.replace(row, logits_bytes=4 * (row.end in logits)), "disk", 1000) for row in metas
    )


def hit_of(tokens: Sequence[int], *ends: int, logits: Sequence[int] = (), length: int | None = None) -> Hit:
    """What the cache has for `tokens`: rows that end at `ends`."""
    found = ends[-1] if length is None else length
    miss = None if found == len(tokens) else Miss("ends", found)
    rows, saved = rows_of(tokens, *ends, logits=logits), tuple(zip((0, *ends), (0, 0, *ends), strict=False))
    return Hit(chain=rows, reached=rows, length=found, saved_to=ends[-1], saved=saved, exact=miss is None, miss=miss)


def found(request_id: int, hit: Hit | None = NOTHING, logits: bytes | None = None) -> Found:
    return Found(request_id, hit, logits)


def row_read(request_id: int, row: Located | None) -> RowRead:
    """The bytes of a row; its logits, where it has some, say where it ends."""
    if row is None:
        return RowRead(request_id, None)
    logits = row.meta.end.to_bytes(4, "little") if row.meta.logits_bytes else b""
    return RowRead(request_id, RowBytes(row.meta, memoryview(bytes(10)), logits))


def restored(
    request_id: int, row: Located, *, ok: bool = True, held: int | None = None, bad: bool | None = None
) -> Restored:
    """What the engine reports of a row; one that it does not take is bad, unless it is said not to be."""
    end = row.meta.end
    left = end if ok else row.meta.start
    return Restored(request_id, end, ok, left if held is None else held, not ok if bad is None else bad)


def captured(request_id: int, start: int, end: int, **fields: Any) -> Captured:
    values: dict[str, Any] = {
        "reason": "cold", "payload": memoryview(bytes(8)), "skipped": None, "seconds": 0.1, "compute_seconds": 0.2,
        "generated": [],
    }  # fmt: skip
    return Captured(request_id=request_id, start=start, end=end, **(values | fields))


def finished(request_id: int, token_ids: list[int], held: int, **fields: Any) -> Finished:
    values: dict[str, Any] = {
        "reason": "stop", "stop_sequence": None, "text": "", "first_held": 0, "captured_to": 0, "prefill_tokens": 3,
        "prefill_seconds": 0.1, "decode_seconds": 0.2, "decodes": len(token_ids),
    }  # fmt: skip
    return Finished(request_id=request_id, token_ids=token_ids, held=held, **(values | fields))


def run(state: State, *events: Message | Outcome, now: float = 1.0) -> tuple[State, list[Effect]]:
    """Feed events one after another; the effects of the last are returned."""
    effects: list[Effect] = []
    for event in events:
        message = event if isinstance(event, Message) else EngineOutcomes([event])
        state, effects = transition(state, message, now)
    return state, effects


def jobs(effects: Sequence[Effect]) -> list[Any]:
    """What goes to the engine."""
    return [effect.job for effect in effects if isinstance(effect, SendJob)]


def generate_of(effects: Sequence[Effect]) -> Generate:
    """The one generation among the effects."""
    (job,) = (job for job in jobs(effects) if isinstance(job, Generate))
    return job


def restore_of(effects: Sequence[Effect]) -> Restore:
    """The one restore among the effects."""
    (job,) = (job for job in jobs(effects) if isinstance(job, Restore))
    return job
