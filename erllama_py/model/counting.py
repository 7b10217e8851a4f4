"""A model in numbers, and all that is known of it, from its tally and its machines: nothing is asked of an actor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from erllama_py.errors import ModelNotLoaded
from erllama_py.model.board import ModelBoard
from erllama_py.results import ModelCounters, ModelInfo, SequenceInfo, SequenceState
from erllama_py.scheduler import cells
from erllama_py.scheduler.stages import Following, Looking, Parking, Placed, Restoring, is_prefilled
from erllama_py.scheduler.state import State


class _Held(msgspec.Struct):
    """What contexts hold."""

    sequences: int = 0
    sequences_kept: int = 0
    cells: int = 0
    cells_in_use: int = 0
    cells_kept: int = 0


def info_of(board: ModelBoard) -> ModelInfo:
    """See `ModelInfo`. Raises `ModelNotLoaded` before the first load has ended."""
    if board.info is None:
        raise ModelNotLoaded(board.model_id)
    return msgspec.structs.replace(
        board.info, phase=board.phase, pending=board.pending, restarts=board.restarts,
        threads_used=board.threads_used, reproducible_bytes=board.companion_bytes, save_limits=board.save_limits,
        pid=board.pid, spare_pid=board.spare_pid, last_crash=board.last_crash,
    )  # fmt: skip


def counters_of(board: ModelBoard) -> ModelCounters:
    """See `ModelCounters`."""
    tally, work, states = board.tally, board.tally.work, board.states
    held = _held(states)
    parked = sum(len(state.parked) for state in states)
    return ModelCounters(
        requests=tally.requests, finished=dict(tally.finished), failed=tally.failed, refused=tally.refused,
        continued=tally.continued,
        prompt_tokens=tally.prompt_tokens, reused_tokens=tally.reused_tokens, hits=dict(tally.hits),
        restored_bytes=tally.restored_bytes, computed_tokens=work.prompt_tokens, generated_tokens=work.generated,
        decodes=work.decodes, decoded_tokens=work.tokens, decode_seconds=work.seconds, parks=work.parks,
        saved_rows=tally.saved_rows, saved_bytes=tally.saved_bytes, skipped_rows=tally.skipped_rows,
        lost_rows=tally.lost_rows, embeddings=tally.embeds, embeddings_failed=tally.embeds_failed,
        embedding_tokens=tally.embed_tokens, loads=tally.loads, load_seconds=tally.load_seconds,
        restarts=board.restarts, waiting=board.pending - parked, parked=parked, active=board.active,
        embedding=board.embedding, **msgspec.structs.asdict(held),
    )  # fmt: skip


def _held(states: Iterable[State]) -> _Held:
    held = _Held()
    for state in states:
        used = cells.count(slot.pieces for slot in state.slots)
        held.sequences += len(state.slots)
        held.sequences_kept += sum(slot.is_idle for slot in state.slots)
        held.cells += state.limits.n_cells
        held.cells_in_use += used
        held.cells_kept += used - cells.count(slot.pieces for slot in state.slots if slot.request_id is not None)
    return held


def sequences_of(board: ModelBoard) -> tuple[SequenceInfo, ...]:
    """See `SequenceInfo`; those of the second context come last, and there are none while the model is not up."""
    return tuple(one for state in board.states for one in _sequences(state))


def _sequences(state: State) -> Iterator[SequenceInfo]:
    placed = {one.allocation.seq_id: one for one in state.placed.values()}
    for slot in state.slots:
        one = placed.get(slot.seq_id)
        request = None if one is None else one.core.request
        yield SequenceInfo(
            number=slot.seq_id, doing=_doing(one, kept=slot.is_idle),
            request_id=None if request is None else request.id,
            prompt_tokens=0 if request is None else request.n_tokens, cells=cells.count((slot.pieces,)),
            in_session=(slot.session_id if request is None else request.session_id) is not None,
            reproducible=state.limits.grid is not None,
        )  # fmt: skip


def _doing(one: Placed | None, *, kept: bool) -> SequenceState:
    match one:
        case None:
            return "kept" if kept else "free"
        case Following():
            return "waiting"
        case Looking():
            return "looking"
        case Restoring():
            return "restoring"
        case Parking():
            return "parking"
    return "generating" if is_prefilled(one) else "prefilling"
