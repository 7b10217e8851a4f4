"""The options of a model as frozen structs, checked once, at the door.

`parse_model_config` takes what a caller wrote, a mapping or a struct, and returns a struct in which every value
is known to be possible and every default is filled in; later rooms check nothing again. A field's own bounds
stand in its type, what it must agree with in `_check_model` and its neighbours. All refusals are `InvalidOption`
with the option's dotted path. The options of one request are in `request`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from erllama_py.errors import InvalidOption, TierMismatch, TierNotFound
from erllama_py.options.check import (
    INT32_MAX,
    Amount,
    Count,
    Options,
    PathText,
    check_utf8,
    convert,
    hex_digest,
    not_among,
    plain_path,
)
from erllama_py.options.hub_reference import settled_path
from erllama_py.options.names import given_at
from erllama_py.options.policy import DEFAULT_POLICY, NOT_GIVEN, PolicyOpts, check_policy, filled
from erllama_py.options.process import Isolation, ProcessOpts, RestartOpts, check_process
from erllama_py.options.stub import StubOpts
from erllama_py.options.thinking import ClosingMessage, SigningKey, ThinkingMarkers, check_thinking, key_bytes
from erllama_py.options.tiers import KINDS, RAM_TIER

MAX_SEQUENCES = 255  # llama.cpp's LLAMA_MAX_SEQ less the one that saved ranges pass through
# Measured, see `docs/benchmarks.md`: more cells cost memory and no time; four sequences cost nothing where attention is
# full, and a second request need not wait for the first.
DEFAULT_CELLS, DEFAULT_SEQUENCES = 8192, 4
MAX_DEVICES = 16  # llama.cpp's llama_max_devices(); it reads no more shares than that
MAX_THREADS = 512  # ggml's GGML_MAX_N_THREADS

ToolFormatName = Literal[
    "harmony", "deepseek_v3", "deepseek_v31", "command_r", "functionary", "mistral_named", "mistral", "lfm2",
    "qwen3_coder", "glm", "llama_function", "phi4", "granite", "nemotron", "hermes", "pythonic", "llama3", "json",
]  # fmt: skip

Positive = Annotated[float, Meta(gt=0.0)]
Threads = Annotated[int, Meta(ge=1, le=MAX_THREADS)]
KVType = Literal["f16", "f32", "bf16", "q4_0", "q5_0", "q5_1", "q8_0"]
SaveReason = Literal["cold", "continued", "finish", "evict", "shutdown"]
RowReason = Literal[SaveReason, "turn"]  # a turn is no KV state: the tokens of a reply and of all before it
# Why a row that was due was not copied out of the cells.
SkipReason = Literal["no_buffer", "too_large", "forgotten", "slow"]


Salt = Annotated[str, Meta(min_length=1, max_length=256)]


class ModelOpts(Options, frozen=True):
    """How the weights are loaded."""

    n_gpu_layers: Annotated[int, Meta(ge=-1, le=INT32_MAX)] = 0
    """Layers put on the GPU; -1, or more than there are, for all."""
    use_mmap: bool = True
    """Map the file instead of copying it: loads are fast, and processes share the pages."""
    use_mlock: bool = False
    """Keep the weights from being paged out."""
    vocab_only: bool = False
    """Load the tokenizer alone; generating is then an error."""
    split_mode: Literal["none", "layer", "row"] = "layer"
    """How several GPUs share the model: not at all, by whole layers, or by rows of each tensor."""
    main_gpu: Amount = 0
    """Index of the GPU that is used where the model is not split."""
    tensor_split: Annotated[tuple[float, ...], Meta(min_length=1, max_length=MAX_DEVICES)] | None = None
    """Share of each GPU, in any scale; `None` lets llama.cpp choose by free memory."""


class ContextOpts(Options, frozen=True):
    """The context: its size, its threads, and what its KV cells are made of. Lengths are in tokens."""

    n_ctx: Amount | None = None
    """Cells for all sequences together: prompts and replies. `None`: 8,192, or as many as the model was trained with if
    those are fewer, and fewer where memory is short, down to 2,048. 0: as many as the model was trained with, by its
    file."""
    n_batch: Count = 512
    """Most tokens of one decode call; more than `n_ctx` count as `n_ctx`."""
    n_ubatch: Count | None = None
    """Tokens of one step within a decode call, at most `n_batch`; `None`: as `n_batch`."""
    n_threads: Threads | None = None
    """CPU threads for decodes of single tokens; `None`: as many as compute fastest, up to what this process may use."""
    n_threads_batch: Threads | None = None
    """CPU threads for decodes of several tokens; `None`: as `n_threads`."""
    n_seq_max: Annotated[int, Meta(ge=1, le=MAX_SEQUENCES)] | None = None
    """Sequences that the context can hold side by side; `None`: 4, or as many as `n_batch` and `n_ctx` have tokens."""
    flash_attn: bool | Literal["auto"] = "auto"
    """Flash attention; `"auto"` uses it where the device has it."""
    type_k: KVType = "f16"
    """Element type of the keys in the cells."""
    type_v: KVType = "f16"
    """Element type of the values in the cells; quantised ones need flash attention."""
    rope_scaling_type: Literal["none", "linear", "yarn", "longrope"] | None = None
    """How positions beyond the trained context are scaled; `None`, here and below: as the model file says."""
    rope_freq_base: Annotated[float, Meta(ge=0.0)] | None = None
    """RoPE base frequency; 0.0: as the model file says."""
    rope_freq_scale: Annotated[float, Meta(ge=0.0)] | None = None
    """RoPE frequency factor, 0.5 for twice the trained context; 0.0: as the model file says."""
    yarn_ext_factor: float | None = None
    """YaRN: weight of extrapolation against interpolation; negative: as the model file says."""
    yarn_attn_factor: float | None = None
    """YaRN: factor on the size of attention scores."""
    yarn_beta_fast: float | None = None
    """YaRN, not 0: rotations over the trained context above which a dimension is left as it is."""
    yarn_beta_slow: float | None = None
    """YaRN, not 0: rotations over the trained context below which a dimension is interpolated in full."""
    yarn_orig_ctx: Count | None = None
    """YaRN: the context length that the model was trained with before it was extended."""
    offload_kqv: bool = True
    """Keep the KV cells of a layer on the GPU where the layer is."""
    swa_full: bool = False
    """Sliding-window models: keep all cells, so that sequences can be cut back anywhere, at the price of memory."""

    @property
    def cells(self) -> int:
        """`n_ctx` as a load has settled it, and before that as it may become."""
        return DEFAULT_CELLS if self.n_ctx is None else self.n_ctx

    @property
    def sequences(self) -> int:
        """`n_seq_max`, also where it is not given."""
        return self.n_seq_max or min(DEFAULT_SEQUENCES, self.n_batch, self.n_ctx or DEFAULT_SEQUENCES)


# A waiting request holds its tokens and nothing else, so the limit bounds the wait: at one request a second, the last
# one waits for some minutes.
MAX_PENDING = 256


class SchedulerOpts(Options, frozen=True):
    """How the requests of one model share its context and its time."""

    max_pending: Count = MAX_PENDING
    """Most requests that wait; one more is `QueueFull`."""
    prefill_chunk_size: Count | None = None
    """Most prompt tokens of a decode in which streams take part; `None`: as many as `max_stall_ms` allows."""
    max_stall_ms: Count = 100
    """How long a stream may wait for its next token while others' prompts are read, in milliseconds, estimated from
    past decodes; where a decode of the streams alone takes more than half of it, twice that decode."""
    turn_ms: Count = 2_000
    """How long a request that waits for cells stays parked, and those at work keep theirs, before they swap, in
    milliseconds; longer where restoring takes long."""
    session_idle_ms: Count = 300_000
    """How long a session's sequence is kept for it after its last turn, in milliseconds."""
    reproducible_idle_ms: Count = 300_000
    """How long the second context, which the first request with `reproducible` makes, is kept after the last one, in
    milliseconds."""
    embed_idle_ms: Count = 300_000
    """How long the context for embeddings, which the first `embed` or `rerank` makes, is kept after the last one, in
    milliseconds."""
    kept_tokens: Amount | None = None
    """Most cells that idle sequences, those of sessions included, keep while requests are at work; `None`: a quarter of
    the context, a sixteenth without flash attention."""


@given_at("it is set when the model is loaded")
class ModelConfig(Options, frozen=True):
    """What `load_model` takes. Paths are absolute and every default is filled in once it is parsed."""

    backend: Literal["llama", "stub"] = "llama"
    """What runs the model: llama.cpp, or a deterministic stand-in for tests and drills."""
    model_path: PathText | None = None
    """The GGUF file, as a str or a path object, or a model of the hub, as `"hf:owner/repo:Q4_K_M"`."""
    model_opts: ModelOpts = ModelOpts()
    """How the weights are loaded."""
    context_opts: ContextOpts = ContextOpts()
    """Size and making of the context."""
    fingerprint: str | None = None
    """What the file must hash to in the given mode: 64 hex digits, or 32 bytes."""
    fingerprint_mode: Literal["safe", "gguf_chunked", "fast_unsafe"] = "safe"
    """Hash the whole file, its metadata and first tensor, or nothing: then `fingerprint` is trusted."""
    remember_fingerprint: bool = True
    """Reuse the hash of a file whose path, size, mtime and inode are unchanged."""
    probe: bool = True
    """Try a file that was never loaded before in another process first, so that one that ends the process is an
    error: 0.1 to 0.5 s, once. So is a build of llama.cpp on a CPU that is new to it."""
    quant_type: Annotated[str, Meta(min_length=1)] | None = None
    """The quantisation by name, `"q4_k_m"`, in any case; read from the file, compared when given."""
    quant_bits: Annotated[int, Meta(ge=1, le=64)] | None = None
    """Bits per weight; read from the file, compared when given."""
    ctx_params_hash: str | None = None
    """Name space of the cached KV state: 64 hex digits, or 32 bytes; derived from `context_opts` when not given."""
    context_size: Count | None = None
    """A copy of `n_ctx` in tokens, compared when given; alone it is `n_ctx`."""
    tier_srv: str = NOT_GIVEN
    """Name of the running tier that prefixes are saved to. By default the one of the kind that `tier` names, and
    `"ram"` where that is not given either."""
    tier: str = NOT_GIVEN
    """The kind of that tier, compared. By default whatever it is."""
    policy: PolicyOpts = PolicyOpts()
    """When prefixes are saved; gates that are not given are those of the runtime."""
    scheduler: SchedulerOpts = SchedulerOpts()
    """How its requests share the context."""
    cache_salt: Salt | None = None
    """Separates tenants: what is saved under one salt is found only by requests with the same one."""
    thinking_markers: ThinkingMarkers | None = None
    """What opens a block of thinking, and what closes it; `None`: as found from the chat template and the
    vocabulary."""
    thinking_budget_message: ClosingMessage = ""
    """What a block ends with that is closed for the model, as by `thinking_budget_tokens`."""
    thinking_signing_key: SigningKey | None = None
    """Signs what the model thinks, by HMAC-SHA256: bytes or a str. It is never shown, nor in `ModelInfo.config`."""
    tool_format: ToolFormatName | None = None
    """How the model writes calls of tools; found from its chat template when not given."""
    isolation: Isolation = "thread"
    """Where its engine runs: on a thread of this process, or in a process of its own, so that a crash of native code
    costs this model alone. On Linux."""
    spare: bool = False
    """With `isolation="process"`: keep a second process ready that has mapped the weights, so that coming back after a
    crash costs a context and no load."""
    process_opts: ProcessOpts = ProcessOpts()
    """With `isolation="process"`: what that process may take."""
    restarts: RestartOpts = RestartOpts()
    """How often it is restarted after a crash before it is given up."""
    stub: StubOpts = StubOpts()
    """How the stub backend behaves."""

    def __repr__(self) -> str:
        return super(ModelConfig, without_secrets(self)).__repr__()

    def __rich_repr__(self) -> Any:
        return super(ModelConfig, without_secrets(self)).__rich_repr__()


def without_secrets(config: ModelConfig) -> ModelConfig:
    """What may be shown of a configuration."""
    return msgspec.structs.replace(config, thinking_signing_key=None)


def for_engine(config: ModelConfig) -> ModelConfig:
    """What the engine of another process is told of a configuration: none of the secrets, which it does not need, nor
    the path of the file, which need not be text."""
    return msgspec.structs.replace(without_secrets(config), cache_salt=None, model_path=None)


def parse_model_config(options: object, policy: PolicyOpts = DEFAULT_POLICY) -> ModelConfig:
    """Check a configuration and fill in what depends on others: gates, absolute path, micro-batch, threads."""
    if not isinstance(options, ModelConfig | Mapping):
        expected = 'expected a mapping, such as {"model_path": "model.gguf"}, or a ModelConfig'
        raise InvalidOption("config", f"{expected}, got {type(options).__name__}")
    config = convert(
        options, ModelConfig, model_path=plain_path, fingerprint=hex_digest, ctx_params_hash=hex_digest,
        thinking_signing_key=key_bytes, tier=_name_of_tier, tier_srv=_name_of_tier,
    )  # fmt: skip
    config = msgspec.structs.replace(config, policy=filled(config.policy, policy))
    if config.context_opts.n_ctx is None and config.context_size is not None:
        context = msgspec.structs.replace(config.context_opts, n_ctx=config.context_size)
        config = msgspec.structs.replace(config, context_opts=context)
    _check_model(config)
    _check_context(config.context_opts)
    check_policy(config.policy)
    return msgspec.structs.replace(
        config,
        model_path=None if config.model_path is None else settled_path(config.model_path),
        context_opts=_resolve_context(config.context_opts),
        quant_type=None if config.quant_type is None else config.quant_type.lower(),
    )


def _name_of_tier(given: object) -> object:
    """What a model says of its tier; the tier itself, or its directory, is for the runtime. Raises `ValueError`."""
    if isinstance(given, Mapping | os.PathLike) or (isinstance(given, str) and "/" in given):
        raise ValueError('it is a name, such as "disk"; Runtime(tiers={"disk": DiskTier("/a/directory")}) starts it')
    return given


def with_trained_context(config: ModelConfig, n_ctx_train: int) -> ModelConfig:
    """The configuration with the context that the model was trained with, where it asks for that: `n_ctx` of 0.

    Raises `InvalidOption`, also where the file does not say (0).
    """
    if config.context_opts.n_ctx != 0:
        return config
    if not n_ctx_train:
        raise InvalidOption("context_opts.n_ctx", "the file does not say with what context it was trained: give one")
    return with_cells(config, n_ctx_train)


def with_cells(config: ModelConfig, n_ctx: int) -> ModelConfig:
    """The configuration with a context of so many cells. Raises `InvalidOption` where other options forbid that."""
    context = msgspec.structs.replace(config.context_opts, n_ctx=n_ctx)
    _check_context(context)
    config = msgspec.structs.replace(config, context_opts=_resolve_context(context))
    _check_size(config)
    return config


def with_tier(config: ModelConfig, running: Mapping[str, str]) -> ModelConfig:
    """The configuration with the name and the kind of its tier, one of those that run (`running`: name → kind).

    Raises `TierNotFound` and `TierMismatch`, and `InvalidOption` where a kind alone could mean several.
    """
    name, asked = config.tier_srv, config.tier
    if name is NOT_GIVEN:
        of_kind = [RAM_TIER] if asked is NOT_GIVEN else [one for one, kind in running.items() if kind == asked]
        if len(of_kind) > 1:
            raise InvalidOption("tier_srv", f"several tiers of the kind {asked!r} run: one of {', '.join(of_kind)}")
        if not of_kind:
            raise TierNotFound(asked, tuple(sorted(running)), kind=asked)
        name = of_kind[0]
    kind = running.get(name)
    if kind is None:
        raise TierNotFound(name, tuple(sorted(running)))
    if asked is not NOT_GIVEN and kind != asked:
        raise TierMismatch(name, asked, kind)
    return msgspec.structs.replace(config, tier_srv=name, tier=kind)


def check_name(name: object, option: str = "id") -> str:
    """A name for a model, a tier or a supervised function: 1 to 200 printable characters, so that a line of a log has
    room for it; without `.` and `..` between slashes, so that a URL can name it."""
    if not isinstance(name, str):
        raise InvalidOption(option, f"expected str, got {type(name).__name__}")
    if not 1 <= len(name) <= 200 or not name.isprintable():
        raise InvalidOption(option, "expected 1 to 200 printable characters")
    if not {".", ".."}.isdisjoint(name.split("/")):
        raise InvalidOption(option, "expected neither '.' nor '..' between slashes: no URL could name it")
    return name


def _resolve_context(context: ContextOpts) -> ContextOpts:
    n_batch = min(context.n_batch, context.n_ctx or context.n_batch)  # as llama.cpp does
    return msgspec.structs.replace(
        context,
        n_batch=n_batch,
        n_ubatch=min(context.n_ubatch or n_batch, n_batch),
        n_seq_max=context.sequences,
        n_threads_batch=context.n_threads_batch or context.n_threads,
    )


def _check_model(config: ModelConfig) -> None:
    if config.model_path is None and config.backend == "llama":
        raise InvalidOption("model_path", "the backend 'llama' needs the path of a GGUF file")
    if config.tier is not NOT_GIVEN and config.tier not in KINDS:
        raise not_among("tier", KINDS, config.tier)
    if config.cache_salt is not None:
        check_utf8("cache_salt", config.cache_salt)
    check_thinking(config.thinking_markers, config.thinking_budget_message)
    if config.stub != StubOpts() and config.backend != "stub":
        raise InvalidOption("stub", "these options are for the backend 'stub'")
    check_process(config.isolation, config.spare, config.process_opts)
    if config.stub.memory == "window" and not config.stub.n_swa:
        raise InvalidOption("stub.n_swa", "a memory with a window needs its width")
    if config.fingerprint_mode == "fast_unsafe" and config.fingerprint is None:
        raise InvalidOption("fingerprint", "'fast_unsafe' trusts a given fingerprint, and none is given")
    if config.context_opts.n_ctx:
        _check_size(config)
    split = config.model_opts.tensor_split
    if split is not None and (not any(split) or min(split) < 0):
        raise InvalidOption("model_opts.tensor_split", "expected shares of 0 or more, one of them above 0")


def _check_size(config: ModelConfig) -> None:
    if config.context_size is not None and config.context_size != config.context_opts.n_ctx:
        raise InvalidOption("context_size", f"it is {config.context_size}, but n_ctx is {config.context_opts.n_ctx}")


def _check_context(context: ContextOpts) -> None:
    if context.sequences > min(context.n_batch, context.n_ctx or context.n_batch):
        problem = f"n_batch and n_ctx must hold a token of each sequence, and are {context.n_batch} and {context.cells}"
        raise InvalidOption("context_opts.n_seq_max", problem)
    if context.n_ubatch is not None and context.n_ubatch > context.n_batch:
        raise InvalidOption("context_opts.n_ubatch", f"it must not be above n_batch, which is {context.n_batch}")
    for name in ("yarn_beta_fast", "yarn_beta_slow"):
        if getattr(context, name) == 0:
            raise InvalidOption(f"context_opts.{name}", "expected a number other than 0, which is divided by")
    # llama.cpp turns flash attention on by itself for these where that is left to it, and fails where it is not.
    if context.flash_attn is False and context.type_v.startswith("q"):
        raise InvalidOption("context_opts.type_v", f"{context.type_v} values need flash attention, which is off")
