"""all-MiniLM-L6-v2, a small model for embeddings, as a GGUF file: made of the weights that its package carries.

The package index has the model in the form of its authors: safetensors of 32 bits, beside the vocabulary. `convert`
writes what llama.cpp reads: matrices of 16 bits, vectors of 32, the vocabulary in llama.cpp's spelling. The same
package gives the same bytes, so that the file can be checked by its hash like any that is downloaded.
"""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from erllama_py.gguf_bytes import ARRAY, BOOL, F16, F32, FLOAT32, INT32, STRING, UINT32, Tensor, write_gguf

_MEAN = 1  # llama.cpp's LLAMA_POOLING_TYPE_MEAN
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3  # types of tokens

_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_OUTSIDE = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm.weight": "token_embd_norm.weight",
    "embeddings.LayerNorm.bias": "token_embd_norm.bias",
}


def convert(archive: BinaryIO, target: Path) -> None:
    """Write the GGUF of the model in `archive`, the package's `model.zip`. Raises `KeyError`, `ValueError` and
    `zipfile.BadZipFile` where it is another one."""
    import numpy

    with zipfile.ZipFile(archive) as files:
        config = json.loads(files.read("config.json"))
        vocabulary = json.loads(files.read("tokenizer.json"))["model"]["vocab"]
        weights = files.read("model.safetensors")
    header_size = struct.unpack_from("<Q", weights)[0]
    header = json.loads(weights[8 : 8 + header_size])
    tensors: list[Tensor] = []
    for source, name in _names(config["num_hidden_layers"]):
        begin, end = header[source]["data_offsets"]
        values = numpy.frombuffer(weights, "<f4", (end - begin) // 4, 8 + header_size + begin)
        values = values.reshape(header[source]["shape"])
        # llama.cpp adds the positions as they are: it takes no others than those of 32 bits.
        is_half = values.ndim == 2 and name != "position_embd.weight" and name != "token_types.weight"
        data = (values.astype("<f2") if is_half else values).tobytes()
        tensors.append(Tensor(name, values.shape[::-1], F16 if is_half else F32, data))
    with target.open("wb") as out:
        write_gguf(out, list(_values(config, vocabulary)), tensors)


def _names(layers: int) -> Iterator[tuple[str, str]]:
    """Each tensor's name in the package, and the one that llama.cpp knows it by."""
    yield from _OUTSIDE.items()
    for layer in range(layers):
        for source, name in _LAYER.items():
            for part in ("weight", "bias"):
                yield f"encoder.layer.{layer}.{source}.{part}", f"blk.{layer}.{name}.{part}"


def _values(config: dict[str, Any], vocabulary: dict[str, int]) -> Iterator[tuple[str, int, Any]]:
    """The key-values of the file: name, type, value."""
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    yield "general.architecture", STRING, "bert"
    yield "general.name", STRING, "all-MiniLM-L6-v2"
    yield "general.file_type", UINT32, 1  # mostly 16 bits
    yield "bert.context_length", UINT32, config["max_position_embeddings"]
    yield "bert.embedding_length", UINT32, config["hidden_size"]
    yield "bert.block_count", UINT32, config["num_hidden_layers"]
    yield "bert.feed_forward_length", UINT32, config["intermediate_size"]
    yield "bert.attention.head_count", UINT32, config["num_attention_heads"]
    yield "bert.attention.layer_norm_epsilon", FLOAT32, config["layer_norm_eps"]
    yield "bert.attention.causal", BOOL, False
    yield "bert.pooling_type", UINT32, _MEAN
    yield "tokenizer.ggml.model", STRING, "bert"
    yield "tokenizer.ggml.pre", STRING, "default"
    yield "tokenizer.ggml.tokens", ARRAY, (STRING, [_spelled(token) for token in tokens])
    yield "tokenizer.ggml.token_type", ARRAY, (INT32, [_type(token) for token in tokens])
    yield "tokenizer.ggml.token_type_count", UINT32, config["type_vocab_size"]
    names = {"bos": "[CLS]", "eos": "[SEP]", "unknown": "[UNK]", "seperator": "[SEP]", "padding": "[PAD]"}
    for name, token in {**names, "mask": "[MASK]"}.items():
        yield f"tokenizer.ggml.{name}_token_id", UINT32, vocabulary[token]


def _is_named(token: str) -> bool:
    return token.startswith("[") and token.endswith("]")


def _type(token: str) -> int:
    if not _is_named(token):
        return _NORMAL
    return _UNKNOWN if token == "[UNK]" else _CONTROL


def _spelled(token: str) -> str:
    """WordPiece marks what goes on (`##ing`), llama.cpp what begins a word."""
    if _is_named(token):
        return token
    return token.removeprefix("##") if token.startswith("##") else "\u2581" + token
