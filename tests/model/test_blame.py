"""What a crash blames: a row that was being put back, or requests; nobody for what came from outside."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from helpers.rows import chain
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.actors import ActorEnded, Raised, Stopped
from erllama_py.cache.walk import Located
from erllama_py.engine.evidence import EngineDied
from erllama_py.engine.jobs import DrillFault
from erllama_py.errors import CrashReport, ModelLoadError
from erllama_py.model.blame import MOST_DEATHS, Deaths, blamed_in, crash_of, rows_at_fault
from erllama_py.scheduler.reuse import Start
from erllama_py.scheduler.stages import Restoring, Working

TOKENS = list(range(400))


class Crash(Exception):
    def __init__(self, **fields: Any) -> None:
        super().__init__("it crashed")
        self.report = CrashReport(problem="it crashed", **{"reason": "signal", "signal": "SIGSEGV"} | fields)


def restoring(*ends: int, restored: int, sent: int) -> Restoring:
    """A request whose rows end there, and how many of them were handed over, and are in the cells."""
    rows = tuple(Located(row, "d", 1000) for row in chain(TOKENS, *ends))
    start = Start(kind="partial", live=0, rows=rows, keep=ends[-1], by_logits=False, miss_reason=None)
    core: Any = SimpleNamespace(request=SimpleNamespace(id=7))
    nothing: Any = None
    return Restoring(core, None, nothing, 0.0, 0, 0.0, None, start, sent=sent, restored=restored)


def state(**placed: Any) -> Any:
    return SimpleNamespace(placed={int(name[1:]): one for name, one in placed.items()})


def spans(rows: tuple[Located, ...]) -> list[tuple[int, int]]:
    return [(row.meta.start, row.meta.end) for row in rows]


def test_the_row_that_was_being_put_back_is_at_fault_and_no_request() -> None:
    """Not those that are in the cells, nor those that the engine has not; of several by its length."""
    known = state(_7=restoring(64, 128, 160, 224, 300, restored=1, sent=4), _8=restoring(64, restored=0, sent=1))
    crash = Crash(doing="restore", tokens=32, requests=(7,))
    assert spans(rows_at_fault(crash, known)) == [(128, 160)]
    assert spans(rows_at_fault(Crash(doing="restore", tokens=64, requests=(7,)), known)) == [(64, 128), (160, 224)]
    board: Any = SimpleNamespace(last_state=known)
    assert blamed_in(crash, board) == frozenset()


@pytest.mark.parametrize(
    "crash",
    [
        Crash(doing="decode", tokens=64, requests=(7,)),
        Crash(doing="restore", tokens=64, requests=(9,)),
        Crash(doing="restore", tokens=64, requests=(8,)),
        Crash(doing="restore", tokens=63, requests=(7,)),
    ],
)
def test_where_it_was_no_row_the_request_is_blamed(crash: Crash) -> None:
    """In another operation, or where no such row was on its way."""
    core: Any = SimpleNamespace(request=SimpleNamespace(id=8))
    nothing: Any = None
    working = Working(core, nothing, nothing, 0.0)
    board: Any = SimpleNamespace(last_state=state(_7=restoring(64, restored=0, sent=1), _8=working))
    assert rows_at_fault(crash, board.last_state) == ()
    assert blamed_in(crash, board) == frozenset(crash.report.requests)


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_nothing_is_to_blame_for_what_came_from_outside(name: str) -> None:
    """Nor for a drill."""
    board: Any = SimpleNamespace(last_state=state(_7=restoring(64, restored=0, sent=1)))
    outside = Crash(signal=name, doing="restore", tokens=64, requests=(7,))
    drill = DrillFault("told to fail")
    drill.report = outside.report  # type: ignore[attr-defined]  # as the engine's thread leaves it there
    for crash in (outside, drill):
        assert rows_at_fault(crash, board.last_state) == ()
        assert blamed_in(crash, board) == frozenset()


@given(
    lengths=st.lists(st.sampled_from([16, 32, 64]), min_size=1, max_size=6), data=st.data(),
    reason=st.sampled_from(["signal", "watchdog", "exit code", "exception"]),
)  # fmt: skip
def test_the_row_under_way_is_always_among_those_at_fault(lengths: list[int], data: Any, reason: Any) -> None:
    """Whatever of what the engine has done came through; and never one that it was not given."""
    ends = [sum(lengths[: count + 1]) for count in range(len(lengths))]
    sent = data.draw(st.integers(1, len(ends)))
    under_way = data.draw(st.integers(0, sent - 1))
    told = data.draw(st.integers(0, under_way))
    known = state(_7=restoring(*ends, restored=told, sent=sent))
    crash = Crash(reason=reason, doing="restore", tokens=lengths[under_way], requests=(7,))
    found = rows_at_fault(crash, known)
    all_rows = known.placed[7].start.rows
    assert all_rows[under_way] in found
    assert set(found) <= set(all_rows[told:sent])


def test_no_reply_is_to_blame_for_the_end_of_an_embedder() -> None:
    """Where that is what it was at."""
    core: Any = SimpleNamespace(request=SimpleNamespace(id=8))
    nothing: Any = None
    working = Working(core, nothing, nothing, 0.0)
    board: Any = SimpleNamespace(last_state=state(_7=working))
    assert blamed_in(Crash(doing="embed", tokens=9), board) == frozenset()


def crash(reason: Any = "signal", **fields: Any) -> CrashReport:
    return CrashReport(reason=reason, problem="it crashed", **fields)


class Board:
    """Of a model that crashes."""

    model_id = "m"

    def __init__(self) -> None:
        self.last_crash: CrashReport | None = crash(pid=1)

    def load_error(self, failure: BaseException) -> Exception:
        return ModelLoadError("a.gguf", str(failure))


STOPPED = ActorEnded("embedder:m", Stopped())


def test_a_model_that_crashes_while_one_caller_begins_something_is_waited_for_so_often() -> None:
    """Whoever of the two was told first: what was begun, or its model, which has stopped it then."""
    board: Any = Board()
    deaths = Deaths(board)
    assert not deaths.met(STOPPED)  # it was unloaded, perhaps
    assert not deaths.met(None)
    assert deaths.met(Crash(pid=2))
    for number in range(MOST_DEATHS - 1):
        deaths.begins()
        board.last_crash = crash(pid=3 + number)
        if number < MOST_DEATHS - 2:
            assert deaths.met(STOPPED)
    with pytest.raises(ModelLoadError, match="it crashed"):
        deaths.met(STOPPED)


def test_an_error_in_python_is_no_death() -> None:
    """It would come again, and is told at once."""
    board: Any = Board()
    deaths = Deaths(board)
    board.last_crash = crash("exception")
    assert not any(deaths.met(error) for error in (Crash(reason="exception"), STOPPED) for _ in range(MOST_DEATHS))


def test_what_a_model_has_stopped_for_its_own_crash_has_ended_with_that() -> None:
    """Its own error comes first, if it has one; without a new crash it was stopped in order."""
    board: Any = Board()
    before, own = board.last_crash, Crash()
    assert crash_of(ActorEnded("embedder:m", Raised(own)), board, before) is own
    assert crash_of(STOPPED, board, before) is None
    board.last_crash = crash(pid=9)
    found = crash_of(STOPPED, board, before)
    assert isinstance(found, EngineDied)
    assert found.report is board.last_crash
    board.last_crash = crash("exception")
    assert crash_of(STOPPED, board, before) is None  # an engine that has raised takes no other one along
