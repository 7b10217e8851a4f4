"""The walk over several tiers, some rows pending, against a search of all rows; and what makes it hard."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers.rows import IDENTITY, chain, meta, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from erllama_py.cache.index import Index
from erllama_py.cache.keys import pack_tokens
from erllama_py.cache.walk import Hit, walk
from erllama_py.tiers.messages import RowMeta

UNIT = 16  # tokens for one letter
TIERS = ("ram", "disk", "none")


def spell(letters: list[int]) -> list[int]:
    return [letter * 100 + place for letter in letters for place in range(UNIT)]


def index_of(places: list[tuple[RowMeta, str, bool]]) -> Index:
    """Rows, each in a tier, stored or pending."""
    index = Index()
    index.add_tier("ram", "ram", 1 << 40)
    index.add_tier("disk", "disk", 1 << 40)
    for row, tier, there in places:
        if there:
            index.add(tier, stored(row))
        else:
            index.books[tier].reserve(row, 1000)
    return index


@st.composite
def worlds(draw: Any) -> tuple[list[tuple[RowMeta, str, bool]], list[int]]:
    """Conversations with common beginnings, cut anywhere and differently in two tiers; and a prompt."""
    letters = st.lists(st.integers(0, 1), min_size=1, max_size=6)
    places: dict[tuple[bytes, str], tuple[RowMeta, str, bool]] = {}
    for one in draw(st.lists(letters, max_size=5)):
        tokens, tier = spell(one), draw(st.sampled_from(TIERS[:2]))
        for row in chain(tokens, *sorted(draw(st.sets(st.integers(1, len(tokens)), min_size=1, max_size=4)))):
            if draw(st.integers(0, 5)):
                places.setdefault((row.key, tier), (row, tier, draw(st.integers(0, 4)) > 0))
    prompt = spell(draw(letters))
    return list(places.values()), prompt[: draw(st.integers(1, len(prompt)))]


def common(row: RowMeta, prompt: list[int]) -> int:
    """Up to which position the row has the prompt's tokens, one by one."""
    packed, count = pack_tokens(prompt)[4 * row.start :], 0
    while count < min(len(row.tokens), len(packed)) and row.tokens[count : count + 4] == packed[count : count + 4]:
        count += 4
    return row.start + count // 4


def reached(rows: list[RowMeta], prompt: list[int]) -> dict[int, bytes]:
    """Every end of a gapless chain from 0 that is the prompt, with its key."""
    found = {0: IDENTITY.root}
    for _ in rows:
        found |= {
            row.end: row.key
            for row in rows
            if found.get(row.start) == row.parent and row.end <= len(prompt) and common(row, prompt) == row.end
        }
    return found


@pytest.mark.slow
@given(worlds(), st.booleans(), st.sampled_from(TIERS))
@settings(max_examples=400)
def test_it_finds_what_a_search_of_everything_finds(
    world: tuple[list[tuple[RowMeta, str, bool]], list[int]], cuttable: bool, tier: str
) -> None:
    """How far the prompt can be read, what is saved of it in one tier, and where it diverges from everything saved."""
    places, prompt = world
    hit = walk(index_of(places), IDENTITY, pack_tokens(prompt), cuttable=cuttable, tier=tier)
    there = [row for row, _, stands in places if stands]
    readable, known = reached(there, prompt), reached([row for row, _, _ in places], prompt)
    whole = max(readable)
    parts = [common(row, prompt) for row in there if readable.get(row.start) == row.parent] if cuttable else []
    assert hit.length == max([whole, *[part for part in parts]])
    assert hit.saved_to == max(reached([row for row, name, _ in places if name == tier], prompt))
    assert hit.exact == (hit.length == len(prompt)) == (hit.miss is None)
    if hit.miss is None:
        return
    ways = [(common(row, prompt), row.end) for row, _, _ in places if known.get(row.start) == row.parent]
    parting = max((at for at, end in ways if max(known) <= at < end), default=-1)
    if max(known) > hit.length:
        assert (hit.miss.reason, hit.miss.position) == ("saving", hit.length)
    elif hit.length <= parting < len(prompt):
        assert (hit.miss.reason, hit.miss.position) == ("diverges", parting)
    else:
        assert hit.miss.reason == ("ends" if hit.length or parting >= 0 else "empty")
        assert hit.miss.position == hit.length


@given(worlds(), st.booleans())
def test_each_row_of_a_chain_is_the_next_part_of_the_prompt(
    world: tuple[list[tuple[RowMeta, str, bool]], list[int]], cuttable: bool
) -> None:
    """From 0 without a gap, stored and not pending, from memory where memory has the same row."""
    places, prompt = world
    hit = walk(index_of(places), IDENTITY, pack_tokens(prompt), cuttable=cuttable)
    position, parent = 0, IDENTITY.root
    for place, located in enumerate(hit.chain):
        row, last = located.meta, place == len(hit.chain) - 1
        assert (row.start, row.parent) == (position, parent)
        assert (row, located.tier, True) in places
        assert common(row, prompt) == row.end or (cuttable and last and common(row, prompt) == hit.length)
        assert located.tier == "ram" or (row, "ram", True) not in places
        position, parent = row.end, row.key
    assert (hit.chain[-1].meta.start < hit.length <= hit.chain[-1].meta.end) if hit.chain else hit.length == 0


PROMPT = list(range(1000, 1200))


def find(index: Index, prompt: list[int], *, cuttable: bool = True) -> Hit:
    return walk(index, IDENTITY, pack_tokens(prompt), cuttable=cuttable, tier="disk")


@pytest.mark.parametrize("cuttable", [False, True])
def test_the_best_of_many_that_begin_alike_is_found(cuttable: bool) -> None:
    """However many chats share a system prompt that no row ends with: the miss and the part are those of the best."""
    rows = [meta([*PROMPT[:100], 7, *range(5000 + 50 * number, 5050 + 50 * number)], 0, 151) for number in range(500)]
    best = meta([*PROMPT[:120], *range(30)], 0, 150)
    index = index_of([(row, "disk", True) for row in (*rows[:250], best, *rows[250:])])
    hit = find(index, PROMPT, cuttable=cuttable)
    assert (hit.length, [row.meta for row in hit.chain]) == ((120, [best]) if cuttable else (0, []))
    assert hit.miss is not None
    assert (hit.miss.reason, hit.miss.position) == ("diverges", 120)


def test_of_rows_that_give_equally_much_the_one_is_read_that_is_read_fastest() -> None:
    """Memory before a disk, then the smaller one."""
    rows = [meta([*PROMPT[:100], number, *range(number * 10)], 0, 101 + number * 10) for number in range(3)]
    index = index_of([])
    for row, nbytes in zip(rows, (3000, 2000, 4000), strict=True):
        index.add("disk", stored(row, nbytes))
    assert [located.nbytes for located in find(index, PROMPT).chain] == [2000]
    index.add("ram", stored(rows[2], 4000))
    assert [located.tier for located in find(index, PROMPT).chain] == ["ram"]


@pytest.mark.parametrize(("each", "length"), [(0.0001, 128), (0.001, 130)])
def test_a_part_is_read_if_that_takes_less_than_computing_it(each: float, length: int) -> None:
    """Two tokens more of a row of 1 MB: for 2 ms it is read, for 0.2 it is not."""
    index = index_of([])
    index.add("disk", stored(meta(PROMPT, 0, 128)))
    other = meta([*PROMPT[:130], *[7] * 70], 128, 200, prefill_seconds=72 * each)
    index.add("disk", stored(other, 1_000_000))
    assert find(index, PROMPT).length == length


def test_a_prompt_inside_of_a_row_is_exact_where_it_can_be_cut_and_missed_at_the_start_where_not() -> None:
    """A position of a miss is always one of the prompt's."""
    index = index_of([(meta(PROMPT, 0, 200), "disk", True)])
    assert find(index, PROMPT[:150]).exact
    hit = find(index, PROMPT[:150], cuttable=False)
    assert hit.length == 0
    assert hit.miss is not None
    assert (hit.miss.reason, hit.miss.position) == ("ends", 0)


@pytest.mark.parametrize("cuttable", [False, True])
def test_a_row_whose_tokens_are_not_those_of_its_key_is_never_used(cuttable: bool) -> None:
    """Nor is one beside it of the same key spoilt."""
    first, second = chain(PROMPT, 100, 200)
    wrong = msgspec.structs.replace(second, tokens=first.tokens)
    index = index_of([(first, "disk", True), (wrong, "ram", True)])
    assert find(index, PROMPT, cuttable=cuttable).length == 100
    index.add("disk", stored(second))
    hit = find(index, PROMPT, cuttable=cuttable)
    assert (hit.length, [row.tier for row in hit.chain]) == (200, ["disk", "disk"])


def test_a_row_pending_in_a_tier_that_has_it_with_another_start_is_saved() -> None:
    """A directory that is still being read may have what is saved again meanwhile."""
    first, second = chain(PROMPT, 100, 200)
    other = meta(PROMPT, 150, 200)  # extends what this tier does not have
    index = index_of([(first, "disk", True), (second, "disk", False), (other, "disk", True)])
    assert find(index, PROMPT).saved_to == 200
