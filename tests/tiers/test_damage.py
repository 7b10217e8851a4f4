"""Whatever happens to the files of rows, what is served is right, and the books are."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from helpers.directory_tier import path_of, served, tier_at, used, works
from helpers.fake_cache import bytes_in, key_of, tier_running

from erllama_py.tiers.messages import Sweep

pytestmark = pytest.mark.anyio

COUNT = 16


def damage(path: Path, chance: random.Random) -> None:
    """A few bits flipped, a cut, more at the end, bytes of another place; at any offset, the header's more often."""
    data = bytearray(path.read_bytes())
    place = chance.randrange(chance.choice([300, 2000, len(data)]))
    kind = chance.randrange(4)
    if kind == 0:
        for _ in range(chance.randint(1, 3)):
            data[min(len(data) - 1, place + chance.randrange(64))] ^= 1 << chance.randrange(8)
    elif kind == 1:
        del data[place:]
    elif kind == 2:
        data += chance.randbytes(1 + place)
    else:
        data[place : place + 16] = data[-16:]
    path.write_bytes(data)


@pytest.mark.parametrize("seed", range(4))
async def test_no_damage_is_ever_served(tmp_path: Path, seed: int) -> None:
    """Some of it comes before the opening and some after; damaged usage alone does no harm."""
    chance = random.Random(seed)
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        for number in range(COUNT):
            await bench.put(number, chance.choice([0, 1, 4096, 20_000]))
    early = chance.sample(range(COUNT), COUNT // 2)
    for number in early:
        damage(path_of(tmp_path, number), chance)
    async with tier_running(lambda: tier_at(tmp_path)) as bench:
        found = {row.meta.key for row in await bench.cache.opened()}
        late = chance.sample(range(COUNT), COUNT // 4)
        for number in late:
            if path_of(tmp_path, number).exists():
                damage(path_of(tmp_path, number), chance)
        right = [number for number in range(COUNT) if await served(bench, number)]
        assert set(right) >= set(range(COUNT)) - set(early) - set(late)
        assert {key_of(number) for number in right} <= found
        assert [number for number in range(COUNT) if await served(bench, number)] == right
        await bench.ref.call(Sweep())
        assert used(bench) == bytes_in(tmp_path)
        await works(bench, tmp_path)
