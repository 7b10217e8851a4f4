"""What goes into the engine thread and what comes back: frozen structs, ready to cross a process border.

Jobs go through a queue one by one. Outcomes come back in one batch per tick, in the order in which they
happened; the last outcome of a request is `Finished` or `Failed`, exactly one of them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from erllama_py.engine.backend import Sampling

FinishReason = Literal["stop", "length", "cancelled"]


class Generate(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Prefill `tokens` into a sequence and sample from there.

    The first `keep` tokens are in the sequence already; whatever it holds from position `keep` on is
    dropped first. `max_new_tokens` ≥ 1. `stop_sequences` end the text where the earliest of them begins.
    `stream` asks for a `Text` per tick; without it the text comes whole, in `Finished`.
    """

    request_id: int
    seq_id: int
    tokens: list[int]
    keep: int
    max_new_tokens: int
    sampling: Sampling
    stop_sequences: tuple[str, ...] = ()
    stream: bool = False


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Finish a request at the next tick with what it has. No effect when it is over already."""

    request_id: int


class Fault(msgspec.Struct, frozen=True, tag=True):
    """A drill: make the thread itself (`"thread"`) or its next decode (`"decode"`) fail."""

    where: Literal["thread", "decode"]


Job = Generate | Cancel | Fault


class Prefilled(msgspec.Struct, frozen=True, tag=True):
    """A slice of the prompt is in: `done` of `total` prompt tokens, the kept ones counted in."""

    request_id: int
    done: int
    total: int


class Text(msgspec.Struct, frozen=True, tag=True):
    """New text (whole characters, no part of a stop sequence) and the token ids sampled since the last."""

    request_id: int
    text: str
    token_ids: list[int]


class Finished(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The request is over; its sequence holds `held` tokens: the prompt, then what was sampled and decoded.

    `token_ids` are all tokens sampled, the end token left out; their text may go beyond `text`, which a stop
    sequence cuts.
    """

    request_id: int
    reason: FinishReason
    stop_sequence: str | None
    text: str
    token_ids: list[int]
    held: int
    first_held: int  # the lowest position that is still there (sliding windows forget), -1 when none
    prefill_tokens: int  # tokens decoded for the prompt: what was not kept
    prefill_seconds: float
    decode_seconds: float
    decodes: int  # calls of the backend's decode that this request took part in after its prefill


class Failed(msgspec.Struct, frozen=True, tag=True):
    """This request cannot go on; the engine can. `error` is the name of a class in `errors`."""

    request_id: int
    error: str
    problem: str


class Died(msgspec.Struct, frozen=True, tag=True):
    """The engine thread ended by itself. Nothing comes after this."""

    error: str
    problem: str


Outcome = Prefilled | Text | Finished | Failed | Died
