"""Decodes with the llama.cpp that is installed, and exits with `BAD` and the reason where that goes wrong.

Run by set-up in a process of its own, with the environment's Python: a build for instructions that trap ends this
process and no other. What is decoded is a random model, made here, with a layer for each type of weights that people
use: a prompt, which takes the kernels for matrices, then single tokens, which take those for vectors. The logits must
be those of the same weights as plain numbers, as far as quantised arithmetic goes. What llama.cpp says goes to stderr.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize

BAD = 3  # `setup_builds.BAD_TRIAL`

# Each with the places of its scales in a block, f16: the one that weights are multiples of comes first.
TYPES = {
    "F16": (),
    "BF16": (),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
}
WIDTH, FEED_FORWARD, HEADS, KV_HEADS, VOCABULARY = 256, 512, 4, 2, 512  # a block of the K types is 256 weights
PROMPT, SINGLE = 37, 3  # tokens; neither is a multiple of what a kernel takes at once
# Cosine of logits. A sound build has 0.9997 and more; where one type alone is half as large again, it is 0.33 to 0.93.
LEAST_LIKENESS = 0.99

Pair = tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]


def weights(kind: str, rows: int, columns: int, random: np.random.Generator) -> Pair:
    """Random weights of a type, as its bytes and as plain numbers, spread so that a layer keeps sizes as they are."""
    spread = columns**-0.5
    if kind in ("F16", "BF16"):
        plain = (random.standard_normal((rows, columns)) * spread).astype(np.float32)
        if kind == "F16":
            packed = plain.astype(np.float16)
            return packed, packed.astype(np.float32)
        halves = (plain.view(np.uint32) >> 16).astype(np.uint16)
        return halves.view(np.uint8), (halves.astype(np.uint32) << 16).view(np.float32)
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    blocks = random.integers(0, 256, (rows * columns // block, size), dtype=np.uint8)
    scales = [1.0]
    if len(TYPES[kind]) == 2:  # the second is of what is added or taken away: so much of it that the mean is 0
        first, second = (_plain(blocks, kind, unit).mean() for unit in ([1.0, 0.0], [0.0, 1.0]))
        scales.append(float(-first / second))
    size_now = float(_plain(blocks, kind, scales).std())
    plain = _plain(blocks, kind, [scale * spread / size_now for scale in scales])
    return blocks.reshape(rows, -1), plain.reshape(rows, columns)


def _plain(blocks: np.ndarray[Any, Any], kind: str, scales: list[float]) -> np.ndarray[Any, Any]:
    """Gives the blocks these scales, and what they then mean."""
    for at, scale in zip(TYPES[kind], scales, strict=True):
        blocks[:, at : at + 2] = np.array([scale], np.float16).view(np.uint8)
    return dequantize(blocks, GGMLQuantizationType[kind])


def write_models(packed: Path, plain: Path) -> None:
    """The same random model twice: in all types, and as plain numbers."""
    random = np.random.default_rng(1)
    writers = [GGUFWriter(packed, "llama"), GGUFWriter(plain, "llama")]
    for writer in writers:
        writer.add_context_length(256)
        writer.add_embedding_length(WIDTH)
        writer.add_feed_forward_length(FEED_FORWARD)
        writer.add_block_count(len(TYPES))
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(KV_HEADS)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_vocab_size(VOCABULARY)
        writer.add_tokenizer_model("none")

    def add(name: str, kind: str, rows: int, columns: int) -> None:
        for writer, data in zip(writers, weights(kind, rows, columns, random), strict=True):
            writer.add_tensor(name, data, raw_dtype=GGMLQuantizationType["F32" if writer is writers[1] else kind])

    def add_norm(name: str) -> None:
        for writer in writers:
            writer.add_tensor(name, np.ones(WIDTH, np.float32))

    add("token_embd.weight", "Q8_0", VOCABULARY, WIDTH)
    add("output.weight", "Q6_K", VOCABULARY, WIDTH)
    add_norm("output_norm.weight")
    kv_width = WIDTH // HEADS * KV_HEADS
    for number, kind in enumerate(TYPES):
        layer = f"blk.{number}."
        for name in ("attn_norm", "ffn_norm"):
            add_norm(f"{layer}{name}.weight")
        for name, rows, columns in (
            ("attn_q", WIDTH, WIDTH),
            ("attn_k", kv_width, WIDTH),
            ("attn_v", kv_width, WIDTH),
            ("attn_output", WIDTH, WIDTH),
            ("ffn_gate", FEED_FORWARD, WIDTH),
            ("ffn_up", FEED_FORWARD, WIDTH),
            ("ffn_down", WIDTH, FEED_FORWARD),
        ):
            add(f"{layer}{name}.weight", kind, rows, columns)
    for writer in writers:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def logits(llama: Any, path: Path, flash_attn: bool, kv_type: int) -> np.ndarray[Any, Any]:
    """The logits after the prompt and after each single token."""
    model_params = llama.llama_model_default_params()
    model_params.n_gpu_layers = 0
    model = llama.llama_model_load_from_file(str(path).encode(), model_params)
    if not model:
        raise ValueError("it does not load a model")
    params = llama.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 256, 64, 64
    params.n_threads = params.n_threads_batch = 1  # two would wait for each other where the machine is busy
    params.type_k = params.type_v = kv_type
    params.flash_attn_type = int(flash_attn)
    context = llama.llama_init_from_model(model, params)
    if not context:
        raise ValueError("it does not make a context")
    tokens = np.random.default_rng(2).integers(0, VOCABULARY, PROMPT + SINGLE).tolist()
    rows = []
    for part in (tokens[:PROMPT], *([token] for token in tokens[PROMPT:])):
        array = (llama.llama_token * len(part))(*part)
        if llama.llama_decode(context, llama.llama_batch_get_one(array, len(part))):
            raise ValueError("a decode failed")
        rows.append(np.ctypeslib.as_array(llama.llama_get_logits_ith(context, -1), (VOCABULARY,)).copy())
    llama.llama_free(context)
    llama.llama_model_free(model)
    return np.stack(rows)


def likeness(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """The least cosine of two rows of logits; 0 where a number is not finite, or all of a row are 0."""
    if not np.isfinite(one).all() or not np.isfinite(other).all():
        return 0.0
    one, other = one.astype(np.float64), other.astype(np.float64)  # squares of float32 may be too large for it
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / norms).min()) if norms.all() else 0.0


def problem() -> str | None:
    """What is wrong with the llama.cpp that is installed; None where all is well."""
    try:
        from llama_cpp import llama_cpp as llama
    except Exception as error:
        return f"it does not load: {error}"
    llama.llama_backend_init()
    with TemporaryDirectory() as folder:
        packed, plain = Path(folder) / "packed.gguf", Path(folder) / "plain.gguf"
        write_models(packed, plain)
        try:
            wanted = logits(llama, plain, False, llama.GGML_TYPE_F16)
            for flash_attn, kv_type in (
                (False, llama.GGML_TYPE_F16),
                (True, llama.GGML_TYPE_F16),
                (True, llama.GGML_TYPE_Q8_0),
            ):
                alike = likeness(logits(llama, packed, flash_attn, kv_type), wanted)
                if alike < LEAST_LIKENESS:
                    return f"it computes wrong numbers (likeness {alike:.3f})"
        except ValueError as error:
            return str(error)
    return None


if __name__ == "__main__":
    said = problem()
    if said:
        print(said)
        sys.exit(BAD)
