"""What was found out once is believed for the very key that it was stored with, and nothing else of it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from erllama_py.engine.llama.remembered import Found, digest, recall, store


def test_an_entry_counts_for_its_own_key(tmp_path: Path) -> None:
    """A newer one takes its place; no temporary file is left."""
    folder = tmp_path / "home" / "probes"
    assert recall(folder, "a", "key") is None
    store(folder, "a", Found("key", "broken"))
    assert recall(folder, "a", "key") == Found("key", "broken")
    assert recall(folder, "a", "other") is None
    store(folder, "a", Found("other"))
    assert recall(folder, "a", "key") is None
    assert [path.name for path in folder.iterdir()] == ["a.json"]
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"key": 1}', b'{"key": "key", "problem": 3}'])
def test_a_torn_or_foreign_entry_counts_as_none(tmp_path: Path, content: bytes) -> None:
    """It is replaced by the next."""
    (tmp_path / "a.json").write_bytes(content)
    assert recall(tmp_path, "a", "key") is None
    store(tmp_path, "a", Found("key"))
    assert recall(tmp_path, "a", "key") == Found("key")


def test_what_is_no_file_is_neither_waited_for_nor_followed(tmp_path: Path) -> None:
    """A pipe, a link, a directory."""
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "link.json").symlink_to("/dev/zero")
    (tmp_path / "folder.json").mkdir()
    for name in ("pipe", "link", "folder"):
        assert recall(tmp_path, name, "key") is None
    store(tmp_path, "folder", Found("key"))
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


def test_a_name_tells_facts_apart() -> None:
    """Also those with the same text in other places, and paths that are no UTF-8."""
    assert len({digest("a", "b"), digest("ab", ""), digest("", "ab"), digest("\udcff"), digest("\udcfe")}) == 5
