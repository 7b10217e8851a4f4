"""What may come next in a reply that follows a structure: llguidance's matchers over a model's tokens.

A structure is one text, a grammar in llguidance's own serialised form (what `LLMatcher.grammar_from_…` gives).
`compile` makes a `Matcher` of it; each request has its own. Bad grammars come back as values, within limits of time
and memory.

Compiling, the making of a tokenizer and the filling of a mask go on without the GIL, see `erllama_py.engine.guidance`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy
import numpy.typing

from erllama_py.engine.guidance import Guide, Words, functions
from erllama_py.errors import InvalidGrammar, SamplerFailed

MOST_COMPILED = 32  # grammars kept for each model: 0.1 MB for a common schema
MOST_CHARACTERS = 1 << 20  # of a grammar; it takes about 0.1 s to be read
MOST_FORCED = 64  # tokens in one go: longer runs are found once and taken piece by piece, so that no draw takes long

Row = numpy.typing.NDArray[numpy.uint32]
Flags = numpy.typing.NDArray[numpy.bool_]


class Tokenizer:
    """The tokens of one loaded model, as matchers need them.

    `make` gives the `Words`, always the same one, from any thread. `use` keeps the vocabulary open meanwhile, and
    raises `ModelNotLoaded` when it is closed.
    """

    def __init__(self, make: Callable[[], Words], use: Callable[[], AbstractContextManager[Any]]) -> None:
        self.make, self.use = make, use
        functions()  # imported with the model: at a request there may be no file descriptor left to do so
        self._marks: tuple[int, ...] | None = None
        self._compiled: OrderedDict[str, Matcher] = OrderedDict()  # each call of it is one step for other threads

    def marks(self, is_shown: Callable[[int], bool]) -> tuple[int, ...]:
        """Control tokens of a structure that are seen in texts all the same, as tags of HTML are in some vocabularies.
        Looked for once; see `make`."""
        if self._marks is None:
            with self.use():
                words = self.make()
                self._marks = tuple(one for one in words.controls if one not in words.ends and is_shown(one))
        return self._marks

    def check(self) -> None:
        """Raises `ModelNotLoaded` when it is closed. What fails in that moment says nothing of a grammar: texts are not
        cut into tokens any more."""
        with self.use():
            pass

    def known(self, grammar: str) -> Matcher | None:
        """What `keep` has kept."""
        found = self._compiled.pop(grammar, None)
        if found is not None:
            self._compiled[grammar] = found
        return found

    def keep(self, grammar: str, matcher: Matcher) -> None:
        """Keep it, and forget those that were not asked for the longest."""
        self._compiled[grammar] = matcher
        while len(self._compiled) > MOST_COMPILED:
            self._compiled.popitem(last=False)


def compile(grammar: str, tokenizer: Tokenizer) -> Matcher:
    """A matcher at the beginning of the grammar. Raises `InvalidGrammar` with what is wrong, `ModelNotLoaded`.

    From any thread. What was compiled is kept, and copied in a microsecond.
    """
    if (known := tokenizer.known(grammar)) is not None:
        return known.copy()
    if len(grammar) > MOST_CHARACTERS:
        raise InvalidGrammar(f"a grammar of {len(grammar)} characters is longer than {MOST_CHARACTERS}")
    try:
        data = grammar.encode()
    except UnicodeEncodeError as error:
        raise InvalidGrammar(f"the grammar has no UTF-8 form: {error.reason}") from error
    if b"\0" in data:
        raise InvalidGrammar("the grammar has a NUL character")
    with tokenizer.use():
        guide = tokenizer.make().guide(data)
    if guide.error is not None:
        tokenizer.check()
        raise InvalidGrammar(_reason(guide.error))
    matcher = Matcher(guide)
    tokenizer.keep(grammar, matcher)
    return matcher.copy()


def _reason(error: str) -> str:
    """What llguidance says of a grammar, without the excerpts that follow."""
    lines = [line.strip() for line in error.splitlines() if line.strip()] or ["the grammar is not valid"]
    reasons = [line for line in lines if line.startswith("error: ")]  # a regular expression is shown before it
    return " ".join(lines[:1] + reasons[:1])[:400]


class Matcher:
    """Where one reply stands in its grammar. One thread at a time.

    `forced` and `mask` agree by construction: what is forced is found once, and then is either handed out together or
    allowed alone, one after the other.
    """

    def __init__(self, guide: Guide) -> None:
        self._guide = guide
        self._row: Row | None = None
        self._is_filled = False
        self._ahead: list[int] | None = None  # tokens that are forced here, None where that is not known

    def copy(self) -> Matcher:
        """Another one at the same place; the two do not know of each other."""
        other = Matcher(self._guide.copy())
        other._ahead = None if self._ahead is None else list(self._ahead)
        return other

    @property
    def is_over(self) -> bool:
        """Whether the reply is complete, and nothing may follow but its end."""
        return self._guide.is_stopped and self._guide.error is None

    def mask(self) -> Row:
        """A bit for each token, the lowest of the first word for token 0: whether it may come next. At the end of the
        reply only the tokens that end it. The row is filled again at the next place. Raises `SamplerFailed`."""
        if self._row is None:
            self._row = numpy.zeros((self._guide.words.n_vocab + 31) // 32, dtype=numpy.uint32)
        if not self._is_filled:
            if ahead := self._look_ahead():
                self._row[:] = 0
                self._row[ahead[0] >> 5] = 1 << (ahead[0] & 31)
            else:
                self._guide.fill(self._row)
                self._check()
            self._is_filled = True
        return self._row

    def allowed(self, count: int) -> Flags:
        """Whether each of the first `count` tokens may come next. Raises `SamplerFailed` where none may."""
        flags = numpy.unpackbits(self.mask().view(numpy.uint8), bitorder="little", count=count).view(numpy.bool_)
        if not flags.any():
            raise SamplerFailed("the structure allows no token here")
        return flags

    def allows(self, token: int) -> bool:
        """Whether this token may come next. Raises `SamplerFailed`."""
        return bool(self.mask()[token >> 5] >> (token & 31) & 1)

    def accept(self, token: int) -> None:
        """This token comes next. Raises `SamplerFailed` where it may not."""
        if token in self._guide.words.ends and self.is_over:
            return
        ahead, self._is_filled = self._ahead, False
        self._guide.consume([token])
        self._check()
        self._ahead = ahead[1:] if ahead and ahead[0] == token and len(ahead) > 1 else None

    def forced(self) -> list[int]:
        """Tokens that come next because nothing else may, `MOST_FORCED` at most; they are accepted. Raises
        `SamplerFailed`."""
        found: list[int] = []
        while len(found) < MOST_FORCED and not self.is_over and (ahead := self._look_ahead()):
            now, later = ahead[: MOST_FORCED - len(found)], ahead[MOST_FORCED - len(found) :]
            self._guide.consume(now)
            self._check()
            found += now
            self._ahead, self._is_filled = later or None, False
        return found

    def _look_ahead(self) -> list[int]:
        if self._ahead is None:
            self._ahead = self._guide.ahead()
            self._check()
        return self._ahead

    def _check(self) -> None:
        if (error := self._guide.error) is not None:
            raise SamplerFailed(f"the structure cannot go on: {_reason(error)}")
