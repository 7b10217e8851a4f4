"""`Keeper`: the models of a configuration, loaded when requests want them and unloaded as `plan` says.

Owns a holding for each model, and one timer. Whatever happens (a request comes or ends, a load or an unload ends, time
passes) it plans again and acts. A load belongs to no request: it goes on where all who waited for it have left; one
that has not begun then is not begun. A model whose load failed is not tried again for a while: requests for it fail at
once, with what was wrong with it in the log.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Protocol

import msgspec

import erllama_py as erllama
from erllama_py.serve.config import ServedModel
from erllama_py.serve.core.amounts import KeepAlive
from erllama_py.serve.core.logs import NAME
from erllama_py.serve.core.problems import Problem, shutting_down
from erllama_py.serve.core.served import Lease, ServedState, with_end
from erllama_py.serve.demand.backoff import MOST_SECONDS
from erllama_py.serve.demand.facts import format_of
from erllama_py.serve.demand.holding import Failure, Holding, Stay
from erllama_py.serve.demand.moves import Load, Moves, load_model
from erllama_py.serve.demand.plan import Place, making_room, plan
from erllama_py.serve.demand.refusals import failed, no_room, not_served, waited
from erllama_py.watch.log import get_logger


class Timer(Protocol):
    """What is to be called later."""

    def cancel(self) -> None:
        """Or not."""


class Clock(Protocol):
    """What a keeper uses of an event loop."""

    def time(self) -> float:
        """Seconds."""

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        """Call something then."""


class Keeper:
    """See the module, and `Served`. A request waits at most `wait_seconds` for its model."""

    def __init__(
        self, runtime: erllama.Runtime, models: Iterable[ServedModel], keep_alive: KeepAlive, wait_seconds: float,
        clock: Clock | None = None,
    ) -> None:  # fmt: skip
        self.wait_seconds = wait_seconds
        self.budget: int | None = None
        self.reserved = 0
        self.clock = clock
        self._runtime = runtime
        self._holdings = {model.name: Holding(model, model.stays(keep_alive)) for model in models}
        self._held = frozenset[str]()
        self._moves = Moves(runtime, self._now, self._ended, self._make_room)
        self.loader: Load = load_model
        """What loads a model."""
        self._timer: Timer | None = None
        self._opened = self._started = self._closed = False

    def __iter__(self) -> Iterator[Holding]:
        """Those that are served."""
        return (one for one in self._holdings.values() if not one.removed)

    @property
    def is_ready(self) -> bool:
        """Whether all that was to be there from the start has been."""
        return self._started

    def taken(self, names: Collection[str] | None = None) -> int:
        """Bytes that models take, those that are being loaded or unloaded among them; of some, where they are named."""
        among = (one for one in self._holdings.values() if names is None or one.name in names)
        return sum(one.taken for one in among if one.where != "out")

    def models(self) -> dict[str, ServedModel]:
        """Those that are served by name: as they are, or as they are to come back."""
        return {one.name: one.next or one.model for one in self}

    # --- what requests ask: see `Served` ---------------------------------------------------------------------------

    def infos(self) -> list[erllama.ModelInfo]:
        """See `Served`."""
        loaded = {info.id: info for info in self._runtime.list_models()}
        return [_info(one, loaded) for one in self if not self._is_due(one)]

    def chat_format(self, model_id: str) -> erllama.ChatFormat | None:
        """See `Served`."""
        one = self._holding(model_id)
        return None if one.where == "in" else format_of(one.model)

    def missing(self) -> list[str]:
        """See `Served`."""
        return [one.name for one in self if self._is_due(one)]

    def state(self) -> ServedState:
        """See `Served`."""
        loaded = {info.id: info for info in self._runtime.list_models()}
        now = self._now()
        return ServedState(
            models=tuple(
                with_end(one.state(_info(one, loaded), now, time.time() - now), self._runtime) for one in self
            ),
            budget_bytes=self.budget, reserved_bytes=self.reserved, used_bytes=self.taken(),
        )  # fmt: skip

    def try_lease(self, model_id: str) -> Lease | None:
        """See `Served`."""
        one = self._holdings.get(model_id)
        if one is None or one.where != "in" or one.ending or model_id in self._held:
            return None
        return self._lend(one)

    async def lease(self, model_id: str) -> Lease:
        """See `Served`."""
        one = self._holding(model_id)
        try:
            async with asyncio.timeout(self.wait_seconds) as limit:
                return await self._wait(one)
        except TimeoutError:
            if not limit.expired():
                raise
            busy = sum(other.open > 0 for other in self._holdings.values() if other is not one)
            raise waited(self.wait_seconds, busy) from None

    def keep(self, model_id: str, seconds: float | None) -> bool:
        """See `Served`; one that is pinned stays as it is."""
        if self._holding(model_id).model.pinned:
            return False
        self._ask(model_id, seconds)
        return True

    # --- what operators and the application ask --------------------------------------------------------------------

    async def open(self, budget: int | None, reserved: int = 0, load: Load | None = None) -> None:
        """Serve the models within a budget of bytes, of which `reserved` are not for models, and load those that are to
        be there from the start, one after the other, by `load` where it is given. Raises what loads raise."""
        self.clock = self.clock or asyncio.get_running_loop()
        self.budget, self.reserved = budget, reserved
        later, self.loader = self.loader, load or self.loader
        self._opened = True
        for one in [one for one in self if one.model.load == "start"]:
            await self.load(one.name)
        self.loader, self._started = later, True

    async def load(self, model_id: str) -> None:
        """Have a model loaded, however long it takes; one that crashed too often is loaded anew. Raises `Problem`, and
        what its load raises."""
        one = self._holding(model_id)
        if one.where == "in" and self._is_given_up(one):
            self.unload(model_id)
        try:
            (self.try_lease(model_id) or await self._wait(one)).release()
        except Problem:
            if one.failure is not None:
                raise one.failure.error from None
            raise

    def unload(self, model_id: str) -> None:
        """Have a model unloaded as soon as nobody has it, pinned or not. Requests that come meanwhile wait, and load it
        again."""
        one = self._holding(model_id)
        one.leaves = one.where in ("in", "loading")
        self._step()

    async def close(self) -> None:
        """Load nothing any more, and wait for what is being unloaded; the end of the runtime unloads the rest."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for one in self._holdings.values():
            _fail(one, shutting_down)
        await self._moves.close()

    # --- a changed configuration -----------------------------------------------------------------------------------

    def configure(self, models: Iterable[ServedModel], keep_alive: KeepAlive, replaced: Iterable[str]) -> None:
        """Serve these models: new ones are loaded when they are wanted, or at once where they are to be there from the
        start; those that are not among them go; those that are `replaced` go and come back as they are now. Whatever
        goes does so once nobody has it."""
        replaced, before = frozenset(replaced), self._holdings
        self._holdings = {}
        for model in models:
            one = before.pop(model.name, None) or Holding(model, None)
            self._holdings[model.name] = one
            one.configured = Stay(model.stays(keep_alive))
            is_new = one.removed or one.model.load != "start" or not one.loads
            if one.where == "out":
                one.become(model)
                if model.load != "start":
                    one.wanted_since = None
                elif is_new and one.wanted_since is None:
                    one.wanted_since = self._now()
            elif model.name in replaced or one.ending == "changed":
                one.next, one.removed = model, False
            else:
                if model.pinned and not one.model.pinned:
                    one.asked = Stay(None)  # what a request said before holds no more
                one.model = model
        for name, one in before.items():
            _fail(one, not_served)
            one.removed, one.wanted_since = True, None
            if one.where != "out":
                self._holdings[name] = one
        self._step()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _now(self) -> float:
        return 0.0 if self.clock is None else self.clock.time()

    def _is_due(self, one: Holding) -> bool:
        """Whether the server is not ready without it. What a changed configuration adds is no such model: requests for
        it wait, as for one on demand."""
        return not self._started and not (self._opened and (one.model.load == "demand" or bool(one.loads)))

    def _holding(self, model_id: str) -> Holding:
        one = self._holdings.get(model_id)
        if one is None or one.removed:
            raise not_served()
        return one

    def _ask(self, model_id: str, seconds: float | None) -> None:
        one = self._holding(model_id)
        if one.where in ("in", "loading"):
            one.asked = Stay(seconds, asked=True)
            self._step()

    def _lend(self, one: Holding) -> Lease:
        one.open += 1
        one.was_used = True
        one.last_used = self._now()
        return Lease(one.name, lambda: self._give_back(one))

    def _give_back(self, one: Holding) -> None:
        one.open -= 1
        one.idle_since = self._now()
        if changes := not one.ending and self._has_ended(one):
            one.leaves = True
        elif changes := one.model.load == "demand" and not one.given_up and self._is_given_up(one):
            one.given_up = True  # one of the start stays as it is: the server's health says so
        if changes or not one.open:  # else the plan is as it was, and each of a thousand requests would make it again
            self._step()

    def _has_ended(self, one: Holding) -> bool:
        """Whether a model is not in the runtime any more, though nobody has asked the keeper: it was unloaded there."""
        try:
            self._runtime.model(one.name)
        except erllama.ModelNotLoaded:
            return one.where == "in"
        except erllama.ErllamaError:  # the runtime has ended
            pass
        return False

    def _is_given_up(self, one: Holding) -> bool:
        """Whether a model crashed too often, so that its supervisor does not restart it."""
        try:
            return self._runtime.model(one.name).phase == "failed"
        except erllama.ErllamaError:
            return False

    async def _wait(self, one: Holding) -> Lease:
        """A hold on a model, in its turn. Raises `Problem`."""
        if self._closed:
            raise shutting_down()
        if one.failure is not None and one.where == "out" and one.failure.until > self._now():
            raise failed(one.failure, self._now())
        waiter: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        one.wait(waiter, self._now())
        if len(one.waiters) == 1:
            self._step()
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                waiter.result().release()  # it was given in the same turn of the loop
            raise
        finally:
            if one.leave(waiter):
                self._step()

    def _ended(self, one: Holding) -> None:
        """A load or an unload is over."""
        if one.where == "out":
            if one.removed:
                self._holdings.pop(one.name, None)
            elif one.next is not None:
                one.become(one.next)
                one.wanted_since = self._now() if one.model.load == "start" else None
            elif one.given_up:
                error = erllama.ModelCrashed(one.name, "too often", gave_up=True)
                one.failure, one.given_up = Failure(error, 1, self._now() + MOST_SECONDS), False
            if one.failure is not None:
                failure = one.failure
                _fail(one, lambda: failed(failure, self._now()))
        elif one.ending == "asked":
            self._serve(one)  # they asked before the operator did
        self._step()

    def _make_room(self, lacking: int) -> bool:
        """Have models unloaded for one that is loaded, if that would do, though the budget has room for all."""
        names = making_room(self._places(), lacking)
        for name in names or ():
            self._moves.unload(self._holdings[name], "memory")
        return names is not None

    def _places(self) -> list[Place]:
        return [one.place() for one in self._holdings.values()]

    def _step(self) -> None:
        """Plan, and act."""
        if self._closed or not self._opened:
            return
        room = None if self.budget is None else self.budget - self.reserved
        made = plan(self._places(), room, self._now())
        self._held = made.held
        for name in made.never:
            if self._holdings[name].wanted_since is not None:
                get_logger(NAME).error("a model does not fit beside those that stay loaded", model=name)
            self._holdings[name].wanted_since = None
            _fail(self._holdings[name], no_room)
        for name, why in made.unload:
            self._moves.unload(self._holdings[name], why)
        for name in made.load:
            self._moves.load(self._holdings[name], self.loader, quiet=self._is_due(self._holdings[name]))
        for one in self._holdings.values():
            if one.where == "in" and one.name not in made.held:
                self._serve(one)
        self._look_again(made.wake_at)

    def _serve(self, one: Holding) -> None:
        """Give a model to all who wait for it."""
        for waiter in one.answered():
            waiter.set_result(self._lend(one))

    def _look_again(self, at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        assert self.clock is not None
        self._timer = None if at is None else self.clock.call_at(at, self._step)


def _info(one: Holding, loaded: dict[str, erllama.ModelInfo]) -> erllama.ModelInfo:
    """What is known of a model, loaded or not."""
    if one.where == "in" and one.name in loaded:
        return loaded[one.name]
    return msgspec.structs.replace(one.info, phase="loading" if one.where == "loading" else "unloaded", pending=0)


def _fail(one: Holding, problem: Callable[[], Problem]) -> None:
    """Answer all who wait for a model."""
    for waiter in one.answered():
        waiter.set_exception(problem())
