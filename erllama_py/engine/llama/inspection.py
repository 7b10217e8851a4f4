"""Looking at a GGUF file through llama.cpp without its weights: it lays the tensors out and gives them no memory.

What it says is what a load would say, since the same functions are asked. The memory of a context is taken from what
llama.cpp writes while it lays one out: no function tells it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from erllama_py.engine.inspection import ContextBytes, Inspection
from erllama_py.engine.llama.first_look import looked_at
from erllama_py.engine.llama.logs import LogContext
from erllama_py.engine.llama.model_facts import metadata, model_facts
from erllama_py.engine.llama.native import AbortFlag, Library
from erllama_py.engine.llama.vocabulary import LlamaVocabulary
from erllama_py.engine.llama.weights import Attention, Weights, context_params, load_model
from erllama_py.errors import ModelLoadError, UnsupportedModel
from erllama_py.options.model import ModelConfig, ModelOpts

_MIB = 1 << 20
_CELLS = re.compile(r"^llama_(?:kv_cache|memory_recurrent)\w*: size = +([\d.]+) MiB")
_COMPUTE = re.compile(r"(?:compute|output) buffer size = +([\d.]+) MiB")


@contextmanager
def inspected(path: str, home: Path | None, wanted: Callable[[], bool]) -> Iterator[Inspection]:
    """See `erllama_py.engine.inspected`."""
    # Mapped files cannot be laid out without memory.
    config = ModelConfig(model_path=path, model_opts=ModelOpts(use_mmap=False))
    lib, file = looked_at(config, path, home, wanted)
    vocabulary = LlamaVocabulary(path)
    weights = Weights(
        lib, load_model(lib, path, config, path, lambda _: wanted(), weightless=True), path, vocabulary
    )  # fmt: skip
    try:
        if lib.c.llama_model_has_encoder(weights.model):
            raise UnsupportedModel(path, "models with an encoder of their own (T5 and its kind) are not supported")
        vocabulary.open(lib, weights.model)
        yield Inspection(
            file=file,
            model=model_facts(
                lib, weights, None, attention=Attention(flash=False, transposed=False), state_bytes=0, on_gpu=False
            ),
            metadata=metadata(lib, weights.model),
            vocabulary=vocabulary,
            context_bytes=lambda context: context_bytes(
                lib, weights, msgspec.structs.replace(config, context_opts=context)
            ),
        )
    finally:
        weights.release()


def context_bytes(lib: Library, weights: Weights, config: ModelConfig) -> ContextBytes:
    """What a context over these weights takes. Raises `ModelLoadError`."""
    params = context_params(lib, config, AbortFlag(lib))
    with LogContext(str(config.model_path), hold=True) as log:
        handle = lib.c.llama_init_from_model(weights.model, params)
    lines = log.held
    log.release(expected=bool(handle))
    if not handle:
        raise ModelLoadError(str(config.model_path), log.problem("the context could not be made"))
    lib.c.llama_free(handle)
    return ContextBytes(cells=_sum(_CELLS, lines), compute=_sum(_COMPUTE, lines))


def _sum(size: re.Pattern[str], lines: list[str]) -> int:
    return int(sum(float(found[1]) for line in lines if (found := size.search(line))) * _MIB)
