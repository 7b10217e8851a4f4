"""What a look-up waits for: a pending row, tiers that are being opened, or nothing."""

from __future__ import annotations

import pytest
from helpers.rows import IDENTITY, chain, stored

from erllama_py.cache.index import Index
from erllama_py.cache.keys import pack_tokens
from erllama_py.cache.messages import Find
from erllama_py.cache.reservation import Reservations, Reserved
from erllama_py.cache.steps import run
from erllama_py.cache.waiting import OPENING, awaited

PROMPT = list(range(96))
FIRST, SECOND = chain(PROMPT, 64, 96)


def find(
    tokens: list[int] = PROMPT, parent_key: bytes | None = None, wait_seconds: float = 1.0, after_saves: bool = False
) -> Find:  # fmt: skip
    return Find(
        holder="m", request_id=1, identity=IDENTITY, tokens=pack_tokens(tokens), cuttable=True, tier="disk",
        parent_key=parent_key, wait_seconds=wait_seconds, after_saves=after_saves,
    )  # fmt: skip


@pytest.fixture
def books() -> tuple[Index, Reservations]:
    """A disk that has the first row, with the second one pending."""
    index = Index()
    index.add_tier("disk", "disk", 1 << 30)
    index.add("disk", stored(FIRST))
    reservations = Reservations(index)
    assert isinstance(reservations.reserve(SECOND, "disk", 1000, 1.0), Reserved)
    return index, reservations


@pytest.mark.parametrize("opening", [False, True])
def test_a_pending_row_is_awaited_by_a_look_up_that_names_it(books: tuple[Index, Reservations], opening: bool) -> None:
    """Where it is on the prompt's path, and they have time; one that is there already is not."""
    assert run(awaited(find(parent_key=SECOND.key), *books, opening)) == SECOND.key
    assert run(awaited(find(parent_key=FIRST.key), *books, opening)) is None
    else_ = OPENING if opening else None
    assert run(awaited(find(PROMPT[:80], SECOND.key), *books, opening)) == else_  # it ends after the prompt
    assert run(awaited(find([7] * 96, SECOND.key), *books, opening)) == else_
    assert run(awaited(find(parent_key=SECOND.key, wait_seconds=0.0), *books, opening)) is None


@pytest.mark.parametrize("parent_key", [None, b"k" * 32])
@pytest.mark.parametrize("opening", [False, True])
def test_what_is_being_saved_of_a_prompt_is_awaited_where_that_is_asked_for(
    books: tuple[Index, Reservations], parent_key: bytes | None, opening: bool
) -> None:
    """The last row on its path; not one that diverges from it, and not where all of them are there."""
    assert run(awaited(find(parent_key=parent_key, after_saves=True), *books, opening)) == SECOND.key
    else_ = OPENING if opening else None
    assert run(awaited(find(PROMPT[:80], parent_key, after_saves=True), *books, opening)) == else_
    assert run(awaited(find([*PROMPT[:80], *[7] * 40], parent_key, after_saves=True), *books, opening)) == else_
    assert run(awaited(find(parent_key=parent_key, after_saves=True, wait_seconds=0.0), *books, opening)) is None
    index, reservations = books
    index.add("disk", stored(SECOND))
    assert run(awaited(find(after_saves=True), index, reservations, False)) is None


@pytest.mark.parametrize("parent_key", [None, b"k" * 32])
def test_tiers_that_open_are_awaited_where_more_may_be_found(
    books: tuple[Index, Reservations], parent_key: bytes | None
) -> None:
    """Not by a look-up that finds all of the prompt, nor by one without time to wait."""
    assert run(awaited(find(parent_key=parent_key), *books, True)) == OPENING
    assert run(awaited(find(parent_key=parent_key), *books, False)) is None
    assert run(awaited(find(PROMPT[:64], parent_key), *books, True)) is None
    assert run(awaited(find(parent_key=parent_key, wait_seconds=0.0), *books, True)) is None
