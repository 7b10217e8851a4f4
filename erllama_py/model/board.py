"""What everybody may know of a model without asking it: one board per loaded id, for its whole life.

The actor writes, the handle and the probes read; both on the event loop, so no lock is needed and a probe
costs no message. The board outlives restarts of the actor. Its phases:

    loading ─▶ idle ⇄ prefilling ⇄ generating      any ─crash─▶ restarting ─▶ idle, or failed
    any ─unload─▶ unloaded
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import anyio

from erllama_py.actors import Exit, Raised, RestartLimitReached
from erllama_py.cache.keys import Identity
from erllama_py.chat.template import ChatTemplate
from erllama_py.engine.backend import ModelFacts, Vocabulary
from erllama_py.errors import ErllamaError, ModelCrashed, ModelNotLoaded
from erllama_py.options.model import ModelConfig
from erllama_py.results import CacheHit, LoadProgress, ModelInfo, Phase
from erllama_py.scheduler.state import State
from erllama_py.watch.log import get_logger

DOWN: tuple[Phase, ...] = ("loading", "restarting")


class ModelBoard:
    """The public state of one model id."""

    def __init__(
        self, model_id: str, config: ModelConfig, on_progress: Callable[[LoadProgress], object] | None
    ) -> None:
        self.model_id = model_id
        self.config = config
        self.on_progress = on_progress
        self.phase: Phase = "loading"
        self.pending = 0  # requests that wait
        self.active = 0  # requests that have a sequence
        self.state: State | None = None  # what its machine knows, while it is up
        self.restarts = 0
        self.threads_used = 0  # by its engine, of late
        self.last_hit: CacheHit | None = None
        self.info: ModelInfo | None = None
        self.facts: ModelFacts | None = None
        self.identity: Identity | None = None  # of what is saved without a salt
        self.vocabulary: Vocabulary | None = None
        self.template: ChatTemplate | None = None
        self.failure: BaseException | None = None
        self._gone: Callable[[], ErllamaError] | None = None
        self._changed = anyio.Event()

    def __repr__(self) -> str:
        return f"<ModelBoard {self.model_id!r} {self.phase}, {self.pending} pending, {self.restarts} restarts>"

    def progress(self, step: LoadProgress) -> None:
        """A step of a load; nothing is reported of a load that is over. A caller's mistake is logged, once."""
        if self.on_progress is None or self.phase not in DOWN:
            return
        try:
            self.on_progress(step)
        except Exception as error:
            self.on_progress = None
            get_logger(model=self.model_id).error("on_progress raised", error=repr(error))

    def ready(self, info: ModelInfo, facts: ModelFacts, vocabulary: Vocabulary) -> None:
        """The actor has loaded the model."""
        self.info, self.facts, self.vocabulary = info, facts, vocabulary
        self.threads_used = info.threads_used
        self.identity = Identity(bytes.fromhex(info.fingerprint), info.quant_bits, bytes.fromhex(info.ctx_params_hash))
        self.template = ChatTemplate(facts.chat_template, facts.bos_token, facts.eos_token)
        self.show("idle")

    def show(self, phase: Phase, pending: int = 0, active: int = 0) -> None:
        """What the actor is doing. A model that failed or was unloaded stays so."""
        if self._gone is not None:
            return
        changed = self.phase != phase
        self.phase, self.pending, self.active = phase, pending, active
        if changed:
            self._wake()

    def crashed(self, error: BaseException | None) -> None:
        """The actor is ending, and nobody asked for it; its supervisor decides whether it comes back."""
        if self.phase != "loading" and self._gone is None:
            self.restarts += 1
            self.failure = error
            self.state = None
            self.show("restarting")

    def ended(self, exit: Exit) -> None:
        """There will be no further incarnation: whoever waits for one is woken, whatever the reason."""
        if self._gone is not None:
            return
        if not isinstance(exit, Raised):
            self.close("unloaded", partial(ModelNotLoaded, self.model_id))
        else:
            error = exit.error
            self.failure = error.__cause__ if isinstance(error, RestartLimitReached) else error
            self.close("failed", partial(ModelCrashed, self.model_id, str(self.failure), gave_up=True))

    def close(self, phase: Phase, gone: Callable[[], ErllamaError]) -> None:
        """The end of this id: `"unloaded"`, or `"failed"` when its supervisor gave up.

        `gone` makes the error that every later request gets.
        """
        if self._gone is None or phase == "unloaded":
            self.phase, self._gone, self.vocabulary = phase, gone, None
            self.pending, self.active, self.state = 0, 0, None
            self._wake()

    def describe_threads(self) -> str | None:
        """A phrase for the tree."""
        if self.info is None or not self.is_up:
            return None
        return f"{self.threads_used} of {self.info.threads} thread{'s' if self.info.threads > 1 else ''}"

    def use_threads(self, count: int) -> None:
        """The engine computes with another number of threads."""
        self.threads_used = count

    def _wake(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    @property
    def is_closed(self) -> bool:
        """Whether its model is gone for good."""
        return self._gone is not None

    @property
    def is_up(self) -> bool:
        """Whether its actor works on requests now."""
        return self._gone is None and self.phase not in DOWN

    async def available(self) -> None:
        """Return once the model can take requests; wait while it loads or restarts.

        Raises what `close` was given: `ModelNotLoaded`, `RuntimeClosed` or `ModelCrashed`.
        """
        while self.phase in DOWN:
            await self._changed.wait()
        self.check()

    def check(self) -> None:
        """Raise the error that a request gets now, if the model is gone for good."""
        if self._gone is not None:
            raise self._gone() from self.failure
