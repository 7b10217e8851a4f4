"""Models pulled from a local hub: whole, checked, continued, and not asked for twice."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from helpers.hub import TOKEN, FakeHub, content, git_sha1, names_below, sha256
from helpers.terminal import run_script
from huggingface_hub import constants, hf_hub_download, scan_cache_dir

import erllama_py as erllama
from erllama_py.hub import retrying
from erllama_py.hub.partial_file import PartialFile

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_waits")]

REPO = "maker/Tiny-GGUF"
Q4, Q8 = (random.Random(number).randbytes(300_000 + number) for number in (1, 2))
FILES = {"Tiny-Q4_K_M.gguf": Q4, "Tiny-Q8_0.gguf": Q8, "README.md": b"hello", "mmproj-Tiny-F16.gguf": b"no model"}


async def test_a_model_is_pulled_and_then_used_without_the_hub(hub: FakeHub, cache: Path) -> None:
    """The bytes are the file's; the second call asks nobody, be it by the quantisation or without."""
    commit = hub.add(REPO, FILES)
    pulled = await erllama.pull_model(f"hf:{REPO}:q8_0")
    assert content(pulled.path) == Q8
    assert (pulled.reference, pulled.quant, pulled.revision) == (f"hf:{REPO}:Q8_0", "Q8_0", commit)
    assert (pulled.files, pulled.size, pulled.downloaded) == (("Tiny-Q8_0.gguf",), len(Q8), len(Q8))
    asked = len(hub.asked)
    for reference in (f"hf:{REPO}:Q8_0", f"hf:{REPO}", f"hf:{REPO}/Tiny-Q8_0.gguf", f"hf:{REPO}@{commit}:q8_0"):
        again = await erllama.pull_model(reference)
        assert (again.path, again.downloaded) == (pulled.path, 0)
    assert len(hub.asked) == asked


async def test_it_lies_in_the_cache_as_huggingface_hub_has_it(hub: FakeHub, cache: Path) -> None:
    """Other tools find it, and it is not downloaded again by them."""
    hub.add(REPO, FILES)
    pulled = await erllama.pull_model(f"hf:{REPO}")
    assert find_spec("hf_xet")  # which is not used: no other process could go on with what it has brought
    assert [path for _, path, _ in hub.asked if "xet" in path] == []
    sent = hub.sent.copy()
    assert hf_hub_download(REPO, "Tiny-Q4_K_M.gguf") == pulled.path
    assert hub.sent == sent
    found = scan_cache_dir(cache)
    assert (found.warnings, [repo.repo_id for repo in found.repos]) == ([], [REPO])
    assert found.size_on_disk == len(Q4)


async def test_what_others_have_pulled_is_used(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of huggingface_hub's own download needs no other."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # the local hub has nothing but HTTP
    hub.add(REPO, FILES)
    path = hf_hub_download(REPO, "Tiny-Q4_K_M.gguf")
    hub.asked.clear()
    assert (await erllama.pull_model(f"hf:{REPO}")).path == path
    assert hub.asked == []


@pytest.mark.parametrize("cuts", [[100_000], [10_000, 200_000, 0, 0, 50_000, 5000]])
async def test_a_download_that_is_cut_goes_on_where_it_was(hub: FakeHub, cuts: list[int]) -> None:
    """No byte comes twice, however often the connection ends; the whole is checked."""
    hub.add(REPO, FILES)
    hub.cuts = cuts.copy()
    pulled = await erllama.pull_model(f"hf:{REPO}")
    assert content(pulled.path) == Q4
    assert hub.sent["Tiny-Q4_K_M.gguf"] == len(Q4)
    assert len(hub.requests("cdn")) == len(cuts) + 1
    ranges = [headers["range"] for _, path, headers in hub.asked if "/cdn/" in path and "range" in headers]
    assert ranges[0] == f"bytes={cuts[0]}-"


async def test_a_hub_that_is_out_of_order_for_a_moment_is_asked_again(hub: FakeHub) -> None:
    """Some answers of it mean no more than that."""
    hub.add(REPO, FILES)
    hub.answers = [503, 429, 500]
    assert (await erllama.pull_model(f"hf:{REPO}")).downloaded == len(Q4)


async def test_after_tries_that_bring_nothing_it_is_given_up_and_continued_later(hub: FakeHub, cache: Path) -> None:
    """What came stays, and a later call asks for the rest alone."""
    hub.add(REPO, FILES)
    hub.cuts = [100_000] + [0] * len(retrying.WAITS)
    with pytest.raises(erllama.HubUnreachable, match="cannot be reached"):
        await erllama.pull_model(f"hf:{REPO}")
    assert hub.sent["Tiny-Q4_K_M.gguf"] == 100_000
    pulled = await erllama.pull_model(f"hf:{REPO}")
    assert pulled.downloaded == len(Q4) - 100_000
    assert hub.sent["Tiny-Q4_K_M.gguf"] == len(Q4)
    assert names_below(cache, "*.incomplete") == []


async def test_a_hub_that_gives_no_parts_begins_again(hub: FakeHub) -> None:
    """An answer that is the whole file is not taken for its rest."""
    hub.add(REPO, FILES)
    hub.cuts, hub.ignores_ranges = [100_000], True
    assert content((await erllama.pull_model(f"hf:{REPO}")).path) == Q4
    assert hub.sent["Tiny-Q4_K_M.gguf"] == 100_000 + len(Q4)


async def test_a_wrong_checksum_is_refused_and_removed(hub: FakeHub, cache: Path) -> None:
    """The error has both; nothing that could be taken for the model is left."""
    hub.add(REPO, FILES)
    hub.changed.add("Tiny-Q4_K_M.gguf")
    with pytest.raises(erllama.ChecksumMismatch) as refused:
        await erllama.pull_model(f"hf:{REPO}")
    wrong = sha256(bytes([Q4[0] ^ 1]) + Q4[1:])
    assert (refused.value.file, refused.value.expected, refused.value.found) == ("Tiny-Q4_K_M.gguf", sha256(Q4), wrong)
    assert names_below(cache, "blobs/*") == names_below(cache, "*.gguf") == []
    hub.changed.clear()
    assert content((await erllama.pull_model(f"hf:{REPO}")).path) == Q4


async def test_what_an_earlier_try_has_left_is_checked_too(hub: FakeHub, cache: Path) -> None:
    """Where it was torn, the whole is refused, and the next call begins again."""
    hub.add(REPO, FILES)
    torn = cache / "models--maker--Tiny-GGUF" / "blobs" / f"{sha256(Q4)}.incomplete"
    torn.parent.mkdir(parents=True)
    torn.write_bytes(bytes(1000))
    with pytest.raises(erllama.ChecksumMismatch):
        await erllama.pull_model(f"hf:{REPO}")
    assert not torn.exists()
    torn.write_bytes(bytes(len(Q4) + 1))  # longer than the file
    assert (await erllama.pull_model(f"hf:{REPO}")).downloaded == len(Q4)


async def test_a_file_that_git_holds_is_checked_by_its_object(hub: FakeHub, cache: Path) -> None:
    """Tiny models are no large files on the hub."""
    hub.add(REPO, {"t.gguf": b"GGUF tiny"})
    hub.in_git.add("t.gguf")
    await erllama.pull_model(f"hf:{REPO}")
    assert names_below(cache, "blobs/*") == [f"models--maker--Tiny-GGUF/blobs/{git_sha1(b'GGUF tiny')}"]
    shutil.rmtree(cache)
    hub.changed.add("t.gguf")
    with pytest.raises(erllama.ChecksumMismatch):
        await erllama.pull_model(f"hf:{REPO}")


async def test_a_disk_without_room_is_said_before_a_byte_comes(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is needed, and what there is."""
    hub.add(REPO, FILES)
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type(usage)(usage.total, usage.used, 299_999))
    with pytest.raises(erllama.NoRoomToPull, match=r"300,001 bytes are to come.* has 299,999 free") as full:
        await erllama.pull_model(f"hf:{REPO}")
    assert (full.value.needed, full.value.available) == (len(Q4), 299_999)
    assert hub.sent.total() == 0


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
async def test_a_disk_that_fills_up_meanwhile_is_said_and_continued_later(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """What is there is kept."""
    hub.add(REPO, FILES)
    append = PartialFile.append

    def fails(out: PartialFile, data: bytes) -> None:
        if out.size > 100_000:
            raise OSError(error, os.strerror(error))
        append(out, data)

    monkeypatch.setattr(PartialFile, "append", fails)
    with pytest.raises(erllama.NoRoomToPull, match=r"is full: \d\d\d,\d\d\d bytes of Tiny-Q4_K_M\.gguf are there"):
        await erllama.pull_model(f"hf:{REPO}")
    monkeypatch.setattr(PartialFile, "append", append)
    assert 0 < (await erllama.pull_model(f"hf:{REPO}")).downloaded < len(Q4) - 100_000


PARTS = {f"Q8_0/Big-Q8_0-{number:05}-of-00003.gguf": Q4[: number * 50_000] for number in (1, 2, 3)}


async def test_a_model_in_several_files_comes_whole(hub: FakeHub) -> None:
    """Side by side, as llama.cpp looks for them; the progress is that of all of them."""
    hub.add(REPO, {**PARTS, "x-Q4_0.gguf": b"x"})
    steps: list[erllama.PullProgress] = []
    pulled = await erllama.pull_model(f"hf:{REPO}:Q8_0", on_progress=steps.append)
    assert pulled.files == tuple(PARTS)
    assert [(Path(pulled.path).parent / name.rpartition("/")[2]).read_bytes() for name in PARTS] == [*PARTS.values()]
    assert pulled.size == 300_000
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert (steps[-1].done, steps[-1].total) == (300_000, 300_000)


async def test_a_model_of_which_a_part_is_missing_is_pulled_on(hub: FakeHub) -> None:
    """The parts that are there are not asked for again."""
    hub.add(REPO, PARTS)
    hub.cuts = [50_000, 20_000] + [0] * len(retrying.WAITS)
    hub.cuts[0] = 1 << 30  # the first file comes whole
    with pytest.raises(erllama.HubUnreachable):
        await erllama.pull_model(f"hf:{REPO}")
    assert (await erllama.pull_model(f"hf:{REPO}")).downloaded == 300_000 - 50_000 - 20_000


async def test_a_newer_version_is_looked_for_where_that_is_asked(hub: FakeHub) -> None:
    """Else what is pulled stays in use; the old revision can be named."""
    old = hub.add(REPO, FILES)
    await erllama.pull_model(f"hf:{REPO}:Q4_K_M")
    new = hub.add(REPO, {"Tiny-Q4_K_M.gguf": Q8})
    assert (await erllama.pull_model(f"hf:{REPO}:Q4_K_M")).revision == old
    fresh = await erllama.pull_model(f"hf:{REPO}:Q4_K_M", update=True)
    assert (fresh.revision, fresh.downloaded) == (new, len(Q8))
    assert (await erllama.pull_model(f"hf:{REPO}:Q4_K_M", update=True)).downloaded == 0
    assert (await erllama.pull_model(f"hf:{REPO}:Q4_K_M")).revision == new
    assert content((await erllama.pull_model(f"hf:{REPO}@{old}:Q4_K_M")).path) == Q4


async def test_a_branch_is_another_revision(hub: FakeHub) -> None:
    """It has files of its own; bytes that both have are there once."""
    hub.add(REPO, FILES)
    hub.add(REPO, {**FILES, "Tiny-Q8_0.gguf": Q4}, revision="a/branch")
    await erllama.pull_model(f"hf:{REPO}:Q4_K_M")
    other = await erllama.pull_model(f"hf:{REPO}@a/branch:Q8_0")
    assert (content(other.path), other.downloaded) == (Q4, 0)
    assert other.reference == f"hf:{REPO}@a/branch:Q8_0"


async def test_offline_nothing_is_asked(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the argument, or by the environment of all tools of the hub."""
    hub.add(REPO, FILES)
    with pytest.raises(erllama.NotPulled, match=f"`erllama pull hf:{REPO}` does it"):
        await erllama.pull_model(f"hf:{REPO}", offline=True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(erllama.HubUnreachable, match="HF_HUB_OFFLINE is set, and it is not pulled"):
        await erllama.pull_model(f"hf:{REPO}")
    assert hub.asked == []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    pulled = await erllama.pull_model(f"hf:{REPO}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert (await erllama.pull_model(f"hf:{REPO}")).path == pulled.path
    with pytest.raises(erllama.InvalidOption, match="without asking the hub"):
        await erllama.pull_model(f"hf:{REPO}", offline=True, update=True)


async def test_a_repository_that_is_closed_says_how_a_token_is_given(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one it comes; the token goes to the hub, and never to where the bytes lie."""
    hub.add(REPO, FILES)
    hub.closed[REPO] = "GatedRepo"
    with pytest.raises(erllama.PullDenied, match=rf"is gated: accept its terms at {hub.endpoint}/{REPO}.*HF_TOKEN"):
        await erllama.pull_model(f"hf:{REPO}")
    hub.closed[REPO] = "RepoNotFound"
    with pytest.raises(erllama.NotOnHub, match=rf"no repository {REPO}, or it is private.*HF_TOKEN"):
        await erllama.pull_model(f"hf:{REPO}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.asked.clear()
    await erllama.pull_model(f"hf:{REPO}")
    assert {"/cdn/" in path for _, path, headers in hub.asked if headers.get("authorization")} == {False}


async def test_what_is_not_on_the_hub_is_said(hub: FakeHub) -> None:
    """The repository, the revision, the quantisation, or any model at all."""
    hub.add(REPO, FILES)
    hub.add("maker/safe", {"model.safetensors": b"x"})
    for reference, said in {
        "hf:no/body": "the hub has no repository no/body",
        f"hf:{REPO}@v9": f"{REPO} has no revision 'v9'",
        f"hf:{REPO}:Q2_K": f"has no Q2_K; there is hf:{REPO}:Q4_K_M, hf:{REPO}:Q8_0",
        f"hf:{REPO}/x.gguf": "has no model 'x.gguf'",
        "hf:maker/safe": "has no GGUF model",
    }.items():
        with pytest.raises(erllama.NotOnHub) as missing:
            await erllama.pull_model(reference)
        assert said in str(missing.value)
        assert missing.value.model_path == reference


async def test_a_hub_that_nobody_answers_for_is_said(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """No network, or a server that is no hub."""
    hub = FakeHub()
    hub.patch(monkeypatch, cache)
    hub.server.server_close()
    with pytest.raises(erllama.HubUnreachable, match=f"{hub.endpoint} cannot be reached: "):
        await erllama.pull_model(f"hf:{REPO}")


@pytest.mark.parametrize(
    "page",
    [b"<html>", b"[]", b"{}", b'{"id": "x"}', b'{"id": "x", "sha": "main", "siblings": []}', b'{"id": 3, "sha": 4}'],
)
async def test_a_server_that_is_no_hub_is_said(hub: FakeHub, page: bytes) -> None:
    """A portal of a network, or another service at this address: no error but ours."""
    hub.add(REPO, FILES)
    hub.page = page
    with pytest.raises(erllama.PullError, match=f"{hub.endpoint} does not answer as the hub does"):
        await erllama.pull_model(f"hf:{REPO}")


@pytest.mark.parametrize(
    "wrong", [{"size": None}, {"size": -1}, {"size": "3"}, {"lfs": {"sha256": "../x", "size": 1, "pointerSize": 1}}]
)
async def test_a_file_without_size_or_checksum_is_none(hub: FakeHub, wrong: dict[str, Any]) -> None:
    """It could not be checked, and its name in the cache would be anything."""
    commit = hub.add(REPO, FILES)
    entry = {"rfilename": "T.gguf", "size": 3, "blobId": git_sha1(b"abc"), **wrong}
    hub.page = json.dumps({"id": REPO, "sha": commit, "siblings": [entry]}).encode()
    with pytest.raises(erllama.NotOnHub, match="no GGUF model"):
        await erllama.pull_model(f"hf:{REPO}")


async def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub is no dependency of the library."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(erllama.PullError, match=r'needs the extra: pip install "erllama-py\[hub\]"'):
        await erllama.pull_model(f"hf:{REPO}")
    with pytest.raises(erllama.PullError, match="needs the extra"):
        await erllama.list_pulled()


@pytest.mark.slow
def test_the_library_is_imported_where_it_is_needed() -> None:
    """It takes most of a second, and not everybody has it."""
    run_script("import sys, erllama_py, erllama_py.serve.cli.pull\nassert 'huggingface_hub' not in sys.modules")


async def test_a_cancelled_pull_stops_and_is_continued(hub: FakeHub) -> None:
    """The caller does not wait for the network; what came is not asked for again."""
    hub.add(REPO, FILES)
    hub.held_after = 100 * 1024
    pulling = asyncio.ensure_future(erllama.pull_model(f"hf:{REPO}"))
    await asyncio.get_running_loop().run_in_executor(None, hub.held.wait)
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    hub.held_after = None
    hub.go_on.set()
    pulled = await erllama.pull_model(f"hf:{REPO}")  # waits until the other one has let go
    assert content(pulled.path) == Q4
    assert 0 < pulled.downloaded < len(Q4)
    assert len(hub.requests("cdn")) == 2


async def test_two_that_pull_the_same_download_it_once(hub: FakeHub) -> None:
    """The second waits for the first."""
    hub.add(REPO, FILES)
    hub.held_after = 4096
    pulls = [asyncio.ensure_future(erllama.pull_model(f"hf:{REPO}")) for _ in range(3)]
    await asyncio.get_running_loop().run_in_executor(None, hub.held.wait)
    hub.go_on.set()
    pulled = await asyncio.gather(*pulls)
    assert len({one.path for one in pulled}) == 1
    assert hub.sent["Tiny-Q4_K_M.gguf"] == len(Q4)
    assert sum(one.downloaded for one in pulled) == len(Q4)


@pytest.mark.parametrize("wrong", [None, 3, b"hf:o/r", ["hf:o/r"], "o/r", "model.gguf"])
async def test_what_is_no_reference_is_refused(wrong: Any) -> None:
    """Before anything is asked."""
    with pytest.raises(erllama.InvalidOption, match="names no model of the hub"):
        await erllama.pull_model(wrong)
