"""How the reply of one request is to be read: the markers of its segments, the grammar that it follows, and what is
made of it in the end. On the caller's threads, before there is a request."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from erllama_py.chat.dialect import Dialect
from erllama_py.chat.reply_grammar import Thought, reply_grammar
from erllama_py.chat.segments import Markers
from erllama_py.engine.backend import Vocabulary
from erllama_py.handle.replies import Finish, Prepared, ReplyPlan
from erllama_py.handle.structured import check, parsed, structured
from erllama_py.options.request import RequestOptions, structures


def asks_nothing(options: RequestOptions, prepared: Prepared, dialect: Dialect) -> bool:
    """Whether the reply is text alone, and free."""
    return not compiles(options) and (dialect.thinking is None or prepared.opening is None)


def compiles(options: RequestOptions) -> bool:
    """Whether a grammar is to be compiled, which may take long."""
    return bool(structures(options))


def plan_reply(options: RequestOptions, prepared: Prepared, dialect: Dialect, vocabulary: Vocabulary) -> ReplyPlan:
    """What the engine is told of the reply, and what is made of what comes. Raises `InvalidGrammar`."""
    finish: list[Finish] = []
    if structures(options):
        options, read = structured(options, vocabulary)
        if read is not None:
            finish.append(lambda completion, _: parsed(completion, read))
    thinking = _thinking(prepared, dialect)
    grammar = reply_grammar(partial(split_marker, vocabulary), thinking=thinking, structure=options.grammar)
    if grammar is not None and grammar != options.grammar:
        check(grammar, vocabulary.structure_tokenizer())
        options = msgspec.structs.replace(options, grammar=grammar)
    if prepared.finish is not None:
        finish.append(prepared.finish)
    return ReplyPlan(options, _markers(thinking, vocabulary), tuple(finish))


def _thinking(prepared: Prepared, dialect: Dialect) -> Thought | None:
    """The thinking that is to be told apart."""
    if dialect.thinking is None or prepared.opening is None:
        return None
    form = dialect.thinking
    return Thought(opens=form.opens, closes=form.closes, begun=prepared.opening.rstrip().endswith(form.opens.strip()))


def _markers(thinking: Thought | None, vocabulary: Vocabulary) -> Markers | None:
    if thinking is None:
        return None
    return Markers(
        thinking=(thinking.opens, thinking.closes), begins="thinking" if thinking.begun else "text",
        tokens=control_tokens((thinking.opens, thinking.closes), vocabulary),
    )  # fmt: skip


def control_tokens(markers: Sequence[str], vocabulary: Vocabulary) -> tuple[int, ...]:
    """The control tokens in markers, whose names would be hidden."""
    parts = (part for marker in markers for part in split_marker(vocabulary, marker))
    hidden = {part for part in parts if isinstance(part, int) and not vocabulary.token_bytes(part, special=False)}
    return tuple(sorted(hidden))


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
