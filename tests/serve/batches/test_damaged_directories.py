"""A directory of files in which something is damaged, of another version, or somebody else's: nothing of it is lost."""

from __future__ import annotations

import asyncio
import errno
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.batches import begin, jsonl, line, serving, until, upload
from helpers.checkpoints import turns

from erllama_py.serve.batches import files as files_module
from erllama_py.serve.batches.disk import Disk
from erllama_py.serve.batches.shelf import Quota

pytestmark = pytest.mark.anyio
LINES = jsonl(line(number) for number in range(4))


def found(folder: Path, pattern: str) -> list[Path]:
    """Files of it."""
    return list(folder.glob(pattern))


def _spoil_first(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:3] + b"\xff" + data[4:])


def _change_first(path: Path, **change: Any) -> None:
    """Another first record, with its checksum."""
    record, rest = path.read_bytes().split(b"\n", 1)
    data = msgspec.json.encode({**msgspec.json.decode(record.rpartition(b"\t")[0]), **change})
    path.write_bytes(data + b"\t%08x\n" % zlib.crc32(data) + rest)


def _other_version(path: Path) -> None:
    _change_first(path, type="made")


def _other_tenant(path: Path) -> None:
    _change_first(path, tenant={"name": 5})


@pytest.mark.parametrize("spoil", [_spoil_first, _other_version, _other_tenant])
async def test_a_journal_that_cannot_be_read_is_left_as_it_is(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    """With all files that may be its answers; all else goes on."""
    async with serving(files_directory=tmp_path) as at:
        batch = await begin(at.client, LINES)
        await until(at.client, batch)
    (journal,) = found(tmp_path, "*/*.journal")
    answers = found(tmp_path, "*/*.data")
    for path in answers:
        path.with_suffix(".json").unlink()  # as if it was killed before it was over
    spoil(journal)
    spoilt = journal.read_bytes()
    async with serving(files_directory=tmp_path) as at:
        assert (await at.client.get("/v1/batches")).json()["data"] == []
        assert (await until(at.client, await begin(at.client, LINES)))["status"] == "completed"
    assert journal.read_bytes() == spoilt
    assert all(path.exists() for path in answers)


@pytest.mark.parametrize("spoil", [_spoil_first, lambda path: path.write_bytes(b"{}")])
async def test_a_file_whose_facts_cannot_be_read_is_left_as_it_is(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    """Its bytes may be all that there is of them."""
    async with serving(files_directory=tmp_path) as at:
        await upload(at.client, LINES)
    (facts,), (data,) = found(tmp_path, "*/*.json"), found(tmp_path, "*/*.data")
    whole = facts.read_bytes()
    spoil(facts)
    async with serving(files_directory=tmp_path) as at:
        assert (await at.client.get("/v1/files")).json()["data"] == []
    assert data.read_bytes() == LINES
    facts.write_bytes(whole)
    async with serving(files_directory=tmp_path) as at:
        assert len((await at.client.get("/v1/files")).json()["data"]) == 1


async def test_what_is_no_file_is_passed_over(tmp_path: Path) -> None:
    """Directories and links that lead nowhere, by whatever names."""
    async with serving(files_directory=tmp_path) as at:
        made = (await upload(at.client, LINES)).json()
    folder = found(tmp_path, "*/*.json")[0].parent
    for name in (f"batch_{0:032x}.journal", f"file-{0:032x}.json", f"file-{0:032x}.data", "x.part"):
        (folder / name).mkdir()
    (folder / f"file-{1:032x}.json").symlink_to("nowhere")
    async with serving(files_directory=tmp_path) as at:
        assert (await at.client.get("/v1/files")).json()["data"] == [made]


async def test_a_file_that_cannot_be_deleted_is_there_still(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client is told: else it would be back after a restart."""

    def unlink(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    async with serving(files_directory=tmp_path) as at:
        made = (await upload(at.client, LINES)).json()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", unlink)
            answer = await at.client.delete(f"/v1/files/{made['id']}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "disk_error")
        assert (await at.client.get("/v1/files")).json()["data"] == [made]
        assert (await at.client.delete(f"/v1/files/{made['id']}")).json()["deleted"]


async def test_who_leaves_while_the_directory_is_opened_does_not_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread goes on with what its request does not wait for any more: the lock it takes is let go."""
    begun, go_on, real = threading.Event(), threading.Event(), files_module._opened

    def opened(root: Path) -> Any:
        begun.set()
        go_on.wait()
        return real(root)

    monkeypatch.setattr(files_module, "_opened", opened)
    disk = Disk()
    files = files_module.Files(tmp_path, lambda: Quota(9, 9, 9), disk)
    opening = asyncio.create_task(files.open())
    await asyncio.to_thread(begun.wait)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    go_on.set()
    await asyncio.to_thread(disk.threads.shutdown)
    await turns(20)
    again = Disk()
    assert await files_module.Files(tmp_path, lambda: Quota(9, 9, 9), again).open() == []
    again.close()
