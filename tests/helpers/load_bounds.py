"""The least and the most of every option of a load, and what llama.cpp makes of them.

`python -m helpers.load_bounds FOLDER KIND all|sizes` loads a tiny model with each, decodes, copies cells out and in,
and embeds; it prints what each came to before the next one begins.
"""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path
from typing import Any, cast

from erllama_py.engine.backend import Slice
from erllama_py.engine.embedding import EmbedderOpts
from erllama_py.engine.llama.backend import LlamaBackend
from erllama_py.errors import ErllamaError
from erllama_py.options.model import parse_model_config
from erllama_py.options.sampling import Sampling
from helpers.tiny_gguf import CONTEXT, Kind, tiny_gguf

NAN, INF, LEAST, MOST = float("nan"), float("inf"), 1.2e-38, 3.4e38  # the last are those of 32 bits
FLOATS = (0.0, -0.0, LEAST, 1.0, -1.0, MOST, -MOST, 1e-45, 1e39, NAN, INF, -INF)
KV_TYPES = ("f16", "f32", "bf16", "q4_0", "q5_0", "q5_1", "q8_0")

CONTEXTS: dict[str, list[dict[str, Any]]] = {
    "n_ctx": [{"n_ctx": value} for value in (0, 1, 2, 3, 255, 256, 257, CONTEXT, CONTEXT + 1)],
    "n_batch": [{"n_batch": value} for value in (1, 2, 3, 33, 2048, 2049, (1 << 31) - 1)],
    "n_ubatch": [{"n_batch": 8, "n_ubatch": value} for value in (1, 2, 7, 8, 9)],
    "n_seq_max": [
        *({"n_ctx": n + more, "n_seq_max": n} for n, more in product((1, 2, 4, 255), (-1, 0, 1, 2)) if n + more),
        *({"n_batch": n + more, "n_seq_max": n} for n, more in product((1, 2, 4, 255), (-1, 0, 1, 2)) if n + more),
        *({"n_batch": 8, "n_ubatch": n, "n_seq_max": 4} for n in (1, 3, 4, 5)),
        {"n_seq_max": 256, "n_batch": 512},
    ],
    "n_threads": [{"n_threads": value} for value in (1, 3, 512, 513)],
    "n_threads_batch": [{"n_threads_batch": value, "n_threads": 1} for value in (1, 3, 512, 513)],
    "flash_attn": [{"flash_attn": value} for value in (True, False, "auto")],
    "type_k": [{"type_k": one, "flash_attn": flash} for one, flash in product(KV_TYPES, (True, False))],
    "type_v": [{"type_v": one, "flash_attn": flash} for one, flash in product(KV_TYPES, (True, False, "auto"))],
    "rope_scaling_type": [
        {"rope_scaling_type": one, "rope_freq_scale": scale}
        for one, scale in product(("none", "linear", "yarn", "longrope"), (0.0, 0.25, 4.0))
    ],
    "rope_freq_base": [{"rope_freq_base": value} for value in FLOATS],
    "rope_freq_scale": [{"rope_freq_scale": value} for value in FLOATS],
    **{
        name: [{"rope_scaling_type": "yarn", name: value} for value in FLOATS]
        for name in ("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow")
    },
    "yarn_orig_ctx": [
        {"yarn_orig_ctx": value, "rope_scaling_type": "yarn"} for value in (1, 2, CONTEXT, (1 << 31) - 1)
    ],
    "offload_kqv": [{"offload_kqv": False}],
    "swa_full": [{"swa_full": True}, {"swa_full": True, "n_ctx": 2}],
}
MODELS: dict[str, list[dict[str, Any]]] = {
    "n_gpu_layers": [{"n_gpu_layers": value} for value in (-1, 0, 1, 99, (1 << 31) - 1)],
    "use_mmap": [{"use_mmap": False}],
    "use_mlock": [{"use_mlock": True, "use_mmap": mapped} for mapped in (True, False)],
    "vocab_only": [{"vocab_only": True}],
    "split_mode": [{"split_mode": one, "n_gpu_layers": -1} for one in ("none", "layer", "row")],
    "main_gpu": [{"main_gpu": 0}, {"main_gpu": 5}, {"main_gpu": (1 << 31) - 1, "split_mode": "none"}],
    "tensor_split": [{"tensor_split": one} for one in ([1.0], [0.0, MOST], [1.0] * 16, [NAN], [0.0], [-1.0, 2.0])],
}
SIZES = [{"context_opts": one} for name in ("n_ctx", "n_batch", "n_ubatch", "n_seq_max") for one in CONTEXTS[name]]
CASES = [{"context_opts": one} for cases in CONTEXTS.values() for one in cases]
CASES += [{"model_opts": one} for cases in MODELS.values() for one in cases]


def outcome(path: Path, options: dict[str, Any]) -> str:
    """What came of a load with these options: an error's class and text, or what was drawn."""
    try:
        backend = LlamaBackend("m", parse_model_config({"model_path": path, **options}))
        facts = backend.load(lambda _: True)
    except ErllamaError as error:
        return f"{type(error).__name__}: {error}"
    try:
        return "tokenizer" if not facts.n_ctx else use(backend, facts.n_seq_max, facts.n_batch, facts.memory)
    finally:
        backend.close()


def use(backend: LlamaBackend, n_seq_max: int, n_batch: int, memory: str) -> str:
    """A token of each sequence, a full batch, a copy of its cells, and an embedding."""
    count = min(n_seq_max, n_batch)
    done = [backend.decode([Slice(seq_id, 0, (5,), True) for seq_id in range(count)]).name]
    sampler = backend.sampler(Sampling(temperature=0.0), [5])
    try:
        done.append(f"drew {sampler.sample(count - 1)}")
    except ErllamaError as error:
        done.append(type(error).__name__)
    for seq_id in range(count):
        backend.remove(seq_id, 0, -1)
    length = min(n_batch, 200)
    done.append(backend.decode([Slice(0, 0, (5,) * length, True)]).name)
    if done[-1] == "DONE":
        buffer = memoryview(bytearray(1 << 20))
        payload = backend.capture(0, 0, length, lambda size: buffer[:size])
        backend.remove(0, 0, -1)
        done.append(f"restored {payload is not None and backend.restore(0, 0, length, payload)}")
    embedder = backend.embedder(EmbedderOpts(ranks=False, threads=1))
    embedder.load()
    embedder.close()
    return ", ".join(done)


def main(folder: str, kind: str, which: str) -> None:
    path = tiny_gguf(cast(Kind, kind), Path(folder))
    for options in CASES if which == "all" else SIZES:
        print(json.dumps([repr(options), outcome(path, options)]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
