"""What callers get back: completions, the events of a stream, and what is known of a loaded model."""

from __future__ import annotations

from typing import Literal

import msgspec

from erllama_py.options.model import ModelConfig, SaveReason

CacheHitKind = Literal["exact", "partial", "sticky", "live", "cold"]
FinishReason = Literal["stop", "length", "cancelled"]
Phase = Literal["loading", "idle", "prefilling", "generating", "restarting", "failed", "unloaded"]


class CacheDelta(msgspec.Struct, frozen=True):
    """Tokens of the prompt that were reused (`read`), and tokens copied out to be put into cache rows (`created`)."""

    read: int
    created: int


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of one request went. Times are in seconds."""

    queued_seconds: float
    """From the call until it had a sequence: rendering, tokenizing, waiting for the model or a session are in it."""
    prefill_seconds: float
    """Until the first token was drawn; queueing is not in it."""
    decode_seconds: float
    """From the first token to the last."""
    lookup_seconds: float
    """Until it was known what to begin with; waiting for a save under way, or for a prompt that is shared, is in it."""
    restore_seconds: float
    """Until all rows of the hit were in the cells; 0.0 where there were none."""
    first_token_seconds: float
    """Queued + look-up + restore + prefill: what a caller waits for the first token."""
    prefill_tokens: int
    """Prompt tokens that had to be computed."""
    restored_bytes: int
    """Bytes of the rows that were restored."""
    decodes: int
    """Decode steps after the prefill."""
    tokens_per_second: float
    """Decode steps by decode time; 0.0 where there was none."""
    seed: int
    """Of the draw; it repeats a reply when the same prompt starts from the same cells."""
    tier: str | None
    """The tier that a hit came from; `None` for live cells and for a miss."""
    miss_reason: str | None
    """Why nothing, or not more, was reused; `None` for a full hit."""
    parks: int = 0
    """How often it was parked: taken out of its cells for others, and put back."""


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to one prompt. Counts are in tokens."""

    reply: str
    """The text, up to a stop sequence."""
    generated: list[int]
    """Token ids as sampled, the end token left out; their text may go beyond `reply`."""
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
    shared or taken over; `"sticky"`: it went on in its session's cells; `"cold"`: nothing was reused."""
    finish_reason: FinishReason
    """`"stop"`: the model ended, or a stop sequence was met; `"length"`; `"cancelled"`."""
    stop_sequence: str | None
    """The stop sequence that was met."""
    cache_delta: CacheDelta
    stats: Stats


class TextDelta(msgspec.Struct, frozen=True, tag="text"):
    """New text: whole characters, never a part of a stop sequence. `token_ids` are the tokens behind it."""

    text: str
    token_ids: list[int]


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """The prompt is being read: `done` of `total` tokens are in, the reused ones counted."""

    done: int
    total: int


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The last event of every stream, also of a cancelled one."""

    completion: Completion


Event = TextDelta | Progress | Done
"""What a stream hands over."""


class CachedPrefix(msgspec.Struct, frozen=True):
    """A prefix that is saved: its length in tokens, the tier of its last row, the bytes of all its rows."""

    tokens: int
    tier: str
    nbytes: int


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache would give for a prompt: the answer of `explain`. Counts are in tokens."""

    prompt_tokens: int
    hit_tokens: int
    """How much of the prompt is saved."""
    tiers: tuple[str, ...]
    """The tiers that its rows would be read from, by name."""
    rows: int
    nbytes: int
    """Bytes that would be read."""
    miss_reason: str | None
    """Why that is not the whole prompt."""
    position: int | None
    """The first token that is not found, or that differs."""
    text: str | None = None
    """The text of that token."""
    live_tokens: int = 0
    """How much of the prompt lies in cells that a request could begin with now."""
    session_position: int | None = None
    """Where the prompt leaves what is held for its session; `None` when it goes on from that, or nothing is held."""
    session_text: str | None = None
    """The text of the token that the session has there."""


class RowInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One row in one tier. Lengths are in tokens, sizes in bytes, times in unix seconds."""

    key: bytes
    parent: bytes
    start: int
    end: int
    tier: str
    nbytes: int
    """What it takes of the tier's quota."""
    reason: SaveReason
    hits: int
    created_at: float
    used_at: float
    prefill_seconds: float
    """What a hit spares."""
    fingerprint: bytes
    build: str


class TierInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One tier that runs. Sizes are in bytes."""

    name: str
    kind: str
    quota_bytes: int
    used_bytes: int
    rows: int
    opened: float
    """How much of it has been looked at since it was started: 1.0 when all of its rows are known."""
    problem: str | None
    """Why it cannot be written now; `None` when it can."""


class FoundPrefix(msgspec.Struct, frozen=True, kw_only=True):
    """What `Cache.find` found: how many tokens, whether that is all of them, and each row's key and tier."""

    tokens: int
    exact: bool
    rows: tuple[tuple[bytes, str], ...]


class LoadProgress(msgspec.Struct, frozen=True):
    """How far a load is: bytes hashed of the file's bytes, then weights loaded of the file's bytes."""

    stage: Literal["hash", "weights"]
    done: int
    total: int


class CacheHit(msgspec.Struct, frozen=True):
    """The last look-up of a model: how it hit and how many tokens of the prompt were reused."""

    kind: CacheHitKind
    prefix_len: int


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a model. Sizes are in bytes, lengths in tokens."""

    id: str
    phase: Phase
    pending: int
    """Requests that wait."""
    backend: str
    model_path: str | None
    description: str
    """"llama 135M Q4_1"; empty until the weights are read."""
    quant_type: str
    quant_bits: int
    fingerprint: str
    """64 hex digits."""
    ctx_params_hash: str
    """64 hex digits."""
    n_params: int
    size: int
    """Of the weights."""
    memory_estimate: int
    """Weights and KV cells together."""
    context_size: int
    n_ctx_train: int
    n_vocab: int
    n_seq_max: int
    threads: int
    """Threads that may compute a decode of single tokens."""
    threads_used: int
    """Threads that computed the last such decode: fewer where other work holds them up."""
    threads_reason: str
    """What `threads` was chosen by: an option, or what this process may use."""
    load_seconds: float
    restarts: int
    config: ModelConfig


class PressureState(msgspec.Struct, frozen=True, kw_only=True):
    """What the pressure monitor has seen and done since it started."""

    source: str
    """Name of the source."""
    used: int | None = None
    """Bytes in use, of the last reading."""
    total: int | None = None
    """Bytes that there are in all."""
    readings: int = 0
    """How many there were."""
    failed_readings: int = 0
    """Those that failed or hung."""
    evictions: int = 0
    """Evictions that freed something."""
    evicted_bytes: int = 0
    """What they freed."""
    failed_evictions: int = 0
    """Evictions that raised."""
    problem: str | None = None
    """What fails at the moment."""
