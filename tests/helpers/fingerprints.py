"""Files to take fingerprints of, without a model in them: how they are described, remembered and changed."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from erllama_py.actors import Threads
from erllama_py.engine.backend import FileFacts, ModelFile
from erllama_py.engine.fingerprint import FileState, Remembered, identify
from erllama_py.model import fingerprinting
from erllama_py.options.model import ModelConfig, parse_model_config

T = TypeVar("T")

CONTENT = bytes(range(256)) * 40
DIGEST = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64


def model_file(path: Path, metadata_size: int = 100, first_tensor_size: int = 50) -> ModelFile:
    """The file as it is now, as an inspection of it would say."""
    status = path.stat()
    return ModelFile(
        path=str(path), size=status.st_size, mtime=status.st_mtime_ns, inode=status.st_ino,
        metadata_size=metadata_size, first_tensor_size=first_tensor_size,
    )  # fmt: skip


def facts(*paths: Path) -> FileFacts:
    """Facts of which only the files matter here."""
    return FileFacts(
        architecture="llama", quant_type="f16", quant_bits=16, n_ctx_train=1, n_layer=1, kv_bytes_per_token=0,
        files=tuple(model_file(path) for path in paths),
    )  # fmt: skip


class Recorder:
    """A `progress` that writes down what it hears, and stops after so many reports."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.heard: list[tuple[int, int]] = []
        self._stop_after = stop_after

    def __call__(self, done: int, total: int) -> bool:
        self.heard.append((done, total))
        return self._stop_after is None or len(self.heard) < self._stop_after


def config(model: Path, **options: Any) -> ModelConfig:
    """A configuration for this file."""
    return parse_model_config({"model_path": model, **options})


def on_threads(work: Callable[[Threads], Awaitable[T]]) -> T:
    """Do it as a load does: on a loop, with a thread for what blocks."""

    async def run() -> T:
        threads = Threads("load", 1)
        try:
            return await work(threads)
        finally:
            threads.close()

    return asyncio.run(run())


def fingerprint_file(config: ModelConfig, facts: FileFacts, folder: Path, progress: fingerprinting.Progress) -> str:
    """See `find_fingerprint`."""
    return on_threads(lambda threads: fingerprinting.find_fingerprint(config, facts, folder, progress, threads))


def recall(folder: Path, state: FileState) -> str | None:
    """See `fingerprinting.recall`."""
    return on_threads(lambda threads: fingerprinting.recall(folder, state, threads.executor))


def store(folder: Path, entry: Remembered) -> None:
    """See `fingerprinting.store`."""
    on_threads(lambda threads: fingerprinting.store(folder, entry, threads.executor))


def entries(memory: Path) -> list[Path]:
    """What is remembered."""
    return list(memory.iterdir()) if memory.exists() else []


def lie(memory: Path, model: Path, mode: str = "safe") -> None:
    """Remember a wrong fingerprint for the file as it is, to see whether it is believed."""
    store(memory, Remembered(identify(model_file(model), mode), OTHER))


def rewritten(model: Path) -> None:
    """The same bytes in the same file, at another time."""
    model.write_bytes(CONTENT)
    os.utime(model, ns=(1, 1))


def replaced(model: Path) -> None:
    """Another file with the same bytes and time."""
    before = model.stat()
    other = model.with_suffix(".new")
    other.write_bytes(CONTENT)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(model)


def grown(model: Path) -> None:
    """One byte more, at the same time."""
    before = model.stat()
    with model.open("ab") as file:
        file.write(b"\0")
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
