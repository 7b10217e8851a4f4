"""How requests share what one of them computes: the leader, and those that follow it. Pure.

With full attention cells are shared: `Fork` lets a follower share those of its leader when they are computed, or of an
idle sequence at once, and it starts when both `Forked` and the cache's answer are there. Of other kinds of memory the
follower waits for a row that its leader saves. Of several that have lost a leader, the first takes over, and the others
follow it: they never compute the same. No request follows a follower.
"""

from __future__ import annotations

from erllama_py.cache.keys import TOKEN_BYTES, prefix_keys
from erllama_py.engine.jobs import Drop, Forked
from erllama_py.scheduler.cells import written
from erllama_py.scheduler.messages import Effect, LookUp, SendJob
from erllama_py.scheduler.placing import LEAST_SHARED, shared
from erllama_py.scheduler.stages import Following, Looking, Open, Parking, Share, Working, leader_of, sought
from erllama_py.scheduler.starting import SAVE_WAIT, fork_job, start
from erllama_py.scheduler.state import State, changed, slot_of, with_request, with_slot


def follow(state: State, looking: Looking, source: int, share: Share) -> tuple[State, list[Effect]]:
    """Share the beginning of the sequence `source`, when it is there: at once, if that is idle or at work."""
    pieces = written(state.slots[source].pieces, share.end, looking.allocation.limit, state.next_block)
    packed = sought(looking).packed[: TOKEN_BYTES * share.end]
    state = with_slot(state, changed(slot_of(state, looking), packed=packed, pieces=pieces))
    state = changed(with_request(state, changed(looking, share=share)), next_block=state.next_block + 1)
    leader = state.find(share.leader) if share.leader is not None else None
    if leader is None or isinstance(leader, Working):
        return state, [fork_job(looking, source, share.end)]
    return state, []


def forked(state: State, outcome: Forked, now: float) -> tuple[State, list[Effect]]:
    """The beginning is shared, or less of it: the request that was to compute it has ended before."""
    looking = state.placed.get(outcome.request_id)
    if not isinstance(looking, Looking) or looking.share is None:
        return state, []
    return _shares(state, looking, looking.share.leader, outcome.length, now)


def _shares(state: State, looking: Looking, leader: int | None, length: int, now: float) -> tuple[State, list[Effect]]:
    """A follower has `length` tokens of its share: start it, unless there is more to share."""
    packed = sought(looking).packed[: TOKEN_BYTES * length]
    state = with_slot(state, changed(slot_of(state, looking), packed=packed))
    saved = max(looking.saved_by_leader, _saved_by(state.find(leader), length) if leader is not None else 0)
    looking = changed(looking, share=None, since=now, saved_by_leader=saved)
    state = with_request(state, looking)
    # Only for as much more as is worth sharing at all, because it has to wait again.
    again = shared(state, looking)
    if again.source is not None and again.keep >= length + LEAST_SHARED:
        state, effects = follow(state, looking, again.source, Share(again.leader, again.keep))
        # The cells that it has so far would not be counted while it waits.
        return state, [SendJob(Drop(looking.allocation.seq_id)), *effects] if length else effects
    return start(state, looking, looking.answer, now) if looking.answer is not None else (state, [])


def _saved_by(leader: Open | None, length: int) -> int:
    """Up to where the request that computed the beginning has saved it, by the end of a row: no other needs to."""
    if leader is None or leader.begun is None or leader.core.request.plan is None:
        return 0
    saved_to = min(length, leader.begun.captured_to)
    return max((end for end in leader.begun.row_ends if end <= saved_to), default=0)


def go_on(state: State, following: Following, least: int, now: float) -> tuple[State, list[Effect]]:
    """The row that a request has waited for is being saved, or will not be any more.

    Of several that begin alike, the first asks the cache and computes what is missing. The others follow it, if that
    gives them `least` tokens, or each would compute the same.
    """
    again = shared(state, following)
    if again.leader is not None and again.leader_end >= least:
        return with_request(state, changed(following, leader=again.leader, leader_end=again.leader_end)), []
    prompt = sought(following)
    key = prefix_keys(prompt.identity, prompt.packed, (following.leader_end,))[0]
    looking = Looking(following.core, following.begun, following.allocation, now)
    return with_request(state, looking), [LookUp(changed(prompt, parent_key=key, wait_seconds=SAVE_WAIT))]


def row_saved(state: State, leader: int, end: int, now: float) -> tuple[State, list[Effect]]:
    """A leader has copied its cells out up to `end`, to be saved."""
    effects: list[Effect] = []
    for one in state.placed.values():
        if isinstance(one, Following) and one.leader == leader and end >= one.leader_end:
            state, more = go_on(state, one, one.leader_end + 1, now)
            effects += more
    return state, effects


def release_followers(state: State, now: float) -> tuple[State, list[Effect]]:
    """Followers whose leader will not save the row that they wait for go on: it is saved already, or saving is off."""
    effects: list[Effect] = []
    for one in state.placed.values():
        leader = state.placed.get(one.leader) if isinstance(one, Following) else None
        if not isinstance(one, Following) or not isinstance(leader, Working):
            continue
        if leader.begun.captured_to >= one.leader_end or leader.core.request.plan is None:
            state, more = go_on(state, one, one.leader_end + 1, now)
            effects += more
    return state, effects


def leader_gone(state: State, leader: Open, now: float) -> tuple[State, list[Effect]]:
    """Those that follow a request that has left its sequence go on without it; `leader` is as it was before."""
    effects: list[Effect] = []
    leader_id = leader.core.request.id
    for request_id in list(state.placed):
        one = state.placed[request_id]
        if leader_of(one) != leader_id:
            continue
        if isinstance(one, Following):
            state, more = go_on(state, one, one.leader_end, now)
        elif isinstance(one, Looking) and one.share is not None and isinstance(leader, Working | Parking):
            # The engine's answer is still to come.
            saved = max(one.saved_by_leader, _saved_by(leader, one.share.end))
            state, more = with_request(state, changed(one, saved_by_leader=saved)), []
        elif isinstance(one, Looking):
            state, more = _shares(state, one, leader_id, 0, now)  # the engine was not asked yet to share anything
        else:
            continue
        effects += more
    return state, effects
