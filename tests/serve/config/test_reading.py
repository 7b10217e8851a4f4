"""The text of a configuration file: what is no file, no text or no TOML is refused with its place."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.serve.config.errors import ConfigError
from erllama_py.serve.config.reading import MOST_BYTES, parse_tables, read_tables


@pytest.mark.parametrize(
    ("data", "place", "problem"),
    [
        (b'a = 1\nb = "x\n', "line 2, column 7", "no TOML: illegal character"),
        (b"a = 1\na = 2", "at its end", "no TOML: cannot overwrite a value"),
        (b"[models\n", "line 1, column 8", "no TOML: expected ']'"),
        (b"a = ", "at its end", "no TOML: invalid value"),
        (b"a = 1\n# \xe9\n", "line 2", "the file is not UTF-8: byte 0xe9"),
        (b"a = 2026-02-30", "line 1, column 5", "no TOML: "),
        (b"a = " + b"[" * 100_000, "", "nested too deeply"),
        (b"a = " + b"9" * 10_000, "", "no TOML: "),
    ],
    ids=["string", "twice", "bracket", "end", "latin-1", "date", "nested", "digits"],
)
def test_what_is_no_toml_is_refused_with_its_place(data: bytes, place: str, problem: str) -> None:
    """The line and the column that the parser has found, or what there is of them."""
    with pytest.raises(ConfigError) as caught:
        parse_tables(data, "erllama.toml")
    assert caught.value.place == place
    assert problem in caught.value.problem
    assert str(caught.value).startswith("erllama.toml: ")
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=60))
def test_no_bytes_are_another_error(data: bytes) -> None:
    """Whatever a file holds, it is tables or a `ConfigError`."""
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_tables(data, "f"), dict)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    """As editors of Windows write it."""
    file = tmp_path / "erllama.toml"
    file.write_bytes(b"\xef\xbb\xbfa = 1\r\n")
    assert read_tables(file) == {"a": 1}


def test_what_is_no_file_is_refused_by_what_it_is(tmp_path: Path) -> None:
    """A missing file, a directory, a pipe, which must not be waited for, a model, and a name that none can have."""
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "model.gguf").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    for name, problem in {
        "missing.toml": "it cannot be read: No such file or directory", ".": "it is a directory",
        "pipe": "it is no regular file", "model.gguf": "more than a configuration has", "a\0b": "it cannot be read",
    }.items():  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            read_tables(tmp_path / name)
        assert problem in caught.value.problem
