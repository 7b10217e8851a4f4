"""Many clients over sockets, a fifth of whom leave at random: nothing of them is left."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from helpers.http_soak import soaked

CLIENTS = 40
REQUESTS = 300


@pytest.mark.slow
@pytest.mark.anyio
async def test_nothing_is_left_of_many_clients(tmp_path: Path) -> None:
    """No request, task, sequence, cell, file or thread; no error but 429. `benchmarks/soak_http.py` does it for longer,
    with more clients, and looks at the memory."""
    async with soaked(tmp_path) as soak:
        held = []
        for _ in range(2):
            await soak.round(CLIENTS, partial(next, iter([True] * REQUESTS), False))
            held.append(await soak.at_rest())
        assert soak.problems == []
        assert held[0] == held[1]
        assert soak.done["left"] > REQUESTS // 10
        assert soak.done["200"] > REQUESTS // 4
        assert soak.done["streams"] > REQUESTS // 8
