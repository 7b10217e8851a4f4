"""The lines that are asked at a time: never too many, tenants in turn, and none is forgotten."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from helpers.checkpoints import turns
from hypothesis import given
from hypothesis import strategies as st

from erllama_py.serve.batches.slots import Slots

pytestmark = pytest.mark.anyio
STEPS = st.lists(st.tuples(st.sampled_from(["come", "end", "leave"]), st.integers(0, 9)), max_size=40)


class Asked:
    """Lines of tenants, those that wait and those that are asked, in the order in which they came to it."""

    def __init__(self, most: int) -> None:
        self.slots, self.asked = Slots(lambda: most), list[str]()
        self.tasks: list[tuple[str, asyncio.Task[None], asyncio.Event]] = []

    def come(self, tenant: str) -> None:
        """One more."""
        end = asyncio.Event()
        self.tasks.append((tenant, asyncio.create_task(self._ask(tenant, end)), end))

    async def _ask(self, tenant: str, end: asyncio.Event) -> None:
        async with self.slots.one(tenant):
            self.asked.append(tenant)
            try:
                await end.wait()
            finally:
                self.asked.remove(tenant)


@given(STEPS, st.integers(1, 4))
def test_no_slot_is_lost_and_none_is_given_twice(steps: list[tuple[str, int]], most: int) -> None:
    """Whatever comes, ends and is given up, asked or not: as many are asked as there are, or may be."""

    async def scenario() -> None:
        at = Asked(most)
        for what, number in steps:
            if what == "come":
                at.come("abc"[number % 3])
            elif at.tasks:
                _, task, end = at.tasks.pop(number % len(at.tasks))
                end.set() if what == "end" else task.cancel()
            await turns(5)
            assert len(at.asked) == min(most, sum(not task.done() for _, task, _ in at.tasks))
        for _, task, _ in at.tasks:
            task.cancel()
        await asyncio.gather(*(task for _, task, _ in at.tasks), return_exceptions=True)

    asyncio.run(scenario())


async def test_tenants_take_turns() -> None:
    """One that has many lines waiting leaves the next slots to one that comes later."""
    at = Asked(4)
    for _ in range(12):
        at.come("many")
    await turns(5)
    for _ in range(6):
        at.come("few")
    for _ in range(2):
        at.tasks.pop(0)[2].set()
    await turns(5)
    assert Counter(at.asked) == {"many": 2, "few": 2}
    for _, task, _ in at.tasks:
        task.cancel()
    await asyncio.gather(*(task for _, task, _ in at.tasks), return_exceptions=True)
