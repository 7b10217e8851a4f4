"""Texts held against what a reply can be made to follow, by the byte vocabulary of the stub."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

from erllama_py.chat.structure import structure_text
from erllama_py.engine.structure import Matcher, compile
from erllama_py.engine.stub import StubVocabulary
from erllama_py.errors import InvalidGrammar, SamplerFailed
from erllama_py.handle.structured import check

BYTES = StubVocabulary("bytes", 300)


def may_end(matcher: Matcher) -> bool:
    """Whether a reply may end here."""
    return matcher.is_over or any(map(matcher.allows, BYTES.ends))


def follows(text: str, **structure: Any) -> bool:
    """Whether a reply can be this text."""
    grammar = structure_text(**structure)
    assert grammar is not None
    matcher = compile(grammar, BYTES.structure_tokenizer())
    try:
        for byte in text.encode():
            if matcher.is_over or not matcher.allows(byte):
                return False
            matcher.accept(byte)
        return may_end(matcher)
    except SamplerFailed:
        return False


def refusal(**structure: Any) -> str:
    """Why no reply can follow it; empty where one can."""
    try:
        grammar = structure_text(**structure)
        assert grammar is not None
        check(grammar, BYTES.structure_tokenizer())
    except InvalidGrammar as error:
        return str(error)
    return ""


def follow_by_chance(luck: random.Random, most: int = 4000, **structure: Any) -> str | None:
    """A reply of random bytes, those that end things preferred; None for one that is not over after `most` bytes, or
    that failed on the way. Raises `InvalidGrammar`."""
    grammar = structure_text(**structure)
    assert grammar is not None
    check(grammar, BYTES.structure_tokenizer())
    matcher, text = compile(grammar, BYTES.structure_tokenizer()), bytearray()
    with suppress(SamplerFailed):
        for _ in range(most):
            if matcher.is_over or (may_end(matcher) and luck.random() < 0.3):
                return text.decode()
            allowed = [byte for byte in range(256) if matcher.allows(byte)]
            if not allowed:
                return text.decode() if may_end(matcher) else None
            endings = [byte for byte in allowed if byte in b'"]},0']
            byte = luck.choice(endings if endings and luck.random() < 0.4 else allowed)
            matcher.accept(byte)
            text.append(byte)
    return None
