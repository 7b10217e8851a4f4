"""What callers get back: completions, the events of a stream, and what is known of a loaded model."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from erllama_py.options.model import ModelConfig, SaveReason

CacheHitKind = Literal["exact", "partial", "sticky", "live", "cold"]
FinishReason = Literal["stop", "length", "cancelled"]
Phase = Literal["loading", "idle", "prefilling", "generating", "hanging", "restarting", "failed", "unloaded"]


class CacheDelta(msgspec.Struct, frozen=True):
    """What a request read from the cache and gave to it, in tokens."""

    read: int
    """Tokens of the prompt that were reused."""
    created: int
    """Tokens that were copied out of the cells to be saved."""


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of one request went. Times are in seconds."""

    queued_seconds: float
    """From the call until it had a sequence, rendering, tokenizing and waiting for the model or a session included."""
    prefill_seconds: float
    """From then until the first token was drawn."""
    decode_seconds: float
    """From the first token to the last."""
    lookup_seconds: float
    """Until it was known what to begin with, waiting for a save under way or for a shared prompt included."""
    restore_seconds: float
    """Until all rows of the hit were in the cells; 0.0 without rows."""
    first_token_seconds: float
    """Queued + look-up + restore + prefill: what a caller waits for the first token."""
    prefill_tokens: int
    """Prompt tokens that had to be computed."""
    restored_bytes: int
    """Bytes of the rows that were restored."""
    decodes: int
    """Decode steps after the prefill; fewer than tokens where a structure forced some of them."""
    tokens_per_second: float
    """Tokens after the first by decode time; 0.0 without any."""
    seed: int
    """Seed of the draw; it repeats a reply when the same prompt starts from the same cells."""
    tier: str | None
    """The tier that a hit came from; `None` for live cells and for a miss."""
    miss_reason: str | None
    """Why nothing, or not more, was reused; `None` for a full hit."""
    parks: int = 0
    """How often it was parked: taken out of its cells for others, and put back."""


Bytes = bytes  # for a field of this name, whose type the name would hide


class TopLogprob(msgspec.Struct, frozen=True, gc=False):
    """One of the likeliest tokens at a place of a text."""

    token_id: int
    """Its id."""
    token: str
    """Its text; bytes that are no UTF-8 by themselves show as U+FFFD."""
    bytes: Bytes
    """Its UTF-8 bytes, maybe a part of a character; of a control token its name."""
    logprob: float
    """Natural logarithm of its probability."""


class TokenLogprob(TopLogprob, frozen=True, gc=False):
    """How likely a token was, given all before it. Logarithms are natural; all by the softmax of the model's logits."""

    top_logprobs: tuple[TopLogprob, ...] = ()
    """The likeliest tokens there, the likeliest first; the token itself is among them where it is one of them."""
    logprob_after: float | None = None
    """Of what all steps of the chain have left: the draw was by these odds; 0.0 where the likeliest token is taken.
    `None` unless it was asked for."""
    top_logprobs_after: tuple[TopLogprob, ...] = ()
    """The likeliest of what was left; what could not be drawn is not there."""


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one prompt. Counts are in tokens."""

    reply: str
    """The text, up to a stop sequence."""
    generated: list[int]
    """Token ids as sampled, without the end token; their text may extend beyond `reply`."""
    prompt_tokens: int
    """Tokens of the prompt, the begin token counted."""
    context_tokens: int
    """Prompt and generated together."""
    committed_tokens: int
    """Of these, how many lie in the KV cells now; the last sampled one never does."""
    finish_key: bytes | None
    """The key of the row saved at the end; `None` when none was due."""
    cache_hit_kind: CacheHitKind
    """`"exact"`: the whole prompt was saved; `"partial"`: a part of it; `"live"`: cells of another sequence were
    shared or taken over; `"sticky"`: it continued in its session's cells; `"cold"`: nothing was reused."""
    finish_reason: FinishReason
    """`"stop"`: the model ended, or a stop sequence was met; `"length"`; `"cancelled"`."""
    stop_sequence: str | None
    """The stop sequence that was met."""
    stop_token_id: int | None = None
    """The token that ended the reply and is not in it: the model's own, one of `stop_token_ids`, or one that a stop
    sequence names."""
    logprobs: list[TokenLogprob] | None = None
    """How likely each token of `generated` was; `None` unless it was asked for."""
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """How likely each token of the prompt was; `None` for the first. They are fewer where it was cancelled before the
    prompt was read. `None` unless it was asked for."""
    cache_delta: CacheDelta
    """Tokens read from the cache and given to it."""
    stats: Stats
    """Where the time went."""
    parsed: Any = None
    """With `json_schema` the value of the reply, of the type that was given; with `choice` the choice. `None` without
    them, where the reply was cut short (`finish_reason` is not `"stop"`), and where `parse_error` says why."""
    parse_error: str | None = None
    """Why a reply that ended by itself has no value: what the type's own checks say, which a grammar does not know of,
    or a stop sequence."""
    alternatives: tuple[Completion, ...] = ()
    """With `n` above 1: all the replies, this one first; each is as if it had been asked for alone."""


class TextDelta(msgspec.Struct, frozen=True, tag="text"):
    """New text: whole characters, never a part of a stop sequence. `token_ids` are its tokens."""

    text: str
    """The text that was added."""
    token_ids: list[int]
    """The tokens that made it."""
    logprobs: list[TokenLogprob] | None = None
    """How likely each of them was; `None` unless it was asked for."""
    index: int = 0
    """Which of `n` replies they are of."""


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """The prompt is being read: `done` of `total` tokens are in, reused ones included."""

    done: int
    """Tokens that are in the cells."""
    total: int
    """Tokens of the prompt."""
    index: int = 0
    """For which of `n` replies."""


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The last event of every stream, also of a cancelled one."""

    completion: Completion
    """What `complete` would have returned."""


Event = TextDelta | Progress | Done
"""What a stream yields."""


class CachedPrefix(msgspec.Struct, frozen=True):
    """A prefix that is saved. Its length is in tokens."""

    tokens: int
    """Its length."""
    tier: str
    """The tier of its last row."""
    nbytes: int
    """Bytes of all its rows."""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache would give for a prompt: the answer of `explain`. Counts are in tokens."""

    prompt_tokens: int
    """Length of the prompt."""
    hit_tokens: int
    """How much of the prompt is saved."""
    tiers: tuple[str, ...]
    """The tiers that its rows would be read from, by name."""
    rows: int
    """Rows that would be read."""
    nbytes: int
    """Bytes that would be read."""
    miss_reason: str | None
    """Why the hit is not the whole prompt; `None` where it is."""
    position: int | None
    """The first token that is not found, or that differs; `None` where all are found."""
    text: str | None = None
    """The text of that token."""
    live_tokens: int = 0
    """How much of the prompt lies in cells that a request could begin with now."""
    session_position: int | None = None
    """Where the prompt diverges from what is held for its session; `None` when it extends that, or nothing is held."""
    session_text: str | None = None
    """The text of the token that the session holds there."""


class RowInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One row in one tier. Lengths are in tokens, sizes in bytes, times in unix seconds."""

    key: bytes
    """32 bytes, of all tokens up to `end`."""
    parent: bytes
    """The key of the row that this one extends."""
    start: int
    """Where its cells begin."""
    end: int
    """Where they end, exclusive."""
    tier: str
    """The tier that stores it, by name."""
    nbytes: int
    """What it takes of the tier's quota."""
    reason: SaveReason
    """What it was saved for."""
    hits: int
    """How often it was read."""
    created_at: float
    """When it was saved."""
    used_at: float
    """When it was last read."""
    prefill_seconds: float
    """Estimated prefill time that a hit saves, in seconds."""
    fingerprint: bytes
    """The model's, 32 bytes, with the salt folded in."""
    build: str
    """The build of llama.cpp that computed it."""


class TierInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One tier that runs. Sizes are in bytes."""

    name: str
    """The name it was started under."""
    kind: str
    """What a model's `tier` names."""
    quota_bytes: int
    """What its rows may take."""
    used_bytes: int
    """What they take."""
    rows: int
    """How many there are."""
    opened: float
    """How much of it has been scanned since it was started: 1.0 when all of its rows are known."""
    problem: str | None
    """Why it cannot be written now; `None` when it can."""


class FoundPrefix(msgspec.Struct, frozen=True, kw_only=True):
    """What `Cache.find` found."""

    tokens: int
    """Length of the prefix."""
    exact: bool
    """Whether that is all of them."""
    rows: tuple[tuple[bytes, str], ...]
    """The key and the tier of each row."""


class LoadProgress(msgspec.Struct, frozen=True):
    """How far a load has got."""

    stage: Literal["hash", "weights"]
    """What is done with the file: it is hashed, then its weights are loaded."""
    done: int
    """Bytes that are done."""
    total: int
    """Bytes of the file."""


class CacheHit(msgspec.Struct, frozen=True):
    """How a look-up hit."""

    kind: CacheHitKind
    """As in `Completion.cache_hit_kind`."""
    prefix_len: int
    """Tokens of the prompt that were reused."""


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model. Sizes are in bytes, lengths in tokens, times in seconds."""

    id: str
    """The id it was loaded under."""
    phase: Phase
    """What it is doing."""
    pending: int
    """Requests that wait."""
    backend: str
    """What runs it."""
    model_path: str | None
    """The file, absolute; `None` for the stub."""
    description: str
    """"llama 135M Q4_1"; empty until the weights are read."""
    quant_type: str
    """The quantisation by name."""
    quant_bits: int
    """Bits a weight."""
    fingerprint: str
    """Of the model file: 64 hex digits."""
    ctx_params_hash: str
    """Of what changes the KV state: 64 hex digits."""
    n_params: int
    """Number of weights."""
    size: int
    """Bytes of the weights."""
    memory_estimate: int
    """Bytes of weights and KV cells together."""
    context_size: int
    """Cells of the context."""
    n_ctx_train: int
    """The context it was trained with."""
    n_vocab: int
    """Tokens in its vocabulary."""
    n_seq_max: int
    """Sequences that it can hold."""
    threads: int
    """Threads that may compute a decode of single tokens."""
    threads_used: int
    """Threads that computed the last such decode: fewer where other work holds them up."""
    threads_reason: str
    """What `threads` was chosen by: an option, or what this process may use."""
    reproducible_threads: int
    """Threads that compute reproducible requests: always so many. Their replies are the same where this is."""
    reproducible_bytes: int = 0
    """Bytes of the KV cells of the second context, in which those are computed; 0 while there is none."""
    load_seconds: float
    """How long the last load took."""
    restarts: int
    """How often it came back after a crash."""
    config: ModelConfig
    """The configuration, checked and complete."""


class PressureState(msgspec.Struct, frozen=True, kw_only=True):
    """What the pressure monitor has seen and done since it started."""

    source: str
    """Name of the source."""
    used: int | None = None
    """Bytes in use, of the last reading."""
    total: int | None = None
    """Total bytes."""
    readings: int = 0
    """Readings so far."""
    failed_readings: int = 0
    """Readings that failed or hung."""
    evictions: int = 0
    """Evictions that freed something."""
    evicted_bytes: int = 0
    """Bytes that evictions freed."""
    failed_evictions: int = 0
    """Evictions that raised."""
    problem: str | None = None
    """What fails at the moment; `None` when nothing does."""
