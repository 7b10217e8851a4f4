"""A query and documents, as a model that ranks reads them.

BERT's kind reads `[CLS] query [SEP] document [SEP]`; others what their vocabularies ask for; one with a template for
ranking in its file reads that. llama.cpp knows no token types, so all is of type 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy

from erllama_py.engine.backend import Vocabulary
from erllama_py.engine.token_array import TokenArray, as_array, in_pieces
from erllama_py.errors import EmptyPrompt, InputTooLong, RequestError
from erllama_py.handle.caller import Caller
from erllama_py.handle.inputs import Cut, Input, checked, in_pairs, tokens_of

Scored = list[tuple[float, int, bool]]  # of each document: its score, its tokens, whether it was cut
QUERY, DOCUMENT = "{query}", "{document}"


class Framed(NamedTuple):
    """Tokens: what stands around a document, and the documents."""

    before: list[int]
    after: list[int]
    documents: list[TokenArray]

    def cut(self, limit: int, truncate: bool | Literal["start", "end"]) -> list[Cut]:
        """Each pair within `limit` tokens. Pure. Raises `InputTooLong` unless documents are to be cut."""
        room, cuts = limit - len(self.before) - len(self.after), list[Cut]()
        # Without room the first document is refused: a query of millions of tokens is not looked at.
        before, after = (as_array(side if room > 0 else ()) for side in (self.before, self.after))
        for index, document in enumerate(self.documents):
            is_long = len(document) > room
            if is_long and (truncate is False or room < 1):
                count = len(self.before) + len(document) + len(self.after)
                what = "the query leaves no room for a document" if room < 1 else "truncate cuts the document"
                problem = f"document {index} and the query have {count} tokens, and the model takes {limit}: {what}"
                raise InputTooLong(problem, index, count, limit)
            kept = (document[-room:] if truncate == "start" else document[:room]) if is_long else document
            cuts.append(Cut(numpy.concatenate([before, kept, after]), is_long))
        return cuts


class Pairs(NamedTuple):
    """As they were given, checked for their types."""

    query: Input
    documents: Sequence[Input]

    async def framed(self, caller: Caller) -> Framed:
        """The tokens of all of it. Raises as `tokens_of` does."""
        (query, *documents), _ = await tokens_of(caller, [self.query, *self.documents], framed=False, named=in_pairs)
        facts = caller.board.facts
        template = None if facts is None else facts.rerank_template

        def frame(vocabulary: Vocabulary) -> tuple[list[int], list[int]]:
            return frame_of(vocabulary, in_pieces(query), template)

        before, after = await caller.use_vocabulary(frame, len(query))
        return Framed(before, after, documents)


def pairs_of(documents: object, query: object) -> Pairs:
    """Raises `RequestError` for what is neither text nor tokens, `EmptyPrompt` for no document."""
    if isinstance(documents, str) or not isinstance(documents, Sequence):
        raise RequestError(f"documents: a list is expected, not {type(documents).__name__}")
    if not documents:
        raise EmptyPrompt("there is no document")
    return Pairs(checked(query, "query"), [checked(one, "document", i) for i, one in enumerate(documents)])


def frame_of(vocabulary: Vocabulary, query: Sequence[int], template: str | None) -> tuple[list[int], list[int]]:
    """The tokens before and after each document: control tokens are those of the template or the vocabulary alone."""
    parts = re.split(r"(\{query\}|\{document\})", template or "")
    if QUERY not in parts or DOCUMENT not in parts:
        before, between, after = vocabulary.pair_frame()
        return [*before, *query, *between], after
    sides: tuple[list[int], list[int]] = [], []
    side = 0
    for part in parts:
        if part == DOCUMENT:
            side = 1
        elif part == QUERY:
            sides[side].extend(query)
        elif part:
            sides[side].extend(vocabulary.tokenize(part, add_special=False, parse_special=True))
    return sides
