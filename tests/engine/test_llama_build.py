"""What the build of llama.cpp is called: builds that round differently have names, and so keys, of their own."""

from __future__ import annotations

import pytest

from erllama_py.cache.checks import MOST_BUILD_BYTES
from erllama_py.cache.keys import ctx_params_hash
from erllama_py.engine.llama import native
from erllama_py.engine.llama.native import build_name, cpu_features
from erllama_py.options.model import ContextOpts

PORTABLE = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | LLAMAFILE = 1 | OPENMP = 1 | REPACK = 1 | "
OWN = "CPU : SSE3 = 1 | AVX = 1 | AVX_VNNI = 1 | AVX2 = 1 | AVX512 = 1 | LLAMAFILE = 1 | OPENMP = 1 | REPACK = 1 | "


def hashed(system_info: str, version: str = "1") -> str:
    """The hash in the key of a model that runs on such a build."""
    build = build_name(version, "0.9", "abc", system_info)
    return ctx_params_hash(ContextOpts(), build, flash_attn=True, transposed=False, long_rope=False)


def test_two_builds_of_one_version_differ_in_key() -> None:
    """AVX-512 and AVX2 round differently: rows of one are not found by the other."""
    assert hashed(PORTABLE) == hashed(PORTABLE) != hashed(OWN)
    assert hashed(PORTABLE) != hashed(PORTABLE, version="2")


@pytest.mark.parametrize(
    ("system_info", "features"),
    [
        (PORTABLE, "avx avx2 llamafile repack sse3"),
        (OWN, "avx avx2 avx512 avx_vnni llamafile repack sse3"),
        ("CUDA : ARCHS = 500,800 | USE_GRAPHS = 1 | CPU : AVX = 1 | REPACK = 1 | ", "avx repack"),
        ("CPU : AVX = 1 | Metal : EMBED_LIBRARY = 1 | ", "avx"),
        ("CPU : NEON = 1 | SVE_CNT = 16 | SVE = 0 | ", "neon sve_cnt=16"),
        ("", ""),
    ],
)
def test_what_changes_the_rounding_on_the_cpu_is_named(system_info: str, features: str) -> None:
    """In one order; neither the devices, which no key names, nor how threads are run."""
    assert cpu_features(system_info) == features


def test_the_library_that_runs_names_its_own() -> None:
    """As it says itself, in a text that fits into the header of a row."""
    library = native.library()
    said = library.c.llama_print_system_info().decode()
    assert cpu_features(said)
    assert library.build.endswith(f", cpu {cpu_features(said)}")
    assert len(library.build.encode()) < MOST_BUILD_BYTES // 8
