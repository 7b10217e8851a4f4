"""Whoever shares the model with others says what it says alone: through llama.cpp, with every kind of memory.

A seeded die decides all that happens, see `helpers.side_by_side`. Each reply is compared token for token with that of a
context that serves no other request.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.side_by_side import SEQUENCES, Crowd, Maker, alone, prompts
from helpers.tiny_gguf import KINDS


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, models: Path) -> Iterator[Maker]:
    maker = Maker(request.param, models)
    yield maker
    for backend in maker.made:
        backend.close()


@pytest.mark.slow
def test_a_reply_does_not_depend_on_other_requests(make: Maker) -> None:
    """Side by side, arriving at any tick, parked in the prompt or in the reply, restored or computed again, forked."""
    seen: Counter[str] = Counter()
    for seed in range(5):
        dice = random.Random(seed)
        asked = prompts(dice)
        crowd = Crowd(make(SEQUENCES), asked, dice)
        assert crowd.serve() == {number: alone(make, tokens) for number, tokens in asked.items()}, seed
        seen += crowd.seen
    for what in ("asked for cells", "came back whole", "came back in part", "came back empty"):
        assert seen[what] >= 5, seen
    assert (seen["shared"] >= 5) == (make.kind == "dense"), seen
