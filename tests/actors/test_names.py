"""Names: one owner at a time, and watchers that hear of every change."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from erllama_py.actors import ActorRef, NameChange, NameNotFound, Names, NameTaken
from erllama_py.actors.mailbox import Mailbox

pytestmark = pytest.mark.anyio


def make_ref(name: str) -> ActorRef[Any]:
    task = asyncio.current_task()
    assert task is not None
    return ActorRef(Mailbox(name), lambda: None, task)


async def test_a_name_leads_to_its_owner_until_it_is_freed() -> None:
    """`whereis`, `in`, iteration and `len` agree."""
    names, ref = Names(), make_ref("a")
    names.register("a", ref)
    assert names.whereis("a") is ref
    assert ("a" in names, list(names), len(names)) == (True, ["a"], 1)
    assert repr(names) == "<Names a>"
    names.unregister("a", ref)
    assert names.whereis("a") is None
    assert ("a" in names, list(names), len(names)) == (False, [], 0)


async def test_a_taken_name_is_refused() -> None:
    """The first owner keeps it."""
    names, first = Names(), make_ref("a")
    names.register("a", first)
    with pytest.raises(NameTaken, match="'a'"):
        names.register("a", make_ref("a"))
    assert names.whereis("a") is first


async def test_only_its_owner_can_free_a_name() -> None:
    """A late clean-up of an old run cannot take the name from the new one."""
    names, new = Names(), make_ref("a")
    names.register("a", new)
    names.unregister("a", make_ref("a"))
    assert names.whereis("a") is new


async def test_calls_and_casts_to_a_name_without_an_actor_raise() -> None:
    """`NameNotFound`, with the name."""
    names = Names()
    with pytest.raises(NameNotFound, match="'nobody'"):
        await names.call("nobody", "hello")
    with pytest.raises(NameNotFound):
        names.cast("nobody", "hello")


async def test_watchers_get_every_change_until_they_unsubscribe() -> None:
    """In order, with the new owner or None."""
    names, ref, heard = Names(), make_ref("a"), list[NameChange]()
    unsubscribe = names.subscribe(heard.append)
    names.register("a", ref)
    names.unregister("a", ref)
    unsubscribe()
    unsubscribe()
    names.register("a", ref)
    assert heard == [NameChange("a", ref), NameChange("a", None)]


async def test_a_watcher_that_fails_stops_neither_the_change_nor_the_others() -> None:
    """Its error goes to the loop's exception handler."""
    names, heard, complaints = Names(), list[NameChange](), list[object]()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context["exception"]))
    error = ValueError()

    def fail(change: NameChange) -> None:
        raise error

    names.subscribe(fail)
    names.subscribe(heard.append)
    names.register("a", make_ref("a"))
    assert (len(heard), complaints, "a" in names) == (1, [error], True)
    loop.set_exception_handler(None)
