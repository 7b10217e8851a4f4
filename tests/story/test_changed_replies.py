"""Chats whose replies do not come back as they were generated: thinking stripped from the history, a reply edited or
left out. Every turn begins where it diverges from the one before, and one copy of what the last one holds is kept."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from helpers.changed_replies import HOWS, Kept, chatted, config
from helpers.tiny_gguf import Kind

pytestmark = pytest.mark.anyio

KINDS = get_args(Kind)
CHANGED = [how for how in HOWS if how != "exact"]
# What opens a reply in these templates. A row of so few tokens is not always worth reading, and is one of its own only
# where memory cannot be cut back.
OPENING = 4


def one_copy(kept: Kept) -> float:
    """Tokens in rows, those of replies that did not come back left out, for each token that the last turn holds."""
    return (kept.stored - kept.thrown) / kept.held


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["edited", "dropped"])
async def test_a_turn_begins_where_it_diverges(kind: Kind, how: str, tmp_path: Path) -> None:
    """With the stub, in one process and over restarts."""
    for restarts in (False, True):
        folder = tmp_path / str(restarts)
        kept = await chatted(config("stub", kind, tmp_path), folder, how, turns=4, restarts=restarts)
        assert max(kept.again) <= (0 if kind != "dense" else len("assistant\n"))
        assert one_copy(kept) <= 1.15


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("how", CHANGED)
@pytest.mark.parametrize("kind", KINDS)
async def test_twelve_turns_are_kept_once(kind: Kind, how: str, restarts: bool, tmp_path: Path) -> None:
    """With each kind of memory, whatever becomes of the replies."""
    kept = await chatted(config("llama", kind, tmp_path), tmp_path, how, turns=12, restarts=restarts)
    assert max(kept.again) <= (OPENING if kind == "dense" and restarts else 0)
    assert one_copy(kept) <= 1.15


@pytest.mark.slow
@pytest.mark.parametrize("how", ["edited", "dropped"])
@pytest.mark.parametrize("kind", KINDS)
async def test_prompts_that_are_taken_as_they_are(kind: Kind, how: str, tmp_path: Path) -> None:
    """The same for `complete`, which knows of turns only that a token ends them."""
    kept = await chatted(config("llama", kind, tmp_path), tmp_path, how, turns=12, raw=True)
    assert max(kept.again) <= (0 if how == "edited" else OPENING)
    assert one_copy(kept) <= 1.15


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_replies_that_come_back_cost_no_more(kind: Kind, tmp_path: Path) -> None:
    """Each token is in one row."""
    kept = await chatted(config("llama", kind, tmp_path), tmp_path, "exact", turns=12)
    assert kept.stored == kept.held
