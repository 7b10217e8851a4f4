"""The table of counters in the caching guide is what the code counts: no name more, no name less.

The code's side is read from its syntax: the name in every `counters[…] += …`, where `{…}` in an f-string
stands for a set of words. Which words, their types say; where they are plain strings, the calls that pass them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest
from helpers.cache import PROMPT, ask, ram_model, text
from helpers.project import TOP, sources, syntax

from erllama_py.cache.messages import Used
from erllama_py.cache.reservation import Refused
from erllama_py.cache.walk import Miss
from erllama_py.options.model import RowReason, SkipReason
from erllama_py.tiers.row_file import BadKind

TIER = {"*"}  # any name that a tier was given
ROW = re.compile(r"^\| (`[^|]+) \| ([^|]+) \|$", re.MULTILINE)


def listed() -> set[str]:
    """The names in the table; a family `x.*` with its words, where the table has them, else as it stands."""
    page = (TOP / "docs/guides/caching.md").read_text(encoding="utf-8")
    names: set[str] = set()
    for first, second in ROW.findall(page.partition("\n## Counters\n")[2].partition("\n## ")[0]):
        words = re.findall(r"`([^`]+)`", second)
        for name in re.findall(r"`([^`]+)`", first):
            family = name.endswith(".*") and words
            names |= {name[:-1] + word for word in words} if family else {name}
    return names


def calls(*folders: str) -> Iterator[ast.Call]:
    """Every call in these folders of the package."""
    for path in sources(*(f"erllama_py/{folder}" for folder in folders)):
        yield from (node for node in ast.walk(syntax(path)) if isinstance(node, ast.Call))


def name_of(call: ast.Call) -> str:
    """The last part of what is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def counted() -> set[str]:
    """The names that the cache counts."""
    names: set[str] = set()
    for path in sources("erllama_py/cache"):
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Subscript):
                book = node.target.value
                if (book.attr if isinstance(book, ast.Attribute) else getattr(book, "id", "")).endswith("counters"):
                    names |= set(spelled(node.target.slice))
    return names


def spelled(argument: ast.expr) -> Iterator[str]:
    """The names that an expression can be."""
    match argument:
        case ast.Constant(value=str() as name):
            yield name
        case ast.IfExp(body=body, orelse=orelse):
            yield from spelled(body)
            yield from spelled(orelse)
        case ast.JoinedStr(values=[ast.Constant(value=str() as prefix), ast.FormattedValue(value=value)]):
            own = [part.value for part in ast.walk(value) if isinstance(part, ast.Constant)]
            yield from (f"{prefix}{word}" for word in (*own, *words()[prefix]) if isinstance(word, str))
        case _:
            raise AssertionError(f"the name of a counter that this test cannot read: {ast.unparse(argument)}")


def said_to(callee: str, *folders: str) -> set[str]:
    """The strings that are the last argument of calls of this name."""
    last = [call.args[-1] for call in calls(*folders) if name_of(call) == callee and call.args]
    return {one.value for one in last if isinstance(one, ast.Constant) and isinstance(one.value, str)}


def literals(struct: Any, field: str) -> set[str]:
    """The words that a field may have."""
    return set(get_args(get_type_hints(struct)[field]))


def words() -> dict[str, set[str]]:
    """What can follow each prefix."""
    return {
        "hits.": literals(Used, "kind") - {"cold", "cancelled"},
        "hits.tier.": TIER,
        "misses.": literals(Miss, "reason"),
        "saves.": set(get_args(RowReason)),
        "saves.bytes.": TIER,
        # The errors of tiers are counted by their class names; the table says so in words.
        "saves.dropped.": (literals(Refused, "reason") - {"duplicate"})
        | set(get_args(SkipReason))
        | said_to("_given_up", "cache")
        | said_to("_put_failed", "cache"),
        "healed.": {"hits", "times"},
        "evicted.": TIER,
        "replaced.": TIER,
        "evicted_bytes.": TIER,
        # `unreadable`: files that a directory cannot open, counted when it looks at them and when it is to read them.
        "bad.": set(get_args(BadKind))
        | {"unreadable"}
        | said_to("lost", "tiers")
        | said_to("RowLost", "model", "cache", "tiers"),
    }


@pytest.mark.slow
def test_the_guide_lists_what_is_counted_and_nothing_else() -> None:
    """Compared in both directions, families word by word."""
    assert listed() == counted()


@pytest.mark.anyio
async def test_what_a_cache_has_counted_is_in_the_guide() -> None:
    """A cold prompt, a hit, an eviction: names as they come, not as the syntax has them."""
    async with ram_model() as (runtime, model):
        await ask(model, PROMPT)
        await runtime.cache.flush()
        await ask(model, text(200, seed=1))
        await ask(model, PROMPT)
        await runtime.cache.flush()
        await runtime.cache.evict_bytes(1 << 30)
        counters = await runtime.cache.counters()
    in_words = {name.replace(".ram", ".*") for name in counters}
    assert {"hits.exact", "misses.empty", "evicted.*", "saves.cold", "seconds.walk"} <= in_words
    assert in_words - listed() == set()
