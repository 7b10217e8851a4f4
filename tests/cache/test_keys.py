"""The hash of what a KV state depends on besides model and tokens."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cache.keys import KV_SETTINGS, ctx_params_hash
from erllama_py.options.model import ContextOpts, ModelOpts

BUILD = "b1234"

# Another value for each setting, by name.
CHANGED: dict[str, Any] = {
    "type_k": "q8_0", "type_v": "bf16", "flash_attn": True, "rope_scaling_type": "yarn", "rope_freq_base": 1e6,
    "rope_freq_scale": 0.5, "yarn_ext_factor": 1.0, "yarn_attn_factor": 1.0, "yarn_beta_fast": 32.0,
    "yarn_beta_slow": 1.0, "yarn_orig_ctx": 4096, "swa_full": True, "n_ctx": 4096, "n_batch": 64, "n_ubatch": 64,
    "n_threads": 7, "n_threads_batch": 7, "n_seq_max": 8, "offload_kqv": False,
}  # fmt: skip
# Why a setting is not in the key.
ROUNDING = "how the work is cut, which rounds differently and changes nothing else"
DEVICE = "where the work is done, which rounds differently and changes nothing else"
MAPPING = "how the weights get into memory, which are the same"
KEEPS_WARM = {
    "flash_attn": "it counts as it came out, which is no setting",
    "n_ctx": "empty cells change nothing; where it decides how keys are rotated, that counts",
    "n_seq_max": "each sequence sees its own cells",
    "n_batch": ROUNDING, "n_ubatch": ROUNDING, "n_threads": ROUNDING, "n_threads_batch": ROUNDING,
    "offload_kqv": DEVICE,
}  # fmt: skip
MODEL_KEEPS_WARM = {
    "n_gpu_layers": DEVICE, "split_mode": DEVICE, "main_gpu": DEVICE, "tensor_split": DEVICE,
    "use_mmap": MAPPING, "use_mlock": MAPPING,
    "vocab_only": "such a model has no cells",
}  # fmt: skip


def hashed(
    context: ContextOpts, build: str = BUILD, flash_attn: bool = True, transposed: bool = False, long_rope: bool = False
) -> str:
    return ctx_params_hash(context, build, flash_attn=flash_attn, transposed=transposed, long_rope=long_rope)


contexts = st.builds(
    ContextOpts,
    type_k=st.sampled_from(["f16", "f32", "q8_0"]),
    type_v=st.sampled_from(["f16", "f32", "q8_0"]),
    flash_attn=st.sampled_from([True, False, "auto"]),
    rope_freq_base=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    rope_freq_scale=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    yarn_orig_ctx=st.none() | st.integers(1, 1 << 20),
    n_ctx=st.integers(1, 1 << 20),
    n_seq_max=st.integers(1, 255),
    swa_full=st.booleans(),
)


def test_every_setting_of_the_context_is_decided() -> None:
    """A new option must be put on one side or the other."""
    assert set(KV_SETTINGS) | set(KEEPS_WARM) == set(ContextOpts.__struct_fields__) == set(CHANGED)
    assert not set(KV_SETTINGS) & set(KEEPS_WARM)


def test_every_setting_of_the_model_is_decided() -> None:
    """A new option must be left out for a reason, as all are so far, or be put into the key."""
    assert set(MODEL_KEEPS_WARM) == set(ModelOpts.__struct_fields__)


@pytest.mark.parametrize("name", sorted(CHANGED))
def test_only_what_changes_the_cells_changes_the_hash(name: str) -> None:
    """A wider window keeps the cache warm; other cells never meet."""
    changed = msgspec.structs.replace(ContextOpts(), **{name: CHANGED[name]})
    same = hashed(changed) == hashed(ContextOpts())
    assert same == (name in KEEPS_WARM)


def test_another_build_is_another_hash() -> None:
    """Kernels round differently from one version to the next."""
    assert hashed(ContextOpts(), "b1") != hashed(ContextOpts(), "b2")


def test_the_encoding_is_the_documented_one() -> None:
    """Rows on disk are found again by it, so it may not change unnoticed; computed here by hand."""
    encoded = (
        b'erllama ctx_params v3\0["f16","f16",null,null,null,null,null,null,null,null,false,true,false,false,"b1234"]'
    )
    assert hashed(ContextOpts()) == hashlib.sha256(encoded).hexdigest()


def test_flash_attention_counts_as_it_came_out() -> None:
    """However it was asked for: "auto" that came out as no is no."""
    on, off = (msgspec.structs.replace(ContextOpts(), flash_attn=asked) for asked in (True, False))
    assert hashed(on, flash_attn=False) == hashed(off, flash_attn=False) == hashed(ContextOpts(), flash_attn=False)
    assert hashed(on, flash_attn=True) != hashed(on, flash_attn=False)


def test_the_layout_of_values_counts() -> None:
    """It is another where no flash attention was asked for than where a device cannot do it."""
    assert hashed(ContextOpts(), flash_attn=False, transposed=True) != hashed(ContextOpts(), flash_attn=False)


def test_the_factors_for_long_contexts_count() -> None:
    """They rotate every key, from position 0 on."""
    assert hashed(ContextOpts(), long_rope=True) != hashed(ContextOpts(), long_rope=False)


@given(contexts, contexts, st.text(), st.text())
def test_two_hashes_are_equal_when_all_that_counts_is(
    one: ContextOpts, other: ContextOpts, build: str, other_build: str
) -> None:
    """No value runs into its neighbour's, `None` is no number, and true is not 1."""

    def counted(context: ContextOpts, build: str) -> str:
        return repr(([getattr(context, name) for name in KV_SETTINGS], build))

    equal = hashed(one, build) == hashed(other, other_build)
    assert equal == (counted(one, build) == counted(other, other_build))


@given(contexts, st.integers(1, 1 << 20))
def test_the_hash_is_of_the_values_and_not_of_the_object(context: ContextOpts, n_ctx: int) -> None:
    """The same settings give the same 64 digits, with whatever context length."""
    again = msgspec.structs.replace(context, n_ctx=n_ctx)
    digest = hashed(context)
    assert digest == hashed(again)
    assert len(bytes.fromhex(digest)) == 32
