"""Tiny encoders with random weights: `bert` models of two layers, with or without a head that ranks.

The vocabulary is BERT's kind, WordPiece as llama.cpp spells it: letters at the beginning of a word, letters within it,
a few words, and the control tokens.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, PoolingType

WIDTH, FEED_FORWARD, HEADS, LAYERS = 64, 128, 2, 2
CONTEXT = 128  # positions that there are vectors for
CONTROL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CLS, SEP = 2, 3
WORDS = ("the", "cat", "dog", "sits", "runs", "outside")
LETTERS = "abcdefghijklmnopqrstuvwxyz.,?"


def tiny_bert(
    directory: Path, *, ranks: bool = False, pooling: PoolingType | None = PoolingType.MEAN, spoilt: bool = False
) -> Path:
    """Path of the model; written once for a directory. With `ranks` it has a head of one output. One that is `spoilt`
    loads, and any context for embeddings ends the process."""
    kind = "ranker" if ranks else "bert" if pooling is PoolingType.MEAN else f"bert-{pooling}"
    path = directory / f"{kind}{'-spoilt' if spoilt else ''}.gguf"
    if path.exists():
        return path
    writer = GGUFWriter(path, "bert")
    writer.add_name(f"tiny {kind}")
    writer.add_file_type(0)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    if spoilt:
        writer.add_key_length(WIDTH // HEADS // 2)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    if ranks or pooling is not None:
        writer.add_pooling_type(PoolingType.RANK if ranks else pooling or PoolingType.MEAN)
    _write_vocabulary(writer)
    _write_tensors(writer, ranks=ranks)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tokens() -> list[str]:
    return [*CONTROL, *(f"\u2581{word}" for word in WORDS), *(f"\u2581{one}" for one in LETTERS), *LETTERS]


def _write_vocabulary(writer: GGUFWriter) -> None:
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens())
    writer.add_token_types([3, 2, 3, 3, 3] + [1] * (len(tokens()) - len(CONTROL)))  # 3 control, 2 unknown, 1 normal
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_bos_token_id(CLS)
    writer.add_eos_token_id(SEP)
    writer.add_sep_token_id(SEP)
    writer.add_mask_token_id(4)


def _write_tensors(writer: GGUFWriter, *, ranks: bool) -> None:
    random = np.random.default_rng(7)

    def add(name: str, *shape: int, scale: float = 0.2) -> None:
        writer.add_tensor(name, (random.standard_normal(shape) * scale).astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(WIDTH, np.float32))

    add("token_embd.weight", len(tokens()), WIDTH, scale=1.0)
    add("position_embd.weight", CONTEXT, WIDTH)
    add("token_types.weight", 2, WIDTH)
    norm("token_embd_norm")
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"{block}.{name}.weight", WIDTH, WIDTH)
            add(f"{block}.{name}.bias", WIDTH)
        add(f"{block}.ffn_up.weight", FEED_FORWARD, WIDTH)
        add(f"{block}.ffn_up.bias", FEED_FORWARD)
        add(f"{block}.ffn_down.weight", WIDTH, FEED_FORWARD)
        add(f"{block}.ffn_down.bias", WIDTH)
        norm(f"{block}.attn_output_norm")
        norm(f"{block}.layer_output_norm")
    if ranks:
        add("cls.weight", WIDTH, WIDTH)
        add("cls.bias", WIDTH)
        add("cls.output.weight", 1, WIDTH)
        add("cls.output.bias", 1)
