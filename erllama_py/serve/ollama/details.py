"""What is known of a model, in the words that Ollama's clients look for."""

from __future__ import annotations

from typing import Any

import erllama_py as erllama
from erllama_py.serve.core.service import LATEST
from erllama_py.serve.ollama.lines import timestamp

# Of a model that is not unloaded by time: a date that every client can compute with.
NEVER = "2200-01-01T00:00:00+00:00"
ALL_LAYERS = 200  # more than any model has


def tagged(name: str) -> str:
    """A name as Ollama lists it: with a tag."""
    return name if ":" in name else name + LATEST


def architecture(info: erllama.ModelInfo) -> str:
    """What the model is built like, such as `llama`."""
    return info.description.partition(" ")[0] or "unknown"


def details(info: erllama.ModelInfo) -> dict[str, Any]:
    """What a list shows of it."""
    family = architecture(info)
    return {
        "parent_model": "", "format": "gguf", "family": family, "families": [family],
        "parameter_size": size_of(info.n_params), "quantization_level": info.quant_type.upper() or "unknown",
    }  # fmt: skip


def size_of(n_params: int) -> str:
    """A number of weights: `8.0B`, `134.52M`."""
    if n_params >= 10**9:
        return f"{n_params / 1e9:.1f}B"
    return f"{n_params / 1e6:.2f}M" if n_params >= 10**6 else f"{n_params / 1e3:.2f}K"


def listed(name: str, info: erllama.ModelInfo, modified: str) -> dict[str, Any]:
    """An entry of `/api/tags`."""
    return {
        "name": tagged(name), "model": tagged(name), "modified_at": modified, "size": info.size,
        "digest": info.fingerprint, "details": details(info),
    }  # fmt: skip


def running(name: str, info: erllama.ModelInfo, expires_at: float | None) -> dict[str, Any]:
    """An entry of `/api/ps`, of a model that goes at a unix time, or never.

    Where some layers are on a GPU, how many bytes of it that takes is not known.
    """
    layers = info.config.model_opts.n_gpu_layers
    on_gpu = 0 if layers == 0 else info.memory_estimate if layers < 0 or layers >= ALL_LAYERS else None
    return {
        "name": tagged(name), "model": tagged(name), "size": info.memory_estimate, "digest": info.fingerprint,
        "details": details(info), "expires_at": NEVER if expires_at is None else timestamp(expires_at),
        "context_length": info.context_size,
    } | ({} if on_gpu is None else {"size_vram": on_gpu})  # fmt: skip


def usable_context(info: erllama.ModelInfo) -> int:
    """Tokens of the longest prompt and reply that can be served: clients fit their prompts into it."""
    return min(info.context_size, info.n_ctx_train or info.context_size)


def capabilities(info: erllama.ModelInfo, form: erllama.ChatFormat) -> list[str]:
    """What it can do. As Ollama says it, only a model that cannot generate is one for embeddings."""
    if not info.can_generate:
        return ["embedding"]
    able = {"completion": True, "tools": form.tool_format is not None, "thinking": form.thinking is not None}
    return [name for name, can in able.items() if can]


def shown(name: str, info: erllama.ModelInfo, form: erllama.ChatFormat, modified: str) -> dict[str, Any]:
    """The answer of `/api/show`. The template is Jinja, as in the model's file."""
    kind = architecture(info)
    return {
        "modelfile": f"# {tagged(name)} is served by erllama_py, without a Modelfile\n",
        "parameters": f"num_ctx                        {info.context_size}",
        "template": form.template or "",
        "details": details(info),
        "model_info": {
            "general.architecture": kind,
            "general.basename": name.removesuffix(LATEST),
            "general.parameter_count": info.n_params,
            f"{kind}.context_length": usable_context(info),
            f"{kind}.trained_context_length": info.n_ctx_train,
            f"{kind}.embedding_length": info.n_embd,
            f"{kind}.vocab_size": info.n_vocab,
        },
        "capabilities": capabilities(info, form),
        "modified_at": modified,
    }
