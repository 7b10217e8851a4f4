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

_ALIGNMENT = 32  # bytes; GGUF's own where a file names none
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9  # types of GGUF values
_FORMATS = {_UINT32: "<I", _INT32: "<i", _FLOAT32: "<f", _BOOL: "<?"}  # of `struct`
_F32, _F16 = 0, 1  # types of ggml tensors
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
    tensors: list[tuple[str, Any]] = []
    for source, name in _names(config["num_hidden_layers"]):
        begin, end = header[source]["data_offsets"]
        values = numpy.frombuffer(weights, "<f4", (end - begin) // 4, 8 + header_size + begin)
        values = values.reshape(header[source]["shape"])
        # llama.cpp adds the positions as they are: it takes no others than those of 32 bits.
        is_half = values.ndim == 2 and name != "position_embd.weight" and name != "token_types.weight"
        tensors.append((name, values.astype("<f2") if is_half else values))
    with target.open("wb") as out:
        _write(out, list(_values(config, vocabulary)), tensors)


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
    yield "general.architecture", _STRING, "bert"
    yield "general.name", _STRING, "all-MiniLM-L6-v2"
    yield "general.file_type", _UINT32, 1  # mostly 16 bits
    yield "bert.context_length", _UINT32, config["max_position_embeddings"]
    yield "bert.embedding_length", _UINT32, config["hidden_size"]
    yield "bert.block_count", _UINT32, config["num_hidden_layers"]
    yield "bert.feed_forward_length", _UINT32, config["intermediate_size"]
    yield "bert.attention.head_count", _UINT32, config["num_attention_heads"]
    yield "bert.attention.layer_norm_epsilon", _FLOAT32, config["layer_norm_eps"]
    yield "bert.attention.causal", _BOOL, False
    yield "bert.pooling_type", _UINT32, _MEAN
    yield "tokenizer.ggml.model", _STRING, "bert"
    yield "tokenizer.ggml.pre", _STRING, "default"
    yield "tokenizer.ggml.tokens", _ARRAY, (_STRING, [_spelled(token) for token in tokens])
    yield "tokenizer.ggml.token_type", _ARRAY, (_INT32, [_type(token) for token in tokens])
    yield "tokenizer.ggml.token_type_count", _UINT32, config["type_vocab_size"]
    names = {"bos": "[CLS]", "eos": "[SEP]", "unknown": "[UNK]", "seperator": "[SEP]", "padding": "[PAD]"}
    for name, token in {**names, "mask": "[MASK]"}.items():
        yield f"tokenizer.ggml.{name}_token_id", _UINT32, vocabulary[token]


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


def _write(out: BinaryIO, values: list[tuple[str, int, Any]], tensors: list[tuple[str, Any]]) -> None:
    """A GGUF file of version 3."""
    out.write(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(values)))
    for name, kind, value in values:
        out.write(_text(name) + struct.pack("<I", kind) + _packed(kind, value))
    offset = 0
    for name, tensor in tensors:
        shape = tensor.shape[::-1]  # the innermost dimension first
        out.write(_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape))
        out.write(struct.pack("<IQ", _F16 if tensor.itemsize == 2 else _F32, offset))
        offset += tensor.nbytes + -tensor.nbytes % _ALIGNMENT
    out.write(b"\0" * (-out.tell() % _ALIGNMENT))
    for _, tensor in tensors:
        out.write(tensor.tobytes() + b"\0" * (-tensor.nbytes % _ALIGNMENT))


def _packed(kind: int, value: Any) -> bytes:
    if kind in _FORMATS:
        return struct.pack(_FORMATS[kind], value)
    if kind == _STRING:
        return _text(value)
    item_kind, items = value
    return struct.pack("<IQ", item_kind, len(items)) + b"".join(_packed(item_kind, item) for item in items)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
