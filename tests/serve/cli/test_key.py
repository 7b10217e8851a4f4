"""`erllama key`: a key that the server knows by the entry that is printed with it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from erllama_py.serve.access import hash_key
from erllama_py.serve.cli import main
from erllama_py.serve.config import read_config


def test_the_entry_goes_into_the_file_and_the_key_to_its_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file can be served with it; the key is nowhere in it."""
    assert main(["key", "ada"]) == 0
    entry, aside = capsys.readouterr()
    file = tmp_path / "erllama.toml"
    file.write_text("[server]\nport = 1" + entry)  # its last line may have no end
    (found,) = read_config(file).access.keys
    secret = aside.split(": ")[1].strip()
    assert (found.name, found.hash) == ("ada", hash_key(secret))
    assert secret not in entry


def test_each_key_is_another(capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON, too."""
    keys = set()
    for _ in range(3):
        assert main(["key", "ada", "--json"]) == 0
        made = msgspec.json.decode(capsys.readouterr().out)
        assert made["hash"] == hash_key(made["key"])
        keys.add(made["key"])
    assert len(keys) == 3


def test_a_name_that_no_file_could_hold_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """With what it may be."""
    assert main(["key", 'a"b']) == 2
    printed, aside = capsys.readouterr()
    assert printed == ""
    assert aside.startswith("erllama: name: ")
