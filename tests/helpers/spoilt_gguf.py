"""Tiny models whose metadata says what no sound file says: what ends the process where llama.cpp believes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from gguf import GGUFValueType, GGUFWriter

from helpers.tiny_gguf import ARCHITECTURES, Kind, n_vocab, write_to

U32, F32, TEXT, FLAG = GGUFValueType.UINT32, GGUFValueType.FLOAT32, GGUFValueType.STRING, GGUFValueType.BOOL


class Spoilt(NamedTuple):
    """How one file is spoilt: key-values to set, or to leave out; its tokens; its tensors. And what is said of it."""

    said: str
    kind: Kind = "dense"
    values: Mapping[str, tuple[Any, GGUFValueType] | None] = MappingProxyType({})
    tokens: Callable[[list[Any]], list[Any]] | None = None
    tensor: Callable[[str, np.ndarray[Any, Any]], np.ndarray[Any, Any]] | None = None


def _twice(tokens: list[Any]) -> list[Any]:
    return [*tokens[:5], tokens[6], *tokens[6:]]


def _half_norms(name: str, weights: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return weights.astype(np.float16) if "norm" in name else weights


EPSILON, WINDOW = "llama.attention.layer_norm_rms_epsilon", "gemma3.attention.sliding_window"
# Each ends the process in llama.cpp: in the load, as a text is tokenized, or in the first decode.
SPOILT = {
    "a token twice": Spoilt("tokens 5 and 6 are the same", tokens=_twice),
    "no layers": Spoilt("block_count is 0", values={"llama.block_count": (0, U32)}),
    "600 layers": Spoilt("block_count is 600", values={"llama.block_count": (600, U32)}),
    "unknown scaling": Spoilt("'nonesuch'", values={"llama.rope.scaling.type": ("nonesuch", TEXT)}),
    "negative epsilon": Spoilt("epsilon is -1", values={EPSILON: (-1.0, F32)}),
    "epsilon no number": Spoilt("epsilon is nan", values={EPSILON: (float("nan"), F32)}),
    "many experts": Spoilt("expert_count is 200,000", values={"llama.expert_count": (200_000, U32)}),
    "unused experts": Spoilt("none of its 4 experts", values={"llama.expert_count": (4, U32)}),
    "more experts used": Spoilt("there are 0 experts", values={"llama.expert_used_count": (2, U32)}),
    "norms of 16 bits": Spoilt("not of the type f32", tensor=_half_norms),
    "no first token": Spoilt(
        "no such token is named",
        "recurrent",
        {
            "tokenizer.ggml.model": ("t5", TEXT),
            "tokenizer.ggml.bos_token_id": None,
            "tokenizer.ggml.add_bos_token": (True, FLAG),
        },
    ),
    "another tokenizer": Spoilt("SentencePiece", values={"tokenizer.ggml.model": ("llama", TEXT)}),
    "an endless window": Spoilt("2,147,483,648", "window", {WINDOW: (1 << 31, U32)}),
}
# One that no check knows: only a child tells.
UNKNOWN = Spoilt(
    "SIGABRT",
    values={
        "tokenizer.ggml.model": ("bert", TEXT),
        "tokenizer.ggml.token_type": ([6] * n_vocab(), GGUFValueType.ARRAY),  # of bytes
    },
)


def spoilt_gguf(how: Spoilt, path: Path) -> Path:
    """Write the tiny model of its kind, spoilt."""
    write_to(_Writer(path, ARCHITECTURES[how.kind], how), how.kind)
    return path


class _Writer(GGUFWriter):
    def __init__(self, path: Path, architecture: str, how: Spoilt) -> None:
        super().__init__(path, architecture)
        self._how = how

    def add_tensor(self, name: str, tensor: Any, *args: Any, **options: Any) -> None:
        change = self._how.tensor
        super().add_tensor(name, tensor if change is None else change(name, tensor), *args, **options)

    def write_header_to_file(self, path: Path | None = None) -> None:
        for key, value in self._how.values.items():
            for part in self.kv_data:
                part.pop(key, None)
            if value is not None:
                self.add_key_value(key, *value)
        tokens = self.kv_data[0].get("tokenizer.ggml.tokens")
        if self._how.tokens is not None and tokens is not None:
            tokens.value = self._how.tokens(list(tokens.value))
        super().write_header_to_file(path)
