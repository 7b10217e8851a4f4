"""The actor that computes the embeddings of one model, in a context of its own, on a thread of its own.

Life: `init` makes the context over the model's weights; then decode after decode as long as calls wait, several callers
in each. A call that nobody waits for any more leaves the queue, and stops the decode that is under way if it is the
only one in it. A decode that fails ends the actor: its calls fail with it, and the next call begins another.
`terminate` waits until the thread has freed the context, so that the weights are not freed under it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from erllama_py.actors import Actor, Answer, Background, Exit, Reply, Threads
from erllama_py.engine.embedding import Embedder, EmbedderFacts, EmbedderOpts, NoRoom, Part, Tokens
from erllama_py.engine.heartbeat import Heart
from erllama_py.engine.pooling import NotFinite, Pool, Pooling
from erllama_py.errors import InsufficientMemory, NoEmbedding
from erllama_py.model.board import ModelBoard
from erllama_py.model.embed_queue import EmbedQueue, Piece
from erllama_py.model.loaded import Loaded
from erllama_py.model.loading import check_embedder_room

RANKER, EMBEDDER = "ranker:", "embedder:"  # before the model's id: its name
FIRST_INPUT = 1024  # tokens of an input that there must be memory for, to begin with
LULL_SECONDS = 0.05  # how long an idle embedder keeps its compute threads: one call follows another within milliseconds


class Embed(msgspec.Struct, frozen=True):
    """Answered with a list: for each input its vector, with `pooling` "none" an array of them; of a ranker its score.

    Every input has 1 to `longest` tokens.
    """

    inputs: Sequence[Tokens]
    pooling: Pooling = "last"  # of a ranker, whose only row it is
    normalize: bool = False
    dimensions: int | None = None
    spend: Callable[[int], object] | None = None  # is told how many of its tokens each decode has computed
    id: int = 0  # as a request's


class _Dropped(msgspec.Struct, frozen=True):
    call: int


class _Failed(msgspec.Struct, frozen=True):
    error: Exception


Message = Embed | _Dropped | _Failed


class _Call:
    """One that is not answered yet: what is there of it."""

    def __init__(self, embed: Embed, reply: Reply[list[Any]]) -> None:
        self.embed, self.reply = embed, reply
        self.pools: dict[int, Pool] = {}
        self.results: list[Any] = [None] * len(embed.inputs)
        self.left = len(embed.inputs)
        self.error: NoEmbedding | InsufficientMemory | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more of it is to be computed, whatever is left."""
        return self.left == 0 or self.error is not None


class EmbedderActor(Actor[Message]):
    """See the module. `threads` compute its decodes."""

    kind = "embedder"

    def __init__(self, board: ModelBoard, lent: Loaded, opts: EmbedderOpts, heart: Heart) -> None:
        self._board, self._lent, self._opts = board, lent, opts
        self._heart = heart
        self._calls: dict[int, _Call] = {}
        self._tickets = 0
        self._under_way: set[int] = set()  # the calls of the decode that is
        self.at_work: frozenset[int] = frozenset()  # their ids, those of the last one where none is under way
        self._left_over: list[int] = []  # sequences that hold a part of an input that nobody wants any more
        self._is_pumping = False
        self._ending = False
        self._rest_timer: asyncio.TimerHandle | None = None
        self._background = Background(board.model_id)
        self._threads = Threads(f"embed {board.model_id}", 1)
        self._embedder: Embedder | None = None
        self._queue: EmbedQueue
        self._facts: EmbedderFacts

    async def init(self) -> None:
        embedder = self._embedder = self._lent.backend.embedder(self._opts)
        self._check_room(FIRST_INPUT)
        self._facts = await self._threads.abandon(embedder.load)
        self._queue = EmbedQueue(self._facts)

    def _check_room(self, tokens: int) -> None:
        check_embedder_room(self._board.config, self._lent.prepared.facts, tokens)

    @property
    def facts(self) -> EmbedderFacts:
        """Once it is ready."""
        return self._facts

    async def handle(self, message: Message, reply: Reply[Any] | None) -> Answer | None:
        match message:
            case Embed():
                assert reply is not None
                self._add(message, reply)
            case _Dropped(call):
                self._drop(call)
            case _Failed(error):
                raise error
        return None

    def _add(self, embed: Embed, reply: Reply[list[Any]]) -> None:
        self._tickets += 1
        call = self._tickets
        self._calls[call] = _Call(embed, reply)
        self._queue.add(call, embed.inputs)
        reply.on_abandoned(lambda: self._tell(_Dropped(call)))
        if self._rest_timer is not None:
            self._rest_timer.cancel()
        if not self._is_pumping:
            self._is_pumping = True
            self._background.start(self._run())

    def _tell(self, message: Message) -> None:
        if self.ref.exit is None:
            self.ref.cast(message, urgent=True)

    def _drop(self, call: int) -> None:
        if not self._forget(call):
            return
        if self._embedder is not None and self._under_way and not self._under_way & self._calls.keys():
            self._embedder.abort(True)

    def _forget(self, call: int) -> bool:
        """Nothing more of a call is computed; false where that is known already."""
        if self._calls.pop(call, None) is None:
            return False
        held = self._queue.drop(call)
        if held is not None:
            self._left_over.append(held)
        return True

    async def _run(self) -> None:
        """Decode after decode, as long as anything waits."""
        assert self._embedder is not None
        try:
            while pieces := self._queue.take():
                self._under_way = {piece.call for piece in pieces}
                self.at_work = frozenset(self._calls[call].embed.id for call in self._under_way)
                if not self._ending:
                    self._embedder.abort(False)
                await self._decode(pieces)
        except Exception as error:
            self._tell(_Failed(error))
            return
        finally:
            self._under_way = set()
        self._is_pumping = False
        self._rest_timer = asyncio.get_running_loop().call_later(LULL_SECONDS, self._rest, self._embedder)

    def _rest(self, embedder: Embedder) -> None:
        self._background.start(self._threads.abandon(embedder.rest))

    async def _decode(self, pieces: list[Piece]) -> None:
        calls = {call: self._calls[call] for call in self._under_way}
        self._heart.begins(sum(piece.end - piece.start for piece in pieces))
        left_over, self._left_over = self._left_over, []
        done = False
        try:
            done = await self._threads.abandon(self._compute, pieces, calls, left_over)
        finally:
            self._heart.ends(done)
        if done:
            _charge(pieces, calls)
        for call, one in calls.items():
            if one.is_over and self._forget(call):
                self._answer(one)

    def _answer(self, one: _Call) -> None:
        tokens = sum(map(len, one.embed.inputs)) if one.error is None else None
        self._board.tally.embedded(tokens)
        if one.error is not None:
            one.reply.fail(one.error)
        else:
            one.reply.send(one.results)

    # --- on the thread -------------------------------------------------------------------------------------------

    def _compute(self, pieces: list[Piece], calls: dict[int, _Call], left_over: list[int]) -> bool:
        """One decode, and what it says of each input; false where it was stopped."""
        assert self._embedder is not None
        for seq_id in left_over:  # before any of them is used again
            self._embedder.forget(seq_id)
        for piece in pieces:
            if not piece.start and not piece.last:  # no other input is in a sequence then
                self._reserve(piece, calls[piece.call])
        pieces = [piece for piece in pieces if not calls[piece.call].is_over]
        if not pieces:
            return True
        parts = [self._part(piece, calls) for piece in pieces]
        rows = self._embedder.compute(parts)
        if rows is None:
            return False
        row = 0
        for piece in pieces:
            count = int(piece.last) if self._opts.ranks else piece.end - piece.start
            _take(piece, calls[piece.call], rows[row : row + count])
            row += count
        return True

    def _reserve(self, piece: Piece, call: _Call) -> None:
        """Have room for an input that is longer than a decode. Where there is no memory for it, that ends its call, and
        no other."""
        assert self._embedder is not None
        length = len(call.embed.inputs[piece.which])
        try:
            self._check_room(length)
            self._embedder.reserve(length)
        except InsufficientMemory as error:
            call.error = error
        except NoRoom as none:
            problem = f"no context for an input of {length} tokens could be made: {none}"
            call.error = InsufficientMemory(str(self._board.config.model_path), problem)

    @staticmethod
    def _part(piece: Piece, calls: dict[int, _Call]) -> Part:
        tokens = calls[piece.call].embed.inputs[piece.which][piece.start : piece.end]
        return Part(piece.seq_id, piece.start, tokens, piece.last)

    # --- ending --------------------------------------------------------------------------------------------------

    async def terminate(self, exit: Exit) -> None:
        self._ending = True
        if self._rest_timer is not None:
            self._rest_timer.cancel()
        if self._embedder is not None:
            self._embedder.abort(True)
        await self._background.stop()
        if self._embedder is not None:
            # Without a limit, as an engine: until then the weights stay in memory.
            await self._threads.finish(self._embedder.close)
        self._threads.close()


def _charge(pieces: Sequence[Piece], calls: Mapping[int, _Call]) -> None:
    """Tell who pays for each call what of it a decode has computed, be the call wanted still or not."""
    computed = Counter[int]()
    for piece in pieces:
        if calls[piece.call].error is None:
            computed[piece.call] += piece.end - piece.start
    for call, tokens in computed.items():
        if (spend := calls[call].embed.spend) is not None:
            spend(tokens)


def _take(piece: Piece, call: _Call, rows: Any) -> None:
    """Add the rows of one piece to its input; at its end the input has its result, or the error that it has failed
    with."""
    if len(rows):
        call.pools.setdefault(piece.which, Pool(call.embed.pooling)).add(rows)
    if not piece.last:
        return
    try:
        pool = call.pools.pop(piece.which)
        call.results[piece.which] = pool.result(normalize=call.embed.normalize, dimensions=call.embed.dimensions)
    except NotFinite:
        problem = f"the model's output for input {piece.which} is not a number"
        call.error = call.error or NoEmbedding(problem, piece.which)
    call.left -= 1
