"""What a cached KV state depends on, as hashes. Pure; the one place that says which settings count."""

from __future__ import annotations

import hashlib

import msgspec

from erllama_py.config import ContextOpts

# Exactly the settings that change the bytes of a KV cell, or which cells are there:
# - `type_k`, `type_v`: the type of the bytes themselves;
# - `flash_attn`: without it values are stored transposed, and with it attention rounds differently, which every
#   layer after the first carries into its cells;
# - RoPE and YaRN: keys are stored rotated;
# - `swa_full`: whether cells outside of a sliding window are still there;
# - the build of llama.cpp, whose kernels may round differently from one version to the next.
#
# Left out, so that changing them keeps a cache warm:
# - `n_ctx`: cells that are empty change nothing in those that are not;
# - `n_seq_max`: the cells of all sequences lie in one cache, and each sees its own;
# - `n_batch`, `n_ubatch`, `n_threads`, `n_threads_batch`, `offload_kqv`: how the work is cut and where it is done.
#   The last bits can differ, as they do between any two shapes of a batch, so with whatever neighbours a
#   sequence happens to have; the state is the same.
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

# Changed whenever the list or its encoding changes, so that no old key can mean something new.
TAG = b"erllama ctx_params v1\0"


def ctx_params_hash(context: ContextOpts, build: str) -> str:
    """The hash of everything but model and tokens that a KV state depends on, as 64 hex digits.

    SHA-256 of `TAG`, then a JSON list without spaces: the settings in the order of `KV_SETTINGS`, then `build`.
    A setting that was not given is null, real numbers are in their shortest form.
    """
    settings = [getattr(context, name) for name in KV_SETTINGS]
    return hashlib.sha256(TAG + msgspec.json.encode([*settings, build])).hexdigest()
