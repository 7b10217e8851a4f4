"""From what a caller wants embedded or ranked to tokens: checked, tokenized, and cut where it is asked for.

Text of a caller is text: control tokens in it are read as its letters. Those that the model wants around an input are
put there by its vocabulary, and stay when a long one is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeGuard, TypeVar

import msgspec
import numpy

from erllama_py.engine.backend import Vocabulary
from erllama_py.engine.token_array import TokenArray, as_array
from erllama_py.errors import EmptyPrompt, InputTooLong, InvalidText, RequestError
from erllama_py.handle.caller import Caller
from erllama_py.handle.port import INLINE_LENGTH
from erllama_py.model.request import check_tokens

Input = str | Sequence[int]
T = TypeVar("T")
EXPECTED = "a str or a list of token ids is expected"

# What one call to a worker thread tokenizes at most: between two of them a cancelled caller goes away.
CHUNK_INPUTS, CHUNK_LENGTH = 256, 200_000
MANY = 4_000  # inputs that are checked, cut or sorted on the loop; more take milliseconds


async def off_loop(caller: Caller, function: Callable[..., T], given: object, *more: object) -> T:
    """`function(given, *more)`, on a worker thread where `given` is a long list."""
    if isinstance(given, list | tuple) and len(given) > MANY:
        caller.board.check()  # a closed runtime has no threads
        return await caller.threads.abandon(function, given, *more)
    return function(given, *more)


class Frame(NamedTuple):
    """How many control tokens a vocabulary puts before and after a text."""

    before: int
    after: int


class Cut(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one input, and whether a part of it was cut off."""

    tokens: TokenArray
    truncated: bool


Named = Callable[[int], tuple[str, int]]  # what a caller calls one of the inputs, and its index there


def as_input(index: int) -> tuple[str, int]:
    """One of the inputs of an `embed`."""
    return f"input {index}", index


def as_document(index: int) -> tuple[str, int]:
    """One of the documents of a `rerank`."""
    return f"document {index}", index


def in_pairs(index: int) -> tuple[str, int]:
    """One of the query and the documents."""
    return as_document(index - 1) if index else ("the query", 0)


def as_inputs(inputs: object) -> list[Input]:
    """One input or several, as a list. Raises `RequestError` for what is none, `EmptyPrompt` for no input at all."""
    if isinstance(inputs, str):
        return [inputs]
    if not _is_list(inputs):
        raise RequestError(f"a str, a list of token ids, or a list of either is expected, not {type(inputs).__name__}")
    if not inputs:
        raise EmptyPrompt("there is no input")
    if isinstance(inputs[0], int):  # also a bool, which `check_tokens` refuses
        return [inputs]
    return [checked(one, "input", index) for index, one in enumerate(inputs)]


def checked(one: object, what: str, index: int | None = None) -> Input:
    """One input; its tokens are not looked at yet. Raises `RequestError` for what is neither a text nor a list."""
    if isinstance(one, str) or _is_list(one):
        return one
    name = what if index is None else f"{what} {index}"
    raise RequestError(f"{name}: {EXPECTED}, not {type(one).__name__}")


def _is_list(given: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(given, Sequence) and not isinstance(given, str | bytes | bytearray | memoryview)


async def tokens_of(
    caller: Caller, inputs: Sequence[Input], *, framed: bool, named: Named = as_input
) -> tuple[list[TokenArray], Frame]:
    """The tokens of each input, `framed` by the control tokens that the model wants; those of a list are as they are.

    Raises `EmptyPrompt` for an input without any, `InvalidText`, `TokenOutOfRange` and `RequestError`.
    """
    frame = await caller.use_vocabulary(_frame, 0) if framed else Frame(0, 0)
    found: list[TokenArray] = []
    length = sum(map(len, inputs)) if len(inputs) <= CHUNK_INPUTS else INLINE_LENGTH + 1
    for chunk in _chunks(inputs):
        use = partial(_tokenize, chunk, len(found), framed, sum(frame), named)
        found += await caller.use_vocabulary(use, length)
    return found, frame


def _chunks(inputs: Sequence[Input]) -> Iterator[Sequence[Input]]:
    begin = length = 0
    for index, one in enumerate(inputs):
        length += len(one)
        if index - begin + 1 == CHUNK_INPUTS or length >= CHUNK_LENGTH:
            yield inputs[begin : index + 1]
            begin, length = index + 1, 0
    if begin < len(inputs):
        yield inputs[begin:]


def _frame(vocabulary: Vocabulary) -> Frame:
    empty, short = (vocabulary.tokenize(text, add_special=True, parse_special=False) for text in ("", "a"))
    before = next((i for i, (one, other) in enumerate(zip(empty, short, strict=False)) if one != other), len(empty))
    return Frame(before, len(empty) - before)


def _tokenize(
    inputs: Sequence[Input], first: int, framed: bool, least: int, named: Named, vocabulary: Vocabulary
) -> list[TokenArray]:
    found = []
    for index, one in enumerate(inputs, first):
        try:
            if isinstance(one, str):
                tokens = vocabulary.token_array(one, add_special=framed, parse_special=False)
                if len(tokens) <= least:
                    raise EmptyPrompt(f"{named(index)[0]} has no text")
            else:
                tokens = as_array(check_tokens(one, vocabulary.n_vocab))
                if not len(tokens):
                    raise EmptyPrompt(f"{named(index)[0]} has no tokens")
        except InvalidText as error:
            raise InvalidText(f"{named(index)[0]}: {error.problem}") from None
        found.append(tokens)
    return found


def fitted(
    tokens: TokenArray, index: int, limit: int, truncate: bool | Literal["start", "end"], frame: Frame,
    named: Named = as_input,
) -> Cut:  # fmt: skip
    """An input within `limit` tokens. Pure. Raises `InputTooLong` unless it is to be cut."""
    if len(tokens) <= limit:
        return Cut(tokens, False)
    room = limit - frame.before - frame.after
    if truncate is False or room < 1:
        name, index = named(index)
        problem = f"{name} has {len(tokens)} tokens, and the model takes {limit}: truncate cuts it"
        raise InputTooLong(problem, index, len(tokens), limit)
    end = len(tokens) - frame.after
    body = tokens[end - room : end] if truncate == "start" else tokens[frame.before : frame.before + room]
    return Cut(numpy.concatenate([tokens[: frame.before], body, tokens[end:]]), True)
