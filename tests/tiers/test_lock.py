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
from helpers.directory_tier import tier_at, works
from helpers.fake_cache import tier_running
from helpers.leftovers import open_files

from erllama_py.errors import TierFailed, TierLocked
from erllama_py.tiers import file_lock
from erllama_py.tiers.lock import LOCK_TRIES, open_place
from erllama_py.tiers.marker import MARKER

ROW_NAME = f"{'0' * 64}.row"


# --- the lock ------------------------------------------------------------------------------------------------


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """What it has is the same open file, as a duplicated descriptor is."""
    place = open_place("d", str(tmp_path))
    inherited = os.dup(place.lock_fd)
    place.close()
    open_place("d", str(tmp_path)).close()
    os.close(inherited)


def forking(root: Path, parent: str, child: str, hooks: bool = True) -> subprocess.Popen[bytes]:
    """A process of one thread that opens the directory and forks; `say` tells the test, `hear` waits for it."""
    code = (
        "import os, signal, sys; from erllama_py.tiers.lock import open_place\n"
        f"import erllama_py.tiers.lock as lock; {'' if hooks else 'lock._PLACES.add = lambda place: None'}\n"
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


@pytest.mark.anyio
async def test_a_lock_that_was_removed_is_made_again_and_nobody_gets_in_meanwhile(tmp_path: Path) -> None:
    """The directory itself is locked too. The one that comes says nothing of a process, and makes no lock either."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.put(1)
        (tmp_path / "lock").unlink()
        with pytest.raises(TierLocked, match="unknown"):
            open_place("other", str(tmp_path))
        assert not (tmp_path / "lock").exists()
        await bench.put(2)
        with pytest.raises(TierLocked, match=str(os.getpid())):
            open_place("other", str(tmp_path))
    (tmp_path / "lock").unlink()
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        assert len(await bench.cache.opened()) == 2


@pytest.mark.anyio
async def test_a_lock_that_another_file_has_taken_the_place_of_is_no_lock(tmp_path: Path) -> None:
    """It is the file that is locked, not its name."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.put(1)
        (tmp_path / "lock").unlink()
        (tmp_path / "lock").write_text("1\n")
        await works(bench, tmp_path)
        with pytest.raises(TierLocked, match=str(os.getpid())):
            open_place("other", str(tmp_path))


def test_a_lock_that_is_removed_while_it_is_taken_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two of them could each lock a file of that name."""
    left = [2]

    lock = file_lock.lock

    def removed_meanwhile(fd: int) -> None:
        lock(fd)
        if left[0]:
            left[0] -= 1
            (tmp_path / "lock").unlink()

    monkeypatch.setattr("erllama_py.tiers.lock.file_lock.lock", removed_meanwhile)
    place = open_place("d", str(tmp_path))
    assert os.fstat(place.lock_fd).st_ino == (tmp_path / "lock").stat().st_ino
    left[0] = LOCK_TRIES
    place.close()
    with pytest.raises(TierFailed, match="again and again"):
        open_place("d", str(tmp_path))


@pytest.mark.parametrize("without", ["F_OFD_SETLK", "directories"])
def test_the_lock_holds_where_the_system_has_no_such_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    """`flock` on the file is what is left, or the file alone."""
    if without == "directories":
        monkeypatch.setattr("erllama_py.tiers.lock.file_lock.lock_directory", lambda fd: None)
    else:
        monkeypatch.setattr("erllama_py.tiers.file_lock._SET", None)
        monkeypatch.setattr("erllama_py.tiers.lock.file_lock.lock_directory", lambda fd: None)
    place = open_place("d", str(tmp_path))
    with pytest.raises(TierLocked, match=str(os.getpid())):
        open_place("d", str(tmp_path))
    place.close()
    open_place("d", str(tmp_path)).close()


def test_no_descriptor_passes_an_exec(tmp_path: Path) -> None:
    """A program that the owner starts would hold the locks, and could read the rows."""
    place = open_place("d", str(tmp_path))
    for descriptor in (place.root_fd, place.guard_fd, place.lock_fd, place.rows_fd, place.aside_fd):
        assert not os.get_inheritable(descriptor)
    place.close()


@pytest.mark.slow
def test_a_child_that_python_does_not_know_of_frees_nothing(tmp_path: Path) -> None:
    """A library may fork without Python's hooks: the child has everything open, and closes it."""
    child = "place.close()"
    with forking(tmp_path, "os.waitpid(pid, 0); say(b'waited'); hear()", child, hooks=False) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"waited\n"
        with pytest.raises(TierLocked, match=str(owner.pid)):
            open_place("d", str(tmp_path))


# --- whose directory it is -----------------------------------------------------------------------------------


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
    "entries",
    [
        ("letter.txt",),
        ("lock",),
        ("rows/",),
        ("lock", "rows/", "aside/"),
        ("lock", f"rows/{ROW_NAME}", "aside/"),
        (f"{MARKER}/", "lock", "rows/"),
    ],
)
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_directory_without_a_marker_is_refused_and_left_as_it_was(
    tmp_path: Path, entries: tuple[str, ...], mode: int
) -> None:
    """Another program may have a `lock` and `rows` too. The error has the path, and says what can be done."""
    root = tmp_path / "kv"
    root.mkdir()
    make(root, *entries)
    root.chmod(mode)
    before = sorted(root.rglob("*"))
    with pytest.raises(TierFailed, match="empty") as refused:
        open_place("d", str(root))
    assert str(root / MARKER) in str(refused.value)
    assert (sorted(root.rglob("*")), root.stat().st_mode & 0o777) == (before, mode)
    if f"{MARKER}/" not in entries:
        make(root, MARKER)
        open_place("d", str(root)).close()


@pytest.mark.parametrize(
    "entries", [(), ("lost+found/",), (MARKER,), (MARKER, "letter.txt"), (MARKER, "lock", "rows/")]
)
def test_one_that_is_empty_or_marked_is_taken_and_closed_to_others(tmp_path: Path, entries: tuple[str, ...]) -> None:
    """Also one whose process ended while it was made."""
    root = tmp_path / "kv"
    root.mkdir()
    make(root, *entries)
    root.chmod(0o755)
    open_place("d", str(root)).close()
    assert root.stat().st_mode & 0o777 == 0o700
    assert (root / MARKER).is_file()


@pytest.mark.parametrize("entries", [(), (MARKER,), ("letter.txt",)])
def test_a_directory_that_all_programs_share_is_left_to_them(tmp_path: Path, entries: tuple[str, ...]) -> None:
    """`/dev/shm` may be empty and belong to us: closed to others, it would be lost to them. One in it is taken."""
    make(tmp_path, *entries)
    tmp_path.chmod(0o1777)
    with pytest.raises(TierFailed, match=f"such as {tmp_path}/erllama"):
        open_place("d", str(tmp_path))
    assert (sorted(os.listdir(tmp_path)), tmp_path.stat().st_mode & 0o7777) == (sorted(entries), 0o1777)
    open_place("d", str(tmp_path / "erllama")).close()


@pytest.mark.anyio
async def test_a_marker_that_was_removed_meanwhile_is_made_again(tmp_path: Path) -> None:
    """By the tier that has the directory."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        (tmp_path / MARKER).unlink()
        await works(bench, tmp_path)
    open_place("d", str(tmp_path)).close()


def test_a_marker_on_a_full_device_is_its_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are there to be read."""

    def full(*args: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    open_place("d", str(tmp_path)).close()
    monkeypatch.undo()
    assert (tmp_path / MARKER).read_bytes() == b""
    open_place("d", str(tmp_path)).close()


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


@pytest.mark.parametrize(("owner", "name", "calls"), [(os, "fchmod", 4), (os, "open", 5), (fcntl, "fcntl", 1)])
def test_a_failure_leaves_no_descriptor_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, calls: int
) -> None:
    """Whichever call it is that fails."""
    open_place("d", str(tmp_path)).close()
    before = open_files()
    for nth in range(1, calls + 1):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, FailingOnce(getattr(owner, name), nth))
            with pytest.raises(TierFailed):
                open_place("d", str(tmp_path))
        assert not open_files() - before
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
