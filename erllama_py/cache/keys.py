"""What a cached KV state depends on, as hashes. Pure."""

from __future__ import annotations

import hashlib

import msgspec

from erllama_py.config import ContextOpts

# Exactly the settings that change the bytes of a KV cell, or what cells are there:
# - the types of keys and values, and flash attention (it changes the layout of values and the rounding);
# - everything that rotates keys: RoPE base, scale and scaling type, all YaRN settings;
# - `swa_full`: whether cells outside a sliding window are kept;
# - the build of llama.cpp, whose kernels may round differently from one version to the next.
# Not in it, so that changing them keeps a cache warm: `n_ctx` and `n_seq_max` (how many cells there are),
# `n_batch`, `n_ubatch` and threads (how the work is cut: rounding differs as between any two batch shapes,
# and prompts are cut on an absolute grid), `offload_kqv` (where the cells lie).
KV_SETTINGS = (
    "type_k",
    "type_v",
    "flash_attn",
    "rope_scaling_type",
    "rope_freq_base",
    "rope_freq_scale",
    "yarn_ext_factor",
    "yarn_attn_factor",
    "yarn_beta_fast",
    "yarn_beta_slow",
    "yarn_orig_ctx",
    "swa_full",
)
TAG = b"erllama ctx_params v1\0"


def ctx_params_hash(context: ContextOpts, build: str) -> str:
    """SHA-256, as 64 hex digits, over a tag and the settings above with the build, as a JSON list in that order."""
    settings = [getattr(context, name) for name in KV_SETTINGS]
    return hashlib.sha256(TAG + msgspec.json.encode([*settings, build])).hexdigest()
