"""What becomes of idle sequences: copied out where they are not saved, then forgotten. Pure.

**Evicted**, to make room: all is copied at once, and what finds no buffer is lost, because a request waits for the
cells. Jobs are done in order, so the cells are free for whatever is sent after a `Drop`; what was copied comes back as
`Captured` with the ticket of the copy.

**Saved**, for `runtime.evict` and at the end of the model:

    SaveAll ─▶ Capture a range ─▶ Captured ─▶ the next one … ─▶ Drop ─▶ the next sequence … ─▶ AnswerSaved
                     ▲               │ no buffer
                     └─ BuffersBack ◀┴ AwaitBuffers

Buffers are bounded, and what a model holds is not: so there is one range at a time, and a sequence stays idle until
all of it is copied. A request may take it over meanwhile; what was copied is right for its tokens all the same, and the
rest is left to the request. What becomes idle later is not waited for: on a busy model there would be no end.

What is not worth the time that copying it takes (`engine.rates`) is forgotten either way.

**Lost**: the cache reports the key of each row that it gives up, the first of a chain first. It was saved for one
request, and others that share its tokens may count on it: what was copied out there is copied out again.
"""

from __future__ import annotations

from erllama_py.cache.keys import TOKEN_BYTES, Identity, prefix_keys
from erllama_py.cache.messages import SaveLost
from erllama_py.engine.jobs import MOST_TOKENS, Capture, Captured, Drop, span_end
from erllama_py.engine.rates import piece, saves
from erllama_py.options.model import SaveReason
from erllama_py.scheduler.cells import Slot
from erllama_py.scheduler.messages import AnswerSaved, AwaitBuffers, Effect, SaveRow, SendJob, SessionKey
from erllama_py.scheduler.stages import sought
from erllama_py.scheduler.state import Copy, Saving, State, changed, with_request, with_slot, without

# Sessions that have lost their sequence and are remembered, some 100 bytes each. One that was silent while this many
# others came has long been saved, and needs no key to be found.
MOST_LEFT = 1000

# How many times a range that finds no buffer is tried again. Each time everything pending has been stored, so only
# other models that save just then can have been faster: with eight, a run of 100 losses has odds of 1 in 600,000.
MOST_TRIES = 100


def unsaved(state: State, slot: Slot) -> Identity | None:
    """The identity of an idle sequence, if it holds something that is still to be saved."""
    least = state.limits.min_tokens
    if least is None or slot.length < max(least, slot.captured_to + 1):
        return None
    return None if _piece(state, slot, slot.captured_to) is None else slot.identity


def _piece(state: State, slot: Slot, start: int) -> int | None:
    """In pieces of how many tokens to copy out what a sequence holds from `start` on; None where that is a loss."""
    tokens = slot.length - start
    return piece(state.rates, tokens, MOST_TOKENS if state.limits.memory == "full" else tokens)


def _piece_end(state: State, slot: Slot, start: int) -> int:
    """Where the first of these pieces ends; what is left too short to be worth it by itself goes with the last."""
    most = _piece(state, slot, start) or MOST_TOKENS
    end = span_end(start, slot.length, state.limits.memory, most)
    return end if end == slot.length or saves(state.rates, slot.length - end) else slot.length


def copy_out(state: State, slot: Slot) -> tuple[State, list[Effect]]:
    """Save what an idle sequence holds that is not saved yet."""
    identity = unsaved(state, slot)
    if identity is None:
        return _left(state, slot, slot.captured_to), []
    state, start = _left(state, slot, slot.length), slot.captured_to
    effects: list[Effect] = []
    while start < slot.length:
        copy = Copy(identity, slot.packed, slot.session_id)
        state, job = _copy_range(state, slot, copy, start, "evict")
        effects.append(SendJob(job))
        start = job.end
    return state, effects


def _copy_range(state: State, slot: Slot, copy: Copy, start: int, reason: SaveReason) -> tuple[State, Capture]:
    """Copy the first range that is left from `start` on out of an idle sequence."""
    ticket, end = state.next_ticket, _piece_end(state, slot, start)
    state = changed(state, copies={**state.copies, ticket: copy}, next_ticket=ticket - 1)
    return state, Capture(request_id=ticket, seq_id=slot.seq_id, start=start, end=end, reason=reason)


def _left(state: State, slot: Slot, end: int) -> State:
    """The state in which the session that was held here finds what was saved of it, also while it is being saved."""
    if slot.session is None or slot.identity is None or not end:
        return state
    newest = list(without(state.left, slot.session).items())[-MOST_LEFT + 1 :]
    return changed(state, left={**dict(newest), slot.session: prefix_keys(slot.identity, slot.packed, (end,))[0]})


def evict(state: State, slot: Slot) -> tuple[State, list[Effect]]:
    """Save it, and forget it."""
    state, effects = copy_out(state, slot)
    return with_slot(state, Slot(slot.seq_id)), [*effects, SendJob(Drop(slot.seq_id))]


def forget(state: State, slot: Slot) -> tuple[State, list[Effect]]:
    """Forget it, with what is not saved of it."""
    state = with_slot(_left(state, slot, slot.captured_to), Slot(slot.seq_id))
    return state, [SendJob(Drop(slot.seq_id))]


# --- sessions ----------------------------------------------------------------------------------------------------


def end_session(state: State, session: SessionKey) -> tuple[State, list[Effect]]:
    """Its sequence is an idle one like any other from now on."""
    state = changed(state, left=without(state.left, session))
    for slot in state.slots:
        if slot.session == session:
            state = with_slot(state, changed(slot, session_id=None))
    for one in (*state.placed.values(), *state.parked.values(), *state.queue.of_session(session)):
        if one.core.request.session == session:
            core = changed(one.core, request=changed(one.core.request, session_id=None))
            whole = None if core.whole is None else changed(core.whole, session_id=None)
            one = changed(one, core=changed(core, whole=whole))
            if one.begun is not None:
                one = changed(one, begun=changed(one.begun, sought=changed(one.begun.sought, session_id=None)))
            state = with_request(state, one)
    return state, []


def evict_silent(state: State, now: float) -> tuple[State, list[Effect]]:
    """Evict the sequences of sessions that have been silent for too long."""
    effects: list[Effect] = []
    for slot in state.idle:
        if slot.session_id is not None and slot.used_at + state.limits.idle_seconds <= now:
            state, more = evict(state, slot)
            effects += more
    return state, effects


def next_silent(state: State) -> float | None:
    """When the next session has been silent for too long."""
    times = (slot.used_at for slot in state.slots if slot.is_idle and slot.session_id is not None)
    first = min(times, default=None)
    return None if first is None else first + state.limits.idle_seconds


# --- saving everything -------------------------------------------------------------------------------------------


def save_next(state: State, tries: int = 0) -> tuple[State, list[Effect]]:
    """Go on with the next range, if a `SaveAll` asks for it, and no request is at work that a shutdown waits for."""
    if not state.save_alls or state.saving is not None or (state.stopping and state.placed):
        return state, []
    effects: list[Effect] = []
    for slot in state.idle:
        if slot.used_at > state.save_until:
            continue
        identity = unsaved(state, slot)
        if identity is not None:
            state, more = _save_range(state, slot, identity, tries)
            return state, [*effects, *more]
        state, more = forget(state, slot)
        effects += more
    if not state.copies:
        effects += [AnswerSaved(event.ticket) for event in state.save_alls]
        state = changed(state, save_alls=(), save_until=0.0)
    return state, effects


def _save_range(state: State, slot: Slot, identity: Identity, tries: int) -> tuple[State, list[Effect]]:
    # The session's next turn need not wait for this copy: its sequence is still there.
    reason: SaveReason = "shutdown" if state.stopping else "evict"
    state, job = _copy_range(state, slot, Copy(identity, slot.packed), slot.captured_to, reason)
    return changed(state, saving=Saving(slot.seq_id, job.request_id, tries)), [SendJob(job)]


def copied(state: State, captured: Captured) -> tuple[State, list[Effect]]:
    """A range of an idle sequence was copied out, or could not be."""
    copy, saving = state.copies[captured.request_id], state.saving
    state = changed(state, copies=without(state.copies, captured.request_id))
    effects: list[Effect] = [SaveRow(copy.identity, copy.packed, captured, None)]
    if saving is not None and saving.ticket == captured.request_id:
        if captured.skipped == "no_buffer" and saving.tries < MOST_TRIES:
            return changed(state, saving=Saving(saving.seq_id, None, saving.tries + 1)), [AwaitBuffers()]
        state, more = _range_over(changed(state, saving=None), state.slots[saving.seq_id], copy, captured)
        effects += more
    state, more = save_next(state)
    return state, [*effects, *more]


def buffers_back(state: State) -> tuple[State, list[Effect]]:
    """Try again, with whatever is the next range now."""
    tries = state.saving.tries if state.saving is not None else 0
    return save_next(changed(state, saving=None), tries)


def _range_over(state: State, slot: Slot, copy: Copy, captured: Captured) -> tuple[State, list[Effect]]:
    if not slot.is_idle or (slot.identity, slot.packed) != (copy.identity, copy.packed):
        return state, []  # a request has it now
    if captured.payload is not None:
        # Where what it extends was lost meanwhile, that comes first.
        end = max(slot.captured_to, captured.end) if slot.captured_to >= captured.start else slot.captured_to
        return with_slot(state, changed(slot, captured_to=end)), []
    # What follows would extend a range that was not copied.
    return forget(state, slot) if state.save_alls else (state, [])


# --- lost saves --------------------------------------------------------------------------------------------------


def save_lost(state: State, lost: SaveLost) -> tuple[State, list[Effect]]:
    """A row was not stored: nothing counts on it any more, nor on what extends it."""
    effects: list[Effect] = []
    # Waiting requests have not looked anything up yet; generated tokens are not part of `sought`.
    for one in (*state.placed.values(), *state.parked.values()):
        core, begun = one.core, one.begun
        if core.lost_from <= lost.start:
            continue
        if core.request.id == lost.request_id or _leads(core.request.identity, sought(one).packed, lost):
            one = changed(one, core=changed(core, lost_from=lost.start))
            if begun is not None:
                one = changed(one, begun=changed(begun, captured_to=min(begun.captured_to, lost.start)))
            state = with_request(state, one)
    for slot in state.slots:
        if slot.captured_to <= lost.start or slot.identity is None or not _leads(slot.identity, slot.packed, lost):
            continue
        if lost.request_id < 0 and slot.is_idle and state.saving is not None and state.saving.seq_id == slot.seq_id:
            # Copied out for a `SaveAll` just now, and its tier did not take it: another try would fail too.
            state, more = forget(state, slot)
            effects += more
        else:
            state = with_slot(state, changed(slot, captured_to=lost.start))
    return state, effects


def _leads(identity: Identity, packed: bytes, lost: SaveLost) -> bool:
    """Whether these tokens begin with those that the row ends."""
    long_enough = len(packed) >= lost.end * TOKEN_BYTES
    return long_enough and prefix_keys(identity, packed, (lost.end,))[0] == lost.key
