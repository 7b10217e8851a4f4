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
    with notes(tiers) as held:
        assert read_note(tmp_path) is None
        held.write("http://127.0.0.1:1")
        assert read_note(tmp_path) == Holder(pid=os.getpid(), server="http://127.0.0.1:1", tier="cache")
        path = tmp_path / erllama.CacheDirectory.HOLDER
        assert path.stat().st_mode & 0o777 == 0o600
        with erllama.CacheDirectory(tmp_path) as directory:
            assert directory.problems() == []
    assert not path.exists()


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
    with notes({"cache": erllama.DiskTier(str(tmp_path / "missing"))}) as held:
        held.write("http://127.0.0.1:1")
    assert not (tmp_path / "missing").exists()
    path = tmp_path / erllama.CacheDirectory.HOLDER
    with notes({"cache": erllama.DiskTier(str(tmp_path))}):
        path.write_bytes(b'{"pid": 1, "server": "http://127.0.0.1:2", "tier": "cache"}')
    assert path.exists()


def test_the_note_of_another_user_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could name any server, and be told the key of whoever looks."""
    path, mine = tmp_path / erllama.CacheDirectory.HOLDER, os.geteuid()
    path.write_bytes(b'{"pid": 1, "server": "http://127.0.0.1:2", "tier": "cache"}')
    assert read_note(tmp_path) is not None
    monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
    assert read_note(tmp_path) is None
