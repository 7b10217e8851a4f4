"""A random model of two layers whose matrices have each type of weights that people use. Standard library only.

What is decoded with it goes through the kernels of all of these types: for prompts those of matrices, for single tokens
those of vectors. Its numbers mean nothing; those of a sound build are finite.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import IO, NamedTuple

from erllama_py.gguf_bytes import F32, FLOAT32, STRING, UINT32, Tensor, Value, write_gguf

WIDTH, HEADS, KV_HEADS, LAYERS, VOCABULARY = 256, 4, 2, 2, 96  # a block of the K types is 256 weights


class Type(NamedTuple):
    """A type of weights: ggml's number, weights and bytes of a block, and where in a block which bytes must be."""

    number: int
    weights: int
    size: int
    scales: tuple[tuple[int, bytes], ...]


def _half(value: float) -> bytes:
    return struct.pack("<e", value)


# A block's scale is such that its weights are about a sixteenth; what would be added to them is none.
_SMALL, _NONE, _FINE = _half(0.01), _half(0.0), _half(0.0003)
TYPES = {
    "F16": Type(1, 1, 2, ((0, _half(0.05)),)),
    "BF16": Type(30, 1, 2, ((0, b"\x4d\x3d"),)),
    "Q4_0": Type(2, 32, 18, ((0, _SMALL),)),
    "Q4_1": Type(3, 32, 20, ((0, _SMALL), (2, _half(-0.07)))),
    "Q5_0": Type(6, 32, 22, ((0, _SMALL),)),
    "Q5_1": Type(7, 32, 24, ((0, _SMALL), (2, _half(-0.15)))),
    "Q8_0": Type(8, 32, 34, ((0, _half(0.001)),)),
    "Q2_K": Type(10, 256, 84, ((80, _half(0.005)), (82, _NONE))),
    "Q3_K": Type(11, 256, 110, ((108, _half(0.001)),)),
    "Q4_K": Type(12, 256, 144, ((0, _FINE), (2, _NONE))),
    "Q5_K": Type(13, 256, 176, ((0, _FINE), (2, _NONE))),
    "Q6_K": Type(14, 256, 210, ((208, _half(0.00003)),)),
    "IQ4_NL": Type(20, 32, 18, ((0, _half(0.001)),)),
    "IQ4_XS": Type(23, 256, 136, ((0, _half(0.00003)),)),
    "MXFP4": Type(39, 32, 17, ((0, b"\x79"),)),
}
_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_OUTPUT, _EMBEDDING = "Q6_K", "Q8_0"


def write_model(out: IO[bytes]) -> None:
    """Write the model's file: a third of a megabyte."""
    write_gguf(out, list(_values()), list(_tensors()))


def _values() -> Iterator[Value]:
    yield "general.architecture", STRING, "llama"
    for name, number in {
        "context_length": 256,
        "embedding_length": WIDTH,
        "feed_forward_length": WIDTH,
        "block_count": LAYERS,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "vocab_size": VOCABULARY,
    }.items():
        yield f"llama.{name}", UINT32, number
    yield "llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5
    yield "tokenizer.ggml.model", STRING, "none"


def _tensors() -> Iterator[Tensor]:
    chance = random.Random(1)
    kinds = iter([name for name in TYPES if name != _OUTPUT])
    yield _matrix("token_embd", _EMBEDDING, VOCABULARY, chance)
    yield _matrix("output", _OUTPUT, VOCABULARY, chance)
    yield _norm("output_norm")
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            yield _norm(f"blk.{layer}.{name}")
        for name in _MATRICES:
            rows = WIDTH // HEADS * KV_HEADS if name in ("attn_k", "attn_v") else WIDTH
            yield _matrix(f"blk.{layer}.{name}", next(kinds), rows, chance)


def _matrix(name: str, kind: str, rows: int, chance: random.Random) -> Tensor:
    number, weights, size, scales = TYPES[kind]
    if weights == 1:  # numbers of 16 bits: the signs alone are random, and the same in each row from another place on
        positive = scales[0][1]
        negative = bytes([positive[0], positive[1] ^ 0x80])
        signs = [chance.choice((positive, negative)) for _ in range(WIDTH)]
        data = b"".join(b"".join(signs[row % WIDTH :] + signs[: row % WIDTH]) for row in range(rows))
        return Tensor(f"{name}.weight", (WIDTH, rows), number, data)
    blocks = bytearray(chance.randbytes(rows * WIDTH // weights * size))
    for block in range(0, len(blocks), size):
        for at, scale in scales:
            blocks[block + at : block + at + len(scale)] = scale
    return Tensor(f"{name}.weight", (WIDTH, rows), number, bytes(blocks))


def _norm(name: str) -> Tensor:
    return Tensor(f"{name}.weight", (WIDTH,), F32, struct.pack("<f", 1.0) * WIDTH)
