"""Rows that go on from one key come by what they have in common with a prompt, as a search of all of them finds."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cache.keys import pack_tokens
from erllama_py.cache.siblings import Siblings, common_tokens

# Of few and of far apart tokens, so that lists share beginnings, and bytes of one token are those of another.
SPANS = st.lists(st.sampled_from([0, 1, 256, 1 << 24]), max_size=6).map(pack_tokens)


def filled(spans: list[bytes]) -> Siblings:
    siblings = Siblings()
    for number, span in enumerate(spans):
        siblings.add(span, number.to_bytes(2, "big"), len(span) // 4)
    return siblings


@given(st.lists(SPANS, max_size=20), SPANS)
def test_those_with_most_in_common_come_first(spans: list[bytes], rest: bytes) -> None:
    """Each once, with the right number of tokens in common."""
    found = list(filled(spans).nearest(rest))
    assert sorted(key for _, _, key in found) == [number.to_bytes(2, "big") for number in range(len(spans))]
    assert [common for common, _, _ in found] == sorted((common for common, _, _ in found), reverse=True)
    assert all(common == common_tokens(span, rest) for common, span, _ in found)
    assert all(span == spans[int.from_bytes(key, "big")] for _, span, key in found)


@given(st.lists(SPANS, max_size=20), st.data())
def test_what_is_removed_is_gone_and_the_rest_is_there(spans: list[bytes], data: st.DataObject) -> None:
    """The ends too are those of the rows that are left."""
    siblings = filled(spans)
    gone = data.draw(st.sets(st.sampled_from(range(len(spans))))) if spans else set()
    for number in gone:
        siblings.remove(spans[number], number.to_bytes(2, "big"), len(spans[number]) // 4)
    left = [number for number in range(len(spans)) if number not in gone]
    assert sorted(int.from_bytes(key, "big") for _, _, key in siblings.nearest(b"")) == left
    assert sorted(siblings.ends.elements()) == sorted(len(spans[number]) // 4 for number in left)


def test_a_row_that_two_tiers_have_is_there_until_both_have_lost_it() -> None:
    """It is added for each of them."""
    siblings = filled([])
    siblings.add(b"1234", b"k", 1)
    siblings.add(b"1234", b"k", 1)
    siblings.remove(b"1234", b"k", 1)
    assert list(siblings.nearest(b"1234")) == [(1, b"1234", b"k")]


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=40))
def test_common_tokens_counts_whole_tokens(left: list[int], right: list[int]) -> None:
    """As comparing one by one would."""
    count = 0
    while count < min(len(left), len(right)) and left[count] == right[count]:
        count += 1
    assert common_tokens(pack_tokens(left), pack_tokens(right)) == count
