"""The walk finds the longest saved prefix, whatever was saved, and nothing that does not match token for token."""

from __future__ import annotations

from typing import Any

from helpers.rows import IDENTITY, chain, meta, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from erllama_py.cache.index import Index
from erllama_py.cache.keys import Identity, common_prefix, pack_tokens
from erllama_py.cache.walk import Hit, walk
from erllama_py.tiers.messages import RowMeta

UNIT = 16  # tokens that stand for one letter of a story


def spell(letters: list[int]) -> list[int]:
    """A conversation with `UNIT` tokens for each letter."""
    return [letter * 100 + place for letter in letters for place in range(UNIT)]


def index_of(*rows: RowMeta, tier: str = "disk") -> Index:
    index = Index()
    index.add_tier("disk", "disk", 1 << 40)
    index.add_tier("ram", "ram", 1 << 40)
    for row in rows:
        index.add(tier, stored(row))
    return index


def look(index: Index, tokens: list[int], *, cuttable: bool = False, tier: str | None = "disk") -> Hit:
    return walk(index, IDENTITY, pack_tokens(tokens), cuttable=cuttable, tier=tier)


LETTERS = st.lists(st.integers(0, 1), min_size=1, max_size=7)


@st.composite
def saved(draw: Any) -> tuple[list[RowMeta], list[int]]:
    """Rows of some conversations with common beginnings, cut anywhere, some of them missing; and a prompt."""
    rows: dict[tuple[bytes, int], RowMeta] = {}
    for letters in draw(st.lists(LETTERS, max_size=4)):
        tokens = spell(letters)
        ends = sorted(draw(st.sets(st.integers(1, len(tokens)), min_size=1, max_size=4)))
        for row in chain(tokens, *ends):
            rows[row.key, row.start] = row
    kept = [row for row in rows.values() if draw(st.integers(0, 4))]
    prompt = spell(draw(LETTERS))
    return kept, prompt[: draw(st.integers(1, len(prompt)))]


def longest(rows: list[RowMeta], prompt: list[int]) -> set[int]:
    """Everywhere that a gapless chain of matching rows from 0 can end."""
    reached, packed = {0}, pack_tokens(prompt)
    for _ in rows:
        for row in rows:
            if row.start in reached and row.end <= len(prompt) and packed[4 * row.start : 4 * row.end] == row.tokens:
                reached.add(row.end)
    return reached


@given(saved(), st.booleans())
@settings(max_examples=300)
def test_it_finds_what_a_search_of_everything_finds(case: tuple[list[RowMeta], list[int]], cuttable: bool) -> None:
    """Also when the same end was cut in two ways, and when rows on the way are missing."""
    rows, prompt = case
    unique = {row.key: row for row in rows}  # one tier holds one row for a key
    index = index_of(*unique.values())
    hit, reached = look(index, prompt, cuttable=cuttable), longest(list(unique.values()), prompt)
    whole = max(reached)
    if not cuttable:
        assert hit.length == whole
    else:
        packed = pack_tokens(prompt)
        parts = [row.start + common_prefix(row.tokens, packed[4 * row.start :]) for row in unique.values()
                 if row.start in reached and packed[: 4 * row.start] == _before(row, unique)]  # fmt: skip
        assert hit.length == max([whole, *[part for part in parts]])
    assert hit.saved_to == whole
    assert hit.exact == (hit.length == len(prompt)) == (hit.miss is None)


def _before(row: RowMeta, rows: dict[bytes, RowMeta]) -> bytes:
    """The tokens before a row, from its ancestors; something that matches nothing where one is missing."""
    tokens = b""
    while row.start:
        parent = rows.get(row.parent)
        if parent is None:
            return b"missing"
        tokens, row = parent.tokens + tokens, parent
    return tokens


@given(saved(), st.booleans())
def test_a_chain_has_no_gaps_and_is_the_prompt(case: tuple[list[RowMeta], list[int]], cuttable: bool) -> None:
    """From position 0, each row's parent is the row before; only the last may go on beyond what matches."""
    rows, prompt = case
    hit = look(index_of(*rows), prompt, cuttable=cuttable)
    position, parent, packed = 0, IDENTITY.root, pack_tokens(prompt)
    for place, located in enumerate(hit.chain):
        row = located.meta
        assert (row.start, row.parent) == (position, parent)
        end = min(row.end, hit.length)
        assert row.tokens[: 4 * (end - row.start)] == packed[4 * row.start : 4 * end]
        assert end == row.end or (cuttable and place == len(hit.chain) - 1)
        position, parent = row.end, row.key
    assert (hit.chain[-1].meta.start < hit.length <= hit.chain[-1].meta.end) if hit.chain else hit.length == 0


@given(saved())
def test_a_look_changes_nothing(case: tuple[list[RowMeta], list[int]]) -> None:
    """Twice the same answer, and the same rows, hits and pins as before."""
    rows, prompt = case
    index = index_of(*rows)
    before = [(row.key, dict(row.copies), row.hits, index.is_pinned(row.key)) for row in index.rows()]
    assert look(index, prompt) == look(index, prompt)
    assert [(row.key, dict(row.copies), row.hits, index.is_pinned(row.key)) for row in index.rows()] == before


STORY = spell([0, 1, 0, 1, 1])
OTHER = spell([0, 1, 1, 0, 0])


def test_rows_of_two_owners_never_meet() -> None:
    """Another fingerprint, quantisation or context finds nothing, and the miss says which."""
    index = index_of(*chain(STORY, 32, 64))
    packed = pack_tokens(STORY)
    for identity, reason in (
        (Identity(b"g" * 32, 4, b"c" * 32), "empty"),
        (Identity(b"f" * 32, 5, b"c" * 32), "other_parameters"),
        (Identity(b"f" * 32, 4, b"d" * 32), "other_parameters"),
    ):
        hit = walk(index, identity, packed, cuttable=True)
        assert (hit.chain, hit.length, hit.miss and hit.miss.reason) == ((), 0, reason)


def test_rows_after_a_lost_one_do_not_count_as_rows_with_other_settings() -> None:
    """Nothing leads to them, whatever became of the first."""
    _, second = chain(STORY, 32, 64)
    miss = look(index_of(second), STORY).miss
    assert miss is not None
    assert (miss.reason, miss.position) == ("empty", 0)


def test_a_row_is_read_from_the_fastest_tier() -> None:
    """Memory before a disk, for each row by itself."""
    first, second = chain(STORY, 32, 64)
    index = index_of(first, second)
    index.add("ram", stored(second))
    assert [row.tier for row in look(index, STORY).chain] == ["disk", "ram"]


def test_ends_at_unaligned_places_are_found() -> None:
    """A reply's end, and the prompt that extends it."""
    index = index_of(*chain(STORY, 32, 51))
    assert look(index, STORY).length == 51


def test_every_end_on_the_path_is_reached() -> None:
    """Also one that the longest chain does without."""
    index = index_of(*chain(STORY, 32, 40), *chain(STORY, 32, 64)[1:], *chain(OTHER, 32, 64)[1:])
    hit = look(index, STORY)
    assert [(row.meta.start, row.meta.end) for row in hit.chain] == [(0, 32), (32, 64)]
    assert [(row.meta.start, row.meta.end) for row in hit.reached] == [(0, 32), (32, 40), (32, 64)]


def test_a_row_that_diverges_from_the_prompt_is_used_up_to_there_where_cells_can_be_cut() -> None:
    """Otherwise the row before it is the last."""
    index = index_of(*chain(OTHER, 32, 80))  # diverges from STORY at 32
    prompt = OTHER[:60] + [9] * 20
    assert look(index, prompt, cuttable=True).length == 60
    assert look(index, prompt, cuttable=False).length == 32


def test_a_pending_row_counts_as_saved_but_cannot_be_read() -> None:
    """New rows continue after it; the hit ends before it."""
    first, second = chain(STORY, 32, 64)
    index = index_of(first)
    index.books["disk"].reserve(second, 1000)
    hit = look(index, STORY)
    assert (hit.length, hit.saved_to) == (32, 64)
    assert hit.miss is not None
    assert (hit.miss.reason, hit.miss.position) == ("saving", 32)


def test_what_another_tier_holds_is_not_saved_for_this_one() -> None:
    """A tier must hold whole chains: rows for it start where its own end."""
    first, second = chain(STORY, 32, 64)
    index = index_of(first)
    index.add("ram", stored(second))
    assert look(index, STORY, tier="disk").saved_to == 32
    assert look(index, STORY, tier="ram").saved_to == 0
    assert look(index, STORY, tier=None).saved_to == 0


def test_a_miss_says_what_happened() -> None:
    """Nothing there; another token; the end of what is saved; evicted; damaged."""
    first, second = chain(STORY, 32, 64)

    def miss(index: Index, prompt: list[int]) -> tuple[str, int]:
        found = look(index, prompt).miss
        assert found is not None
        return found.reason, found.position

    assert miss(Index(), STORY) == ("empty", 0)
    assert miss(index_of(first), STORY) == ("ends", 32)
    assert miss(index_of(first, second), STORY[:40] + [9] * 40) == ("diverges", 40)
    assert miss(index_of(first), [9] * 40) == ("diverges", 0)
    for why in ("evicted", "bad"):
        index = index_of(first, second)
        index.drop("disk", second.key, why)
        assert miss(index, STORY) == (why, 32)
        index.add("disk", stored(second))
        assert miss(index, STORY) == ("ends", 64)


def test_a_row_of_the_same_end_but_another_start_does_not_break_a_chain() -> None:
    """Two tiers, cut differently: each chain is whole in itself."""
    index = index_of(*chain(STORY, 32, 64))
    index.add("ram", stored(meta(STORY, 0, 64)))
    hit = look(index, STORY)
    assert [(row.meta.start, row.meta.end, row.tier) for row in hit.chain] == [(0, 64, "ram")]
    index.remove_tier("ram")
    assert [(row.meta.start, row.meta.end) for row in look(index, STORY).chain] == [(0, 32), (32, 64)]
