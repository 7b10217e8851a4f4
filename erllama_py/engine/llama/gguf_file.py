"""What a GGUF model says of itself: the headers of its files, read without their weights.

A model may be split over several files: the first has the key-values of the model, each has a part of the tensors.
llama.cpp is given the first and finds the others by its name, `<prefix>-00001-of-00003.gguf`; so does `read_facts`.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack

from erllama_py.engine.backend import FileFacts, FilePooling
from erllama_py.engine.llama.charsmap import charsmap_fault
from erllama_py.engine.llama.gguf_header import Header, opened
from erllama_py.engine.llama.known_faults import MOST_LAYERS, Stated, decode_fault, load_fault, vocabulary_fault
from erllama_py.engine.llama.native import Library
from erllama_py.engine.llama.no_model import what_else
from erllama_py.errors import UnsupportedModel

_BYTES_F16 = 2

# llama.cpp gives these no KV cache, whatever their files say; other encoders say `attention.causal = false`.
_ENCODERS = {
    "bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "jina-bert-v3", "neo-bert", "modern-bert", "eurobert",
    "gemma-embedding", "t5encoder", "dream", "llada", "llada-moe", "rnd1", "wavtokenizer-dec",
}  # fmt: skip
_POOLING: dict[int, FilePooling] = {1: "mean", 2: "cls", 3: "last", 4: "rank"}  # llama_pooling_type
_HEADS = ("cls.weight", "cls.output.weight")  # of a model that ranks: one of these is there

_EPSILONS = ("layer_norm_rms_epsilon", "layer_norm_epsilon", "group_norm_epsilon")

_SPLIT_COUNT, _SPLIT_NO = "split.count", "split.no"  # both u16; the latter from 0 on
_PART_ENDING = "-{:05}-of-{:05}.gguf"  # llama_split_path; counted from 1 on


def read_facts(library: Library, path: str, model_id: str, *, on_cpu: bool = True) -> FileFacts:
    """The facts of the model at `path`, of all its parts. Raises as `Backend.inspect` does, also for what would end the
    process in a decode, which may be `on_cpu` alone."""
    with ExitStack() as stack:
        header = stack.enter_context(opened(library, path, model_id))
        paths = part_paths(header, path)  # a later part says nothing of what it is
        architecture = header.text("general.architecture") or ""
        kind, adapter = header.text("general.type"), header.text("adapter.type")
        if other := what_else(kind, architecture, adapter, header.tensor_types()):
            raise UnsupportedModel(path, other)
        parts = [header]
        for number, part in enumerate(paths[1:], 1):
            parts.append(stack.enter_context(opened(library, part, model_id)))
            if parts[-1].short(_SPLIT_NO) != number:  # llama.cpp ends the process where it is of another type
                raise UnsupportedModel(part, f"it is not part {number + 1} of a model")
        if fault := decode_fault(_stated(parts), on_cpu=on_cpu):
            raise UnsupportedModel(path, fault)
        if fault := charsmap_fault(header.octets("tokenizer.ggml.precompiled_charsmap")):
            raise UnsupportedModel(path, fault)
        quant_type = _quant_type(library, parts)
        n_ctx_train = header.number(f"{architecture}.context_length")
        has_long_rope = any(part.has_tensor("rope_factors_long.weight") for part in parts)
        long_rope_above = header.number(f"{architecture}.rope.scaling.original_context_length", n_ctx_train)
        return FileFacts(
            architecture=architecture,
            quant_type=quant_type,
            quant_bits=quant_bits(quant_type),
            n_ctx_train=n_ctx_train,
            sliding_window=header.number(f"{architecture}.attention.sliding_window"),
            n_layer=header.number(f"{architecture}.block_count"),
            kv_bytes_per_token=(
                0
                if architecture in _ENCODERS
                else _kv_bytes_per_token(header, architecture, sum(part.n_tensors for part in parts))
            ),
            embeds_only=architecture in _ENCODERS or not header.flag(f"{architecture}.attention.causal", True),
            pooling=_pooling(header, architecture, parts),
            long_rope_above=long_rope_above if has_long_rope else 0,
            offloads=bool(library.c.llama_supports_gpu_offload()),
            files=tuple(part.file for part in parts),
        )


def find_load_fault(library: Library, path: str, model_id: str) -> str | None:
    """What is known to end the process in a load of the file, in words; None where nothing is. Raises as
    `Backend.inspect` does."""
    with opened(library, path, model_id) as header:
        said = _said(header, {})
        return load_fault(said) or vocabulary_fault(said.tokenizer, header.texts("tokenizer.ggml.tokens"))


def _stated(parts: list[Header]) -> Stated:
    """What the first of the parts says, and the types of the norms and biases of all."""
    types = {name: kind for part in parts for name, kind in part.tensor_types().items()}
    return _said(parts[0], {name: kind for name, kind in types.items() if "norm" in name or name.endswith(".bias")})


def _said(header: Header, norms: dict[str, int]) -> Stated:
    """What the header says; `norms` of all parts of the model."""
    architecture = header.text("general.architecture") or ""
    layers = header.number(f"{architecture}.block_count", -1)
    epsilons = {key: header.real(f"{architecture}.attention.{key}") for key in _EPSILONS}
    bos = header.number("tokenizer.ggml.bos_token_id", -1)
    return Stated(
        architecture=architecture,
        layers=None if layers < 0 else layers,
        experts=max(0, header.number(f"{architecture}.expert_count")),
        experts_used=tuple(header.per_layer(f"{architecture}.expert_used_count", MOST_LAYERS)),
        expert_groups=header.number(f"{architecture}.expert_group_count"),
        groups_used=header.number(f"{architecture}.expert_group_used_count"),
        rope_scaling=header.text(f"{architecture}.rope.scaling.type"),
        epsilons={key: value for key, value in epsilons.items() if value is not None},
        window=header.number(f"{architecture}.attention.sliding_window"),
        tokenizer=header.text("tokenizer.ggml.model"),
        adds_bos=header.flag("tokenizer.ggml.add_bos_token", False),
        bos=None if bos < 0 else bos,
        n_tokens=header.length("tokenizer.ggml.tokens"),
        norms=norms,
    )


def _pooling(header: Header, architecture: str, parts: list[Header]) -> FilePooling | None:
    """How the model's makers pool; one that is to rank without a head pools as its first token."""
    pooling = _POOLING.get(header.number(f"{architecture}.pooling_type", -1))
    if pooling == "rank" and not any(part.has_tensor(head) for part in parts for head in _HEADS):
        return "cls"
    return pooling


def part_paths(header: Header, path: str) -> list[str]:
    """The paths of all files of the model whose first is at `path`."""
    count, number = header.short(_SPLIT_COUNT), header.short(_SPLIT_NO)
    if count <= 1:
        return [path]
    if number != 0:
        raise UnsupportedModel(path, f"it is not the first of its {count} parts: give the path of that one")
    ending = _PART_ENDING.format(1, count)
    if not path.endswith(ending):
        raise UnsupportedModel(path, f"it is the first of {count} parts, so its name must end in {ending!r}")
    return [path.removesuffix(ending) + _PART_ENDING.format(part, count) for part in range(1, count + 1)]


def quant_bits(quant_type: str) -> int:
    """Bits a weight, as the name of the type has it: `"q4_k_m"` 4, `"iq2_xxs"` 2, `"bf16"` 16; 0 if it does not say."""
    digits = quant_type.lstrip("abcdefghijklmnopqrstuvwxyz").split("_")[0]
    return int(digits) if digits.isdigit() else 0


def _quant_type(library: Library, parts: list[Header]) -> str:
    """What the model calls itself, or the type that most of its bytes have."""
    named = library.file_type(parts[0].number("general.file_type", -1))
    if named:
        return named
    commonest = sum((part.bytes_by_type() for part in parts), Counter[int]()).most_common(1)
    return library.tensor_types.get(commonest[0][0], "unknown") if commonest else "unknown"


def _kv_bytes_per_token(header: Header, architecture: str, n_tensors: int) -> int:
    """Keys and values of one position in f16, over the layers that attend."""
    # No layer is without a tensor: a nonsensical count must not make us count to it.
    n_layer = min(header.number(f"{architecture}.block_count"), n_tensors)
    attention = f"{architecture}.attention"
    heads = header.per_layer(f"{attention}.head_count", n_layer)
    kv_heads = header.per_layer(f"{attention}.head_count_kv", n_layer, -1)
    width = header.number(f"{architecture}.embedding_length")
    # Some hybrids say only that every n-th layer attends.
    interval = max(1, header.number(f"{architecture}.full_attention_interval", 1))
    total = 0
    for layer, (head, kv_head) in enumerate(zip(heads, kv_heads, strict=False)):
        if head == 0 or (layer + 1) % interval:
            continue
        size = width // head
        key = header.number(f"{attention}.key_length", size)
        value = header.number(f"{attention}.value_length", size)
        total += (kv_head if kv_head >= 0 else head) * (key + value)
    return total * _BYTES_F16
