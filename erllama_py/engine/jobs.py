"""What goes into the engine thread and what comes back: frozen structs, ready to cross a process border.

Jobs go through a queue one by one. Outcomes come back in one batch per tick, in the order in which they
happened; the last outcome of a request is `Finished` or `Failed`, exactly one of them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from erllama_py.config import SaveReason
from erllama_py.engine.backend import Sampling

SkipReason = Literal["no_buffer", "forgotten"]
FinishReason = Literal["stop", "length", "cancelled"]


class Generate(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Prefill `tokens` into a sequence and sample from there.

    The first `keep` tokens are in the sequence already; whatever it holds from position `keep` on is
    dropped first. All of `tokens` may be kept where `logits`, those at their end, are given: the first token
    is then drawn without a decode. `max_new_tokens` ≥ 0; with 0 nothing is drawn. `stop_sequences` end the
    text where the earliest of them begins. `stream` asks for a `Text` per tick; without it the text comes
    whole, in `Finished`. `saves` says which ranges to copy out on the way, `keep_logits` whether the logits
    at the prompt's end are wanted.
    """

    request_id: int
    seq_id: int
    tokens: list[int]
    keep: int
    max_new_tokens: int
    sampling: Sampling
    stop_sequences: tuple[str, ...] = ()
    stream: bool = False
    saves: CapturePlan | None = None
    logits: bytes | None = None
    keep_logits: bool = False


class CapturePlan(msgspec.Struct, frozen=True, kw_only=True):
    """Which ranges of a sequence to copy out while it grows, each from where the last one ended.

    Positions up to `captured_to` are saved already. `prompt_ends` ascend and are at most the prompt's length;
    after the prompt a range ends every `interval` generated tokens; the last one ends with the request, if the
    sequence then holds at least `min_tokens`.
    """

    captured_to: int
    prompt_ends: tuple[int, ...]
    interval: int
    min_tokens: int


class Restore(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Put captured bytes back as positions `[start, end)`; whatever the sequence holds from `start` on is dropped.

    Answered with `Restored`.
    """

    request_id: int
    seq_id: int
    start: int
    end: int
    payload: memoryview


class Capture(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Copy positions `[start, end)` out of a sequence at rest. Answered with `Captured`, reason as given."""

    request_id: int
    seq_id: int
    start: int
    end: int
    reason: SaveReason


class Drop(msgspec.Struct, frozen=True, tag=True):
    """Forget everything that a sequence holds. Not answered."""

    seq_id: int


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Finish a request at the next tick with what it has. No effect when it is over already."""

    request_id: int


class Fault(msgspec.Struct, frozen=True, tag=True):
    """A drill: make the thread itself (`"thread"`) or its next decode (`"decode"`) fail."""

    where: Literal["thread", "decode"]


Job = Generate | Restore | Capture | Drop | Cancel | Fault


class Prefilled(msgspec.Struct, frozen=True, tag=True):
    """A slice of the prompt is in: `done` of `total` prompt tokens, the kept ones counted in."""

    request_id: int
    done: int
    total: int


class Restored(msgspec.Struct, frozen=True, tag=True):
    """A `Restore` is done: the sequence ends at `end`. Not `ok`: the bytes were refused, see `held`."""

    request_id: int
    end: int
    ok: bool
    held: int  # how many tokens the sequence holds now
    seconds: float


class Captured(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The KV state of positions `[start, end)`; `payload` is None where it was not copied: `skipped` says why.

    `seconds` is how long the copy took, `compute_seconds` about what computing these cells did.
    """

    request_id: int
    start: int
    end: int
    reason: SaveReason
    payload: memoryview | None
    skipped: SkipReason | None  # "no_buffer": the budget is used up; "forgotten": cells have left a sliding window
    seconds: float
    compute_seconds: float
    generated: list[int]  # the tokens behind the prompt up to `end`


class PromptLogits(msgspec.Struct, frozen=True, tag=True):
    """The logits at the prompt's end: `n_vocab` 32-bit floats."""

    request_id: int
    logits: bytes


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
    captured_to: int  # up to where its cells were copied out, `None` buffers not counted
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


Outcome = Prefilled | Restored | Captured | PromptLogits | Text | Finished | Failed | Died
