"""What is known of a model that was never loaded: what its configuration and its file say."""

from __future__ import annotations

import msgspec

import erllama_py as erllama
from erllama_py.serve.config import ServedModel
from erllama_py.serve.demand.fitting import needed_bytes

UNKNOWN_HASH = "0" * 64  # the file is hashed when it is loaded; clients cut the text to its first 12 letters


def info_of(model: ServedModel) -> erllama.ModelInfo:
    """A model that is not loaded, as its file says; of a stub, which has none, as little as is known."""
    config = msgspec.structs.replace(
        erllama.parse_options(model.options, erllama.ModelConfig), thinking_signing_key=None
    )  # fmt: skip
    file, context = model.file, config.context_opts
    encoder = file is not None and not file.can_generate
    return erllama.ModelInfo(
        id=model.name, phase="unloaded", pending=0, backend=config.backend,
        model_path=None if config.model_path is None else str(config.model_path),
        description=file.description if file else config.backend, quant_type=file.quant_type if file else "",
        quant_bits=file.quant_bits if file else 0, fingerprint=config_hash(config.fingerprint), ctx_params_hash="",
        n_params=file.n_params if file else 0, size=file.size if file else 0, memory_estimate=needed_bytes(model),
        context_size=context.n_ctx or 0, n_ctx_train=file.n_ctx_train if file else 0,
        n_vocab=file.n_vocab if file else 0, n_seq_max=context.n_seq_max or 0, threads=0, threads_used=0,
        threads_reason="", can_generate=not encoder, can_rank=bool(file and file.can_rank),
        n_embd=file.n_embd if file else 0, pooling=file.pooling if file else None, reproducible_threads=0,
        load_seconds=0.0, restarts=0, config=config,
    )  # fmt: skip


def format_of(model: ServedModel) -> erllama.ChatFormat | None:
    """How a model writes conversations, as its file says; None of a stub, which has none."""
    if (file := model.file) is None:
        return None
    return erllama.ChatFormat(
        template=file.chat_template, templates=file.chat_templates,
        tool_format=model.options.get("tool_format") or file.tool_format,
        thinking=model.options.get("thinking_markers") or file.thinking, thinking_switch=file.thinking_switch,
        thinking_off=file.thinking_switch is not None,
    )  # fmt: skip


def config_hash(given: str | bytes | None) -> str:
    """The fingerprint that a configuration gives, as `ModelInfo` has it."""
    return UNKNOWN_HASH if given is None else given.hex() if isinstance(given, bytes) else given
