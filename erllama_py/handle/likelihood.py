"""Ranking by a model that generates: how likely the query is after each document.

Each document is the prompt of a score of its own, so what is cached of it is not computed again for the next query. A
few are scored side by side. All or nothing: when one fails, the others are cancelled.
"""

from __future__ import annotations

import asyncio
from functools import partial

from erllama_py.handle.caller import Caller
from erllama_py.handle.inputs import Frame, fitted, tokens_of
from erllama_py.handle.pairs import Pairs, Scored
from erllama_py.handle.scores import Scoring, tokens_after
from erllama_py.options.embedding import RerankOptions

BETWEEN = "\n"
WAITING = 2  # scores that wait while others are computed, so that no sequence is idle


async def by_likelihood(caller: Caller, scoring: Scoring, pairs: Pairs, options: RerankOptions) -> Scored:
    """The mean log-probability of the query's tokens after each document, in their order."""

    newline = await caller.use_vocabulary(partial(tokens_after, BETWEEN), 0)
    (query,), _ = await tokens_of(caller, [pairs.query], framed=False)
    if isinstance(pairs.query, str):  # it goes on from a line: without the space that some tokenizers put first
        query = await caller.use_vocabulary(partial(tokens_after, pairs.query), len(pairs.query))
    documents, frame = await tokens_of(caller, pairs.documents, framed=True)
    # Those of a text end with nothing: a document goes on with the query.
    given = [
        tokens[: len(tokens) - frame.after] if isinstance(one, str) else tokens
        for one, tokens in zip(pairs.documents, documents, strict=True)
    ]
    limit = caller.board.config.context_opts.n_ctx - len(query) - len(newline)
    cuts = [fitted(one, i, limit, options.truncate, Frame(frame.before, 0)) for i, one in enumerate(given)]
    scores = await _scores(caller, scoring, [[*cut.tokens, *newline] for cut in cuts], query)
    return [(score, len(cut.tokens), cut.truncated) for score, cut in zip(scores, cuts, strict=True)]


async def _scores(caller: Caller, scoring: Scoring, prompts: list[list[int]], query: list[int]) -> list[float]:
    scores, left = [0.0] * len(prompts), iter(range(len(prompts)))

    async def work() -> None:
        for index in left:
            found = await scoring.score(prompts[index], [query], {"queue_wait": True})
            scores[index] = found.scores[0].logprob / len(query)

    facts = caller.board.facts
    assert facts is not None
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(facts.n_seq_max + WAITING, len(prompts))):
                group.create_task(work())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None  # all of the call ends by the first
    return scores
