"""The first look at a model file: what could end the process is tried in a child before it is done here. Blocks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from erllama_py.engine.backend import FileFacts
from erllama_py.engine.llama.gguf_file import find_load_fault, read_facts
from erllama_py.engine.llama.gguf_header import check_file
from erllama_py.engine.llama.native import AbortFlag, Library, library
from erllama_py.engine.llama.probe import FileTry, Probe
from erllama_py.engine.llama.weights import context_params
from erllama_py.errors import UnsupportedModel
from erllama_py.options.model import ModelConfig

ProbeEmbedder = Callable[[Any, Callable[[], bool]], object]
"""Tries a context for embeddings: its `llama_context_params`, and whether it is still wanted."""


def looked_at(
    config: ModelConfig, model_id: str, home: Path | None, wanted: Callable[[], bool],
    later: Callable[[FileTry], object] | None = None,
) -> tuple[Library, FileFacts]:  # fmt: skip
    """llama.cpp, and the facts of the file, once both have been found sound; without a `home` only what is known to be
    unsound is refused. Who gives `later` has the file tried, before anything else is done with it.

    Raises as `Backend.inspect` does, and `LoadCancelled`.
    """
    path = str(config.model_path)
    check_file(path)  # a file that is not there needs no library
    probe = _probe(config, model_id, home)
    if probe is not None:
        probe.build(wanted)
    lib = library()
    on_gpu = config.model_opts.n_gpu_layers != 0 and bool(lib.c.llama_supports_gpu_offload())
    facts = read_facts(lib, path, model_id, on_cpu=not on_gpu)

    def fault() -> str | None:
        return find_load_fault(lib, path, model_id)

    if probe is None:
        if problem := fault():
            raise UnsupportedModel(path, problem)
        return lib, facts
    vocab_only = config.model_opts.vocab_only
    context = None if vocab_only or facts.embeds_only else context_params(lib, config, AbortFlag(lib))
    file = probe.file(facts, context, vocab_only=vocab_only, reason=fault)
    if later is None:
        file.settle(wanted)
    else:
        later(file)
    return lib, facts


def embedder_probe(config: ModelConfig, model_id: str, home: Path | None, facts: FileFacts) -> ProbeEmbedder:
    """What tries the context of an embedder over the same file. It raises as `FileTry.settle` does."""

    def attempt(params: Any, wanted: Callable[[], bool]) -> None:
        probe = _probe(config, model_id, home)
        if probe is not None:
            probe.file(facts, params, reason=lambda: None).settle(wanted)

    return attempt


def _probe(config: ModelConfig, model_id: str, home: Path | None) -> Probe | None:
    if home is None or not config.probe:
        return None
    return Probe(home / "probes", model_id, str(config.model_path))
