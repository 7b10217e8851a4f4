"""Ranking by a model that generates: how likely the query is after each document.

Each document is the prompt of a score of its own, so what is cached of it is not computed again for the next query. A
few are scored side by side. All or nothing: when one fails, the others are cancelled.
"""

from __future__ import annotations

from erllama_py.engine.token_array import TokenArray, in_pieces
from erllama_py.errors import InputTooLong
from erllama_py.handle.caller import Caller
from erllama_py.handle.inputs import Cut, Frame, as_document, fitted, in_pairs, off_loop, tokens_of
from erllama_py.handle.pairs import Pairs, Scored
from erllama_py.handle.scores import Scoring
from erllama_py.handle.side_by_side import of_each
from erllama_py.options.embedding import RerankOptions

BETWEEN = "\n"
WAITING = 2  # scores that wait while others are computed, so that no sequence is idle


async def by_likelihood(caller: Caller, scoring: Scoring, pairs: Pairs, options: RerankOptions) -> Scored:
    """The mean log-probability of the query's tokens after each document, in their order."""
    newline = await caller.use_vocabulary(lambda vocabulary: vocabulary.tokens_after(BETWEEN).tolist(), 0)
    (tokens,), _ = await tokens_of(caller, [pairs.query], framed=False, named=in_pairs)
    n_ctx = caller.board.config.context_opts.cells
    if len(tokens) + len(newline) >= n_ctx:
        problem = f"the query has {len(tokens)} tokens, which leave no room for a document in the context of {n_ctx}"
        raise InputTooLong(problem, 0, len(tokens), n_ctx)
    query = in_pieces(tokens)
    if isinstance(text := pairs.query, str):  # it goes on from a line: without the space that some tokenizers put first
        query = in_pieces(await caller.use_vocabulary(lambda vocabulary: vocabulary.tokens_after(text), len(text)))
    documents, frame = await tokens_of(caller, pairs.documents, framed=True, named=as_document)
    # Those of a text end with nothing: a document goes on with the query.
    given = [
        tokens[: len(tokens) - frame.after] if isinstance(one, str) else tokens
        for one, tokens in zip(pairs.documents, documents, strict=True)
    ]
    limit = n_ctx - len(query) - len(newline)

    def cut_all(given: list[TokenArray]) -> list[Cut]:
        begin = Frame(frame.before, 0)
        return [fitted(one, i, limit, options.truncate, begin, as_document) for i, one in enumerate(given)]

    cuts = await off_loop(caller, cut_all, given)

    whose = {
        "queue_wait": True, "cache_salt": options.cache_salt, "priority": options.priority,
        "on_crash": options.on_crash,
    }  # fmt: skip

    async def mean(index: int) -> float:
        prompt = [*in_pieces(cuts[index].tokens), *newline]
        found = await scoring.score(prompt, [query], whose)
        return found.scores[0].logprob / len(query)

    facts = caller.board.facts
    assert facts is not None
    means = await of_each(range(len(cuts)), mean, min(facts.n_seq_max + WAITING, len(cuts)))
    return [(means[index], len(cut.tokens), cut.truncated) for index, cut in enumerate(cuts)]
