"""`erllama cache`: on a directory that nobody has open, and on one that a server holds."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.filled_directory import file_of, fill, flip, listing
from helpers.threaded_server import served_here

import erllama_py as erllama
from erllama_py.serve.cli import main
from erllama_py.serve.cli.cached_rows import Chain, Group
from erllama_py.serve.running.holding import Holder

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ERLLAMA_SERVER", "ERLLAMA_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[tuple[str, str, list[list[str]]]]:
    """A directory that a server holds, its address, and the keys there; the server has left its note."""
    root = tmp_path / "kv"
    keys = fill(root)
    with served_here(tmp_path, tiers={"kept": {"kind": "disk", "root": str(root)}}) as url:
        note = Holder(pid=os.getpid(), server=url, tier="kept")
        (root / erllama.CacheDirectory.HOLDER).write_bytes(msgspec.json.encode(note))
        yield str(root), url, keys


def told(capsys: Capture, *line: str, code: int = 0, kind: Any = Any) -> Any:
    """What a command prints as JSON."""
    assert main(["cache", *line, "--json"]) == code
    return msgspec.json.decode(capsys.readouterr().out, type=kind)


def test_ls_sums_up_by_model(tmp_path: Path, capsys: Capture) -> None:
    """As a table and as JSON; in a pipe no line is cut."""
    keys = fill(tmp_path)
    groups = told(capsys, "ls", str(tmp_path), kind=list[Group])
    assert {(one.fingerprint, one.rows, one.tokens) for one in groups} == {
        ("66" * 32, 3, 30), ("65" * 32, 3, 30)
    }  # fmt: skip
    assert main(["cache", "ls", str(tmp_path)]) == 0
    printed, aside = capsys.readouterr()
    assert printed.splitlines()[0].split("  ")[0] == "model"
    assert "6666666666666666" in printed
    assert "6 rows" in aside
    assert main(["cache", "ls", str(tmp_path), "--rows"]) == 0
    printed = capsys.readouterr().out
    assert all(key[:16] in printed for chat in keys for key in chat)
    rows = told(capsys, "ls", str(tmp_path), "--rows", kind=list[erllama.RowInfo])
    assert len(rows) == 6


def test_show_follows_a_chain(tmp_path: Path, capsys: Capture) -> None:
    """By the beginning of a key."""
    first, second, third = fill(tmp_path)[0]
    chain = told(capsys, "show", str(tmp_path), second[:12], kind=Chain)
    assert [one.key for one in (*chain.before, chain.row, *chain.children)] == [first, second, third]
    assert main(["cache", "show", str(tmp_path), second[:12]]) == 0
    printed = capsys.readouterr().out
    for part in (second, "10 to 20: 10 tokens", "It extends:", first[:16], "These extend it:", third[:16]):
        assert part in printed
    file_of(tmp_path, first).unlink()
    assert main(["cache", "show", str(tmp_path), third[:12]]) == 0
    assert "no prompt can find it" in capsys.readouterr().out


def test_verify_ends_with_1_where_anything_is_wrong(tmp_path: Path, capsys: Capture) -> None:
    """Nothing is changed; a temp file alone is nothing wrong, and told."""
    keys = fill(tmp_path)
    assert main(["cache", "verify", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: every row is whole\n"
    (tmp_path / "rows" / "12-3.tmp").write_bytes(b"half")
    assert main(["cache", "verify", str(tmp_path)]) == 0
    assert "temp: rows/12-3.tmp: its writer was killed" in capsys.readouterr().out
    flip(file_of(tmp_path, keys[0][2]), 5000)
    (tmp_path / "rows" / "a\x1b[2Jb").write_bytes(b"x")
    before = listing(tmp_path)
    assert main(["cache", "verify", str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert f"flipped: rows/{keys[0][2]}.row: the checksum of the payload does not hold" in printed
    assert "unknown: rows/a\ufffd[2Jb" in printed
    assert printed.endswith(": 2 problems\n")
    assert {one["kind"] for one in told(capsys, "verify", str(tmp_path), code=1)} == {"flipped", "temp", "unknown"}
    assert listing(tmp_path) == before


def test_a_row_that_is_torn_is_told_by_each_command(tmp_path: Path, capsys: Capture) -> None:
    """It is in no list; who asks for it hears why, and `gc` takes it with what it leaves behind."""
    first, second, third = fill(tmp_path)[0]
    torn = file_of(tmp_path, second)
    torn.write_bytes(torn.read_bytes()[:700])
    assert len(told(capsys, "ls", str(tmp_path), "--rows")) == 5
    for more in ([], ["--rows"]):
        assert main(["cache", "ls", str(tmp_path), *more]) == 0
        assert "2 files no prompt can use: `erllama cache verify` says why" in capsys.readouterr().err
    for line in (["show", str(tmp_path), second[:9]], ["rm", str(tmp_path), second[:9], "--yes"]):
        assert main(["cache", *line]) == 2
        assert f"rows/{second}.row is no row: torn: 700 bytes instead of" in capsys.readouterr().err
    assert main(["cache", "show", str(tmp_path), third[:9]]) == 0
    assert "no prompt can find it" in capsys.readouterr().out
    assert told(capsys, "gc", str(tmp_path))["rows"] == 1
    assert not torn.exists()
    assert main(["cache", "ls", str(tmp_path)]) == 0
    assert "no prompt can use" not in capsys.readouterr().err
    assert main(["cache", "show", str(tmp_path), first[:9]]) == 0


def test_rm_takes_what_is_named(tmp_path: Path, capsys: Capture) -> None:
    """Keys with what extends them, a model, an age, all."""
    keys = fill(tmp_path, chats=3)
    assert told(capsys, "rm", str(tmp_path), keys[0][1][:10], "--yes")["rows"] == 2
    assert told(capsys, "rm", str(tmp_path), "--older-than", "1h", "--yes")["rows"] == 0
    assert told(capsys, "rm", str(tmp_path), "--model", "6565", "--older-than", "0s", "--yes")["rows"] == 3
    assert main(["cache", "rm", str(tmp_path), "--all", "--yes"]) == 0
    assert capsys.readouterr().out.startswith("removed: 4 rows, ")
    with erllama.CacheDirectory(tmp_path) as directory:
        assert directory.rows() == []


@pytest.mark.parametrize(("answer", "left"), [("y\n", 3), ("n\n", 6), ("", 6)])
def test_rm_asks_on_a_terminal(
    answer: str, left: int, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With how many rows and bytes it would be; anything but yes is no, and that is no error."""
    keys = fill(tmp_path)
    typed = io.StringIO(answer)
    monkeypatch.setattr(typed, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", typed)
    assert main(["cache", "rm", str(tmp_path), keys[0][0]]) == 0
    complaints = capsys.readouterr().err
    assert "Remove 3 rows, 24 KiB, from" in complaints
    assert ("nothing was removed" in complaints) == (left == 6)
    with erllama.CacheDirectory(tmp_path) as directory:
        assert len(directory.rows()) == left


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("rm DIR", "say which rows"),
        ("rm DIR --all --model x", "--all, alone"),
        ("rm DIR --all", "there is no terminal to ask on: --yes does it"),
        ("rm DIR 9999 --yes", "there is no row 9999"),
        ("rm DIR xyz --yes", "is no key"),
        ("rm DIR --model no --yes", "there are no rows of 'no'"),
        ("rm DIR --older-than soon --yes", "is no age"),
        ("gc DIR --quota much", "is no size"),
        ("show DIR 12", "is no key"),
        ("ls", "name the directory of a tier, or a --server"),
    ],
)
def test_a_wrong_command_line_removes_nothing(line: str, said: str, tmp_path: Path, capsys: Capture) -> None:
    """It is one line, with the exit code 2."""
    fill(tmp_path)
    before = listing(tmp_path)
    assert main(["cache", *line.replace("DIR", str(tmp_path)).split()]) == 2
    printed, complaints = capsys.readouterr()
    assert (printed, complaints.count("\n")) == ("", 1)
    assert said in complaints
    assert listing(tmp_path) == before


@pytest.mark.parametrize("command", ["ls", "verify", "gc", "rm --all --yes"])
def test_a_directory_without_the_marker_is_refused(command: str, tmp_path: Path, capsys: Capture) -> None:
    """Whatever looks like rows in it is somebody else's."""
    fill(tmp_path)
    (tmp_path / "erllama-tier.txt").unlink()
    before = listing(tmp_path)
    name, *more = command.split()
    assert main(["cache", name, str(tmp_path), *more]) == 1
    assert "so it is not a tier's" in capsys.readouterr().err
    assert listing(tmp_path) == before


def test_gc_keeps_to_a_quota(tmp_path: Path, capsys: Capture) -> None:
    """And takes temp files."""
    fill(tmp_path, chats=60)
    (tmp_path / "rows" / "12-3.tmp").write_bytes(b"half")
    assert told(capsys, "gc", str(tmp_path), "--quota", "1MiB")["rows"] > 0
    assert told(capsys, "gc", str(tmp_path), "--quota", "1MiB") == {"rows": 0, "nbytes": 0, "left": 0}
    assert not (tmp_path / "rows" / "12-3.tmp").exists()


def test_a_directory_that_a_server_holds_is_reached_through_it(
    held: tuple[str, str, list[list[str]]], capsys: Capture
) -> None:
    """All commands, by the note beside the lock."""
    root, url, keys = held
    rows = told(capsys, "ls", root, "--rows", kind=list[erllama.RowInfo])
    assert {(row.key, row.tier) for row in rows} == {(key, "kept") for chat in keys for key in chat}
    assert told(capsys, "show", root, keys[0][1][:12], kind=Chain).row.key == keys[0][1]
    flip(file_of(Path(root), keys[1][2]), 5000)
    assert main(["cache", "verify", root]) == 1
    printed, aside = capsys.readouterr()
    assert f"flipped: rows/{keys[1][2]}.row: the row is bad: the checksum" in printed
    assert f"is held by the server at {url}" in aside
    assert told(capsys, "rm", root, keys[0][0][:12], "--yes")["rows"] == 3
    assert told(capsys, "gc", root)["nbytes"] > 0
    assert main(["cache", "gc", root, "--quota", "1GiB"]) == 2
    assert "within the quota of its configuration" in capsys.readouterr().err
    assert len(told(capsys, "ls", root, "--rows")) == 2


def test_a_server_may_be_named_in_place_of_a_directory(
    held: tuple[str, str, list[list[str]]], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its only tier with files is meant, or the one that is named."""
    _, url, _ = held
    assert len(told(capsys, "ls", "--server", url, "--rows")) == 6
    assert told(capsys, "ls", "--server", url, "--tier", "ram") == []
    monkeypatch.setenv("ERLLAMA_SERVER", url)
    assert len(told(capsys, "ls", "--rows")) == 6
    assert main(["cache", "ls", "--tier", "other"]) == 2
    assert "the server has no 'other'; it has" in capsys.readouterr().err


def test_rows_of_a_server_are_named_without_a_directory(
    held: tuple[str, str, list[list[str]]], tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the first word is a key, unless a directory is called so."""
    _, url, keys = held
    chain = told(capsys, "show", keys[0][0], "--server", url, kind=Chain)
    assert chain.row.key == keys[0][0]
    assert main(["cache", "show", keys[0][0]]) == 2
    assert "say which row" in capsys.readouterr().err
    monkeypatch.setenv("ERLLAMA_SERVER", url)
    assert told(capsys, "rm", keys[0][-1], "--yes")["rows"] == 1
    monkeypatch.chdir(tmp_path)
    (tmp_path / "feed").mkdir()
    assert main(["cache", "rm", "feed", "--all", "--yes"]) == 1
    assert "is not a tier's" in capsys.readouterr().err
    assert told(capsys, "rm", "--all", "--yes")["rows"] == 5


@pytest.mark.parametrize("note", [None, b"{}", b'{"pid": 1, "server": "http://127.0.0.1:1", "tier": "kept"}'])
def test_a_holder_that_says_no_address_has_to_be_named(note: bytes | None, tmp_path: Path, capsys: Capture) -> None:
    """The note of a server that was killed is not believed."""
    fill(tmp_path)
    if note is not None:
        (tmp_path / erllama.CacheDirectory.HOLDER).write_bytes(note)
    with erllama.CacheDirectory(tmp_path):
        assert main(["cache", "ls", str(tmp_path)]) == 1
        said = f"open in the process {os.getpid()}, which says no address: name the server by --server"
        assert said in capsys.readouterr().err
