"""Pulled models listed and removed: the bytes are free, and nobody else's file is touched."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.hub import FakeHub, content, names_below
from huggingface_hub import constants, hf_hub_download, scan_cache_dir

import erllama_py as erllama
from erllama_py.hub import retrying

pytestmark = pytest.mark.anyio

REPO, OTHER = "maker/Tiny-GGUF", "maker/Other"
FILES = {"T-Q4_0.gguf": b"4" * 4000, "T-Q8_0.gguf": b"8" * 8000, "config.json": b"{}"}


def used(cache: Path) -> int:
    """Bytes of all blobs."""
    return sum(path.stat().st_size for path in cache.glob("models--*/blobs/*"))


def spoil(cache: Path, path: str) -> None:
    """Remove the bytes of a link, and put strange things into the cache."""
    Path(path).resolve().unlink()
    (cache / "models--only").mkdir()
    (cache / "models--a--b").write_text("no folder")


@contextmanager
def mapped(path: str) -> Iterator[None]:
    """While this process has a file in its memory."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        yield


async def pull(*references: str) -> list[str]:
    """Pull them; their paths."""
    return [(await erllama.pull_model(one)).path for one in references]


async def test_all_that_is_pulled_is_listed_by_name(hub: FakeHub) -> None:
    """With what loads it; the hub is not asked."""
    hub.add(REPO, FILES)
    hub.add(OTHER, {"a/x.gguf": b"x", "b/x.gguf": b"yy"})
    assert await erllama.list_pulled() == []
    paths = await pull(f"hf:{REPO}:Q8_0", f"hf:{REPO}:Q4_0", f"hf:{OTHER}/b/x.gguf")
    hub.asked.clear()
    listed = await erllama.list_pulled()
    assert [(one.reference, one.size, one.quant) for one in listed] == [
        (f"hf:{OTHER}/b/x.gguf", 2, None), (f"hf:{REPO}:Q4_0", 4000, "Q4_0"), (f"hf:{REPO}:Q8_0", 8000, "Q8_0"),
    ]  # fmt: skip
    assert [one.path for one in listed] == [paths[2], paths[1], paths[0]]
    assert all(one.last_used == os.stat(one.path).st_atime for one in listed)
    assert hub.asked == []
    assert await pull(*(one.reference for one in listed)) == [one.path for one in listed]


async def test_what_is_no_whole_model_is_not_listed(hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of other kinds, parts without the others, links to nothing, what broke off, and strange folders."""
    hub.add(REPO, {**FILES, "B-00001-of-00002.gguf": b"1", "B-00002-of-00002.gguf": b"2"})
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    for name in ("config.json", "B-00001-of-00002.gguf", "T-Q4_0.gguf"):
        path = hf_hub_download(REPO, name)
    spoil(cache, path)
    assert await erllama.list_pulled() == []


async def test_a_removed_model_gives_its_bytes_back_and_leaves_the_others(hub: FakeHub, cache: Path) -> None:
    """As many as are said; the last one of a repository takes the folder with it."""
    hub.add(REPO, FILES)
    await pull(f"hf:{REPO}:Q4_0", f"hf:{REPO}:Q8_0")
    before = used(cache)
    assert await erllama.remove_pulled(f"hf:{REPO}:q4_0") == 4000 == before - used(cache)
    assert [one.reference for one in await erllama.list_pulled()] == [f"hf:{REPO}:Q8_0"]
    assert scan_cache_dir(cache).warnings == []
    assert await erllama.remove_pulled(f"hf:{REPO}") == 8000
    assert used(cache) == 0
    assert names_below(cache, "models--*") == [".locks/models--maker--Tiny-GGUF"]
    assert content((await erllama.pull_model(f"hf:{REPO}")).path) == FILES["T-Q4_0.gguf"]


async def test_bytes_that_another_revision_shares_stay(hub: FakeHub, cache: Path) -> None:
    """Only the last link takes them."""
    hub.add(REPO, FILES)
    branch = hub.add(REPO, {"T-Q4_0.gguf": FILES["T-Q4_0.gguf"], "new": b""}, revision="branch")
    await pull(f"hf:{REPO}:Q4_0", f"hf:{REPO}@branch:Q4_0")
    assert [one.reference for one in await erllama.list_pulled()] == [f"hf:{REPO}:Q4_0"]
    assert await erllama.remove_pulled(f"hf:{REPO}@branch:Q4_0") == 0
    assert used(cache) == 4000
    assert (await erllama.pull_model(f"hf:{REPO}:Q4_0", offline=True)).revision != branch
    assert await erllama.remove_pulled(f"hf:{REPO}:Q4_0") == 4000


async def test_all_versions_that_a_name_may_mean_go(hub: FakeHub, cache: Path) -> None:
    """Else an older one would be loaded by that name afterwards."""
    hub.add(REPO, FILES)
    await pull(f"hf:{REPO}:Q4_0")
    hub.add(REPO, {"T-Q4_0.gguf": b"new" * 1000})
    await erllama.pull_model(f"hf:{REPO}:Q4_0", update=True)
    assert await erllama.remove_pulled(f"hf:{REPO}:Q4_0") == 4000 + 3000
    assert await erllama.list_pulled() == []


async def test_bytes_that_two_versions_share_go_with_the_last(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one of them has files of others left."""
    hub.add(REPO, {"T-Q4_0.gguf": FILES["T-Q4_0.gguf"]})
    await pull(f"hf:{REPO}:Q4_0")
    hub.add(REPO, FILES)
    await erllama.pull_model(f"hf:{REPO}:Q4_0", update=True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hf_hub_download(REPO, "config.json")
    assert await erllama.remove_pulled(f"hf:{REPO}:Q4_0") == 4000
    assert used(cache) == len(FILES["config.json"])
    assert len(names_below(cache, "snapshots/*")) == 1


async def test_what_others_keep_in_a_repository_stays(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration that another tool has fetched is not ours."""
    hub.add(REPO, FILES)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    config = hf_hub_download(REPO, "config.json")
    await pull(f"hf:{REPO}:Q4_0")
    await erllama.remove_pulled(f"hf:{REPO}:Q4_0")
    assert content(config) == b"{}"


async def test_what_broke_off_goes_with_its_repository(hub: FakeHub, cache: Path, no_waits: None) -> None:
    """By its name as a whole: of which file it is can no longer be told. What comes right now stays."""
    hub.add(REPO, FILES)
    hub.cuts = [1000] + [0] * len(retrying.WAITS)
    with pytest.raises(erllama.HubUnreachable):
        await erllama.pull_model(f"hf:{REPO}:Q8_0")
    assert scan_cache_dir(cache).warnings == []
    with pytest.raises(erllama.NotPulled):
        await erllama.remove_pulled(f"hf:{REPO}:Q8_0")
    hub.held_after = 0
    pulling = asyncio.ensure_future(erllama.pull_model(f"hf:{REPO}:Q4_0"))
    await asyncio.get_running_loop().run_in_executor(None, hub.held.wait)
    assert await erllama.remove_pulled(f"hf:{REPO}") == 1000
    hub.go_on.set()
    await pulling
    assert [one.reference for one in await erllama.list_pulled()] == [f"hf:{REPO}:Q4_0"]


async def test_what_is_not_pulled_cannot_be_removed(hub: FakeHub) -> None:
    """The error names what is there of the repository, and a name for several removes none."""
    hub.add(REPO, FILES)
    with pytest.raises(erllama.NotPulled, match=r"it is not pulled$"):
        await erllama.remove_pulled(f"hf:{REPO}:Q4_0")
    await pull(f"hf:{REPO}:Q8_0")
    with pytest.raises(erllama.NotPulled, match=f"there is hf:{REPO}:Q8_0") as missing:
        await erllama.remove_pulled(f"hf:{REPO}:Q4_0")
    assert missing.value.available == (f"hf:{REPO}:Q8_0",)
    await pull(f"hf:{REPO}:Q4_0")
    with pytest.raises(erllama.NotPulled, match=f"several.*hf:{REPO}:Q4_0, hf:{REPO}:Q8_0"):
        await erllama.remove_pulled(f"hf:{REPO}")


async def test_a_model_that_a_process_has_in_its_memory_stays(hub: FakeHub) -> None:
    """Its bytes would not be free, and it could not be loaded again after a crash."""
    hub.add(REPO, FILES)
    (path,) = await pull(f"hf:{REPO}:Q4_0")
    with mapped(path):
        with pytest.raises(erllama.ModelInUse) as held:
            await erllama.remove_pulled(f"hf:{REPO}:Q4_0")
        assert held.value.pids == (os.getpid(),)
        assert content(path) == FILES["T-Q4_0.gguf"]
    assert await erllama.remove_pulled(f"hf:{REPO}:Q4_0") == 4000


def leave(cache: Path, repo: str, name: str, data: bytes) -> Path:
    """What a download of a file has left that broke off."""
    partial = cache / f"models--{repo.replace('/', '--')}" / "blobs" / f"{name}.incomplete"
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(data)
    return partial


async def test_what_broke_off_is_listed_and_removed_by_itself(hub: FakeHub, cache: Path) -> None:
    """Models of the same repository stay, be there one or several; what goes on right now stays, too."""
    hub.add(REPO, FILES)
    assert await erllama.list_unfinished() == []
    await pull(f"hf:{REPO}:Q8_0", f"hf:{REPO}:Q4_0")
    left, other = leave(cache, REPO, "a" * 64, b"123"), leave(cache, OTHER, "b" * 64, b"4567")
    found = await erllama.list_unfinished()
    assert [(one.reference, one.path, one.size) for one in found] == [
        (f"hf:{OTHER}", str(other), 4), (f"hf:{REPO}", str(left), 3)
    ]  # fmt: skip
    assert await erllama.remove_pulled(f"hf:{REPO}", unfinished=True) == 3
    assert [one.reference for one in await erllama.list_unfinished()] == [f"hf:{OTHER}"]
    assert len(await erllama.list_pulled()) == 2
    with pytest.raises(erllama.NotPulled, match="no download of it broke off; there is"):
        await erllama.remove_pulled(f"hf:{REPO}", unfinished=True)
