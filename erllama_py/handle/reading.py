"""How the reply of one request is to be read: the markers of its segments, the grammar that it follows, and what is
made of it in the end. On the caller's threads, before there is a request."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import msgspec

from erllama_py.chat.dialect import Dialect
from erllama_py.chat.reply_grammar import Calls, Thought, reply_grammar
from erllama_py.chat.segments import Markers
from erllama_py.chat.tool_formats import Marks
from erllama_py.engine.backend import Vocabulary
from erllama_py.handle.callable_tools import grammar_calls, refused_tools
from erllama_py.handle.replies import Events, Finish, Prepared, ReplyPlan
from erllama_py.handle.structured import check, parsed, structured
from erllama_py.handle.thinking import (
    asks_to_think,
    find_thinking,
    is_told_apart,
    signed,
    signed_events,
    thinking_markers,
)
from erllama_py.handle.tool_calls import ReplyCalls
from erllama_py.options.model import ModelConfig
from erllama_py.options.request import RequestOptions, may_call, structures


def is_plain(options: RequestOptions, prepared: Prepared) -> bool:
    """Whether nothing has to be known of the model's conversations: a raw prompt, and no option about its reply."""
    return prepared.opening is None and not compiles(options) and not asks_to_think(options)


def asks_nothing(options: RequestOptions, prepared: Prepared, dialect: Dialect, config: ModelConfig) -> bool:
    """Whether the reply is text alone, and free."""
    return not compiles(options) and not is_told_apart(options, prepared, dialect, config)


def compiles(options: RequestOptions) -> bool:
    """Whether a grammar is to be compiled, which may take long."""
    return bool(structures(options)) or bool(options.tools)


def plan_reply(
    options: RequestOptions, prepared: Prepared, dialect: Dialect, config: ModelConfig, vocabulary: Vocabulary
) -> ReplyPlan:
    """What the engine is told of the reply, and what is made of what comes. Raises `InvalidGrammar`,
    `InvalidSchema` and `InvalidOption`."""
    finish, events = list[Finish](), list[Events]()
    if structures(options):
        options, read = structured(options, vocabulary)
        if read is not None:
            finish.append(lambda completion, _: completion if completion.tool_calls else parsed(completion, read))
    thinking = find_thinking(options, prepared, dialect, config, vocabulary)
    calls = grammar_calls(options, dialect)
    thought = None if thinking is None else Thought(form=thinking.form, begun=thinking.begun)
    follows = options.grammar is not None
    options = _with_grammar(options, thought, calls, vocabulary)
    key, markers = config.thinking_signing_key, None
    if thinking is not None:
        markers = thinking_markers(thinking, options, config, vocabulary, control_tokens)
        if key is not None:
            finish.append(partial(signed, key))
            events.append(partial(signed_events, key))
    if calls is not None and may_call(options):
        replies = ReplyCalls(calls.form, options.tools)
        marks = calls.form.marks(calls.names)
        if follows and calls.form.guesses:
            marks = msgspec.structs.replace(marks, at_start=())
        markers = call_markers(markers, marks, vocabulary)
        finish.insert(0, replies.finish)
        events.append(replies.events)
    if prepared.finish is not None:
        finish.append(prepared.finish)
    return ReplyPlan(options, markers, tuple(finish), tuple(events))


def _with_grammar(
    options: RequestOptions, thinking: Thought | None, calls: Calls | None, vocabulary: Vocabulary
) -> RequestOptions:
    """The options with one grammar for the whole reply."""
    if calls is None and options.grammar is None:
        return options
    split, tokenizer = partial(split_marker, vocabulary), vocabulary.structure_tokenizer()
    shown = tokenizer.marks(lambda token: bool(vocabulary.token_bytes(token, special=False)))
    grammar = reply_grammar(split, thinking=thinking, calls=calls, structure=options.grammar, shown=shown)
    if grammar is None or grammar == options.grammar:
        return options
    with refused_tools(calls, tokenizer):
        check(grammar, tokenizer)
    return msgspec.structs.replace(options, grammar=grammar)


def call_markers(markers: Markers | None, marks: Marks, vocabulary: Vocabulary) -> Markers:
    """What tells calls from text, beside what tells thinking from it."""
    markers = Markers() if markers is None else markers
    return msgspec.structs.replace(
        markers, calls=marks.opens, calls_at_start=marks.at_start, call_end=marks.end, call_quotes=marks.quotes,
        dropped=tuple(dict.fromkeys((*markers.dropped, *marks.dropped))), dropped_at_start=marks.dropped_at_start,
        tokens=tuple(sorted({*markers.tokens, *control_tokens(vocabulary, marks.all())})),
    )  # fmt: skip


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
