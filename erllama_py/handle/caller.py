"""The port through which handles, sessions and streams reach one model: waits until its actor can take a request, then
talks to it by name.

    begin: check the options ─▶ prepare the prompt ─▶ _submit ─▶ a reply to wait for
           └────────────── the deadline's clock runs ──────────────────────────────▶

Nothing here outlives its call.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Literal, TypeVar

import anyio
import anyio.lowlevel
import msgspec

from erllama_py.actors import ActorEnded, ActorError, ActorRef, Names, Raised, Reply, text_of
from erllama_py.cache.client import CacheClient
from erllama_py.cache.keys import Identity, fold_salt
from erllama_py.chat.dialect import Dialect
from erllama_py.chat.template import ChatTemplate
from erllama_py.engine.backend import Vocabulary
from erllama_py.errors import EmbeddingOnly, ModelCrashed, ModelNotLoaded, TokenizerOnly
from erllama_py.handle.alternatives import alternative, feed_of, joined, together
from erllama_py.handle.metering import payer
from erllama_py.handle.reading import asks_nothing, compiles, is_one_token, is_plain, plan_reply
from erllama_py.handle.replies import FinishedReply, Prepare, Prepared, ReplyPlan, keeps_of
from erllama_py.handle.token_options import asks_much, by_id, names_tokens
from erllama_py.handle.tool_list import tool_list
from erllama_py.handle.tracing import request_span
from erllama_py.model.board import ModelBoard
from erllama_py.model.embedders import Place
from erllama_py.model.request import capture_plan, make_request, too_late
from erllama_py.options.request import RequestOptions, parse_request_options
from erllama_py.results import Completion, EngineEvent
from erllama_py.scheduler.messages import (
    CancelRequest,
    EndSession,
    EndThinking,
    FaultPlace,
    Feed,
    InjectFault,
    Message,
    Request,
    SaveAll,
    Submit,
    actor_name,
)
from erllama_py.watch.log import get_logger
from erllama_py.watch.spans import Operation

# Longer texts (in characters) and token lists are worked on by a worker thread: a hop to one and back takes
# about 0.1 ms, and tokenizing this many characters of English with SmolLM2 about 1 ms.
INLINE_LENGTH = 4_000

# Structures of one model that are checked at the same time: one that takes long holds up other structures alone.
CHECKS = 2

HoldEmbedder = Callable[[ModelBoard, bool], Awaitable[tuple[Place, Callable[[], None]]]]
HoldCompanion = Callable[[ModelBoard], Awaitable[tuple[ModelBoard, Callable[[], None]]]]
T = TypeVar("T")
_tickets = itertools.count(1)  # unique in the process, so that a late cancel never hits another request


def _discard(event: EngineEvent) -> None:
    """Take the events of a request without a stream."""


class Caller:
    """One model as its callers see it; see the module.

    `unload` is its runtime's way to end it, `companion` to hold the one that computes reproducible requests, `embedder`
    that which computes embeddings.
    """

    def __init__(
        self, board: ModelBoard, names: Names, unload: Callable[[ModelBoard], Awaitable[None]],
        companion: HoldCompanion, embedder: HoldEmbedder,
    ) -> None:  # fmt: skip
        self.board = board
        self.cache = CacheClient(names)
        self.home = names.home
        self.threads = names.home.threads
        self.check_loop = names.home.check  # called first, before anything of the model is waited for
        self._unload, self._companion = unload, companion
        self.embedder = embedder
        self._checks = anyio.Semaphore(CHECKS)

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

    def cancel(self, request_id: int, why: Literal["cancelled", "deadline"] = "cancelled") -> None:
        """Finish a request with what it has, and its alternatives with it."""
        # Not urgent: it must not overtake the request that it cancels.
        for one in self.board.alternatives.get(request_id, (request_id,)):
            self.tell(CancelRequest(one, why))

    def end_thinking(self, request_id: int) -> None:
        """Close the thinking of a request, and that of its alternatives."""
        for one in self.board.alternatives.get(request_id, (request_id,)):
            self.tell(EndThinking(one))

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
                    await ref.call(SaveAll(next(_tickets), reason))
        if limit.cancelled_caught:
            get_logger(model=self.model_id).warning("saving took too long and was left", reason=reason)

    async def unload(self) -> None:
        """Have the runtime end the model."""
        self.check_loop()
        await self._unload(self.board)

    def tell(self, message: CancelRequest | EndThinking) -> None:
        """Send a message to the actor and the companion's, where they are there; never to those of a later model with
        the same id."""
        self.check_loop()
        for board in self._boards:
            if ref := board.ref:
                ref.cast(message, bounded=False)

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

    async def answer(self, prepare: Prepare, options: Mapping[str, object], operation: Operation) -> Completion:
        """`begin` without a stream, and the `result`."""
        _, reply = await self.begin(operation, prepare, options, None)
        return await self.result(reply)

    async def result(self, reply: Reply[Completion]) -> Completion:
        """The result of a request. Raises a `RequestError` or a `ModelUnavailable`."""
        with caller_errors(self.board):
            return await reply.wait()

    async def begin(
        self, operation: Operation, prepare: Prepare, options: Mapping[str, object], feed: Feed | None
    ) -> tuple[int, Reply[Completion]]:
        """Check the options, prepare the prompt and submit it; the request's id, and the reply to wait for.

        If the deadline passes before there is a request, the result is that of one that still waits in the queue.
        A `"prefill"` has no reply but what was saved.
        """
        translate, prefill_only, now = partial(caller_errors, self.board), operation == "prefill", time.monotonic()
        span = request_span(operation, self.model_id, translate, now, streams=feed is not None)
        if span is None:
            return await self._begin(prepare, options, feed, now, prefill_only)
        with span.beginning():
            request_id, reply = await self._begin(span.preparing(prepare), options, feed, now, prefill_only)
        span.follow(reply)
        return request_id, reply

    async def _begin(
        self, prepare: Prepare, options: Mapping[str, object], feed: Feed | None, now: float, prefill_only: bool
    ) -> tuple[int, Reply[Completion]]:
        self.check_loop()
        self.check_generates()
        loop = asyncio.get_running_loop()
        called, checked = loop.time(), parse_request_options(options)
        ends_at = None if checked.deadline is None else called + checked.deadline
        try:
            async with asyncio.timeout_at(ends_at) as timeout:
                if checked.tools is not None:
                    await self.actor()  # which is there as long as the threads are
                    checked = msgspec.structs.replace(checked, tools=await self.threads.run(tool_list, checked.tools))
                checked = await self._by_id(checked)
                prepared = await prepare(checked)
                plan = await self._plan(checked, prepared)
                if ends_at is not None and feed is None:
                    feed = _discard  # what has come so far must be known here when the deadline passes
                request_id, reply = await self._submit(prepared, plan, feed, now, prefill_only)
        except TimeoutError:
            if not timeout.expired():
                raise
            reply = Reply(self.model_id)
            late = too_late(checked, now, time.monotonic())
            reply.send(late if checked.n == 1 or prefill_only else together([late] * checked.n))
            return next(_tickets), reply
        if ends_at is not None:
            timer = loop.call_at(ends_at, self.cancel, request_id, "deadline")
            reply.on_settled(timer.cancel)
        return request_id, FinishedReply(reply, plan.finish) if plan.finish else reply

    async def _plan(self, checked: RequestOptions, prepared: Prepared) -> ReplyPlan:
        """How the reply is to be read. Raises `InvalidGrammar`."""
        free = ReplyPlan(checked, finish=() if prepared.finish is None else (prepared.finish,))
        if is_plain(checked, prepared):  # nothing is asked of other threads, so such requests keep their order
            return free
        source, config = prepared.template, self.board.config
        dialect = await self.dialect((await self.template()).source if source is None else source)
        if asks_nothing(checked, prepared, dialect, config):
            return free
        plan = partial(plan_reply, checked, prepared, dialect, config)
        if not compiles(checked):
            return await self.use_vocabulary(plan, INLINE_LENGTH + 1)
        async with self._checks:
            return await self.use_vocabulary(plan, INLINE_LENGTH + 1)

    async def dialect(self, source: str | None) -> Dialect:
        """How the model thinks and calls tools, by the source of a chat template; None: without one."""
        dialects = self.board.dialects
        if (known := dialects.known(source)) is not None:
            return known

        def find(vocabulary: Vocabulary) -> Dialect:
            return dialects.of(source, partial(is_one_token, vocabulary))

        return await self.use_vocabulary(find, INLINE_LENGTH + 1)  # a template is parsed

    async def _by_id(self, checked: RequestOptions) -> RequestOptions:
        """The options with every token by its id. Raises `InvalidOption`."""
        if checked.dry_multiplier > 0.0:
            async with self._checks:
                await self.use_vocabulary(partial(self._prepare, checked), INLINE_LENGTH + 1)
        if not names_tokens(checked):
            return checked
        length = sum(map(len, checked.stop_sequences))
        # On a worker thread: the first look for the tokens that end a reply takes long.
        return await self.use_vocabulary(partial(by_id, checked), INLINE_LENGTH + 1 if asks_much(checked) else length)

    def _prepare(self, checked: RequestOptions, vocabulary: Vocabulary) -> None:
        assert self.board.facts is not None
        vocabulary.prepare(checked, self.board.facts.n_ctx)

    async def _submit(
        self, prepared: Prepared, plan: ReplyPlan, feed: Feed | None, now: float, prefill_only: bool
    ) -> tuple[int, Reply[Completion]]:
        self.check_loop()
        if not plan.options.reproducible:
            return await self._submit_to(self.board, prepared, plan, feed, now, prefill_only)
        companion, let_go = await self._companion(self.board)
        try:
            request_id, reply = await self._submit_to(companion, prepared, plan, feed, now, prefill_only)
        except BaseException:
            let_go()
            raise
        reply.on_settled(let_go)
        return request_id, reply

    async def _submit_to(
        self, board: ModelBoard, prepared: Prepared, plan: ReplyPlan, feed: Feed | None, now: float, prefill_only: bool,
    ) -> tuple[int, Reply[Completion]]:  # fmt: skip
        ref = await board.actor()
        request = await self.request(board, prepared, plan, now, prefill_only=prefill_only)
        requests = [request]
        if not prefill_only:
            requests += [alternative(request, next(_tickets), index) for index in range(1, plan.options.n)]
        with caller_errors(self.board):  # the state machine counts those that wait, and not the mailbox
            replies = [
                ref.begin_call(Submit(one, plan.feed(feed_of(feed, index), index), payer()), bounded=False)
                for index, one in enumerate(requests)
            ]
        if len(replies) == 1:
            return request.id, replies[0]
        reply, group = joined(replies, self.model_id), self.board.alternatives
        group[request.id] = tuple(one.id for one in requests)
        reply.on_settled(partial(group.__delitem__, request.id))
        return request.id, reply

    def ticket(self) -> int:
        """An id for another request, which no other has."""
        return next(_tickets)

    async def submit(self, request: Request) -> Reply[Completion]:
        """Submit one request by itself, once the actor can take it; the reply to wait for."""
        ref = await self.actor()
        with caller_errors(self.board):
            return ref.begin_call(Submit(request, spend=payer()), bounded=False)

    async def request(
        self, board: ModelBoard, prepared: Prepared, plan: ReplyPlan, now: float, *, prefill_only: bool
    ) -> Request:
        """The request for a prompt, to the model of a board that is up. Raises `EmptyPrompt` and `ContextOverflow`."""
        config, facts, checked, tokens = board.config, board.facts, plan.options, prepared.tokens
        assert facts is not None
        seed = 0 if checked.reproducible else random.getrandbits(32)
        keeps = keeps_of(prepared, checked)
        fixed = (*prepared.anchors, *(one.position for one in keeps))
        saves = capture_plan(
            len(tokens), config.policy, facts, fixed, prepared.endings, reproducible=checked.reproducible
        )
        make = partial(
            make_request, next(_tickets), tokens, checked, identity=self.identity(checked, board), plan=saves,
            policy=config.policy, n_ctx=config.context_opts.cells, seed=seed if checked.seed is None else checked.seed,
            now=now, prefill_only=prefill_only, markers=plan.markers,
            keeps=keeps,
        )  # fmt: skip
        # Packing and hashing 100,000 tokens takes some milliseconds.
        return make() if len(tokens) <= INLINE_LENGTH else await self.threads.run(make)


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
            raise ModelCrashed(board.model_id, text_of(error), gave_up=last) from error
        board.check()  # it was unloaded, or the runtime closed
        problem = "its task was cancelled from outside" if own else "the companion ended with it"
        raise ModelCrashed(board.model_id, problem, gave_up=last) from ended
