"""Options as mappings, for type checkers and editors: each has the names and types of the struct that documents it.

Where a mapping may hold more than its struct, parsing converts it: a path object, a single stop
sequence, 32 bytes for 64 hex digits, a list. A section may be a mapping or a struct.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

from erllama_py.options.keep import Keep
from erllama_py.options.model import ContextOpts, KVType, ModelOpts, SchedulerOpts, ToolFormatName
from erllama_py.options.policy import PolicyOpts
from erllama_py.options.process import Isolation, ProcessOpts, RestartOpts
from erllama_py.options.runtime import Source
from erllama_py.options.sampling import SamplerName
from erllama_py.options.stub import StubOpts


class KeepDict(TypedDict):
    """`Keep` as a mapping."""

    seconds: float
    message: NotRequired[int | Literal["tools"] | None]


class TurnOptionsDict(TypedDict, total=False):
    """What the calls of a `Session` take beside the prompt: `RequestOptions` less the id."""

    response_tokens: int | None
    stop_sequences: str | list[str] | tuple[str, ...]
    stop_token_ids: list[int] | tuple[int, ...]
    special: bool
    logprobs: int | None
    logprobs_after: bool
    prompt_logprobs: int | None
    temperature: float
    dynatemp_range: float
    dynatemp_exponent: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    top_n_sigma: float
    xtc_probability: float
    xtc_threshold: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    penalty_last_n: int
    dry_multiplier: float
    dry_base: float
    dry_allowed_length: int
    dry_penalty_last_n: int
    dry_sequence_breakers: list[str] | tuple[str, ...]
    mirostat: Literal[0, 1, 2]
    mirostat_tau: float
    mirostat_eta: float
    adaptive_p: float | None
    adaptive_p_decay: float
    logit_bias: Mapping[Any, float]
    ignore_eos: bool
    min_tokens: int
    seed: int | None
    samplers: list[SamplerName] | tuple[SamplerName, ...]
    reproducible: bool
    parent_key: bytes | str | None
    session_wait: bool
    keep: Sequence[KeepDict | Keep]
    priority: int
    queue_wait: bool | float
    deadline: float | None
    on_crash: Literal["continue", "fail"]
    json_schema: Any
    regex: str | None
    choice: list[str] | tuple[str, ...] | None
    grammar: str | None
    tool_choice: str | dict[str, Any]
    parallel_tool_calls: bool
    cache_salt: str | None
    chat_template: str | None
    template_kwargs: Mapping[str, Any]
    exact_turns: bool
    tools_in_system: bool
    thinking: bool | None
    thinking_markers: list[str] | tuple[str, str] | Literal[False] | None
    thinking_budget_tokens: int | None
    thinking_budget_message: str | None


class RequestOptionsDict(TurnOptionsDict, total=False):
    """`RequestOptions` by keyword: what `complete`, `stream`, `chat` and their kin take beside the prompt."""

    n: int
    session_id: str | None
    tools: Any
    continue_final_message: bool


class ScoreOptionsDict(TypedDict, total=False):
    """`ScoreOptions` by keyword: what `score` and `choose` take beside the prompt and its continuations."""

    cache_salt: str | None
    priority: int
    queue_wait: bool | float
    deadline: float | None
    on_crash: Literal["continue", "fail"]


class EmbedOptionsDict(TypedDict, total=False):
    """`EmbedOptions` by keyword: what `embed` takes beside its inputs."""

    pooling: Literal["mean", "cls", "last", "none"] | None
    normalize: bool
    dimensions: int | None
    truncate: bool | Literal["start", "end"]
    deadline: float | None
    on_crash: Literal["continue", "fail"]


class RerankOptionsDict(TypedDict, total=False):
    """`RerankOptions` by keyword: what `rerank` takes beside the query and the documents."""

    method: Literal["model", "embeddings", "score"] | None
    top_n: int | None
    cache_salt: str | None
    priority: int
    truncate: bool | Literal["start", "end"]
    deadline: float | None
    on_crash: Literal["continue", "fail"]


class ModelOptsDict(TypedDict, total=False):
    """`ModelOpts` as a mapping."""

    n_gpu_layers: int
    use_mmap: bool
    use_mlock: bool
    vocab_only: bool
    split_mode: Literal["none", "layer", "row"]
    main_gpu: int
    tensor_split: list[float] | tuple[float, ...] | None


class ContextOptsDict(TypedDict, total=False):
    """`ContextOpts` as a mapping."""

    n_ctx: int | None
    n_batch: int
    n_ubatch: int | None
    n_threads: int | None
    n_threads_batch: int | None
    n_seq_max: int | None
    flash_attn: bool | Literal["auto"]
    type_k: KVType
    type_v: KVType
    rope_scaling_type: Literal["none", "linear", "yarn", "longrope"] | None
    rope_freq_base: float | None
    rope_freq_scale: float | None
    yarn_ext_factor: float | None
    yarn_attn_factor: float | None
    yarn_beta_fast: float | None
    yarn_beta_slow: float | None
    yarn_orig_ctx: int | None
    offload_kqv: bool
    swa_full: bool


class PolicyOptsDict(TypedDict, total=False):
    """`PolicyOpts` as a mapping."""

    min_tokens: int | None
    cold_min_tokens: int | None
    cold_max_tokens: int | None
    continued_interval: int
    boundary_trim_tokens: int
    boundary_align_tokens: int
    session_resume_wait_ms: int
    evict_save_timeout_ms: int


class SchedulerOptsDict(TypedDict, total=False):
    """`SchedulerOpts` as a mapping."""

    max_pending: int
    prefill_chunk_size: int | None
    max_stall_ms: int
    turn_ms: int
    session_idle_ms: int
    reproducible_idle_ms: int
    embed_idle_ms: int
    kept_tokens: int | None


class ProcessOptsDict(TypedDict, total=False):
    """`ProcessOpts` as a mapping."""

    memory_bytes: int | None
    cpus: list[int] | tuple[int, ...] | None
    nice: int


class RestartOptsDict(TypedDict, total=False):
    """`RestartOpts` as a mapping. Times are in seconds."""

    intensity: int
    period: float
    backoff_max: float


class StubOptsDict(TypedDict, total=False):
    """`StubOpts` as a mapping."""

    vocab_size: int
    replies: list[str] | tuple[str, ...] | dict[str, str]
    seconds_per_token: float
    seconds_per_copy: float
    seconds_per_copied_token: float
    load_seconds: float
    fail_load: bool
    fail_decode_after: int | None
    hang_decode_after: int | None
    memory: Literal["full", "window", "recurrent", "hybrid"]
    n_swa: int
    n_embd: int
    embeds_only: bool
    ranks: bool


class ModelConfigDict(TypedDict, total=False):
    """`ModelConfig` as a mapping: what `load_model` takes."""

    backend: Literal["llama", "stub"]
    model_path: str | os.PathLike[str] | None
    model_opts: ModelOptsDict | ModelOpts
    context_opts: ContextOptsDict | ContextOpts
    fingerprint: str | bytes | None
    fingerprint_mode: Literal["safe", "gguf_chunked", "fast_unsafe"]
    remember_fingerprint: bool
    probe: bool
    quant_type: str | None
    quant_bits: int | None
    ctx_params_hash: str | bytes | None
    context_size: int | None
    tier_srv: str
    tier: str
    policy: PolicyOptsDict | PolicyOpts
    scheduler: SchedulerOptsDict | SchedulerOpts
    cache_salt: str | None
    thinking_markers: list[str] | tuple[str, str] | None
    thinking_budget_message: str
    thinking_signing_key: bytes | str | None
    tool_format: ToolFormatName | None
    isolation: Isolation
    spare: bool
    process_opts: ProcessOptsDict | ProcessOpts
    restarts: RestartOptsDict | RestartOpts
    stub: StubOptsDict | StubOpts


class PressureOptsDict(TypedDict, total=False):
    """`PressureOpts` as a mapping."""

    source: Source
    high_watermark: float
    low_watermark: float
    min_evict_bytes: int
    interval_ms: int
    evict_tiers: list[str] | tuple[str, ...]


class TierDict(TypedDict, total=False):
    """A tier as a mapping: its kind, and the fields of that kind's struct."""

    kind: str
    root: str | os.PathLike[str]
    quota_bytes: int


class RestartLimitsDict(TypedDict, total=False):
    """`RestartLimits` as a mapping. Times are in seconds."""

    intensity: int
    period: float
    backoff_first: float
    backoff_factor: float
    backoff_max: float
    jitter: float
