"""Where a request goes: what it begins with, what makes room for it, and when it has to wait."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers.requests import PLAN, run
from helpers.rows import IDENTITY
from helpers.stages import at
from helpers.states import OWN_BLOCKS, A, B, C, D, asked, begun, kept, state_with, waiting

from erllama_py.engine.jobs import Prefilled
from erllama_py.scheduler import placing
from erllama_py.scheduler.cells import Piece
from erllama_py.scheduler.messages import CancelRequest
from erllama_py.scheduler.placing import Beginning, Park, Place, beginning, most_cells
from erllama_py.scheduler.stages import Looking, Queued, leader_of
from erllama_py.scheduler.state import State, with_slot

OTHER = msgspec.structs.replace(IDENTITY, fingerprint=b"o" * 32)
PARTED = [*A[:40], *C[:20]]  # begins as A does


def place(state: State, one: Queued) -> Place | Park | None:
    """At once: none has had a turn."""
    return placing.place(state, one, now=0.0)


def placed(state: State, one: Queued) -> Place:
    found = place(state, one)
    assert isinstance(found, Place)
    return found


# --- what it begins with -------------------------------------------------------------------------------------------


def test_a_prompt_like_nothing_else_gets_a_free_sequence() -> None:
    """With cells for itself and the first step of its reply; none has to go for it."""
    assert place(state_with(kept(0, B)), waiting(1, A)) == Place(
        seq_id=1, begin=Beginning(), pieces=(Piece(1, 64),), limit=64, evict=()
    )


def test_a_sequence_that_a_prompt_extends_is_taken_over() -> None:
    """No other sequence is needed; what it adds is in a block of its own."""
    found = placed(state_with(kept(1, A[:40])), waiting(1, A))
    assert (found.seq_id, found.begin.keep, found.begin.source) == (1, 40, None)
    assert found.pieces == (Piece(OWN_BLOCKS + 1, 40), Piece(1, 64))


def test_a_sequence_that_a_prompt_diverges_from_stays_and_is_shared() -> None:
    """Both go on: the idle conversation may still be continued."""
    found = placed(state_with(kept(1, A)), waiting(1, PARTED))
    assert (found.seq_id, found.begin.keep, found.begin.source, found.begin.leader) == (0, 40, 1, None)
    assert found.pieces == (Piece(OWN_BLOCKS + 1, 40), Piece(1, 64))


@pytest.mark.parametrize("common", [1, 15, 16])
def test_any_beginning_that_is_idle_is_shared(common: int) -> None:
    """A short prompt that comes again is not computed again, however many sequences are free."""
    begin = placed(state_with(kept(0, A)), waiting(1, [*A[:common], *B])).begin
    assert (begin.source, begin.keep) == (0, common)


@pytest.mark.parametrize(("common", "leader"), [(15, None), (16, 1)])
def test_a_beginning_that_is_at_work_is_shared_if_it_is_worth_waiting_for(common: int, leader: int | None) -> None:
    """Below 16 tokens it is computed again."""
    assert beginning(begun(state_with(), asked(1, A)), waiting(2, [*A[:common], *B])).leader == leader


def test_what_is_still_being_computed_is_shared_with_the_request_that_computes_it() -> None:
    """Up to where the prompts part, wherever the engine stands."""
    begin = beginning(begun(state_with(), asked(1, A)), waiting(2, PARTED))
    assert begin == Beginning(keep=40, source=0, leader=1, leader_end=40)


def test_the_longest_beginning_is_taken_and_among_equals_what_is_there_already() -> None:
    """What is idle can be shared at once, what is at work may still have to be computed."""
    state = with_slot(begun(state_with(), asked(1, [*A[:40], *D[:20]])), kept(2, [*A[:40], *B[:20]]))
    assert beginning(state, waiting(2, PARTED)).source == 2
    assert beginning(state, waiting(2, [*A[:40], *D[:10], *C])).source == 0


def test_a_longer_beginning_elsewhere_is_better_than_one_to_take_over() -> None:
    """As long a one is not: taken over, it costs no sequence."""
    state = state_with(kept(0, A[:20]), kept(1, A[:50]))
    assert beginning(state, waiting(1, PARTED)) == Beginning(keep=40, source=1)
    assert beginning(state, waiting(1, [*A[:20], *B])) == Beginning(seq_id=0, keep=20)


def test_the_cells_of_one_tenant_are_neither_taken_over_nor_shared() -> None:
    """Whether they are idle or at work."""
    state = begun(state_with(kept(2, A[:40], identity=OTHER)), asked(1, A, identity=OTHER))
    assert beginning(state, waiting(2, A)) == Beginning()


def test_a_sessions_sequence_is_its_own_but_others_may_share_it() -> None:
    """No other request writes after it, and it is not cut."""
    state = state_with(kept(0, A[:40], session_id="s"))
    assert beginning(state, waiting(1, A, session_id="s")) == Beginning(seq_id=0, keep=40)
    for session in (None, "t"):
        assert beginning(state, waiting(1, A, session_id=session)) == Beginning(keep=40, source=0)


def test_a_sessions_own_sequence_is_before_a_longer_one() -> None:
    """The longer one stays for whoever it belongs to."""
    state = state_with(kept(0, A[:20], session_id="s"), kept(1, A[:20]))
    assert beginning(state, waiting(1, A, session_id="s")).seq_id == 0
    assert beginning(state, waiting(1, A)).seq_id == 1


@pytest.mark.parametrize("memory", ["window", "recurrent", "hybrid"])
def test_of_other_memories_rows_are_shared_not_cells(memory: Any) -> None:
    """A later request waits for the last row that both begin with; once the prompt is in, all are being saved."""
    state = begun(state_with(memory=memory), asked(1, A, plan=PLAN))
    assert beginning(state, waiting(2, PARTED)) == Beginning(leader=1, leader_end=40)
    assert beginning(state, waiting(2, [*A[:39], *B])) == Beginning(leader=1, leader_end=20)
    assert beginning(state, waiting(2, [*A[:19], *B])) == Beginning()
    state, _ = run(state, Prefilled(1, 60, 60))
    assert beginning(state, waiting(2, PARTED)) == Beginning()
    assert beginning(state_with(kept(0, A), memory=memory), waiting(1, PARTED)) == Beginning()


def test_no_request_follows_a_follower() -> None:
    """A chain of waits would end all of them with its first."""
    state, _ = run(state_with(n_seq_max=4), asked(1, A), asked(2, PARTED))
    assert leader_of(at(state, 2, Looking)) == 1
    assert beginning(state, waiting(3, [*PARTED[:50], *D])).leader == 1


def test_what_a_cancelled_request_has_computed_is_shared_while_it_leaves() -> None:
    """A prompt that comes again at once finds it, or as much of it as there is."""
    state = begun(state_with(), asked(1, A))
    state, _ = run(state, CancelRequest(1))
    assert beginning(state, waiting(2, A)).leader == 1


# --- which sequence -----------------------------------------------------------------------------------------------


def test_without_a_free_sequence_the_first_of_the_idle_goes() -> None:
    """Saved ones first, the longest unused first; then those not saved; sessions last."""
    slots = [
        kept(0, A, session_id="s", used_at=1.0), kept(1, B, captured_to=59, used_at=2.0), kept(2, C, used_at=4.0),
        kept(3, D, used_at=3.0), kept(4, PARTED, session_id="t", captured_to=0, used_at=0.0),
    ]  # fmt: skip
    state = state_with(*slots, n_seq_max=5, n_cells=1000)
    assert [slot.seq_id for slot in state.idle] == [3, 2, 1, 0, 4]
    assert placed(state, waiting(1, [1, 2, 3])).seq_id == 3


def test_the_source_of_a_beginning_goes_last() -> None:
    """Even after what is held for a session."""
    state = state_with(kept(0, A), kept(1, B, session_id="s"), kept(2, C, session_id="t"), n_cells=1000)
    found = placed(state, waiting(1, PARTED))
    assert (found.seq_id, found.begin.source) == (1, 0)


def test_the_only_sequence_is_cut_back() -> None:
    """What the prompt shares with it stays where it is."""
    found = placed(state_with(kept(0, A), n_seq_max=1), waiting(1, PARTED))
    assert (found.seq_id, found.begin.source, found.begin.keep) == (0, None, 40)
    assert found.pieces == (Piece(OWN_BLOCKS, 40), Piece(1, 64))


def test_the_only_sequence_of_another_tenant_is_emptied() -> None:
    """The same tokens are not the same cells."""
    found = placed(state_with(kept(0, A, identity=OTHER), n_seq_max=1), waiting(1, PARTED))
    assert (found.seq_id, found.begin.source, found.begin.keep) == (0, None, 0)


# --- cells --------------------------------------------------------------------------------------------------------


def test_idle_sequences_go_until_there_are_cells() -> None:
    """As few as are enough, in their order; the source of the beginning is the last of them."""
    state = state_with(kept(0, A, used_at=1.0), kept(1, B, used_at=2.0), kept(2, C, used_at=3.0), n_seq_max=4)
    assert placed(state, waiting(1, D)).evict == (0,)
    assert placed(state, waiting(1, range(100))).evict == (0, 1)
    assert placed(state, waiting(1, [*A[:40], *range(40)])).evict == (1,)


def test_a_source_that_has_to_go_leaves_what_is_shared() -> None:
    """Its other cells are free then."""
    found = placed(state_with(kept(0, A), n_cells=80), waiting(1, [*A[:40], *range(30)]))
    assert (found.seq_id, found.begin.source, found.begin.keep, found.evict) == (1, 0, 40, (0,))


def test_idle_sequences_keep_only_so_many_cells_beside_a_request() -> None:
    """Though there is room for all."""
    slots = (kept(0, A, used_at=1.0), kept(1, B, used_at=2.0))
    for most, evict in ((120, ()), (119, (0,)), (60, (0,)), (59, (0, 1))):
        assert placed(state_with(*slots, n_cells=1000, kept_cells=most), waiting(1, C)).evict == evict


def test_cells_are_left_for_the_replies_at_work() -> None:
    """For each the next step, else the newcomer would have it parked at once."""
    first = begun(state_with(n_cells=132), asked(1, A))
    assert isinstance(place(first, waiting(2, B)), Place)
    first = begun(state_with(n_cells=131), asked(1, A))
    assert place(first, waiting(2, B)) is None


def test_a_short_reply_is_given_all_its_cells() -> None:
    """What is sampled last is never decoded."""
    for n, cells in ((0, 60), (1, 60), (3, 62), (5, 64), (6, 64)):
        assert placed(state_with(), waiting(1, A, max_new_tokens=n)).limit == cells
    assert [most_cells(waiting(1, A, max_new_tokens=n)) for n in (0, 1, 6)] == [60, 60, 65]


# --- which is parked ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("priority", "expected"), [(0, None), (1, Park((2,))), (-1, None)])
def test_a_higher_priority_takes_a_sequence(priority: int, expected: Park | None) -> None:
    """None is parked for one of the same priority, or of a lower one."""
    state = begun(state_with(n_seq_max=2, n_cells=1000), asked(1, A), asked(2, B))
    assert place(state, waiting(3, C, priority=priority)) == expected


def test_a_higher_priority_takes_cells() -> None:
    """From as many as it needs, and only from those below it."""
    state = begun(state_with(n_seq_max=5), asked(1, A, priority=2), asked(2, B[:40]), asked(3, C[:40], priority=1))
    assert place(state, waiting(4, range(50))) is None
    assert place(state, waiting(4, range(50), priority=1)) == Park((2,))
    assert place(state, waiting(4, range(100), priority=2)) == Park((2, 3))
    assert place(state, waiting(4, range(150), priority=2)) is None


def test_no_request_is_parked_where_an_idle_sequence_can_go() -> None:
    """Even if it is held for a session."""
    state = begun(state_with(kept(0, A, session_id="s"), n_seq_max=2), asked(1, B))
    found = placed(state, waiting(2, C, priority=5))
    assert (found.seq_id, found.begin.keep) == (0, 0)
