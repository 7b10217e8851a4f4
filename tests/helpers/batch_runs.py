"""One batch in a folder, worked on with an endpoint of the test's own: no server, no model."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from erllama_py.serve.batches import journal
from erllama_py.serve.batches.asking import Answer
from erllama_py.serve.batches.disk import Disk
from erllama_py.serve.batches.journal import Created, State, line_of
from erllama_py.serve.batches.lines import Bounds
from erllama_py.serve.batches.running import Job, Means, Run
from erllama_py.serve.batches.slots import Slots
from erllama_py.serve.core.service import BatchCounts
from helpers.batches import CHAT

Endpoint = Callable[[bytes, asyncio.Event], Awaitable[Answer]]
GOOD = Answer(200, b'{"ok":true}', "req_1")


class Folder:
    """A batch, and what was asked of its endpoint: `asked` counts the texts of its lines."""

    def __init__(self, path: Path, data: bytes, *, endpoint: Endpoint | None = None, width: int = 4) -> None:
        self.path, self.asked = path, Counter[str]()
        self.disk, self.counts, self.draining, self.now = Disk(), BatchCounts(), False, 1000.0
        self._endpoint, self.width = endpoint, width
        self.job = Job(
            id="batch_0a", input=path / "in", journal=path / "journal", index=path / "index", output=path / "out",
            errors=path / "errors",
        )  # fmt: skip
        self.job.input.write_bytes(data)

    def run(self, *, expires_at: int | None = None, **given: Any) -> Run:
        """The work on it, as its files are now."""
        with suppress(FileExistsError), self.job.journal.open("xb") as file:
            created = Created(
                at=1, endpoint=CHAT, input_file_id="file-1", output_file_id="file-2", error_file_id="file-3",
                completion_window="24h", expires_at=expires_at,
            )  # fmt: skip
            file.write(line_of(created))
        state, size = journal.read(self.job.journal.read_bytes())
        assert state is not None
        means = Means(
            disk=self.disk, slots=Slots(lambda: self.width), width=lambda: self.width,
            bounds=lambda: Bounds(100_000, 1 << 20), known=lambda url: url == CHAT, counts=self.counts,
            draining=lambda: self.draining, clock=lambda: self.now,
        )  # fmt: skip
        return Run(self.job, state, size, self._ask, means, **given)

    async def over(self, **given: Any) -> State:
        """Its end."""
        async with asyncio.timeout(60):
            return await self.run(**given).go()

    def answers(self, path: Path | None = None) -> list[Any]:
        """The lines of its output, or of another file of it."""
        text = (path or self.job.output).read_bytes()
        assert not text or text.endswith(b"\n")
        return [msgspec.json.decode(one) for one in text.splitlines()]

    async def _ask(self, url: str, body: bytes, gone: asyncio.Event) -> Answer:
        self.asked[msgspec.json.decode(body)["messages"][0]["content"]] += 1
        return GOOD if self._endpoint is None else await self._endpoint(body, gone)
