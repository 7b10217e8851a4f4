"""Our options as llama.cpp's parameter structs. Options that were not given keep llama.cpp's defaults."""

from __future__ import annotations

import ctypes
from typing import Any

from erllama_py.engine.llama.native import AbortFlag, Library
from erllama_py.options.model import ModelConfig

# (use_mmap, use_mlock) -> llama_load_mode: none, mmap, mlock, mmap + mlock
_LOAD_MODES = {(False, False): 0, (True, False): 1, (False, True): 2, (True, True): 3}
_SPLIT_MODES = {"none": 0, "layer": 1, "row": 2}
_FLASH_ATTENTION = {"auto": -1, False: 0, True: 1}
_ROPE_SCALING = {"none": 0, "linear": 1, "yarn": 2, "longrope": 3}
_SAME_NAME = (
    "rope_freq_base",
    "rope_freq_scale",
    "yarn_ext_factor",
    "yarn_attn_factor",
    "yarn_beta_fast",
    "yarn_beta_slow",
    "yarn_orig_ctx",
)


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
    params.n_ctx = options.n_ctx
    params.n_batch = options.n_batch
    params.n_seq_max = options.n_seq_max + 1  # and the scratch sequence of `states`
    # Of the decodes that a load may need; `set_threads` sets those of requests.
    params.n_threads = params.n_threads_batch = options.n_threads or 1
    for name in ("n_ubatch", *_SAME_NAME):
        value = getattr(options, name)
        if value is not None:
            setattr(params, name, value)
    types = {name: number for number, name in library.tensor_types.items()}
    params.type_k, params.type_v = types[options.type_k], types[options.type_v]
    params.flash_attn_type = _FLASH_ATTENTION[options.flash_attn]
    if options.rope_scaling_type is not None:
        params.rope_scaling_type = _ROPE_SCALING[options.rope_scaling_type]
    params.offload_kqv = options.offload_kqv
    params.swa_full = options.swa_full
    params.kv_unified = True
    params.no_perf = True
    params.abort_callback = abort.callback
    params.abort_callback_data = abort.data
    return params
