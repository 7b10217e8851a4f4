"""The memory of hashes as a load uses it: on its own threads, and whole whatever cancels the load."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers.checkpoints import Strike, at_each_checkpoint
from helpers.fingerprints import CONTENT, DIGEST, Recorder, config, entries, facts
from helpers.leftovers import open_files

from erllama_py.actors import Threads
from erllama_py.model.fingerprinting import find_fingerprint

pytestmark = pytest.mark.anyio


class Refusing(ThreadPoolExecutor):
    """Threads of the application's that are used up."""

    def submit(self, *args: Any, **options: Any) -> Future[Any]:
        raise AssertionError("these are not ours to use")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A file to take the fingerprint of."""
    path = tmp_path / "model.gguf"
    path.write_bytes(CONTENT)
    return path


async def find(model: Path, memory: Path, progress: Recorder | None = None) -> str:
    """As a load does."""
    threads = Threads("load", 1)
    try:
        return await find_fingerprint(config(model), facts(model), memory, progress or Recorder(), threads)
    finally:
        threads.close()


async def test_files_are_read_and_written_on_the_threads_of_the_load(model: Path, tmp_path: Path) -> None:
    """Where the application has used up its own, a load goes on."""
    asyncio.get_running_loop().set_default_executor(Refusing(1))
    for _ in range(2):  # hashed and written, then read
        assert await find(model, tmp_path / "memory") == DIGEST
    assert len(entries(tmp_path / "memory")) == 1


async def test_a_load_that_is_cancelled_leaves_an_entry_or_none_and_no_file_open(model: Path, tmp_path: Path) -> None:
    """At each await, of the reading and of the writing."""
    before = open_files()
    folders = iter(tmp_path / str(number) for number in range(1000))

    async def scenario(strike: Strike) -> None:
        memory = next(folders)
        finding = asyncio.create_task(strike.coroutine(find(model, memory)))
        await asyncio.wait((finding,))
        assert finding.cancelled() is strike.struck
        assert {entry.suffix for entry in entries(memory)} <= {".json"}
        assert await find(model, memory) == DIGEST
        assert not open_files() - before

    assert await at_each_checkpoint(scenario) >= 4
