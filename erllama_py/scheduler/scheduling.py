"""Who gets a sequence and cells next, and who is parked for it. Pure.

    a request asks for more cells ─▶ feed: sequences at rest go, or one is parked ─▶ Grant
    something became free ─▶ admit: the next in the queue gets a place ─▶ LookUp, Fork
    somebody is at work ─▶ trim: no more is kept beside it than may be

Cells come free when a `Drop` was sent, or `Parked` has come. While somebody is on the way out nothing else is decided,
so that one shortage never parks two.
"""

from __future__ import annotations

from erllama_py.cache.keys import TOKEN_BYTES, common_prefix, prefix_keys
from erllama_py.engine.jobs import Drop, Grant, Park
from erllama_py.scheduler import placing
from erllama_py.scheduler.books import count, grown
from erllama_py.scheduler.evicting import copy_out, evict
from erllama_py.scheduler.messages import Effect, LookUp, SendJob
from erllama_py.scheduler.slots import Slot
from erllama_py.scheduler.starting import follow, leave_start, saved_by, shares, with_pieces
from erllama_py.scheduler.state import Running, State, changed, slot_of, unstarted, with_request, with_slot
from erllama_py.scheduler.turns import gives_way, next_up

# Seconds that are waited for a save under way of what a request begins with, before it is computed again.
SAVE_WAIT = 10.0


def schedule(state: State, now: float) -> tuple[State, list[Effect]]:
    """Give what is free to who is to have it."""
    state, effects = _lead_on(state, now)
    state, more = _feed(state, now)
    state, admitted = _admit(state, now)
    state, trimmed = _trim(state)
    return state, [*effects, *more, *admitted, *trimmed]


def _trim(state: State) -> tuple[State, list[Effect]]:
    """No more is kept than may be while somebody is at work; a `SaveAll` lets go of everything, and loses nothing."""
    effects: list[Effect] = []
    while state.active and not state.save_alls and placing.has_too_many(state, state.kept):
        state, more = evict(state, state.kept[0])
        effects += more
    return state, effects


def _lead_on(state: State, now: float) -> tuple[State, list[Effect]]:
    """Who waits for rows that its lead, as it turns out, does not save: they are there, or it saves none at all."""
    effects: list[Effect] = []
    for other in state.requests.values():
        lead = state.requests.get(other.lead) if other.lead is not None and other.stage == "following" else None
        if lead is None or lead.stage != "working":
            continue
        if lead.captured_to >= other.lead_end or lead.request.plan is None:
            state, more = go_on(state, other, other.lead_end + 1, now)
            effects += more
    return state, effects


def _parking(state: State) -> bool:
    return any(running.stage == "parking" for running in state.requests.values())


def _feed(state: State, now: float) -> tuple[State, list[Effect]]:
    """Cells for those who have asked for them."""
    effects: list[Effect] = []
    starving = sorted((r for r in state.requests.values() if r.starving), key=lambda running: running.rank)
    for waiting in starving:
        running = state.requests[waiting.request.id]
        if running.starving:  # it may have been parked for the one before it
            state, more = _grow(state, running, now)
            effects += more
    return state, effects


def _grow(state: State, running: Running, now: float) -> tuple[State, list[Effect]]:
    effects: list[Effect] = []
    limits, pieces = state.limits, slot_of(state, running).pieces
    limit = min(running.limit + limits.quantum, placing.most_cells(running))
    while True:
        after = with_pieces(state, running, grown(pieces, limit))
        if count(slot.pieces for slot in after.slots) <= limits.n_cells:
            after = with_request(after, changed(running, limit=limit, starving=False))
            return after, [*effects, SendJob(Grant(running.request.id, limit))]
        if not state.kept:
            break
        state, more = evict(state, state.kept[0])
        effects += more
    parkable = placing.parkable(state)
    if _parking(state):
        return state, effects
    if len(parkable) < 2:  # those who are about to be at work have cells, and wait for it, maybe
        idle = [one for one in state.active if placing.can_go_back(state, one)]
        if not idle:
            return state, effects
        back = max(idle, key=lambda one: one.rank)
        if back.rank > running.rank:
            state, more = _requeue(state, back, now)
            state, rest = _grow(state, state.requests[running.request.id], now)
            return state, [*effects, *more, *rest]
    last = gives_way(state, running, parkable, now)
    if last is None:
        return state, effects
    state, more = park(state, last)
    return state, [*effects, *more]


def _requeue(state: State, running: Running, now: float) -> tuple[State, list[Effect]]:
    """Put a request that the engine has not begun back into the queue."""
    state, effects = leave_start(state, running, now)
    state = with_request(state, unstarted(running))
    state, more = lead_gone(state, running, now)
    return state, [*effects, *more]


def park(state: State, running: Running) -> tuple[State, list[Effect]]:
    """Take a request out of its sequence."""
    running = changed(running, stage="parking", starving=False)
    return with_request(state, running), [SendJob(Park(running.request.id))]


def _admit(state: State, now: float) -> tuple[State, list[Effect]]:
    """Places for those who wait, in their order."""
    effects: list[Effect] = []
    starving = any(running.starving for running in state.requests.values())
    while not (state.stopping or starving or _parking(state)):
        running = next_up(state)
        if running is None:
            break
        state = _unpin(state, running)
        place = placing.place(state, running, now)
        if place is None:
            break
        if isinstance(place, placing.Park):
            for request_id in place.requests:
                out = state.requests[request_id]
                state, more = park(state, out) if out.stage == "working" else _requeue(state, out, now)
                effects += more
            continue  # there may be a place now
        state, more = _take(state, running, place, now)
        effects += more
    return state, effects


def _unpin(state: State, running: Running) -> State:
    """A turn that does not go on from where its session stands: that sequence is the first to go."""
    sought = running.sought
    for slot in state.kept:
        mine = slot.session is not None and slot.session == sought.session
        if mine and common_prefix(slot.held, sought.packed) != slot.length:
            state = with_slot(state, changed(slot, session_id=None, used_at=0.0))
    return state


def _take(state: State, running: Running, place: placing.Place, now: float) -> tuple[State, list[Effect]]:
    """Put a request into its place."""
    effects: list[Effect] = []
    sought, slot = running.sought, state.slots[place.seq_id]
    stays = place.keep > 0 and place.source is None
    sticky = stays and slot.session is not None and slot.session == sought.session
    if slot.is_kept and not (stays and place.keep == slot.length):
        state, effects = copy_out(state, slot)
        effects.append(SendJob(Drop(slot.seq_id, place.keep if stays else 0)))
    new = Slot(
        slot.seq_id,
        held=sought.packed[: TOKEN_BYTES * place.keep],
        first_held=slot.first_held if stays else 0,
        identity=sought.identity,
        captured_to=min(slot.captured_to, place.keep) if stays else 0,
        pieces=place.pieces,
        request_id=sought.id,
        session_id=sought.session_id,
    )
    running = changed(
        running, seq_id=slot.seq_id, started_at=now if running.started_at is None else running.started_at,
        stage="looking", goes_on=stays, sticky=sticky, limit=place.limit, lead=place.lead, lead_end=place.lead_end,
        coming_since=now,
    )  # fmt: skip
    source = state.slots[place.source] if place.source is not None else None
    for other in state.kept:  # a session holds one sequence: the one that it goes on in
        if sought.session is not None and other.session == sought.session and other.seq_id != slot.seq_id:
            state = with_slot(state, changed(other, session_id=None))
    state = changed(with_request(with_slot(state, new), running), next_block=state.next_block + 1)
    if source is not None:
        begin = placing.Beginning(keep=place.keep, source=place.source, lead=place.lead, lead_end=place.lead_end)
        state, more = follow(state, running, begin)
        effects += more
    for seq_id in place.evict:
        state, more = evict(state, state.slots[seq_id])
        effects += more
    if place.lead is not None and source is None:
        state = with_request(state, changed(running, stage="following"))
        return state, effects
    if sought.parent_key is None and sought.session is not None:
        sought = changed(sought, parent_key=state.left.get(sought.session))
    return state, [*effects, LookUp(sought)]


def go_on(state: State, running: Running, least: int, now: float) -> tuple[State, list[Effect]]:
    """What a request has waited for is being saved, or will not be any more.

    Of several who began alike, the first asks the cache and computes what is missing. The others follow it, if that
    gives them `least` tokens, or each would compute the same.
    """
    again = placing.shared(state, running)
    if again.lead is not None and again.lead_end >= least:
        return with_request(state, changed(running, lead=again.lead, lead_end=again.lead_end)), []
    return _look_up_rows(state, running, now)


def _look_up_rows(state: State, running: Running, now: float) -> tuple[State, list[Effect]]:
    sought = running.sought
    key = prefix_keys(sought.identity, sought.packed, (running.lead_end,))[0]
    state = with_request(state, changed(running, stage="looking", lead=None, coming_since=now))
    return state, [LookUp(changed(sought, parent_key=key, wait_seconds=SAVE_WAIT))]


def lead_gone(state: State, lead: Running, now: float) -> tuple[State, list[Effect]]:
    """Who waited for a request that has left its sequence goes on without it."""
    effects: list[Effect] = []
    for waiting in state.requests.values():
        other = state.requests[waiting.request.id]
        if other.lead != lead.request.id:
            continue
        if other.stage == "following":
            state, more = go_on(state, other, other.lead_end, now)
        elif lead.stage not in ("working", "parking"):  # the engine was not asked yet to share anything
            state, more = shares(state, other, 0, now)
        else:  # the engine's answer is still to come
            saved = max(other.saved_by_lead, saved_by(lead, other.lead_end))
            state, more = with_request(state, changed(other, saved_by_lead=saved)), []
        effects += more
    return state, effects
