"""How the reply of one request is to be read: the markers of its segments, the grammar that it follows, and what is
made of it in the end. On the caller's threads, before there is a request."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from erllama_py.chat.dialect import Dialect
from erllama_py.chat.reply_grammar import Thought, reply_grammar
from erllama_py.engine.backend import Vocabulary
from erllama_py.handle.replies import Finish, Prepared, ReplyPlan
from erllama_py.handle.structured import check, parsed, structured
from erllama_py.handle.thinking import find_thinking, is_told_apart, signed, signed_events, thinking_markers
from erllama_py.options.model import ModelConfig
from erllama_py.options.request import RequestOptions, structures


def asks_nothing(options: RequestOptions, prepared: Prepared, dialect: Dialect, config: ModelConfig) -> bool:
    """Whether the reply is text alone, and free."""
    return not compiles(options) and not is_told_apart(options, prepared, dialect, config)


def compiles(options: RequestOptions) -> bool:
    """Whether a grammar is to be compiled, which may take long."""
    return bool(structures(options))


def plan_reply(
    options: RequestOptions, prepared: Prepared, dialect: Dialect, config: ModelConfig, vocabulary: Vocabulary
) -> ReplyPlan:
    """What the engine is told of the reply, and what is made of what comes. Raises `InvalidGrammar` and
    `InvalidOption`."""
    finish: list[Finish] = []
    if structures(options):
        options, read = structured(options, vocabulary)
        if read is not None:
            finish.append(lambda completion, _: parsed(completion, read))
    thinking = find_thinking(options, prepared, dialect, config, vocabulary)
    thought = None if thinking is None else Thought(form=thinking.form, begun=thinking.begun)
    grammar = reply_grammar(partial(split_marker, vocabulary), thinking=thought, structure=options.grammar)
    if grammar is not None and grammar != options.grammar:
        check(grammar, vocabulary.structure_tokenizer())
        options = msgspec.structs.replace(options, grammar=grammar)
    key, events = config.thinking_signing_key, None
    if thinking is not None and key is not None:
        finish.append(partial(signed, key))
        events = partial(signed_events, key)
    if prepared.finish is not None:
        finish.append(prepared.finish)
    markers = None if thinking is None else thinking_markers(thinking, options, config, vocabulary, control_tokens)
    return ReplyPlan(options, markers, tuple(finish), events)


def control_tokens(vocabulary: Vocabulary, markers: Sequence[str]) -> tuple[int, ...]:
    """The control tokens in markers, whose names would be hidden."""
    parts = (part for marker in markers for part in split_marker(vocabulary, marker))
    hidden = {part for part in parts if isinstance(part, int) and not vocabulary.token_bytes(part, special=False)}
    return tuple(sorted(hidden))


def is_one_token(vocabulary: Vocabulary, marker: str) -> bool:
    """Whether a marker is one token of the vocabulary."""
    return len(vocabulary.tokenize(marker, add_special=False, parse_special=True)) == 1


def split_marker(vocabulary: Vocabulary, marker: str) -> list[int | str]:
    """A marker as control tokens, by id, and the texts between them.

    A token such as `<tool_call>` that shows its name counts as one too, as it does in `structure_words`.
    """
    parts: list[int | str] = []
    held = b""
    for token in vocabulary.tokenize(marker, add_special=False, parse_special=True):
        shown, name = vocabulary.token_bytes(token, special=False), vocabulary.token_bytes(token, special=True)
        if not shown or (len(name) > 2 and name[:1] == b"<" and name[-1:] == b">"):
            parts, held = [*parts, *([held.decode()] if held else []), token], b""
        else:
            held += shown
    return [*parts, held.decode()] if held else parts
