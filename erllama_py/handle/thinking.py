"""What a request asks of the model's thinking: how it is told from text, what closes it, and how it is signed.

The thinking of a conversation is always told apart where the model's markers are known. Of other prompts it is where
that is asked for, since their text may have the same marks for reasons of its own.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from erllama_py.chat.dialect import Dialect
from erllama_py.chat.segments import Markers
from erllama_py.chat.thinking import ThinkingFormat, is_opened
from erllama_py.engine.backend import Vocabulary
from erllama_py.errors import InvalidOption, InvalidText
from erllama_py.handle.replies import Prepared
from erllama_py.options.model import ModelConfig
from erllama_py.options.request import RequestOptions
from erllama_py.results import Completion, EngineEvent, ThinkingDelta, ThinkingEnd
from erllama_py.scheduler.messages import Feed

OPENING_TOKENS = 64  # at the end of a prompt: more than any marker takes

Split = Callable[[Vocabulary, tuple[str, ...]], tuple[int, ...]]


class Thinking(msgspec.Struct, frozen=True):
    """The thinking of one reply; `begun` where the prompt has opened it."""

    form: ThinkingFormat
    begun: bool


def switched(options: RequestOptions, dialect: Dialect, config: ModelConfig) -> dict[str, Any]:
    """The variables that turn thinking on or off in the chat template, as asked. Raises `InvalidOption`."""
    if options.thinking is None:
        return {}
    if _format(options, dialect, config) is None and options.thinking_markers is None:
        raise InvalidOption("thinking", "neither the model's chat template nor its vocabulary knows of thinking")
    switch = dialect.switch
    if switch is None:
        raise InvalidOption("thinking", "the model's chat template has no switch for it: it decides by itself")
    values = switch.on if options.thinking else switch.off
    if values is None:
        raise InvalidOption("thinking", f"the model's chat template has no {switch.name} that turns it off")
    if switch.name in options.template_kwargs:
        raise InvalidOption(
            "thinking", f"template_kwargs has {switch.name!r}, which says the same: give one of the two"
        )
    return values


def is_told_apart(options: RequestOptions, prepared: Prepared, dialect: Dialect, config: ModelConfig) -> bool:
    """Whether a reply's thinking is to be told from its text, or was asked for where it cannot be."""
    if prepared.opening is not None and _format(options, dialect, config) is not None:
        return True
    asked = options.thinking is not None and prepared.opening is None
    return asked or bool(options.thinking_markers) or options.thinking_budget_tokens is not None


def asks_to_think(options: RequestOptions) -> bool:
    """Whether a request says anything of thinking."""
    given = (options.thinking, options.thinking_markers, options.thinking_budget_tokens)
    return any(one is not None for one in given)


def find_thinking(
    options: RequestOptions, prepared: Prepared, dialect: Dialect, config: ModelConfig, vocabulary: Vocabulary
) -> Thinking | None:
    """The thinking that is told apart. Raises `InvalidOption`."""
    if not is_told_apart(options, prepared, dialect, config):
        return None
    if options.thinking is False and prepared.opening is None:
        raise InvalidOption("thinking", "there is no chat template that could turn it off: the prompt is a text")
    form = _format(options, dialect, config)
    if form is None:
        option = "thinking" if options.thinking_budget_tokens is None else "thinking_budget_tokens"
        raise InvalidOption(option, "how this model marks its thinking is not known: give thinking_markers")
    if form.closes in _message(options, config):
        raise InvalidOption("thinking_budget_message", f"it holds {form.closes!r}, which closes the block after it")
    opening = prepared.opening
    if opening is None:
        opening = vocabulary.detokenize(prepared.tokens[-OPENING_TOKENS:], special=True)
    return Thinking(form, is_opened(form, opening, continued=options.continue_final_message))


def thinking_markers(
    thinking: Thinking, options: RequestOptions, config: ModelConfig, vocabulary: Vocabulary, control: Split
) -> Markers:
    """What tells it from text; `control` finds the control tokens in markers."""
    form, tokenize = thinking.form, partial(vocabulary.tokenize, add_special=False)
    closing = tokenize(_message(options, config), parse_special=False)
    closing += tokenize(form.closes + form.resumes, parse_special=True)
    return Markers(
        thinking=(form.opens, form.closes), dropped=form.headers, begins="thinking" if thinking.begun else "text",
        tokens=control(vocabulary, (form.opens, form.closes, *form.headers)), closing=tuple(closing),
        budget=options.thinking_budget_tokens,
    )  # fmt: skip


def _message(options: RequestOptions, config: ModelConfig) -> str:
    given = options.thinking_budget_message
    return config.thinking_budget_message if given is None else given


def _format(options: RequestOptions, dialect: Dialect, config: ModelConfig) -> ThinkingFormat | None:
    """The markers as they were given, or as they were found."""
    given, found = options.thinking_markers, dialect.thinking
    if given is None:
        given = config.thinking_markers
    if given is None:
        return found
    if isinstance(given, bool):
        return None
    opens, closes = (marker.strip() for marker in given)
    if found is not None and (opens, closes) == (found.opens, found.closes):
        return found
    return ThinkingFormat(opens=opens, closes=closes)


def signature(key: bytes, text: str) -> str:
    """HMAC-SHA256 of a text's UTF-8 bytes, in hex."""
    return hmac.digest(key, text.encode(), "sha256").hex()


def is_genuine(key: bytes | None, text: str, given: str) -> bool | None:
    """Whether this is the signature of a text; None without a key. Raises `InvalidText`."""
    if key is None:
        return None
    try:
        return hmac.compare_digest(signature(key, text).encode(), given.encode())
    except UnicodeEncodeError:
        raise InvalidText("the thinking, or its signature, has no UTF-8 form") from None


def signed(key: bytes, completion: Completion, index: int) -> Completion:
    """The completion with the signature of what it thought."""
    if completion.thinking is None:
        return completion
    return msgspec.structs.replace(completion, thinking_signature=signature(key, completion.thinking))


def signed_events(key: bytes, feed: Feed, index: int) -> Feed:
    """Takes the events of one reply, and gives each block of thinking its signature."""
    block: list[str] = []

    def take(event: EngineEvent) -> None:
        match event:
            case ThinkingDelta():
                block.append(event.text)
            case ThinkingEnd():
                event = msgspec.structs.replace(event, signature=signature(key, "".join(block)))
                block.clear()
        feed(event)

    return take
