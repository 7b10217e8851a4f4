"""What is no GGUF file is called by its name, and the error says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine.llama.gguf_header import check_file
from erllama_py.engine.llama.not_gguf import HEAD_BYTES, at_path, what_it_is
from erllama_py.errors import ModelFileNotFound, NotAGGUF

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1048576\n"
SAFETENSORS = (100).to_bytes(8, "little") + b'{"__metadata__":{"format":"pt"}}'


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (LFS, "Git LFS pointer, not the file of 1,048,576 bytes"), (LFS[:60], "Git LFS pointer, not the file that"),
        (SAFETENSORS, "a safetensors file: llama.cpp's convert_hf_to_gguf.py"),
        (b"PK\x03\x04..", "a PyTorch or zip file"),
        (b"tjgg....", "before GGUF"), (b"<!DOCTYPE html>", "a web page"), (b"<html>", "a web page"),
        (b"\x1f\x8b\x08", "compressed with gzip"), (b'{"error": "no"}', "it is JSON"), (b"", "it is empty"),
        (b"\0" * 64, "begins with zeros"), (b"FUGG\0\0", "another byte order"), (b"hello world", "magic bytes"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_is_told_by_its_beginning(head: bytes, said: str, tmp_path: Path) -> None:
    """The error of the load has it."""
    assert said in what_it_is(head)
    path = tmp_path / "model.gguf"
    path.write_bytes(head)
    with pytest.raises(NotAGGUF, match=r"model\.gguf: it ") as caught:
        check_file(str(path))
    assert said in caught.value.problem


@given(st.binary(max_size=HEAD_BYTES))
def test_any_beginning_has_an_answer(head: bytes) -> None:
    """In one line."""
    said = what_it_is(head)
    assert said.startswith("it ")
    assert "\n" not in said


def test_a_directory_names_the_files_in_it(tmp_path: Path) -> None:
    """Where a hub's tools leave a model, the path of its folder is what they print."""
    (tmp_path / "a.gguf").touch()
    with pytest.raises(ModelFileNotFound, match=r"it is a directory, and has a\.gguf: give the GGUF file itself"):
        check_file(str(tmp_path))


def test_an_address_is_no_path() -> None:
    """It was made absolute before, as the path that it looked like."""
    assert "this is an address; a path of a GGUF file is expected, or a model of the Hugging Face hub" in at_path(
        "/srv/https:/hub.example/model.gguf"
    )
    assert "this is an address; a path of a GGUF file is expected, or a model of the Hugging Face hub" in at_path(
        "/srv/hf:/org/model.gguf"
    )
    assert "this is an address; a path of a GGUF file is expected, or a model of the Hugging Face hub" in at_path(
        "/srv/hf.co/org/model:Q4_K_M"
    )
    assert "not an address: '/models/a.gguf'" in at_path("/srv/file:/models/a.gguf")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("org/model-GGUF", "there is no directory {0}/org; a path of a GGUF file is expected, or a model"),
        ("llama3.2:1b", "as hf:owner/repo:Q4_K_M"), ("no/such/m.gguf", "there is no directory {0}/no"),
        ("smol.Q4_1.gguf", "there is Smol.Q4_1.gguf"), ("Smol.Q4_0.gguf", "there is Smol.Q4_1.gguf"),
        (" m.gguf", "a blank or a quote"), ('"m.gguf"', "a blank or a quote"), ("m.gguf\n", "a blank or a quote"),
        ("$HOME/m.gguf", "os.path.expandvars"), ("%APPDATA%/m.gguf", "os.path.expandvars"), ("*.gguf", "glob.glob"),
        ("other.gguf", "No such file or directory"),
    ],
)  # fmt: skip
def test_a_path_at_which_there_is_nothing_says_what_may_have_been_meant(tmp_path: Path, name: str, said: str) -> None:
    """Names of hubs and of Ollama, and the usual slips."""
    (tmp_path / "Smol.Q4_1.gguf").touch()
    with pytest.raises(ModelFileNotFound) as caught:
        check_file(f"{tmp_path}/{name}")
    assert said.format(tmp_path) in caught.value.problem
    assert "\n" not in caught.value.problem


def test_a_link_that_leads_nowhere_is_told_by_the_system(tmp_path: Path) -> None:
    """It is there."""
    (tmp_path / "m.gguf").symlink_to(tmp_path / "gone.gguf")
    assert at_path(str(tmp_path / "m.gguf")) == ""
