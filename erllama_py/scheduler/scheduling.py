"""Which request gets a sequence and cells next, and which is parked for it. Pure.

    a request asks for more cells ─▶ feed: idle sequences go, or one is parked ─▶ Grant
    something became free ─▶ admit: the next in the queue gets a place ─▶ LookUp, Fork
    the queue became shorter ─▶ let in: requests that waited for room there get it
    a request is at work ─▶ trim: no more is kept beside it than allowed

Cells come free when a `Drop` was sent, or `Parked` has come.
"""

from __future__ import annotations

from erllama_py.cache.keys import TOKEN_BYTES, common_prefix
from erllama_py.engine.jobs import Drop, Grant, Park
from erllama_py.scheduler import placing
from erllama_py.scheduler.cells import Slot, count, grown
from erllama_py.scheduler.idle import copy_out, evict
from erllama_py.scheduler.messages import Effect, LookUp, SendJob
from erllama_py.scheduler.preempt import gives_way, is_parking, is_starving, next_up, parkable, returnable
from erllama_py.scheduler.sharing import follow, leader_gone, release_followers
from erllama_py.scheduler.stages import (
    Allocation,
    Following,
    Looking,
    Parking,
    Queued,
    Share,
    Starting,
    Working,
    rank,
    sought,
    unplaced,
)
from erllama_py.scheduler.starting import leave_start, with_pieces
from erllama_py.scheduler.state import State, changed, slot_of, with_neighbour, with_request, with_slot


def schedule(state: State, now: float) -> tuple[State, list[Effect]]:
    """Give out what is free."""
    state, effects = release_followers(state, now)
    state, more = _feed(state, now)
    state, admitted = _admit(state, now)
    state, trimmed = _trim(_let_in(state))
    return state, [*effects, *more, *admitted, *trimmed]


def then_schedule(done: tuple[State, list[Effect]], now: float) -> tuple[State, list[Effect]]:
    """What was done, and then give out what that has made free."""
    state, effects = done
    state, more = schedule(state, now)
    return state, [*effects, *more]


def _trim(state: State) -> tuple[State, list[Effect]]:
    """While a request is at work, keep no more than allowed; not during a `SaveAll`, which frees all and loses
    nothing."""
    effects: list[Effect] = []
    while state.placed and not state.save_alls and placing.has_too_many(state, state.idle):
        state, more = evict(state, state.idle[0])
        effects += more
    return state, effects


def _let_in(state: State) -> State:
    """Give room in the queue to the first of those that wait for it."""
    queue = state.queue
    room = state.limits.max_pending - (state.pending - len(queue.outside))
    while room > 0 and (first := queue.first_outside()) is not None:
        queue, room = queue.put(changed(first, room_by=None)), room - 1
    return changed(state, queue=queue)


# --- cells for those at work -------------------------------------------------------------------------------------


def _feed(state: State, now: float) -> tuple[State, list[Effect]]:
    """Cells for those that have asked for them."""
    effects: list[Effect] = []
    for starving in sorted((one for one in parkable(state) if one.starving), key=rank):
        working = state.placed.get(starving.core.request.id)
        if isinstance(working, Working):  # it may have been parked for the one before it
            state, more = _grow(state, working, now)
            effects += more
    return state, effects


def _grow(state: State, working: Working, now: float) -> tuple[State, list[Effect]]:
    effects: list[Effect] = []
    limits, pieces = state.limits, slot_of(state, working).pieces
    limit = min(working.allocation.limit + limits.quantum, placing.most_cells(working))
    while True:
        after = with_pieces(state, working, grown(pieces, limit))
        if count(slot.pieces for slot in after.slots) <= limits.n_cells:
            fed = changed(working, allocation=changed(working.allocation, limit=limit), starving=False)
            return with_request(after, fed), [*effects, SendJob(Grant(working.core.request.id, limit))]
        if not state.idle:
            break
        state, more = evict(state, state.idle[0])
        effects += more
    candidates = parkable(state)
    if is_parking(state):
        return state, effects
    if len(candidates) < 2:  # requests that have not begun hold cells too
        last = max(returnable(state), key=rank, default=None)
        if last is None:
            return state, effects
        if rank(last) > rank(working):
            state, more = _requeue(state, last, now)
            state, rest = _grow(state, working, now)
            return state, [*effects, *more, *rest]
    victim = gives_way(state, working, candidates, now)
    if victim is None:
        return state, effects
    state, more = _park(state, victim)
    return state, [*effects, *more]


def _requeue(state: State, one: Starting, now: float) -> tuple[State, list[Effect]]:
    """Put a request that the engine has not begun back into the queue."""
    state, effects = leave_start(state, one, now)
    state, more = leader_gone(with_request(state, unplaced(one)), one, now)
    return state, [*effects, *more]


def _park(state: State, working: Working) -> tuple[State, list[Effect]]:
    """Take a request out of its sequence."""
    parking = Parking(working.core, working.begun, working.allocation)
    return with_request(state, parking), [SendJob(Park(working.core.request.id))]


# --- places for those that wait ----------------------------------------------------------------------------------


def _admit(state: State, now: float) -> tuple[State, list[Effect]]:
    """Places for the queue, in its order."""
    effects: list[Effect] = []
    while not (state.stopping or is_parking(state)):
        one = next_up(state)
        if one is None or is_starving(state, one.core.request.priority):
            break
        state = _unpin(state, one)
        place = placing.place(state, one, now)
        if place is None:
            break
        if isinstance(place, placing.Park):
            state, more = _displace(state, place, now)  # there may be a place now
        else:
            state, more = _take(state, one, place, now)
        effects += more
    return state, effects


def _displace(state: State, park: placing.Park, now: float) -> tuple[State, list[Effect]]:
    effects: list[Effect] = []
    for request_id in park.requests:
        match state.placed[request_id]:
            case Working() as working:
                state, more = _park(state, working)
            case Following() | Looking() as starting:
                state, more = _requeue(state, starting, now)
            case _:
                continue
        effects += more
    return state, effects


def _unpin(state: State, one: Queued) -> State:
    """If a turn does not extend its session's sequence, that sequence is the first to go."""
    prompt = sought(one)
    for slot in state.idle:
        mine = slot.session is not None and slot.session == prompt.session
        if mine and common_prefix(slot.packed, prompt.packed) != slot.length:
            state = with_slot(state, changed(slot, session_id=None, used_at=0.0))
    return state


def _take(state: State, one: Queued, place: placing.Place, now: float) -> tuple[State, list[Effect]]:
    """Put a request into its place."""
    prompt, slot, begin = sought(one), state.slots[place.seq_id], place.begin
    stays = begin.keep > 0 and begin.source is None
    sticky = stays and slot.session is not None and slot.session == prompt.session
    allocation = Allocation(slot.seq_id, place.limit, goes_on=stays, sticky=sticky)
    core = one.core if one.core.started_at is not None else changed(one.core, started_at=now)
    state, effects = _occupy(state, one, place, stays=stays)
    looking = Looking(core, one.begun, allocation, now)
    state = with_request(state, looking)
    if begin.source is not None:
        state, more = follow(state, looking, begin.source, Share(begin.leader, begin.keep))
        effects += more
    for seq_id in place.evict:
        state, more = evict(state, state.slots[seq_id])
        effects += more
    if begin.leader is not None and begin.source is None:
        following = Following(core, one.begun, allocation, begin.leader, begin.leader_end)
        return with_request(state, following), effects
    if prompt.parent_key is None and prompt.session is not None:
        prompt = changed(prompt, parent_key=state.left.get(prompt.session))
    # Full attention is cut back to where the prompt diverges. Of other memory only rows have that place, and the next
    # turn of an agent comes sooner than they are stored.
    return state, [*effects, LookUp(prompt, after_saves=not stays and state.limits.memory != "full")]


def _occupy(state: State, one: Queued, place: placing.Place, *, stays: bool) -> tuple[State, list[Effect]]:
    """The state in which the sequence is a request's; what else it held is copied out."""
    effects: list[Effect] = []
    prompt, slot, begin = sought(one), state.slots[place.seq_id], place.begin
    if slot.is_idle and not (stays and begin.keep == slot.length):
        state, effects = copy_out(state, slot)
        effects.append(SendJob(Drop(slot.seq_id, begin.keep if stays else 0)))
    new = Slot(
        slot.seq_id, packed=prompt.packed[: TOKEN_BYTES * begin.keep], first=slot.first if stays else 0,
        identity=prompt.identity, captured_to=min(slot.captured_to, begin.keep) if stays else 0, pieces=place.pieces,
        request_id=prompt.id, session_id=prompt.session_id,
    )  # fmt: skip
    for other in state.idle:  # a session holds one sequence: the one that it goes on in
        if prompt.session is not None and other.session == prompt.session and other.seq_id != slot.seq_id:
            state = with_slot(state, changed(other, session_id=None))
    state = with_neighbour(with_slot(state, new), slot.seq_id)
    return changed(state, next_block=state.next_block + 1), effects
