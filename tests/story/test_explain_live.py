"""`explain` with live sequences: what lies in the cells, and where a turn leaves its session."""

from __future__ import annotations

import pytest
from helpers.cache import PROMPT, ask, ram_model

pytestmark = pytest.mark.anyio


async def test_explain_tells_what_lies_in_the_cells() -> None:
    """Of the tenant's own sequences only, and in tokens."""
    async with ram_model(policy={"min_tokens": None, "cold_min_tokens": None}) as (_, model):
        assert (await model.explain(PROMPT)).live_tokens == 0
        await ask(model, PROMPT, 4)
        assert (await model.explain(PROMPT)).live_tokens == len(PROMPT)
        assert (await model.explain(PROMPT[:100] + "?")).live_tokens == 100
        assert (await model.explain(PROMPT, cache_salt="other")).live_tokens == 0


async def test_explain_names_the_first_token_at_which_a_turn_leaves_its_session() -> None:
    """With the text that the session has there, and the one that came."""
    async with ram_model(context_opts={"n_seq_max": 2}) as (_, model):
        first = await ask(model, PROMPT, 4, session_id="s")
        goes_on = await model.explain([*PROMPT.encode(), *first.generated, *b"?"], session_id="s")
        assert (goes_on.session_position, goes_on.session_text) == (None, None)
        changed = await model.explain(PROMPT[:200] + "!" + PROMPT[201:], session_id="s")
        assert (changed.session_position, changed.session_text) == (200, PROMPT[200])
        assert (await model.explain("?" + PROMPT, session_id="nobody's")).session_position is None
