"""Mailboxes: order, urgency, fullness, closing, and what they show of themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from helpers.checkpoints import quiet_loop, turns
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.actors import MailboxClosed
from erllama_py.actors.errors import MailboxFull
from erllama_py.actors.mailbox import Mailbox

pytestmark = pytest.mark.anyio


async def take_all(mailbox: Mailbox[object]) -> list[object]:
    return [await mailbox.get() for _ in range(len(mailbox))]


async def test_items_come_out_in_the_order_in_which_they_went_in() -> None:
    """First in, first out."""
    mailbox: Mailbox[object] = Mailbox("box")
    for item in "abc":
        mailbox.put(item)
    assert await take_all(mailbox) == ["a", "b", "c"]


async def test_urgent_items_come_first_in_order_among_themselves() -> None:
    """Urgency overtakes what waits, not other urgency."""
    mailbox: Mailbox[object] = Mailbox("box")
    for item, urgent in [("a", False), ("X", True), ("b", False), ("Y", True)]:
        mailbox.put(item, urgent=urgent)
    assert await take_all(mailbox) == ["X", "Y", "a", "b"]


def test_a_full_mailbox_refuses_and_says_how_full_it_is() -> None:
    """The refused item is not queued, and the facts are in the error."""
    mailbox: Mailbox[int] = Mailbox("box", capacity=2)
    mailbox.put(1)
    mailbox.put(2)
    with pytest.raises(MailboxFull) as refusal:
        mailbox.put(3)
    assert (refusal.value.name, refusal.value.waiting, refusal.value.capacity) == ("box", 2, 2)
    assert mailbox.close() == [1, 2]


def test_urgent_items_are_never_refused_for_fullness() -> None:
    """A stop request must get in whatever waits."""
    mailbox: Mailbox[int] = Mailbox("box", capacity=1)
    mailbox.put(1)
    mailbox.put(2, urgent=True)
    mailbox.put(3, urgent=True)
    assert mailbox.close() == [2, 3, 1]


def test_a_mailbox_that_holds_nothing_is_refused() -> None:
    """Capacity counts from one."""
    with pytest.raises(ValueError, match="at least one"):
        Mailbox("box", capacity=0)


async def test_a_closed_mailbox_takes_and_gives_nothing() -> None:
    """`close` hands over what was left; after it both ends raise."""
    mailbox: Mailbox[int] = Mailbox("box")
    mailbox.put(1)
    assert mailbox.close() == [1]
    assert mailbox.close() == []
    with pytest.raises(MailboxClosed):
        mailbox.put(2, urgent=True)
    with pytest.raises(MailboxClosed):
        await mailbox.get()


async def test_closing_wakes_a_taker_that_waits() -> None:
    """No taker waits for ever on a closed mailbox."""
    async with quiet_loop():
        mailbox: Mailbox[int] = Mailbox("box")
        taker = asyncio.ensure_future(mailbox.get())
        await turns()
        mailbox.close()
        with pytest.raises(MailboxClosed):
            await taker


async def test_a_cancelled_taker_has_taken_nothing() -> None:
    """An item that arrives together with the cancellation stays for the next taker."""
    async with quiet_loop():
        mailbox: Mailbox[str] = Mailbox("box")
        taker = asyncio.ensure_future(mailbox.get())
        await turns()
        mailbox.put("kept")
        taker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taker
        assert await mailbox.get() == "kept"


async def test_a_second_taker_is_an_error_at_once() -> None:
    """Two takers would share the items at random."""
    async with quiet_loop():
        mailbox: Mailbox[int] = Mailbox("box")
        first = asyncio.ensure_future(mailbox.get())
        await turns()
        with pytest.raises(RuntimeError, match="taker already"):
            await mailbox.get()
        mailbox.put(1)
        assert await first == 1


async def test_a_taker_of_many_items_lets_the_event_loop_run() -> None:
    """A busy actor whose handler never waits does not hold the loop until its mailbox is empty."""
    mailbox: Mailbox[int] = Mailbox("box")
    for item in range(1000):
        mailbox.put(item)
    waiting_when_the_loop_ran: list[int] = []
    asyncio.get_running_loop().call_soon(lambda: waiting_when_the_loop_ran.append(len(mailbox)))
    await take_all(mailbox)  # type: ignore[arg-type]  # a mailbox of ints is read as one of objects
    assert waiting_when_the_loop_ran[0] > 0


def test_counts_and_repr_show_what_happened() -> None:
    """One printed line tells an operator what a test reads in fields."""
    mailbox: Mailbox[int] = Mailbox("box", capacity=2)
    mailbox.put(1)
    mailbox.put(2)
    with pytest.raises(MailboxFull):
        mailbox.put(3)
    assert (len(mailbox), mailbox.capacity, mailbox.received) == (2, 2, 2)
    assert (mailbox.refused, mailbox.peak) == (1, 2)
    assert repr(mailbox) == "<Mailbox 'box' 2 of 2 waiting, received 2, refused 1, peak 2>"
    mailbox.close()
    assert "closed" in repr(mailbox)


@given(puts=st.lists(st.booleans()), capacity=st.integers(1, 5))
def test_nothing_is_lost_and_nothing_is_invented(puts: Sequence[bool], capacity: int) -> None:
    """What comes out is what went in: urgent ones first, both kinds in order, the refused ones counted."""
    mailbox: Mailbox[int] = Mailbox("box", capacity)
    accepted: list[tuple[bool, int]] = []
    for item, urgent in enumerate(puts):
        try:
            mailbox.put(item, urgent=urgent)
            accepted.append((urgent, item))
        except MailboxFull:
            assert not urgent
            assert sum(not was_urgent for was_urgent, _ in accepted) == capacity
    assert mailbox.received == mailbox.peak == len(accepted)
    assert mailbox.received + mailbox.refused == len(puts)
    in_order = [item for urgent, item in accepted if urgent] + [item for urgent, item in accepted if not urgent]
    assert mailbox.close() == in_order


async def test_an_unbounded_item_keeps_its_place_and_is_never_refused() -> None:
    """What takes work back must neither be lost nor overtake the work."""
    mailbox: Mailbox[object] = Mailbox("box", capacity=2)
    mailbox.put("a")
    mailbox.put("b")
    mailbox.put("cancel a", bounded=False)
    with pytest.raises(MailboxFull):
        mailbox.put("c")
    assert await take_all(mailbox) == ["a", "b", "cancel a"]
