"""The batches of all tenants, without a server: whose turn it is, and what becomes of those that wait for theirs."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.batch_runs import GOOD
from helpers.batches import CHAT, jsonl, line
from helpers.runtime import until

from erllama_py.serve.batches import files, manager, outputs
from erllama_py.serve.batches.asking import Answer
from erllama_py.serve.batches.disk import Disk
from erllama_py.serve.batches.files import Files
from erllama_py.serve.batches.lines import Bounds
from erllama_py.serve.batches.manager import Batches
from erllama_py.serve.batches.protocol import BatchRequest
from erllama_py.serve.batches.running import Means
from erllama_py.serve.batches.shelf import FileFacts, Quota
from erllama_py.serve.batches.slots import Slots
from erllama_py.serve.core.service import BatchCounts, Tenant
from erllama_py.serve.core.tenants import tenant_key

pytestmark = pytest.mark.anyio
TENANT = Tenant(name="a")
LINES = 4


class Managed:
    """A directory and its batches. `held` keeps each line from an answer, after the first `free` of them."""

    def __init__(self, path: Path, free: int = 0) -> None:
        self.disk, self.held, self.now, self.free = Disk(), asyncio.Event(), 1000.0, free
        self.files = Files(path, lambda: Quota(9, 1 << 20, 1 << 20), self.disk)
        means = Means(
            disk=self.disk, slots=Slots(lambda: 2), width=lambda: 2, bounds=lambda: Bounds(100, 1 << 20),
            known=lambda url: True, counts=BatchCounts(), clock=lambda: self.now,
        )  # fmt: skip
        endpoints: Any = self
        self.batches = Batches(self.files, endpoints, means, means.counts, lambda: 9)

    def __contains__(self, url: object) -> bool:
        return True

    def of(self, tenant: Tenant) -> Any:
        """See `Endpoints`."""

        async def ask(url: str, body: bytes, gone: asyncio.Event) -> Answer:
            self.free -= 1
            if self.free >= 0:
                return GOOD
            for one in (waits := [asyncio.create_task(event.wait()) for event in (self.held, gone)]):
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                one.cancel()
            return Answer(499, b"") if gone.is_set() else GOOD

        return ask

    async def upload(self, expires_at: int | None = None) -> str:
        """A file of requests; its id."""
        async with self.files.incoming(tenant_key(TENANT)) as coming:
            coming.refusal(len(data := jsonl(line(number) for number in range(LINES))))
            await coming.append(data)
            facts = FileFacts(
                id=coming.id, bytes=len(data), created_at=1, filename="f", purpose="batch", expires_at=expires_at
            )
            await self.files.keep(tenant_key(TENANT), facts)
        return facts.id

    async def begin(self, file_id: str | None = None, window: str = "24h") -> str:
        """A batch; its id."""
        file_id = file_id or await self.upload()
        asked = BatchRequest(input_file_id=file_id, endpoint=CHAT, completion_window=window)
        made: str = (await self.batches.create(TENANT, asked))["id"]
        return made

    def show(self, batch: str) -> Any:
        """As a client sees it."""
        return self.batches.show(TENANT, batch)

    async def until(self, batch: str, status: str) -> Any:
        """The batch once it has this status."""
        await until(lambda: self.show(batch)["status"] == status)
        return self.show(batch)


def found(folder: Path, pattern: str) -> list[Path]:
    """What there is."""
    return list(folder.glob(pattern))


@asynccontextmanager
async def managed(path: Path, **given: Any) -> AsyncIterator[Managed]:
    """Batches that are open."""
    at = Managed(path, **given)
    await at.batches.open()
    try:
        yield at
    finally:
        await at.batches.close()


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a second batch waits for its turn."""
    monkeypatch.setattr(manager, "SIDE_BY_SIDE", 1)


async def test_a_batch_expires_while_it_waits_for_its_turn(tmp_path: Path) -> None:
    """Its lines have errors that say so; the one at work goes on."""
    async with managed(tmp_path) as at:
        first, waits = await at.begin(), await at.begin(window="1h")
        at.now = 4599.999
        third = await at.begin()
        assert (at.show(waits)["status"], at.show(third)["status"]) == ("validating", "validating")
        at.now = 4600.0
        over = await at.until(waits, "expired")
        assert over["request_counts"] == {"total": LINES, "completed": 0, "failed": LINES}
        assert at.show(first)["status"] == "in_progress"
        assert at.show(third)["status"] == "validating"


async def test_what_is_answered_is_counted_before_a_batch_has_its_turn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it has stopped, and after a restart, when others are worked on first."""
    some = {"total": LINES, "completed": LINES - 1, "failed": 0}
    async with managed(tmp_path, free=LINES - 1) as at:
        batch = await at.begin()
        await until(lambda: at.show(batch)["request_counts"] == some)
    assert at.show(batch)["request_counts"] == some
    monkeypatch.setattr(manager, "SIDE_BY_SIDE", 0)
    monkeypatch.setattr(manager, "MOST_TENANTS", 0)
    async with managed(tmp_path) as at:
        await until(lambda: at.show(batch)["request_counts"] == some)


async def test_a_client_that_leaves_has_its_batch_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once its journal is begun: else it would be found, and worked on, after the next start."""
    async with managed(tmp_path) as at:
        file_id, real, written = await at.upload(), at.batches._written, asyncio.Event()

        async def slowly(*given: Any) -> Any:
            held = await real(*given)
            written.set()
            await asyncio.sleep(0)
            return held

        monkeypatch.setattr(at.batches, "_written", slowly)
        making = asyncio.create_task(at.begin(file_id))
        await written.wait()
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        await until(lambda: len(at.batches.list(TENANT)) == 1)
        assert making.cancelled()
        at.held.set()
        await at.until(at.batches.list(TENANT)[0].id, "completed")


async def test_a_file_is_gone_when_its_time_is_over(tmp_path: Path) -> None:
    """Also after a restart, and from the disk. One that a batch reads stays until that is over."""
    key = tenant_key(TENANT)
    async with managed(tmp_path) as at:
        kept, read, gone = await at.upload(), await at.upload(2000), await at.upload(2000)
        batch = await at.begin(read)
        await at.batches.open()
        assert [one.id for one in at.files.list(key)] == [kept, read, gone]
        at.now = 2000.0
        await at.batches.open()
        assert [one.id for one in at.files.list(key)] == [kept, read]
        assert not found(tmp_path, f"*/{gone}.*")
        at.held.set()
        await at.until(batch, "completed")
    async with managed(tmp_path) as at:
        assert at.files.get(key, read) is not None
        at.now = 2001.0
        await at.batches.open()
        assert at.files.get(key, read) is None
        assert at.files.get(key, kept) is not None


async def test_a_batch_that_cannot_end_on_a_full_disk_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancelled, it waits for the room that its files take; that it was is in its journal."""

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(outputs, "RETRY_SECONDS", 0.0)
    async with managed(tmp_path, free=2) as at:
        batch = await at.begin()
        await until(lambda: at.show(batch)["request_counts"]["completed"] == 2)
        with monkeypatch.context() as patch:
            patch.setattr(files, "write_whole", full)
            assert (await at.batches.cancel(TENANT, batch))["status"] == "cancelling"
            await until(lambda: at.show(batch)["errors"] is not None)
            assert at.show(batch)["errors"]["data"][0]["code"] == "disk_full"
        over = await at.until(batch, "cancelled")
        assert (over["errors"], over["request_counts"]["completed"]) == (None, 2)
