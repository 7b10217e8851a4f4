"""What is known of a model file that is not loaded: the answer of `inspect_model`."""

from __future__ import annotations

from typing import Literal

from erllama_py.options.model import ToolFormatName
from erllama_py.results.plain import Result


class ContextMemory(Result, frozen=True, kw_only=True):
    """What a context of a size takes beside the weights. Sizes are in bytes."""

    n_ctx: int
    """Cells of the context, in tokens."""
    cell_bytes: int
    """Of the KV cells of all its sequences, and the states of recurrent layers."""
    compute_bytes: int
    """Of what decodes need beside them."""


class ModelFile(Result, frozen=True, kw_only=True):
    """What a GGUF file says of itself, and what a load of it would say. Sizes are in bytes, lengths in tokens."""

    path: str
    """The file, absolute; of a model in several files, the first."""
    n_files: int
    """How many files the model has."""
    file_size: int
    """Bytes of all of them."""
    name: str | None
    """What its makers call it."""
    architecture: str
    """What it is built like: `"llama"`, `"qwen3"`."""
    description: str
    """"llama 135M Q4_1"."""
    quant_type: str
    """The quantisation by name."""
    quant_bits: int
    """Bits a weight; 0 where the name does not say."""
    n_params: int
    """Number of weights."""
    size: int
    """Bytes of the weights."""
    n_layer: int
    """Layers."""
    n_embd: int
    """Numbers of an embedding."""
    n_vocab: int
    """Tokens in its vocabulary."""
    n_ctx_train: int
    """The context it was trained with."""
    memory: Literal["full", "window", "recurrent", "hybrid"]
    """What it keeps of a text: all of it, in some layers what is in a window, a state of fixed size, or a state in some
    layers and all in others."""
    sliding_window: int
    """Width of the window; 0 without one."""
    kv_bytes_per_token: int
    """Bytes that a token takes in f16 in the layers that attend to everything or to a window; 0 where none does."""
    contexts: tuple[ContextMemory, ...]
    """What contexts of several sizes take; none for an encoder."""
    chat_template: str | None
    """The source of its default chat template."""
    chat_templates: tuple[str, ...]
    """The names of others."""
    can_generate: bool
    """Whether it continues prompts; an encoder, such as BERT, only embeds."""
    can_rank: bool
    """Whether it has a head that scores a query and a document."""
    pooling: Literal["mean", "cls", "last"] | None
    """How vectors of tokens become one of a text; `None` for a model that ranks."""
    tool_format: ToolFormatName | None
    """How it writes calls of tools, by its chat template; `None` where that shows none."""
    thinking: tuple[str, str] | None
    """What opens and closes a block of thinking; `None` where it has no markers."""
    thinking_switch: str | None
    """The variable of its chat template that turns thinking on and off; `None` where there is none."""
    metadata: dict[str, str]
    """Its key-values, sorted, but for arrays and chat templates."""
