"""What handles, sessions and streams have of one model: its port, and how a request becomes a reply through it.

    begin: check the options ─▶ prepare the prompt ─▶ _submit ─▶ a reply to wait for
           └────────────── the deadline's clock runs ──────────────────────────────▶

Nothing here outlives its call.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import anyio
import msgspec

from erllama_py.actors import Names, Reply
from erllama_py.cache.keys import Identity
from erllama_py.engine.backend import Vocabulary
from erllama_py.handle.alternatives import alternative, feed_of, joined, together
from erllama_py.handle.going_on import GoingOn, Hold, Where
from erllama_py.handle.metering import payer
from erllama_py.handle.port import INLINE_LENGTH, Port, caller_errors
from erllama_py.handle.reading import asks_nothing, compiles, is_plain, plan_reply
from erllama_py.handle.replies import FinishedReply, Prepare, Prepared, ReplyPlan, keeps_of
from erllama_py.handle.token_options import asks_much, by_id, names_tokens
from erllama_py.handle.tool_list import tool_list
from erllama_py.handle.tracing import request_span
from erllama_py.model.board import Engine, ModelBoard
from erllama_py.model.embedders import Place
from erllama_py.model.request import capture_plan, make_request, too_late
from erllama_py.options.request import RequestOptions, parse_request_options
from erllama_py.results import Completion, EngineEvent
from erllama_py.scheduler.messages import Feed, Request
from erllama_py.watch.spans import Operation

# Structures of one model that are checked at the same time: one that takes long holds up other structures alone.
CHECKS = 2

HoldEmbedder = Callable[[ModelBoard, bool], Awaitable[tuple[Place, Callable[[], None]]]]
HoldCompanion = Callable[[ModelBoard], Awaitable[tuple[ModelBoard, Callable[[], None]]]]


def _discard(event: EngineEvent) -> None:
    """Take the events of a request without a stream."""


def _nothing() -> None:
    """Let go of what nobody holds."""


class Caller(Port):
    """One model as its callers see it; see the module.

    `unload` is its runtime's way to end it, `companion` to hold the one that computes reproducible requests, `embedder`
    that which computes embeddings.
    """

    def __init__(
        self, board: ModelBoard, names: Names, unload: Callable[[ModelBoard], Awaitable[None]],
        companion: HoldCompanion, embedder: HoldEmbedder,
    ) -> None:  # fmt: skip
        super().__init__(board, names, unload)
        self.embedder = embedder
        self._companion = companion
        self._checks = anyio.Semaphore(CHECKS)

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
            return self.ticket(), reply
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
            where = self._where("own", self._model)
            return await self._submit_to(where, self.board, prepared, plan, feed, now, prefill_only)
        where = self._where("companion", partial(self._companion, self.board))
        companion, let_go = await self._companion(self.board)
        try:
            request_id, reply = await self._submit_to(where, companion, prepared, plan, feed, now, prefill_only)
        except BaseException:
            let_go()
            raise
        reply.on_settled(let_go)
        return request_id, reply

    async def _model(self) -> tuple[ModelBoard, Callable[[], None]]:
        """The model's own board, once it is up."""
        await self.board.actor()
        return self.board, _nothing

    def _where(self, engine: Engine, hold: Hold) -> Where:
        return Where(self.board, self.board.trials(engine), hold, self.ticket)

    async def _submit_to(
        self, where: Where, board: ModelBoard, prepared: Prepared, plan: ReplyPlan, feed: Feed | None, now: float,
        prefill_only: bool,
    ) -> tuple[int, Reply[Completion]]:  # fmt: skip
        await board.actor()
        identity = board.identity
        request = await self.request(board, prepared, plan, now, prefill_only=prefill_only)
        requests = [request]
        if not prefill_only:
            requests += [alternative(request, self.ticket(), index) for index in range(1, plan.options.n)]
        calls, goes_on = [], plan.options.on_crash == "continue"
        for index, one in enumerate(requests):
            events = plan.feed(feed_of(feed, index), index)
            calls.append(GoingOn(where, one, events, payer(), identity=identity, goes_on=goes_on))
        replies = [call.reply for call in calls]
        for call in calls:
            call.begin(board)
        if len(replies) == 1:
            return request.id, replies[0]
        reply, group = joined(replies, self.model_id), self.board.alternatives
        group[request.id] = tuple(one.id for one in requests)
        reply.on_settled(partial(group.__delitem__, request.id))
        return request.id, reply

    async def submit(self, request: Request, identity: Identity | None, *, goes_on: bool) -> Reply[Completion]:
        """Submit one request by itself, once the actor can take it; the reply to wait for. `identity` is that of the
        model when the request was made."""
        await self.actor()
        where = self._where("own", self._model)
        call = GoingOn(where, request, None, payer(), identity=identity, goes_on=goes_on)
        call.begin(self.board)
        return call.reply

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
            make_request, self.ticket(), tokens, checked, identity=self.identity(checked, board), plan=saves,
            policy=config.policy, n_ctx=config.context_opts.cells, seed=seed if checked.seed is None else checked.seed,
            now=now, prefill_only=prefill_only, markers=plan.markers,
            keeps=keeps,
        )  # fmt: skip
        # Packing and hashing 100,000 tokens takes some milliseconds.
        return make() if len(tokens) <= INLINE_LENGTH else await self.threads.run(make)
