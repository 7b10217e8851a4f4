"""Exact turns: what a client sends back is recognised, and what was read and sampled for it is used again.

A client without state sends the whole conversation each time. Its replies are looked up, the last one first, by what
they say and by all that precedes them (`chat.turn_keys`); a prompt is then the tokens of that reply and of all before
it, and what is new (`chat.turns`). When a reply is complete, its own tokens are given to the cache. Where the cache
knows nothing, or is down, the conversation is rendered.
"""

from __future__ import annotations

import secrets
import string
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from erllama_py.cache.keys import Identity, pack_tokens, unpack_tokens
from erllama_py.cache.messages import FindTurn, KeepTurn, NewTurn, Turn
from erllama_py.chat.conversation import text_of_content
from erllama_py.chat.rendering import Renderer
from erllama_py.chat.template import ChatSettings
from erllama_py.chat.turn_keys import NotHashable, is_reply, message_hashes, reply_keys, shape_hash
from erllama_py.chat.turns import text_after_reply
from erllama_py.engine.backend import Vocabulary
from erllama_py.handle.caller import Caller
from erllama_py.handle.port import INLINE_LENGTH
from erllama_py.handle.replies import Finish
from erllama_py.options.request import RequestOptions
from erllama_py.results import EARLY, Completion, Stats

Message = Mapping[str, Any]

# Replies that are looked for, from the last one backwards: that many were not read again since one was known.
MOST_REPLIES = 256
# Hashing so many messages takes half a millisecond.
INLINE_MESSAGES = 16


class Known(msgspec.Struct, frozen=True):
    """A reply that was recognised: its place among the messages, what it was found by, and all tokens up to its end."""

    place: int
    found_by: bytes | None
    tokens: list[int]


class Look(msgspec.Struct, frozen=True):
    """What was found for a conversation. `hashes` are those of `message_hashes`."""

    hashes: list[bytes]
    asked: list[tuple[int, bytes]] = []  # replies by their places, and a key of each; the last reply first
    known: Known | None = None


class Turns:
    """Looks for turns of one model, and keeps them."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def look(
        self, messages: Sequence[Message], settings: ChatSettings, options: RequestOptions, *, peek: bool = False
    ) -> Look | None:
        """The hashes of a conversation, and the last reply in it that is recognised. With `peek` that is not counted.

        None where turns are not recognised: that was asked for, or the model saves nothing, or no JSON can hold what is
        in the messages.
        """
        look = await self.hashed(messages, settings, options)
        return look if look is None or not look.asked else await self._find(look, peek)

    async def hashed(self, messages: Sequence[Message], settings: ChatSettings, options: RequestOptions) -> Look | None:
        """`look` without asking the cache."""
        config = self._caller.board.config
        if not options.exact_turns or config.policy.min_tokens is None:
            return None
        await self._caller.actor()
        look = partial(_hashed, self._caller.identity(options), msgspec.structs.asdict(settings), messages)
        is_short = len(messages) <= INLINE_MESSAGES and _length(messages) + _length(settings.tools) <= INLINE_LENGTH
        return look() if is_short else await self._caller.threads.abandon(look)

    async def _find(self, look: Look, peek: bool) -> Look:
        wait = self._caller.board.config.policy.session_resume_wait_ms / 1000
        keys = tuple(key for _, key in look.asked)
        turn = await self._caller.cache.find_turn(FindTurn(keys, wait, peek))
        if turn is None:
            return look
        tokens = await self._caller.use_vocabulary(partial(_unpacked, turn), len(turn.tokens))
        place, found_by = look.asked[turn.place]
        return look if tokens is None else msgspec.structs.replace(look, known=Known(place, found_by, tokens))

    async def text_after(
        self, renderer: Renderer, messages: Sequence[Message], place: int, *, continued: bool = False
    ) -> str | None:
        """What follows the reply at `place`, as the renderer's text with marks; None where the template cannot tell.

        With `continued` the last message is left open.
        """

        def render(shown: Sequence[Message], opened: bool) -> str:
            if continued and len(shown) == len(messages):
                return renderer.text(shown, False, continued=True)
            return renderer.text(shown, opened)

        said, new = messages[: place + 1], messages[place + 1 :]
        if continued and not new:
            return ""
        ends: list[str] = []
        if said[-1].get("tool_calls"):
            ends = await self._caller.use_vocabulary(_end_texts, INLINE_LENGTH + 1)
        # A template is the model's own code: not on the loop, however much its fuel bounds it.
        return await self._caller.threads.abandon(text_after_reply, said, new, render, ends, _secret_word())

    def finish(self, look: Look, prompt: Sequence[int], messages: Sequence[Message], options: RequestOptions) -> Finish:
        """What gives the tokens of a reply to that prompt to the cache, when it is complete."""
        begun = messages[-1] if options.continue_final_message else None

        def keep(completion: Completion, index: int) -> Completion:
            message = completion.message
            if begun is not None:
                message = {**begun, **message, "content": text_of_content(begun.get("content")) + completion.reply}
            if completion.generated or completion.finish_reason not in EARLY:
                before = look.hashes[-1 if begun is None else -2]
                self._keep(look, before, message, [*prompt, *completion.generated], completion.stats, options)
            return completion

        return keep

    def _keep(
        self, look: Look, before: bytes, message: Message, tokens: list[int], stats: Stats, options: RequestOptions
    ) -> None:
        facts, config = self._caller.board.facts, self._caller.board.config
        try:
            found_by = reply_keys(before, message)
        except NotHashable:
            return
        turn = NewTurn(
            identity=self._caller.identity(options), found_by=found_by, tokens=pack_tokens(tokens),
            after=None if look.known is None else look.known.found_by, build="" if facts is None else facts.build,
            seconds=stats.prefill_seconds + stats.decode_seconds,
        )  # fmt: skip
        self._caller.cache.tell(KeepTurn(turn, config.tier_srv))


def forgotten(look: Look | None) -> Look | None:
    """The same where the prompt does not continue what is known."""
    return look if look is None else msgspec.structs.replace(look, known=None)


def with_known(look: Look | None, place: int, tokens: list[int]) -> Known:
    """A reply whose tokens the caller has, as one that was recognised."""
    asked = () if look is None else look.asked
    return Known(place, next((key for at, key in asked if at == place), None), tokens)


def _secret_word() -> str:
    return "".join(secrets.choice(string.ascii_letters) for _ in range(24))


def _hashed(identity: Identity, shape: Mapping[str, object], messages: Sequence[Message]) -> Look | None:
    owner = identity.fingerprint + bytes([identity.quant_bits])
    asked: list[tuple[int, bytes]] = []
    try:
        hashes = message_hashes(shape_hash(owner, shape), messages)
        places = [place for place, message in enumerate(messages) if is_reply(message)]
        for place in reversed(places[-MOST_REPLIES:]):
            asked += [(place, key) for key in reply_keys(hashes[place], messages[place])]
    except NotHashable:
        return None
    return Look(hashes, asked)


def _unpacked(turn: Turn, vocabulary: Vocabulary) -> list[int] | None:
    """The tokens of a turn; None if the model has no such tokens, whatever has written them."""
    tokens = unpack_tokens(turn.tokens)
    return tokens if max(tokens) < vocabulary.n_vocab else None


def _end_texts(vocabulary: Vocabulary) -> list[str]:
    return [vocabulary.token_bytes(token, special=True).decode(errors="replace") for token in vocabulary.ends]


def _length(value: object, depth: int = 0) -> int:
    """About how many characters a value has as JSON, counted no further than needed."""
    if isinstance(value, str):
        return len(value)
    if depth > 3 or not isinstance(value, Mapping | list | tuple):
        return 8
    inner = value.values() if isinstance(value, Mapping) else value
    length = 0
    for one in inner:
        length += _length(one, depth + 1)
        if length > INLINE_LENGTH:
            break
    return length
