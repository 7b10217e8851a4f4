"""`explain` with live sequences: what lies in the cells, and where a turn leaves its session."""

from __future__ import annotations

import pytest
from helpers.cache import PROMPT, ask, ram_model

import erllama_py as erllama

pytestmark = pytest.mark.anyio


async def test_explain_tells_what_lies_in_the_cells() -> None:
    """Of the tenant's own sequences only, and in tokens."""
    async with ram_model(policy={"min_tokens": None, "cold_min_tokens": None}) as (_, model):
        assert (await model.explain(PROMPT)).live_tokens == 0
        await ask(model, PROMPT, 4)
        assert (await model.explain(PROMPT)).live_tokens == len(PROMPT)
        assert (await model.explain(PROMPT[:100] + "?")).live_tokens == 100
        assert (await model.explain(PROMPT, cache_salt="other")).live_tokens == 0


async def test_cells_of_a_request_at_work_count() -> None:
    """As soon as its prompt is in."""
    none = {"min_tokens": None, "cold_min_tokens": None}
    async with ram_model(policy=none) as (_, model), model.stream(PROMPT, response_tokens=100) as events:
        async for event in events:
            if isinstance(event, erllama.TextDelta):
                break
        assert (await model.explain(PROMPT + "?")).live_tokens == len(PROMPT)


async def test_what_a_recurrent_state_cannot_be_cut_back_to_does_not_count() -> None:
    """It goes on where it stands, or not at all."""
    none = {"min_tokens": None, "cold_min_tokens": None}
    async with ram_model("recurrent", policy=none) as (_, model):
        done = await ask(model, PROMPT, 4)
        assert (await model.explain(PROMPT[:100] + "?")).live_tokens == 0
        held = [*PROMPT.encode(), *done.generated[:-1]]
        assert (await model.explain([*held, 63])).live_tokens == len(held)


async def test_explain_names_the_first_token_at_which_a_turn_leaves_its_session() -> None:
    """With the text that the session has there, and the one that came."""
    async with ram_model(context_opts={"n_seq_max": 2}) as (_, model):
        first = await ask(model, PROMPT, 4, session_id="s")
        goes_on = await model.explain([*PROMPT.encode(), *first.generated, *b"?"], session_id="s")
        assert (goes_on.session_position, goes_on.session_text) == (None, None)
        changed = await model.explain(PROMPT[:200] + "!" + PROMPT[201:], session_id="s")
        assert (changed.session_position, changed.session_text) == (200, PROMPT[200])
        assert (await model.explain("?" + PROMPT, session_id="nobody's")).session_position is None
