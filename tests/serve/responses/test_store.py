"""Both forms of the store: what is kept, what goes, and what files may be."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from erllama_py.serve.responses.directory import DirectoryStore
from erllama_py.serve.responses.store import MemoryStore, NotKept, Record, Store, encode

TENANT, OTHER = "a" * 32, "b" * 32
Make = Callable[..., Store]


def name(number: int) -> str:
    """An id."""
    return f"resp_{number:032x}"


def record(number: int, previous: int | None = None, text: str = "") -> Record:
    """One answer."""
    before = None if previous is None else name(previous)
    response = msgspec.Raw(encode({"id": name(number), "x": text}))
    return Record(id=name(number), previous=before, session="s", input=[], response=response)


def ids(found: list[Record]) -> list[str]:
    """Of records."""
    return [one.id for one in found]


@pytest.fixture(params=["memory", "directory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes a store."""

    def made(most: int = 100, most_bytes: int = 1 << 20) -> Store:
        if request.param == "memory":
            return MemoryStore(most, most_bytes, b"k" * 32)
        return DirectoryStore(tmp_path / "answers", most, most_bytes)

    return made


@pytest.mark.anyio
async def test_a_chain_is_all_that_an_answer_goes_on_from(make: Make) -> None:
    """The first one first; of one tenant alone; as far back as it is there."""
    store = make()
    for number in range(4):
        await store.put(TENANT, record(number, number - 1 if number else None))
    assert ids(await store.chain(TENANT, name(3))) == [name(number) for number in range(4)]
    assert await store.chain(OTHER, name(3)) == []
    assert await store.chain(TENANT, "../key") == []
    assert await store.delete(OTHER, name(1)) is False
    assert await store.delete(TENANT, name(1)) is True
    assert await store.delete(TENANT, name(1)) is False
    assert ids(await store.chain(TENANT, name(3))) == [name(2), name(3)]
    await store.close()
    await store.close()


@pytest.mark.anyio
async def test_those_that_were_longest_unused_go_first(make: Make) -> None:
    """By their number; each tenant has its own bound."""
    store = make(most=3)
    for number in range(3):
        await store.put(TENANT, record(number))
    await store.chain(TENANT, name(0))
    await store.put(TENANT, record(3))
    await store.put(OTHER, record(4))
    left = [number for number in range(4) if await store.chain(TENANT, name(number))]
    assert left == [0, 2, 3]
    assert await store.chain(OTHER, name(4))
    await store.close()


@pytest.mark.anyio
async def test_bytes_are_bounded(make: Make) -> None:
    """And one that is larger than all of them is not kept, which costs the others nothing."""
    size = len(encode(record(0, text="x" * 100)))
    store = make(most_bytes=2 * size)
    for number in range(3):
        await store.put(TENANT, record(number, text="x" * 100))
    with pytest.raises(NotKept):
        await store.put(TENANT, record(3, text="x" * 1000))
    assert [bool(await store.chain(TENANT, name(number))) for number in range(4)] == [False, True, True, False]
    await store.close()


@pytest.mark.anyio
async def test_a_directory_is_found_again(tmp_path: Path) -> None:
    """With its key; what was left half-written, and what is nobody's, does not disturb, nor does what cannot be read.
    The bounds hold from the start."""
    store = DirectoryStore(tmp_path, 10, 1 << 20)
    key = await store.key()
    for number in range(3):
        await store.put(TENANT, record(number, number - 1 if number else None))
        os.utime(tmp_path / TENANT / f"{name(number)}.json", (number, number))
    await store.close()
    (tmp_path / TENANT / f"{name(7)}.part").write_bytes(b"{")
    (tmp_path / TENANT / "notes.json").write_text("mine")
    (tmp_path / TENANT / f"{name(8)}.json").write_bytes(b"{")
    again = DirectoryStore(tmp_path, 3, 1 << 20)
    assert await again.key() == key
    assert await again.chain(TENANT, name(0)) == []  # the oldest of four
    assert ids(await again.chain(TENANT, name(2))) == [name(1), name(2)]
    assert await again.chain(TENANT, name(8)) == []
    assert not (tmp_path / TENANT / f"{name(7)}.part").exists()
    assert (tmp_path / TENANT / "notes.json").exists()
    await again.close()


@pytest.mark.anyio
async def test_conversations_are_nobody_elses(tmp_path: Path) -> None:
    """Files and directories are for the server's user alone."""
    store = DirectoryStore(tmp_path / "answers", 10, 1 << 20)
    await store.put(TENANT, record(1))
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "answers").rglob("*")}
    assert modes == {0}
    assert (tmp_path / "answers").stat().st_mode & 0o077 == 0
    await store.close()


@pytest.mark.anyio
async def test_a_full_disk_keeps_nothing_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there stays as it was."""
    store = DirectoryStore(tmp_path, 10, 1 << 20)
    await store.put(TENANT, record(1))

    def full(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(NotKept):
        await store.put(TENANT, record(2))
    assert sorted(path.name for path in (tmp_path / TENANT).iterdir()) == [f"{name(1)}.json"]
    assert await store.chain(TENANT, name(2)) == []
    assert ids(await store.chain(TENANT, name(1))) == [name(1)]
    await store.close()


@pytest.mark.anyio
async def test_a_directory_that_was_open_to_others(tmp_path: Path) -> None:
    """Is closed to them; what they may have put there is neither read nor written through."""
    directory, elsewhere = tmp_path / "answers", tmp_path / "elsewhere"
    elsewhere.mkdir()
    victim = elsewhere / f"{name(7)}.json"
    victim.write_bytes(encode(record(7)))
    secret = elsewhere / "key"
    secret.write_bytes(b"k" * 32)
    directory.mkdir()
    directory.chmod(0o777)
    (directory / TENANT).symlink_to(elsewhere)
    (directory / "key").symlink_to(secret)
    (directory / "key.part").symlink_to(victim)
    store = DirectoryStore(directory, 100, 1 << 20)
    assert await store.key() != b"k" * 32
    assert await store.chain(TENANT, name(7)) == []
    assert directory.stat().st_mode & 0o777 == 0o700
    assert not (directory / "key").is_symlink()
    assert (victim.read_bytes(), secret.read_bytes()) == (encode(record(7)), b"k" * 32)
    await store.close()


@pytest.mark.anyio
async def test_a_directory_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Is not used: that user could read conversations, and knows the key."""
    (tmp_path / "answers").mkdir()
    store = DirectoryStore(tmp_path / "answers", 100, 1 << 20)
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(PermissionError):
        await store.key()
    with pytest.raises(NotKept):
        await store.put(TENANT, record(1))
    await store.close()
