"""What a model's configuration lets its requests share. Pure."""

from __future__ import annotations

from erllama_py.engine.backend import ModelFacts
from erllama_py.options.model import ModelConfig
from erllama_py.scheduler.state import Limits

# Cells are given to a reply in steps of so many: at 50 tokens a second, one message between loop and thread in some
# seconds, while the steps of all replies together are at most an eighth of the context.
LEAST_QUANTUM, MOST_QUANTUM = 32, 128
SHARE_OF_QUANTA = 8

# What a decode loses to cells that are kept, with SmolLM2 and 8,192 cells on two cores: a quarter of them costs 10 to
# 15 % of its rate with flash attention and half without, a sixteenth then 20 % (`benchmarks/concurrency_kept.py`).
SHARE_OF_KEPT, SHARE_OF_KEPT_WITHOUT_FLASH = 4, 16


def limits_of(config: ModelConfig, facts: ModelFacts) -> Limits:
    """The limits of a loaded model."""
    scheduler, n_seq_max = config.scheduler, max(1, facts.n_seq_max)
    quantum = facts.n_ctx // (SHARE_OF_QUANTA * n_seq_max)
    quantum = min(max(quantum, LEAST_QUANTUM), MOST_QUANTUM)
    share = SHARE_OF_KEPT if facts.flash_attn else SHARE_OF_KEPT_WITHOUT_FLASH
    return Limits(
        memory=facts.memory,
        n_swa=facts.n_swa,
        # A recurrent state has one size, whatever it has seen.
        n_cells=facts.n_ctx * (n_seq_max if facts.memory == "recurrent" else 1),
        n_seq_max=n_seq_max,
        quantum=quantum if n_seq_max > 1 else facts.n_ctx,
        min_tokens=config.policy.min_tokens,
        max_pending=scheduler.max_pending,
        kept_cells=facts.n_ctx // share if scheduler.kept_tokens is None else scheduler.kept_tokens,
        idle_seconds=scheduler.session_idle_ms / 1000,
        turn_seconds=scheduler.turn_ms / 1000,
    )
