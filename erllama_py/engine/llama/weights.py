"""Loading a model and making its context, with llama.cpp's words for what goes wrong.

Both functions return a native handle that the caller owns, or raise and leave nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, Literal

from erllama_py.engine.backend import LoadCancelled
from erllama_py.engine.llama.logs import LogContext
from erllama_py.engine.llama.native import AbortFlag, Library
from erllama_py.engine.llama.params import context_params, model_params
from erllama_py.errors import ModelLoadError, TruncatedGGUF, UnsupportedModel
from erllama_py.options.model import ModelConfig

# Reasons that lie in the file, not in how or where it is loaded.
_TRUNCATED = re.compile(r"failed to read|not within the file bounds")
_UNSUPPORTED = re.compile(
    r"unknown model architecture|error loading model (?:hyperparameters|vocabulary)|key not found in model"
    r"|tensor '.*' not found|missing tensor|wrong number of tensors|has wrong shape|unsupported|not supported"
)

_FLASH_ATTENTION = re.compile(r"\bflash_attn += (auto|enabled|disabled)|Flash Attention (enabled|not supported)")


def load_model(
    library: Library, path: str, config: ModelConfig, model_id: str, progress: Callable[[float], bool]
) -> Any:
    """A `llama_model *`. Raises `LoadCancelled`, `UnsupportedModel`, `ModelLoadError`, or what `progress` raised."""
    raised: list[BaseException] = []
    cancelled = False

    def report(fraction: float, _user_data: object) -> bool:
        nonlocal cancelled
        try:
            go_on = progress(fraction)
        except BaseException as error:  # nothing may unwind through C++; it is raised again below
            raised.append(error)
            go_on = False
        cancelled = cancelled or not go_on
        return go_on

    callback = library.c.llama_progress_callback(report)
    params, split = model_params(library, config, callback)
    with LogContext(model_id) as log:
        handle = library.c.llama_model_load_from_file(os.fsencode(path), params)
    del split  # `params` held its address until here
    if handle and not cancelled and config.model_opts.vocab_only:
        report(1.0, None)  # llama.cpp reports weights only
    if handle and not cancelled:
        return handle
    if handle:
        library.c.llama_model_free(handle)
    if raised:
        raise raised[0]
    if cancelled:
        raise LoadCancelled
    raise load_error(path, log.problem("llama.cpp gave no reason"))


def load_error(path: str, problem: str) -> ModelLoadError:
    """The class that llama.cpp's reason belongs to."""
    if _TRUNCATED.search(problem):
        return TruncatedGGUF(path, problem)
    if _UNSUPPORTED.search(problem):
        return UnsupportedModel(path, problem)
    return ModelLoadError(path, problem)


def make_context(
    library: Library, path: str, config: ModelConfig, model_id: str, model: Any, abort: AbortFlag
) -> tuple[Any, bool]:
    """A `llama_context *`, and whether it uses flash attention. Raises `ModelLoadError`."""
    with LogContext(model_id, hold=True) as log:
        handle = library.c.llama_init_from_model(model, context_params(library, config, abort))
    flash_attn = uses_flash_attention(log.held, config.context_opts.flash_attn)
    log.release(expected=False)
    if not handle:
        raise ModelLoadError(path, log.problem("the context could not be made"))
    return handle, flash_attn


def uses_flash_attention(lines: list[str], asked: bool | Literal["auto"]) -> bool:
    """What llama.cpp said last about it while it made the context.

    No function reports it. How values lie in a captured state does not either: that is settled before llama.cpp finds
    out that a device cannot do it. Where it says nothing, what was asked for counts and "auto" means yes, as it
    does wherever it is left alone; were that wrong, a state of the other kind would be refused by a restore, or
    differ in rounding only.
    """
    said = [match for line in lines if (match := _FLASH_ATTENTION.search(line))]
    word = next((word for word in said[-1].groups() if word), "") if said else ""
    return asked is not False if word in ("", "auto") else word == "enabled"
