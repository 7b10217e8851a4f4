"""What goes into the engine thread and what comes back: frozen structs, ready to cross a process border.

Jobs go through a queue one by one. Outcomes come back in one batch per tick, in the order in which they
happened; the last outcome of a request is `Finished` or `Failed`, exactly one of them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from erllama_py.chat.segments import Markers, SegmentKind
from erllama_py.engine.backend import MemoryKind
from erllama_py.engine.drawn import Drawn, Draws
from erllama_py.engine.failure import Failure
from erllama_py.options.model import SaveReason, SkipReason
from erllama_py.options.sampling import Sampling
from erllama_py.results import FinishReason, TokenLogprob

# A range that can end anywhere has at most this many tokens: 12 MB of a model of 135M parameters, 64 MB of one of 8
# billion, some milliseconds for which a stream stalls. It ends at a multiple, as rows do that others may share.
MOST_TOKENS = 512

# Of a reply without a stream a `Text` comes whenever so many tokens are new: no more is lost where the engine ends.
TOKENS_UNSEEN = 32


class Report(msgspec.Struct, frozen=True):
    """What is told of a request beside tokens and text; the options of the same names.

    With `prompt_logprobs`, those of the prompt's tokens from `scored_from` on are told of, and then each of
    `next_tokens`, as if it came after the prompt.
    """

    special: bool = False
    logprobs: int | None = None
    logprobs_after: bool = False
    prompt_logprobs: int | None = None
    scored_from: int = 0
    next_tokens: tuple[int, ...] = ()


NOTHING_MORE = Report()


class Generate(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Prefill `tokens` into a sequence and sample from there.

    The first `keep` tokens are in the sequence already; whatever it holds from position `keep` on is
    dropped first. All of `tokens` may be kept where `logits`, those at their end, are given: the first token
    is then drawn without a decode. `limit` is the position up to which there are cells for it, see `Wants`.
    `max_new_tokens` ≥ 0; with 0 nothing is drawn. `stop_sequences` end the text where the earliest of them
    begins; the sampling's `stop_token_ids` end it as the model's own end tokens do. `markers` tell its thinking and its
    calls from its text. `stream` asks for a `Text` per tick; without it there is one for each `TOKENS_UNSEEN` tokens.
    `saves` says which ranges to copy out on the way, `keep_logits` whether the logits at the prompt's end are wanted.
    `reproducible` has all that is computed again cut as it was at first: no slice goes beyond the prompt's end, and
    what was sampled goes token by token.

    With `drawn` the reply goes on from these tokens, of which the first `keep` may be in the sequence too: no `Text`
    repeats any of it, and `Finished` tells the whole reply, and counts the work of both lives. `retrace` has what was
    drawn computed token by token, as it was at first where nothing else was in a decode, but for tokens that a
    structure has forced.

    `lost_seconds` have passed in earlier lives, and between them, that no `Text` has told of. They count as the time of
    what they have held up: the prompt, or the reply.

    One that was `cancelled` before the engine heard of it ends with what it has: nothing, or the reply of its earlier
    life. Its sampling need not be what was asked for.
    """

    request_id: int
    seq_id: int
    tokens: list[int]
    keep: int
    limit: int
    max_new_tokens: int
    sampling: Sampling
    stop_sequences: tuple[str, ...] = ()
    report: Report = NOTHING_MORE
    stream: bool = False
    priority: int = 0
    markers: Markers | None = None
    saves: CapturePlan | None = None
    logits: bytes | None = None
    keep_logits: bool = False
    reproducible: bool = False
    drawn: Drawn | None = None
    retrace: bool = False
    cancelled: bool = False
    lost_seconds: float = 0.0


class CapturePlan(msgspec.Struct, frozen=True, kw_only=True):
    """Which ranges of a sequence to copy out while it grows, each from where the last one ended.

    Positions up to `captured_to` are saved already. `prompt_ends` ascend and are at most the prompt's length;
    after the prompt a range ends every `interval` generated tokens; the last one ends with the request, if the
    sequence then holds at least `min_tokens`. What is copied only then ends at `reply_from` first, where a range can
    end anywhere: so what is saved of the prompt does not depend on the reply. `prompt_only`: there are no ranges but
    those of `prompt_ends`.

    The first range begins at `begin`, if that is given: what is saved from there to `captured_to` is copied out once
    more, in a row that takes the place of those (see `cache.policy.row_start`). Where that fails, what is saved stays
    as it is. `apart` is how many tokens a row has that is not taken in; 0: none is.
    """

    captured_to: int
    prompt_ends: tuple[int, ...]
    interval: int
    min_tokens: int
    reply_from: int = 0
    prompt_only: bool = False
    begin: int | None = None
    apart: int = 0


class Grant(msgspec.Struct, frozen=True, tag=True):
    """A request has cells up to position `limit` now. No effect when it is over."""

    request_id: int
    limit: int


class Park(msgspec.Struct, frozen=True, tag=True):
    """Take a request out of its sequence: copy out what is not saved, one range a tick, free the cells, keep the rest.

    Answered with `Captured`, if there is something to copy, and `Parked`; not at all when it is over already.
    """

    request_id: int


class Resume(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Continue a parked request in a sequence that holds the first `keep` of its tokens again.

    What it lacks of the others is computed again; nothing is drawn twice.
    """

    request_id: int
    seq_id: int
    keep: int
    limit: int


class Fork(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Let an empty sequence share the first `length` cells of another, once those are computed.

    Answered with `Forked`; less is shared when the request in the other sequence ends before that.
    """

    request_id: int
    source: int
    seq_id: int
    length: int


class Restore(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Put captured bytes back as positions `[start, end)`; whatever the sequence holds from `start` on is dropped.

    Answered with `Restored`. A payload of None could not be brought into the engine's process: nothing is put back.
    """

    request_id: int
    seq_id: int
    start: int
    end: int
    payload: memoryview | None


class Capture(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """Copy positions `[start, end)` out of an idle sequence. Answered with `Captured`, reason as given."""

    request_id: int
    seq_id: int
    start: int
    end: int
    reason: SaveReason


def span_end(start: int, end: int, memory: MemoryKind, most: int = MOST_TOKENS) -> int:
    """Where the first range ends when `[start, end)` is copied out in several, of `most` tokens each. Only full
    attention has more than one: other kinds of memory do not hold an earlier end any more."""
    return min(end, (start // most + 1) * most) if memory == "full" else end


class Drop(msgspec.Struct, frozen=True, tag=True):
    """Forget what a sequence holds from position `start` on, and what it was to share. Not answered."""

    seq_id: int
    start: int = 0


class Cancel(msgspec.Struct, frozen=True, tag=True):
    """Finish a request, a parked one too, at the next tick with what it has. No effect when it is over already."""

    request_id: int


class EndThinking(msgspec.Struct, frozen=True, tag=True):
    """Close the block of thinking that a request is in, a parked one too. No effect where it is in none."""

    request_id: int


class DrillFault(Exception):
    """Raised on purpose, where a `Fault` or a drill of the model's actor asked for it."""


class Fault(msgspec.Struct, frozen=True, tag=True):
    """A drill: make the thread itself (`"thread"`) or its next decode (`"decode"`) fail, or end the process by an
    assertion of native code in its next decode."""

    where: Literal["thread", "decode", "assertion"]


Job = Generate | Grant | Park | Resume | Fork | Restore | Capture | Drop | Cancel | EndThinking | Fault


class Prefilled(msgspec.Struct, frozen=True, tag=True):
    """A slice of the prompt is in: `done` of `total` prompt tokens, the kept ones counted in."""

    request_id: int
    done: int
    total: int


class Wants(msgspec.Struct, frozen=True, tag=True):
    """A request will soon have used the cells up to its `limit`; it stalls there until there is a `Grant`."""

    request_id: int
    limit: int


class Parked(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """A request is out of its sequence, which is empty. It had got to `held` tokens, `token_ids` of them sampled."""

    request_id: int
    held: int
    token_ids: list[int]


class Resumed(msgspec.Struct, frozen=True, tag=True):
    """A request that was parked is back: it has passed the position where it was parked."""

    request_id: int


class Forked(msgspec.Struct, frozen=True, tag=True):
    """A `Fork` is done: the sequence shares `length` cells, 0 where that is not possible."""

    request_id: int
    length: int


class Restored(msgspec.Struct, frozen=True, tag=True):
    """A `Restore` is done: the sequence ends at `end`. Not `ok`: the bytes were not taken, see `held`; and only if they
    are `bad`, they are to blame for that."""

    request_id: int
    end: int
    ok: bool
    held: int  # how many tokens the sequence holds now
    bad: bool = False


class Spoiled(msgspec.Struct, frozen=True, tag=True):
    """The logits of a request were no numbers, and what its sequence began with may be to blame: rows that were
    restored, or live cells. It is computed from its first token on."""

    request_id: int


class NotHeld(msgspec.Struct, frozen=True, tag=True):
    """A sequence does not hold what a request was to begin with, which is computed from its first token on."""

    request_id: int


class Captured(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """The KV state of positions `[start, end)`; `payload` is None where it was not copied: `skipped` says why.

    `seconds` is how long the copy took, `compute_seconds` about what computing these cells did.
    """

    request_id: int
    start: int
    end: int
    reason: SaveReason
    payload: memoryview | None
    # "no_buffer": the budget is used up; "too_large": more than all of it; "forgotten": cells have left a window
    skipped: SkipReason | None
    seconds: float
    compute_seconds: float
    generated: list[int]  # the tokens after the prompt, up to `end`


class PromptLogits(msgspec.Struct, frozen=True, tag=True):
    """The logits at the prompt's end: `n_vocab` 32-bit floats."""

    request_id: int
    logits: bytes


class Text(msgspec.Struct, frozen=True, tag=True):
    """New text (whole characters, no part of a stop sequence) and the token ids sampled since the last.

    Of several that come together the last has the tokens, and `draws`: where the reply stands after all that came.
    """

    request_id: int
    text: str
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None  # of these tokens, where they are wanted
    kind: SegmentKind = "text"
    closed: bool = False  # whether its segment, thinking or a call, ends here
    draws: Draws | None = None


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
    prefill_tokens: int  # tokens decoded for the prompt, or again after it was parked: what was not kept
    prefill_seconds: float
    decode_seconds: float
    decodes: int  # calls of the backend's decode that this request took part in after its prefill
    stop_token_id: int | None = None  # the token that ended it
    thinking: str | None = None  # what it thought; None where it did not
    calls: tuple[str, ...] = ()  # the text of each call, markers included
    logprobs: list[TokenLogprob] | None = None  # of all tokens sampled, where they are wanted
    prompt_logprobs: list[TokenLogprob | None] | None = None  # of the prompt's, as far as it was read

    @property
    def computed(self) -> int:
        """Tokens of the prompt that were computed, and those of the reply."""
        return self.prefill_tokens + len(self.token_ids)


class Failed(msgspec.Struct, frozen=True, tag=True):
    """This request cannot go on; the engine can. `computed` are the tokens of it that were, as of one that finished:
    those of its prompt, and those of its reply."""

    request_id: int
    failure: Failure
    computed: int = 0


class Died(msgspec.Struct, frozen=True, tag=True):
    """The engine ended by itself. Nothing comes after this."""

    failure: Failure


Outcome = (
    Prefilled
    | Wants
    | Parked
    | Resumed
    | Forked
    | Restored
    | Spoiled
    | NotHeld
    | Captured
    | PromptLogits
    | Text
    | Finished
    | Failed
    | Died
)
