"""The orders of a book: leaves by their last use, siblings by what they have in common with a prompt."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from erllama_py.cache.keys import common_prefix, pack_tokens
from erllama_py.cache.orders import RUN, Child, Leaves, Order, Siblings

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
        for _ in zip(range(looked_at), leaves.oldest(), strict=False):
            pass
    found = list(leaves.oldest())
    assert set(found) == set(model)
    assert len(found) == len(model) == len(leaves)
    assert [model[key] for key in found] == sorted(model.values())
    assert list(leaves.oldest()) == found


def test_an_order_of_many_is_kept_in_runs() -> None:
    """Whatever comes and goes: no run is empty or longer than a change may move, and what is gone leaves nothing."""
    chance, order, model = random.Random(3), Order(), dict[bytes, tuple[float, int]]()
    for number in range(20 * RUN):
        key = chance.randrange(6 * RUN).to_bytes(4, "big")
        if chance.random() < 0.3:
            order.discard(key)
            model.pop(key, None)
        else:
            order.place(key, float(chance.randrange(50)), number)
            model[key] = order.time(key) or 0.0, number
    assert list(order) == sorted(model, key=lambda key: model[key])
    assert all(0 < len(run) <= RUN for run in order._runs)
    assert [run[-1] for run in order._runs] == order._lasts
    for key in model:
        order.discard(key)
    assert (len(order), order.first(), order._runs, order._lasts) == (0, None, [], [])


# Of few and of far apart tokens, so that lists share beginnings, and bytes of one token are those of another.
SPANS = st.lists(st.sampled_from([0, 1, 256, 1 << 24]), max_size=6).map(pack_tokens)


def child(spans: list[bytes], number: int) -> Child:
    return Child(spans[number], number.to_bytes(2, "big"), len(spans[number]) // 4)


def filled(spans: list[bytes]) -> Siblings:
    siblings = Siblings()
    for number in range(len(spans)):
        siblings.add(child(spans, number))
    return siblings


@given(st.lists(SPANS, max_size=20), SPANS)
def test_those_with_most_in_common_come_first(spans: list[bytes], rest: bytes) -> None:
    """Each once, with the right number of tokens in common."""
    found = list(filled(spans).nearest(rest))
    assert sorted(one.key for _, one in found) == [number.to_bytes(2, "big") for number in range(len(spans))]
    assert [common for common, _ in found] == sorted((common for common, _ in found), reverse=True)
    assert all(common == common_prefix(one.tokens, rest) for common, one in found)
    assert all(one.tokens == spans[int.from_bytes(one.key, "big")] for _, one in found)


@given(SPANS, SPANS)
def test_one_without_siblings_answers_as_if_it_had_some(span: bytes, rest: bytes) -> None:
    """It is kept by itself, and asked the same."""
    alone, among = child([span], 0), filled([span])
    assert list(alone.nearest(rest)) == list(among.nearest(rest))
    assert alone.furthest == among.furthest
    assert not span or list(alone.on_path(rest)) == [one for one in among.on_path(rest) if one is not None]


@given(st.lists(SPANS, max_size=20), st.data())
def test_what_is_removed_is_gone_and_the_rest_is_there(spans: list[bytes], data: st.DataObject) -> None:
    """The ends too are those of the rows that are left."""
    siblings = filled(spans)
    gone = data.draw(st.sets(st.sampled_from(range(len(spans))))) if spans else set()
    for number in gone:
        siblings.remove(child(spans, number))
    left = [number for number in range(len(spans)) if number not in gone]
    assert sorted(int.from_bytes(one.key, "big") for _, one in siblings.nearest(b"")) == left
    assert not left or siblings.furthest == max(len(spans[number]) // 4 for number in left)


@given(st.lists(SPANS.filter(bool), max_size=20), SPANS)
def test_those_that_a_prompt_begins_with_are_found_among_all(spans: list[bytes], rest: bytes) -> None:
    """Each once, the longest first, and with no more looks in vain than the prompt has tokens."""
    found = list(filled(spans).on_path(rest))
    there = [one for one in found if one is not None]
    assert sorted(one.key for one in there) == [
        number.to_bytes(2, "big") for number, span in enumerate(spans) if rest.startswith(span)
    ]
    assert [one.end for one in there] == sorted((one.end for one in there), reverse=True)
    assert found.count(None) <= len(rest) // 4


def test_a_row_that_two_tiers_have_is_there_until_both_have_lost_it() -> None:
    """It is added for each of them."""
    siblings, one = filled([]), Child(b"1234", b"k", 1)
    siblings.add(one)
    siblings.add(one)
    siblings.remove(one)
    assert list(siblings.nearest(b"1234")) == [(1, one)]
