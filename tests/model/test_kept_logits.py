"""The logits of recent prompts: within a budget, the least recently used go first."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from erllama_py.model.look_ups import KeptLogits


def test_what_was_put_is_there() -> None:
    """And what was not is not."""
    kept = KeptLogits()
    kept.put(b"a", b"1234")
    assert kept.get(b"a") == b"1234"
    assert kept.get(b"b") is None


def test_the_least_recently_used_go_first() -> None:
    """Asking for some is a use."""
    kept = KeptLogits(12)
    for key in (b"a", b"b", b"c"):
        kept.put(key, b"1234")
    kept.get(b"a")
    kept.put(b"d", b"1234")
    assert [key for key in (b"a", b"b", b"c", b"d") if kept.get(key)] == [b"a", b"c", b"d"]


def test_what_is_put_again_takes_the_place_of_what_was_there() -> None:
    """It is counted once, and is the most recent."""
    kept = KeptLogits(8)
    kept.put(b"a", b"1234")
    kept.put(b"b", b"1234")
    kept.put(b"a", b"5678")
    assert "2 prompts" in repr(kept)
    kept.put(b"c", b"1234")
    assert (kept.get(b"a"), kept.get(b"b")) == (b"5678", None)


def test_what_is_larger_than_the_budget_costs_the_others_nothing() -> None:
    """It is not kept, and neither is what it was to take the place of."""
    kept = KeptLogits(8)
    kept.put(b"a", b"1234")
    kept.put(b"b", b"1234")
    kept.put(b"b", b"123456789")
    assert (kept.get(b"a"), kept.get(b"b")) == (b"1234", None)


KEYS = [b"a", b"b", b"c", b"d"]


@given(st.integers(0, 20), st.lists(st.tuples(st.sampled_from(KEYS), st.none() | st.integers(0, 25)), max_size=30))
def test_it_is_a_dict_that_forgets(budget: int, steps: list[tuple[bytes, int | None]]) -> None:
    """The same as the plainest way to do it: drop the oldest while the sum is too large."""
    kept, plain = KeptLogits(budget), OrderedDict[bytes, bytes]()
    for key, size in steps:
        if size is None:
            assert kept.get(key) == plain.get(key)
            if key in plain:
                plain.move_to_end(key)
            continue
        kept.put(key, bytes(size))
        plain.pop(key, None)
        if size <= budget:
            plain[key] = bytes(size)
        while sum(map(len, plain.values())) > budget:
            plain.popitem(last=False)
    assert [kept.get(key) for key in KEYS] == [plain.get(key) for key in KEYS]
