"""What a header may say that ends the process in llama.cpp, in words."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.llama.gguf_header import header_error
from erllama_py.engine.llama.known_faults import (
    MOST_EXPERTS,
    MOST_LAYERS,
    MOST_WINDOW,
    Stated,
    decode_fault,
    load_fault,
    vocabulary_fault,
)
from erllama_py.errors import ModelLoadError, NotAGGUF, TruncatedGGUF, UnsupportedModel

BYTES = [f"<0x{byte:02X}>".encode() for byte in range(256)]
AT = "gguf_init_from_reader"


def stated(**facts: Any) -> Stated:
    return Stated(architecture="llama", **facts)


@given(
    st.integers(1, MOST_LAYERS),
    st.floats(0, 1),
    st.integers(0, MOST_WINDOW),
    st.integers(1, MOST_EXPERTS).flatmap(lambda count: st.tuples(st.just(count), st.integers(1, count))),
)
def test_what_sound_files_say_is_no_fault(layers: int, epsilon: float, window: int, experts: tuple[int, int]) -> None:
    """Up to the bounds themselves."""
    one = stated(
        layers=layers, epsilons={"e": epsilon}, window=window, experts=experts[0], experts_used=(experts[1],) * 3
    )
    assert load_fault(one) is None
    assert decode_fault(one, on_cpu=True) is None
    assert load_fault(stated()) is None, "what is left out is llama.cpp's business"


@pytest.mark.parametrize(
    "facts",
    [
        {"layers": 0},
        {"layers": MOST_LAYERS + 1},
        {"rope_scaling": ""},
        {"experts": MOST_EXPERTS + 1, "experts_used": (2,)},
        {"experts": 4},
        {"experts": 4, "experts_used": (2, 5)},
        {"experts": 4, "experts_used": (2,), "expert_groups": 4},
        {"experts": 5, "experts_used": (2,), "expert_groups": 2, "groups_used": 1},
        {"experts": 4, "experts_used": (2,), "expert_groups": 2, "groups_used": 2},
        {"expert_groups": 1},
        {"tokenizer": "t5", "adds_bos": True},
        {"tokenizer": "t5", "adds_bos": True, "bos": 300, "n_tokens": 300},
    ],
)
def test_what_ends_a_load_is_said(facts: dict[str, Any]) -> None:
    """One reason each."""
    assert load_fault(stated(**facts))


def test_hunyuan_has_no_experts_where_it_says_one() -> None:
    """As llama.cpp takes it."""
    assert load_fault(Stated(architecture="hunyuan-dense", experts=1, experts_used=(0,))) is None


def test_norms_of_other_types_are_refused_where_a_cpu_computes() -> None:
    """A GPU can multiply with them."""
    one = stated(norms={"output_norm.weight": 1})
    assert "output_norm.weight" in (decode_fault(one, on_cpu=True) or "")
    assert decode_fault(one, on_cpu=False) is None


def test_vocabularies_are_held_against_their_tokenizer() -> None:
    """SentencePiece needs all bytes, spelled out or as they are; empty tokens get names of their own."""
    assert vocabulary_fault("llama", BYTES) is None
    assert vocabulary_fault("llama", [*BYTES[1:], b"\0"]) is None
    assert "1 of 256 bytes, <0x07>" in (vocabulary_fault("llama", [*BYTES[:7], *BYTES[8:]]) or "")
    assert vocabulary_fault("gpt2", [b"a"]) is None
    assert vocabulary_fault("gpt2", [b"", b"a", b""]) is None
    assert "tokens 1 and 3 are the same: '\\\\xff'" in (vocabulary_fault("gpt2", [b"a", b"\xff", b"b", b"\xff"]) or "")


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        (["failed to read header"], TruncatedGGUF, "failed to read header"),
        ([], TruncatedGGUF, "cut off"),
        (["string length 9 exceeds remaining file size 3 bytes", "failed to read key-value pairs"], TruncatedGGUF, "9"),
        (
            ["this GGUF file is version 4 but this software only supports up to version 3"],
            UnsupportedModel,
            "version 4",
        ),
        (["GGUFv1 is no longer supported, please use a more up-to-date version"], UnsupportedModel, "GGUFv1"),
        (
            [
                "… is extremely large, is there a mismatch between the host and model endianness?",
                "failed to read header",
            ],
            UnsupportedModel,
            "byte order",
        ),
        (
            ["tensor 'a' has invalid ggml type 99. should be in [0, 43)", "failed to read tensor info"],
            UnsupportedModel,
            "99",
        ),
        (
            ["tensor 'a' of type 4 (DEPRECATED) has 64 elements per row, not a multiple of block size (0)"],
            UnsupportedModel,
            "no more",
        ),
        (["tensor 'a' has offset 8, expected 0", "failed to read tensor data"], NotAGGUF, "offset 8"),
        (["duplicate key 'a' for KV pair 3", "failed to read key-value pairs"], NotAGGUF, "duplicate key"),
    ],
)
def test_a_header_has_its_own_reason(said: list[str], error: type[ModelLoadError], words: str) -> None:
    """The first line has it; that reading ended there follows, and alone it means that the file did."""
    found = header_error("a.gguf", [f"{AT}: {line}" for line in said])
    assert type(found) is error
    assert words in found.problem
