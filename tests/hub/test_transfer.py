"""One file, from a hub that cuts, ignores and refuses at random: in the end it is the file, or an error."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from helpers.hub import FakeHub, content, sha256
from huggingface_hub import constants
from hypothesis import given, settings
from hypothesis import strategies as st

import erllama_py as erllama
from erllama_py.hub import Pull, Unwanted, pull
from erllama_py.hub.cache_folder import CacheFolder
from erllama_py.hub.naming import RepoFile
from erllama_py.hub.partial_file import PartialFile
from erllama_py.hub.retrying import WAITS, failures_after, wait_before

DATA = random.Random(7).randbytes(60_000)
NAME = "hf:o/r/f.gguf"


@pytest.fixture(scope="module")
def shared_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """A hub for all examples."""
    with FakeHub().running() as hub, pytest.MonkeyPatch.context() as patch:
        hub.patch(patch, tmp_path_factory.mktemp("cache"))
        hub.add("o/r", {"f.gguf": DATA})
        yield hub


@settings(max_examples=15)
@given(
    cuts=st.lists(st.integers(0, 60_001), max_size=8),
    answers=st.lists(st.sampled_from([408, 429, 500, 502, 503]), max_size=8),
    left=st.none() | st.integers(0, 60_001),
    ignores=st.booleans(),
)
def test_whatever_a_hub_does_the_file_is_right_or_refused(
    shared_hub: FakeHub, cuts: list[int], answers: list[int], left: int | None, ignores: bool
) -> None:
    """After some calls at most: each goes on where the last one ended, also where another process has left bytes."""
    shared_hub.cuts, shared_hub.answers, shared_hub.ignores_ranges = cuts.copy(), answers.copy(), ignores
    with TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as patch:
        shared_hub.patch(patch, Path(cache))
        if left is not None:
            partial = Path(cache) / "models--o--r" / "blobs" / f"{sha256(DATA)}.incomplete"
            partial.parent.mkdir(parents=True)
            partial.write_bytes((DATA + b"more")[:left])
        asked = Pull(reference=erllama.HubReference.parse(NAME), pause=lambda seconds: None)
        for _ in range(1 + len(cuts) + len(answers)):
            try:
                pulled = pull(asked)
            except erllama.HubUnreachable:
                continue
            assert content(pulled.path) == DATA
            return
    raise AssertionError("it never came")


def test_between_two_tries_it_waits_and_is_told_that_nobody_does_any_more(hub: FakeHub) -> None:
    """At once after bytes have come; then longer each time; a pull that is not wanted ends there."""
    hub.add("o/r", {"f.gguf": DATA})
    hub.cuts = [10_000, 0, 0]
    waited: list[float] = []
    asked = Pull(reference=erllama.HubReference.parse(NAME), pause=waited.append, wanted=lambda: len(waited) < 3)
    with pytest.raises(Unwanted):
        pull(asked)
    assert waited == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(("listings", "waited"), [([0], [0.0]), ([503, 0, 429], [0.0, 1.0, 2.0]), ([200], [])])
def test_a_hub_that_does_not_list_is_asked_again(hub: FakeHub, listings: list[int], waited: list[float]) -> None:
    """As it is for the bytes of a file: a connection that is cut ends no pull."""
    hub.add("o/r", {"f.gguf": DATA})
    hub.listings = listings
    paused: list[float] = []
    assert content(pull(Pull(reference=erllama.HubReference.parse(NAME), pause=paused.append)).path) == DATA
    assert paused == waited


@pytest.mark.parametrize(("status", "asked"), [(0, 4), (503, 4), (403, 1), (400, 1)])
def test_a_hub_that_never_lists_is_left(hub: FakeHub, status: int, asked: int) -> None:
    """After some seconds; one that refuses, at once."""
    hub.add("o/r", {"f.gguf": DATA})
    hub.listings = [status] * 10
    with pytest.raises(erllama.PullError):
        pull(Pull(reference=erllama.HubReference.parse(NAME), pause=lambda seconds: None))
    assert len(hub.requests("api")) == asked


def test_who_waits_for_a_listing_no_longer_is_let_go(hub: FakeHub) -> None:
    """Between two questions."""
    hub.add("o/r", {"f.gguf": DATA})
    hub.listings = [503] * 10
    waited: list[float] = []
    asked = Pull(reference=erllama.HubReference.parse(NAME), pause=waited.append, wanted=lambda: len(waited) < 2)
    with pytest.raises(Unwanted):
        pull(asked)
    assert waited == [0.0, 1.0]


def test_a_hub_that_falls_silent_is_asked_again(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time that all tools of the hub wait, for the rest alone."""
    hub.add("o/r", {"f.gguf": DATA})
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
    hub.held_after = 32 << 10

    def speak(seconds: float) -> None:
        hub.held_after = None
        hub.go_on.set()

    assert content(pull(Pull(reference=erllama.HubReference.parse(NAME), pause=speak)).path) == DATA
    assert [headers.get("range") for _, path, headers in hub.asked if "/cdn/" in path] == [None, "bytes=32768-"]


@given(st.lists(st.booleans(), max_size=40))
def test_tries_that_bring_nothing_are_counted_in_a_row(tries: list[bool]) -> None:
    """A download that goes on, however slowly, is never given up; one that does not is, after as many as there are
    waits."""
    failures = in_a_row = 0
    for brings in tries:
        failures = failures_after(failures, 100 if brings else 0)
        in_a_row = 0 if brings else in_a_row + 1
        assert failures == in_a_row
        assert (wait_before(failures) is None) == (in_a_row >= len(WAITS))


@given(st.lists(st.binary(max_size=50), max_size=10), st.data())
def test_what_was_left_and_what_comes_are_one_file(pieces: list[bytes], data: st.DataObject) -> None:
    """Its digest is that of all bytes, wherever it was cut; no byte too many is taken."""
    whole = b"".join(pieces)
    file = RepoFile("f.gguf", len(whole), sha256(whole))
    cut = data.draw(st.integers(0, len(pieces)))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "blobs" / "x"
        for part in (pieces[:cut], pieces[cut:]):
            with PartialFile(path, file, lambda: None) as out:
                for piece in part:
                    out.append(piece)
                size, digest = out.size, out.digest()
        assert (size, digest, path.read_bytes()) == (len(whole), file.digest, whole)
        with PartialFile(path, file, lambda: None) as out, pytest.raises(ValueError, match="more bytes"):
            out.append(b"x")


def test_two_threads_note_a_revision_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second writes its note while the first has not put its own in place."""
    folder, replace, commits = CacheFolder(tmp_path, "o/r"), os.replace, ["b" * 40]

    def late(source: Path, target: Path) -> None:
        if commits:
            folder.remember(None, commits.pop())
        replace(source, target)

    monkeypatch.setattr("erllama_py.hub.cache_folder.os.replace", late)
    folder.remember(None, "a" * 40)
    assert list(folder.commits(None)) == ["a" * 40]
    assert [one.name for one in (folder.path / "refs").iterdir()] == ["main"]
