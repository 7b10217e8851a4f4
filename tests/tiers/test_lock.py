"""The directory of a tier and its lock: whose it is, what it may hold, and what a failure leaves open."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.directory_tier import tier_at
from helpers.fake_cache import tier_running

from erllama_py.errors import TierFailed, TierLocked
from erllama_py.tiers.lock import open_place

ROW_NAME = f"{'0' * 64}.row"


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


# --- the lock ------------------------------------------------------------------------------------------------


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """What it has is the same open file, as a duplicated descriptor is."""
    place = open_place("d", str(tmp_path))
    inherited = os.dup(place.lock_fd)
    place.close()
    open_place("d", str(tmp_path)).close()
    os.close(inherited)


def forking(root: Path, parent: str, child: str) -> subprocess.Popen[bytes]:
    """A process of one thread that opens the directory and forks; `say` tells the test, `hear` waits for it."""
    code = (
        "import os, signal, sys; from erllama_py.tiers.lock import open_place\n"
        "place = open_place('d', sys.argv[1]); pid = os.fork()\n"
        "say = lambda word: os.write(1, word + b'\\n'); hear = lambda: os.read(0, 1)\n"
        f"if pid == 0: {child}; os._exit(0)\n{parent}"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env
    )


@pytest.mark.slow
def test_a_child_of_an_owner_that_was_killed_does_not_keep_the_lock(tmp_path: Path) -> None:
    """It is the same open file in both, and the kernel frees it with the last of them: the child lets go at once."""
    with forking(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", "say(b'alive'); hear(); say(b'still')") as owner:
        assert owner.stdin is not None
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"alive\n"
        assert owner.wait() == -signal.SIGKILL
        open_place("d", str(tmp_path)).close()
        owner.stdin.write(b".")
        owner.stdin.close()
        assert owner.stdout.readline() == b"still\n"


@pytest.mark.slow
def test_a_forked_child_does_not_free_the_lock(tmp_path: Path) -> None:
    """Whatever it does with what it has inherited; nor does it get the directory for itself."""
    child = "place.unlock(); place.close(); del place; open_place('d', sys.argv[1])"
    with forking(tmp_path, "os.waitpid(pid, 0); say(b'waited'); hear()", child) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"waited\n"
        with pytest.raises(TierLocked, match=str(owner.pid)):
            open_place("d", str(tmp_path))


@pytest.mark.slow
def test_a_directory_can_be_opened_again_while_a_child_lives(tmp_path: Path) -> None:
    """By the parent that closed it."""
    parent = "place.close(); open_place('d', sys.argv[1]); say(b'open')"
    with forking(tmp_path, parent, "hear()") as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"open\n"


# --- whose directory it is -----------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_lock_that_was_cleaned_away_is_made_again(tmp_path: Path) -> None:
    """It is never written to, so it looks like an old file; nothing but rows is in `rows`."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.put(1)
        (tmp_path / "lock").unlink()
        await bench.put(2)
        with pytest.raises(TierLocked):
            open_place("other", str(tmp_path))
    (tmp_path / "lock").unlink()
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        assert len(await bench.cache.opened()) == 2


def make(root: Path, *entries: str) -> None:
    """Files, and folders where a name ends with a slash."""
    for entry in entries:
        path = root / entry
        path.parent.mkdir(exist_ok=True)
        if entry.endswith("/"):
            path.mkdir()
        else:
            path.touch()


@pytest.mark.parametrize(
    ("entries", "mode"),
    [
        ((f"rows/{ROW_NAME}",), 0o700),
        ((f"rows/{ROW_NAME}", "rows/letter.txt", "aside/"), 0o700),
        ((f"rows/{ROW_NAME}", "aside/"), 0o755),
        (("lock", "letter.txt"), 0o755),
        (("lock", "rows/", "letter.txt"), 0o755),
    ],
)
def test_what_does_not_look_like_a_tiers_is_refused(tmp_path: Path, entries: tuple[str, ...], mode: int) -> None:
    """Many a directory has a file named `lock`; the error says what is to be done."""
    root = tmp_path / "kv"
    root.mkdir()
    make(root, *entries)
    root.chmod(mode)
    with pytest.raises(TierFailed, match=r"chmod 700|make an empty file") as refused:
        open_place("d", str(root))
    assert root.stat().st_mode & 0o777 == mode
    if "lock" not in entries:
        make(root, "lock")
        if "aside/" not in entries:
            root.chmod(0o700)
        open_place("d", str(root)).close()
        assert str(root / "lock") in str(refused.value)


@pytest.mark.parametrize("entries", [("lock",), ("lock", "rows/"), ("lock", "rows/", "aside/", "letter.txt")])
def test_what_looks_like_a_tiers_is_taken_and_closed_to_others(tmp_path: Path, entries: tuple[str, ...]) -> None:
    """Also one whose process ended while it was made."""
    root = tmp_path / "kv"
    root.mkdir()
    make(root, *entries)
    root.chmod(0o755)
    open_place("d", str(root)).close()
    assert root.stat().st_mode & 0o777 == 0o700


# --- what is left --------------------------------------------------------------------------------------------


class FailingOnce:
    """In place of a function: its call number `nth` is refused."""

    def __init__(self, original: Callable[..., Any], nth: int) -> None:
        self.original, self.left = original, nth

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise PermissionError(1, "Operation not permitted")
        return self.original(*args, **options)


@pytest.mark.parametrize(("owner", "name", "calls"), [(os, "fchmod", 4), (os, "open", 4), (fcntl, "flock", 1)])
def test_a_failure_leaves_no_descriptor_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: int
) -> None:
    """Whichever call it is that fails."""
    open_place("d", str(tmp_path)).close()
    before = descriptors()
    for nth in range(1, calls + 1):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, FailingOnce(getattr(owner, name), nth))
            with pytest.raises(TierFailed):
                open_place("d", str(tmp_path))
        assert descriptors() == before
    open_place("d", str(tmp_path)).close()


def test_a_new_directory_is_on_the_device_with_all_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row that was announced must not be lost with a directory that was not synced."""
    synced: set[int] = set()
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    open_place("d", str(tmp_path / "a" / "b" / "kv")).close()
    assert {path.stat().st_ino for path in (tmp_path, tmp_path / "a", tmp_path / "a/b", tmp_path / "a/b/kv")} <= synced
