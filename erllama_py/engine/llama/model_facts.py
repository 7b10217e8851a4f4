"""What llama.cpp says of a model that is loaded, whether its weights are there or only laid out."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

from erllama_py.engine.backend import MemoryKind, ModelFacts
from erllama_py.engine.llama.context import Context
from erllama_py.engine.llama.native import Library
from erllama_py.engine.llama.weights import Attention, Weights

_TEXT_BYTES = 256  # most names and values of a header; longer ones take a second call


def model_facts(
    lib: Library, weights: Weights, context: Context | None, *, attention: Attention, state_bytes: int, on_gpu: bool
) -> ModelFacts:
    """What is known of a model that is loaded, and of its context where it has one."""
    c, model, vocabulary = lib.c, weights.model, weights.vocabulary
    vocab_handle, memory = c.llama_model_get_vocab(model), memory_kind(c, model)
    return ModelFacts(
        description=_description(lib, model),
        n_params=int(c.llama_model_n_params(model)),
        size_bytes=int(c.llama_model_size(model)),
        n_vocab=vocabulary.n_vocab,
        n_layer=int(c.llama_model_n_layer(model)),
        n_ctx_train=int(c.llama_model_n_ctx_train(model)),
        n_ctx=context.n_ctx if context else 0,
        n_batch=context.n_batch if context else 0,
        n_ubatch=context.n_ubatch if context else 0,
        n_seq_max=context.n_seq_max if context else 0,
        memory=memory,
        n_swa=int(c.llama_model_n_swa(model)),
        state_bytes=state_bytes,
        flash_attn=attention.flash and memory != "recurrent",
        transposed=attention.transposed and memory != "recurrent",
        chat_template=_text(c.llama_model_chat_template(model, None)),
        chat_templates=_named_templates(lib, model),
        bos_token=vocabulary.text_of(int(c.llama_vocab_bos(vocab_handle))),
        eos_token=vocabulary.text_of(int(c.llama_vocab_eos(vocab_handle))),
        build=lib.build,
        n_embd=int(c.llama_model_n_embd_out(model)),
        rerank_template=_text(c.llama_model_chat_template(model, b"rerank")),
        on_gpu=on_gpu,
    )


def metadata(lib: Library, model: Any) -> dict[str, str]:
    """The key-values of the model as text, sorted by key, but for arrays, which llama.cpp leaves out."""
    found = {}
    for index in range(int(lib.c.llama_model_meta_count(model))):
        key = _in_buffer(partial(lib.c.llama_model_meta_key_by_index, model, index))
        found[key] = _in_buffer(partial(lib.c.llama_model_meta_val_str_by_index, model, index))
    return dict(sorted(found.items()))


def _in_buffer(write: Callable[[Any, int], int]) -> str:
    """The text that a function of llama.cpp writes into a buffer, of which it says the length."""
    buffer = ctypes.create_string_buffer(_TEXT_BYTES)
    if (length := write(buffer, len(buffer))) >= len(buffer):
        buffer = ctypes.create_string_buffer(length + 1)
        write(buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace")


def memory_kind(c: Any, model: Any) -> MemoryKind:
    if c.llama_model_is_recurrent(model):
        return "recurrent"
    if c.llama_model_is_hybrid(model):
        return "hybrid"
    return "window" if c.llama_model_n_swa(model) > 0 else "full"


def _description(lib: Library, model: Any) -> str:
    """Architecture, parameters, type of the weights. `llama_model_desc` guesses the size from the layers."""
    buffer = ctypes.create_string_buffer(64)
    lib.c.llama_model_meta_val_str(model, b"general.architecture", buffer, len(buffer))
    n_params = int(lib.c.llama_model_n_params(model))
    size = f"{n_params / 1e9:.1f}B" if n_params >= 1e9 else f"{n_params / 1e6:.0f}M"
    quant = lib.file_type(lib.c.llama_model_ftype(model)) or ""
    return f"{buffer.value.decode('utf-8', 'replace')} {size} {quant.upper()}".rstrip()


def _text(data: bytes | None) -> str | None:
    return None if data is None else data.decode("utf-8", "replace")


def _named_templates(lib: Library, model: Any) -> dict[str, str]:
    """The chat templates beside the default one, by name."""
    prefix, buffer = "tokenizer.chat_template.", ctypes.create_string_buffer(256)
    found: dict[str, str] = {}
    for index in range(int(lib.c.llama_model_meta_count(model))):
        lib.c.llama_model_meta_key_by_index(model, index, buffer, len(buffer))
        key = buffer.value.decode("utf-8", "replace")
        if key.startswith(prefix):
            name = key.removeprefix(prefix)
            source = _text(lib.c.llama_model_chat_template(model, name.encode()))
            if source is not None:
                found[name] = source
    return found
