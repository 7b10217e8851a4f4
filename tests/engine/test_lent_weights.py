"""Contexts over weights that another backend has: those of a companion, and those of a process after a crash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.tiny_gguf import tiny_gguf

from erllama_py.engine.backend import DecodeStatus, Slice
from erllama_py.engine.llama import LlamaBackend, gguf_file
from erllama_py.options.model import ModelConfig

Configure = Callable[..., ModelConfig]
TOKENS = [7, 3, 11, 5]


def test_contexts_over_weights_that_are_there_read_no_file(
    models: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the header nor anything else, which takes as long as a context of a small model."""
    reads, read = list[str](), gguf_file.read_facts

    def counted(*args: Any, **more: Any) -> Any:
        reads.append(args[1])
        return read(*args, **more)

    monkeypatch.setattr("erllama_py.engine.llama.backend.read_facts", counted)
    config = configure(tiny_gguf("dense", models))
    lender = LlamaBackend("tiny", config)
    lender.load_weights(lambda _: True)
    before = len(reads)
    for _ in range(2):
        other = LlamaBackend("tiny", config)
        other.use_weights_of(lender)
        other.load(lambda _: True)
        assert other.decode([Slice(0, 0, TOKENS, True)]) is DecodeStatus.DONE
        other.close()
    lender.close()
    assert len(reads) == before
