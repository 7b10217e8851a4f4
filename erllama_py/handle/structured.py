"""What a reply is to follow: checked before there is a request; and the value that the reply has in the end.

The check runs on the caller's threads: it makes one grammar of what was given, compiles it, and looks where it leads.
What it has compiled the engine finds.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec

from erllama_py.chat.json_types import reader
from erllama_py.chat.schema import refused
from erllama_py.chat.structure import structure_text
from erllama_py.engine.backend import Vocabulary
from erllama_py.engine.structure import Matcher, Tokenizer, compile
from erllama_py.errors import InvalidGrammar, SamplerFailed
from erllama_py.options.request import STRUCTURES, RequestOptions
from erllama_py.results import Completion

# Tokens that are looked ahead, twice: a grammar that explodes does so within a few.
PROBED = 4

Read = Callable[[str], object]


def structured(options: RequestOptions, vocabulary: Vocabulary) -> tuple[RequestOptions, Read | None]:
    """The options with the grammar that the engine takes, and the function that reads the reply's value.

    Raises `InvalidGrammar` for what no reply can follow, or not within the limits of time and memory; of a schema
    `InvalidSchema`.
    """
    kind = options.json_schema
    text = structure_text(json_schema=kind, regex=options.regex, choice=options.choice, grammar=options.grammar)
    assert text is not None
    try:
        check(text, vocabulary.structure_tokenizer())
    except InvalidGrammar as error:
        if kind is None:
            raise
        raise refused(json.loads(text)["grammars"][0]["json_schema"], error.problem) from error
    none: dict[str, Any] = dict.fromkeys(STRUCTURES)
    read = reader(kind) if kind is not None else str if options.choice is not None else None
    return msgspec.structs.replace(options, **none | {"grammar": text}), read


def check(text: str, tokenizer: Tokenizer) -> None:
    """Compile a grammar and follow it for some tokens, along the first that is allowed and along the last. Raises
    `InvalidGrammar`."""
    matcher = compile(text, tokenizer)
    try:
        for is_last in (False, True):
            _follow(matcher.copy(), is_last)
    except SamplerFailed as error:
        tokenizer.check()
        raise InvalidGrammar(f"no reply can follow it: {error.problem}") from error


def _follow(matcher: Matcher, is_last: bool) -> None:
    for _ in range(PROBED):
        if matcher.is_over:
            return
        row = matcher.mask()
        words = row.nonzero()[0]
        if not len(words):
            raise SamplerFailed("it allows no token")
        word = int(words[-1 if is_last else 0])
        bits = int(row[word])
        bit = bits.bit_length() - 1 if is_last else (bits & -bits).bit_length() - 1
        matcher.accept(32 * word + bit)


def parsed(completion: Completion, read: Read) -> Completion:
    """The completion with the value of its reply, or with why it has none. One that was cut short has none."""
    if completion.finish_reason != "stop":
        return completion
    if completion.stop_sequence is not None and completion.stop_token_id is None:
        problem = f"the stop sequence {completion.stop_sequence!r} cut the reply short"
        return msgspec.structs.replace(completion, parse_error=problem)
    try:
        return msgspec.structs.replace(completion, parsed=read(completion.reply))
    except Exception as error:  # the checks of the application's own types may raise anything
        return msgspec.structs.replace(completion, parse_error=f"{type(error).__name__}: {error}")
