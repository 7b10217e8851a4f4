"""Turns in the index: found by their keys and nothing else, with exactly the tokens that were kept, whatever goes."""

from __future__ import annotations

import random
from collections.abc import Sequence

from helpers.rows import IDENTITY, chain, stored
from hypothesis import given, settings
from hypothesis import strategies as st

from erllama_py.cache.book import MOST_TURN_BYTES, TURN_SHARE, Book
from erllama_py.cache.eviction import choose_victims, evict_bytes, orphans
from erllama_py.cache.index import Index
from erllama_py.cache.keys import pack_tokens
from erllama_py.cache.reservation import Refused, Reservations, row_bytes
from erllama_py.cache.turns import NewTurn, find_turn, turn_rows
from erllama_py.cache.walk import walk
from erllama_py.tiers.messages import RowMeta, StoredRow

QUOTA = 64 << 20
KEYS = [bytes([number]) * 32 for number in range(6)]
FILE = 4096  # bytes of a small turn in a tier


class Tier:
    """One tier of an index, in which saves are done at once, or stay pending."""

    def __init__(self, quota: int = QUOTA) -> None:
        self.index = Index()
        self.reservations = Reservations(self.index)
        self.now = 0.0
        self.index.add_tier("disk", "disk", quota)

    @property
    def book(self) -> Book:
        return self.index.books["disk"]

    def keep(
        self, tokens: Sequence[int], *found_by: bytes, after: bytes | None = None, pending: bool = False
    ) -> list[RowMeta]:
        """Keep a turn; the rows that found room."""
        self.now += 1.0
        new = NewTurn(
            identity=IDENTITY, found_by=found_by, tokens=pack_tokens(tokens), after=after, build="b1", seconds=1.0
        )
        kept = []
        for meta in turn_rows(new, self.book, self.now):
            answer = self.reservations.reserve(meta, "disk", row_bytes(meta), self.now)
            self.reservations.confirm_removed("disk", answer.victims)
            if isinstance(answer, Refused):
                continue
            if not pending:
                self.reservations.settle(answer.id)
                self.index.add("disk", StoredRow(meta=meta, nbytes=FILE, hits=0, used_at=self.now))
            kept.append(meta)
        return kept

    def found(self, *keys: bytes) -> list[int] | None:
        """The tokens of the turn that is found."""
        turn = find_turn(self.index, keys)
        return None if turn is None else list(memoryview(turn.tokens).cast("I"))


def test_a_turn_is_found_from_the_moment_it_is_kept() -> None:
    """While it is pending, and once it is stored; by each of its keys, and by no other."""
    for pending in (True, False):
        tier = Tier()
        tier.keep([1, 2, 3], KEYS[0], KEYS[1], pending=pending)
        assert tier.found(KEYS[0]) == tier.found(KEYS[1]) == [1, 2, 3]
        assert tier.found(KEYS[2]) is None
        assert tier.found(KEYS[2], KEYS[1]) == [1, 2, 3]


def test_a_turn_that_continues_another_takes_its_own_tokens_alone() -> None:
    """So a long conversation takes as many tokens as it has; what is found is the whole."""
    tier = Tier()
    tier.keep([1, 2, 3], KEYS[0])
    [row] = tier.keep([1, 2, 3, 4, 5], KEYS[1], after=KEYS[0])
    assert (row.start, row.end, len(row.tokens)) == (3, 5, 8)
    assert tier.found(KEYS[1]) == [1, 2, 3, 4, 5]


def test_a_turn_that_does_not_begin_with_the_one_before_is_whole() -> None:
    """The conversation was rendered anew, or that reply was made of other tokens."""
    tier = Tier()
    tier.keep([1, 2, 3], KEYS[0])
    [row] = tier.keep([1, 9, 3, 4, 5], KEYS[1], after=KEYS[0])
    assert row.start == 0
    assert tier.found(KEYS[1]) == [1, 9, 3, 4, 5]


def test_the_latest_of_replies_that_say_the_same_is_found() -> None:
    """Each continues with its own tokens."""
    tier = Tier()
    tier.keep([1, 2, 3], KEYS[0])
    tier.keep([1, 7, 3], KEYS[0])
    tier.keep([1, 2, 3, 4], KEYS[1], after=KEYS[0])
    tier.keep([1, 7, 3, 4], KEYS[2], after=KEYS[0])
    assert tier.found(KEYS[0]) == [1, 7, 3]
    assert (tier.found(KEYS[1]), tier.found(KEYS[2])) == ([1, 2, 3, 4], [1, 7, 3, 4])


def test_turns_are_no_cells() -> None:
    """A look-up of a prompt finds none, and a miss does not name them."""
    tier = Tier()
    tier.keep([1, 2, 3], KEYS[0])
    hit = walk(tier.index, IDENTITY, pack_tokens([1, 2, 3]), cuttable=True, tier="disk")
    assert (hit.length, hit.chain, hit.saved_to) == (0, (), 0)
    assert hit.miss is not None
    assert hit.miss.reason == "empty"


def test_a_large_quota_gives_turns_no_more_than_memory_holds() -> None:
    """Their tokens are in the index, whatever the tier is made of."""
    small, large = Book("disk", 16 << 20), Book("disk", 1 << 40)
    assert small.turn_excess() == -(1 << 20)
    assert large.turn_excess() == -MOST_TURN_BYTES


def test_turns_keep_to_their_share_and_cells_to_theirs() -> None:
    """Older turns go for new ones, and no cells; cells make room by cells."""
    tier = Tier(QUOTA)
    cells = chain([5] * 64, 64)[0]
    tier.index.add("disk", stored(cells, QUOTA // 2))
    most = QUOTA // TURN_SHARE // FILE
    for number in range(most + 50):
        assert tier.keep([number], number.to_bytes(32, "little"))
    assert tier.book.turn_bytes <= QUOTA // TURN_SHARE
    assert cells.key in tier.book.rows
    assert tier.found((most + 49).to_bytes(32, "little")) == [most + 49]
    assert tier.found((0).to_bytes(32, "little")) is None
    assert tier.index.losses.has_turn((0).to_bytes(32, "little"))
    victims, _ = choose_victims(tier.index, "disk", 1000, tier.now)
    assert victims == (cells.key,)


def test_turns_go_where_nothing_else_is_left() -> None:
    """Who asks for room gets all that there is."""
    tier = Tier()
    tier.keep([1, 2, 3], KEYS[0])
    tier.keep([1, 2, 3, 4], KEYS[1], after=KEYS[0])
    gone = [key for _, keys in evict_bytes(tier.index, ["disk"], 1 << 40, tier.now) for key in _removed(tier, keys)]
    assert len(gone) == 2
    assert tier.found(*KEYS) is None
    assert tier.book.turn_bytes == 0


def _removed(tier: Tier, keys: tuple[bytes, ...]) -> tuple[bytes, ...]:
    tier.reservations.remove("disk", keys)
    tier.reservations.confirm_removed("disk", keys)
    return keys


def test_what_follows_a_lost_turn_is_not_found_and_is_garbage() -> None:
    """A file that was damaged takes with it what extends it, until the same tokens are kept again."""
    tier = Tier()
    [first] = tier.keep([1, 2, 3], KEYS[0])
    [second] = tier.keep([1, 2, 3, 4], KEYS[1], after=KEYS[0])
    tier.index.drop("disk", first.key, "bad")
    assert tier.found(KEYS[1]) is None
    assert [*orphans(tier.index, "disk")] == [("disk", (second.key,))]
    tier.keep([1, 9, 3], KEYS[0])  # the same words by other tokens
    assert tier.found(KEYS[1]) is None
    tier.keep([1, 2, 3], KEYS[0])
    assert tier.found(KEYS[1]) == [1, 2, 3, 4]


def test_a_turn_in_two_tiers_is_found_while_one_has_it() -> None:
    """Whole in one of them: no chain goes across tiers."""
    tier = Tier()
    tier.index.add_tier("other", "disk", QUOTA)
    rows = [*tier.keep([1, 2, 3], KEYS[0]), *tier.keep([1, 2, 3, 4], KEYS[1], after=KEYS[0])]
    for row in rows:
        tier.index.add("other", StoredRow(meta=row, nbytes=FILE, hits=0, used_at=0.0))
    tier.index.remove_tier("disk")
    assert tier.found(KEYS[1]) == [1, 2, 3, 4]
    tier.index.drop("other", rows[0].key)
    assert tier.found(KEYS[1]) is None


@settings(max_examples=200)
@given(st.randoms(use_true_random=False))
def test_whatever_happens_a_turn_has_the_tokens_it_was_kept_with(draw: random.Random) -> None:
    """Kept, continued, stored, lost, evicted and kept again in any order; the bytes stay counted."""
    tier, kept = Tier(QUOTA), dict[bytes, list[list[int]]]()
    for _ in range(draw.randrange(1, 25)):
        match draw.choice(["keep", "keep", "continue", "lose", "evict"]):
            case "keep":
                tokens, after = [draw.randrange(3) for _ in range(draw.randrange(1, 4))], None
            case "continue" if kept:
                after = draw.choice(list(kept))
                tokens = [*draw.choice(kept[after]), draw.randrange(3)]
            case "lose" if tier.book.rows:
                tier.index.drop("disk", draw.choice(list(tier.book.rows)), "bad")
                continue
            case _:
                _removed(tier, choose_victims(tier.index, "disk", draw.randrange(1, 9000), tier.now)[0])
                continue
        key = draw.choice(KEYS)
        if tier.keep(tokens, key, after=after, pending=draw.random() < 0.2):
            kept.setdefault(key, []).append(tokens)
            assert tier.found(key) == tokens
        for known, all_tokens in kept.items():
            assert tier.found(known) in [None, *all_tokens]
        stored_turns = sum(copy.nbytes for copy in tier.book.rows.values())
        assert tier.book.turn_bytes == stored_turns + tier.book.reserved
