"""Loading a model and making its contexts by our options, with llama.cpp's words for what goes wrong.

Both functions return a native handle that the caller owns, or raise and leave nothing. `Weights` owns that of a model
for all contexts that are made over it.
"""

from __future__ import annotations

import ctypes
import os
import re
import threading
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Self

from erllama_py.engine.backend import LoadCancelled
from erllama_py.engine.llama.logs import LogContext
from erllama_py.engine.llama.native import AbortFlag, Library
from erllama_py.engine.llama.vocabulary import LlamaVocabulary
from erllama_py.engine.no_memory import says_no_memory
from erllama_py.errors import ModelLoadError, ModelNotLoaded, TruncatedGGUF, UnsupportedModel
from erllama_py.options.model import ContextOpts, ModelConfig

# Reasons that lie in the file, not in how or where it is loaded.
_TRUNCATED = re.compile(r"failed to read|not within the file bounds")
_UNSUPPORTED = re.compile(
    r"unknown model architecture|error loading model (?:hyperparameters|vocabulary)|key not found in model"
    r"|tensor '.*' not found|missing tensor|wrong number of tensors|has wrong shape|unsupported|not supported"
)

_FLASH_ATTENTION = re.compile(r"\bflash_attn += (auto|enabled|disabled)|Flash Attention (enabled|not supported)")
# What llama.cpp warns of each time a context of vectors is made, and is meant: their pooling is ours, whatever the
# file's is, and its cells are those of several texts, none of which is longer than the model takes.
_MEANT_FOR_VECTORS = re.compile(r"model default pooling_type is \[|n_ctx_seq \(\d+\) > n_ctx_train")

# (use_mmap, use_mlock) -> llama_load_mode: none, mmap, mlock, mmap + mlock
_LOAD_MODES = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}
_SPLIT_MODES = {"none": 0, "layer": 1, "row": 2}
_FLASH_ATTENTION_TYPES = {"auto": -1, False: 0, True: 1}
_ROPE_SCALING = {"none": 0, "linear": 1, "yarn": 2, "longrope": 3}
_SAME_NAME = [name for name in ContextOpts.__struct_fields__ if name.startswith(("rope_freq_", "yarn_"))]


class Weights:
    """A `llama_model *` and its vocabulary, for any number of backends; from any thread.

    Its maker holds it, as does each backend that calls `hold`. What the last of them releases is freed: no context
    outlives its weights, in whatever order backends end.
    """

    def __init__(self, library: Library, model: Any, model_id: str, vocabulary: LlamaVocabulary) -> None:
        self.model, self.vocabulary = model, vocabulary
        self._library, self._model_id = library, model_id
        self._lock, self._holders = threading.Lock(), 1

    def __repr__(self) -> str:
        return f"<Weights of {self._model_id!r}, {self._holders} holders>"

    def hold(self) -> Self:
        """Keep them until `release`. Raises `ModelNotLoaded` where they were freed."""
        with self._lock:
            if not self._holders:
                raise ModelNotLoaded(self._model_id)
            self._holders += 1
        return self

    def release(self) -> None:
        """Use them no more: once for each holder."""
        with self._lock:
            self._holders -= 1
            if self._holders:
                return
        self.vocabulary.close()
        self._library.c.llama_model_free(self.model)
        self._library.give_back_memory()


def load_model(
    library: Library, path: str, config: ModelConfig, model_id: str, progress: Callable[[float], bool], *,
    weightless: bool = False,
) -> Any:  # fmt: skip
    """A `llama_model *`; `weightless`: with its tensors laid out, but neither read nor given memory. Raises
    `LoadCancelled`, `UnsupportedModel`, `ModelLoadError`, or what `progress` raised."""
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
    params.no_alloc = weightless
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
    if says_no_memory(problem):  # whatever it was at: that says nothing of the file
        return ModelLoadError(path, problem)
    if _TRUNCATED.search(problem):
        return TruncatedGGUF(path, problem)
    if _UNSUPPORTED.search(problem):
        return UnsupportedModel(path, problem)
    return ModelLoadError(path, problem)


def make_context(
    library: Library, path: str, config: ModelConfig, model_id: str, model: Any, abort: AbortFlag, *,
    pooling: int | None = None,
) -> tuple[Any, Attention]:  # fmt: skip
    """A `llama_context *`, and how it attends; with `pooling`, a `llama_pooling_type`, it gives embeddings. Raises
    `ModelLoadError`."""
    params = context_params(library, config, abort)
    if pooling is not None:
        params.embeddings, params.pooling_type = True, pooling
    with LogContext(model_id, hold=True) as log:
        handle = library.c.llama_init_from_model(model, params)
    attention = attention_of(log.held, config.context_opts.flash_attn)
    log.release(expected=_MEANT_FOR_VECTORS if pooling is not None else False)
    if not handle:
        raise ModelLoadError(path, log.problem("the context could not be made"))
    return handle, attention


class Attention(NamedTuple):
    """How a context attends: `flash` attention or not, and whether its values lie `transposed`."""

    flash: bool
    transposed: bool


def attention_of(lines: list[str], asked: bool | Literal["auto"]) -> Attention:
    """What llama.cpp said about it while it made the context.

    No function reports it. Whether it uses flash attention it says last. Its values are laid out by what it says
    first, before it finds out that a device cannot do it: where "auto" comes to no, they are not transposed, and where
    no was asked for, or settled at once, they are. Where it says nothing, what was asked for counts and "auto" means
    yes, as it does wherever it is left alone; if that is wrong, a restore refuses states of the other kind, or they
    differ in rounding only.
    """
    words = [next(filter(None, match.groups())) for line in lines if (match := _FLASH_ATTENTION.search(line))]
    first, last = (words[0], words[-1]) if words else ("", "")
    wanted = asked is not False
    flash = wanted if last in ("", "auto") else last == "enabled"
    return Attention(flash, not wanted if first == "" else first == "disabled")


# --- our options as llama.cpp's parameter structs; those that were not given keep its defaults --------------------


def model_params(library: Library, config: ModelConfig, progress_callback: Any) -> tuple[Any, Any]:
    """`llama_model_params` and the array it points to, which must live until the load is over."""
    options = config.model_opts
    params = library.c.llama_model_default_params()
    params.n_gpu_layers = options.n_gpu_layers
    params.load_mode = _LOAD_MODES[options.use_mmap, options.use_mlock]
    params.split_mode = _SPLIT_MODES[options.split_mode]
    params.main_gpu = options.main_gpu
    params.vocab_only = options.vocab_only
    params.progress_callback = progress_callback
    split = None
    if options.tensor_split is not None:
        # llama.cpp reads one number for each device it could have, however many were given.
        split = (ctypes.c_float * library.c.llama_max_devices())(*options.tensor_split)
        params.tensor_split = split
    return params, split


def context_params(library: Library, config: ModelConfig, abort: AbortFlag) -> Any:
    """`llama_context_params`. The KV cache is one for all sequences, so that they can share cells."""
    options = config.context_opts
    params = library.c.llama_context_default_params()
    params.n_ctx = options.cells
    params.n_batch = options.n_batch
    params.n_seq_max = options.sequences + 1  # and the scratch sequence of `states`
    # A row for each sequence: llama.cpp ends the process at the first decode where there are fewer.
    params.n_outputs_max = max(params.n_batch, params.n_seq_max)
    # Of the decodes that a load may need; `set_threads` sets those of requests.
    params.n_threads = params.n_threads_batch = options.n_threads or 1
    for name in ("n_ubatch", *_SAME_NAME):
        value = getattr(options, name)
        if value is not None:
            setattr(params, name, value)
    types = {name: number for number, name in library.tensor_types.items()}
    params.type_k, params.type_v = types[options.type_k], types[options.type_v]
    params.flash_attn_type = _FLASH_ATTENTION_TYPES[options.flash_attn]
    if options.rope_scaling_type is not None:
        params.rope_scaling_type = _ROPE_SCALING[options.rope_scaling_type]
    params.offload_kqv = options.offload_kqv
    params.swa_full = options.swa_full
    params.kv_unified = True
    params.no_perf = True
    params.abort_callback = abort.callback
    params.abort_callback_data = abort.data
    return params
