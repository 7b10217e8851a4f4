"""The embedders of a runtime's models: begun by the first call, given back when none has come for a while.

An embedder is a child beside its model, and never restarted by itself: after a crash the next call begins a new one. It
belongs to one run of its model's actor, which ends it before its own engine, so that nothing outlives the weights.
Calls hold it; when the last lets go of it the time runs. A model has one that embeds, and one that ranks if it can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from erllama_py.actors import (
    ActorEnded,
    ActorRef,
    ChildSpec,
    Clock,
    DynamicSupervisor,
    SupervisorClosed,
)
from erllama_py.engine.embedding import EmbedderFacts, EmbedderOpts
from erllama_py.engine.heartbeat import Heart
from erllama_py.errors import ErllamaError, ModelCrashed, ModelNotLoaded
from erllama_py.model.blame import Deaths
from erllama_py.model.board import ModelBoard
from erllama_py.model.companion import companion_threads
from erllama_py.model.embedder import EMBEDDER, RANKER, EmbedderActor, Message
from erllama_py.model.lodger import Lodger


def name_of(model: ModelBoard, ranks: bool) -> str:
    """The name of the embedder of a model, or of what ranks for it."""
    return f"{RANKER if ranks else EMBEDDER}{model.model_id}"


class Place(Lodger):
    """One of them. A `Beside` of its model."""

    def __init__(self, model: ModelBoard, opts: EmbedderOpts) -> None:
        super().__init__(model)
        self.opts, self.heart = opts, Heart()
        self.actor: EmbedderActor | None = None
        self.is_ending = False

    def __repr__(self) -> str:
        return f"<Place of {self.name!r}, {self.calls} calls>"

    @property
    def name(self) -> str:
        """The name under which its actor is registered, and that it has in the tree."""
        return name_of(self.model, self.opts.ranks)

    @property
    def hangs(self) -> bool:
        """Whether it is in a decode that takes far longer than those before it."""
        return self.heart.overdue() is not None

    @property
    def is_over(self) -> bool:
        """See `Lodger`."""
        ref = None if self.actor is None else getattr(self.actor, "ref", None)
        return self.is_ending or self.keeper.ended.done() or (ref is not None and ref.exit is not None)

    @property
    def ref(self) -> ActorRef[Message]:
        """The actor, once it has started."""
        assert self.actor is not None
        return self.actor.ref

    @property
    def facts(self) -> EmbedderFacts:
        """The sizes of its context, once it has started."""
        assert self.actor is not None
        return self.actor.facts

    @property
    def at_work(self) -> frozenset[int]:
        """The ids of the calls that it computes, or computed last."""
        return frozenset() if self.actor is None else self.actor.at_work

    def describe(self) -> str | None:
        """A phrase for the tree."""
        overdue = self.heart.overdue()
        threads = f"{self.opts.threads} thread{'s' if self.opts.threads > 1 else ''}"
        return threads if overdue is None else f"{threads}, a decode hangs for {overdue:.0f} s"

    def make(self) -> EmbedderActor:
        """The actor. It is made in the model's time: the weights are those of the run that is up now."""
        lent = self.model.lent
        if lent is None:
            raise ModelNotLoaded(self.model.model_id)
        self.actor = EmbedderActor(self.model, lent, self.opts, self.heart)
        return self.actor

    async def end(self) -> None:
        """See `Lodger`."""
        self.is_ending = True
        await super().end()


class Embedders:
    """See the module. `branch` is as that of `Registry`; `child` describes the child of a place."""

    def __init__(
        self, branch: Callable[[], DynamicSupervisor], child: Callable[[Place], ChildSpec], clock: Clock
    ) -> None:
        self._branch, self._child, self._clock = branch, child, clock
        self._places: dict[str, Place] = {}  # by name: one that hangs outlives its model, and keeps the name

    def __len__(self) -> int:
        return len(self._places)

    async def hold(self, model: ModelBoard, ranks: bool) -> tuple[Place, Callable[[], None]]:
        """The embedder of a model, once it takes calls, and what lets go of it: to be called once.

        Waits while the model, or the embedder, loads. Raises what the making of its context raises, `ModelStuck` where
        the last one does not end, and as `ModelBoard.check` does when the model is gone.
        """
        deaths = Deaths(model)
        while True:
            await model.actor()
            deaths.begins()
            place = self._places.get(name_of(model, ranks))
            if place is None:
                place = self._begin(model, ranks)
            elif place.is_over or place.model is not model:
                await place.stopped()
                self._forget(place)
                continue
            let_go = place.hold(partial(self._give_back, place))
            try:
                await asyncio.wait((place.keeper.started,))
                error = place.keeper.started.result()
                if not deaths.met(error):
                    self._check_started(model, error)
            except BaseException:
                let_go()
                raise
            if error is None and not place.is_over:
                return place, let_go
            let_go()

    @staticmethod
    def _check_started(model: ModelBoard, error: BaseException | None) -> None:
        """Raise why it could not be made; not where its model was ending: then there will be another, or an error."""
        if error is None or isinstance(error, ActorEnded | SupervisorClosed | ModelNotLoaded | ModelCrashed):
            return
        if isinstance(error, ErllamaError):
            raise model.load_error(error)
        raise model.load_error(error) from error

    def _begin(self, model: ModelBoard, ranks: bool) -> Place:
        lent, facts = model.lent, model.facts
        assert lent is not None
        assert facts is not None
        choice = lent.prepared.threads
        # A model that cannot generate has no streams that need the other half of the CPUs.
        threads = choice.few if lent.prepared.facts.embeds_only else companion_threads(model.config, choice).many
        place = Place(model, EmbedderOpts(ranks=ranks, threads=threads))
        try:
            keeper = self._branch().begin_child(self._child(place))
        except SupervisorClosed:
            raise ModelNotLoaded(model.model_id) from None
        self._places[place.name] = place
        model.beside.append(place)
        place.begun(keeper, partial(self._forget, place))
        return place

    def _forget(self, place: Place) -> None:
        if self._places.get(place.name) is place:
            del self._places[place.name]
            place.model.beside.remove(place)

    async def _give_back(self, place: Place) -> None:
        await self._clock.sleep(place.model.config.scheduler.embed_idle_ms / 1000)
        place.is_ending = True
        await place.give_back()
