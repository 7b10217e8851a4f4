"""The store of a tier of files: opened again, swept, written to, on a file system that fails."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.directory_tier import QUOTA
from helpers.fake_cache import bytes_in, key_of, meta_of, put_of

from erllama_py.buffers import BufferPool
from erllama_py.errors import TierFailed, TierLocked
from erllama_py.tiers import row_file
from erllama_py.tiers.lock import open_place
from erllama_py.tiers.publish import Draft, Files
from erllama_py.tiers.store import Store

GUARD_SECONDS = 10


def store_at(root: Path) -> Store:
    """A store that is not open."""
    return Store("d", str(root), QUOTA, Files(), BufferPool(0))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An open store."""
    store = store_at(tmp_path)
    store.open()
    yield store
    store.close()


def publish(store: Store, number: int) -> str:
    """Store row `number`; the name of its file."""
    message = put_of(meta_of(number))
    draft = Draft(message.row)
    store.prepare(draft)
    store.publish(draft)
    return draft.name


def set_aside(store: Store, name: str) -> bool:
    """Judge the file that has the name now to be bad."""
    assert store.place is not None
    facts = os.stat(name, dir_fd=store.place.rows_fd, follow_symlinks=False)
    return store.set_aside(name, (facts.st_dev, facts.st_ino), "torn")


# --- opening -------------------------------------------------------------------------------------------------


def test_an_opening_that_fails_keeps_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the error is kept, with all that its traceback refers to."""

    def fail(*args: object) -> None:
        raise OSError(5, "Input/output error")

    store = store_at(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("erllama_py.tiers.store.take_census", fail)
        with pytest.raises(TierFailed, match="EIO") as kept:
            store.open()
    store.open()
    store.close()
    assert kept.value.__traceback__ is not None


@pytest.mark.parametrize("gone", ["rows", "aside"])
def test_a_directory_that_is_opened_again_keeps_its_lock_all_the_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    """The same file is its lock: no other process gets it in between, and no attempt that fails loses it."""
    store = store_at(tmp_path)
    old, _ = store.open()
    shutil.rmtree(tmp_path / gone)
    with monkeypatch.context() as patch:
        patch.setattr("erllama_py.tiers.store.take_census", lambda place: os.stat("/nowhere"))
        with pytest.raises(TierFailed):
            store.open()
    assert store.place is old
    with pytest.raises(TierLocked):
        open_place("other", str(tmp_path))
    new, _ = store.open()
    assert store.place is new is not old
    with pytest.raises(TierLocked):
        open_place("other", str(tmp_path))
    store.close()
    open_place("other", str(tmp_path)).close()


def test_what_could_not_be_taken_back_is_forgotten_with_its_directory(tmp_path: Path) -> None:
    """A file of the same name in the directory that took its place is another one."""

    class Stuck(Files):
        stuck = True

        def unlink(self, rows_fd: int, name: str) -> None:
            if self.stuck:
                raise OSError(errno.EROFS, "injected")
            super().unlink(rows_fd, name)

    files = Stuck()
    store = Store("d", str(tmp_path / "kv"), QUOTA, files, BufferPool(0))
    store.open()
    message = put_of(meta_of(1))
    draft = Draft(message.row)
    store.prepare(draft)
    with pytest.raises(OSError, match="injected"):
        store.publish(draft)
    store.take_back(draft)
    files.stuck = False
    shutil.copytree(tmp_path / "kv", tmp_path / "copy")
    shutil.rmtree(tmp_path / "kv")
    (tmp_path / "copy").rename(tmp_path / "kv")
    assert store.reopen_if_lost() is not None
    publish(store, 2)
    assert (tmp_path / "kv" / "rows" / draft.name).exists()
    store.close()


# --- sweeping ------------------------------------------------------------------------------------------------


def test_a_sweep_removes_stray_files(tmp_path: Path, store: Store) -> None:
    """Rows are known by their keys, pending ones by their names."""
    names = [publish(store, number) for number in range(3)]
    freed = store.sweep({key_of(0)}, {names[1]})
    assert sorted(os.listdir(tmp_path / "rows")) == sorted(names[:2])
    assert freed == -(-row_file.layout(meta_of(2)).file_bytes // 4096) * 4096


def test_evidence_that_cannot_be_removed_is_no_error_and_stays_counted(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that has turned read-only; also where there is too much of it."""
    for number in range(3):
        set_aside(store, publish(store, number))

    def refuse(*args: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        assert store.sweep(set(), set()) == 0
        patch.setattr("erllama_py.tiers.ledger.MOST_ASIDE", 1)
        name = publish_linked(store, tmp_path, 4)
        assert set_aside(store, name)
    assert store.ledger.used == bytes_in(tmp_path)
    assert store.sweep(set(), set()) > 0
    assert os.listdir(tmp_path / "aside") == []


def publish_linked(store: Store, root: Path, number: int) -> str:
    """A file under a row's name, without a call of `unlink`."""
    name = row_file.file_name(key_of(number))
    (root / "rows" / name).write_bytes(b"bad")
    store.ledger.add(name, 4096)
    return name


def test_evidence_of_a_larger_quota_leaves_room_for_rows(tmp_path: Path, store: Store) -> None:
    """A sixteenth of the quota that counts now, whatever it was."""
    for number in range(2):
        name = publish(store, number)
        size = store.ledger.rows[name]
        assert set_aside(store, name)
    assert len(store.ledger.aside) == 2
    store.close()
    smaller = Store("d", str(tmp_path), 16 * size, Files(), BufferPool(0))
    smaller.open()
    assert os.listdir(tmp_path / "aside") == list(smaller.ledger.aside)
    assert len(smaller.ledger.aside) == 1
    assert smaller.ledger.used == bytes_in(tmp_path)
    smaller.close()


def test_evidence_keeps_the_name_of_its_row(tmp_path: Path, store: Store) -> None:
    """The name shows which row it was; and no name is too long."""
    name = publish(store, 1)
    long = "\U0001f40c" * 63  # 252 bytes
    (tmp_path / "rows" / long).write_bytes(b"x")
    assert set_aside(store, name)
    assert set_aside(store, long)
    first, second = sorted(os.listdir(tmp_path / "aside"))
    assert first == f"1-torn-{name}"
    assert second.startswith(f"2-torn-{long[:50]}")


# --- usage ---------------------------------------------------------------------------------------------------


def test_usage_is_not_written_into_a_pipe(tmp_path: Path, store: Store) -> None:
    """It has no reader: to open it would wait for ever."""
    name = publish(store, 1)
    (tmp_path / "rows" / name).unlink()
    os.mkfifo(tmp_path / "rows" / name)
    writer = threading.Thread(target=store.write_usage, args=({name: (1, 2.0)},), daemon=True)
    writer.start()
    writer.join(GUARD_SECONDS)
    assert not writer.is_alive()


@pytest.mark.parametrize("what", ["delete", "sweep", "usage"])
def test_many_files_in_a_row_leave_moments_for_others(store: Store, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Short calls one after the other keep the interpreter from all other threads."""
    names = [publish(store, number) for number in range(4)]
    monkeypatch.setattr("erllama_py.tiers.scan.BETWEEN_BREATHS", 2)
    breaths: list[float] = []
    monkeypatch.setattr("erllama_py.tiers.scan.time.sleep", breaths.append)
    if what == "delete":
        store.delete(names)
    elif what == "usage":
        store.write_usage(dict.fromkeys(names, (1, 2.0)))
    else:
        for name in names[:2]:  # more are not kept
            set_aside(store, name)
        store.sweep(set(), set())
    assert len(breaths) == 2
