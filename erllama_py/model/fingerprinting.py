"""Finding the fingerprint of a model that is being loaded: remembered, or hashed and then remembered.

The memory is a folder of small JSON files, read and written from the loop by `aiofiles`, on the load's own threads. No
failure of it fails a load. What is hashed, and which remembered hash counts, is in `engine.fingerprint`.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path

import aiofiles
import aiofiles.os
import msgspec

from erllama_py.actors import Threads, settle
from erllama_py.engine import fingerprint
from erllama_py.engine.backend import FileFacts, LoadCancelled
from erllama_py.errors import FingerprintMismatch
from erllama_py.options.model import ModelConfig

Progress = Callable[[int, int], bool]

MOST_BYTES = 64 << 10  # of an entry; most of it is the model's path
_numbers = itertools.count(1)  # of temporary files: no two loads of a process write the same one


async def find_fingerprint(
    config: ModelConfig, facts: FileFacts, folder: Path, progress: Progress, threads: Threads
) -> str:
    """The fingerprint of the files in `facts`, as 64 hex digits, checked against a given one.

    `folder` has the remembered hashes. `progress` gets bytes hashed and bytes in total, on any thread, and answers
    whether to go on; a remembered file is reported as hashed at once. Raises `FingerprintMismatch`,
    `ModelFileNotFound`, `LoadCancelled`, and `ModelLoadError` where a file changes meanwhile.
    """
    if not facts.files:  # a backend without a file
        return config.fingerprint or hashlib.sha256(config.backend.encode()).hexdigest()
    if config.fingerprint_mode == "fast_unsafe":
        assert config.fingerprint is not None  # checked at the door
        return config.fingerprint
    found = fingerprint.combine(await _known_or_hashed(config, facts, folder, progress, threads))
    if config.fingerprint is not None and config.fingerprint != found:
        raise FingerprintMismatch(facts.files[0].path, config.fingerprint, found)
    return found


async def _known_or_hashed(
    config: ModelConfig, facts: FileFacts, folder: Path, progress: Progress, threads: Threads
) -> list[str]:
    files, mode, executor = facts.files, config.fingerprint_mode, threads.executor
    states = [await threads.abandon(fingerprint.identify, file, mode) for file in files]
    plans = [fingerprint.plan_hash(mode, file) for file in files]
    known = fingerprint.believed(config, [await recall(folder, state, executor) for state in states])
    hashes, done, total = list[str](), 0, sum(plan.length for plan in plans)

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if not progress(done, total):
            raise LoadCancelled

    for file, state, plan, digest in zip(files, states, plans, known, strict=True):
        if digest is not None:
            advance(plan.length)
            hashes.append(digest)
            continue
        hashes.append(await threads.abandon(fingerprint.hash_file, file, plan, advance))
        if config.remember_fingerprint:
            await store(folder, fingerprint.Remembered(state, hashes[-1]), executor)
    return hashes


# Cancelled while it is being opened, a file would stay open until it is collected, and a temporary one would stay for
# good: so both calls run to their end. Closed by hand, as the end of `async with aiofiles.open(…)` takes the
# application's threads.


async def recall(folder: Path, state: fingerprint.FileState, executor: Executor) -> str | None:
    """The remembered hash, if the file is still the same."""
    recalling = asyncio.ensure_future(_recall(folder, state, executor))
    await settle(recalling)
    return recalling.result()


async def store(folder: Path, entry: fingerprint.Remembered, executor: Executor) -> None:
    """Remember a hash, whole or not at all. If that fails, nothing is remembered."""
    await settle(asyncio.ensure_future(_store(folder, entry, executor)))


async def _recall(folder: Path, state: fingerprint.FileState, executor: Executor) -> str | None:
    try:
        file = await aiofiles.open(fingerprint.store_path(folder, state), "rb", opener=_unwaited, executor=executor)
        try:
            content: bytes = await file.read(MOST_BYTES) or b""  # a pipe may have nothing yet
        finally:
            await file.close()
    except OSError:
        return None
    return fingerprint.usable(content, state)


async def _store(folder: Path, entry: fingerprint.Remembered, executor: Executor) -> None:
    with suppress(OSError, UnicodeEncodeError):  # the latter: a path that JSON cannot hold
        content = msgspec.json.encode(entry)
        await aiofiles.os.makedirs(folder, mode=0o700, exist_ok=True, executor=executor)
        whole = fingerprint.store_path(folder, entry.identity)
        temporary = whole.with_suffix(f".{os.getpid()}-{next(_numbers)}.tmp")
        try:
            file = await aiofiles.open(temporary, "xb", opener=_private, executor=executor)
            try:
                await file.write(content)
            finally:
                await file.close()
            await aiofiles.os.replace(temporary, whole, executor=executor)
        except BaseException:
            with suppress(OSError):
                await aiofiles.os.unlink(temporary, executor=executor)
            raise


def _unwaited(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe, or a link to what has no end


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
