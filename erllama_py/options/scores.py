"""What `score` and `choose` take beside the prompt, checked once, at the door."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

from msgspec import Meta

from erllama_py.errors import InvalidOption
from erllama_py.options.chat import ChatOptions
from erllama_py.options.check import Deadline, OnCrash, Options, check_utf8, convert
from erllama_py.options.model import Salt
from erllama_py.options.names import given_at
from erllama_py.options.request import RequestOptions
from erllama_py.options.sampling import Sampling

# The first tokens of all are read off one row of logits on the engine's thread, at some µs each.
MAX_CONTINUATIONS = 2000
# Of all texts together, which are looked at on the event loop: some milliseconds.
MAX_CHARACTERS = 4_000_000

_NO_TURN = "a score is no turn of a conversation: nothing but the prompt is kept"
_REASONS = {
    "session_id": _NO_TURN,
    "session_wait": _NO_TURN,
    "parent_key": _NO_TURN,
    "prompt_logprobs": "a score tells of the continuations; `prefill_only` with it tells of all of a prompt",
    "reproducible": "it reads the prompt in other batches than a reproducible reply does",
}
_OF_CHATS = set(ChatOptions.__struct_fields__) - set(Sampling.__struct_fields__)
_RENDERED = "messages are rendered without it: pass the tokens of `apply_chat_template` as the prompt"
_NOT_DRAWN = "nothing is drawn for a score, which is by the model's logits alone"


@given_at("it is an option of `score` and `choose`")
class ScoreOptions(Options, frozen=True):
    """What `score` and `choose` take beside the prompt and its continuations."""

    cache_salt: Salt | None = None
    """In place of the model's `cache_salt`, for this call."""
    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    """Higher goes first; among equals, the one that came first."""
    queue_wait: bool | Annotated[float, Meta(ge=0.0)] = False
    """Seconds that the prompt waits for room in a full queue instead of raising `QueueFull`; True: until there is. One
    place is enough for all continuations."""
    deadline: Deadline | None = None
    """Seconds from the call, after which it raises `DeadlinePassed`: a score is whole or not at all."""
    on_crash: OnCrash = "continue"
    """What becomes of it when its model crashes: `"continue"`, it goes on once the model is back; `"fail"`, it raises
    `ModelCrashed`. One that crashes its model again and again fails too."""


def parse_score_options(options: Mapping[str, object]) -> ScoreOptions:
    """Check the options of one call. Raises `InvalidOption`."""
    for name in options:
        if name in RequestOptions.__struct_fields__ and name not in ScoreOptions.__struct_fields__:
            raise InvalidOption(name, _REASONS.get(name, _RENDERED if name in _OF_CHATS else _NOT_DRAWN))
    checked = convert(options, ScoreOptions, queue_wait=lambda wait: True if wait == math.inf else wait)
    if checked.cache_salt is not None:
        check_utf8("cache_salt", checked.cache_salt)
    return checked


def check_continuations(option: str, given: object, *, tokens: bool = True) -> list[str | Sequence[object]]:
    """`given` as a list of texts or, with `tokens`, of lists of token ids too. Raises `InvalidOption`."""
    what, kinds = ("texts or lists of token ids", "str or a list of token ids") if tokens else ("texts", "str")
    if not isinstance(given, Sequence) or isinstance(given, str | bytes | bytearray):
        raise InvalidOption(option, f"expected a list of {what}, got {type(given).__name__}")
    if not 1 <= len(given) <= MAX_CONTINUATIONS:
        raise InvalidOption(option, f"expected 1 to {MAX_CONTINUATIONS} {what}, got {len(given)}")
    for index, one in enumerate(given):
        listed = tokens and isinstance(one, Sequence) and not isinstance(one, bytes | bytearray)
        if not isinstance(one, str) and not listed:
            raise InvalidOption(option, f"at index {index}: expected {kinds}, got {type(one).__name__}")
        if not one:
            raise InvalidOption(option, f"at index {index}: it is empty")
    texts = [one for one in given if isinstance(one, str)]
    if (characters := sum(map(len, texts))) > MAX_CHARACTERS:
        raise InvalidOption(option, f"expected at most {MAX_CHARACTERS} characters together, got {characters}")
    for text in texts:
        check_utf8(option, text)
    return list(given)


def check_options(given: object) -> list[str]:
    """The options of a `choose`: texts, no two alike. Raises `InvalidOption`."""
    texts, places = [], dict[str, int]()
    for index, text in enumerate(check_continuations("options", given, tokens=False)):
        assert isinstance(text, str)
        if text in places:
            raise InvalidOption("options", f"at index {index}: the same as at index {places[text]}")
        places[text] = index
        texts.append(text)
    return texts
