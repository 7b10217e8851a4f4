"""The caller's side of one model: waits until its actor can take a request, then talks to it by name.

    _begin: check the options ─▶ prepare the prompt ─▶ _submit ─▶ a reply to wait for
            └────────────── the deadline's clock runs ──────────────────────────────▶

`client` builds the public handle on it. Nothing here outlives its call.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TypeVar

import anyio.lowlevel
import anyio.to_thread

from erllama_py.actors import ActorError, ActorRef, Names, Reply
from erllama_py.cache.keys import Identity
from erllama_py.engine.backend import Vocabulary
from erllama_py.errors import ModelNotLoaded
from erllama_py.handle.border import caller_errors
from erllama_py.model.board import ModelBoard
from erllama_py.model.request import capture_plan, make_request, salted, too_late
from erllama_py.options.request import RequestOptions, parse_request_options
from erllama_py.results import Completion
from erllama_py.scheduler.messages import CancelRequest, EndSession, Feed, Message, Submit, actor_name, new_ticket

# Longer texts (in characters) and token lists are worked on by a worker thread: a hop to one and back takes
# about 0.1 ms, and tokenizing so many characters of English with SmolLM2 about 1 ms.
INLINE_LENGTH = 4_000

Prepared = tuple[list[int], tuple[int, ...]]  # the tokens of a prompt, and where others may part from it
T = TypeVar("T")


class Caller:
    """What a handle needs to reach its model; see the module."""

    def __init__(self, board: ModelBoard, names: Names) -> None:
        self._board = board
        self._names = names

    def _identity(self, options: RequestOptions) -> Identity:
        identity, config = self._board.identity, self._board.config
        assert identity is not None
        return salted(identity, options.cache_salt or config.cache_salt)

    async def _actor(self) -> ActorRef[Message]:
        """The actor, once it can take a request: while it crashes and comes back this waits for it."""
        name = actor_name(self._board.model_id)
        while True:
            await self._board.available()
            ref = self._names.whereis(name)
            if ref is not None and ref.exit is None:
                return ref
            # It has ended, and the board has not heard of it yet: that happens before its name is free.
            await self._names.wait_free(name)

    async def _use_vocabulary(self, use: Callable[[Vocabulary], T], length: int) -> T:
        """`use` the vocabulary of the running actor, on a worker thread when `length` says that it takes long."""
        while True:
            await self._actor()
            vocabulary = self._board.vocabulary
            assert vocabulary is not None
            try:
                if length <= INLINE_LENGTH:
                    return use(vocabulary)
                return await anyio.to_thread.run_sync(use, vocabulary)
            except ModelNotLoaded:
                # The engine let go of it meanwhile. If that was a crash, the next one is on its way.
                self._board.check()
                await anyio.lowlevel.checkpoint()

    def _tell(self, message: CancelRequest | EndSession) -> None:
        """Say something to the actor, if it is there; never to that of a later model with the same id."""
        if not self._board.is_closed:
            with contextlib.suppress(ActorError):
                self._names.cast(actor_name(self._board.model_id), message, bounded=False)

    async def _answer(
        self, prepare: Callable[[], Awaitable[Prepared]], options: Mapping[str, object], *, prefill_only: bool = False
    ) -> Completion:
        _, reply = await self._begin(prepare, options, None, prefill_only=prefill_only)
        with caller_errors(self._board):
            return await reply.wait()

    async def _begin(
        self,
        prepare: Callable[[], Awaitable[Prepared]],
        options: Mapping[str, object],
        feed: Feed | None,
        *,
        prefill_only: bool = False,
    ) -> tuple[int, Reply[Completion]]:
        """Check the options, prepare the prompt and submit it; the request's id, and the reply to wait for.

        A deadline that passes before there is a request gives what it gives one that waits in the queue.
        """
        loop = asyncio.get_running_loop()
        called, now, checked = loop.time(), time.monotonic(), parse_request_options(options)
        ends_at = None if checked.deadline is None else called + checked.deadline
        try:
            async with asyncio.timeout_at(ends_at) as timeout:
                tokens, anchors = await prepare()
                request_id, reply = await self._submit(tokens, anchors, checked, feed, now, prefill_only)
        except TimeoutError:
            if not timeout.expired():
                raise
            reply = Reply(actor_name(self._board.model_id))
            reply.send(too_late(self._identity(checked), now, time.monotonic()))
            return new_ticket(), reply
        if ends_at is not None:
            timer = loop.call_at(ends_at, self._tell, CancelRequest(request_id))
            reply.on_settled(timer.cancel)
        return request_id, reply

    async def _submit(
        self,
        tokens: list[int],
        anchors: tuple[int, ...],
        checked: RequestOptions,
        feed: Feed | None,
        now: float,
        prefill_only: bool,
    ) -> tuple[int, Reply[Completion]]:
        ref = await self._actor()
        config, facts = self._board.config, self._board.facts
        assert facts is not None
        make = partial(
            make_request,
            new_ticket(),
            tokens,
            checked,
            identity=self._identity(checked),
            plan=capture_plan(len(tokens), config.policy, facts, anchors),
            policy=config.policy,
            n_ctx=config.context_opts.n_ctx,
            seed=random.getrandbits(32) if checked.seed is None else checked.seed,
            now=now,
            prefill_only=prefill_only,
        )
        # Packing and hashing 100,000 tokens takes some milliseconds.
        request = make() if len(tokens) <= INLINE_LENGTH else await anyio.to_thread.run_sync(make)
        with caller_errors(self._board):
            return request.id, ref.begin_call(Submit(request, feed))
