"""The floor of a restore: read the bytes of rows from their files, hand them to llama.cpp, decode one token.

Over llama-cpp-python's ctypes functions, span by span as the rows are cut, with one buffer that is used again and
nothing checked.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import llama_cpp
from bare import BareLoop
from fresh import Answer
from opened import N_CTX, N_THREADS

from erllama_py import Model, Runtime
from erllama_py.serve.models import fetch
from erllama_py.tiers import row_file

SCRATCH = 1  # the sequence that spans pass through
BUFFER_BYTES = 64 << 20


class Span(NamedTuple):
    """Where the KV bytes of `[start, end)` lie."""

    path: Path
    offset: int
    nbytes: int
    start: int
    end: int


async def spans_of(runtime: Runtime, model: Model, tokens: Sequence[int], root: Path) -> list[Span]:
    """The files of the rows that a disk tier at `root` has of `tokens`."""
    identity = model_identity(model)
    found = await runtime.cache.find(identity, tokens)
    spans = []
    for key, _ in found.rows:
        path = root / "rows" / row_file.file_name(key)
        with path.open("rb") as file:
            head = file.read(row_file.HEAD_BYTES)
        header = row_file.decode_header(head, path.stat().st_size, path.name)
        meta = header.meta
        spans.append(Span(path, header.layout.payload_offset, meta.payload_bytes, meta.start, meta.end))
    return spans
