"""What was drawn of a reply in an earlier life, so that another engine goes on from there: told with each `Text`, and
given back with the next `Generate`. Pure.

The tokens tell nearly all of it: what a structure allows next, what penalties look back on, text that is held back,
half a character. `Draws` is the rest.
"""

from __future__ import annotations

import msgspec

from erllama_py.results import TokenLogprob


class Thinking(msgspec.Struct, frozen=True, array_like=True):
    """Where a `ThinkingBudget` stands: see there."""

    left: int | None
    asked: bool
    waited: int
    rest: tuple[int, ...]
    written: bool


class Draws(msgspec.Struct, frozen=True, array_like=True):
    """Where a reply stands, as far as its tokens do not tell it. Only the engine looks into it.

    `sampler` is what `Sampler.used` gave: how many random numbers were used, and what else the sampler of this backend
    keeps. `stop_token` ended the reply, and is none of its tokens. `held` of the request's tokens lay in its sequence.
    The rest is what a `Finished` counts, so far.
    """

    sampler: tuple[int | float, ...] = ()
    thinking: Thinking | None = None
    stop_token: int | None = None
    held: int = 0
    prefill_tokens: int = 0
    decodes: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


NOTHING_USED = Draws()


class Drawn(msgspec.Struct, frozen=True, kw_only=True):
    """The tokens that all `Text`s so far brought, in their order, and the `draws` of the last that had any.

    `logprobs` are those of the tokens, where they are wanted. `end_thinking`: the block of thinking that the reply is
    in is to be closed, as by `EndThinking`.
    """

    token_ids: list[int]
    draws: Draws = NOTHING_USED
    logprobs: list[TokenLogprob] | None = None
    end_thinking: bool = False
