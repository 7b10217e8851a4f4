"""What others have put into the directory of a tier: left alone, counted, and in nobody's way."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.directory_tier import QUOTA, path_of, served, tier_at, used, works
from helpers.fake_cache import bytes_in, key_of, tier_running

from erllama_py.errors import RowUnavailable, TierFull
from erllama_py.tiers.ledger import MOST_ASIDE
from erllama_py.tiers.lock import open_place
from erllama_py.tiers.messages import Get, Sweep, TierHealth

pytestmark = pytest.mark.anyio


async def test_what_we_did_not_write_is_never_removed(tmp_path: Path) -> None:
    """Neither for room, nor by a sweep; its bytes are counted."""
    open_place("d", str(tmp_path)).close()
    strangers = [tmp_path / "aside" / f"letter {number}" for number in range(MOST_ASIDE + 10)]
    strangers += [tmp_path / "rows" / name for name in ("letter", "a.tmp", f"{'0' * 63}.row", f"{'0' * 64}.row.bak")]
    for path in strangers:
        path.write_bytes(b"x")
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await bench.cache.opened()
        damage_named(tmp_path, MOST_ASIDE + 3)
        for number in range(MOST_ASIDE + 3):
            with pytest.raises(RowUnavailable):
                await bench.ref.call(Get(key_of(1000 + number)))
        await bench.ref.call(Sweep())
        await bench.put(1)
        assert await served(bench, 1)
        assert used(bench) == bytes_in(tmp_path)
    assert all(path.exists() for path in strangers)


async def test_what_others_have_removed_is_room_again(tmp_path: Path) -> None:
    """Wherever it lay. Until then the tier says why it stores nothing."""
    open_place("d", str(tmp_path)).close()
    letters = [tmp_path / folder / "letter" for folder in ("", "rows", "aside")]
    for letter in letters:
        letter.write_bytes(bytes(QUOTA // 3))
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        with pytest.raises(TierFull):
            await bench.put(1)
        (health,) = bench.cache.told(TierHealth)
        assert "do not fit" in str(health.problem)
        for number, letter in enumerate(letters):
            letter.unlink()
            await bench.put(number, QUOTA // 4)
        assert bench.cache.told(TierHealth)[1:] == [TierHealth("d", None)]
        assert used(bench) == bytes_in(tmp_path)


def damage_named(root: Path, count: int) -> None:
    """Bad files under the names of rows."""
    for number in range(1000, 1000 + count):
        path_of(root, number).write_bytes(b"x")


async def test_a_directory_under_a_rows_name_makes_way_for_the_row(tmp_path: Path) -> None:
    """It is moved aside with what is in it, and stays there; the tier is as well as before."""
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        path_of(tmp_path, 1).mkdir()
        (path_of(tmp_path, 1) / "letter").touch()
        with pytest.raises(RowUnavailable):
            await bench.ref.call(Get(key_of(1)))
        await works(bench, tmp_path, 1)
        assert bench.cache.told(TierHealth) == []
        await bench.ref.call(Sweep())
        (aside,) = (tmp_path / "aside").iterdir()
        assert (aside / "letter").exists()
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        await works(bench, tmp_path)
