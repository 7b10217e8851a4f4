"""`/erllama/cache/rows`, `/remove`, `/verify`, `/gc`: row by row, for operators, without a token of anybody's text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.filled_directory import IDENTITY, file_of, flip
from helpers.served import Served, lines, served

import erllama_py as erllama
from erllama_py.serve.operations.cache import Report
from erllama_py.serve.operations.cache_rows import TOLD_EVERY

pytestmark = pytest.mark.anyio

PATHS = {"rows": "GET", "remove": "POST", "verify": "POST", "gc": "POST"}


async def kept(at: Served, root: Path, count: int = 3, tier: str = "d") -> list[str]:
    """Keys of rows that extend each other, in a tier of their own."""
    if tier == "d":
        await at.runtime.start_tier("d", erllama.DiskTier(str(root)))
    tokens, keys = list(range(10 * count)), []
    for end in range(10, 10 * count + 1, 10):
        keys.append(await at.runtime.cache.put(IDENTITY, tokens[:end], end - 10, b"x" * 6000, tier=tier))
    await at.runtime.cache.flush()
    return keys


async def test_each_row_is_a_line(tmp_path: Path) -> None:
    """Of all tiers, or of one; a tier that is not there is named."""
    async with served() as at:
        keys = await kept(at, tmp_path)
        more = await kept(at, tmp_path, 1, "ram")
        answer = await at.client.get("/erllama/cache/rows")
        rows = [msgspec.convert(line, erllama.RowInfo) for line in lines(answer.text)]
        assert answer.headers["content-type"] == "application/x-ndjson"
        assert {(row.key, row.tier) for row in rows} == {*((key, "d") for key in keys), (more[0], "ram")}
        of_one = lines((await at.client.get("/erllama/cache/rows", params={"tier": "ram"})).text)
        assert [row["key"] for row in of_one] == more
        missing = await at.client.get("/erllama/cache/rows", params={"tier": "x"})
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "tier_not_found")
        assert "running: ram, d" in missing.json()["error"]["message"]


async def test_rows_are_removed_by_their_keys(tmp_path: Path) -> None:
    """With all that extend them."""
    async with served() as at:
        keys = await kept(at, tmp_path)
        body = {"tier": "d", "keys": [keys[1]]}
        told = (await at.client.post("/erllama/cache/remove", json=body)).json()
        assert (told["rows"], told["left"]) == (2, 0)
        assert [row.key for row in await at.runtime.cache.rows()] == keys[:1]


@pytest.mark.parametrize(
    "body",
    [
        {}, {"tier": "d"}, {"tier": "", "keys": []}, {"tier": "d", "keys": ["xyz"]}, {"tier": "d", "keys": ["AB" * 32]},
        {"tier": "d", "keys": [1]}, {"tier": "d", "keys": ["00" * 32] * 10_001}, {"tier": "d", "keys": [], "all": True},
    ],
)  # fmt: skip
async def test_what_is_no_request_is_refused(body: Any) -> None:
    """Before anything is removed."""
    async with served() as at:
        assert (await at.client.post("/erllama/cache/remove", json=body)).status_code == 400


async def test_a_check_reads_each_row_and_tells_how_far_it_is(tmp_path: Path) -> None:
    """What is bad is named, and out of the cache from then on; no folder of the machine is."""
    async with served() as at:
        keys = await kept(at, tmp_path, TOLD_EVERY + 2)
        flip(file_of(tmp_path, keys[-1]), 5000)
        file_of(tmp_path, keys[-2]).unlink()  # gone is not bad
        told = lines((await at.client.post("/erllama/cache/verify", json={"tier": "d"})).text)
        assert [one["done"] for one in told] == [0, TOLD_EVERY, TOLD_EVERY + 2]
        assert {one["total"] for one in told} == {TOLD_EVERY + 2}
        [bad] = [bad for one in told for bad in one["bad"]]
        assert (bad["name"], bad["kind"]) == (f"rows/{keys[-1]}.row", "flipped")
        assert bad["nbytes"] >= 6000
        assert "checksum" in bad["problem"]
        assert str(tmp_path) not in str(told)
        again = lines((await at.client.post("/erllama/cache/verify", json={"tier": "d"})).text)
        assert again[-1] == {"done": TOLD_EVERY, "total": TOLD_EVERY, "bad": []}


def spoil(root: Path, keys: list[str]) -> None:
    """A torn file, another row than the name says, a directory, and a bit that is turned over."""
    torn, renamed, folder, flipped = (file_of(root, key) for key in keys)
    renamed.write_bytes(torn.read_bytes())
    torn.write_bytes(torn.read_bytes()[:5000])
    folder.unlink()
    folder.mkdir()
    flip(flipped, 5000)


async def test_a_check_says_what_kind_of_fault_each_row_has(tmp_path: Path) -> None:
    """As one of a directory that nobody has open does; a tier that ends meanwhile has no sound rows."""
    async with served() as at:
        keys = await kept(at, tmp_path, 5)
        spoil(tmp_path, keys[1:])
        told = lines((await at.client.post("/erllama/cache/verify", json={"tier": "d"})).text)
        kinds = {bad["name"]: bad["kind"] for one in told for bad in one["bad"]}
        names = [f"rows/{key}.row" for key in keys[1:]]
        assert kinds == dict(zip(names, ["torn", "renamed", "foreign", "flipped"], strict=True))
        with pytest.raises(erllama.RowUnavailable, match="does not run") as caught:
            await at.runtime.cache.read(keys[0], "none")
        assert caught.value.kind == "unreadable"


async def test_gc_frees_what_was_set_aside(tmp_path: Path) -> None:
    """In bytes."""
    async with served() as at:
        keys = await kept(at, tmp_path)
        flip(file_of(tmp_path, keys[0]), 5000)
        await at.client.post("/erllama/cache/verify", json={"tier": "d"})
        freed = (await at.client.post("/erllama/cache/gc")).json()["freed"]
        assert freed >= 3 * 6000  # the bad one, and two that nothing leads to any more
        assert await at.runtime.cache.rows() == []


async def test_models_are_named_by_the_fingerprint_of_their_rows() -> None:
    """Of those that are loaded."""
    async with served({"policy": {"min_tokens": 32}}) as at:
        await at.model.complete("heron " * 40, response_tokens=2)
        await at.runtime.cache.flush()
        report = msgspec.convert((await at.client.get("/erllama/cache")).json(), Report)
        rows = lines((await at.client.get("/erllama/cache/rows")).text)
        assert rows
        assert {report.models[row["fingerprint"]] for row in rows if row["reason"] != "turn"} == {"tiny"}
        assert "heron" not in str(rows)


@pytest.mark.parametrize("path", PATHS)
async def test_they_are_for_operators(path: str) -> None:
    """A key without that right gets 403."""
    from erllama_py.serve.access import AccessOpts, KeyOpts, make_key

    secret, digest = make_key()
    access = AccessOpts(keys=(KeyOpts(name="ada", hash=digest),))
    async with served(access=access) as at:
        answer = await at.client.request(
            PATHS[path], f"/erllama/cache/{path}", headers={"authorization": f"Bearer {secret}"},
            json={"tier": "ram", "keys": []},
        )  # fmt: skip
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "operators_only")
