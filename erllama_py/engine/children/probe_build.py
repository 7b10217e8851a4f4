"""The task of decoding with the llama.cpp that is installed, before an application does.

A build for instructions that this CPU has not, or that trap on it, ends this process and no other. A prompt takes the
kernels of matrices, single tokens those of vectors; with flash attention and without, with cells of two types.
"""

from __future__ import annotations

import ctypes
import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from erllama_py.engine.children.bindings import fill, open_bindings, without_devices
from erllama_py.engine.children.codes import DONE, REFUSED, WRONG
from erllama_py.engine.children.entry import say
from erllama_py.engine.children.tiny_model import VOCABULARY, write_model

PROMPT, SINGLE = 37, 3  # tokens; neither is a multiple of what a kernel takes at once
_F16, _Q8_0 = 1, 8  # ggml_type


def run(given: dict[str, Any]) -> int:
    """`given`: `folder` of the bindings."""
    say("stage library")
    c = open_bindings(given["folder"])
    devices = without_devices()
    params = fill(c.llama_model_default_params(), {"n_gpu_layers": 0, "devices": ctypes.addressof(devices)})
    say("stage load")
    with _model_file() as path:
        model = c.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        return REFUSED
    say("stage decode")
    for flash_attn, kind in ((0, _F16), (1, _F16), (1, _Q8_0)):
        values = {"n_ctx": 256, "n_batch": 64, "n_ubatch": 64, "n_threads": 1, "n_threads_batch": 1}
        values |= {"type_k": kind, "type_v": kind, "flash_attn_type": flash_attn}
        context = c.llama_init_from_model(model, fill(c.llama_context_default_params(), values))
        if not context:
            return REFUSED
        if not _decodes(c, context):
            return WRONG
        c.llama_free(context)
    return DONE


def _decodes(c: Any, context: Any) -> bool:
    """Whether a prompt and some single tokens can be decoded, to finite numbers that are not all the same."""
    for count in (PROMPT, *[1] * SINGLE):
        tokens = (c.llama_token * count)(*[(7 * place + count) % VOCABULARY for place in range(count)])
        if c.llama_decode(context, c.llama_batch_get_one(tokens, count)):
            return False
        logits = c.llama_get_logits_ith(context, -1)[:VOCABULARY]
        if not all(map(math.isfinite, logits)) or len(set(logits)) == 1:
            return False
    return True


@contextmanager
def _model_file() -> Iterator[str]:
    """The tiny model's file: in memory where the system has such files, as no folder may be writable."""
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        with open(os.memfd_create("tiny.gguf"), "wb") as file:
            write_model(file)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile(suffix=".gguf") as named:
            write_model(named.file)
            named.flush()
            yield named.name
