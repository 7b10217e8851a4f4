"""An engine's threads: numbers that were given, shares, rests, and what is reported of them."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
from helpers.engine import NoWatch, ends, engine, generate, stub
from helpers.machine import Machine
from helpers.worker import bench, prompt

from erllama_py.cpus import ThreadChoice
from erllama_py.engine import run
from erllama_py.engine.compute_threads import MANY, PROCESS, ComputeThreads, CpuShare
from erllama_py.engine.cpu_watch import WATCH_SECONDS
from erllama_py.engine.stub import StubBackend
from erllama_py.engine.thread_trial import Shape

TWO = ThreadChoice(few=2, many=2, cpus=2)


class Resting(StubBackend):
    """A stub that counts how often its threads were given back."""

    rests = 0

    def rest(self) -> None:
        self.rests += 1


def resting() -> Resting:
    return Resting("test", stub()._config)


def threads_of(backend: StubBackend, choice: ThreadChoice, share: CpuShare | None = None) -> ComputeThreads:
    return ComputeThreads(backend, choice, share or CpuShare(), NoWatch().read, lambda count: None)


@pytest.mark.parametrize(("few", "many", "fixed_few", "fixed_many", "row", "prompt_"), [
    (3, 5, True, True, (3, 5), (3, 5)),
    (3, 4, False, False, (3, 3), (4, 4)),
    (3, 4, True, False, (3, 3), (3, 4)),
    (3, 5, False, True, (3, 5), (5, 5)),
])  # fmt: skip
def test_numbers_that_are_given_reach_the_backend(
    few: int, many: int, fixed_few: bool, fixed_many: bool, row: tuple[int, int], prompt_: tuple[int, int]
) -> None:
    """For single tokens and for several, as llama.cpp tells them apart; the others follow the decode."""
    backend = stub()
    threads = threads_of(backend, ThreadChoice(few=few, many=many, fixed_few=fixed_few, fixed_many=fixed_many, cpus=8))
    for _ in range(3):
        threads.begin(1, 0)
        threads.took(0.01)
        assert backend.threads == row
        threads.begin(1, MANY)
        threads.took(0.1)
        assert backend.threads == prompt_


def test_two_at_work_share_the_cpus_and_one_alone_has_all() -> None:
    """At the next decode of each, whichever begins or ends."""
    share, one, other = CpuShare(), stub(), stub()
    first, second = threads_of(one, TWO, share), threads_of(other, TWO, share)
    first.begin(1, 0)
    assert one.threads == (2, 2)
    second.begin(1, 0)
    first.begin(1, 0)
    assert (one.threads, other.threads) == ((1, 1), (1, 1))
    second.rest()
    first.begin(1, 0)
    assert one.threads == (2, 2)


def test_an_engine_on_a_gpu_takes_one_cpu_and_is_left_alone() -> None:
    """What it has of threads hardly computes: the others keep the CPUs."""
    share, one, other = CpuShare(), stub(), stub()
    on_gpu = threads_of(one, ThreadChoice(few=8, many=8, cpus=8, on_gpu=True), share)
    on_cpu = threads_of(other, ThreadChoice(few=8, many=8, cpus=8), share)
    on_gpu.begin(1, 0)
    on_cpu.begin(1, 0)
    on_gpu.begin(1, 0)
    assert one.threads == (8, 8)
    assert other.threads == (7, 7)


def test_threads_are_given_back_once() -> None:
    """When there is nothing to do, and when one is enough: they would count, and make others' spin less."""
    backend, share = resting(), CpuShare()
    threads = threads_of(backend, TWO, share)
    threads.begin(1, 0)
    threads.rest()
    threads.rest()
    assert backend.rests == 1
    threads.begin(1, 0)
    threads_of(stub(), TWO, share).begin(1, 0)
    threads.begin(1, 0)
    threads.begin(1, 0)
    assert backend.rests == 2
    threads.rest()
    assert backend.rests == 2


def test_an_engine_tells_what_it_has_settled_on() -> None:
    """Not the numbers of a trial."""
    machine = Machine(2)
    machine.run(1.0)
    assert machine.told == []
    machine.busy = 1
    machine.run(2.0)
    assert machine.told == [1]
    machine.busy = 0
    machine.run(2.0)
    assert machine.told == [1, 2]
    assert repr(machine.threads) == "<ComputeThreads 2 of 2, granted 2>"


@pytest.mark.parametrize("how", [ComputeThreads.pause, ComputeThreads.rest])
def test_a_rest_says_nothing_of_the_cpus(how: Callable[[ComputeThreads], None]) -> None:
    """They were idle because no decode was under way: no reason to try more threads."""
    machine = Machine(2)
    machine.busy = 2
    machine.run(4.0)
    machine.counts.clear()
    how(machine.threads)
    machine.now += 10.0
    machine._idle += 20.0
    machine.busy = 2
    for _ in range(3):
        machine.decode()
    assert (pressure := machine.threads._pressures.of("few")) is not None
    assert pressure.idle == 0.0


def test_prompts_and_rows_are_counted_apart() -> None:
    """What rows have learned is not what prompts have: these compute, and those wait for memory."""
    machine = Machine(2)
    machine.busy = 1
    machine.run(4.0)
    assert machine.decode() == 1
    assert machine.decode(Shape(0, 512)) == 2


@pytest.mark.parametrize("decodes", [1, 2, 5])
def test_requests_of_few_decodes_are_held_up_too(decodes: int) -> None:
    """Each is over before the kernel has been asked twice; what all of them have met counts."""
    machine = Machine(2)
    machine.busy = 2
    for _ in range(400):
        for _ in range(decodes):
            machine.decode()
        machine.threads.rest()
    assert machine.counts[-200:].count(1) >= 160


def test_prompts_of_one_decode_are_held_up_too() -> None:
    """Between them there are rows, which have found out: what holds up the prompts counts for the prompts."""
    machine = Machine(2, penalty=4.0)
    machine.busy = 2
    counts = []
    for _ in range(400):
        counts.append(machine.decode(Shape(0, 300)))
        for _ in range(10):
            machine.decode()
        machine.threads.rest()
    assert counts[-100:].count(1) >= 80


def test_a_kernel_that_fails_to_tell_once_is_no_reason_to_try_anything() -> None:
    """Files could not be opened, say: no trial follows."""
    machine = Machine(2)
    machine.fails_every = 3
    machine.run(20.0)
    assert set(machine.counts) == {2}


@pytest.mark.parametrize("trying", [True, False])
def test_the_times_of_a_trial_do_not_size_slices(trying: bool) -> None:
    """Only decodes by the settled number show what streams will wait for."""

    class Threads(ComputeThreads):
        is_trying = property(lambda self: trying)

    one = bench()
    one.worker.threads = Threads(one.backend, TWO, CpuShare(), NoWatch().read, lambda count: None)
    one.do(generate(1, prompt(1), max_new_tokens=4))
    one.run()
    assert (one.worker._times.row_seconds == 0.0) is trying


def test_readings_are_rare() -> None:
    """A look at the kernel's books costs more than a decode of a small model may."""
    machine = Machine(2)
    machine.run(10.0)
    assert 0 < machine.looks <= 10.0 / WATCH_SECONDS + 1


@pytest.mark.anyio
async def test_an_engine_without_work_leaves_the_cpus_to_others() -> None:
    """Its seat is empty and its threads are gone before it waits for the next job."""
    backend = resting()
    async with engine(backend, threads=TWO) as driver:
        driver.thread.submit(generate(1, [1, 2, 3], max_new_tokens=2))
        await driver.until(ends(1))
        with anyio.fail_after(20):
            while not backend.rests:
                await anyio.lowlevel.checkpoint()
        assert PROCESS._seats == []
    assert backend.rests == 1


@pytest.mark.anyio
async def test_a_part_of_the_cpus_is_kept_from_one_request_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else another engine would begin a long decode with all of them."""
    monkeypatch.setattr(run, "LULL_SECONDS", 60.0)
    backend = resting()
    async with engine(backend, threads=TWO) as driver:
        for request_id in range(1, 4):
            driver.thread.submit(generate(request_id, [1, 2, 3], max_new_tokens=2))
            await driver.until(ends(request_id))
            assert (len(PROCESS._seats), backend.rests) == (1, 0)
    assert (PROCESS._seats, backend.rests) == ([], 1)
