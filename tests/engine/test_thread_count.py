"""How many threads compute: laws of the rule, and what simulated machines make of it."""

from __future__ import annotations

import pytest
from helpers.machine import ROW, Machine
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cpus import ThreadChoice
from erllama_py.engine.compute_threads import Seat
from erllama_py.engine.thread_count import UNSEEN_PAUSE, Counting, Pressure, next_count, observed
from erllama_py.engine.thread_trial import LOST, MOST_DECODES, TRIAL_DECODES, Shape

cpus = st.floats(0.0, 16.0)
HELD_UP = Pressure(waiting=1.0, idle=0.0)
QUIET = Pressure(waiting=0.0, idle=0.0)


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """Two to sixteen CPUs, decodes of 5 to 300 ms by all of them, waits that cost little or much."""
    cpus = draw(st.integers(2, 16))
    return Machine(
        cpus, work=cpus * draw(st.floats(0.005, 0.3)), penalty=draw(st.floats(1.2, 8.0)),
        noise=draw(st.sampled_from([0.0, 0.05, 0.1])), seed=draw(st.integers(0, 1 << 16)),
    )  # fmt: skip


@given(machines())
def test_on_a_quiet_machine_the_number_never_changes(machine: Machine) -> None:
    """No trial is held, however uneven the times are: the same request has the same bits."""
    machine.run(10.0)
    assert set(machine.counts) == {machine.cpus}


@pytest.mark.slow
@given(machines(), st.data())
def test_beside_others_an_engine_is_nearly_as_fast_as_with_the_best_number(
    machine: Machine, data: st.DataObject
) -> None:
    """After a second and some trials, 0.85 of the best fixed number at least."""
    machine.busy = data.draw(st.integers(1, machine.cpus))
    machine.run(2.0 + 40 * machine.takes(machine.cpus))
    assert machine.run(20.0 + 100 * machine.best) >= 0.85


@pytest.mark.slow
@given(machines(), st.data())
def test_what_others_leave_is_taken_back(machine: Machine, data: st.DataObject) -> None:
    """Soon after they have gone, all CPUs are used again, or as many as are as fast."""
    machine.busy = data.draw(st.integers(1, machine.cpus))
    machine.run(10.0)
    machine.busy = 0
    machine.run(4.0 + 100 * machine.best)
    assert machine.run(20.0 + 100 * machine.best) >= 0.9


@given(machines(), st.floats(0.05, 3.0))
def test_others_that_come_and_go_do_not_stop_it(machine: Machine, every: float) -> None:
    """However often the news changes, trials cost less than half of the time, whatever a wrong number costs."""
    for number in range(30):
        machine.busy = number % 2
        machine.run(every)
    one = machine.work * 1.01 * len(machine.counts)  # what one thread takes for as much
    assert one >= 0.5 * machine.now


@given(
    st.lists(
        st.tuples(st.integers(1, 16), st.floats(1e-6, 1e3), st.floats(0.0, 16.0), st.floats(0.0, 16.0)), max_size=60
    )
)
def test_a_count_stays_between_one_and_what_is_granted(steps: list[tuple[int, float, float, float]]) -> None:
    """Whatever was granted, measured and reported."""
    counting, now = Counting(16), 0.0
    for most, seconds, waiting, idle in steps:
        told = Pressure(waiting, idle) if idle < 15.0 else None
        counting, count = next_count(counting, most, ROW, told, now)
        assert 1 <= count <= most
        now += seconds
        counting = observed(counting, seconds, now)
        assert 1 <= counting.best <= 16


def test_a_smaller_share_needs_no_trial_and_neither_does_getting_it_back() -> None:
    """Another engine begins and ends: half of the CPUs meanwhile, then all, at once."""
    machine = Machine(8)
    machine.run(1.0)
    machine.share.take(other := Seat(ThreadChoice(few=8, many=8, cpus=8)))
    assert [machine.decode() for _ in range(20)] == [4] * 20
    machine.share.leave(other)
    assert [machine.decode() for _ in range(20)] == [8] * 20


def test_decodes_that_are_not_alike_are_not_compared() -> None:
    """A request that joins is decoded by the best number first, whoever's turn it was, and then the others go on."""
    counting, turns = Counting(2), []
    for shape in [ROW, Shape(2, 0), ROW, ROW, Shape(2, 0), ROW]:
        counting, count = next_count(counting, 2, shape, HELD_UP, 0.0)
        turns.append((shape.rows, count))
        counting = observed(counting, 0.01 * shape.rows * shape.rows, 0.0)
    assert turns == [(1, 2), (2, 2), (1, 1), (1, 1), (2, 1), (1, 2)]
    assert counting.trial is not None
    assert counting.trial.loss == pytest.approx(0.0)


def test_a_trial_of_which_hardly_two_decodes_are_alike_is_given_up() -> None:
    """It has cost nothing, and may begin again after a while."""
    counting = Counting(8)
    for tokens in range(MOST_DECODES + 1):
        counting, count = next_count(counting, 8, Shape(1, 2**tokens), HELD_UP, 0.0)
        assert count == 8
        assert (counting.trial is None) is (tokens == MOST_DECODES)
        counting = observed(counting, 1.0, 0.0)


@given(
    st.sampled_from([0.01, 0.1]), st.sampled_from([2, 4, 8]),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=2, max_size=5),
)  # fmt: skip
def test_requests_that_come_and_go_do_not_keep_it_from_finding_out(
    work: float, cpus: int, crowd: list[tuple[int, int]]
) -> None:
    """However few decodes in a row have as many rows: beside others that make all of them slow, fewer threads."""
    machine = Machine(cpus, work=work * cpus, penalty=8.0)
    machine.busy = cpus
    shapes = [Shape(rows, 0) for rows, decodes in crowd for _ in range(decodes)]
    for _ in range(400 // len(shapes) + 1):
        for shape in shapes:
            machine.decode(shape)
    assert machine.counts[-100:].count(1) >= 80


@pytest.mark.slow
@given(st.sampled_from([4, 8, 16]), st.integers(1, 16), st.floats(3.0, 8.0))
def test_an_engine_with_a_smaller_share_finds_out_too(cpus: int, busy: int, penalty: float) -> None:
    """Another engine is at work, and so are others: of its share, as many threads as are fastest or nearly so."""
    machine = Machine(cpus, penalty=penalty)
    machine.share.take(Seat(ThreadChoice(few=cpus, many=cpus, cpus=cpus)))
    machine.run(1.0)
    machine.busy = busy + cpus // 2
    machine.run(30.0 + 100 * machine.takes(cpus))
    began, decodes = machine.now, len(machine.counts)
    machine.run(20.0)
    best = min(machine.takes(count) for count in range(1, cpus // 2 + 1))
    assert best * (len(machine.counts) - decodes) >= 0.85 * (machine.now - began)


def test_more_threads_are_seldom_tried_where_no_cpu_is_idle() -> None:
    """Trials of more begin a quarter of a minute apart, and at once when a CPU is seen idle."""
    machine = Machine(2)
    machine.busy = 2
    machine.run(10.0)
    assert machine.decode() == 1
    machine.counts.clear()
    machine.run(60.0)
    assert 0 < machine.counts.count(2) <= 4 * (60.0 / UNSEEN_PAUSE + 1)
    machine.busy = 0
    machine.run(2.0)
    assert machine.decode() == 2


def test_a_guess_that_has_lost_is_not_the_only_one() -> None:
    """What others leave seems to be four CPUs: where four threads are slower than eight, two are tried, then one, then
    four again; and where it seems to be none, half of the eight."""
    for told, expected in [(Pressure(waiting=2.7, idle=0.0), [4, 2, 1, 4]), (Pressure(8.0, 0.0), [1, 4, 2, 1, 4])]:
        counting, now, tried = Counting(8), 0.0, []
        for _ in expected:
            now = max(now, counting.due_at(unseen=False))
            counting, _ = next_count(counting, 8, ROW, told, now)
            assert counting.trial is not None
            tried.append(counting.trial.count)
            while counting.trial is not None:
                counting, count = next_count(counting, 8, ROW, told, now)
                now += (took := 0.1 if count == 8 else 0.2)
                counting = observed(counting, took, now)
        assert tried == expected


@pytest.mark.parametrize(("one", "other", "alike"), [
    (Shape(1, 0), Shape(1, 0), True),
    (Shape(1, 0), Shape(2, 0), False),
    (Shape(1, 100), Shape(1, 80), True),
    (Shape(1, 100), Shape(1, 70), False),
    (Shape(0, 512), Shape(0, 512), True),
    (Shape(1, 0), Shape(1, 4), False),
])  # fmt: skip
def test_alike_are_decodes_of_as_many_rows_and_about_as_many_prompt_tokens(
    one: Shape, other: Shape, alike: bool
) -> None:
    """Whichever is asked."""
    assert one.is_like(other) is alike
    assert other.is_like(one) is alike


def test_a_number_that_is_much_slower_costs_one_decode() -> None:
    """Two threads beside two busy processes took a second where one took 25 ms: the trial ends before eight of
    those."""
    counting = Counting(1, ended_at=0.0)
    counting, _ = next_count(counting, 2, ROW, QUIET, 100.0)
    counting = observed(counting, 0.025, 100.0)
    counting, count = next_count(counting, 2, ROW, QUIET, 100.1)
    assert count == 2
    counting = observed(counting, 0.025 * (LOST + 1) + 0.001, 100.4)
    assert counting.trial is None
    assert counting.best == 1


def test_a_draw_goes_to_fewer_threads() -> None:
    """What is as fast with one leaves the other CPU to others."""
    counting = Counting(2)
    for _ in range(TRIAL_DECODES):
        counting, _ = next_count(counting, 2, ROW, HELD_UP, 0.0)
        counting = observed(counting, 0.01, 0.0)
    assert counting.best == 1
    assert counting.trial is None


def test_trials_that_are_lost_become_rare() -> None:
    """Where more threads do not pay, and nothing says that they might: one in eight seconds at last."""
    machine = Machine(2, penalty=4.0)
    machine.busy = 2
    machine.run(60.0)
    machine.counts.clear()
    machine.run(60.0)
    assert sum(machine.takes(2) for count in machine.counts if count == 2) <= 60 / 10


@pytest.mark.slow
@given(machines(), st.data())
def test_without_a_word_of_the_kernel_half_of_the_threads_are_tried(machine: Machine, data: st.DataObject) -> None:
    """Nothing says that threads wait: by the clock, half are tried now and then, and kept where they are faster."""
    machine.tells = False
    machine.busy = data.draw(st.integers(1, machine.cpus))
    machine.run(30.0 + 200 * machine.takes(machine.cpus))
    began, decodes = machine.now, len(machine.counts)
    machine.run(20.0 + 100 * machine.takes(machine.cpus))
    simple = min(machine.takes(machine.cpus), machine.takes(machine.cpus // 2))
    assert machine.now - began <= 1.15 * simple * (len(machine.counts) - decodes)
