"""What always holds of a model's counters."""

from __future__ import annotations

import erllama_py as erllama


def assert_balanced(counters: erllama.ModelCounters) -> None:
    """Every request that has reached the model is in one of the counts."""
    over = sum(counters.finished.values()) + counters.failed + counters.refused
    assert counters.requests == over + counters.waiting + counters.parked + counters.active, counters
