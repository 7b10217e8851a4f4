"""The files that a fingerprint is of: the parts of a split model, and files that change while they are loaded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.fingerprints import (
    CONTENT,
    DIGEST,
    OTHER,
    Recorder,
    config,
    entries,
    facts,
    fingerprint_file,
    grown,
    lie,
    model_file,
    recall,
    replaced,
    rewritten,
)
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine import fingerprint
from erllama_py.engine.fingerprint import SPLIT_TAG, check_unchanged, combine, identify
from erllama_py.errors import FingerprintMismatch, ModelFileNotFound, ModelLoadError

# --- models in several files -------------------------------------------------------------------------


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Three files; the first is the one of `model`."""
    paths = [tmp_path / f"tiny-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    for number, path in enumerate(paths):
        path.write_bytes(CONTENT[number:])
    return paths


def test_a_split_model_has_the_sha256_of_its_files_hashes(parts: list[Path], memory: Path) -> None:
    """In the order of its parts, after a tag; computed here by hand. Progress counts all of them."""
    progress = Recorder()
    digests = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in parts)
    found = fingerprint_file(config(parts[0]), facts(*parts), memory, progress)
    assert found == hashlib.sha256(SPLIT_TAG + digests).hexdigest()
    size = len(CONTENT)
    assert progress.heard == [(done, 3 * size - 3) for done in (size, 2 * size - 1, 3 * size - 3)]


@pytest.mark.parametrize("mode", ["safe", "gguf_chunked"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_change_in_any_part_is_seen(parts: list[Path], memory: Path, mode: str, place: int) -> None:
    """In the beginning of each file in the mode that reads only that; with what is remembered of the others."""
    wanted = config(parts[0], fingerprint_mode=mode)
    before = fingerprint_file(wanted, facts(*parts), memory, Recorder())
    parts[place].write_bytes(b"x" + parts[place].read_bytes()[1:])
    os.utime(parts[place], ns=(1, 1))
    assert fingerprint_file(wanted, facts(*parts), memory, Recorder()) != before


hashes = st.lists(st.binary(min_size=32, max_size=32).map(bytes.hex), min_size=1, max_size=4)


@given(hashes, hashes)
def test_two_lists_of_files_never_have_one_fingerprint(one: list[str], other: list[str]) -> None:
    """Their number and order count; a single file keeps its own."""
    assert (combine(one) == combine(other)) == (one == other)
    assert combine(one[:1]) == one[0]


def test_each_part_is_remembered(parts: list[Path], memory: Path) -> None:
    """Only the one that was touched is read again; what is remembered of a part is no model's fingerprint."""
    before = fingerprint_file(config(parts[0]), facts(*parts), memory, Recorder())
    assert recall(memory, identify(model_file(parts[0]), "safe")) == DIGEST
    for path in parts[:2]:
        lie(memory, path)
    digests = [OTHER, OTHER, hashlib.sha256(parts[2].read_bytes()).hexdigest()]
    assert fingerprint_file(config(parts[0]), facts(*parts), memory, Recorder()) == combine(digests)
    rewritten(parts[1])
    digests[1] = DIGEST
    assert fingerprint_file(config(parts[0]), facts(*parts), memory, Recorder()) == combine(digests)
    # What is given is confirmed by a memory, or by the files.
    known = config(parts[0], fingerprint=combine(digests))
    assert fingerprint_file(known, facts(*parts), memory, Recorder()) == combine(digests)
    with pytest.raises(FingerprintMismatch) as caught:
        fingerprint_file(config(parts[0], fingerprint=before), facts(*parts), memory, Recorder())
    assert caught.value.found == combine([DIGEST, DIGEST, digests[2]])


# --- files that change -------------------------------------------------------------------------------


def test_a_file_that_changes_while_it_is_read_has_no_fingerprint(
    model: Path, memory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was hashed was neither the old file nor the new one: the load fails, and nothing is remembered."""

    def meddle(done: int, total: int) -> bool:
        os.utime(model, ns=(done, done))
        return True

    monkeypatch.setattr(fingerprint, "BLOCK", 1000)
    with pytest.raises(ModelLoadError, match="changed while it was being loaded"):
        fingerprint_file(config(model), facts(model), memory, meddle)
    assert entries(memory) == []


@pytest.mark.parametrize("change", [rewritten, replaced, grown])
def test_a_file_that_changes_before_it_is_read_has_no_fingerprint(
    model: Path, memory: Path, change: Callable[[Path], None]
) -> None:
    """Its header, which goes into the keys as well, was another one's."""
    inspected = facts(model)
    change(model)
    with pytest.raises(ModelLoadError, match="changed while it was being loaded"):
        fingerprint_file(config(model), inspected, memory, Recorder())
    assert entries(memory) == []


@pytest.mark.parametrize("change", [rewritten, replaced, grown])
def test_each_file_must_be_unchanged(model: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    """By mtime, inode or size; a file that is gone is not found."""
    other = tmp_path / "other.gguf"
    other.write_bytes(CONTENT)
    files = facts(other, model).files
    check_unchanged(files)
    change(model)
    with pytest.raises(ModelLoadError) as caught:
        check_unchanged(files)
    assert caught.value.model_path == str(model)
    model.unlink()
    with pytest.raises(ModelFileNotFound):
        check_unchanged(files)
