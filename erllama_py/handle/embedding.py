"""`embed` and `rerank` of one model: checks what is given, has it tokenized, and asks the model's embedder.

options ─▶ tokens ─▶ hold the embedder ─▶ cut ─▶ Embed ─▶ vectors, or scores
└───────────────── the deadline's clock runs ──────────────────┘
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import msgspec
from numpy import empty, stack

from erllama_py.engine.pooling import Pooling
from erllama_py.engine.token_array import TokenArray
from erllama_py.errors import CannotRank, InvalidOption
from erllama_py.handle.caller import Caller
from erllama_py.handle.computing_again import computed_again
from erllama_py.handle.inputs import Cut, Input, Named, as_input, as_inputs, fitted, in_pairs, off_loop, tokens_of
from erllama_py.handle.metering import payer
from erllama_py.handle.pairs import Pairs, Scored, pairs_of
from erllama_py.handle.port import caller_errors
from erllama_py.handle.side_by_side import within
from erllama_py.handle.tracing import operation_span
from erllama_py.model.embedder import Embed
from erllama_py.model.embedders import Place
from erllama_py.options.check import OnCrash
from erllama_py.options.embedding import EmbedOptions, RerankOptions
from erllama_py.results import Embeddings, ModelInfo, RankedDocument, Ranking
from erllama_py.watch.spans import of_embeddings, of_ranking

STACK_INLINE = 256  # vectors that are put together on the loop; more take milliseconds
ByScore = Callable[[Pairs, RerankOptions], Coroutine[Any, Any, Scored]]


async def embed(caller: Caller, inputs: object, options: EmbedOptions) -> Embeddings:
    """See `Model.embed`."""
    caller.check_loop()
    with operation_span("embeddings", caller.model_id) as span:
        caller.check_has_weights()
        done = await within(options.deadline, _embed(caller, inputs, options))
        span.tell(lambda: of_embeddings(done))
    return done


async def _embed(caller: Caller, given: object, options: EmbedOptions, named: Named = as_input) -> Embeddings:
    inputs = await off_loop(caller, as_inputs, given)
    await caller.actor()
    pooling = _check(_info(caller), options)
    tokens, frame = await tokens_of(caller, inputs, framed=True, named=named)

    def cut(tokens: list[TokenArray], longest: int) -> list[Cut]:
        return [fitted(one, i, longest, options.truncate, frame, named) for i, one in enumerate(tokens)]

    asked = Embed((), pooling, options.normalize, options.dimensions)
    results, counts, truncated = await _compute(caller, asked, tokens, cut, ranks=False, on_crash=options.on_crash)
    if pooling == "none":
        rows, vectors = tuple(results), results[0][:0]
    else:
        rows = ()
        vectors = stack(results) if len(results) <= STACK_INLINE else await caller.threads.run(in_one, results)
    return Embeddings(vectors=vectors, token_vectors=rows, token_counts=counts, truncated=truncated, pooling=pooling)


def in_one(vectors: list[Any]) -> Any:
    """`stack` in pieces, between which other threads run."""
    array = empty((len(vectors), len(vectors[0])), vectors[0].dtype)
    for start in range(0, len(vectors), STACK_INLINE):
        some = vectors[start : start + STACK_INLINE]
        stack(some, out=array[start : start + len(some)])
    return array


def _info(caller: Caller) -> ModelInfo:
    info = caller.board.info
    assert info is not None  # its actor has been up
    return info


def _check(info: ModelInfo, options: EmbedOptions) -> Pooling:
    """The pooling. Raises `InvalidOption` for what this model cannot do."""
    if options.dimensions is not None and options.dimensions > info.n_embd:
        raise InvalidOption("dimensions", f"its vectors have {info.n_embd} numbers, and {options.dimensions} are asked")
    pooling = options.pooling or info.pooling
    if pooling is None:
        raise InvalidOption("pooling", "the model ranks, so its file names no pooling: give one")
    return pooling


async def rerank(caller: Caller, query: object, documents: object, options: RerankOptions, by: ByScore) -> Ranking:
    """See `Model.rerank`. `by` scores documents by the model's log-probabilities."""
    caller.check_loop()
    with operation_span("rerank", caller.model_id) as span:
        caller.check_has_weights()
        done = await within(options.deadline, _rerank(caller, query, documents, options, by))
        span.tell(lambda: of_ranking(done))
    return done


async def _rerank(caller: Caller, query: object, documents: object, options: RerankOptions, by: ByScore) -> Ranking:
    await caller.actor()
    pairs, info = await off_loop(caller, pairs_of, documents, query), _info(caller)
    method = options.method or "model"
    if method == "model":
        if not info.can_rank:
            raise CannotRank(caller.model_id, ("embeddings", "score") if info.can_generate else ("embeddings",))
        found = await _by_model(caller, pairs, options)
    elif method == "embeddings":
        found = await _by_embeddings(caller, pairs, options)
    else:
        caller.check_generates()
        found = await by(pairs, options)
    return await off_loop(caller, ranking, found, pairs, method, options.top_n)


def ranking(found: Scored, pairs: Pairs, method: Literal["model", "embeddings", "score"], top_n: int | None) -> Ranking:
    """The documents, the best first. Pure."""
    order = sorted(range(len(found)), key=lambda index: -found[index][0])[:top_n]
    given = [one if isinstance(one, str) else list(one) for one in pairs.documents]
    ranked = []
    for index in order:
        score, count, truncated = found[index]
        ranked.append(RankedDocument(index, score, given[index], count, truncated))
    return Ranking(tuple(ranked), method)


async def _by_model(caller: Caller, pairs: Pairs, options: RerankOptions) -> Scored:
    framed = await pairs.framed(caller)

    def cut(_: list[TokenArray], longest: int) -> list[Cut]:
        return framed.cut(longest, options.truncate)

    done = await _compute(caller, Embed(()), framed.documents, cut, ranks=True, on_crash=options.on_crash)
    return await off_loop(caller, scored, *done)


async def _by_embeddings(caller: Caller, pairs: Pairs, options: RerankOptions) -> Scored:
    asked = EmbedOptions(truncate=options.truncate, on_crash=options.on_crash)
    found = await _embed(caller, [pairs.query, *pairs.documents], asked, in_pairs)

    def cosines(_: Sequence[Input]) -> Scored:
        rows = (found.vectors[1:] @ found.vectors[0]).reshape(-1, 1)
        return scored(rows, found.token_counts[1:], found.truncated[1:])

    return await off_loop(caller, cosines, pairs.documents)


def scored(rows: Iterable[Any], counts: Iterable[int], truncated: Iterable[bool]) -> Scored:
    """Of each document its score, which its row begins with, its tokens, and whether it was cut. Pure."""
    return [(float(row[0]), count, cut) for row, count, cut in zip(rows, counts, truncated, strict=True)]


class Computed(NamedTuple):
    """Of each input its result, how many of its tokens were computed, and whether it was cut."""

    results: list[Any]
    counts: tuple[int, ...]
    truncated: tuple[bool, ...]


async def _compute(
    caller: Caller,
    asked: Embed,
    tokens: list[TokenArray],
    cut: Callable[[list[TokenArray], int], list[Cut]],
    *,
    ranks: bool,
    on_crash: OnCrash,
) -> Computed:
    """What is `asked` of the model's embedder, of tokens that are `cut` to what its context takes."""
    spend, call_id = payer(), caller.ticket()

    def fill(tokens: list[TokenArray], longest: int) -> tuple[Embed, tuple[int, ...], tuple[bool, ...]]:
        cuts = cut(tokens, longest)
        message = msgspec.structs.replace(asked, inputs=[one.tokens for one in cuts], spend=spend, id=call_id)
        return message, tuple(len(one.tokens) for one in cuts), tuple(one.truncated for one in cuts)

    async def once(place: Place) -> Computed:
        message, counts, truncated = await off_loop(caller, fill, tokens, place.facts.longest)
        return Computed(await place.ref.begin_call(message, bounded=False).wait(), counts, truncated)

    with caller_errors(caller.board):
        return await computed_again(caller, call_id, ranks, once, goes_on=on_crash == "continue")
