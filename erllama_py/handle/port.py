"""The port through which handles, sessions and streams reach one model: waits until its actor can take a request, then
talks to it by name. What a request itself goes through is in `caller`.

Nothing here outlives its call.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Literal, TypeVar

import anyio
import anyio.lowlevel
import msgspec

from erllama_py.actors import ActorEnded, ActorError, ActorRef, Names, Raised, text_of
from erllama_py.cache.client import CacheClient
from erllama_py.cache.keys import Identity, fold_salt
from erllama_py.chat.dialect import Dialect
from erllama_py.chat.template import ChatTemplate
from erllama_py.engine.backend import Vocabulary
from erllama_py.errors import EmbeddingOnly, ModelCrashed, ModelNotLoaded, TokenizerOnly
from erllama_py.handle.reading import is_one_token
from erllama_py.model.blame import report_of
from erllama_py.model.board import ModelBoard, OpenCall
from erllama_py.options.request import RequestOptions
from erllama_py.scheduler.messages import EndSession, FaultPlace, InjectFault, Message, SaveAll, actor_name
from erllama_py.watch.log import get_logger

# Longer texts (in characters) and token lists are worked on by a worker thread: a hop to one and back takes
# about 0.1 ms, and tokenizing this many characters of English with SmolLM2 about 1 ms.
INLINE_LENGTH = 4_000

T = TypeVar("T")
_tickets = itertools.count(1)  # unique in the process, so that a late cancel never hits another request


class Port:
    """See the module. `unload` is its runtime's way to end the model."""

    def __init__(self, board: ModelBoard, names: Names, unload: Callable[[ModelBoard], Awaitable[None]]) -> None:
        self.board = board
        self.cache = CacheClient(names)
        self.home = names.home
        self.threads = names.home.threads
        self.check_loop = names.home.check  # called first, before anything of the model is waited for
        self._unload = unload

    @property
    def model_id(self) -> str:
        """The id that the model was loaded under."""
        return self.board.model_id

    def identity(self, options: RequestOptions, board: ModelBoard | None = None) -> Identity:
        """The identity of the rows that a request with these options may use, on the model's board or the companion's
        `board`."""
        identity, config = (board or self.board).identity, self.board.config
        assert identity is not None
        salted = fold_salt(identity.fingerprint, options.cache_salt or config.cache_salt)
        return msgspec.structs.replace(identity, fingerprint=salted)

    @property
    def _boards(self) -> list[ModelBoard]:
        """The model's, and that of its companion."""
        return [self.board] if self.board.companion is None else [self.board, self.board.companion]

    async def actor(self) -> ActorRef[Message]:
        """The actor, once it can take a request: while it crashes and comes back this waits for it."""
        self.check_loop()
        return await self.board.actor()

    async def use_vocabulary(self, use: Callable[[Vocabulary], T], length: int) -> T:
        """`use` the vocabulary of the running actor, on a worker thread when `length` says that it takes long: a caller
        that is cancelled, or whose deadline passes, does not wait for that."""
        while True:
            await self.actor()
            vocabulary = self.board.vocabulary
            assert vocabulary is not None
            try:
                if length <= INLINE_LENGTH:
                    return use(vocabulary)
                return await self.threads.abandon(use, vocabulary)
            except ModelNotLoaded:
                # The engine has closed it meanwhile. If that was a crash, the next one is being loaded.
                self.board.check()
                await anyio.lowlevel.checkpoint()

    async def template(self) -> ChatTemplate:
        """The chat template of the running model."""
        await self.actor()
        assert self.board.template is not None
        return self.board.template

    async def dialect(self, source: str | None) -> Dialect:
        """How the model thinks and calls tools, by the source of a chat template; None: without one."""
        dialects = self.board.dialects
        if (known := dialects.known(source)) is not None:
            return known

        def find(vocabulary: Vocabulary) -> Dialect:
            return dialects.of(source, partial(is_one_token, vocabulary))

        return await self.use_vocabulary(find, INLINE_LENGTH + 1)  # a template is parsed

    def cancel(self, request_id: int, why: Literal["cancelled", "deadline"] = "cancelled") -> None:
        """Finish a request with what it has, and its alternatives with it."""
        for call in self._calls(request_id):
            call.cancel(why)

    def end_thinking(self, request_id: int) -> None:
        """Close the thinking of a request, and that of its alternatives."""
        for call in self._calls(request_id):
            call.end_thinking()

    def _calls(self, request_id: int) -> list[OpenCall]:
        """A request and its alternatives, as far as they are not over."""
        self.check_loop()
        ids, calls = self.board.alternatives.get(request_id, (request_id,)), self.board.calls
        return [calls[one] for one in ids if one in calls]

    def end_session(self, session_id: str, options: RequestOptions) -> None:
        """Stop holding a session's sequence; a model that was never up holds none."""
        self.check_loop()
        for board in self._boards:
            if board.identity is not None and (ref := board.ref):
                ref.cast(EndSession((self.identity(options, board), session_id)), bounded=False)

    def inject_fault(self, where: FaultPlace) -> None:
        """Have the actor fail, if it is up."""
        self.check_loop()
        self.board.check()
        if ref := self.board.ref:
            ref.cast(InjectFault(where), urgent=True)

    async def save_all(self, reason: Literal["evict", "shutdown"]) -> None:
        """Have all that is not saved yet saved, and wait for it at most the policy's `evict_save_timeout_ms`."""
        # What had no actor is lost; what it saved is not.
        refs = [ref for board in self._boards if board.can_save and (ref := board.ref) is not None]
        with anyio.move_on_after(self.board.config.policy.evict_save_timeout_ms / 1000) as limit:
            for ref in refs:
                with contextlib.suppress(ActorError):
                    await ref.call(SaveAll(self.ticket(), reason))
        if limit.cancelled_caught:
            get_logger(model=self.model_id).warning("saving took too long and was left", reason=reason)

    async def unload(self) -> None:
        """Have the runtime end the model."""
        self.check_loop()
        await self._unload(self.board)

    def check_has_weights(self) -> None:
        """Raises `TokenizerOnly` where there is only a vocabulary."""
        if self.board.config.model_opts.vocab_only:
            raise TokenizerOnly(self.model_id)

    def check_generates(self) -> None:
        """Raises `TokenizerOnly` and `EmbeddingOnly` where it cannot."""
        self.check_has_weights()
        info = self.board.info
        if info is not None and not info.can_generate:
            raise EmbeddingOnly(self.model_id)

    def ticket(self) -> int:
        """An id for another request, which no other has."""
        return next(_tickets)


@contextlib.contextmanager
def caller_errors(board: ModelBoard) -> Iterator[None]:
    """Translate what a call of the model's actor may raise into what callers know; everything else passes."""
    try:
        yield
    except ActorEnded as ended:
        own = ended.name == actor_name(board.model_id)
        last = ended.last and own  # the end of a companion is not that of its model: the next request begins another
        if isinstance(ended.exit, Raised):
            error = ended.exit.error
            raise ModelCrashed(board.model_id, text_of(error), gave_up=last, report=report_of(error)) from error
        board.check()  # it was unloaded, or the runtime closed
        problem = "its task was cancelled from outside" if own else "the companion ended with it"
        # What is beside the engine ends by request where that has crashed: its end may be heard of first.
        raise ModelCrashed(board.model_id, problem, gave_up=last, report=None if own else board.last_crash) from ended
