"""The note beside a directory's lock: written by the server that holds it, and believed only while that does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.filled_directory import fill

import erllama_py as erllama
from erllama_py.serve.running.holding import Holder, notes, read_note


def test_a_note_says_who_holds_a_directory_while_it_does(tmp_path: Path) -> None:
    """It is readable by its user alone, removed at the end, and no part of the rows."""
    fill(tmp_path)
    tiers: dict[str, erllama.TierSpec] = {"cache": erllama.DiskTier(str(tmp_path))}
    with notes() as held:
        assert read_note(tmp_path) is None
        held.write("http://127.0.0.1:1", tiers)
        assert read_note(tmp_path) == Holder(pid=os.getpid(), server="http://127.0.0.1:1", tier="cache")
        path = tmp_path / erllama.CacheDirectory.HOLDER
        assert path.stat().st_mode & 0o777 == 0o600
        with erllama.CacheDirectory(tmp_path) as directory:
            assert directory.problems() == []
    assert not path.exists()


def test_a_tier_that_comes_later_gets_a_note_of_its_own(tmp_path: Path) -> None:
    """Those that were there keep theirs, whatever lies there by then; all go at the end."""
    first, second = tmp_path / "first", tmp_path / "second"
    for root in (first, second):
        root.mkdir()
    tiers: dict[str, erllama.TierSpec] = {"a": erllama.DiskTier(str(first))}
    with notes() as held:
        held.write("http://127.0.0.1:1", tiers)
        before = (first / erllama.CacheDirectory.HOLDER).stat().st_ino
        held.write("http://127.0.0.1:1", {**tiers, "b": erllama.DiskTier(str(second))})
        assert read_note(second) == Holder(pid=os.getpid(), server="http://127.0.0.1:1", tier="b")
        assert (first / erllama.CacheDirectory.HOLDER).stat().st_ino == before
    assert read_note(first) is read_note(second) is None


@pytest.mark.parametrize("written", [b"", b"{}", b"[1]", b"\xff", b'{"pid": "x", "server": "", "tier": ""}'])
def test_what_is_no_note_says_nothing(written: bytes, tmp_path: Path) -> None:
    """Nor does one that is not there, or a link."""
    path = tmp_path / erllama.CacheDirectory.HOLDER
    path.write_bytes(written)
    assert read_note(tmp_path) is None
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    assert read_note(tmp_path) is None


def test_a_directory_that_cannot_be_written_has_no_note(tmp_path: Path) -> None:
    """And nothing fails; the note of another process is left to it."""
    with notes() as held:
        held.write("http://127.0.0.1:1", {"cache": erllama.DiskTier(str(tmp_path / "missing"))})
    assert not (tmp_path / "missing").exists()
    path = tmp_path / erllama.CacheDirectory.HOLDER
    with notes() as held:
        held.write("http://127.0.0.1:1", {"cache": erllama.DiskTier(str(tmp_path))})
        path.write_bytes(b'{"pid": 1, "server": "http://127.0.0.1:2", "tier": "cache"}')
    assert path.exists()


def test_the_note_of_another_user_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could name any server, and be told the key of whoever looks."""
    path, mine = tmp_path / erllama.CacheDirectory.HOLDER, os.geteuid()
    path.write_bytes(b'{"pid": 1, "server": "http://127.0.0.1:2", "tier": "cache"}')
    assert read_note(tmp_path) is not None
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    assert read_note(tmp_path) is None
