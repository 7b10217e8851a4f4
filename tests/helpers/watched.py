"""Looks into the models of a runtime while they work: each state of their machines, each tick of their threads.

`Watch` is put in place before the runtime is made, and owns what it has seen. Every state and every tick is checked
at once; what is wrong is kept in `wrong`, because an error inside an actor would only crash it. `once` waits for a
state, and misses none. `at_rest` compares the books with the cells when nothing is under way: the cells are read by
the thread that owns them, between two ticks, when it has done all that it was asked for before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import anyio
import pytest

from erllama_py.engine import run
from erllama_py.engine.stub import StubBackend
from erllama_py.engine.thread import EngineThread
from erllama_py.engine.worker import Worker
from erllama_py.model.actor import ModelActor
from erllama_py.scheduler.cells import count
from erllama_py.scheduler.messages import Effect, Message
from erllama_py.scheduler.stages import Open, Parked, Parking, Working
from erllama_py.scheduler.state import State
from helpers import stages

GUARD_SECONDS = 20  # for a test gone wrong: it shall fail rather than hang


def wrong_in_books(state: State) -> list[str]:
    """What one state of a machine must never be."""
    wrong: list[str] = []
    used = count(slot.pieces for slot in state.slots)
    if used > state.limits.n_cells:
        wrong.append(f"{used} cells of {state.limits.n_cells} are in use")
    at_work = {slot.request_id: slot.seq_id for slot in state.slots if slot.request_id is not None}
    if at_work != {request_id: one.allocation.seq_id for request_id, one in state.placed.items()}:
        wrong.append(f"sequences at work {at_work} are not those of the requests {state.placed}")
    sessions = [slot.session for slot in state.slots if slot.session is not None]
    if len(sessions) != len(set(sessions)):
        wrong.append(f"a session holds two sequences: {sessions}")
    for slot in state.slots:
        end = slot.pieces[-1].end if slot.pieces else 0
        if slot.is_free and (slot.pieces or slot.session_id is not None):
            wrong.append(f"a free sequence holds something: {slot}")
        if slot.is_idle and end != slot.length:
            wrong.append(f"sequence {slot.seq_id} keeps {slot.length} tokens in cells up to {end}")
    for request_id, one in state.placed.items():
        end = state.slots[one.allocation.seq_id].pieces[-1].end
        if isinstance(one, Working) and one.allocation.limit > end:
            wrong.append(f"request {request_id} may go to {one.allocation.limit} and has cells up to {end}")
    return wrong


def wrong_in_ticks(worker: Worker, most_cells: int) -> list[str]:
    """What the thread's requests must never be between two ticks."""
    wrong: list[str] = []
    running, backend = list(worker._running.values()), worker._backend
    sequences = [one.seq_id for one in running if one.position]
    if len(sequences) != len(set(sequences)):
        wrong.append(f"two requests in one sequence: {sequences}")
    for one in running:
        held = backend.positions(one.seq_id)[1] + 1
        if one.position > one.limit and one.finish is None:
            wrong.append(f"request {one.job.request_id} is at {one.position} and was given {one.limit}")
        if one.position and held != one.position:
            wrong.append(f"request {one.job.request_id} is at {one.position} and its sequence at {held}")
    for parked in worker._parked.values():
        if parked.position or parked.limit:
            wrong.append(f"a parked request is at {parked.position}")
    if isinstance(backend, StubBackend) and backend._cells._used > most_cells:
        wrong.append(f"{backend._cells._used} cells are used")
    return wrong


@dataclass
class Held:
    """What an engine's thread holds when nothing is under way."""

    lengths: list[int]  # of each sequence
    cells: int | None  # of all sequences; None for another backend than the stub
    at_work: str  # empty if it has nothing to do


class Read:
    """A job that the thread takes like any other, and that only reads; `held` is its answer."""

    def __init__(self, sequences: int) -> None:
        self.held: asyncio.Future[Held] = asyncio.get_running_loop().create_future()
        self._sequences = sequences

    def do(self, worker: Worker) -> None:
        backend = worker._backend
        lengths = [backend.positions(seq_id)[1] + 1 for seq_id in range(self._sequences)]
        cells = backend._cells._used if isinstance(backend, StubBackend) else None
        has_work = worker._running or worker._parked or worker._copies.forks
        held = Held(lengths, cells, f"{worker} has work, and forks {worker._copies.forks}" if has_work else "")
        self.held.get_loop().call_soon_threadsafe(self.held.set_result, held)


class Watch:
    """See the module. `see` is called on the loop with the model's id and each of its new states; `on_tick` on the
    thread after each tick, and `on_park` when it has parked a request. The id of a companion is its name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states: dict[str, State] = {}
        # As long as they are there: a job that an engine did not come to holds shared memory, as does its worker.
        self.workers = WeakValueDictionary[str, Worker]()
        self._engines = WeakValueDictionary[str, EngineThread]()
        self.wrong: list[str] = []
        self.parks: list[int] = []  # ids of requests, in the order in which they were parked
        self.ticks = 0
        self.see: Callable[[str, State], None] = lambda model_id, state: None
        self.on_park: Callable[[], object] = lambda: None
        self.on_tick: Callable[[], object] = lambda: None
        self._waits: list[tuple[Callable[[], bool], anyio.Event]] = []
        watch, transition = self, ModelActor.transition

        def watched(actor: ModelActor, state: State, event: Message) -> tuple[State, Sequence[Effect]]:
            after, effects = transition(actor, state, event)
            watch._take_in(actor.name.removeprefix("model:"), state, after)
            return after, effects

        class WatchedWorker(Worker):
            def __init__(self, *args: Any, **more: Any) -> None:
                super().__init__(*args, **more)
                model_id = args[5].removeprefix("erllama-")
                watch.workers[model_id] = self
                watch._engines[model_id] = args[6].__self__  # it posts through the thread

            def tick(self) -> None:
                super().tick()
                watch.ticks += 1
                # A recurrent state is one cell, whatever it has seen.
                watch.wrong += wrong_in_ticks(self, self._facts.n_ctx)
                watch.on_tick()

            def _park(self, running: Any) -> None:
                super()._park(running)
                if running.job.request_id in self._parked:  # all of it is copied out
                    watch.on_park()

            def do(self, job: Any) -> None:
                if isinstance(job, Read):
                    job.do(self)
                else:
                    super().do(job)

        monkeypatch.setattr(ModelActor, "transition", watched)
        monkeypatch.setattr(run, "Worker", WatchedWorker)

    def _take_in(self, model_id: str, before: State, after: State) -> None:
        self.states[model_id] = after
        self.wrong += wrong_in_books(after)
        worker = self.workers.get(model_id)
        for request_id, one in stages.requests(after).items():
            if isinstance(one, Parked) and isinstance(before.find(request_id), Parking):
                self.parks.append(request_id)
            on_thread = worker._running.get(request_id) if worker is not None else None
            if isinstance(one, Working) and on_thread is not None and on_thread.limit > one.allocation.limit:
                limit = one.allocation.limit
                self.wrong.append(f"request {request_id} was given {on_thread.limit}; the books say {limit}")
        self.see(model_id, after)
        for wait in list(self._waits):
            condition, held = wait
            if condition():
                self._waits.remove(wait)
                held.set()

    async def once(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds after some transition, be it for that moment only; fails rather than hangs."""
        if not condition():
            self._waits.append((condition, held := anyio.Event()))
            with anyio.fail_after(GUARD_SECONDS):
                await held.wait()

    def request(self, request_id: int, model_id: str = "m") -> Open | None:
        """What the machine knows of a request; None when it is over."""
        return self.states[model_id].find(request_id)

    def ids(self, model_id: str = "m") -> list[int]:
        """All requests of a model, in the order in which they came."""
        return list(stages.requests(self.states[model_id]))

    def stages(self, model_id: str = "m") -> list[str]:
        """Of all requests of a model, in the order in which they came."""
        return stages.stages(self.states[model_id]) if model_id in self.states else []

    async def at_rest(self, model_id: str = "m") -> None:
        """Wait until nothing is under way; then the books and the cells must say the same."""
        while not self.wrong:
            await self.once(lambda: bool(self.wrong) or not self.is_busy(model_id))
            state = self.states[model_id]
            if model_id not in self._engines:  # its cells are in another process
                break
            held = await self._read(model_id, len(state.slots))
            if self.states[model_id] is state:
                self.wrong += wrong_at_rest(state, held)
                break
        if self.wrong:
            raise AssertionError("\n".join(self.wrong[:10]))

    def is_busy(self, model_id: str) -> bool:
        """Whether requests are left, or anything of them."""
        state = self.states[model_id]
        return any((state.placed, state.parked, state.queue, state.copies, state.save_alls, state.saving))

    async def _read(self, model_id: str, sequences: int) -> Held:
        read: Any = Read(sequences)
        self._engines[model_id].submit(read)
        with anyio.fail_after(GUARD_SECONDS):
            held: Held = await read.held
        return held


def wrong_at_rest(state: State, held: Held) -> list[str]:
    """Where the books of a model differ from its cells."""
    wrong = [held.at_work] if held.at_work else []
    for slot, length in zip(state.slots, held.lengths, strict=True):
        if length != slot.length:
            wrong.append(f"sequence {slot.seq_id} holds {length}, by the books {slot.length}")
    booked = count(slot.pieces for slot in state.slots)
    # Only full attention has a cell for each token.
    if held.cells is not None and (held.cells > booked or (state.limits.memory == "full" and held.cells < booked)):
        wrong.append(f"{held.cells} cells are used, by the books {booked}")
    return wrong
