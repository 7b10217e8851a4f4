"""`inspect_model`: what a GGUF file is, without loading it. It blocks, and holds nothing when it returns."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import cast

import msgspec

from erllama_py.actors import Threads
from erllama_py.chat.dialect import Dialect, find_dialect
from erllama_py.chat.template import ChatTemplate
from erllama_py.engine import inspected
from erllama_py.engine.inspection import Inspection
from erllama_py.errors import InvalidOption
from erllama_py.home import home_folder
from erllama_py.options.check import INT32_MAX
from erllama_py.options.hub_reference import is_hub_reference
from erllama_py.options.mappings import ContextOptsDict
from erllama_py.options.model import ContextOpts, ModelConfig, ToolFormatName, parse_model_config
from erllama_py.pulling import pull_now
from erllama_py.results import ContextMemory, ModelFile

SMALLEST = 4096  # tokens of the first context whose memory is told, where no sizes are asked for


def inspect_model(
    path: str | os.PathLike[str],
    *,
    context_opts: ContextOpts | ContextOptsDict | None = None,
    context_sizes: Sequence[int] | None = None,
    probe: bool = True,
) -> ModelFile:
    """What the GGUF file at `path` is, and what contexts of it would take, as a load would find it.

    No weights are read: it takes as long as reading the vocabulary, 0.05 to 0.4 s. It blocks for that time, so from a
    coroutine call it in a worker thread. `context_opts` are those of the contexts but for `n_ctx`, which goes through
    `context_sizes`: by default powers of two from 4,096 up to the trained context. With `probe`, a file that is new to
    `$ERLLAMA_HOME` is tried in a short-lived process first, as by a load, which takes as long again. A model of the
    Hugging Face hub is downloaded where it is not on this machine, as by `pull_model`. Raises
    `InvalidOption` and the `ModelLoadError`s of a load, such as `NotAGGUF`.
    """
    config = parse_model_config({"model_path": path, "context_opts": context_opts or {}, "probe": probe})
    if context_sizes is not None:
        _check_sizes(context_sizes, config.context_opts.sequences)
    # Signals are for the main thread, and what they raise in a callback of llama.cpp is lost: Ctrl-C would do nothing.
    threads, unwanted = Threads("inspect", 1), threading.Event()
    try:
        return threads.call(_inspect, config, context_sizes, unwanted, leave=unwanted.set)
    finally:
        threads.close()


def _inspect(config: ModelConfig, context_sizes: Sequence[int] | None, unwanted: threading.Event) -> ModelFile:
    path = str(config.model_path)
    if is_hub_reference(path):
        path = pull_now(path, unwanted)
    with inspected(path, home_folder() if config.probe else None, lambda: not unwanted.is_set()) as found:
        file, model = found.file, found.model
        sizes = default_sizes(model.n_ctx_train) if context_sizes is None else context_sizes
        dialect = _dialect(found, model.chat_template)
        thinking = dialect.thinking
        return ModelFile(
            path=path, n_files=len(file.files), file_size=file.file_size,
            name=found.metadata.get("general.name"), architecture=file.architecture, description=model.description,
            quant_type=file.quant_type, quant_bits=file.quant_bits, n_params=model.n_params, size=model.size_bytes,
            n_layer=model.n_layer, n_embd=model.n_embd, n_vocab=model.n_vocab, n_ctx_train=model.n_ctx_train,
            memory=model.memory, sliding_window=model.n_swa, kv_bytes_per_token=file.kv_bytes_per_token,
            contexts=() if file.embeds_only else tuple(_memory(found, config.context_opts, size) for size in sizes),
            chat_template=model.chat_template, chat_templates=tuple(model.chat_templates),
            can_generate=not file.embeds_only, can_rank=file.pooling == "rank",
            pooling=None if file.pooling == "rank" else file.pooling or "mean",
            tool_format=_tool_format(found),
            thinking=None if thinking is None else (thinking.opens, thinking.closes),
            thinking_switch=None if dialect.switch is None else dialect.switch.name,
            metadata={key: value for key, value in found.metadata.items() if "chat_template" not in key},
        )  # fmt: skip


def default_sizes(n_ctx_train: int) -> list[int]:
    """Powers of two from `SMALLEST` up to the trained context, and that itself."""
    most = n_ctx_train or SMALLEST
    sizes = [SMALLEST << shift for shift in range(20) if SMALLEST << shift < most]
    return [*sizes, most]


def _check_sizes(sizes: Sequence[int], n_seq_max: int) -> None:
    for index, size in enumerate(sizes):
        if type(size) is not int or not n_seq_max <= size <= INT32_MAX:
            problem = f"expected an int from {n_seq_max}, a token for each sequence, to {INT32_MAX:,}, got {size!r}"
            raise InvalidOption(f"context_sizes[{index}]", problem)


def _memory(found: Inspection, context: ContextOpts, size: int) -> ContextMemory:
    n_batch = min(context.n_batch, size)
    asked = msgspec.structs.replace(
        context, n_ctx=size, n_batch=n_batch, n_ubatch=min(context.n_ubatch or n_batch, n_batch)
    )
    taken = found.context_bytes(asked)
    return ContextMemory(n_ctx=size, cell_bytes=taken.cells, compute_bytes=taken.compute)


def _tool_format(found: Inspection) -> ToolFormatName | None:
    """How calls are written by the template that renders tools; None where it shows none."""
    model = found.model
    template = ChatTemplate(model.chat_template, model.bos_token, model.eos_token, named=model.chat_templates)
    source = template.source_with_tools()
    format_ = None if source is None else _dialect(found, source).tools
    return None if format_ is None else cast(ToolFormatName, format_.name)


def _dialect(found: Inspection, source: str | None) -> Dialect:
    def is_token(marker: str) -> bool:
        return len(found.vocabulary.tokenize(marker, add_special=False, parse_special=True)) == 1

    return find_dialect(source, is_token)
