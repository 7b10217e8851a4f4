"""What a cached KV state depends on, as hashes. Pure; the one place that says which settings count."""

from __future__ import annotations

import array
import hashlib
import struct
import sys
from collections.abc import Iterable, Sequence

import msgspec

from erllama_py.cpus import ThreadChoice
from erllama_py.options.model import ContextOpts

# Exactly the settings that change the bytes of a KV cell, or which cells are there:
# - `type_k`, `type_v`: the type of the bytes themselves;
# - RoPE and YaRN: keys are stored rotated;
# - `swa_full`: whether cells outside of a sliding window are still there;
# and four facts of the loaded model:
# - whether flash attention is used (`"auto"` is settled by llama.cpp for the devices there are): with it attention
#   rounds differently, which every layer after the first carries into its cells;
# - whether values are stored transposed: so they are where no flash attention was asked for, and not where it was left
#   to llama.cpp, also if a device then cannot do it;
# - whether the context is so long that keys are rotated by the factors for long ones;
# - the build of llama.cpp. By version and commit: from one to the next a kernel may be corrected, or a cell come to
#   mean something else. And by the instruction sets that it was compiled for: each rounds differently, and a request
#   that is repeated on one machine should not change with the build that another process there saved with.
#
# Left out, so that changing them keeps a cache warm:
# - `flash_attn` as it was asked for: what it was resolved to counts;
# - `n_ctx`, but for those factors: cells that are empty change nothing in those that are not;
# - `n_seq_max`: the cells of all sequences lie in one cache, and each sees its own;
# - `n_batch`, `n_ubatch`, `n_threads`, `n_threads_batch`: how the work is cut. The last bits can differ, as they do
#   between any two shapes of a batch, so with whatever other sequences share a decode; the state is the same.
# - `offload_kqv`, and of the model's options `n_gpu_layers`, `split_mode`, `main_gpu`, `tensor_split`: where the work
#   is done. Two devices round differently, and that is all: it is one state in one layout. Nor is the device a property
#   of a model or a build: llama.cpp picks one for each operation, and a build with a GPU computes large batches there
#   though all layers are on the CPU. A key that named it would split what is saved on a guess; as it is, a row from a
#   GPU serves the machine without one, if both builds use the same instruction sets of the CPU.
# - `use_mmap`, `use_mlock`: how the same weights get into memory; `vocab_only`: such a model has no cells.
KV_SETTINGS = (
    "type_k",
    "type_v",
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

TOKEN_BYTES = 4  # u32
FIRST_LOOK = 64  # bytes: most prompts that differ do so at once
SALT_TAG = b"erllama cache_salt v1\0"

# Changed whenever the list or its encoding changes, so that no old key can mean something new.
TAG = b"erllama ctx_params v3\0"
REPRODUCIBLE_TAG = b"erllama reproducible v1\0"


def ctx_params_hash(context: ContextOpts, build: str, *, flash_attn: bool, transposed: bool, long_rope: bool) -> str:
    """The hash of everything but model and tokens that a KV state depends on, as 64 hex digits.

    SHA-256 of `TAG`, then a JSON list without spaces: the settings in the order of `KV_SETTINGS`, then
    `flash_attn` as it is used, `transposed`, `long_rope` (whether the factors for long contexts are used), and `build`.
    A setting that was not given is null, real numbers are in their shortest form.
    """
    settings = [getattr(context, name) for name in KV_SETTINGS]
    return hashlib.sha256(TAG + msgspec.json.encode([*settings, flash_attn, transposed, long_rope, build])).hexdigest()


def reproducible_hash(params_hash: str, grid: int, threads: ThreadChoice) -> str:
    """The `ctx_params_hash` of what reproducible requests leave and find, as 64 hex digits.

    The bits of their cells are to be those of a prompt that was computed alone, so all counts that changes a bit: the
    `grid` of the slices, and the `threads` for few and for many tokens. SHA-256 of `REPRODUCIBLE_TAG`, then a JSON list
    without spaces.
    """
    facts = msgspec.json.encode([params_hash, grid, threads.few, threads.many])
    return hashlib.sha256(REPRODUCIBLE_TAG + facts).hexdigest()


class Identity(msgspec.Struct, frozen=True, order=True):
    """What a row's KV state depends on: model file, quantisation, settings of the context. Rows of two are never mixed.

    `fingerprint` (32 bytes) is the model file's, with a salt and adapters folded in; `ctx_params_hash` has 32 bytes.
    """

    fingerprint: bytes
    quant_bits: int
    ctx_params_hash: bytes

    def hasher(self) -> hashlib._Hash:
        """A running SHA-256 that has seen everything but tokens: feed it tokens, `copy()` it at each boundary."""
        return hashlib.sha256(self.fingerprint + bytes([self.quant_bits]) + self.ctx_params_hash)

    @property
    def root(self) -> bytes:
        """The key over no tokens: the parent of every row that starts at 0."""
        return self.hasher().digest()


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Token ids as u32 little-endian, as they are hashed and stored."""
    packed = array.array("I", tokens)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_tokens(packed: bytes) -> list[int]:
    """The token ids that `pack_tokens` packed."""
    tokens = array.array("I", packed)
    if sys.byteorder == "big":
        tokens.byteswap()
    return tokens.tolist()


def common_prefix(left: bytes, right: bytes) -> int:
    """How many tokens packed `left` and `right` begin with alike.

    Slices are compared in C, longer ones as long as they are equal, then the one that is not is halved: 131,072 tokens
    that are alike take 0.1 ms, so a few hundred sequences need no tree over them.
    """
    end = min(len(left), len(right))
    low, high = 0, min(end, FIRST_LOOK)
    while left[low:high] == right[low:high]:
        if high == end:
            return end // TOKEN_BYTES
        low, high = high, min(end, 8 * high)
    while high - low > 1:
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low // TOKEN_BYTES


def prefix_keys(identity: Identity, tokens: bytes, ends: Iterable[int]) -> list[bytes]:
    """The keys of the prefixes of packed `tokens` that end at `ends`, which ascend: one pass over the tokens.

    key = SHA-256(fingerprint ‖ quantisation bits, one byte ‖ ctx_params_hash ‖ tokens as u32 little-endian),
    the key of erllama.
    """
    hasher, done, keys = identity.hasher(), 0, []
    view = memoryview(tokens)
    for end in ends:
        hasher.update(view[TOKEN_BYTES * done : TOKEN_BYTES * end])
        done = end
        keys.append(hasher.copy().digest())
    return keys


def fold_adapters(fingerprint: bytes, adapters: Iterable[tuple[bytes, float]]) -> bytes:
    """The fingerprint of a model with LoRA adapters: (SHA-256 of the file, scale) each; without any, as it is.

    No adapter can be loaded so far. The place that they will have in the key is fixed here, so that rows which are
    saved now stay those of the model without any.

    SHA-256(fingerprint ‖ for each adapter, sorted: its hash ‖ round(scale · 2^32) as i64 little-endian), as
    erllama does it: the order of loading makes no difference, the scale does.
    """
    pairs = sorted((digest, round(scale * (1 << 32))) for digest, scale in adapters)
    if not pairs:
        return fingerprint
    return hashlib.sha256(fingerprint + b"".join(digest + struct.pack("<q", scale) for digest, scale in pairs)).digest()


def fold_salt(fingerprint: bytes, salt: str | None) -> bytes:
    """The fingerprint as seen by a tenant: rows saved under one salt are never found under another, or under none."""
    if salt is None:
        return fingerprint
    return hashlib.sha256(SALT_TAG + fingerprint + salt.encode()).digest()
