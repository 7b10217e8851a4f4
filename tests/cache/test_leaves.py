"""Leaves come by their last use, in whatever order they were reported."""

from __future__ import annotations

from contextlib import closing

from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cache.orders import LEAST_OUTDATED, Leaves

KEYS = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])
MOVES = st.lists(st.tuples(KEYS, st.none() | st.integers(0, 9).map(float)), max_size=40)


@given(MOVES, st.integers(0, 6))
def test_the_least_recently_used_comes_first(moves: list[tuple[bytes, float | None]], looked_at: int) -> None:
    """As sorting all of them would have it; a look that stops half way changes nothing."""
    leaves, model = Leaves(), dict[bytes, float]()
    for key, used_at in moves:
        if used_at is None:
            leaves.discard(key)
            model.pop(key, None)
        else:
            leaves.add(key, used_at)
            model[key] = used_at
        with closing(leaves.oldest()) as oldest:
            for _ in zip(range(looked_at), oldest, strict=False):
                pass
    found = list(leaves.oldest())
    assert set(found) == set(model)
    assert len(found) == len(model) == len(leaves)
    assert [model[key] for key in found] == sorted(model.values())
    assert list(leaves.oldest()) == found


def test_a_leaf_that_is_used_without_end_takes_no_more_memory() -> None:
    """Outdated entries are dropped although nothing is ever evicted."""
    leaves = Leaves()
    for second in range(10 * LEAST_OUTDATED):
        leaves.add(b"a", float(second))
    assert len(leaves._heap) <= 2 + LEAST_OUTDATED
    assert list(leaves.oldest()) == [b"a"]
