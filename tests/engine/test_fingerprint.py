"""Fingerprints: what each mode hashes, what is remembered and when it is believed, how a load stops them."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
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
    store,
)
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.engine import fingerprint
from erllama_py.engine.backend import LoadCancelled, ModelFile
from erllama_py.engine.fingerprint import (
    CHUNKED_TAG,
    FileState,
    HashPlan,
    Remembered,
    identify,
    plan_hash,
    store_path,
    usable,
)
from erllama_py.errors import FingerprintMismatch, ModelFileNotFound
from erllama_py.options.model import parse_model_config


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 1000 bytes, so that a small file has many."""
    monkeypatch.setattr(fingerprint, "BLOCK", 1000)


# --- what is hashed ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_blocks")
def test_safe_is_the_sha256_of_the_whole_file(model: Path, memory: Path) -> None:
    """The number that other tools print for the file; progress ends at the file's size."""
    progress = Recorder()
    assert fingerprint_file(config(model), facts(model), memory, progress) == DIGEST
    size = len(CONTENT)
    assert progress.heard == [(min(done, size), size) for done in range(1000, size + 1000, 1000)]


def test_chunked_is_the_sha256_of_tag_size_and_the_first_bytes(model: Path, memory: Path) -> None:
    """Computed here by hand; progress counts only what is read."""
    progress = Recorder()
    found = fingerprint_file(config(model, fingerprint_mode="gguf_chunked"), facts(model), memory, progress)
    size = len(CONTENT).to_bytes(8, "little")
    assert found == hashlib.sha256(CHUNKED_TAG + size + CONTENT[:150]).hexdigest()
    assert progress.heard == [(150, 150)]


def test_chunked_sees_the_size_and_the_head_and_not_the_tail(model: Path, memory: Path) -> None:
    """What the mode promises, and what it does not."""

    def found(content: bytes) -> str:
        model.write_bytes(content)
        chunked = config(model, fingerprint_mode="gguf_chunked", remember_fingerprint=False)
        return fingerprint_file(chunked, facts(model), memory, Recorder())

    base = found(CONTENT)
    assert found(CONTENT + b"\0") != base
    assert found(b"x" + CONTENT[1:]) != base
    assert found(CONTENT[:-1] + b"x") == base


def test_fast_unsafe_is_what_was_given_and_reads_nothing(model: Path, memory: Path) -> None:
    """Nor is anything remembered."""
    trusted = config(model, fingerprint_mode="fast_unsafe", fingerprint=OTHER)
    progress = Recorder()
    assert fingerprint_file(trusted, facts(model), memory, progress) == OTHER
    assert progress.heard == []
    assert not memory.exists()


def test_a_backend_without_a_file_has_one_too(memory: Path) -> None:
    """Its own, or the one that was given."""
    stub = parse_model_config({"backend": "stub"})
    assert fingerprint_file(stub, facts(), memory, Recorder()) == hashlib.sha256(b"stub").hexdigest()
    given_one = parse_model_config({"backend": "stub", "fingerprint": OTHER})
    assert fingerprint_file(given_one, facts(), memory, Recorder()) == OTHER


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_no_plan_reads_past_the_end(size: int, metadata_size: int, first_tensor_size: int) -> None:
    """A header that lies about sizes costs no more than the file has."""
    file = ModelFile(
        path="", size=size, mtime=0, inode=0, metadata_size=metadata_size, first_tensor_size=first_tensor_size
    )
    assert plan_hash("safe", file) == HashPlan(b"", size)
    chunked = plan_hash("gguf_chunked", file)
    assert chunked.length == min(size, metadata_size + first_tensor_size)


@given(st.integers(0, 1 << 50), st.integers(0, 1 << 50))
def test_files_of_different_sizes_never_share_a_chunked_prefix(one: int, other: int) -> None:
    """The prefixes have one length, so that no size runs into the bytes after it."""
    file = ModelFile(path="", size=0, mtime=0, inode=0, metadata_size=0, first_tensor_size=0)
    files = [msgspec.structs.replace(file, size=size) for size in (one, other)]
    prefixes = [plan_hash("gguf_chunked", file).prefix for file in files]
    assert (prefixes[0] == prefixes[1]) == (one == other)
    assert {len(prefix) for prefix in prefixes} == {len(CHUNKED_TAG) + 8}


# --- comparing with what was given -------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["safe", "gguf_chunked"])
def test_a_wrong_fingerprint_is_a_mismatch(model: Path, memory: Path, mode: str) -> None:
    """The error tells both."""
    with pytest.raises(FingerprintMismatch) as caught:
        fingerprint_file(config(model, fingerprint=OTHER, fingerprint_mode=mode), facts(model), memory, Recorder())
    assert (caught.value.model_path, caught.value.given) == (str(model), OTHER)
    assert len(caught.value.found) == 64


def test_the_right_fingerprint_is_accepted(model: Path, memory: Path) -> None:
    """Given as bytes or digits, it is the one found."""
    right = config(model, fingerprint=bytes.fromhex(DIGEST))
    assert fingerprint_file(right, facts(model), memory, Recorder()) == DIGEST


@pytest.mark.parametrize("break_it", [Path.unlink, lambda path: path.unlink() or path.mkdir()])
def test_a_file_that_cannot_be_read_is_not_found(model: Path, memory: Path, break_it: Callable[[Path], None]) -> None:
    """Missing, or a directory: our error, with the system's as its cause."""
    inspected = facts(model)
    break_it(model)
    with pytest.raises(ModelFileNotFound) as caught:
        fingerprint_file(config(model), inspected, memory, Recorder())
    assert isinstance(caught.value.__cause__, OSError)


# --- stopping ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_blocks")
def test_a_cancelled_load_stops_at_the_next_block(model: Path, memory: Path) -> None:
    """And leaves nothing that could pass for a fingerprint."""
    progress = Recorder(stop_after=3)
    with pytest.raises(LoadCancelled):
        fingerprint_file(config(model), facts(model), memory, progress)
    assert len(progress.heard) == 3
    assert entries(memory) == []


def test_a_cancelled_load_stops_at_a_remembered_fingerprint_too(model: Path, memory: Path) -> None:
    """Cancelled is cancelled, however little is left to do."""
    fingerprint_file(config(model), facts(model), memory, Recorder())
    with pytest.raises(LoadCancelled):
        fingerprint_file(config(model), facts(model), memory, Recorder(stop_after=1))


# --- remembering -------------------------------------------------------------------------------------


def test_an_untouched_file_is_not_read_again(model: Path, memory: Path) -> None:
    """The remembered fingerprint is taken, and reported as hashed at once."""
    fingerprint_file(config(model), facts(model), memory, Recorder())
    lie(memory, model)
    progress = Recorder()
    assert fingerprint_file(config(model), facts(model), memory, progress) == OTHER
    assert progress.heard == [(len(CONTENT), len(CONTENT))]


def test_another_path_to_the_same_file_is_the_same(model: Path, memory: Path, tmp_path: Path) -> None:
    """Symbolic links are followed before anything is remembered."""
    (tmp_path / "link.gguf").symlink_to(model)
    lie(memory, model)
    assert fingerprint_file(config(tmp_path / "link.gguf"), facts(tmp_path / "link.gguf"), memory, Recorder()) == OTHER


@pytest.mark.parametrize("change", [rewritten, replaced, grown])
def test_a_file_that_was_touched_is_read_again(model: Path, memory: Path, change: Callable[[Path], None]) -> None:
    """A new mtime, inode or size each suffice, though the others are the same."""
    lie(memory, model)
    change(model)
    found = fingerprint_file(config(model), facts(model), memory, Recorder())
    assert found == hashlib.sha256(model.read_bytes()).hexdigest()


def test_each_mode_remembers_for_itself(model: Path, memory: Path) -> None:
    """A chunked fingerprint never answers for a whole one."""
    lie(memory, model, "gguf_chunked")
    assert fingerprint_file(config(model), facts(model), memory, Recorder()) == DIGEST
    assert len(entries(memory)) == 2


def test_remembering_can_be_switched_off(model: Path, memory: Path) -> None:
    """Nothing is believed, and nothing written."""
    lie(memory, model)
    before = [path.read_bytes() for path in entries(memory)]
    found = fingerprint_file(config(model, remember_fingerprint=False), facts(model), memory, Recorder())
    assert found == DIGEST
    assert [path.read_bytes() for path in entries(memory)] == before


def test_a_memory_that_contradicts_what_was_given_is_checked(model: Path, memory: Path) -> None:
    """A stale memory cannot make a load fail: only the file itself can."""
    lie(memory, model)
    assert fingerprint_file(config(model, fingerprint=DIGEST), facts(model), memory, Recorder()) == DIGEST
    assert recall(memory, identify(model_file(model), "safe")) == DIGEST


def test_only_the_owner_can_read_what_is_remembered(model: Path, memory: Path) -> None:
    """Other users must not see paths of models; no temporary file stays."""
    fingerprint_file(config(model), facts(model), memory, Recorder())
    (entry,) = entries(memory)
    assert entry.suffix == ".json"
    assert stat.S_IMODE(memory.stat().st_mode) == 0o700
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600


def test_a_memory_that_cannot_be_written_is_done_without(model: Path, tmp_path: Path) -> None:
    """A file where the folder should be: the load goes on."""
    in_the_way = tmp_path / "file"
    in_the_way.write_bytes(b"")
    for memory in (in_the_way, in_the_way / "below"):
        assert fingerprint_file(config(model), facts(model), memory, Recorder()) == DIGEST


def test_a_failed_write_leaves_no_temporary_file(model: Path, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry is there whole or not at all."""

    async def full(source: object, target: object, executor: object) -> None:
        raise OSError(28, "no space left on device")

    monkeypatch.setattr("aiofiles.os.replace", full)
    assert fingerprint_file(config(model), facts(model), memory, Recorder()) == DIGEST
    assert entries(memory) == []


@pytest.mark.parametrize("written", [False, True])
def test_an_entry_that_is_a_pipe_holds_up_no_load(model: Path, memory: Path, written: bool) -> None:
    """Without a writer, or with one that writes nothing; the hash takes its place."""
    path = store_path(memory, identify(model_file(model), "safe"))
    memory.mkdir(parents=True)
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR | os.O_NONBLOCK) if written else None
    assert fingerprint_file(config(model), facts(model), memory, Recorder()) == DIGEST
    assert path.is_file()
    if writer is not None:
        os.close(writer)


def test_an_entry_that_has_no_end_is_none(model: Path, memory: Path) -> None:
    """No link is followed."""
    path = store_path(memory, identify(model_file(model), "safe"))
    memory.mkdir(parents=True)
    path.symlink_to("/dev/zero")
    assert fingerprint_file(config(model), facts(model), memory, Recorder()) == DIGEST
    assert not path.is_symlink()


def test_a_path_that_is_no_text_is_not_remembered(memory: Path) -> None:
    """File names are bytes; JSON is text."""
    identity = FileState(os.fsdecode(b"/srv/\xff.gguf"), 10, 20, 30, "safe")
    store(memory, Remembered(identity, DIGEST))
    assert recall(memory, identity) is None
    assert entries(memory) == []


IDENTITY = FileState("/srv/tiny.gguf", 10, 20, 30, "safe")


@given(st.binary())
def test_any_bytes_but_an_entry_are_no_memory(stored: bytes) -> None:
    """Torn and foreign files are passed over, without an error."""
    assert usable(stored, IDENTITY) is None


@given(st.integers(0))
def test_an_entry_that_is_cut_short_is_no_memory(length: int) -> None:
    """Wherever the cut is."""
    whole = msgspec.json.encode(Remembered(IDENTITY, DIGEST))
    assert usable(whole, IDENTITY) == DIGEST
    assert usable(whole[: length % len(whole)], IDENTITY) is None


@pytest.mark.parametrize("digest", ["", DIGEST[:-1], DIGEST + "0", DIGEST.upper(), "x" * 64])
def test_an_entry_without_a_digest_is_no_memory(digest: str) -> None:
    """What is remembered goes into cache keys, so it is checked like any input."""
    assert usable(msgspec.json.encode(Remembered(IDENTITY, digest)), IDENTITY) is None


@given(st.sampled_from(FileState.__struct_fields__))
def test_an_entry_is_for_one_state_of_one_file(field: str) -> None:
    """Each part of the identity counts."""
    changed = f"{IDENTITY.path}x" if field in ("path", "mode") else getattr(IDENTITY, field) + 1
    stored = msgspec.json.encode(Remembered(IDENTITY, DIGEST))
    assert usable(stored, msgspec.structs.replace(IDENTITY, **{field: changed})) is None


@given(st.text(), st.text())
def test_each_path_and_mode_has_its_own_place(path: str, other: str) -> None:
    """No file overwrites what is known of another one; a path is one name, whatever is in it."""
    places = {store_path(Path("m"), FileState(p, 0, 0, 0, mode)) for p in (path, other) for mode in ("safe", "chunked")}
    assert len(places) == 2 * len({path, other})
    assert {place.parent for place in places} == {Path("m")}
