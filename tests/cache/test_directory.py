"""A tier's directory that nobody has open: looked at without a change, checked to the last byte, and cleaned."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from helpers.cache import opened
from helpers.filled_directory import IDENTITY, PAYLOAD, TOKENS, file_of, fill, flip, listing

import erllama_py as erllama


def test_looking_shows_rows_and_changes_nothing(tmp_path: Path) -> None:
    """As a runtime lists them; temp and bad files stay where they are."""
    root = tmp_path / "kv"
    keys = fill(root)
    (root / "rows" / "12-3.tmp").write_bytes(b"half")
    flip(file_of(root, keys[0][2]), 5000)
    before = listing(root)
    told: list[tuple[int, int]] = []
    with erllama.CacheDirectory(root) as directory:
        rows = directory.rows(lambda done, total: told.append((done, total)))
        assert {row.key for row in rows} == {key for chat in keys for key in chat}
        assert {(row.start, row.end) for row in rows} == {(0, TOKENS), (TOKENS, 2 * TOKENS), (2 * TOKENS, 3 * TOKENS)}
        assert all(row.tier == str(root) and row.build == "b1" and row.nbytes > PAYLOAD for row in rows)
        assert directory.used_bytes >= sum(row.nbytes for row in rows)
        assert [one.kind for one in directory.problems()] == ["temp"]
        assert [one.kind for one in directory.verify()] == ["temp", "flipped"]
    assert listing(root) == before
    assert told[-1] == (6, 6)


def test_every_way_in_which_a_file_is_wrong_is_named(tmp_path: Path) -> None:
    """By the path below the directory."""
    keys = fill(tmp_path, chats=4)
    flip(file_of(tmp_path, keys[0][0]), 4096)  # the payload
    os.truncate(file_of(tmp_path, keys[1][2]), 5000)
    file_of(tmp_path, keys[1][0]).rename(file_of(tmp_path, "ab" * 32))
    file_of(tmp_path, "cd" * 32).write_bytes(b"no row at all" * 100)
    (tmp_path / "rows" / "notes.txt").write_text("somebody's")
    (tmp_path / "aside" / "1-torn-x.row").write_bytes(b"x")
    (tmp_path / "own.txt").write_text("somebody's")
    (tmp_path / erllama.CacheDirectory.HOLDER).write_text("{}")
    with erllama.CacheDirectory(tmp_path) as directory:
        found = {problem.name: problem.kind for problem in directory.verify()}
    names = {key: f"rows/{key}.row" for chat in keys for key in chat}
    assert found == {
        names[keys[0][0]]: "flipped", names[keys[1][2]]: "torn", f"rows/{'ab' * 32}.row": "renamed",
        f"rows/{'cd' * 32}.row": "foreign", "rows/notes.txt": "unknown", "aside/1-torn-x.row": "aside",
        "own.txt": "unknown", names[keys[1][1]]: "orphan",
    }  # fmt: skip


def test_a_row_is_removed_with_all_that_extends_it(tmp_path: Path) -> None:
    """Keys that are not there are no error; what is left is sound, and a runtime opens it."""
    keys = fill(tmp_path)
    with erllama.CacheDirectory(tmp_path) as directory:
        removed = directory.remove([keys[0][1], "00" * 32, keys[0][1]])
        assert (removed.rows, removed.left) == (2, 0)
        assert removed.nbytes >= 2 * PAYLOAD
        assert {row.key for row in directory.rows()} == {keys[0][0], *keys[1]}
        assert directory.verify() == []
        assert directory.remove([]) == erllama.RowsRemoved(rows=0, nbytes=0, left=0)

    async def found() -> int:
        async with erllama.Runtime(tiers={"d": erllama.DiskTier(str(tmp_path))}) as runtime:
            await opened(runtime, "d")
            return (await runtime.cache.find(IDENTITY, list(range(3 * TOKENS)))).tokens

    assert asyncio.run(found()) == TOKENS


def test_gc_takes_what_is_of_no_use_and_nothing_else(tmp_path: Path) -> None:
    """Torn rows, orphans, files set aside, temp files; what no tier has written stays."""
    keys = fill(tmp_path)
    os.truncate(file_of(tmp_path, keys[0][0]), 10)  # so the two that extend it are orphans
    (tmp_path / "rows" / "12-3.tmp").write_bytes(b"half")
    (tmp_path / "rows" / "notes.txt").write_text("somebody's")
    (tmp_path / "aside" / "1-torn-x.row").write_bytes(b"x")
    file_of(tmp_path, "cd" * 32).write_bytes(b"no row at all" * 100)
    with erllama.CacheDirectory(tmp_path) as directory:
        removed = directory.gc()
        assert (removed.rows, removed.left) == (2, 0)
        assert {problem.kind for problem in directory.verify()} == {"foreign", "unknown"}
        assert {row.key for row in directory.rows()} == set(keys[1])
        assert directory.gc() == erllama.RowsRemoved(rows=0, nbytes=0, left=0)
    assert (tmp_path / "rows" / "notes.txt").read_text() == "somebody's"


def test_gc_keeps_to_a_quota_leaves_first(tmp_path: Path) -> None:
    """Chains stay whole, and all of the files fit."""
    fill(tmp_path, chats=60, rows=3)
    quota = 1 << 20
    with erllama.CacheDirectory(tmp_path) as directory:
        assert directory.used_bytes > quota
        removed = directory.gc(quota)
        assert removed.rows > 0
        assert directory.used_bytes <= quota
        assert directory.verify() == []
        with pytest.raises(erllama.TierFailed, match="a quota is 1048576 bytes or more"):
            directory.gc(1000)


def test_it_is_locked_while_it_is_open(tmp_path: Path) -> None:
    """For runtimes and for another look; the error names the process. It is free after that, and closed for good."""
    fill(tmp_path)
    with erllama.CacheDirectory(tmp_path) as directory:
        with pytest.raises(erllama.TierLocked) as caught:
            erllama.CacheDirectory(tmp_path)
        assert caught.value.holder == os.getpid()
        assert repr(directory) == f"<CacheDirectory {str(tmp_path)!r}, open>"
    with pytest.raises(erllama.TierFailed, match="the directory was closed"):
        directory.rows()
    directory.close()
    erllama.CacheDirectory(tmp_path).close()
    assert "closed" in repr(directory)


@pytest.mark.parametrize("made", ["nothing", "empty", "somebody's", "a file"])
def test_what_is_not_a_tiers_is_refused_and_left_as_it_is(made: str, tmp_path: Path) -> None:
    """No directory becomes a tier's by being looked at."""
    root = tmp_path / "kv"
    if made == "a file":
        root.write_text("x")
    elif made != "nothing":
        root.mkdir()
        if made == "somebody's":
            (root / "rows").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(erllama.TierFailed):
        erllama.CacheDirectory(root)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_is_no_path_is_refused(path: str) -> None:
    """By its name."""
    with pytest.raises(erllama.InvalidOption, match="root"):
        erllama.CacheDirectory(path)


def test_keys_are_checked(tmp_path: Path) -> None:
    """Before anything is removed."""
    keys = fill(tmp_path)
    with erllama.CacheDirectory(tmp_path) as directory:
        with pytest.raises(erllama.RequestError, match="a key is 32 bytes or 64 hex digits"):
            directory.remove([keys[0][0], "xyz"])
        assert len(directory.rows()) == 6


def test_a_file_that_cannot_be_removed_stays_with_all_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is counted; the rows that are there are listed as before."""
    keys = fill(tmp_path)
    real = os.unlink

    def unlink(path: object, **options: object) -> None:
        if str(path).startswith(keys[0][1]):
            raise PermissionError(1, "Operation not permitted")
        real(path, **options)  # type: ignore[arg-type]  # as it was called

    with erllama.CacheDirectory(tmp_path) as directory:
        monkeypatch.setattr(os, "unlink", unlink)
        removed = directory.remove([keys[0][0]])
        assert (removed.rows, removed.left) == (1, 2)
        assert {row.key for row in directory.rows()} == {keys[0][0], keys[0][1], *keys[1]}
