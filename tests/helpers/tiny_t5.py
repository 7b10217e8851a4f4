"""Tiny GGUF files of T5's kind, with random weights: whole, `"t5"`, or its encoder alone, `"t5encoder"`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from gguf import GGUFWriter

from helpers.tiny_gguf import Shape, n_vocab, write_vocabulary

Kind = Literal["t5", "t5encoder"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WIDTH, FEED_FORWARD, HEADS, LAYERS, BUCKETS = 64, 128, 2, 1, 32


def tiny_t5(kind: Kind, directory: Path) -> Path:
    """Path of the file, which is written once for a directory."""
    path = directory / f"{kind}.gguf"
    if path.exists():
        return path
    writer = GGUFWriter(path, kind)
    writer.add_file_type(0)  # all f32
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_key_length(WIDTH // HEADS)
    writer.add_value_length(WIDTH // HEADS)
    writer.add_relative_attn_buckets_count(BUCKETS)
    writer.add_decoder_start_token_id(0)
    write_vocabulary(writer, "dense")
    random = np.random.default_rng(0)
    for name, shape in _tensors(kind):
        writer.add_tensor(name, random.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(kind: Kind) -> Iterator[tuple[str, Shape]]:
    yield "token_embd.weight", (n_vocab(), WIDTH)
    yield "output.weight", (n_vocab(), WIDTH)
    for side in ("enc", "dec") if kind == "t5" else ("enc",):
        yield f"{side}.output_norm.weight", (WIDTH,)
        for layer in range(LAYERS):
            for name, shape in _layer(side):
                yield f"{side}.blk.{layer}.{name}.weight", shape


def _layer(side: str) -> Iterator[tuple[str, Shape]]:
    for attention in ("attn", "cross_attn") if side == "dec" else ("attn",):
        yield f"{attention}_norm", (WIDTH,)
        for part in "qkvo":
            yield f"{attention}_{part}", (WIDTH, WIDTH)
    yield "attn_rel_b", (BUCKETS, HEADS)
    yield "ffn_norm", (WIDTH,)
    yield "ffn_up", (FEED_FORWARD, WIDTH)
    yield "ffn_down", (WIDTH, FEED_FORWARD)
