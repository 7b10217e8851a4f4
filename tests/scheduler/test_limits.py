"""What a configuration and a loaded model make of limits."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers.engine import stub

from erllama_py.options.model import parse_model_config
from erllama_py.scheduler.state import Limits, limits_of


def limits(*, flash_attn: bool = True, memory: str = "full", n_seq_max: int = 4, **scheduler: Any) -> Limits:
    context = {"n_ctx": 4096, "n_seq_max": n_seq_max}
    config = parse_model_config(
        {"backend": "stub", "stub": {"memory": memory}, "context_opts": context, "scheduler": scheduler}
    )
    facts = stub(context_opts=context, memory=memory).load(lambda done: True)
    return limits_of(config, msgspec.structs.replace(facts, flash_attn=flash_attn))


@pytest.mark.parametrize(("flash_attn", "kept"), [(True, 1024), (False, 256)])
def test_less_is_kept_where_it_costs_more(flash_attn: bool, kept: int) -> None:
    """Without flash attention a decode pays four times as much for a cell that is kept."""
    assert limits(flash_attn=flash_attn).kept_cells == kept
    assert limits(flash_attn=flash_attn, kept_tokens=0).kept_cells == 0
    assert limits(flash_attn=flash_attn, kept_tokens=4000).kept_cells == 4000


@pytest.mark.parametrize(("n_seq_max", "quantum"), [(1, 4096), (2, 128), (8, 64), (64, 32)])
def test_steps_of_all_replies_together_are_at_most_an_eighth_of_the_context(n_seq_max: int, quantum: int) -> None:
    """But for many sequences, whose steps are not too small; one alone has all of it."""
    assert limits(n_seq_max=n_seq_max).quantum == quantum


def test_a_turn_is_given_in_milliseconds() -> None:
    """As all times of the options are; the machine reckons in seconds."""
    assert (limits().turn_seconds, limits(turn_ms=1).turn_seconds) == (2.0, 0.001)


def test_recurrent_sequences_do_not_share_cells() -> None:
    """Each has one state, and any length up to the context's."""
    assert (limits(memory="recurrent").n_cells, limits(memory="hybrid").n_cells) == (4 * 4096, 4096)
