"""What is known of models, of what is cached, and of the memory."""

from __future__ import annotations

from typing import Literal

from erllama_py.errors.crash import CrashReport
from erllama_py.options.model import ModelConfig, RowReason
from erllama_py.results.completion import CacheHitKind
from erllama_py.results.plain import Result

Phase = Literal["loading", "idle", "prefilling", "generating", "hanging", "restarting", "failed", "unloaded"]
SequenceState = Literal[
    "free", "kept", "waiting", "looking", "restoring", "prefilling", "generating", "parking",
]  # fmt: skip


class CachedPrefix(Result, frozen=True):
    """A prefix that is saved. Its length is in tokens."""

    tokens: int
    """Its length."""
    tier: str
    """The tier of its last row."""
    nbytes: int
    """Bytes of all its rows."""


class ExactTurn(Result, frozen=True, kw_only=True):
    """What is known of the replies in a conversation: a part of an `Explanation`."""

    tokens: int
    """Tokens of the prompt that are those which were read and sampled; 0 where no reply is recognised."""
    message: int | None
    """The number of the reply that they end with, among the messages; the first is 1."""
    problem: str | None = None
    """Why that is not the last reply; `None` where it is."""
    position: int | None = None
    """The first token at which the template's own rendering would be another; `None` where it would be the same."""
    text: str | None = None
    """The text of the prompt's token there."""
    rendered_text: str | None = None
    """The text of the rendering's token there."""


class Explanation(Result, frozen=True, kw_only=True):
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
    turn: ExactTurn | None = None
    """Of a conversation: what of it is recognised, and where its rendering would differ."""


class RowInfo(Result, frozen=True, kw_only=True, gc=False):
    """One row in one tier. Lengths are in tokens, sizes in bytes, times in unix seconds."""

    key: str
    """64 hex digits, of all tokens up to `end`."""
    parent: str
    """The key of the row that this one extends."""
    start: int
    """Where its cells begin."""
    end: int
    """Where they end, exclusive."""
    tier: str
    """The tier that stores it, by name."""
    nbytes: int
    """What it takes of the tier's quota."""
    reason: RowReason
    """What it was saved for; `"turn"`: to recognise a reply, and without KV cells."""
    hits: int
    """How often it was read."""
    created_at: float
    """When it was saved."""
    used_at: float
    """When it was last read."""
    prefill_seconds: float
    """Estimated prefill time that a hit saves, in seconds."""
    fingerprint: str
    """The model's, 64 hex digits, with the salt folded in."""
    build: str
    """The build of llama.cpp that computed it."""
    kept_until: float | None = None
    """Until when it is not evicted, because a request asked for that; `None`: nothing keeps it."""


class TierInfo(Result, frozen=True, kw_only=True):
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
    kept_bytes: int = 0
    """Bytes of rows that are kept for a time."""


class FoundPrefix(Result, frozen=True, kw_only=True):
    """What `Cache.find` found."""

    tokens: int
    """Length of the prefix."""
    exact: bool
    """Whether that is all of them."""
    rows: tuple[tuple[str, str], ...]
    """The key, in hex, and the tier of each row."""


class LoadProgress(Result, frozen=True):
    """How far a load has got."""

    stage: Literal["download", "hash", "weights"]
    """What is done with the file: one of the hub that is not here is downloaded; it is hashed; its weights are
    loaded."""
    done: int
    """Bytes that are done."""
    total: int
    """Bytes of the file; of a download, of all files of the model."""


class CacheHit(Result, frozen=True):
    """How a look-up hit."""

    kind: CacheHitKind
    """As in `Completion.cache_hit_kind`."""
    prefix_len: int
    """Tokens of the prompt that were reused."""


class ModelInfo(Result, frozen=True, kw_only=True):
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
    can_generate: bool
    """Whether it continues prompts; an encoder, such as BERT, only embeds."""
    can_rank: bool
    """Whether it has a head that scores a query and a document: see `rerank`."""
    n_embd: int
    """Numbers of an embedding."""
    pooling: Literal["mean", "cls", "last"] | None
    """How vectors of tokens become one of a text, unless `embed` is told: as its file says, else `"mean"`; `None` for a
    model that ranks."""
    reproducible_threads: int
    """Threads that compute reproducible requests: always so many. Their replies are the same where this is."""
    save_limits: str | None = None
    """What is not saved now, and the measured times that are the reason: copying its cells takes too long for what it
    saves. `None` where every row is saved that is due."""
    reproducible_bytes: int = 0
    """Bytes of the KV cells of the second context, in which those are computed; 0 while there is none."""
    load_seconds: float
    """How long the last load took."""
    restarts: int
    """How often its supervisor has begun it again after a crash: the one after which it is given up does not count."""
    pid: int | None = None
    """The process that its engine runs in: this one, or one of its own. `None` while there is no engine."""
    spare_pid: int | None = None
    """The process that stands ready for after a crash; `None` where there is none, or it is not ready yet."""
    last_crash: CrashReport | None = None
    """What is known of its last crash; `None` before the first."""
    config: ModelConfig
    """The configuration, checked and complete."""


class SequenceInfo(Result, frozen=True, kw_only=True):
    """One sequence of a model's contexts at one moment. Lengths are in tokens, which are cells."""

    number: int
    """Its number in its context, from 0."""
    doing: SequenceState
    """`"free"`: it holds nothing; `"kept"`: cells for a next request; `"waiting"`: for a prompt that another request
    computes; `"looking"`: for what the cache has; `"restoring"`: rows are put into its cells; `"prefilling"`,
    `"generating"`; `"parking"`: it is copied out to make room."""
    request_id: int | None = None
    """The request that is in it, as `Stream.request_id` has it."""
    prompt_tokens: int = 0
    """Length of that request's prompt."""
    cells: int = 0
    """Cells that are promised to it or hold something; those that it shares with others count for each."""
    in_session: bool = False
    """Whether it is held for a session, or its request is a turn of one."""
    reproducible: bool = False
    """Whether it is of the second context, in which reproducible requests are computed."""


class PressureState(Result, frozen=True, kw_only=True):
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
