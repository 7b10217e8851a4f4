"""Every option as a frozen struct, checked once, at the door.

`parse_model_config` and `parse_request_options` take what a caller wrote, a mapping or a struct, and return
a struct in which every value is known to be possible and every default is filled in; later rooms check
nothing again. All refusals are `InvalidOption` with the option's dotted path.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from erllama_py.errors import InvalidOption, TierMismatch, TierNotFound
from erllama_py.option_check import Rule, at_least, check_rules, convert, hex_digest, one_of_range

INT32_MAX = (1 << 31) - 1  # llama.cpp holds sizes in 32-bit integers
MAX_SEQUENCES = 256  # llama.cpp's LLAMA_MAX_SEQ

KVType = Literal["f16", "f32", "bf16", "q4_0", "q5_0", "q5_1", "q8_0"]
TierKind = Literal["ram", "ram_file", "disk"]


class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of all option structs: immutable, by keyword, unknown names refused."""


class ModelOpts(Options):
    """How the weights are loaded."""

    n_gpu_layers: int = 0  # layers put on the GPU; -1 or a large number for all
    use_mmap: bool = True  # map the file instead of copying it: loads are fast and pages are shared
    use_mlock: bool = False  # keep the weights from being paged out
    vocab_only: bool = False  # load the tokenizer alone; generating is then an error
    split_mode: Literal["none", "layer", "row"] = "layer"  # how several GPUs share the model
    main_gpu: int = 0  # the GPU that is used where the model is not split
    tensor_split: tuple[float, ...] | None = None  # share of each GPU, any scale


class ContextOpts(Options):
    """The context: its size, its threads, and what its KV cells are made of. Lengths are in tokens."""

    n_ctx: int = 2048  # cells for all sequences together: prompt and reply
    n_batch: int = 512  # most tokens of one decode call
    n_ubatch: int | None = None  # micro-batch, the step within a decode; `None`: as n_batch
    n_threads: int | None = None  # CPU threads for single tokens; `None`: as many as this process may use
    n_threads_batch: int | None = None  # CPU threads for prompts; `None`: as n_threads
    n_seq_max: int = 1  # sequences that the context can hold side by side
    flash_attn: bool | Literal["auto"] = "auto"
    type_k: KVType = "f16"  # type of the keys in the cells
    type_v: KVType = "f16"  # type of the values; quantised ones need flash attention
    rope_scaling_type: Literal["none", "linear", "yarn", "longrope"] | None = None  # `None`: as the model says
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    yarn_ext_factor: float | None = None
    yarn_attn_factor: float | None = None
    yarn_beta_fast: float | None = None
    yarn_beta_slow: float | None = None
    yarn_orig_ctx: int | None = None
    offload_kqv: bool = True  # keep the KV cells on the GPU where layers are there
    swa_full: bool = False  # sliding-window models: keep all cells, so that sequences can be cut back anywhere


class PolicyOpts(Options):
    """When prefixes are saved. Lengths are in tokens."""

    min_tokens: int | None = 256  # shortest prefix that is saved; `None` saves nothing
    cold_min_tokens: int = 256  # shortest prompt that is saved after its prefill
    cold_max_tokens: int | None = None  # longest one; `None`: no limit
    continued_interval: int = 2048  # generated tokens between two saves of a long reply
    boundary_trim_tokens: int = 32  # tokens left off a prompt's end before its boundary is looked for
    boundary_align_tokens: int = 256  # boundaries lie on multiples of this
    session_resume_wait_ms: int = 500  # longest wait for a save under way, in milliseconds


class StubOpts(Options):
    """How the stub backend behaves; times are in seconds."""

    vocab_size: int = 320
    seconds_per_token: float = 0.0
    load_seconds: float = 0.0
    fail_load: bool = False
    fail_decode_after: int | None = None  # decodes that work before one fails
    hang_decode_after: int | None = None  # decodes that work before one hangs
    memory: Literal["full", "window", "recurrent", "hybrid"] = "full"
    n_swa: int = 0  # width of the sliding window, for memory "window"


class ModelConfig(Options):
    """What `load_model` takes. Paths are absolute and every default is filled in once it is parsed."""

    backend: Literal["llama", "stub"] = "llama"
    model_path: str | None = None  # a GGUF file; needed by the backend "llama"
    model_opts: ModelOpts = ModelOpts()
    context_opts: ContextOpts = ContextOpts()
    fingerprint: str | None = None  # what the file must hash to: 64 hex digits, or 32 bytes
    fingerprint_mode: Literal["safe", "gguf_chunked", "fast_unsafe"] = "safe"
    remember_fingerprint: bool = True  # reuse the hash of a file that has not changed since
    quant_type: str | None = None  # "q4_k_m"; read from the file, compared when given
    quant_bits: int | None = None
    ctx_params_hash: str | None = None  # 64 hex digits, or 32 bytes; derived when not given
    context_size: int | None = None  # a copy of n_ctx, compared when given
    tier_srv: str = "ram"  # name of the tier that rows are saved to
    tier: TierKind = "ram"  # its kind
    policy: PolicyOpts = PolicyOpts()
    stub: StubOpts = StubOpts()


class RequestOptions(Options):
    """What `complete`, `stream` and `chat` take beside the prompt."""

    response_tokens: int | None = None  # most tokens of the reply; `None`: what the context leaves
    stop_sequences: tuple[str, ...] = ()  # texts that end the reply where they begin
    temperature: float = 0.8  # 0.0 always takes the likeliest token
    top_k: int = 40  # keep the k likeliest tokens; 0 is off
    top_p: float = 0.95  # keep the likeliest tokens that together reach p; 1.0 is off
    min_p: float = 0.05  # drop tokens less likely than p times the likeliest; 0.0 is off
    repetition_penalty: float = 1.0  # above 1.0 makes recent tokens less likely; 1.0 is off
    seed: int | None = None  # of the draw, 32 bits; `None`: drawn, and told in the stats
    grammar: str | None = None  # GBNF; the reply follows it


# Stop sequences are matched after each token on the engine's thread; these bounds keep that in microseconds.
MAX_STOP_SEQUENCES = 64
MAX_STOP_CHARACTERS = 4096

CONTEXT_RULES: tuple[Rule, ...] = (
    at_least(1, INT32_MAX, "n_ctx", "n_batch", "n_ubatch", "yarn_orig_ctx"),
    at_least(1, 4096, "n_threads", "n_threads_batch"),
    at_least(1, MAX_SEQUENCES, "n_seq_max"),
    at_least(0.0, None, "rope_freq_base", "rope_freq_scale"),
)
MODEL_RULES: tuple[Rule, ...] = (
    at_least(-1, INT32_MAX, "n_gpu_layers"),
    at_least(0, INT32_MAX, "main_gpu"),
)
POLICY_RULES: tuple[Rule, ...] = (
    at_least(0, INT32_MAX, "min_tokens", "cold_min_tokens", "cold_max_tokens", "boundary_trim_tokens"),
    at_least(1, INT32_MAX, "continued_interval", "boundary_align_tokens"),
    at_least(0, INT32_MAX, "session_resume_wait_ms"),
)
STUB_RULES: tuple[Rule, ...] = (
    at_least(0.0, None, "seconds_per_token", "load_seconds"),
    at_least(0, INT32_MAX, "fail_decode_after", "hang_decode_after", "n_swa"),
    at_least(260, 1 << 20, "vocab_size"),
)
REQUEST_RULES: tuple[Rule, ...] = (
    at_least(1, INT32_MAX, "response_tokens"),
    at_least(0, INT32_MAX, "top_k"),
    at_least(0.0, None, "temperature"),
    one_of_range("top_p", above=0.0, up_to=1.0),
    one_of_range("min_p", above=None, up_to=1.0),
    one_of_range("repetition_penalty", above=0.0, up_to=None),
    at_least(0, (1 << 32) - 1, "seed"),
)


def parse_model_config(options: Mapping[str, Any] | ModelConfig) -> ModelConfig:
    """Check a configuration and fill in what depends on this machine: absolute path, threads, micro-batch."""
    if isinstance(options, Mapping):
        given = dict(options)
        for name in ("fingerprint", "ctx_params_hash"):
            given[name] = hex_digest(name, given.get(name))
        if isinstance(given.get("model_path"), os.PathLike):
            given["model_path"] = os.fspath(given["model_path"])
        config = convert(given, ModelConfig)
    else:
        config = convert(options, ModelConfig)
    check_rules(config.model_opts, MODEL_RULES, "model_opts.")
    check_rules(config.context_opts, CONTEXT_RULES, "context_opts.")
    check_rules(config.policy, POLICY_RULES, "policy.")
    check_rules(config.stub, STUB_RULES, "stub.")
    _check_model(config)
    _check_policy(config.policy)
    return msgspec.structs.replace(
        config,
        model_path=None if config.model_path is None else str(Path(config.model_path).absolute()),
        context_opts=_resolve_context(config.context_opts),
        fingerprint=hex_digest("fingerprint", config.fingerprint),
        ctx_params_hash=hex_digest("ctx_params_hash", config.ctx_params_hash),
        quant_type=None if config.quant_type is None else config.quant_type.lower(),
    )


def parse_request_options(options: Mapping[str, object]) -> RequestOptions:
    """Check the options of one request. A single stop sequence may be given as a str."""
    given = dict(options)
    if isinstance(given.get("stop_sequences"), str):
        given["stop_sequences"] = (given["stop_sequences"],)
    request = convert(given, RequestOptions)
    check_rules(request, REQUEST_RULES, "")
    stops = request.stop_sequences
    if len(stops) > MAX_STOP_SEQUENCES:
        raise InvalidOption("stop_sequences", f"at most {MAX_STOP_SEQUENCES} are allowed, got {len(stops)}")
    for text in (*stops, request.grammar or "-"):
        if not text:
            raise InvalidOption("stop_sequences", "an empty text would end every reply at once")
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            raise InvalidOption("grammar" if text is request.grammar else "stop_sequences", "the text has no UTF-8 form")
    if any(len(text) > MAX_STOP_CHARACTERS for text in stops):
        raise InvalidOption("stop_sequences", f"at most {MAX_STOP_CHARACTERS} characters each are allowed")
    return request


def check_tier(config: ModelConfig, running: Mapping[str, str]) -> None:
    """Whether the tier that a model names runs (`running`: name → kind) and is of the kind it says."""
    kind = running.get(config.tier_srv)
    if kind is None:
        raise TierNotFound(config.tier_srv, tuple(sorted(running)))
    if kind != config.tier:
        raise TierMismatch(config.tier_srv, config.tier, kind)


def check_model_id(model_id: object) -> str:
    """A name for a model or a supervised function: 1 to 200 printable characters."""
    if not isinstance(model_id, str):
        raise InvalidOption("id", f"expected `str`, got `{type(model_id).__name__}`")
    if not 1 <= len(model_id) <= 200 or not model_id.isprintable():
        raise InvalidOption("id", "1 to 200 printable characters expected")
    return model_id


def usable_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _resolve_context(context: ContextOpts) -> ContextOpts:
    threads = context.n_threads or usable_cpus()
    n_batch = min(context.n_batch, context.n_ctx)  # as llama.cpp does
    return msgspec.structs.replace(
        context,
        n_batch=n_batch,
        n_ubatch=min(context.n_ubatch or n_batch, n_batch),
        n_threads=threads,
        n_threads_batch=context.n_threads_batch or threads,
    )


def _check_model(config: ModelConfig) -> None:
    if config.backend == "llama" and not config.model_path:
        raise InvalidOption("model_path", "the backend 'llama' needs the path of a GGUF file")
    if config.model_path is not None and "\0" in config.model_path:
        raise InvalidOption("model_path", "a path has no NUL character")
    if config.fingerprint_mode == "fast_unsafe" and config.fingerprint is None:
        raise InvalidOption("fingerprint", "'fast_unsafe' trusts what is given, and nothing is")
    context = config.context_opts
    if config.context_size is not None and config.context_size != context.n_ctx:
        raise InvalidOption("context_size", f"it is {config.context_size}, but n_ctx is {context.n_ctx}")
    if context.n_ubatch is not None and context.n_ubatch > context.n_batch:
        raise InvalidOption("context_opts.n_ubatch", f"a micro-batch is part of a batch of {context.n_batch} tokens")
    split = config.model_opts.tensor_split
    if split is not None and (not any(split) or min(split) < 0):
        raise InvalidOption("model_opts.tensor_split", "shares of 0 or more, one of them above 0, expected")


def _check_policy(policy: PolicyOpts) -> None:
    if policy.min_tokens is not None and policy.cold_min_tokens < policy.min_tokens:
        raise InvalidOption("policy.cold_min_tokens", f"it must not be below min_tokens, which is {policy.min_tokens}")
    if policy.cold_max_tokens is not None and policy.cold_max_tokens < policy.cold_min_tokens:
        problem = f"it must not be below cold_min_tokens, which is {policy.cold_min_tokens}"
        raise InvalidOption("policy.cold_max_tokens", problem)
