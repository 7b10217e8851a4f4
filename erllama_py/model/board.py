"""The status of one load of a model, readable without a message: from `load_model` until its memory is free.

Written by its actors (what they do), its supervisor (how it has ended) and an unload (that it is to end); the phase,
and whether requests are taken, follow from these three. All of it is on the event loop, so a probe costs no message.

    loading ─▶ idle ⇄ prefilling ⇄ generating ⇄ hanging      any ─crash─▶ restarting ─▶ idle, or failed
    any ─unload─▶ unloaded
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

import anyio

from erllama_py.actors import ActorRef, Exit, Raised, RestartLimitReached, describe, text_of
from erllama_py.cache.keys import Identity
from erllama_py.chat.dialect import Dialects
from erllama_py.chat.template import ChatTemplate
from erllama_py.engine.backend import ModelFacts, Vocabulary
from erllama_py.engine.rates import Rates
from erllama_py.engine.rates import limits as limits_of_saving
from erllama_py.errors import ErllamaError, ModelCrashed, ModelLoadError, ModelNotLoaded
from erllama_py.model.loaded import Loaded
from erllama_py.model.tally import Tally
from erllama_py.model.trials import Trials
from erllama_py.options.model import ModelConfig
from erllama_py.results import CacheHit, CrashReport, LoadProgress, ModelInfo, Phase
from erllama_py.scheduler.messages import Message
from erllama_py.scheduler.state import State
from erllama_py.watch.log import get_logger

if TYPE_CHECKING:
    from erllama_py.engine.process.spare import SpareSlot

Engine = Literal["own", "companion", "embedder", "ranker"]
"""What computes of a model: its own engine, and what uses the same weights."""


class Beside(Protocol):
    """Something with a context of its own over a model's weights."""

    async def end(self) -> None:
        """End it, and return when it has let go of the weights, however long that takes."""

    @property
    def hangs(self) -> bool:
        """Whether it is in a decode that takes far longer than those before it."""

    @property
    def calls(self) -> int:
        """How many wait for it."""


class OpenCall(Protocol):
    """A request that is not over, on its caller's side."""

    def cancel(self, why: Literal["cancelled", "deadline"] = "cancelled") -> None:
        """Finish it with what it has."""

    def end_thinking(self) -> None:
        """Close the thinking that it is in, or is to begin in."""


class ModelBoard:
    """The public state of one load. Another load of the same id has a board of its own.

    A companion has one too: `lender` is that of its model, `grid` what its slices end on.
    """

    def __init__(
        self, model_id: str, config: ModelConfig, on_progress: Callable[[LoadProgress], object] | None, *,
        lender: ModelBoard | None = None, grid: int | None = None,
    ) -> None:  # fmt: skip
        self.model_id = model_id
        self.config = config
        self.lender, self.grid = lender, grid
        self.lent: Loaded | None = None  # what a companion begins with, while the model is up
        self.companion: ModelBoard | None = None
        self.end_companion: Callable[[], Awaitable[None]] | None = None
        self.beside: list[Beside] = []  # what else uses the weights of its engine, and ends before it
        self.on_progress = on_progress
        self.restarts = 0
        self.spare: SpareSlot | None = None  # what it comes back in, where it is to have that
        self.pid: int | None = None  # the process of its engine, while it has one
        self.last_crash: CrashReport | None = None
        self.crashed_rows = Counter[bytes]()  # by key: ends of its engine in a row that was not put back since
        self.tally: Tally = Tally() if lender is None else lender.tally  # what it has done, its companion included
        self.threads_used = 0  # by the last decodes of its engine
        self.last_hit: CacheHit | None = None
        self.info: ModelInfo | None = None
        self.facts: ModelFacts | None = None
        self.identity: Identity | None = None  # of what is saved without a salt
        self.vocabulary: Vocabulary | None = None
        self.template: ChatTemplate | None = None
        self.dialects = Dialects(config.tool_format)
        # The ids of requests that are replies to one call, by that of the first, while it is under way.
        self.alternatives: dict[int, tuple[int, ...]] = {}
        self.calls: dict[int, OpenCall] = {}  # requests that are not over, its companion's too
        self.between: set[int] = set()  # the ids of those whose actor has crashed, until another has them
        self._trials: dict[Engine, Trials] = {}
        self._ref: ActorRef[Message] | None = None
        self._ready = False  # whether that actor is
        self._state: State | None = None
        self._overdue: float | None = None
        self.save_limits: str | None = None  # what is not saved, because copying takes too long
        self._failure: BaseException | None = None  # why its supervisor gave it up
        self._closed: Callable[[], ErllamaError] | None = None
        self._changed = anyio.Event()

    def __repr__(self) -> str:
        return f"<ModelBoard {self.model_id!r} {self.phase}, {self.pending} pending, {self.restarts} restarts>"

    # --- written by the actor ----------------------------------------------------------------------------------

    def begins(self, ref: ActorRef[Message]) -> None:
        """A new actor loads the model. Each after the first is a restart: so the tree counts them too."""
        self.restarts += self._ref is not None
        self._ref, self._ready, self._overdue, self.save_limits = ref, False, None, None

    def progress(self, step: LoadProgress) -> None:
        """A step of a load; nothing is reported of a load that is over. If the callback raises, that is logged, and it
        is not called again."""
        if self.on_progress is None or self.phase not in ("loading", "restarting"):
            return
        try:
            self.on_progress(step)
        except Exception as error:
            self.on_progress = None
            get_logger(model=self.model_id).error("on_progress raised", error=describe(error))

    def ready(self, info: ModelInfo, facts: ModelFacts, vocabulary: Vocabulary, state: State) -> None:
        """The actor has loaded the model."""
        self.info, self.facts, self.vocabulary = info, facts, vocabulary
        self.threads_used = info.threads_used
        self.identity = Identity(bytes.fromhex(info.fingerprint), info.quant_bits, bytes.fromhex(info.ctx_params_hash))
        self.template = ChatTemplate(facts.chat_template, facts.bos_token, facts.eos_token, named=facts.chat_templates)
        self._ready = True
        self.show(state)
        self._wake()

    def lends(self, loaded: Loaded) -> None:
        """A companion can use the weights of this actor's engine."""
        self.lent = loaded

    def show(self, state: State) -> None:
        """What the actor's machine knows now."""
        self._state, self.last_hit = state, state.last_hit

    def use_threads(self, count: int) -> None:
        """The engine computes with another number of threads."""
        self.threads_used = count

    def watch(self, overdue: float | None) -> None:
        """For how many seconds a decode has run that takes far longer than those before it; None where none does."""
        if (overdue is None) != (self._overdue is None):
            log = get_logger(model=self.model_id)
            if overdue is not None:
                log.warning("a decode takes far longer than those before it", seconds=round(overdue, 1))
            else:
                log.info("the decode that took far longer than those before it has ended")
        self._overdue = overdue

    def saving(self, rates: Rates) -> None:
        """What copies of its engine take now; a change of what is saved is logged."""
        limits = limits_of_saving(rates)
        before, self.save_limits = self.save_limits, limits
        if _kind(before) != _kind(limits):
            log = get_logger(model=self.model_id)
            if limits is None:
                log.info("everything is saved again: copying has become fast enough")
            else:
                log.warning("saving would take longer than it is worth", saved=limits)

    def ends(self) -> None:
        """The actor is ending. If that was not requested, its supervisor decides whether there will be another."""
        self.lent = None

    # --- written by others -------------------------------------------------------------------------------------

    def ended(self, exit: Exit) -> None:
        """By its supervisor: there will be no further actor."""
        if isinstance(exit, Raised):
            failure = exit.error
            self._end_spare()
            self._failure = failure.__cause__ or failure if isinstance(failure, RestartLimitReached) else failure
            self.vocabulary = None
            self._wake()
        else:
            self.close(partial(ModelNotLoaded, self.model_id))

    def close(self, gone: Callable[[], ErllamaError]) -> None:
        """By an unload or the end of the runtime. `gone` makes the error that every later request gets."""
        self._closed, self.vocabulary = self._closed or gone, None
        self._end_spare()
        self._wake()

    def _end_spare(self) -> None:
        if self.spare is not None:
            self.spare.close()

    async def spare_ended(self) -> None:
        """Wait until nothing is left of its spare process, once there will be no further actor."""
        if self.spare is not None:
            await self.spare.ended()

    def accompany(self, companion: ModelBoard | None, end: Callable[[], Awaitable[None]] | None) -> None:
        """It has a companion now, or none. `end` ends it, and returns when it has let go of the weights."""
        self.companion, self.end_companion = companion, end

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    # --- read by all -------------------------------------------------------------------------------------------

    @property
    def ref(self) -> ActorRef[Message] | None:
        """The current actor, also while it loads or is to end; never that of a later load."""
        return self._ref if self._ref is not None and self._ref.exit is None else None

    @property
    def is_up(self) -> bool:
        """Whether its actor works on requests now."""
        return self._ready and self.ref is not None and not self.is_closed

    @property
    def hangs(self) -> bool:
        """Whether its engine is in a decode that takes far longer than those before it."""
        return self._overdue is not None

    @property
    def can_save(self) -> bool:
        """Whether its engine would copy out what it holds, also when it is to end."""
        return self._ready and self.ref is not None and not self.hangs

    @property
    def spare_pid(self) -> int | None:
        """The process that stands ready for after a crash."""
        return None if self.spare is None else self.spare.pid

    @property
    def is_closed(self) -> bool:
        """Whether its model is gone for good."""
        return self._closed is not None or self._failure is not None

    @property
    def is_unloaded(self) -> bool:
        """Whether it was unloaded, or ended together with its supervisor."""
        return self._closed is not None

    @property
    def state(self) -> State | None:
        """What its machine knows, while it is up."""
        return self._state if self.is_up else None

    @property
    def last_state(self) -> State | None:
        """What the machine of its last actor knew last."""
        return self._state

    def trials(self, engine: Engine) -> Trials:
        """Of what crashes together with one of its engines."""
        together: Engine = "own" if self.config.isolation == "process" else engine
        return self._trials.setdefault(together, Trials())

    @property
    def phase(self) -> Phase:
        """What the model is doing."""
        if self._closed is not None:
            return "unloaded"
        if self._failure is not None:
            return "failed"
        if self.state is None:
            return "loading" if self.info is None else "restarting"
        if self.hangs or (self.companion is not None and self.companion.is_up and self.companion.hangs):
            return "hanging"
        if any(one.hangs for one in self.beside):
            return "hanging"
        busy = next((state.phase for state in self.states if state.phase != "idle"), None)
        if busy is None and self.embedding:
            return "prefilling"
        return self.state.phase if busy is None else busy

    @property
    def pending(self) -> int:
        """Requests that wait."""
        return sum(state.pending for state in self.states) + len(self.between)

    @property
    def active(self) -> int:
        """Requests that have a sequence."""
        return sum(len(state.placed) for state in self.states)

    @property
    def embedding(self) -> int:
        """Calls of `embed` and `rerank` that are not answered yet."""
        return sum(one.calls for one in self.beside)

    @property
    def companion_bytes(self) -> int:
        """Bytes of the KV cells of its companion; 0 where it has none that is up."""
        info = self.companion.info if self.companion is not None and self.companion.is_up else None
        return 0 if info is None else info.memory_estimate - info.size

    @property
    def states(self) -> list[State]:
        """What its machine knows, and that of its companion."""
        states = (self.state, None if self.companion is None else self.companion.state)
        return [state for state in states if state is not None]

    def describe(self) -> str | None:
        """A phrase for the tree."""
        if self.info is None or not self.is_up:
            return None
        threads = f"{self.threads_used} of {self.info.threads} thread{'s' if self.info.threads > 1 else ''}"
        where = f"process {self.pid}, " if self.config.isolation == "process" and self.pid is not None else ""
        spare = "" if self.spare_pid is None else f"spare {self.spare_pid}, "
        hangs = "" if self._overdue is None else f", a decode hangs for {self._overdue:.0f} s"
        return f"{where}{spare}{threads}{hangs}"

    async def actor(self) -> ActorRef[Message]:
        """The actor, once it can take a request; waits while the model loads or restarts. Raises as `check` does."""
        while True:
            self.check()
            if self.is_up and self._ref is not None:
                return self._ref
            await self._changed.wait()

    def check(self) -> None:
        """Raise the error that a request gets now, if the model is gone for good.

        A first load that has failed: its own error. Else what `close` was given, or `ModelCrashed` where its supervisor
        gave up.
        """
        failure = self._failure
        if self.info is None and failure is not None:
            raise self.load_error(failure)
        if self._closed is not None:
            raise self._closed() from failure
        if failure is not None:
            raise ModelCrashed(self.model_id, text_of(failure), gave_up=True, report=self.last_crash) from failure

    def load_error(self, failure: BaseException) -> ErllamaError:
        """A new error for what a load has failed with, which may be something of the backend's."""
        error: ErllamaError
        if isinstance(failure, ErllamaError):
            error = copy.copy(failure)
            error.__cause__ = failure.__cause__
        else:
            error = ModelLoadError(str(self.config.model_path or "a model"), text_of(failure))
            error.__cause__ = failure
        return error


def _kind(limits: str | None) -> str | None:
    """What is saved, without the times that it depends on."""
    return None if limits is None else limits.partition(":")[0]
