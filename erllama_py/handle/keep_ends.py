"""Where the messages of a conversation end that are to be kept, in the tokens of its prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from erllama_py.chat.breakpoints import Place, end_of, shared
from erllama_py.chat.rendering import Renderer
from erllama_py.chat.trimming import place_after
from erllama_py.engine.backend import Vocabulary
from erllama_py.engine.token_array import in_pieces
from erllama_py.handle.caller import Caller
from erllama_py.handle.port import INLINE_LENGTH
from erllama_py.handle.replies import Prepared
from erllama_py.handle.turns import Known, Turns
from erllama_py.options.request import RequestOptions

Messages = Sequence[Mapping[str, Any]]


class KeepEnds:
    """Finds them for one model, in the order of the options."""

    def __init__(self, caller: Caller, turns: Turns) -> None:
        self._caller, self._turns = caller, turns

    async def rendered(
        self, renderer: Renderer, messages: Messages, tokens: list[int], options: RequestOptions
    ) -> tuple[int, ...]:
        """Those of a prompt that was rendered: as far as its template shows the same, whatever follows."""
        return tuple(end for end, _ in await self._ends(renderer, messages, tokens, _places(options)))

    async def after(
        self, renderer: Renderer, messages: Messages, known: Known, tokens: list[int], options: RequestOptions
    ) -> tuple[int, ...]:
        """Those of a prompt that continues a known reply. A message before that may have other tokens than a rendering
        has; then all up to the reply's end is kept."""
        places = _places(options)
        ends = await self._ends(renderer, messages, tokens, places)
        return tuple([
            end if whole else await self._beyond(renderer, messages, known, tokens, place)
            for place, (end, whole) in zip(places, ends, strict=True)
        ])  # fmt: skip

    async def _ends(
        self, renderer: Renderer, messages: Messages, tokens: list[int], places: list[Place]
    ) -> list[tuple[int, bool]]:
        if not places:
            return []
        last = len(messages) - 1

        def find(vocabulary: Vocabulary) -> list[tuple[int, bool]]:
            tokenize = tokenizing(renderer, vocabulary)
            return [
                (len(tokens), True) if place == last else end_of(messages, place, tokens, renderer.text, tokenize)
                for place in places
            ]

        # On a worker thread: the template runs once or twice for each.
        return await self._caller.use_vocabulary(find, INLINE_LENGTH + 1)

    async def _beyond(
        self, renderer: Renderer, messages: Messages, known: Known, tokens: list[int], place: Place
    ) -> int:
        """Where a message ends that does not end before the known reply does."""
        held = len(known.tokens)
        if place == "tools" or place <= known.place:
            return held
        text = await self._turns.text_after(renderer, messages[: place + 1], known.place)
        if text is None:
            return held

        def tokenize(vocabulary: Vocabulary) -> list[int]:
            return tokenizing(renderer, vocabulary)(text)

        return held + shared(await self._caller.use_vocabulary(tokenize, INLINE_LENGTH + 1), tokens[held:])


def of_kept(options: RequestOptions, messages: Messages, kept: int) -> RequestOptions:
    """The options for the `kept` messages that are left of a conversation; those in `options` are of the whole one."""
    left = []
    for one in options.keep:
        place = place_after(one.message, messages, kept) if isinstance(one.message, int) else one.message
        if place is not None or one.message is None:
            left.append(msgspec.structs.replace(one, message=place))
    return msgspec.structs.replace(options, keep=tuple(left))


def with_dropped(prepared: Prepared, options: RequestOptions, messages: Messages, kept: int) -> Prepared:
    """The prompt of what is left, with an end for each message that the options name: 0 for one that was dropped."""
    ends = iter(prepared.ends)
    return msgspec.structs.replace(prepared, ends=tuple(
        0 if isinstance(place, int) and place_after(place, messages, kept) is None else next(ends)
        for place in _places(options)
    ))  # fmt: skip


def tokenizing(renderer: Renderer, vocabulary: Vocabulary) -> Callable[[str], list[int]]:
    """What gives the tokens of a text that was rendered."""
    return lambda text: in_pieces(vocabulary.tokenize_parts(renderer.parts(text)))


def _places(options: RequestOptions) -> list[Place]:
    return [one.message for one in options.keep if one.message is not None]
